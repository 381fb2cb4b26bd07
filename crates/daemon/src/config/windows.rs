//! Hours of the day, in the time zone of the host.

use std::fmt;

use chrono::Timelike as _;

/// Minutes of a day.
const DAY: u32 = 24 * 60;

/// Hours of the day; without any, never.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Windows(Vec<Window>);

/// From one minute of the day to before another one, which may be on the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    from: u32,
    to: u32,
}

impl Windows {
    /// Reads `22:00-06:00` and others, separated by commas.
    pub fn parse(text: &str) -> Result<Self, String> {
        let windows = super::value::words(text);
        let windows = windows.iter().map(|word| {
            window(word).ok_or_else(|| {
                format!("must be hours of the day such as 22:00-06:00, separated by commas, not {word:?}")
            })
        });
        windows.collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is one now. The clock of the wall decides: an hour that a change to summer time leaves out is not there,
    /// and one that comes twice counts twice.
    pub fn is_open(&self) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let now = chrono::Local::now();
        self.contains(now.hour() * 60 + now.minute())
    }

    /// Whether this minute of the day is in one.
    fn contains(&self, minute: u32) -> bool {
        self.0.iter().any(|Window { from, to }| match from < to {
            true => (from..to).contains(&&minute),
            false => minute >= *from || minute < *to,
        })
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Window { from, to }) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let (hours, minutes) = (from / 60, from % 60);
            write!(
                f,
                "{comma}{hours:02}:{minutes:02}-{:02}:{:02}",
                to / 60,
                to % 60
            )?;
        }
        Ok(())
    }
}

fn window(text: &str) -> Option<Window> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (minute(from.trim())?, minute(to.trim())?);
    // A whole day is 00:00-24:00.
    (from != to && from < DAY).then_some(Window { from, to })
}

fn minute(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| -> Option<u32> {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().ok())?
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let at = hours * 60 + minutes;
    (minutes < 60 && at <= DAY).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(text: &str) -> Windows {
        Windows::parse(text).expect("it is well-formed")
    }

    #[test]
    fn a_window_has_its_first_minute_and_not_its_last_also_across_midnight() {
        let night = windows("22:00-06:00, 12:30-12:31");
        assert_eq!(night.to_string(), "22:00-06:00, 12:30-12:31");
        for (minute, is_open) in [
            (21 * 60 + 59, false),
            (22 * 60, true),
            (0, true),
            (5 * 60 + 59, true),
            (6 * 60, false),
            (12 * 60 + 30, true),
            (12 * 60 + 31, false),
        ] {
            assert_eq!(night.contains(minute), is_open, "{minute}");
        }
        assert!(!Windows::default().is_open() && Windows::parse("") == Ok(Windows::default()));
    }

    #[test]
    fn a_whole_day_is_always_and_what_is_no_time_is_refused() {
        let day = windows("00:00-24:00");
        assert!(day.is_open() && (0..DAY).all(|minute| day.contains(minute)));
        for text in [
            "22:00",
            "22-6",
            "22:00-22:00",
            "24:00-01:00",
            "22:60-23:00",
            "25:00-26:00",
            "2:00-3:00",
            "+1:00-03:00",
        ] {
            let error = Windows::parse(text).expect_err(text);
            assert!(error.contains("such as 22:00-06:00"), "{error}");
        }
    }
}
