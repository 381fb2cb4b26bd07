//! Units: sizes as people write them, and how they are shown.

use std::fmt;
use std::str::FromStr;

/// One gibibyte; `volume_size_gb` counts these, as LVM's `-L nG` does.
pub const GIB: u64 = 1 << 30;

/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// A size in bytes that parses `50G`, `512MiB`, `1.5T`, `1048576` and prints with a binary unit.
///
/// A bare suffix is binary (`50G` is 50 GiB) as in LVM and qemu-img; `GB` with a `B` and no `i` is
/// refused, because half of the world reads it as 10^9.
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

/// Why a text is no size.
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
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
            return Err(not_a_size());
        }
        if shift == 0 && !fraction.is_empty() {
            return Err(not_a_size());
        }
        let too_large = || ParseSizeError::TooLarge(text.to_owned());
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let scale = 1_u64 << shift;
        let mut bytes = whole.checked_mul(scale).ok_or_else(too_large)?;
        if !fraction.is_empty() {
            let numerator: u128 = fraction.parse().map_err(|_| not_a_size())?;
            let denominator = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(9));
            let part = u64::try_from(numerator * u128::from(scale) / denominator)
                .map_err(|_| too_large())?;
            bytes = bytes.checked_add(part).ok_or_else(too_large)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_printed_size_is_never_larger_than_the_size() {
        assert_eq!(ByteSize(50 * GIB).to_string(), "50 GiB");
        assert_eq!(ByteSize(2 * GIB - 1).to_string(), "1.9 GiB");
        assert_eq!(ByteSize(1023).to_string(), "1023 B");
        assert_eq!(ByteSize(u64::MAX).to_string(), "16383.9 PiB");
    }
}
