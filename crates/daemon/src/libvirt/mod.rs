//! libvirt: the cache's pool, which volumes running domains use, and writing storage volumes.
//!
//! [`Hypervisor`] is all that the rest of the daemon knows of it. The implementation
//! ([`connection`]) is built only with the cargo feature `libvirt`, because it links libvirt's C
//! library.

#[cfg(feature = "libvirt")]
pub mod connection;
#[cfg(feature = "libvirt")]
mod disks;
#[cfg(feature = "libvirt")]
mod failure;
#[cfg(feature = "libvirt")]
mod pool;
#[cfg(feature = "libvirt")]
mod upload;
#[cfg(feature = "libvirt")]
mod users;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::volume::InUse;

#[cfg(feature = "libvirt")]
pub use disks::{Disk, DiskSource, disks_of};

/// The kind of failure, which decides the answer to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibvirtErrorKind {
    /// libvirt cannot be reached, or does not answer.
    Down,
    /// The pool or volume does not exist.
    NotFound,
    /// A running domain uses the volume.
    InUse,
    /// The content is larger than the volume.
    TooLarge,
    /// The content ended early: the client disconnected, or sent less than it announced.
    Incomplete,
    /// libvirt refused or failed.
    Failed,
}

/// A failure of libvirt, or a refusal to do what was requested.
#[derive(Debug)]
pub struct LibvirtError {
    /// What kind.
    pub kind: LibvirtErrorKind,
    message: String,
}

impl LibvirtError {
    /// An error with what was wrong and what to do.
    pub fn new(kind: LibvirtErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl fmt::Display for LibvirtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for LibvirtError {}

/// What is written to a storage volume.
#[derive(Debug)]
pub struct Upload {
    /// The pool.
    pub pool: String,
    /// The volume, which must exist.
    pub volume: String,
    /// How many bytes will come.
    pub size_bytes: u64,
    /// The bytes. The channel is closed early if the client disconnects.
    pub content: mpsc::Receiver<Bytes>,
}

/// The state of a storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Whether it is active.
    pub is_active: bool,
    /// Whether it is set to autostart.
    pub starts_itself: bool,
    /// Its directory, if its type has one.
    pub directory: Option<PathBuf>,
}

/// libvirt, as the daemon uses it.
#[async_trait]
pub trait Hypervisor: InUse {
    /// Whether it answers.
    async fn probe(&self) -> Result<(), LibvirtError>;

    /// The state of a pool, or None if there is none with this name. Changes nothing.
    async fn pool(&self, name: &str) -> Result<Option<Pool>, LibvirtError>;

    /// The directory of a pool, which is defined and started first if necessary.
    async fn pool_directory(&self, pool: &str) -> Result<PathBuf, LibvirtError>;

    /// Writes a storage volume's content. The volume keeps its size.
    async fn upload(&self, upload: Upload) -> Result<(), LibvirtError>;
}

/// Connects to libvirt at this URI, at the first call and whenever the connection was lost.
#[cfg(feature = "libvirt")]
pub fn connect(uri: &str) -> anyhow::Result<Arc<dyn Hypervisor>> {
    Ok(Arc::new(connection::Libvirt::start(uri)?))
}

/// Says how to get a build with libvirt.
#[cfg(not(feature = "libvirt"))]
pub fn connect(_uri: &str) -> anyhow::Result<Arc<dyn Hypervisor>> {
    anyhow::bail!(
        "libvirt.enabled is true, and this build has no libvirt: use the Debian package, build with \
         'cargo build --features libvirt' (needs libvirt-dev), or set libvirt.enabled to false and \
         cache.dir to a directory"
    )
}
