//! Resolves every key to a text and the place it came from.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use lvp_api::names::UnknownName;
use url::Url;

use super::file::Strangers;
use super::ignored::IGNORED_VARIABLES;
use super::keys::{KEYS, Key};
use super::setting::{Origin, Setting, normal};
use super::value::{LogSampling, ReadRate};
use super::windows::Windows;
use super::{endpoints, file, given, theirs, value};
use crate::files;
use crate::secret::SecretUrl;

/// Largest configuration file: hundreds of times what all keys need.
const FILE_MAX_BYTES: u64 = 1 << 20; // 1 MiB

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file exists and cannot be read.
    #[error("Cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file named by a flag does not exist.
    #[error("There is no configuration file {}", .0.display())]
    Missing(PathBuf),
    /// The file is not valid YAML, or does not consist of sections with keys.
    #[error("The configuration file {} cannot be used: {reason}", path.display())]
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
    /// A key that is set to two values, by its name and by a former name.
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
    /// A value of the wrong form.
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
    /// The scheme that is assumed for a collector's address without one.
    pub(super) collector_scheme: &'static str,
    /// Warnings that the operator should see at the start.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Resolves all keys from the environment and the file. A missing file counts as empty, unless
    /// it was named explicitly.
    pub fn load(
        path: &Path,
        explicit: bool,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        Self::resolve(path, explicit, Strangers::Refused, environment)
    }

    /// Does the same for the Go program's file, whose unknown keys are ignored with warnings.
    pub fn load_foreign(
        path: &Path,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        Self::resolve(path, true, Strangers::LeftOut, environment)
    }

    fn resolve(
        path: &Path,
        explicit: bool,
        strangers: Strangers,
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
        let mut from_file = file::read(path, &text, strangers, &mut warnings)?;
        let mut values = BTreeMap::new();
        for key in KEYS {
            let in_file = given::in_file(key, &mut from_file)?;
            let default = || Setting {
                text: key.default.to_owned(),
                origin: Origin::Default,
            };
            let below = normal(key, in_file.unwrap_or_else(default), &mut warnings)?;
            let setting = match given::in_environment(key, &environment, &mut warnings)? {
                None => below,
                Some(above) => {
                    let name = above.origin.name().unwrap_or_default();
                    match normal(key, above, &mut warnings) {
                        Err(error) if theirs::is_lenient(name) => {
                            warnings.push(format!("{name} is ignored: {error}"));
                            below
                        }
                        above => above?,
                    }
                }
            };
            values.insert(key.path, setting);
        }
        for (name, why) in IGNORED_VARIABLES {
            if environment(name).is_some_and(|text| !text.is_empty()) {
                warnings.push(format!("{name} is ignored: {why}"));
            }
        }
        theirs::unsupported(&environment, &mut warnings);
        Ok(Self {
            values,
            collector_scheme: theirs::collector_scheme(&environment),
            warnings,
        })
    }

    /// Sets a key as a flag does: it overrides everything else.
    pub fn set(&mut self, path: &str, text: &str) -> Result<(), ConfigError> {
        let key = KEYS
            .iter()
            .find(|key| key.is_called(path))
            .ok_or_else(|| file::unknown(path))?;
        let setting = given::by_flag(key, path, text, self.values.get(key.path))?;
        let setting = normal(key, setting, &mut self.warnings)?;
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

    /// Who set a key.
    pub(super) fn origin(&self, path: &'static str) -> Option<&Origin> {
        self.values.get(path).map(|setting| &setting.origin)
    }

    /// URLs that something is posted to. The value may hold secrets, so errors do not show it.
    pub(super) fn receivers(&self, key: &'static str) -> Result<Vec<Url>, ConfigError> {
        let urls = self.list(key);
        let read = |text: &String| {
            endpoints::receiver(text).map_err(|why| ConfigError::Invalid {
                key,
                reason: format!("must be URLs such as https://ci.example.com/hooks/volumes: {why}"),
            })
        };
        urls.iter().map(read).collect()
    }

    pub(super) fn secret_url(&self, key: &'static str) -> Result<Option<SecretUrl>, ConfigError> {
        let read = |text: String| {
            let url = endpoints::receiver(&text).map_err(|why| ConfigError::Invalid {
                key,
                reason: format!("must be a URL such as https://logs.example.com/path: {why}"),
            })?;
            Ok(SecretUrl::new(url))
        };
        self.optional_text(key).map(read).transpose()
    }

    /// A URL for people, in which an id is put for `{trace_id}`.
    pub(super) fn trace_url(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        let Some(text) = self.optional_text(key) else {
            return Ok(None);
        };
        match endpoints::trace(&text) {
            Ok(()) => Ok(Some(text)),
            Err(reason) => Err(ConfigError::Invalid { key, reason }),
        }
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

    pub(super) fn sampling(&self, key: &'static str) -> Result<LogSampling, ConfigError> {
        self.parsed(key, value::sampling)
    }

    pub(super) fn address(&self, key: &'static str) -> Result<IpAddr, ConfigError> {
        self.parsed(key, endpoints::address)
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

    pub(super) fn read_rate(&self, key: &'static str) -> Result<ReadRate, ConfigError> {
        self.parsed(key, value::read_rate)
    }

    pub(super) fn windows(&self, key: &'static str) -> Result<Windows, ConfigError> {
        Windows::parse(self.get(key)).map_err(|reason| ConfigError::Invalid { key, reason })
    }

    pub(super) fn list(&self, key: &'static str) -> Vec<String> {
        value::words(self.get(key))
    }

    /// As many waits as there are repeats; the last of the list is used for all further ones.
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
