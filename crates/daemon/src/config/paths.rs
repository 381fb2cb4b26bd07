//! Checks that the configured paths do not interfere with each other.
//!
//! Anybody with the role `provision` may overwrite what is in `volumes.dir`, files in `cache.dir` are swept,
//! and the daemon itself writes the database and the log. So neither directory may be inside the other, no
//! file of the daemon may be in either, and nothing may be written under two keys. Paths are compared by
//! what they lead to: links, `..` and mounts are followed, even if the last components do not exist yet.
//!
//! `cache.dir` may be a libvirt pool's directory; that is intended. A TLS file may be used for
//! several keys.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use lvp_bus::Login;

use super::{Backend, Config, ConfigError};
use crate::files::with_ending;

/// Links followed in one path before it counts as a loop, as in the kernel (path_resolution(7)).
const LINKS_MAX: u32 = 40;

/// The database and the files beside it.
const DATABASE_FILES: [&str; 4] = ["", "-wal", "-shm", ".lock"];

/// A path and the key that names it.
struct Place {
    key: &'static str,
    path: PathBuf,
    /// The device and inode numbers, since two mounts of one directory have two paths.
    number: Option<(u64, u64)>,
    /// The path and its parent directories, as far as they exist.
    within: HashSet<(u64, u64)>,
}

impl Place {
    fn new(key: &'static str, path: &Path) -> Self {
        let path = resolve(path, LINKS_MAX);
        let within = path.ancestors().filter_map(number).collect();
        Self {
            key,
            number: number(&path),
            path,
            within,
        }
    }

    fn is_in(&self, directory: &Self) -> bool {
        self.path.starts_with(&directory.path)
            || directory
                .number
                .is_some_and(|number| self.within.contains(&number))
    }

    fn is_same(&self, other: &Self) -> bool {
        self.path == other.path || (self.number.is_some() && self.number == other.number)
    }
}

/// Checks all configured paths.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    check_with_cache(config, config.cache.dir.as_deref())
}

/// Checks them with this cache directory, which only libvirt knows if `cache.dir` is not set.
pub fn check_with_cache(config: &Config, cache: Option<&Path>) -> Result<(), ConfigError> {
    let server = &config.server;
    let volumes = match &config.volumes.backend {
        Backend::Dir(path) => Some(path.as_path()),
        Backend::Lvm => None,
    };
    let directories: Vec<_> = [("volumes.dir", volumes), ("cache.dir", cache)]
        .into_iter()
        .filter_map(|(key, path)| Some(Place::new(key, path?)))
        .collect();
    let written: Vec<_> = DATABASE_FILES
        .iter()
        .map(|ending| Place::new("server.db_path", &with_ending(&server.db_path, ending)))
        .chain(
            config
                .logging
                .file
                .as_deref()
                .map(|path| Place::new("logging.file", path)),
        )
        .collect();
    let tls = server.tls.as_ref();
    let fleet = config.fleet.as_ref();
    let fleet_cert = fleet.and_then(|fleet| fleet.client_cert.as_ref());
    let fleet_login = fleet.and_then(|fleet| fleet.login.as_ref());
    let read: Vec<_> = [
        ("server.tls_cert", tls.map(|tls| &tls.cert)),
        ("server.tls_key", tls.map(|tls| &tls.key)),
        ("server.ca_cert", tls.and_then(|tls| tls.client_ca.as_ref())),
        ("server.api_tokens_file", server.api_tokens_file.as_ref()),
        ("minio.ca_cert", config.minio.ca_cert.as_ref()),
        ("tracing.ca_cert", config.tracing.ca_cert.as_ref()),
        (
            "fleet.ca_cert",
            fleet.and_then(|fleet| fleet.ca_cert.as_ref()),
        ),
        ("fleet.client_cert", fleet_cert.map(|(cert, _)| cert)),
        ("fleet.client_key", fleet_cert.map(|(_, key)| key)),
        (
            "fleet.creds_file",
            match fleet_login {
                Some(Login::Creds(path)) => Some(path),
                _ => None,
            },
        ),
        (
            "fleet.nkey_file",
            match fleet_login {
                Some(Login::Nkey(path)) => Some(path),
                _ => None,
            },
        ),
    ]
    .into_iter()
    .filter_map(|(key, path)| Some(Place::new(key, path?)))
    .collect();

    for (index, directory) in directories.iter().enumerate() {
        let others = directories.iter().skip(index + 1);
        for other in others {
            if directory.is_in(other) {
                return Err(inside(directory, other));
            }
            if other.is_in(directory) {
                return Err(inside(other, directory));
            }
        }
        let files = written.iter().chain(&read);
        if let Some(file) = files.into_iter().find(|file| file.is_in(directory)) {
            return Err(inside(file, directory));
        }
    }
    for (index, file) in written.iter().enumerate() {
        let mut others = written.iter().skip(index + 1).chain(&read);
        if let Some(other) = others.find(|other| other.key != file.key && file.is_same(other)) {
            return Err(ConfigError::Invalid {
                key: other.key,
                reason: format!(
                    "is {}, which the daemon also writes for {}: use a separate file for each",
                    other.path.display(),
                    file.key
                ),
            });
        }
    }
    Ok(())
}

fn inside(inner: &Place, outer: &Place) -> ConfigError {
    ConfigError::Invalid {
        key: inner.key,
        reason: format!(
            "is {}, which is inside {} ({}), where files are swept or overwritten: use another place",
            inner.path.display(),
            outer.key,
            outer.path.display()
        ),
    }
}

fn number(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// The path that remains after links are followed, whether or not it exists.
fn resolve(path: &Path, links_left: u32) -> PathBuf {
    // A path relative to a working directory that no longer exists stays relative.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                resolved.pop();
            }
            Component::CurDir => {}
            part => {
                resolved.push(part);
                if let Ok(target) = fs::read_link(&resolved)
                    && links_left > 0
                {
                    resolved.pop();
                    resolved = resolve(&resolved.join(target), links_left - 1);
                }
            }
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::Settings;
    use super::*;

    /// The error for these keys, all below one home directory, or an empty text if there is none.
    fn said(home: &Path, keys: &[(&str, &str)]) -> Option<String> {
        let mut settings = Settings::load(&home.join("no-such.yaml"), false, |_| None).unwrap();
        let path = |name: &str| home.join(name).display().to_string();
        for (key, value) in [
            ("minio.endpoint", "http://s3".to_owned()),
            ("libvirt.enabled", "false".to_owned()),
            ("volumes.backend", "dir".to_owned()),
            ("volumes.dir", path("volumes")),
            ("cache.dir", path("cache")),
            ("server.db_path", path("state/jobs.db")),
        ] {
            settings.set(key, &value).unwrap();
        }
        for (key, value) in keys {
            settings.set(key, &path(value)).unwrap();
        }
        Config::from_settings(&settings)
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn places_beside_each_other_can_be_used_whether_they_are_there_or_not() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(said(home.path(), &[]), None);
        for name in ["volumes", "cache", "state"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        fs::write(home.path().join("both.pem"), "").unwrap();
        let keys = [
            ("logging.file", "state/daemon.log"),
            ("server.tls_cert", "both.pem"),
            ("server.tls_key", "both.pem"),
            ("server.ca_cert", "both.pem"),
            ("minio.ca_cert", "both.pem"),
            ("server.api_tokens_file", "tokens"),
            // The paths only share their first letters.
            ("volumes.dir", "cache-of-volumes"),
        ];
        assert_eq!(said(home.path(), &keys), None);
    }

    #[test]
    fn places_in_each_other_are_refused_by_both_names() {
        let home = tempfile::tempdir().unwrap();
        for made in [false, true] {
            for (key, value, other) in [
                ("volumes.dir", "cache", "cache.dir"),
                ("volumes.dir", "cache/volumes", "cache.dir"),
                ("volumes.dir", "absent/../cache/x", "cache.dir"),
                ("cache.dir", "volumes/.lvp", "volumes.dir"),
                ("server.db_path", "volumes/jobs.db", "volumes.dir"),
                ("server.db_path", "cache/deep/jobs.db", "cache.dir"),
                ("logging.file", "cache/daemon.log", "cache.dir"),
                ("server.api_tokens_file", "volumes/tokens", "volumes.dir"),
                ("minio.ca_cert", "cache/ca.pem", "cache.dir"),
                ("tracing.ca_cert", "volumes/ca.pem", "volumes.dir"),
                ("logging.file", "state/jobs.db", "server.db_path"),
                ("logging.file", "state/jobs.db-wal", "server.db_path"),
                ("server.api_tokens_file", "state/jobs.db", "server.db_path"),
            ] {
                let text = said(home.path(), &[(key, value)]).unwrap_or_default();
                assert!(
                    text.contains(key) && text.contains(other),
                    "{made} {key} {value}: {text:?}"
                );
            }
            let tls = [
                ("server.tls_cert", "a.pem"),
                ("server.tls_key", "cache/a.key"),
            ];
            let text = said(home.path(), &tls).unwrap_or_default();
            assert!(text.contains("server.tls_key"), "{text:?}");
            for name in ["volumes", "cache", "state"] {
                fs::create_dir_all(home.path().join(name)).unwrap();
            }
        }
    }

    #[test]
    fn links_are_followed_also_to_what_is_not_there_yet() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir(at("cache")).unwrap();
        symlink("cache", at("to-cache")).unwrap();
        symlink("cache/later", at("to-later")).unwrap();
        symlink("loop", at("loop")).unwrap();
        for value in ["to-cache", "to-cache/sub", "to-later", "to-later/sub"] {
            let text = said(home.path(), &[("volumes.dir", value)]).unwrap_or_default();
            assert!(text.contains("cache.dir"), "{value}: {text:?}");
        }
        assert_eq!(said(home.path(), &[("volumes.dir", "loop")]), None);
        // One file under two names.
        fs::create_dir(at("state")).unwrap();
        fs::write(at("state/jobs.db"), "").unwrap();
        fs::hard_link(at("state/jobs.db"), at("daemon.log")).unwrap();
        let text = said(home.path(), &[("logging.file", "daemon.log")]).unwrap_or_default();
        assert!(text.contains("server.db_path"), "{text:?}");
    }
}
