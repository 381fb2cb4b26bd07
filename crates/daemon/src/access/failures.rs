//! Failed attempts: counted by reason. Wrong tokens are answered more slowly, by address.
//!
//! A correct token is accepted whatever its address sent before: several clients may share an address, and one outdated
//! cron job must not lock out the orchestrator behind the same address. Guessing is hopeless because of what a token
//! must be ([`super::strength`]); the delay only keeps guessing from filling the log and using up the processor.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::net::network;

/// Wrong tokens in a row from one address before further ones are answered slowly.
const GUESSES: u32 = 10;

/// How long a slow answer to a wrong token takes.
const SLOW: Duration = Duration::from_secs(1);

/// Slow answers at the same time. Above this number answers are not delayed, so that a wrong token costs no
/// more than any other request.
const SLOW_MAX: usize = 64;

/// One more guess is allowed after each interval of this length: ten a minute.
const GUESS_INTERVAL: Duration = Duration::from_secs(6);

/// Addresses that are remembered. Above this number, the address whose last guess is oldest is
/// forgotten.
const ADDRESSES_MAX: usize = 4096;

/// Why a caller was refused.
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
    /// All reasons.
    pub const ALL: [Self; 5] = [
        Self::Missing,
        Self::Token,
        Self::Certificate,
        Self::Role,
        Self::Limited,
    ];

    /// The label value in metrics.
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

/// The failed attempts so far.
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
    /// How often each reason occurred.
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

    /// Counts a wrong token. Returns whether its address had already used up its guesses.
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

    /// Waits for as long as the answer to a wrong token is to be delayed.
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
        // No more guesses than a quiet period of some minutes gives back.
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
    fn ten_wrong_tokens_use_up_an_addresss_guesses_and_time_gives_them_back() {
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
        // Exactly one guess is allowed again.
        let later = start + GUESS_INTERVAL;
        assert!(!failures.is_limited_at(guesser, later));
        failures.guess(guesser, later);
        assert!(failures.is_limited_at(guesser, later));
        // Everything is forgiven, and the address is forgotten.
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
