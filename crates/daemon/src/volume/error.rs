//! What can go wrong with a volume.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;

use lvp_api::units::ByteSize;

use super::Volume;
use crate::cmd::{CmdError, CmdErrorKind};
use crate::files::is_full;

/// The kind of a [`VolumeError`]; decides the answer to the client and whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VolumeErrorKind {
    /// The volume is gone, or another one has its name now.
    NotFound,
    /// There is no volume of that name.
    Absent,
    /// There is a volume of that name where a new one was to be made.
    AlreadyExists,
    /// Somebody has it open: a domain, a mount, another process.
    InUse,
    /// It belongs to another tool or is part of a larger device, and is never written.
    NotOurs,
    /// The existing volume is smaller than needed.
    TooSmall {
        /// Its size.
        have_bytes: u64,
        /// What is needed.
        want_bytes: u64,
    },
    /// There is no room for a new volume.
    NoSpace {
        /// What is free.
        free_bytes: u64,
        /// What is needed.
        want_bytes: u64,
    },
    /// The pool that volumes share is too full for this, or would be.
    PoolFull,
    /// The pool that volumes share is not healthy.
    PoolUnsound,
    /// The device at the volume's path is not the one that the back end reports.
    WrongDevice,
    /// The back end is unavailable: no volume group, no directory, a tool that is not installed.
    DependencyDown,
    /// It did not answer in time.
    Timeout,
    /// The operating system or LVM reported an error.
    Io,
    /// A bug in this program.
    Internal,
}

/// Why a volume could not be looked up, created, opened, changed or removed.
#[derive(Debug)]
pub struct VolumeError {
    kind: VolumeErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl VolumeError {
    /// An error without an underlying cause.
    pub fn new(kind: VolumeErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// The same with its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind it is.
    pub fn kind(&self) -> VolumeErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later without any change.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            VolumeErrorKind::DependencyDown | VolumeErrorKind::Timeout
        )
    }

    /// Whether the volume was refused because of what it is or who uses it.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self.kind,
            VolumeErrorKind::InUse
                | VolumeErrorKind::NotOurs
                | VolumeErrorKind::WrongDevice
                | VolumeErrorKind::NotFound
        )
    }

    /// A fault of this program.
    pub(crate) fn internal(message: &str) -> Self {
        Self::new(VolumeErrorKind::Internal, message)
    }

    /// Whether a place was full.
    pub fn is_full(&self) -> bool {
        let full = is_full;
        match self.kind {
            VolumeErrorKind::NoSpace { .. } | VolumeErrorKind::PoolFull => true,
            _ => self
                .source
                .as_ref()
                .and_then(|source| source.downcast_ref())
                .is_some_and(full),
        }
    }

    pub(super) fn too_small(
        have_bytes: u64,
        want_bytes: u64,
        (wanted_by, tolerance): (&str, &str),
    ) -> Self {
        let kind = VolumeErrorKind::TooSmall {
            have_bytes,
            want_bytes,
        };
        Self::new(
            kind,
            format!(
                "The existing volume has {} ({have_bytes} bytes), and {wanted_by} needs {} \
                 ({want_bytes} bytes){tolerance}: extend the volume or choose another name",
                ByteSize(have_bytes),
                ByteSize(want_bytes)
            ),
        )
    }

    pub(super) fn no_space(place: &str, free_bytes: u64, want_bytes: u64) -> Self {
        let kind = VolumeErrorKind::NoSpace {
            free_bytes,
            want_bytes,
        };
        Self::new(
            kind,
            format!(
                "{place} has {} free ({free_bytes} bytes), and the volume needs {} \
                 ({want_bytes} bytes): remove volumes that are not needed, or add space",
                ByteSize(free_bytes),
                ByteSize(want_bytes)
            ),
        )
    }

    pub(super) fn in_use(path: &Path, user: &str) -> Self {
        let message = format!(
            "{} is in use by {user}: stop it before the volume is written or removed",
            path.display()
        );
        Self::new(VolumeErrorKind::InUse, message)
    }

    pub(super) fn no_such_volume(name: &lvp_api::VolumeName, place: &str) -> Self {
        let message = format!("There is no volume {name} in {place}: check the name");
        Self::new(VolumeErrorKind::Absent, message)
    }

    pub(super) fn not_populating(volume: &Volume) -> Self {
        let message = format!(
            "{} is not marked as being populated by this job ({:?})",
            volume.path.display(),
            volume.state
        );
        Self::new(VolumeErrorKind::Internal, message)
    }

    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> Self {
        Self::new(
            VolumeErrorKind::Io,
            format!("{doing} {} failed", path.display()),
        )
        .caused_by(source)
    }

    /// The error for a command that failed, by the kind of failure and not by its text.
    pub(super) fn command(doing: impl Into<String>, source: CmdError) -> Self {
        let kind = match source.kind() {
            CmdErrorKind::NotInstalled(_) => VolumeErrorKind::DependencyDown,
            CmdErrorKind::TimedOut(_) => VolumeErrorKind::Timeout,
            _ => VolumeErrorKind::Io,
        };
        Self::new(kind, doing).caused_by(source)
    }
}

impl fmt::Display for VolumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for VolumeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}
