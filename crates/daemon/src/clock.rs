//! Times as the API, the log and the database write them.

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
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
    // Formatting by this description fails for no date that a clock can hold.
    time.to_offset(time::UtcOffset::UTC)
        .format(FORMAT)
        .unwrap_or_default()
}

/// Now, as text.
pub fn now_text() -> String {
    text(now())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    #[test]
    fn times_are_utc_with_milliseconds() {
        let time = datetime!(2026-01-27 11:30:45.1239 +01:00);
        assert_eq!(super::text(time), "2026-01-27T10:30:45.123Z");
    }
}
