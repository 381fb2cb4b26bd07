//! The forms of values.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use lvp_api::names::UnknownName;
use lvp_api::units::{self, ByteSize};

use super::keys::{Key, Kind};
use super::{endpoints, trim};

/// Longest duration: far beyond what anybody waits for, and within what clocks can count.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Largest size: half of what a signed 64-bit number counts, so that sums of sizes cannot overflow.
const SIZE_MAX: u64 = 1 << 62; // 4 EiB

/// How fast images are read, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadRate {
    /// As fast as the network.
    Unlimited,
    /// At most this many bytes in a second.
    AtMost(NonZeroU64),
    /// As fast as others on the host's links leave room for.
    Auto,
}

impl ReadRate {
    /// The fixed limit, if there is one.
    pub fn at_most(self) -> Option<u64> {
        match self {
            Self::AtMost(bytes) => Some(bytes.get()),
            Self::Unlimited | Self::Auto => None,
        }
    }
}

/// How log lines are sampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LogSampling {
    /// Not at all.
    All,
    /// The lines of a share of the traces are kept.
    Share(f64),
    /// One line in this many is kept.
    OneIn(u64),
}

impl fmt::Display for LogSampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("every line is written"),
            Self::Share(share) => write!(
                f,
                "the lines of a {share} share of the traces are written, and all warnings, errors and audit lines"
            ),
            Self::OneIn(count) => write!(
                f,
                "one line in {count} is written, and all warnings, errors and audit lines"
            ),
        }
    }
}

/// `text` in this program's words, if it has the form of the key's kind; otherwise an error that says what is
/// expected.
pub(super) fn normal(key: &Key, text: &str) -> Result<String, String> {
    trim::check(key.kind, text)?;
    match key.kind {
        Kind::Text if key.path == "tracing.resource_attributes" => {
            attributes(text).map(|_| text.to_owned())
        }
        Kind::Text | Kind::Word | Kind::Path | Kind::Secret | Kind::Secrets | Kind::List => {
            Ok(text.to_owned())
        }
        Kind::Integer { min, max } => match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(text.to_owned()),
            _ => Err(format!(
                "must be a whole number from {min} to {max}, not {text:?}"
            )),
        },
        Kind::Fraction => fraction(text).map(|_| text.to_owned()),
        Kind::Sampling => sampling(text).map(|_| text.to_owned()),
        Kind::Bool => boolean(text).map(|value| value.to_string()),
        Kind::Duration { min } => match duration(text)? {
            value if value < min => Err(format!("must be longer than zero, not {text:?}")),
            value if value > DURATION_MAX => Err(format!(
                "is longer than 100 years ({text:?}): write a shorter one"
            )),
            _ => Ok(text.to_owned()),
        },
        Kind::Size => size(text).map(|_| text.to_owned()),
        Kind::SizeOrAuto => read_rate(text).map(|_| text.to_owned()),
        Kind::MillisecondList => match milliseconds(text)?.iter().max() {
            Some(longest) if *longest > WAIT_MAX => {
                Err(format!("has a wait of more than a day: {text:?}"))
            }
            _ => Ok(text.to_owned()),
        },
        Kind::OneOf(words) => word(key, words, text).map(str::to_owned),
        Kind::Words(known) => {
            let found = words(text);
            let found = found.iter().map(|each| word(key, known, each));
            let found: Vec<_> = found.collect::<Result<_, _>>()?;
            let kept: Vec<_> = found.into_iter().filter(|word| !word.is_empty()).collect();
            Ok(match kept.is_empty() {
                true => "none".to_owned(),
                false => kept.join(","),
            })
        }
        Kind::Address => endpoints::address(text).map(|_| text.to_owned()),
        Kind::Stream(_) if text.contains('/') => Ok(match text {
            "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => "stdout".to_owned(),
            "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => "stderr".to_owned(),
            path => path.to_owned(),
        }),
        Kind::Stream(words) => match word(key, words, text) {
            Ok(word) => Ok(word.to_owned()),
            // The name of a file in the working directory.
            Err(_) if key.path == "logging.file" => Ok(text.to_owned()),
            Err(reason) => Err(format!("{reason}; the path of a file is accepted too")),
        },
    }
}

/// One of the words, or a synonym of one, in any case.
fn word(key: &Key, words: &'static [&'static str], text: &str) -> Result<&'static str, String> {
    let is_it = |word: &str| word.eq_ignore_ascii_case(text);
    if let Some(word) = words.iter().find(|word| is_it(word)) {
        return Ok(word);
    }
    let other = key.also.iter().find(|(other, _)| is_it(other));
    other
        .map(|(_, ours)| *ours)
        .ok_or_else(|| format!("must be one of {}, not {text:?}", words.join(", ")))
}

/// 0 to 1, or N to write one line in N.
pub(super) fn sampling(text: &str) -> Result<LogSampling, String> {
    let wrong = || {
        format!(
            "must be a number from 0 to 1, or a whole number N to write every N-th line, not {text:?}"
        )
    };
    if let Ok(count) = text.parse::<u64>() {
        return Ok(match count {
            0 | 1 => LogSampling::All,
            count => LogSampling::OneIn(count),
        });
    }
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(LogSampling::Share(share)),
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(LogSampling::All),
        _ => Err(wrong()),
    }
}

/// A number from 0 to 1.
pub(super) fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err(format!("must be a number from 0 to 1, not {text:?}")),
    }
}

/// `true` or `false` in any case, or the synonyms of Go and YAML 1.1.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err(format!("must be true or false, not {text:?}")),
    }
}

/// A size in bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>() {
        Ok(size) if size.0 <= SIZE_MAX => Ok(size.0),
        Ok(_) => Err(format!("is beyond 4 EiB, the largest size: {text:?}")),
        Err(error) => Err(format!("is wrong: {error}")),
    }
}

/// A size in bytes, of which 0 is no limit, or `auto`.
pub(super) fn read_rate(text: &str) -> Result<ReadRate, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(ReadRate::Auto);
    }
    let bytes = size(text).map_err(|why| format!("{why}; auto is accepted too"))?;
    Ok(NonZeroU64::new(bytes).map_or(ReadRate::Unlimited, ReadRate::AtMost))
}

/// Milliseconds separated by commas.
pub(super) fn milliseconds(text: &str) -> Result<Vec<Duration>, String> {
    words(text)
        .iter()
        .map(|word| word.parse().map(Duration::from_millis))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| format!("must be whole milliseconds such as 100,1000,10000, not {text:?}"))
}

/// Words separated by commas.
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

/// The variant with this name.
pub(super) fn named<T: FromStr<Err = UnknownName>>(text: &str) -> Result<T, String> {
    text.parse::<T>()
        .map_err(|error| format!("is wrong: {error}"))
}

/// `NAME=VALUE` separated by commas, values percent-encoded as in W3C Baggage.
pub(super) fn attributes(text: &str) -> Result<Vec<(String, String)>, String> {
    let wrong = |part: &str| format!("must be NAME=VALUE separated by commas, not {part:?}");
    words(text)
        .iter()
        .map(|part| {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong(part))?;
            let (name, value) = (name.trim(), value.trim());
            if name.is_empty() {
                return Err(wrong(part));
            }
            let value = decoded(value).ok_or_else(|| wrong(part))?;
            Ok((name.to_owned(), value))
        })
        .collect()
}

/// Percent-decodes a text; None if the result is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high << 4 | low).ok()?);
    }
    String::from_utf8(bytes).ok()
}
