//! Times in OpenPGP's format.

use std::time::{SystemTime, UNIX_EPOCH};

/// How far a signer's clock may be ahead.
const SKEW_SECS: u64 = 600;

/// The time at which keys and signatures are evaluated, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now(pub u64);

impl Now {
    /// The current time by the host's clock; with a clock before 1970, everything is in the future.
    pub fn by_clock() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(since.map_or(0, |since| since.as_secs()))
    }

    /// Whether this time is in the future.
    pub(crate) fn is_before(self, secs: u64) -> bool {
        secs > self.0.saturating_add(SKEW_SECS)
    }

    /// Whether a validity that begins at `from_secs` and lasts `valid_secs` has ended.
    pub(crate) fn is_after(self, from_secs: u64, valid_secs: u64) -> bool {
        from_secs.saturating_add(valid_secs) <= self.0
    }
}

/// Formats seconds since 1970 as `2026-11-29` (the civil calendar's arithmetic, days from 0000-03-01).
pub(crate) fn date(secs: u64) -> String {
    let days = secs / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (secs, text) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (4_107_542_400, "2100-03-01"),
            (1_709_164_800, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
        ] {
            assert_eq!(date(secs), text);
        }
    }

    #[test]
    fn a_clock_that_is_a_little_behind_does_no_harm() {
        let now = Now(1_000_000);
        assert!(!now.is_before(1_000_600));
        assert!(now.is_before(1_000_601));
        assert!(now.is_after(999_000, 1_000));
        assert!(!now.is_after(999_000, 1_001));
    }
}
