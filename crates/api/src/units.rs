//! Sizes and durations: parsing what people write, and formatting.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One gibibyte; `volume_size_gb` counts these, as LVM's `-L nG` does.
pub const GIB: u64 = 1 << 30;

/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// A size in bytes that parses `50G`, `512MiB`, `1.5T`, `1048576` and prints with a binary unit.
///
/// A bare suffix is binary (`50G` is 50 GiB) as in LVM and qemu-img; `GB` is refused, because many people and
/// tools read it as 10^9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u32); 5] = [("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().rev().find(|(_, shift)| self.0 >> shift != 0);
        match unit {
            None => write!(f, "{} B", self.0),
            Some((name, shift)) => {
                let whole = 1_u64 << shift;
                if self.0.is_multiple_of(whole) {
                    write!(f, "{} {name}iB", self.0 / whole)
                } else {
                    // One decimal, rounded down: a limit never looks larger than it is.
                    let tenths = u128::from(self.0) * 10 / u128::from(whole);
                    write!(f, "{}.{} {name}iB", tenths / 10, tenths % 10)
                }
            }
        }
    }
}

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSizeError {
    /// Not a number with an optional unit.
    #[error(
        "{0:?} is not a size: write a number and K, M, G, T or P (or KiB, MiB, ...), such as 50G"
    )]
    NotASize(String),
    /// `GB` may mean 10^9 or 2^30.
    #[error("{0:?} is ambiguous (10^9 or 2^30 bytes): write {1}iB or {1}, which mean 2^n")]
    Ambiguous(String, String),
    /// Larger than 2^64 - 1 bytes.
    #[error("{0:?} is larger than 2^64 bytes")]
    TooLarge(String),
}

impl FromStr for ByteSize {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let not_a_size = || ParseSizeError::NotASize(text.to_owned());
        let trimmed = text.trim();
        let split = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let unit = unit.trim();
        let shift = match unit.to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            upper => {
                let (name, shift) = UNITS
                    .iter()
                    .find(|(name, _)| upper.starts_with(name))
                    .ok_or_else(not_a_size)?;
                match &upper[1..] {
                    "" | "IB" => *shift,
                    "B" => {
                        return Err(ParseSizeError::Ambiguous(
                            text.to_owned(),
                            (*name).to_owned(),
                        ));
                    }
                    _ => return Err(not_a_size()),
                }
            }
        };
        if shift == 0 && number.contains('.') {
            return Err(not_a_size());
        }
        match multiple(number, 1 << shift) {
            Some(Some(bytes)) => Ok(Self(bytes)),
            Some(None) => Err(ParseSizeError::TooLarge(text.to_owned())),
            None => Err(not_a_size()),
        }
    }
}

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration: write numbers with ms, s, m or h, such as 168h, 1h30m, 5s or \
    100ms"
)]
pub struct ParseDurationError(String);

const NANOSECONDS: [(&str, u64); 4] = [
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A duration of at most 584 years: numbers with units, largest or smallest first, as Go writes them
/// (`1h30m`, `100ms`, `1.5s`), or `0`.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let wrong = || ParseDurationError(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(wrong());
    }
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let unit_at = rest.find(|c: char| !is_number(c)).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(unit_at);
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        let known = NANOSECONDS.iter().find(|(name, _)| *name == unit);
        let (_, scale) = known.ok_or_else(wrong)?;
        let part = multiple(number, *scale).flatten().ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(Duration::from_nanos(total))
}

/// A decimal number times `scale`, rounded down: `None` if it is not a number, `Some(None)` if the product is
/// 2^64 or more.
fn multiple(number: &str, scale: u64) -> Option<Option<u64>> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let part = match fraction {
        "" => 0,
        fraction => {
            let numerator: u128 = fraction.parse().ok()?;
            let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
            u64::try_from(numerator * u128::from(scale) / denominator).ok()?
        }
    };
    // There are only digits, so a failure to parse means that the number is too large.
    let product = whole.parse::<u64>().ok().and_then(|n| n.checked_mul(scale));
    Some(product.and_then(|product| product.checked_add(part)))
}

/// A duration in whole seconds in Go's format, as in the monitoring guide: `3h14m52s`.
pub fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_form_of_the_monitoring_guide() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m1s"),
            (11_692, "3h14m52s"),
            (360_000, "100h0m0s"),
        ] {
            assert_eq!(duration_text(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn sizes_parse_as_lvm_writes_them() {
        for (text, bytes) in [
            ("1048576", 1 << 20),
            ("50G", 50 * GIB),
            ("50g", 50 * GIB),
            ("512MiB", 512 * MIB),
            ("1.5T", 3 << 39),
            ("4096B", 4096),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_so() {
        for text in ["", "G", "-1G", "1.2.3G", "5X", "1.5", "5GiBs", "1e3"] {
            assert!(
                matches!(text.parse::<ByteSize>(), Err(ParseSizeError::NotASize(_))),
                "{text}"
            );
        }
        assert!(matches!(
            "5GB".parse::<ByteSize>(),
            Err(ParseSizeError::Ambiguous(..))
        ));
        assert!(matches!(
            "99999999P".parse::<ByteSize>(),
            Err(ParseSizeError::TooLarge(_))
        ));
    }

    #[test]
    fn durations_parse_as_go_writes_them() {
        for (text, millis) in [
            ("168h", 604_800_000),
            ("1h30m", 5_400_000),
            ("100ms", 100),
            ("1.5s", 1500),
            ("1m500ms", 60_500),
            ("0", 0),
            ("0s", 0),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
        for text in [
            "",
            "5",
            "00",
            "h",
            "5d",
            "-1s",
            "1h-",
            "1h30",
            ".5s",
            "1.2.3s",
            "1 h",
            "1H",
            "1e400s",
            "99999999999999999999h",
            "9999999h",
        ] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{text:?} is not a duration")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_printed_size_is_never_larger_than_the_size() {
        assert_eq!(ByteSize(50 * GIB).to_string(), "50 GiB");
        assert_eq!(ByteSize(2 * GIB - 1).to_string(), "1.9 GiB");
        assert_eq!(ByteSize(1023).to_string(), "1023 B");
        assert_eq!(ByteSize(u64::MAX).to_string(), "16383.9 PiB");
    }
}
