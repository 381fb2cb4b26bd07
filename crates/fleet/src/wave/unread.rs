//! Keys that hold no record: removed, or written by something else.

use super::{ClaimState, Moment, Record, Seen, Turns};
use crate::names::HostName;
use crate::order::SILENCE_SECONDS;

impl Turns {
    /// Something was written under a host's key that is no record, or the key was removed with this number. It may work
    /// nevertheless: what was known of it counts on, and no longer than it would have.
    pub fn unreadable(&mut self, host: &HostName, number: u64, now: Moment) {
        let unknown = Seen {
            record: Record {
                revision: self.revision,
                claim: None,
                state: ClaimState::Claimed,
                silence_seconds: *SILENCE_SECONDS.end(),
            },
            // It may be the first of all.
            claim: 0,
            number,
            at: now,
        };
        let seen = self.seen.entry(host.clone()).or_insert(unknown);
        // What this host's own next write has to expect.
        seen.number = number;
    }

    /// Whether all claims are known now.
    pub fn is_informed(&self) -> bool {
        self.since.is_some() && self.is_current
    }
}
