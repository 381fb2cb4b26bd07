//! Why a job failed: the kind of failure, and the error chain.

use std::error::Error as StdError;
use std::fmt;

use super::kind::JobErrorKind;
use super::record::Failure;
use super::stop::StopReason;
use crate::error::chain;
use crate::source::SourceError;
use crate::volume::VolumeError;

/// The failure of a step.
#[derive(Debug)]
pub struct JobError {
    kind: JobErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    is_recoverable: bool,
}

impl JobError {
    /// An error without an underlying cause.
    pub fn new(kind: JobErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
            is_recoverable: false,
        }
    }

    /// The job was told to stop.
    pub fn stopped(reason: StopReason) -> Self {
        let context = match reason {
            StopReason::Cancelled => "Cancelled by a request",
            StopReason::TimedOut => "The job ran longer than libvirt.job_timeout_minutes allows",
            StopReason::Shutdown => "The daemon is stopping",
        };
        Self::new(JobErrorKind::Stopped(reason), context)
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// Marks the error as a temporary one of the database or the cache.
    #[must_use]
    pub fn with_recoverable(mut self, is_recoverable: bool) -> Self {
        self.is_recoverable = is_recoverable;
        self
    }

    /// The kind of failure.
    pub fn kind(&self) -> JobErrorKind {
        self.kind
    }

    /// Why the job was told to stop, when that is the error.
    pub fn stop_reason(&self) -> Option<StopReason> {
        match self.kind {
            JobErrorKind::Stopped(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether the error is a temporary one of the database or the cache, so that the job waits for its end.
    pub fn is_recoverable(&self) -> bool {
        self.is_recoverable
    }

    /// The error as it is stored with the job: the chain in one line, each message once.
    pub fn failure(&self) -> Failure {
        Failure {
            code: self.kind.code().status(),
            error_type: self.kind.word().to_owned(),
            message: chain(self),
        }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for JobError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

impl From<SourceError> for JobError {
    fn from(error: SourceError) -> Self {
        let kind = JobErrorKind::from(&error);
        Self::new(kind, "The image cannot be fetched").because(error)
    }
}

impl From<VolumeError> for JobError {
    fn from(error: VolumeError) -> Self {
        let kind = JobErrorKind::from(&error);
        Self::new(kind, "The volume cannot be used").because(error)
    }
}

impl From<lvp_image::Error> for JobError {
    fn from(error: lvp_image::Error) -> Self {
        use lvp_image::ErrorKind as Kind;
        let kind = JobErrorKind::from(&error);
        let context = match kind {
            JobErrorKind::Image(Kind::Cancelled) => "The copy was stopped",
            JobErrorKind::Image(Kind::Decoder) => "The image cannot be decoded",
            JobErrorKind::Image(Kind::TooSmall) => "The image does not fit the volume",
            JobErrorKind::Image(Kind::DeviceBusy | Kind::BadTarget) => "The volume is refused",
            JobErrorKind::Source(_) | JobErrorKind::Image(Kind::Read) => "The image cannot be read",
            JobErrorKind::Image(kind) if kind.is_refusal() => "The image is refused",
            _ => "The volume cannot be written",
        };
        Self::new(kind, context).because(error)
    }
}
