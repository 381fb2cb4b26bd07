//! The kinds of failure. What happens to a failed job is decided by the kind, never by comparing
//! words.

use lvp_api::ErrorCode;

use super::advice;
use super::stop::StopReason;
use crate::source::{SourceError, SourceErrorKind};
use crate::volume::VolumeError;

/// Why a job failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobErrorKind {
    /// The image could not be fetched.
    Source(SourceErrorKind),
    /// The image was refused, or it could not be copied.
    Image(lvp_image::ErrorKind),
    /// The job's image URL cannot be decrypted any more.
    UrlUnreadable,
    /// There is no checksum file, and one is required.
    ChecksumMissing,
    /// The image does not have the digest that was given.
    DigestMismatch,
    /// The source ended too early.
    Incomplete,
    /// The job was told to stop.
    Stopped(StopReason),
    /// The job was started too many times.
    Attempts,
    /// A bug in the daemon.
    Internal,
    /// The database does not answer.
    Storage,
    /// The database's disk is full.
    StorageFull,
    /// The cache cannot be used.
    Cache,
    /// A cached image is in use.
    CacheInUse,
    /// The cache's disk is full.
    CacheFull,
    /// The requested volume is smaller than the image's disk.
    ImageTooLarge,
    /// The volume cannot be used.
    Volume,
    /// There is no such volume.
    VolumeAbsent,
    /// The volume may not be written.
    VolumeRefused,
    /// The existing volume is too small.
    VolumeTooSmall,
    /// There is no room for the volume.
    VolumeNoSpace,
    /// The pool that volumes share is too full for it, or not healthy.
    VolumePool,
    /// LVM did not answer in time.
    VolumeTimeout,
    /// The volume had to be cloned, and cannot be.
    CloneUnavailable,
}

impl JobErrorKind {
    /// Kinds that do not come from another part of the daemon.
    const OWN: [Self; 23] = [
        Self::UrlUnreadable,
        Self::ChecksumMissing,
        Self::DigestMismatch,
        Self::Incomplete,
        Self::Stopped(StopReason::Cancelled),
        Self::Stopped(StopReason::TimedOut),
        Self::Stopped(StopReason::Shutdown),
        Self::Attempts,
        Self::Internal,
        Self::Storage,
        Self::StorageFull,
        Self::Cache,
        Self::CacheInUse,
        Self::CacheFull,
        Self::ImageTooLarge,
        Self::Volume,
        Self::VolumeAbsent,
        Self::VolumeRefused,
        Self::VolumeTooSmall,
        Self::VolumeNoSpace,
        Self::VolumePool,
        Self::VolumeTimeout,
        Self::CloneUnavailable,
    ];

    /// All kinds that exist.
    pub fn all() -> impl Iterator<Item = Self> {
        let source = SourceErrorKind::ALL.into_iter().map(Self::Source);
        let image = lvp_image::ErrorKind::ALL.iter().copied().map(Self::Image);
        source.chain(image).chain(Self::OWN)
    }

    /// The word for it in a job's status, in metrics and in the docs. Some kinds share a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Source(kind) => kind.as_str(),
            Self::Image(kind) => kind.as_str(),
            Self::UrlUnreadable => "url_unreadable",
            Self::ChecksumMissing => "checksum_missing",
            Self::DigestMismatch => "digest_mismatch",
            Self::Incomplete => "incomplete",
            Self::Stopped(StopReason::Cancelled) => "cancelled",
            Self::Stopped(StopReason::TimedOut) => "timeout",
            Self::Stopped(StopReason::Shutdown) => "shutdown",
            Self::Attempts => "attempts",
            Self::Internal => "internal",
            Self::Storage | Self::StorageFull => "storage",
            Self::Cache | Self::CacheInUse => "cache",
            Self::CacheFull => "cache_full",
            Self::ImageTooLarge => "image_too_large",
            Self::Volume | Self::VolumeAbsent => "volume",
            Self::VolumeRefused => "volume_refused",
            Self::VolumeTooSmall => "volume_too_small",
            Self::VolumeNoSpace => "volume_no_space",
            Self::VolumePool => "volume_pool",
            Self::VolumeTimeout => "volume_timeout",
            Self::CloneUnavailable => "clone_unavailable",
        }
    }

    /// Whether it is a verdict on the image's bytes, which other bytes could change.
    pub fn is_of_bytes(self) -> bool {
        match self {
            Self::DigestMismatch => true,
            Self::Source(kind) => matches!(
                kind,
                SourceErrorKind::ObjectChanged | SourceErrorKind::SignatureRefused
            ),
            Self::Image(kind) => kind.is_refusal(),
            _ => false,
        }
    }

    /// The HTTP status for it.
    pub fn code(self) -> ErrorCode {
        use lvp_image::ErrorKind as Image;
        match self {
            Self::Source(kind) => match kind {
                SourceErrorKind::BadUrl | SourceErrorKind::HostNotAllowed => ErrorCode::BadRequest,
                SourceErrorKind::NotFound => ErrorCode::NotFound,
                SourceErrorKind::ObjectChanged => ErrorCode::Conflict,
                SourceErrorKind::SidecarInvalid
                | SourceErrorKind::SignatureMissing
                | SourceErrorKind::SignatureRefused => ErrorCode::Unprocessable,
                // Wrong credentials are a fault of the daemon's configuration, not of the client's
                // request.
                SourceErrorKind::Settings
                | SourceErrorKind::AccessDenied
                | SourceErrorKind::RangesIgnored
                | SourceErrorKind::Unavailable
                | SourceErrorKind::Protocol
                | SourceErrorKind::Cancelled => ErrorCode::Unavailable,
            },
            Self::Image(Image::NoSpace) => ErrorCode::InsufficientStorage,
            Self::Image(Image::TooSmall) => ErrorCode::Unprocessable,
            Self::Image(Image::DeviceBusy | Image::BadTarget) => ErrorCode::Conflict,
            Self::Image(kind) if kind.is_refusal() => ErrorCode::Unprocessable,
            Self::ChecksumMissing
            | Self::DigestMismatch
            | Self::ImageTooLarge
            | Self::CloneUnavailable => ErrorCode::Unprocessable,
            Self::Image(_)
            | Self::UrlUnreadable
            | Self::Incomplete
            | Self::Stopped(_)
            | Self::Storage
            | Self::Cache
            | Self::Volume
            | Self::VolumePool
            | Self::VolumeTimeout => ErrorCode::Unavailable,
            Self::Attempts | Self::Internal => ErrorCode::Internal,
            Self::StorageFull | Self::CacheFull | Self::VolumeNoSpace => {
                ErrorCode::InsufficientStorage
            }
            Self::CacheInUse | Self::VolumeRefused | Self::VolumeTooSmall => ErrorCode::Conflict,
            Self::VolumeAbsent => ErrorCode::NotFound,
        }
    }

    /// The operation that failed, if the failure is about the image: `operation` of
    /// `image_errors_total`.
    pub fn operation(self) -> Option<&'static str> {
        use lvp_image::ErrorKind as Image;
        match self {
            Self::Source(
                SourceErrorKind::SidecarInvalid
                | SourceErrorKind::SignatureMissing
                | SourceErrorKind::SignatureRefused,
            )
            | Self::ChecksumMissing
            | Self::DigestMismatch => Some("verify"),
            Self::Source(SourceErrorKind::Cancelled) => None,
            Self::Source(_) | Self::UrlUnreadable | Self::Incomplete => Some("download"),
            Self::Image(Image::Cancelled | Image::Internal) => None,
            Self::Image(
                Image::Write
                | Image::DeviceBusy
                | Image::BadTarget
                | Image::TooSmall
                | Image::NoSpace,
            ) => Some("convert"),
            Self::Image(_) => Some("inspect"),
            Self::Cache | Self::CacheInUse | Self::CacheFull => Some("cache"),
            Self::ImageTooLarge
            | Self::Volume
            | Self::VolumeAbsent
            | Self::VolumeRefused
            | Self::VolumeTooSmall
            | Self::VolumeNoSpace
            | Self::VolumePool
            | Self::VolumeTimeout
            | Self::CloneUnavailable => Some("convert"),
            Self::Stopped(_)
            | Self::Attempts
            | Self::Internal
            | Self::Storage
            | Self::StorageFull => None,
        }
    }

    /// What to do about it.
    pub fn remedy(self) -> Option<&'static str> {
        advice::remedy(self.word())
    }
}

impl From<&SourceError> for JobErrorKind {
    fn from(error: &SourceError) -> Self {
        Self::Source(error.kind())
    }
}

impl From<&VolumeError> for JobErrorKind {
    fn from(error: &VolumeError) -> Self {
        use crate::volume::VolumeErrorKind as Kind;
        match error.kind() {
            Kind::Absent => Self::VolumeAbsent,
            Kind::AlreadyExists | Kind::InUse | Kind::NotOurs | Kind::WrongDevice => {
                Self::VolumeRefused
            }
            Kind::TooSmall { .. } => Self::VolumeTooSmall,
            Kind::NoSpace { .. } => Self::VolumeNoSpace,
            Kind::PoolFull | Kind::PoolUnsound => Self::VolumePool,
            Kind::Io if error.is_full() => Self::VolumeNoSpace,
            Kind::Timeout => Self::VolumeTimeout,
            Kind::NotFound | Kind::DependencyDown | Kind::Io => Self::Volume,
            Kind::Internal => Self::Internal,
        }
    }
}

impl From<&lvp_image::Error> for JobErrorKind {
    fn from(error: &lvp_image::Error) -> Self {
        // A remote read that failed inside the planner keeps its own error chain.
        match error.io_error().and_then(SourceError::from_io) {
            Some(source) => source.into(),
            None => Self::Image(error.kind()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_remedy_and_every_remedy_a_kind() {
        for kind in JobErrorKind::all() {
            assert!(kind.remedy().is_some(), "{}", kind.word());
        }
        for (word, ..) in advice::ERROR_TYPES {
            let is_used = JobErrorKind::all().any(|kind| kind.word() == *word);
            assert!(is_used, "nothing fails with {word}");
        }
    }
}
