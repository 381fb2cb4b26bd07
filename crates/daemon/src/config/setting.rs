//! The value of one key, its origin, and its translation into this program's words.

use std::fmt;

use super::keys::Key;
use super::load::ConfigError;
use super::{trim, value};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It is set nowhere.
    Default,
    /// The configuration file, by this path.
    File(&'static str),
    /// This environment variable.
    Environment(&'static str),
    /// A command-line flag, by this path.
    Flag(&'static str),
}

impl Origin {
    /// The name under which it was set.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Self::Default => None,
            Self::File(name) | Self::Environment(name) | Self::Flag(name) => Some(name),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(_) => f.write_str("file"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(_) => f.write_str("flag"),
        }
    }
}

/// One key's value as text.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The value; empty when there is none.
    pub text: String,
    /// Where it was set.
    pub origin: Origin,
}

/// The value in this program's words, or an error if it does not have the key's form.
pub(super) fn normal(
    key: &'static Key,
    setting: Setting,
    warnings: &mut Vec<String>,
) -> Result<Setting, ConfigError> {
    let Setting { text, origin } = setting;
    let text = {
        let trimmed = trim::trimmed(&text);
        if trim::is_odd(&text) && !trimmed.is_empty() {
            let name = origin.name().unwrap_or(key.path);
            warnings.push(format!(
                "{name} has spaces, line ends or a byte order mark around its value: they are ignored"
            ));
        }
        trimmed.to_owned()
    };
    if text.is_empty() {
        return Ok(Setting { text, origin });
    }
    let left_out = key.also.iter().filter(|(_, ours)| ours.is_empty());
    for (word, _) in left_out {
        if value::words(&text)
            .iter()
            .any(|given| given.eq_ignore_ascii_case(word))
        {
            warnings.push(format!(
                "{}: {word} is ignored: the Go program accepted the name but never sent to it. Its servers take OTLP: use otlp",
                key.path
            ));
        }
    }
    match value::normal(key, &text) {
        Ok(text) => Ok(Setting { text, origin }),
        Err(reason) => {
            let reason = match &origin {
                _ if key.kind.is_secret() => reason,
                Origin::Default => reason,
                origin @ (Origin::File(name) | Origin::Flag(name)) if *name != key.path => {
                    format!("{reason} (from the {origin}, by its former name {name})")
                }
                origin => format!("{reason} (from the {origin})"),
            };
            Err(ConfigError::Invalid {
                key: key.path,
                reason,
            })
        }
    }
}
