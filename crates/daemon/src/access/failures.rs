//! Failed attempts: counted by reason, and wrong tokens slowed down by address.
//!
//! A right token gets in whatever came from its address before: an address is not a person, and one stale cron job must
//! not lock out the orchestrator that shares it. What keeps guessing hopeless is what a token must be ([`super::strength`]);
//! the slowing down keeps the log and the processor for others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::net::network;

/// Wrong tokens that an address may send in a row before further ones are answered slowly.
const GUESSES: u32 = 10;

/// How long the answer to a wrong token takes then.
const SLOW: Duration = Duration::from_secs(1);

/// Slow answers at once; further ones are not waited for, so that they cost no more than any other request.
const SLOW_MAX: usize = 64;

/// After so long one more guess is allowed: ten a minute.
const GUESS_INTERVAL: Duration = Duration::from_secs(6);

/// Addresses that are remembered; beyond that the one whose last guess is oldest is forgotten.
const ADDRESSES_MAX: usize = 4096;

/// Why a caller was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No credential at all.
    Missing,
    /// A token that is not known.
    Token,
    /// A certificate that is not valid.
    Certificate,
    /// A credential that may not do this.
    Role,
    /// A token that is not known, after too many others.
    Limited,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Missing,
        Self::Token,
        Self::Certificate,
        Self::Role,
        Self::Limited,
    ];

    /// The word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Role => "role",
            Self::Limited => "limited",
        }
    }
}

/// What failed so far.
#[derive(Debug)]
pub struct Failures {
    counts: [AtomicU64; Reason::ALL.len()],
    guesses: Mutex<HashMap<IpAddr, Guesses>>,
    slow: Semaphore,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            counts: Default::default(),
            guesses: Mutex::default(),
            slow: Semaphore::new(SLOW_MAX),
        }
    }
}

/// Guesses that count against an address: one is forgiven every [`GUESS_INTERVAL`].
#[derive(Debug)]
struct Guesses {
    count: u32,
    since: Instant,
}

impl Guesses {
    fn forgive(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        let forgiven = elapsed.as_secs() / GUESS_INTERVAL.as_secs();
        if let Ok(forgiven @ 1..) = u32::try_from(forgiven) {
            self.count = self.count.saturating_sub(forgiven);
            self.since += GUESS_INTERVAL * forgiven;
        }
    }
}

impl Failures {
    /// How often each reason was met.
    pub fn counts(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.into_iter().zip(counts)
    }

    pub(crate) fn count(&self, reason: Reason) {
        for (known, count) in Reason::ALL.iter().zip(&self.counts) {
            if *known == reason {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Counts a wrong token; whether its address had used up its guesses before.
    pub(super) fn count_guess(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let is_limited = self.is_limited_at(address, now);
        self.guess(address, now);
        self.count(if is_limited {
            Reason::Limited
        } else {
            Reason::Token
        });
        is_limited
    }

    /// Takes the time that an answer to a wrong token has to take.
    pub(crate) async fn slow_down(&self) {
        if let Ok(_waits) = self.slow.try_acquire() {
            tokio::time::sleep(SLOW).await;
        }
    }

    fn guess(&self, address: IpAddr, now: Instant) {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        if guesses.len() >= ADDRESSES_MAX && !guesses.contains_key(&address) {
            let oldest = guesses.iter().min_by_key(|(_, guesses)| guesses.since);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                guesses.remove(&oldest);
            }
        }
        let guess = guesses.entry(address).or_insert(Guesses {
            count: 0,
            since: now,
        });
        guess.forgive(now);
        if guess.count == 0 {
            guess.since = now;
        }
        // No more than what quiet gives back in some minutes.
        guess.count = guess.count.saturating_add(1).min(2 * GUESSES);
    }

    fn is_limited_at(&self, address: IpAddr, now: Instant) -> bool {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        let Some(guess) = guesses.get_mut(&address) else {
            return false;
        };
        guess.forgive(now);
        if guess.count == 0 {
            guesses.remove(&address);
            return false;
        }
        guess.count >= GUESSES
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn ten_wrong_tokens_use_an_addresss_guesses_up_and_time_gives_them_back() {
        let failures = Failures::default();
        let start = Instant::now();
        let (guesser, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..GUESSES {
            assert!(!failures.is_limited_at(guesser, start));
            failures.guess(guesser, start);
        }
        assert!(failures.is_limited_at(guesser, start));
        assert!(!failures.is_limited_at(other, start));
        assert!(failures.is_limited_at(guesser, start + GUESS_INTERVAL / 2));
        // One guess, no more.
        let later = start + GUESS_INTERVAL;
        assert!(!failures.is_limited_at(guesser, later));
        failures.guess(guesser, later);
        assert!(failures.is_limited_at(guesser, later));
        // All is forgiven, and forgotten.
        assert!(!failures.is_limited_at(guesser, later + GUESS_INTERVAL * GUESSES));
        assert!(failures.guesses.lock().expect("no panic").is_empty());
    }

    #[test]
    fn neighbours_in_one_ipv6_network_count_together() {
        let failures = Failures::default();
        let now = Instant::now();
        for host in 0..GUESSES {
            let address = Ipv6Addr::from_bits((0x2001_0db8 << 96) | u128::from(host));
            failures.guess(address.into(), now);
        }
        let neighbour = Ipv6Addr::from_bits((0x2001_0db8 << 96) | 0xffff);
        assert!(failures.is_limited_at(neighbour.into(), now));
        let stranger = Ipv6Addr::from_bits(0x2001_0db9 << 96);
        assert!(!failures.is_limited_at(stranger.into(), now));
    }

    #[test]
    fn memory_is_bounded_however_many_addresses_guess() {
        let failures = Failures::default();
        let now = Instant::now();
        for host in 0..u32::try_from(ADDRESSES_MAX).expect("it is small") + 100 {
            failures.guess(IpAddr::V4(host.into()), now);
        }
        let remembered = failures.guesses.lock().expect("no panic").len();
        assert_eq!(remembered, ADDRESSES_MAX);
    }
}
