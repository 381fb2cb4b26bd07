//! What an order says.

use lvp_api::{ImageType, Sha256Digest, VolumeName, named};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use crate::names::{OrderId, Target};

/// Most volumes of an order on one host.
pub const VOLUMES_MAX: usize = 1000;

/// Longest URL of an image.
pub const URL_MAX: usize = 4096;

/// Longest name of an issuer.
pub const ISSUER_MAX: usize = 128;

/// Largest number: what every reader of JSON reads exactly.
pub const NUMBER_MAX: u64 = 1 << 53;

/// Least bytes per second that an order may ask for.
pub const RATE_MIN: u64 = 64 << 10; // 64 KiB

/// Bounds of the time after which a host that says nothing loses its place in a wave.
pub const SILENCE_SECONDS: std::ops::RangeInclusive<u64> = 3..=3600;

/// The kinds of orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderKind {
    /// Have the image in the cache.
    Prewarm,
    /// Have the image on volumes.
    Provision,
    /// Have the image no longer in the cache.
    Evict,
}

named!(OrderKind, "kind of order", {
    Prewarm => "prewarm",
    Provision => "provision",
    Evict => "evict",
});

/// What is to become of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is to be followed.
    Follow,
    /// It is to be no longer followed.
    Cancel,
}

named!(Action, "action", { Follow => "follow", Cancel => "cancel" });

/// One order for one target. An order for several hosts by name, or for several groups, is one document for each, with
/// the same id and revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The order's name.
    pub id: OrderId,
    /// From 1 on; whatever changes an order or cancels it has a higher one.
    pub revision: u64,
    /// What is to become of it.
    pub action: Action,
    /// What is to be done.
    pub kind: OrderKind,
    /// Whom this document is for.
    pub target: Target,
    /// The image.
    pub image: Image,
    /// The volumes on each host that it is for, of an order to provision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// How hosts take turns; all begin at once without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<Wave>,
    /// Hosts begin at a time of their own within so many seconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub jitter_seconds: u64,
    /// Most bytes per second that each host fetches for it; each host's own limits hold besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_sec: Option<u64>,
    /// When it was issued, in seconds since 1970.
    pub issued_at: u64,
    /// When hosts stop following it, in seconds since 1970.
    pub deadline: u64,
    /// Who issued it, for people; the signature says whose word it is.
    pub issuer: String,
}

/// The image that an order is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Where it is. An order to evict needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its declared type.
    #[serde(rename = "type")]
    pub image_type: ImageType,
    /// Its digest, as it is stored.
    pub sha256: Sha256Digest,
}

/// A volume that an order makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// Its size.
    pub size_bytes: u64,
}

/// How hosts take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// Most hosts that work at once.
    pub hosts_at_once: u32,
    /// Once more hosts than this have failed, no further host begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
    /// A host that says nothing for so long has stopped working, and loses its place.
    pub silence_seconds: u64,
}

/// What is wrong with an order that is signed correctly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The revision is 0.
    #[error("revision is 0: the first is 1")]
    Revision,
    /// A number is too large.
    #[error("a number is beyond 2^53, which not every program reads exactly")]
    Number,
    /// There is no URL.
    #[error("image.url is missing: only an order to evict needs none")]
    NoUrl,
    /// The URL is too long or has characters that no URL has.
    #[error("image.url is longer than {URL_MAX} bytes or has control characters or spaces")]
    BadUrl,
    /// The URL carries a credential.
    #[error(
        "image.url carries a credential, which every host could read: give hosts their own access"
    )]
    CredentialInUrl,
    /// There are no volumes, or there may be none.
    #[error(
        "an order to provision needs from 1 to {VOLUMES_MAX} volumes, and other orders have none"
    )]
    Volumes,
    /// Two volumes have one name.
    #[error("volume {0} is named twice")]
    VolumeTwice(VolumeName),
    /// A volume has no size.
    #[error("volume {0} has no size")]
    NoSize(VolumeName),
    /// The wave has no place.
    #[error("wave.hosts_at_once is 0: nobody could ever begin")]
    NoPlace,
    /// Next to nothing may be fetched.
    #[error(
        "bytes_per_sec is less than {RATE_MIN} (64 KiB/s): no image would arrive in any useful time"
    )]
    NoRate,
    /// The silence is out of bounds.
    #[error("wave.silence_seconds must be from {} to {}", SILENCE_SECONDS.start(), SILENCE_SECONDS.end())]
    Silence,
    /// The deadline is not after the issue.
    #[error("the deadline is not after the time of issue")]
    Deadline,
    /// The issuer's name is too long or cannot be printed.
    #[error("issuer is longer than {ISSUER_MAX} bytes or has control characters")]
    Issuer,
}

impl Order {
    /// Whether the same is to be done, whoever issued it when, by which of its documents, and however long it holds.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let what = |order: &Self| Self {
            target: self.target.clone(),
            issued_at: 0,
            deadline: 0,
            issuer: String::new(),
            ..order.clone()
        };
        what(self) == what(other)
    }

    /// Checks what the types do not.
    pub fn check(&self) -> Result<(), OrderError> {
        if self.revision == 0 {
            return Err(OrderError::Revision);
        }
        let sizes = self.volumes.iter().map(|volume| volume.size_bytes);
        let numbers = [
            self.revision,
            self.issued_at,
            self.deadline,
            self.jitter_seconds,
            self.bytes_per_sec.unwrap_or(1),
        ];
        if numbers
            .into_iter()
            .chain(sizes)
            .any(|number| number > NUMBER_MAX)
        {
            return Err(OrderError::Number);
        }
        match &self.image.url {
            None if self.kind != OrderKind::Evict => return Err(OrderError::NoUrl),
            None => {}
            Some(url) => check_url(url)?,
        }
        match (self.kind, self.volumes.len()) {
            (OrderKind::Provision, 1..=VOLUMES_MAX)
            | (OrderKind::Prewarm | OrderKind::Evict, 0) => {}
            _ => return Err(OrderError::Volumes),
        }
        let mut names = std::collections::HashSet::new();
        for volume in &self.volumes {
            if !names.insert(&volume.name) {
                return Err(OrderError::VolumeTwice(volume.name.clone()));
            }
            if volume.size_bytes == 0 {
                return Err(OrderError::NoSize(volume.name.clone()));
            }
        }
        if let Some(wave) = self.wave {
            if wave.hosts_at_once == 0 {
                return Err(OrderError::NoPlace);
            }
            if !SILENCE_SECONDS.contains(&wave.silence_seconds) {
                return Err(OrderError::Silence);
            }
        }
        if self.bytes_per_sec.is_some_and(|rate| rate < RATE_MIN) {
            return Err(OrderError::NoRate);
        }
        if self.deadline <= self.issued_at {
            return Err(OrderError::Deadline);
        }
        if self.issuer.len() > ISSUER_MAX || self.issuer.chars().any(char::is_control) {
            return Err(OrderError::Issuer);
        }
        Ok(())
    }

    /// What each job of this order is about: its volume's name, or the image's digest.
    pub fn job_targets(&self) -> Vec<String> {
        match self.kind {
            OrderKind::Provision => {
                let names = self.volumes.iter().map(|volume| volume.name.to_string());
                names.collect()
            }
            OrderKind::Prewarm => vec![self.image.sha256.to_string()],
            OrderKind::Evict => Vec::new(),
        }
    }

    /// The idempotency key of the job about one of [`Order::job_targets`].
    pub fn job_key(&self, target: &str) -> String {
        format!("{}{target}", self.job_prefix())
    }

    /// What the keys of this revision's jobs begin with.
    pub fn job_prefix(&self) -> String {
        format!("fleet:{}:{}:", self.id, self.revision)
    }
}

fn check_url(url: &str) -> Result<(), OrderError> {
    let is_odd = |c: char| c.is_control() || c.is_whitespace();
    if url.len() > URL_MAX || url.is_empty() || url.contains(is_odd) {
        return Err(OrderError::BadUrl);
    }
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let query = url.split_once('?').map_or("", |(_, query)| query);
    // As servers read it: a sign may be written with escapes.
    let query = percent_decode_str(query).decode_utf8_lossy();
    let query = query.to_ascii_lowercase();
    let signs = ["signature", "credential", "token", "sig="];
    match authority.contains('@') || signs.iter().any(|sign| query.contains(sign)) {
        true => Err(OrderError::CredentialInUrl),
        false => Ok(()),
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
pub(crate) mod tests;
