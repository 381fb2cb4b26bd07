//! The connection to the broker.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a quiet connection is tested.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Longest pause between two attempts to connect.
const PAUSE_MAX_MS: u64 = 8000;

/// Largest file with a credential: a JWT of NATS has about 1 KiB.
const LOGIN_MAX_BYTES: u64 = 64 << 10; // 64 KiB

/// By what the broker knows this client, besides a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A file with a JWT and the seed of its key, as `nsc` writes them.
    Creds(PathBuf),
    /// A file with the seed of an nkey.
    Nkey(PathBuf),
}

/// Where the broker is, and how this client shows who it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// URLs of the servers, `nats://` or `tls://`.
    pub servers: Vec<String>,
    /// The only certificate authorities that are trusted, PEM; the system's without.
    pub ca_cert: Option<PathBuf>,
    /// Client certificate and its key, PEM.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// The credential.
    pub login: Option<Login>,
    /// What the broker's operators see as this connection's name.
    pub name: String,
    /// What the subjects begin with at which answers arrive. A host has its own, so that no other can listen.
    pub inbox: String,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A server's URL.
    #[error("{0:?} is no address of a NATS server: write nats://HOST:4222 or tls://HOST:4222")]
    Url(String),
    /// A file.
    #[error("Cannot read {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A credential that is none.
    #[error("{path} is not a credential of NATS: {why}")]
    Login {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The broker.
    #[error("Cannot connect to {servers}: {why}")]
    Broker {
        /// The servers.
        servers: String,
        /// Why.
        why: String,
    },
}

/// Whether connecting is repeated until it succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// It fails at once if no server answers.
    Once,
    /// It returns at once, connects in the background, and does so again whenever the connection is lost.
    Forever,
}

/// Checks an address of a server.
pub fn check_server(text: &str) -> Result<(), ConnectError> {
    let wrong = || ConnectError::Url(text.chars().take(200).collect());
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let is_known = ["nats", "tls"].contains(&scheme);
    // A password in a URL ends up in logs; there are files for it.
    let is_plain = !rest.is_empty() && !rest.contains(['@', '/', '?', '#', ' ', ',']);
    match is_known && is_plain && text.parse::<async_nats::ServerAddr>().is_ok() {
        true => Ok(()),
        false => Err(wrong()),
    }
}

/// Connects. `told` is called with every change of the connection, and must not block.
pub async fn connect(
    settings: &Settings,
    persistence: Persistence,
    told: impl Fn(&Event) + Send + Sync + 'static,
) -> Result<Client, ConnectError> {
    let mut servers = Vec::new();
    for server in &settings.servers {
        check_server(server)?;
        let address = server.parse::<async_nats::ServerAddr>();
        servers.push(address.map_err(|_| ConnectError::Url(server.clone()))?);
    }
    let mut options = ConnectOptions::new()
        .name(&settings.name)
        .custom_inbox_prefix(&settings.inbox)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(crate::ANSWER_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        // The servers that are configured, and none that another one names.
        .ignore_discovered_servers()
        .reconnect_delay_callback(|attempts| {
            let exponent = u32::try_from(attempts.min(8)).unwrap_or(8);
            Duration::from_millis((50 * 2_u64.pow(exponent)).min(PAUSE_MAX_MS))
        })
        .event_callback(move |event| {
            told(&event);
            async {}
        });
    if let Some(ca_cert) = &settings.ca_cert {
        readable(ca_cert)?;
        options = options.add_root_certificates(ca_cert.clone());
    }
    if let Some((cert, key)) = &settings.client_cert {
        readable(cert)?;
        readable(key)?;
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    options = match &settings.login {
        None => options,
        Some(Login::Creds(path)) => {
            let text = read(path)?;
            options
                .credentials(&text)
                .map_err(|error| ConnectError::Login {
                    path: path.clone(),
                    why: error.to_string(),
                })?
        }
        Some(Login::Nkey(path)) => {
            let text = read(path)?;
            let seed = text
                .lines()
                .map(str::trim)
                .find(|line| line.starts_with('S'));
            let seed = seed.ok_or_else(|| ConnectError::Login {
                path: path.clone(),
                why: "it has no line with a seed, which begins with S".to_owned(),
            })?;
            options.nkey(seed.to_owned())
        }
    };
    if persistence == Persistence::Forever {
        options = options.retry_on_initial_connect();
    }
    let connected = options.connect(servers).await;
    connected.map_err(|error| ConnectError::Broker {
        servers: settings.servers.join(", "),
        why: causes(&error),
    })
}

/// An error with its causes; those that repeat it are left out.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

fn readable(path: &Path) -> Result<(), ConnectError> {
    let opened = std::fs::File::open(path);
    opened.map(drop).map_err(|source| ConnectError::File {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<String, ConnectError> {
    let failed = |source| ConnectError::File {
        path: path.to_owned(),
        source,
    };
    let length = std::fs::metadata(path).map_err(failed)?;
    if !length.is_file() || length.len() > LOGIN_MAX_BYTES {
        return Err(ConnectError::Login {
            path: path.to_owned(),
            why: format!("it is not a file of at most {LOGIN_MAX_BYTES} bytes"),
        });
    }
    std::fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_scheme_host_and_port_and_carry_no_secret() {
        for text in [
            "nats://h",
            "nats://h:4222",
            "tls://h.example.com:4222",
            "nats://[::1]:4222",
        ] {
            assert!(check_server(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "h",
            "h:4222",
            "http://h",
            "ws://h",
            "nats://",
            "nats://u:p@h",
            "nats://h/a",
            "nats://a,nats://b",
        ] {
            assert!(check_server(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn files_that_are_no_credentials_are_named() {
        let settings = |login| Settings {
            servers: vec!["nats://127.0.0.1:1".to_owned()],
            login: Some(login),
            ..Settings::default()
        };
        let this = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        for login in [Login::Creds(this.clone()), Login::Nkey("/dev/null".into())] {
            let failed = connect(&settings(login), Persistence::Forever, |_| {}).await;
            assert!(
                matches!(failed, Err(ConnectError::Login { .. })),
                "{failed:?}"
            );
        }
        let absent = settings(Login::Creds("/none".into()));
        let failed = connect(&absent, Persistence::Forever, |_| {}).await;
        assert!(matches!(failed, Err(ConnectError::File { .. })));
    }
}
