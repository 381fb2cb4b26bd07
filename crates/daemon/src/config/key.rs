//! What a configuration key is.

use super::kind::Kind;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// `section.name`, as in the file.
    pub path: &'static str,
    /// Environment variables; the first that is set counts.
    pub env: &'static [&'static str],
    /// Form of the value.
    pub kind: Kind,
    /// Used when the key is set nowhere; empty means none.
    pub default: &'static str,
    /// One line for the reference.
    pub help: &'static str,
    /// Former names, which still work.
    pub former: Option<Former>,
    /// Words of the Go program and of OpenTelemetry that mean one of this key's words.
    pub also: &'static [(&'static str, &'static str)],
}

/// A key's former names.
#[derive(Debug)]
pub struct Former {
    /// `section.name`.
    pub path: &'static str,
    /// The environment variable.
    pub env: &'static str,
}

impl Key {
    /// Whether this is one of the key's paths.
    pub fn is_called(&self, path: &str) -> bool {
        let former = self.former.as_ref().map(|former| former.path);
        self.path == path || former == Some(path)
    }

    /// The former names, as shown to operators; empty if there are none.
    pub fn formerly(&self) -> String {
        self.former.as_ref().map_or_else(String::new, |former| {
            format!("formerly {}, {}", former.path, former.env)
        })
    }
}

/// A key with one name that takes its own words only.
pub(super) const fn key(
    path: &'static str,
    env: &'static [&'static str],
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Key {
    Key {
        path,
        env,
        kind,
        default,
        help,
        former: None,
        also: &[],
    }
}

/// A key that accepts other words for its own.
pub(super) const fn also(key: Key, also: &'static [(&'static str, &'static str)]) -> Key {
    Key { also, ..key }
}

/// A key that was in another section before.
pub(super) const fn moved(key: Key, path: &'static str, env: &'static str) -> Key {
    Key {
        former: Some(Former { path, env }),
        ..key
    }
}
