//! Combinations of keys that cannot work.

use url::Host;

use super::{Addressing, Config, ConfigError, CredentialSource, endpoints, paths};
use crate::secret::Secret;

/// The least rate that is left to jobs.
const YIELD_FLOOR_MIN: u64 = 1 << 20; // 1 MiB/s

impl Config {
    /// What a source of credentials needs, and what goes with no other.
    fn check_credentials(&self) -> Result<(), ConfigError> {
        let minio = &self.minio;
        let invalid = |key, reason: &str| {
            Err(ConfigError::Invalid {
                key,
                reason: reason.to_owned(),
            })
        };
        if minio.credentials != CredentialSource::Keys && minio.access_key.is_some() {
            return invalid(
                "minio.credentials",
                "is not keys, and minio.access_key is set: remove one of them",
            );
        }
        let url = |key, text: Option<&String>| match text.map(|text| endpoints::receiver(text)) {
            Some(Err(why)) => invalid(key, &format!("cannot be used: {why}")),
            _ => Ok(()),
        };
        match minio.credentials {
            CredentialSource::Keys => {}
            CredentialSource::WebIdentity => {
                if minio.role_arn.is_none() {
                    return invalid("minio.role_arn", "must be set for web-identity");
                }
                if minio.web_identity_token_file.is_none() {
                    return invalid(
                        "minio.web_identity_token_file",
                        "must be set for web-identity",
                    );
                }
                url("minio.sts_endpoint", minio.sts_endpoint.as_ref())?;
            }
            CredentialSource::Container => match &minio.container_credentials {
                None => return invalid("minio.container_credentials", "must be set for container"),
                Some(path) if path.starts_with('/') => {
                    if minio.container_token_file.is_some() {
                        return invalid(
                            "minio.container_token_file",
                            "goes with a URL in minio.container_credentials, not with a path",
                        );
                    }
                }
                Some(_) => {
                    url(
                        "minio.container_credentials",
                        minio.container_credentials.as_ref(),
                    )?;
                    if minio.container_token_file.is_none() {
                        return invalid(
                            "minio.container_token_file",
                            "must be set for a URL in minio.container_credentials",
                        );
                    }
                }
            },
            CredentialSource::Instance => {
                url("minio.metadata_endpoint", Some(&minio.metadata_endpoint))?;
            }
        }
        Ok(())
    }

    /// The ways to the endpoint's objects.
    fn check_ways(&self) -> Result<(), ConfigError> {
        let minio = &self.minio;
        let invalid = |key, reason: &str| {
            Err(ConfigError::Invalid {
                key,
                reason: reason.to_owned(),
            })
        };
        if minio.proxy.is_none() && !minio.no_proxy.is_empty() {
            return invalid("minio.no_proxy", "is only of use with minio.proxy");
        }
        if minio.mirrors.len() > endpoints::MAX_MIRRORS {
            let found = minio.mirrors.len();
            let reason = format!(
                "has {found} URLs, and at most {} are supported",
                endpoints::MAX_MIRRORS
            );
            return invalid("minio.mirrors", &reason);
        }
        if minio.endpoint.is_none() && !minio.mirrors.is_empty() {
            return invalid("minio.mirrors", "is only of use with minio.endpoint");
        }
        for mirror in &minio.mirrors {
            if let Err(why) = endpoints::mirror(mirror) {
                return invalid("minio.mirrors", &format!("has {mirror:?}, which {why}"));
            }
        }
        Ok(())
    }

    /// Each error names the key to change.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let invalid = |key, reason: &str| {
            Err(ConfigError::Invalid {
                key,
                reason: reason.to_owned(),
            })
        };
        if self.volumes.yield_floor_bytes_per_sec < YIELD_FLOOR_MIN {
            return invalid(
                "volumes.yield_floor_bytes_per_sec",
                "must be at least 1M: with less, a job would hold its volume for days",
            );
        }
        if !self.libvirt.enabled && self.cache.dir.is_none() {
            return invalid("cache.dir", "must be set when libvirt.enabled is false");
        }
        if self.minio.access_key.is_some() != self.minio.secret_key.is_some() {
            return invalid(
                "minio.secret_key",
                "and minio.access_key must be set together",
            );
        }
        if self.minio.session_token.is_some() && self.minio.access_key.is_none() {
            return invalid(
                "minio.session_token",
                "is only of use with minio.access_key and minio.secret_key",
            );
        }
        // It is sent in a header, and its library takes for granted that it can be.
        let token = self.minio.session_token.as_ref().map_or("", Secret::expose);
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return invalid(
                "minio.session_token",
                "has a character that cannot be sent in a header: copy it again",
            );
        }
        if self.minio.endpoint.is_none() && self.minio.allowed_hosts.is_empty() {
            return invalid(
                "minio.endpoint",
                "is not set: give the URL of the S3 server",
            );
        }
        self.check_credentials()?;
        self.check_ways()?;
        if !self.webhooks.urls.is_empty() && self.webhooks.secret.is_none() {
            return invalid(
                "webhooks.secret",
                "must be set with webhooks.urls: receivers use it to check that an event is genuine",
            );
        }
        let group = &self.lvm.volume_group;
        let is_lvm_s = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
        if !group.chars().all(is_lvm_s)
            || group.starts_with('-')
            || matches!(group.as_str(), "." | "..")
        {
            return invalid(
                "lvm.volume_group",
                "is not a valid volume group name: LVM allows a-z A-Z 0-9 + _ . - and no '-' at the beginning; write the name \
                 without /dev/",
            );
        }
        if let Some(endpoint) = &self.minio.endpoint {
            let url = endpoints::s3(endpoint).map_err(|reason| ConfigError::Invalid {
                key: "minio.endpoint",
                reason,
            })?;
            let is_name = matches!(url.host(), Some(Host::Domain(_)));
            if self.minio.addressing == Addressing::Virtual && !is_name {
                return invalid(
                    "minio.addressing",
                    "is virtual, and minio.endpoint is an address: buckets can be hosts only below a name; set the endpoint's \
                     name, or path",
                );
            }
        }
        for entry in &self.minio.allowed_hosts {
            endpoints::allowed_host(entry).map_err(|why| ConfigError::Invalid {
                key: "minio.allowed_hosts",
                reason: format!("has {entry:?}, which cannot be used: {why}"),
            })?;
        }
        paths::check(self)
    }
}
