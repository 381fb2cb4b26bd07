//! What the values of configuration keys look like.

use std::time::Duration;

/// What a key's value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// ASCII letters, digits and punctuation without spaces, as the value becomes part of a header.
    Word,
    /// A path of the local file system.
    Path,
    /// A text that is never shown.
    Secret,
    /// Texts that are never shown, separated by commas, or a YAML list.
    Secrets,
    /// A whole number within bounds, both included.
    Integer {
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// A fraction from 0 to 1.
    Fraction,
    /// A fraction from 0 to 1, or N to write one line in N.
    Sampling,
    /// `true` or `false`.
    Bool,
    /// A duration such as `168h`, `30m`, `5s`, `100ms`.
    Duration {
        /// Least value.
        min: Duration,
    },
    /// A size in bytes: a number, or a number with a unit such as `10G`.
    Size,
    /// The same, or `auto`.
    SizeOrAuto,
    /// Whole milliseconds, separated by commas or as a YAML list.
    MillisecondList,
    /// Words separated by commas, or a YAML list.
    List,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Some of these words, separated by commas or as a YAML list.
    Words(&'static [&'static str]),
    /// An IP address of this host.
    Address,
    /// One of these words, or the path of a file.
    Stream(&'static [&'static str]),
}

impl Kind {
    /// Whether a YAML list is accepted.
    pub fn takes_several(self) -> bool {
        matches!(
            self,
            Self::Secrets | Self::MillisecondList | Self::List | Self::Words(_)
        )
    }

    /// Whether its values must not be shown.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Secrets)
    }
}
