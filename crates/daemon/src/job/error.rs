//! Why a job failed: which HTTP status fits, a bounded word for metrics, and the whole story in words.

use std::error::Error as StdError;
use std::fmt;

use lvp_api::ErrorCode;

use super::record::Failure;
use super::stop::StopReason;
use crate::error::chain;
use crate::source::{SourceError, SourceErrorKind};
use crate::volume::VolumeError;

/// A failed step.
#[derive(Debug)]
pub struct JobError {
    code: ErrorCode,
    error_type: &'static str,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    stopped: Option<StopReason>,
    may_heal: bool,
}

impl JobError {
    /// An error without a deeper cause.
    pub fn new(code: ErrorCode, error_type: &'static str, context: impl Into<String>) -> Self {
        debug_assert!(
            super::advice::is_known(error_type),
            "{error_type} has no remedy"
        );
        Self {
            code,
            error_type,
            context: context.into(),
            source: None,
            stopped: None,
            may_heal: false,
        }
    }

    /// An error that another one is the cause of.
    pub fn wrapping(
        code: ErrorCode,
        error_type: &'static str,
        context: &'static str,
        source: impl StdError + Send + Sync + 'static,
    ) -> Self {
        Self::new(code, error_type, context).because(source)
    }

    /// The job was told to stop.
    pub fn stopped(reason: StopReason) -> Self {
        let (error_type, context) = match reason {
            StopReason::Cancelled => ("cancelled", "Cancelled by a request"),
            StopReason::TimedOut => (
                "timeout",
                "The job ran longer than libvirt.job_timeout_minutes allows",
            ),
            StopReason::Shutdown => ("shutdown", "The daemon is stopping"),
        };
        let mut error = Self::new(ErrorCode::Unavailable, error_type, context);
        error.stopped = Some(reason);
        error
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// Says whether the database or the cache is to blame, and may be well again.
    #[must_use]
    pub fn that_may_heal(mut self, may_heal: bool) -> Self {
        self.may_heal = may_heal;
        self
    }

    /// Why the job was told to stop, when that is the error.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stopped
    }

    /// Whether the database or the cache is to blame, and may be well again: the job waits for that.
    pub fn may_heal(&self) -> bool {
        self.may_heal
    }

    /// A bounded word for metrics.
    pub fn error_type(&self) -> &'static str {
        self.error_type
    }

    /// The error as it is kept on the job: the chain in one line, each message once.
    pub fn failure(&self) -> Failure {
        Failure {
            code: self.code.status(),
            error_type: self.error_type.to_owned(),
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

fn code_of(kind: SourceErrorKind) -> ErrorCode {
    match kind {
        SourceErrorKind::BadUrl | SourceErrorKind::HostNotAllowed => ErrorCode::BadRequest,
        SourceErrorKind::NotFound => ErrorCode::NotFound,
        SourceErrorKind::ObjectChanged => ErrorCode::Conflict,
        SourceErrorKind::SidecarInvalid => ErrorCode::Unprocessable,
        // Wrong credentials are the daemon's configuration, not the client's request.
        _ => ErrorCode::Unavailable,
    }
}

impl From<SourceError> for JobError {
    fn from(error: SourceError) -> Self {
        let code = code_of(error.kind());
        let error_type = error.kind().as_str();
        Self::wrapping(code, error_type, "The image cannot be fetched", error)
    }
}

impl From<VolumeError> for JobError {
    fn from(error: VolumeError) -> Self {
        use crate::volume::VolumeErrorKind as Kind;
        let (code, error_type) = match error.kind() {
            Kind::Absent => (ErrorCode::NotFound, "volume"),
            Kind::AlreadyExists | Kind::InUse | Kind::NotOurs | Kind::WrongDevice => {
                (ErrorCode::Conflict, "volume_refused")
            }
            Kind::TooSmall { .. } => (ErrorCode::Conflict, "volume_too_small"),
            Kind::NoSpace { .. } => (ErrorCode::InsufficientStorage, "volume_no_space"),
            Kind::Io if error.is_full() => (ErrorCode::InsufficientStorage, "volume_no_space"),
            Kind::Timeout => (ErrorCode::Unavailable, "volume_timeout"),
            Kind::NotFound | Kind::DependencyDown | Kind::Io => (ErrorCode::Unavailable, "volume"),
            _ => (ErrorCode::Internal, "internal"),
        };
        Self::wrapping(code, error_type, "The volume cannot be used", error)
    }
}

impl From<lvp_image::Error> for JobError {
    fn from(error: lvp_image::Error) -> Self {
        use lvp_image::ErrorKind as Kind;
        // A remote read that failed inside the planner keeps its own story.
        if let Some(source) = error.io_error().and_then(SourceError::from_io) {
            let code = code_of(source.kind());
            let error_type = source.kind().as_str();
            return Self::wrapping(code, error_type, "The image cannot be read", error);
        }
        let kind = error.kind();
        let (code, context) = match kind {
            Kind::Cancelled => (ErrorCode::Unavailable, "The copy was stopped"),
            Kind::NoSpace => (
                ErrorCode::InsufficientStorage,
                "The volume cannot be written",
            ),
            Kind::TooSmall => (
                ErrorCode::Unprocessable,
                "The image does not fit the volume",
            ),
            Kind::DeviceBusy | Kind::BadTarget => (ErrorCode::Conflict, "The volume is refused"),
            kind if kind.is_refusal() => (ErrorCode::Unprocessable, "The image is refused"),
            Kind::Read => (ErrorCode::Unavailable, "The image cannot be read"),
            _ => (ErrorCode::Unavailable, "The volume cannot be written"),
        };
        Self::wrapping(code, kind.as_str(), context, error)
    }
}
