//! Resolving every key to a text and the place it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use lvp_api::names::UnknownName;
use serde_json::Value;

use super::keys::{IGNORED, KEYS, Key, Kind};
use super::{given, value};
use crate::files;
use crate::secret::SecretUrl;

/// How alike an unknown key and a known one must be for a hint, 0 to 1.
const HINT_SIMILARITY: f64 = 0.6;

/// Largest configuration file: hundreds of times what all keys need.
const FILE_MAX_BYTES: u64 = 1 << 20; // 1 MiB

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file, by this path.
    File(&'static str),
    /// This environment variable.
    Environment(&'static str),
    /// A command-line flag, by this path.
    Flag(&'static str),
}

impl Origin {
    /// The name by which it was set.
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
    /// Who set it.
    pub origin: Origin,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is there and cannot be read.
    #[error("Cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file named by a flag is not there.
    #[error("There is no configuration file {}", .0.display())]
    Missing(PathBuf),
    /// The file is no YAML, or not sections with keys.
    #[error("The configuration file {} is not usable: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the place.
        reason: String,
    },
    /// A key that does not exist.
    #[error("Unknown key {key}{}", hint.map_or_else(String::new, |h| format!(" (did you mean {h}?)")))]
    UnknownKey {
        /// As written.
        key: String,
        /// The nearest known key.
        hint: Option<&'static str>,
    },
    /// A key by its name and by its former one, with two values.
    #[error(
        "{now} and {former} are both set in the {place}, to different values: {former} is the former name \
         of {now}, so remove {former}"
    )]
    SetTwice {
        /// The name.
        now: &'static str,
        /// The former name.
        former: &'static str,
        /// Where both are.
        place: &'static str,
    },
    /// A value that does not fit.
    #[error("{key} {reason}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// Every key, resolved.
#[derive(Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, Setting>,
    /// Things an operator should hear of at start.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Resolves all keys from the file (absent means empty, unless it was named explicitly) and
    /// the environment.
    pub fn load(
        path: &Path,
        explicit: bool,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let text = match files::read_text_or_null(path, FILE_MAX_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !explicit => String::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ConfigError::Missing(path.to_owned()));
            }
            Err(source) => {
                return Err(ConfigError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let mut warnings = Vec::new();
        let mut from_file = flatten(path, &text, &mut warnings)?;
        let mut values = BTreeMap::new();
        for key in KEYS {
            let in_file = given::in_file(key, &mut from_file)?;
            let setting = given::in_environment(key, &environment)?
                .or(in_file)
                .unwrap_or_else(|| Setting {
                    text: key.default.to_owned(),
                    origin: Origin::Default,
                });
            check(key, &setting)?;
            values.insert(key.path, setting);
        }
        Ok(Self { values, warnings })
    }

    /// Sets a key as a flag does, above everything else.
    pub fn set(&mut self, path: &str, text: &str) -> Result<(), ConfigError> {
        let key = KEYS
            .iter()
            .find(|key| key.is_called(path))
            .ok_or_else(|| unknown(path))?;
        let setting = given::by_flag(key, path, text, self.values.get(key.path))?;
        check(key, &setting)?;
        self.values.insert(key.path, setting);
        Ok(())
    }

    /// All keys in the table's order, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Key, &Setting)> {
        KEYS.iter()
            .filter_map(|key| Some((key, self.values.get(key.path)?)))
    }

    fn get(&self, path: &'static str) -> &str {
        self.values
            .get(path)
            .map_or("", |setting| setting.text.as_str())
    }

    fn parsed<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        parse(self.get(key)).map_err(|reason| ConfigError::Invalid { key, reason })
    }

    pub(super) fn text(&self, key: &'static str) -> Result<String, ConfigError> {
        self.parsed(key, |text| match text {
            "" => Err("must not be empty".to_owned()),
            text => Ok(text.to_owned()),
        })
    }

    pub(super) fn optional_text(&self, key: &'static str) -> Option<String> {
        Some(self.get(key))
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    }

    pub(super) fn secret_url(&self, key: &'static str) -> Result<Option<SecretUrl>, ConfigError> {
        let parse = |text: String| {
            SecretUrl::parse(&text).ok_or_else(|| ConfigError::Invalid {
                key,
                // What was given may hold a secret.
                reason: "must be a URL such as https://logs.example.com/path".to_owned(),
            })
        };
        self.optional_text(key).map(parse).transpose()
    }

    pub(super) fn path(&self, key: &'static str) -> Result<PathBuf, ConfigError> {
        self.text(key).map(PathBuf::from)
    }

    pub(super) fn optional_path(&self, key: &'static str) -> Option<PathBuf> {
        self.optional_text(key).map(PathBuf::from)
    }

    pub(super) fn integer<T: TryFrom<u64>>(&self, key: &'static str) -> Result<T, ConfigError> {
        self.parsed(key, |text| {
            text.parse::<u64>()
                .ok()
                .and_then(|number| T::try_from(number).ok())
                .ok_or_else(|| format!("must be a whole number, not {text:?}"))
        })
    }

    pub(super) fn fraction(&self, key: &'static str) -> Result<f64, ConfigError> {
        self.parsed(key, value::fraction)
    }

    pub(super) fn boolean(&self, key: &'static str) -> Result<bool, ConfigError> {
        self.parsed(key, value::boolean)
    }

    pub(super) fn named<T>(&self, key: &'static str) -> Result<T, ConfigError>
    where
        T: FromStr<Err = UnknownName>,
    {
        self.parsed(key, value::named)
    }

    pub(super) fn duration(&self, key: &'static str) -> Result<Duration, ConfigError> {
        self.parsed(key, value::duration)
    }

    pub(super) fn size(&self, key: &'static str) -> Result<u64, ConfigError> {
        self.parsed(key, value::size)
    }

    /// A size where 0 means no limit.
    pub(super) fn limit(&self, key: &'static str) -> Result<Option<u64>, ConfigError> {
        self.size(key).map(|bytes| (bytes != 0).then_some(bytes))
    }

    pub(super) fn list(&self, key: &'static str) -> Vec<String> {
        value::words(self.get(key))
    }

    /// As many waits as there are repeats; the last of the list serves for all further ones.
    pub(super) fn backoff(
        &self,
        attempts: &'static str,
        list: &'static str,
    ) -> Result<Vec<Duration>, ConfigError> {
        let attempts: usize = self.integer(attempts)?;
        let waits = self.parsed(list, value::milliseconds)?;
        let last = waits.last().copied().unwrap_or_default();
        Ok(waits
            .into_iter()
            .chain(std::iter::repeat(last))
            .take(attempts)
            .collect())
    }
}

fn check(key: &'static Key, setting: &Setting) -> Result<(), ConfigError> {
    if setting.text.is_empty() {
        return Ok(());
    }
    value::check(key.kind, &setting.text).map_err(|reason| {
        let reason = match (key.kind, &setting.origin) {
            (Kind::Secret, _) | (_, Origin::Default) => reason,
            (_, origin @ (Origin::File(name) | Origin::Flag(name))) if *name != key.path => {
                format!("{reason} (from the {origin}, by its former name {name})")
            }
            (_, origin) => format!("{reason} (from the {origin})"),
        };
        ConfigError::Invalid {
            key: key.path,
            reason,
        }
    })
}

/// The file's sections and keys as `section.key`, each value as text.
fn flatten(
    path: &Path,
    text: &str,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let syntax = |reason: String| ConfigError::Syntax {
        path: path.to_owned(),
        reason,
    };
    let document: Option<BTreeMap<String, Option<BTreeMap<String, Value>>>> =
        if text.trim().is_empty() {
            None
        } else {
            // The parser would refuse the file when more than 96 lines of comments follow each other, as they do in one
            // whose keys are all commented out.
            let options = serde_saphyr::options! { emit_comments: false };
            serde_saphyr::from_str_with_options(text, options)
                .map_err(|error| syntax(error.to_string()))?
        };
    let mut flat = BTreeMap::new();
    for (section, keys) in document.unwrap_or_default() {
        if !KEYS
            .iter()
            .any(|key| key.path.split('.').next() == Some(section.as_str()))
        {
            return Err(unknown(&section));
        }
        for (name, value) in keys.unwrap_or_default() {
            let full = format!("{section}.{name}");
            if let Some((_, why)) = IGNORED.iter().find(|(ignored, _)| *ignored == full) {
                warnings.push(format!("{full} is ignored: {why}"));
                continue;
            }
            if !KEYS.iter().any(|key| key.is_called(&full)) {
                return Err(unknown(&full));
            }
            let text = scalar(&value).ok_or_else(|| {
                syntax(format!(
                    "{full} must be a single value or a list of single values"
                ))
            })?;
            flat.insert(full, text);
        }
    }
    Ok(flat)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        Value::String(value) => Some(value.clone()),
        Value::Array(values) => {
            let texts: Option<Vec<_>> = values
                .iter()
                .map(|value| {
                    if value.is_array() {
                        None
                    } else {
                        scalar(value)
                    }
                })
                .collect();
            Some(texts?.join(","))
        }
        Value::Object(_) => None,
    }
}

fn unknown(written: &str) -> ConfigError {
    let sections = KEYS.iter().filter_map(|key| key.path.split('.').next());
    let paths = KEYS.iter().map(|key| key.path);
    let candidates: Vec<&'static str> = if written.contains('.') {
        paths.collect()
    } else {
        sections.collect()
    };
    let hint = candidates
        .into_iter()
        .map(|known| {
            (
                strsim::normalized_damerau_levenshtein(known, written),
                known,
            )
        })
        .filter(|(similarity, _)| *similarity >= HINT_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known);
    ConfigError::UnknownKey {
        key: written.to_owned(),
        hint,
    }
}
