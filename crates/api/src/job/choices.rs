//! What requests choose from, and how a volume and its proof came about.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::named;

/// How the image's bytes make up the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageType {
    /// QEMU's copy-on-write format, versions 2 and 3.
    #[default]
    Qcow2,
    /// The disk's bytes as they are.
    Raw,
    /// VMware's format: one file, sparse or stream-optimized.
    Vmdk,
    /// Microsoft's older format (`qemu-img` calls it vpc): fixed or dynamic.
    Vhd,
    /// Microsoft's newer format: fixed or dynamic.
    Vhdx,
    /// VirtualBox's format: static or dynamic.
    Vdi,
    /// Whichever of these the content is.
    Auto,
}

named!(ImageType, "image type", {
    Qcow2 => "qcow2",
    Raw => "raw",
    Vmdk => "vmdk",
    Vhd => "vhd",
    Vhdx => "vhdx",
    Vdi => "vdi",
    Auto => "auto",
});

/// What an image is verified against: the first of these that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verified {
    /// A signature of the image, or of a checksum file that names it, by a key that is trusted for it.
    Signature,
    /// The checksum that came with the request.
    Request,
    /// A checksum file of the image's own, such as `KEY.sha256`.
    Sidecar,
    /// The image's line in a checksum file of its directory, such as `SHA256SUMS`.
    Sums,
    /// Nothing: whatever the server sent was accepted.
    None,
}

named!(Verified, "verification", {
    Signature => "signature",
    Request => "request",
    Sidecar => "sidecar",
    Sums => "sums",
    None => "none",
});

/// Whether a volume is cloned, so that it shares its image's bytes with other volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cloning {
    /// If possible; otherwise the image is written.
    #[default]
    Auto,
    /// Never: the volume gets bytes of its own.
    Never,
    /// Always: the job fails if that is not possible.
    Require,
}

named!(Cloning, "way to clone", { Auto => "auto", Never => "never", Require => "require" });

impl Cloning {
    /// Whether it is the default.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// What is done to the guest's partition table on a volume that is larger than the image's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Expand {
    /// Nothing: the disk is the image's, byte for byte.
    #[default]
    None,
    /// The backup GPT is moved to the volume's end. Partitions stay as they are.
    Gpt,
}

named!(Expand, "way to expand", { None => "none", Gpt => "gpt" });

/// Which jobs begin first. Within a class, jobs begin in the order of their acceptance.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Begins when no other job waits, and is paused while jobs of high priority need its slot.
    Low,
    /// The usual one.
    #[default]
    Normal,
    /// Begins before all others.
    High,
}

// From the least to the most urgent.
named!(Priority, "priority", { Low => "low", Normal => "normal", High => "high" });

/// How a volume was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// It was cloned from the image's golden volume.
    Clone,
    /// It was written from the image in the cache.
    Copy,
    /// It was written in the pass that fetched the image.
    Stream,
}

named!(Method, "way of making a volume", { Clone => "clone", Copy => "copy", Stream => "stream" });

/// A format of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SignatureFormat {
    /// OpenPGP.
    OpenPgp,
    /// minisign.
    Minisign,
}

named!(SignatureFormat, "form of signatures", { OpenPgp => "openpgp", Minisign => "minisign" });

/// The key by which an image was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Signer {
    /// The signature's format.
    pub format: SignatureFormat,
    /// The fingerprint of an OpenPGP certificate's primary key, or the id of a minisign key.
    pub fingerprint: String,
    /// The owner according to the key: a user id, or a comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}
