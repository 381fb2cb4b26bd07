//! Limits on event streams: per caller and in total.
//!
//! A stream lasts as long as its job, so it cannot be limited by time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::access::Principal;
use crate::net::{Full, Refusal, Whose};

/// Most streams in total.
const STREAMS_MAX: usize = 256;

/// Most streams of one caller: of one token, one certificate, or the programs on this host.
const STREAMS_SHARE: usize = 100;

/// The number of streams of each caller.
#[derive(Debug, Default)]
pub struct Streams(Mutex<HashMap<Principal, usize>>);

/// Counts as a caller's stream until it is dropped.
#[derive(Debug)]
pub(super) struct Stream {
    streams: Arc<Streams>,
    caller: Principal,
}

impl Streams {
    /// Opens one more stream, if the limits allow it.
    pub(super) fn open(self: &Arc<Self>, caller: Principal) -> Result<Stream, Refusal> {
        let mut counts = self.counts();
        let mine = counts.get(&caller).copied().unwrap_or(0);
        let refusal = |whose| Refusal {
            full: Full::Streams,
            whose,
        };
        if mine >= STREAMS_SHARE {
            return Err(refusal(Whose::Callers));
        }
        if counts.values().sum::<usize>() >= STREAMS_MAX {
            return Err(refusal(Whose::All));
        }
        counts.insert(caller.clone(), mine + 1);
        Ok(Stream {
            streams: Arc::clone(self),
            caller,
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Principal, usize>> {
        // A panic cannot leave numbers half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut counts = self.streams.counts();
        if let Some(count) = counts.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_its_share_and_all_have_a_limit() {
        let streams = Arc::<Streams>::default();
        let caller = |name: &str| Principal::Token(name.to_owned());
        let open = |name: &str, count| -> Vec<_> {
            let open = |_| streams.open(caller(name)).expect("there is room");
            (0..count).map(open).collect()
        };
        let whose = |name: &str| streams.open(caller(name)).expect_err("it is full").whose;
        let first = open("a", STREAMS_SHARE);
        assert_eq!(whose("a"), Whose::Callers);
        let second = open("b", STREAMS_SHARE);
        let third = open("c", STREAMS_MAX - 2 * STREAMS_SHARE);
        assert_eq!(whose("c"), Whose::All);
        assert_eq!(whose("d"), Whose::All);
        drop(first);
        assert!(streams.open(caller("a")).is_ok());
        drop((second, third));
        assert!(streams.counts().is_empty());
    }
}
