//! Section `fleet`: where orders come from, and which of them are followed.

use std::path::PathBuf;

use lvp_bus::{Login, connect};
use lvp_fleet::{GroupName, HostName, OrderKind, Trusted};

use super::{ConfigError, Settings};

/// Section `fleet`, of a host that is part of one.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// The brokers' URLs; at least one.
    pub servers: Vec<String>,
    /// The host's name in the fleet.
    pub host: HostName,
    /// Its groups.
    pub groups: Vec<GroupName>,
    /// The orders that it follows.
    pub allow: Vec<OrderKind>,
    /// Whose orders it follows; at least one key.
    pub trust: Trusted,
    /// CA of the brokers.
    pub ca_cert: Option<PathBuf>,
    /// Client certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Credential.
    pub login: Option<Login>,
}

/// The keys that mean nothing without `fleet.url`.
const NEED_URL: [&str; 8] = [
    "fleet.host",
    "fleet.groups",
    "fleet.trust",
    "fleet.ca_cert",
    "fleet.client_cert",
    "fleet.client_key",
    "fleet.creds_file",
    "fleet.nkey_file",
];

impl Fleet {
    /// None without `fleet.url`.
    pub(super) fn new(settings: &Settings) -> Result<Option<Self>, ConfigError> {
        let invalid = |key, reason: String| ConfigError::Invalid { key, reason };
        let servers = settings.list("fleet.url");
        if servers.is_empty() {
            let lonely = NEED_URL
                .into_iter()
                .find(|key| settings.optional_text(key).is_some());
            return match lonely {
                Some(key) => Err(invalid(key, "does nothing without fleet.url".to_owned())),
                None => Ok(None),
            };
        }
        for server in &servers {
            connect::check_server(server)
                .map_err(|error| invalid("fleet.url", format!("cannot be used: {error}")))?;
        }
        let host = match settings.optional_text("fleet.host") {
            Some(name) => name,
            None => rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        };
        let host = host.parse::<HostName>();
        let host =
            host.map_err(|error| invalid("fleet.host", format!("cannot be used: {error}")))?;
        let groups = settings.list("fleet.groups");
        let groups = groups.iter().map(|name| name.parse::<GroupName>());
        let groups = groups.collect::<Result<Vec<_>, _>>();
        let groups =
            groups.map_err(|error| invalid("fleet.groups", format!("cannot be used: {error}")))?;
        let allow = settings.list("fleet.allow");
        let allow = allow
            .iter()
            .filter(|word| *word != "none")
            .map(|word| word.parse());
        let allow = allow.collect::<Result<Vec<OrderKind>, _>>();
        let allow = allow.map_err(|error| invalid("fleet.allow", format!("is wrong: {error}")))?;
        let trust = Trusted::parse(&settings.list("fleet.trust"));
        let trust =
            trust.map_err(|error| invalid("fleet.trust", format!("cannot be used: {error}")))?;
        if trust.is_empty() {
            let reason = "must name the key whose orders are followed: NAME=KEY, as `lvpctl fleet keygen` prints it";
            return Err(invalid("fleet.trust", reason.to_owned()));
        }
        let client_cert = match (
            settings.optional_path("fleet.client_cert"),
            settings.optional_path("fleet.client_key"),
        ) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(invalid(
                    "fleet.client_key",
                    "must be set with fleet.client_cert".to_owned(),
                ));
            }
            (None, Some(_)) => {
                return Err(invalid(
                    "fleet.client_cert",
                    "must be set with fleet.client_key".to_owned(),
                ));
            }
        };
        let login = match (
            settings.optional_path("fleet.creds_file"),
            settings.optional_path("fleet.nkey_file"),
        ) {
            (Some(path), None) => Some(Login::Creds(path)),
            (None, Some(path)) => Some(Login::Nkey(path)),
            (None, None) => None,
            (Some(_), Some(_)) => {
                let reason = "is set beside fleet.creds_file: a host has one credential";
                return Err(invalid("fleet.nkey_file", reason.to_owned()));
            }
        };
        Ok(Some(Self {
            servers,
            host,
            groups,
            allow,
            trust,
            ca_cert: settings.optional_path("fleet.ca_cert"),
            client_cert,
            login,
        }))
    }
}
