//! Endpoint and credentials: options override the environment, which overrides the configuration file.
//!
//! The three layers have the same keys. A token and a token file are two forms of one setting, so
//! the topmost layer that has either decides, and one layer with both is an error.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lvp_api::units;
use reqwest::Url;
use serde::Deserialize;

use crate::exit::Failure;

/// The daemon's default address.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:8080";

/// The settings from one source (options, environment or file).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Layer {
    pub(crate) endpoint: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) ca_cert: Option<PathBuf>,
    pub(crate) client_cert: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
    pub(crate) timeout: Option<String>,
}

/// A secret that does not appear in debug output.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// The secret itself, for the one place that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The resulting configuration.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Scheme, host and port, perhaps a path; no trailing slash.
    pub(crate) endpoint: String,
    pub(crate) token: Option<Secret>,
    pub(crate) ca_cert: Option<PathBuf>,
    /// Certificate and key.
    pub(crate) client_identity: Option<(PathBuf, PathBuf)>,
    pub(crate) timeout: Option<Duration>,
    /// Warnings about these settings for the user.
    pub(crate) warnings: Vec<String>,
}

/// Reads the layers below the options, and decides each key.
pub(crate) fn load(
    options: Layer,
    config_path: Option<&Path>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, Failure> {
    let env_layer = Layer {
        endpoint: env("LVP_ENDPOINT"),
        token: env("LVP_TOKEN"),
        token_file: env("LVP_TOKEN_FILE").map(PathBuf::from),
        ca_cert: env("LVP_CA_CERT").map(PathBuf::from),
        client_cert: env("LVP_CLIENT_CERT").map(PathBuf::from),
        client_key: env("LVP_CLIENT_KEY").map(PathBuf::from),
        timeout: env("LVP_TIMEOUT"),
    };
    let mut warnings = Vec::new();
    let file_layer = read_file(config_path, env, &mut warnings)?;
    settle(&[options, env_layer, file_layer], warnings)
}

/// Reads the named file, which must exist, or the default one, which may be absent.
fn read_file(
    named: Option<&Path>,
    env: &dyn Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> Result<Layer, Failure> {
    let named = named
        .map(Path::to_owned)
        .or_else(|| env("LVP_CONFIG").map(PathBuf::from));
    let default = || {
        let directory = env("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| env("HOME").map(|home| Path::new(&home).join(".config")))?;
        Some(directory.join("lvpctl/config.yaml"))
    };
    let is_named = named.is_some();
    let Some(path) = named.or_else(default) else {
        return Ok(Layer::default());
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => {
            return Ok(Layer::default());
        }
        Err(error) => return Err(cannot_read(&path, &error)),
    };
    // A file with only comments is an empty document, which is not a mapping.
    let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let mut layer: Layer = if text.lines().all(is_blank) {
        Layer::default()
    } else {
        serde_saphyr::from_str(&text)
            .map_err(|error| Failure::usage(format!("{} is not valid: {error}", path.display())))?
    };
    // Paths in the file are relative to the file, not to the current directory.
    if let Some(directory) = path.parent() {
        for path in [
            &mut layer.token_file,
            &mut layer.ca_cert,
            &mut layer.client_cert,
            &mut layer.client_key,
        ] {
            *path = path.take().map(|path| directory.join(path));
        }
    }
    if layer.token.is_some() && others_may_read(&path) {
        warnings.push(format!(
            "{} contains a token and can be read by other users: restrict it with chmod 600",
            path.display()
        ));
    }
    Ok(layer)
}

fn others_may_read(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

fn settle(layers: &[Layer; 3], mut warnings: Vec<String>) -> Result<Settings, Failure> {
    fn first<'a, T: Clone + 'a>(
        layers: &'a [Layer; 3],
        key: impl Fn(&'a Layer) -> Option<&'a T>,
    ) -> Option<T> {
        layers.iter().find_map(key).cloned()
    }

    let endpoint = first(layers, |layer| layer.endpoint.as_ref());
    let endpoint = parse_endpoint(endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT))?;
    let token = token(layers)?;
    let client_cert = first(layers, |layer| layer.client_cert.as_ref());
    let client_key = first(layers, |layer| layer.client_key.as_ref());
    let client_identity = match (client_cert, client_key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(Failure::usage(
                "A client certificate needs its key: give --client-key too",
            ));
        }
        (None, Some(_)) => {
            return Err(Failure::usage(
                "A client key needs its certificate: give --client-cert too",
            ));
        }
    };
    let timeout = first(layers, |layer| layer.timeout.as_ref())
        .map(|text| parse_duration(&text))
        .transpose()
        .map_err(|error| Failure::usage(format!("The timeout is wrong: {error}")))?;
    if token.is_some() && endpoint.scheme() == "http" && !is_loopback(&endpoint) {
        warnings.push(format!(
            "The token is sent to {endpoint} unencrypted: use https"
        ));
    }
    Ok(Settings {
        endpoint: endpoint.as_str().trim_end_matches('/').to_owned(),
        token,
        ca_cert: first(layers, |layer| layer.ca_cert.as_ref()),
        client_identity,
        timeout,
        warnings,
    })
}

fn parse_endpoint(text: &str) -> Result<Url, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!(
            "The endpoint {text:?} {why}: write it as http://HOST:8080 or https://HOST:8080"
        ))
    };
    let url = Url::parse(text).map_err(|_| wrong("is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("is not an HTTP address"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or a fragment"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Failure::usage(
            "The endpoint contains a user or password: the daemon expects a token instead \
             (--token-file)",
        ));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || address
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    })
}

fn token(layers: &[Layer; 3]) -> Result<Option<Secret>, Failure> {
    for layer in layers {
        let token = match (&layer.token, &layer.token_file) {
            (None, None) => continue,
            (Some(_), Some(_)) => {
                return Err(Failure::usage(
                    "A token and a token file are set in the same place: keep one of them",
                ));
            }
            (Some(token), None) => token.trim().to_owned(),
            (None, Some(path)) => read_token(path)?,
        };
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::usage(
                "The token is empty or has characters other than visible ASCII",
            ));
        }
        return Ok(Some(Secret(token)));
    }
    Ok(None)
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| cannot_read(path, &error))?;
    // Some editors begin a file with a byte order mark.
    text.trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .ok_or_else(|| Failure::usage(format!("{} contains no token", path.display())))
}

/// The failure for a file that cannot be read.
pub(crate) fn cannot_read(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("Cannot read {}: {error}", path.display()))
}

/// `90s`, `30m`, `2h`, `500ms`; a bare number counts seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let has_unit = text.bytes().any(|byte| !byte.is_ascii_digit());
    let unit = if has_unit { "" } else { "s" };
    // A year: more is a typing error, and far more would overflow the clock.
    let longest = Duration::from_secs(366 * 24 * 3600);
    units::parse_duration(&format!("{text}{unit}"))
        .ok()
        .filter(|duration| !duration.is_zero() && *duration <= longest)
        .ok_or_else(|| format!("{text:?} is not a duration: write 90s, 30m, 2h or 500ms"))
}

#[cfg(test)]
mod tests;
