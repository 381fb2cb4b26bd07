//! The forms of values.

use std::str::FromStr;
use std::time::Duration;

use lvp_api::names::UnknownName;
use lvp_api::units::{self, ByteSize};

use super::keys::Kind;

/// Whether `text` has the form of `kind`; the error says what is expected.
pub(super) fn check(kind: Kind, text: &str) -> Result<(), String> {
    match kind {
        Kind::Text | Kind::Path | Kind::Secret | Kind::List => Ok(()),
        Kind::Integer { min, max } => match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(()),
            _ => Err(format!(
                "must be a whole number from {min} to {max}, not {text:?}"
            )),
        },
        Kind::Fraction => fraction(text).map(|_| ()),
        Kind::Bool => boolean(text).map(|_| ()),
        Kind::Duration => duration(text).map(|_| ()),
        Kind::Size => size(text).map(|_| ()),
        Kind::MillisecondList => milliseconds(text).map(|_| ()),
        Kind::OneOf(words) if words.contains(&text) => Ok(()),
        Kind::OneOf(words) => Err(format!("must be one of {}, not {text:?}", words.join(", "))),
    }
}

/// A number from 0 to 1.
pub(super) fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err(format!("must be a number from 0 to 1, not {text:?}")),
    }
}

/// `true` or `false`, or the Go program's `1` and `0`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("must be true or false, not {text:?}")),
    }
}

/// A size in bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>()
        .map(|size| size.0)
        .map_err(|error| format!("is wrong: {error}"))
}

/// Milliseconds with commas between.
pub(super) fn milliseconds(text: &str) -> Result<Vec<Duration>, String> {
    words(text)
        .iter()
        .map(|word| word.parse().map(Duration::from_millis))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| format!("must be whole milliseconds such as 100,1000,10000, not {text:?}"))
}

/// Words with commas between.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A duration in Go's form: numbers with units, `1h30m`, `100ms`, `1.5s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text)
        .map_err(|_| format!("must be a duration such as 168h, 30m, 5s or 100ms, not {text:?}"))
}

/// The variant of this name.
pub(super) fn named<T: FromStr<Err = UnknownName>>(text: &str) -> Result<T, String> {
    text.parse::<T>()
        .map_err(|error| format!("is wrong: {error}"))
}
