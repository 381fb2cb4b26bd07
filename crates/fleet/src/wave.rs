//! When a host's turn is: never more hosts at once than the order says, with nobody who coordinates.
//!
//! Each host writes one key only, its own: a *claim*. The broker gives each write a sequence number, and the number of a
//! claim's first write is its rank. A host begins once fewer than `hosts_at_once` live claims have a lower number than its
//! own. It renews its claim while it works, and gives it back at the end.
//!
//! Why there are never more at once, whatever fails:
//!
//! - *A host works only while its lease holds*: `silence` after the moment in which it **sent** the last renewal that was
//!   acknowledged, by its own monotonic clock. A host that cannot reach the broker stops then, and its claim is void: it
//!   has to make another, with a higher number. A dead host therefore holds its place no longer than others need to be
//!   sure: `hold_off` = `silence` and a margin of half of it, in which the jobs of a host that lost its lease stop.
//! - *Others count a claim as live until they have seen no renewal for `hold_off`*, by their own monotonic clocks. No clock
//!   of one host is compared with another's. That a host has not seen a renewal means something only if it would have
//!   seen it: it begins only if it has itself seen a renewal of its own come back that it sent within the margin.
//! - *Two hosts that claim at the same moment* have two numbers, and each begins only after it has seen its own claim come
//!   back: the broker delivers in the order of numbers, so it has then seen all lower ones.
//! - *A broker that lost its store, or that was restored from an older one*, does not know of hosts that work. So a host
//!   begins only after it has followed the claims for `hold_off` without a break: by then, a host that worked has either
//!   renewed its claim in this very store (a renewal names the number of the last one, and fails in any other), or it
//!   has stopped.
//!
//! *A renewal whose answer is lost* was stored under a number that the host does not know, and its next one is refused. It
//! takes over the number that it then sees under its own key if what is written there is a renewal of the same claim, and
//! renews it; its lease still counts from the last renewal that was acknowledged. Until it has followed the claims anew, it
//! does not know which of both it is, a store without its claim or a lost answer, and works on within its lease.
//!
//! If more than `hosts_at_once` hosts worked at one moment, look at the one of them with the highest claim when it began.
//! Each of the others had a lower number and a lease that held, so it had renewed its claim within `silence`, in the same
//! store, and that renewal or the one before it had been seen: it was counted. Hence the one would not have begun.
//!
//! *Only what a host says itself frees its place.* A key that is removed, or that holds something else, says nothing about
//! whether its host works: what was read last counts until nothing was heard for `hold_off`. Of a key of which nothing
//! was ever read, it is not known how long its host would work in silence: it counts for the longest that orders may have.
//!
//! What is relied on: monotonic clocks that run at about the same speed; jobs that stop within the margin; and a broker
//! that acknowledges what it has stored. A captured broker can lie, and so let more hosts begin, but only hosts that the
//! signed order names. The tests run this against a simulated broker that delays, drops, forgets and restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::names::HostName;
use crate::order::{SILENCE_SECONDS, Wave};

mod record;
mod unread;

pub use record::{ClaimState, Record, Step};

/// A moment of this process's monotonic clock, since any fixed moment.
pub type Moment = Duration;

/// The least margin beside `silence`.
const MARGIN_MIN: Duration = Duration::from_secs(2);

/// Longest time in which hosts that see a free place wait before they claim it, so that not all of them do.
const SPREAD_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy)]
struct Seen {
    record: Record,
    claim: u64,
    number: u64,
    at: Moment,
}

#[derive(Debug, Clone, Copy)]
struct Mine {
    claim: u64,
    /// The number of the last write that was acknowledged, and when it was sent.
    number: u64,
    sent: Moment,
}

/// The broker has another number for this host's key than the host knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Claims are to be followed anew.
    Raised,
    /// They are, and have not all been observed.
    Following,
}

/// One host's view of one order's wave.
#[derive(Debug)]
pub struct Turns {
    me: HostName,
    revision: u64,
    wave: Wave,
    seen: BTreeMap<HostName, Seen>,
    /// Since when claims are followed without a break.
    since: Option<Moment>,
    is_current: bool,
    mine: Option<Mine>,
    /// Whether the broker still has this host's claim.
    doubt: Option<Doubt>,
    /// When the newest of this host's own writes that was seen to come back was sent.
    fresh: Option<Moment>,
    /// When the last write was tried, whatever became of it.
    tried: Option<Moment>,
    works: bool,
    claim_at: Option<Moment>,
    dice: u64,
}

impl Turns {
    /// Nothing is known yet. `seed` makes hosts claim at different moments.
    pub fn new(me: HostName, revision: u64, wave: Wave, seed: u64) -> Self {
        Self {
            me,
            revision,
            wave,
            seen: BTreeMap::new(),
            since: None,
            is_current: false,
            mine: None,
            doubt: None,
            fresh: None,
            tried: None,
            works: false,
            claim_at: None,
            dice: seed | 1,
        }
    }

    /// How long a host works without having renewed.
    pub fn silence(&self) -> Duration {
        Duration::from_secs(self.wave.silence_seconds)
    }

    /// How long a claim counts that is not renewed.
    pub fn hold_off(&self) -> Duration {
        hold_off(self.wave.silence_seconds)
    }

    /// Claims are followed from now on, beginning with all that there are.
    pub fn follows(&mut self, now: Moment) {
        self.seen.clear();
        self.since = Some(now);
        self.is_current = false;
        self.fresh = None;
        self.doubt = self.doubt.map(|_| Doubt::Following);
    }

    /// Claims are no longer followed, or some may have been missed.
    pub fn lost_track(&mut self) {
        self.since = None;
        self.is_current = false;
    }

    /// All claims that there were when following began have been observed.
    pub fn is_current(&mut self) {
        self.is_current = true;
        if self.doubt == Some(Doubt::Following) {
            // It is not the store in which this host has a claim.
            (self.doubt, self.mine) = (None, None);
        }
    }

    /// A write was observed.
    pub fn observed(&mut self, host: &HostName, record: Record, number: u64, now: Moment) {
        if *host == self.me {
            self.take_over(record, number);
        }
        if let Some(mine) = self
            .mine
            .filter(|mine| *host == self.me && mine.number == number)
        {
            self.fresh = self.fresh.max(Some(mine.sent));
        }
        let claim = record.claim.unwrap_or(number);
        let seen = Seen {
            record,
            claim,
            number,
            at: now,
        };
        self.seen.insert(host.clone(), seen);
    }

    /// A renewal of this host's own claim, of which it did not know that it was stored.
    fn take_over(&mut self, record: Record, number: u64) {
        let is_live = record.state == ClaimState::Claimed && record.revision == self.revision;
        if let Some(mine) = &mut self.mine
            && is_live
            && record.claim == Some(mine.claim)
            && number >= mine.number
        {
            // The lease is not longer for it: it is not known which of the writes it was.
            if number > mine.number {
                (mine.number, self.tried) = (number, None);
            }
            self.doubt = None;
        }
    }

    /// A write that was sent at this moment was acknowledged with this number. The lease counts from then on, however late
    /// the answer came.
    pub fn written(&mut self, record: Record, number: u64, sent: Moment) {
        self.tried = Some(sent);
        if record.state != ClaimState::Claimed {
            self.mine = None;
            return;
        }
        let claim = record.claim.unwrap_or(number);
        self.mine = Some(Mine {
            claim,
            number,
            sent,
        });
        let is_seen = self.seen.get(&self.me);
        if is_seen.is_some_and(|seen| seen.number == number) {
            self.fresh = self.fresh.max(Some(sent));
        }
    }

    /// A write that was sent at this moment failed, or nobody knows. If the broker has another number for the key, claims
    /// are to be followed anew: it is not the store in which this host has a claim, or an answer was lost.
    pub fn failed(&mut self, sent: Moment, is_conflict: bool) {
        self.tried = Some(sent);
        if is_conflict {
            self.doubt = self.mine.map(|_| Doubt::Raised);
            self.lost_track();
        }
    }

    /// Whether the host's lease holds.
    pub fn holds(&self, now: Moment) -> bool {
        self.mine
            .is_some_and(|mine| now < mine.sent + self.silence())
    }

    /// The moment at which the lease ends unless it is renewed.
    pub fn ends(&self) -> Option<Moment> {
        self.mine.map(|mine| mine.sent + self.silence())
    }

    /// What a host that has ended writes, and the number that it expects.
    pub fn give_back(&mut self, has_failed: bool) -> Step {
        self.works = false;
        Step::Write {
            record: self.record(ClaimState::given_back(has_failed)),
            expected: self.last_number(),
        }
    }

    /// Whether the broker has what [`Turns::give_back`] wrote, though nobody said so.
    pub fn has_given_back(&self, has_failed: bool) -> bool {
        let own = self.seen.get(&self.me);
        own.is_some_and(|own| {
            own.record.revision == self.revision
                && own.record.state == ClaimState::given_back(has_failed)
        })
    }

    /// What to do now.
    pub fn next(&mut self, now: Moment) -> Step {
        if !self.holds(now) {
            (self.mine, self.doubt) = (None, None);
            if self.works {
                self.works = false;
                return Step::Stop;
            }
        }
        if self.since.is_none() && self.mine.is_none() {
            return Step::Idle;
        }
        if self.doubt.is_some() {
            return Step::Idle;
        }
        if let Some(mine) = self.mine {
            let pause = self.silence() / 3;
            let tried = self.tried.unwrap_or(mine.sent).max(mine.sent);
            let retry = self.tried.is_some_and(|tried| tried > mine.sent);
            let due = match retry {
                true => tried + pause / 3,
                false => mine.sent + pause,
            };
            if now >= due {
                return Step::Write {
                    record: self.record(ClaimState::Claimed),
                    expected: mine.number,
                };
            }
            if self.works {
                return Step::Idle;
            }
        }
        let failures = self.failures();
        if self.wave.max_failures.is_some_and(|most| failures > most) {
            return Step::Halt { failures };
        }
        if !self.has_settled(now) {
            return Step::Idle;
        }
        let places = usize::try_from(self.wave.hosts_at_once).unwrap_or(usize::MAX);
        match self.mine {
            Some(mine) => {
                let before = self
                    .others(now)
                    .filter(|seen| seen.claim < mine.claim)
                    .count();
                if before < places && self.is_fresh(mine, now) {
                    self.works = true;
                    return Step::Begin;
                }
            }
            None if self.others(now).count() < places => {
                let at = *self
                    .claim_at
                    .get_or_insert_with(|| now + spread(&mut self.dice, self.wave));
                if now >= at {
                    self.claim_at = None;
                    return Step::Write {
                        record: self.record(ClaimState::Claimed),
                        expected: self.last_number(),
                    };
                }
            }
            None => self.claim_at = None,
        }
        Step::Idle
    }

    /// How many hosts have failed with this revision.
    pub fn failures(&self) -> u32 {
        let failed = self.seen.values().map(|seen| seen.record);
        let failed = failed.filter(|record| {
            record.state == ClaimState::Failed && record.revision == self.revision
        });
        u32::try_from(failed.count()).unwrap_or(u32::MAX)
    }

    fn has_settled(&self, now: Moment) -> bool {
        self.is_current
            && self
                .since
                .is_some_and(|since| now >= since + self.hold_off())
    }

    /// Whether its own claim has come back, and a renewal of it that is recent enough to trust what was not seen.
    fn is_fresh(&self, mine: Mine, now: Moment) -> bool {
        let margin = self.hold_off() - self.silence();
        let own = self.seen.get(&self.me);
        own.is_some_and(|own| own.claim == mine.claim)
            && self.fresh.is_some_and(|fresh| now <= fresh + margin)
    }

    /// The live claims of other hosts.
    fn others(&self, now: Moment) -> impl Iterator<Item = &Seen> {
        let others = self.seen.iter().filter(|(host, _)| **host != self.me);
        others.map(|(_, seen)| seen).filter(move |seen| {
            seen.record.state == ClaimState::Claimed
                && now < seen.at + hold_off(seen.record.silence_seconds)
        })
    }

    fn last_number(&self) -> u64 {
        let seen = self.seen.get(&self.me).map_or(0, |seen| seen.number);
        seen.max(self.mine.map_or(0, |mine| mine.number))
    }

    fn record(&self, state: ClaimState) -> Record {
        Record {
            revision: self.revision,
            claim: self.mine.map(|mine| mine.claim),
            state,
            silence_seconds: self.wave.silence_seconds,
        }
    }
}

fn hold_off(silence_seconds: u64) -> Duration {
    // A claim is not signed: a host that writes another silence than orders may have does not hold its place longer.
    let silence = Duration::from_secs(silence_seconds.min(*SILENCE_SECONDS.end()));
    silence + (silence / 2).max(MARGIN_MIN)
}

/// A part of the spread, by a linear congruential generator: what matters is only that hosts differ.
fn spread(dice: &mut u64, wave: Wave) -> Duration {
    *dice = dice
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let most = (Duration::from_secs(wave.silence_seconds) / 10).min(SPREAD_MAX);
    let thousandth = u32::try_from((*dice >> 33) % 1000).unwrap_or(0);
    most * thousandth / 1000
}

#[cfg(test)]
mod tests;
