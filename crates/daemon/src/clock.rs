//! Times as the API, the log and the database write them.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// RFC 3339 in UTC with milliseconds: its text order is time order.
const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Now, in UTC.
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// A time as text.
pub fn text(time: OffsetDateTime) -> String {
    // Formatting with this description cannot fail for a date that a clock can hold.
    time.to_offset(time::UtcOffset::UTC)
        .format(FORMAT)
        .unwrap_or_default()
}

/// Now, as text.
pub fn now_text() -> String {
    text(now())
}

/// Parses an RFC 3339 time that others wrote.
pub fn parsed(text: &str) -> Option<OffsetDateTime> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    // A time in the last hours of the year 9999 can be in the year 10000 in UTC.
    time.checked_to_offset(time::UtcOffset::UTC)
}

/// How far a clock reading may differ from the previous one plus the elapsed time. Ordinary
/// corrections are smaller.
const MAX_DRIFT: Duration = Duration::from_secs(60);

/// Tells whether the clock was set between two readings. The age of a record is a difference of
/// clock readings, and cannot be trusted if it was.
#[derive(Debug)]
pub struct JumpDetector {
    clock: OffsetDateTime,
    monotonic: Instant,
}

impl JumpDetector {
    /// Takes the first reading.
    pub fn new() -> Self {
        Self {
            clock: now(),
            monotonic: Instant::now(),
        }
    }

    /// Takes another reading. Returns whether the clock jumped since the last one.
    pub fn has_jumped(&mut self) -> bool {
        let last = std::mem::take(self);
        let expected = last.clock + self.monotonic.duration_since(last.monotonic);
        (self.clock - expected).unsigned_abs() > MAX_DRIFT
    }
}

impl Default for JumpDetector {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    #[test]
    fn a_clock_that_was_set_by_hours_has_jumped_and_one_that_goes_on_has_not() {
        let mut detector = super::JumpDetector::new();
        assert!(!detector.has_jumped());
        for hours in [2, -2] {
            detector.clock += time::Duration::hours(hours);
            assert!(detector.has_jumped(), "{hours} h");
            assert!(!detector.has_jumped(), "told twice");
        }
        detector.clock += time::Duration::seconds(20);
        assert!(!detector.has_jumped(), "a correction is no jump");
    }

    #[test]
    fn a_time_beyond_the_year_9999_in_utc_is_refused() {
        let written = |text: &str| super::parsed(text).map(super::text);
        let found = written("2026-01-27T11:30:00+01:00");
        assert_eq!(found.as_deref(), Some("2026-01-27T10:30:00.000Z"));
        for none in ["9999-12-31T23:59:59-23:59", "yesterday", ""] {
            assert_eq!(written(none), None, "{none}");
        }
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        let time = datetime!(2026-01-27 11:30:45.1239 +01:00);
        assert_eq!(super::text(time), "2026-01-27T10:30:45.123Z");
    }
}
