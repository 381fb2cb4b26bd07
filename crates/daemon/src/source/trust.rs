//! Which images need a signature, and by which keys, according to the configuration and the image's name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lvp_trust::{Keys, MAX_KEYS_BYTES, Now};

use super::error::{Result, SourceError, SourceErrorKind};
use super::evidence::Demand;
use crate::config::{self, SignaturePolicy};
use crate::files;

/// The policies and the files with keys.
#[derive(Debug, Clone, Default)]
pub struct Trust(Arc<config::Trust>);

impl From<&config::Trust> for Trust {
    fn from(trust: &config::Trust) -> Self {
        Self(Arc::new(trust.clone()))
    }
}

impl Trust {
    /// The policy for an image with this name.
    pub(super) fn policy(&self, name: &str) -> SignaturePolicy {
        let mut rules = self.0.rules.iter();
        rules
            .find(|(prefix, _)| name.starts_with(prefix.as_str()))
            .map_or(SignaturePolicy::Off, |(_, policy)| *policy)
    }

    /// The same with the keys, which are read each time, so that a revocation takes effect at once. Blocks.
    pub(super) fn demand(&self, name: &str) -> Result<Demand> {
        let policy = self.policy(name);
        let mut keys = Keys::default();
        if policy != SignaturePolicy::Off {
            for (prefix, path) in &self.0.keys {
                if name.starts_with(prefix.as_str()) {
                    add(&mut keys, path)?;
                }
            }
        }
        Ok(Demand {
            policy,
            keys: Arc::new(keys),
            now: Now::by_clock(),
        })
    }

    /// Fails unless all files of keys can be used. Blocks.
    pub(super) fn check(&self) -> Result<()> {
        let paths: Vec<_> = self.0.keys.iter().map(|(_, path)| path.clone()).collect();
        read_keys(&paths)?;
        Ok(())
    }
}

/// Reads all keys in these files. Blocks.
pub fn read_keys(paths: &[PathBuf]) -> Result<Keys> {
    let mut keys = Keys::default();
    for path in paths {
        add(&mut keys, path)?;
    }
    Ok(keys)
}

fn add(keys: &mut Keys, path: &Path) -> Result<()> {
    let error = |why: &str| {
        SourceError::new(
            SourceErrorKind::Settings,
            format!("The key file {} cannot be used: {why}", path.display()),
        )
    };
    let bytes = files::read(path, MAX_KEYS_BYTES);
    let bytes = bytes.map_err(|cause| error("it cannot be read").with_source(cause))?;
    keys.add(&bytes).map_err(|why| error(&why.to_string()))
}
