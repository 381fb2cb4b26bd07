//! What can go wrong between an image URL and its bytes.

use std::error::Error;
use std::fmt;
use std::io;

use lvp_api::named;

/// Result of this module's functions.
pub type Result<T, E = SourceError> = std::result::Result<T, E>;

/// The kind of an error, for callers that decide by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// The settings cannot be used (endpoint, CA file, an entry of the allowed hosts).
    Settings,
    /// The image URL is malformed, or no object storage is configured for it.
    BadUrl,
    /// The URL, or a redirect, names a host that the configuration does not allow.
    HostNotAllowed,
    /// There is no such object or bucket.
    NotFound,
    /// The server refused the credentials, or they may not read the object.
    AccessDenied,
    /// The object was replaced while it was read: start again from [`super::Source::resolve`].
    ObjectChanged,
    /// The sidecar holds no SHA-256 digest for the object.
    SidecarInvalid,
    /// The configuration requires a signature, and there is no valid one.
    SignatureMissing,
    /// A signature exists and is not valid, or the bytes are not those that were signed.
    SignatureRefused,
    /// The server ignores `Range`: only [`super::Source::read_ranges`] can read the object.
    RangesIgnored,
    /// The server could not be reached or failed, in every attempt.
    Unavailable,
    /// The server's answer makes no sense, in every attempt.
    Protocol,
    /// The work was cancelled.
    Cancelled,
}

named!(SourceErrorKind, "kind of error", {
    Settings => "settings",
    BadUrl => "bad_url",
    HostNotAllowed => "host_not_allowed",
    NotFound => "not_found",
    AccessDenied => "access_denied",
    ObjectChanged => "object_changed",
    SidecarInvalid => "sidecar_invalid",
    SignatureMissing => "signature_missing",
    SignatureRefused => "signature_refused",
    RangesIgnored => "ranges_ignored",
    Unavailable => "source_unavailable",
    Protocol => "protocol",
    Cancelled => "cancelled",
});

impl SourceErrorKind {
    /// Whether the same request may succeed later without any change.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

/// An error with its kind, what was being done, and its cause.
///
/// `Display` shows the context only, which names the object without credentials or query; the
/// cause is in the chain.
#[derive(Debug)]
pub struct SourceError {
    kind: SourceErrorKind,
    context: String,
    status: Option<u16>,
    attempts: u32,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl SourceError {
    pub(crate) fn new(kind: SourceErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            status: None,
            attempts: 0,
            source: None,
        }
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    pub(crate) fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// What went wrong, for programs.
    pub fn kind(&self) -> SourceErrorKind {
        self.kind
    }

    /// The HTTP status of the answer that decided, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether the server reports that it is overloaded.
    pub(super) fn is_overload(&self) -> bool {
        matches!(self.status, Some(429 | 503))
    }

    /// How many requests were made for the part that failed; 0 if none was sent.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether the same request may succeed later without any change.
    pub fn is_transient(&self) -> bool {
        self.kind.is_transient()
    }

    /// The `SourceError` that a [`super::RemoteReader`] wrapped into an I/O error.
    pub fn from_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        match self.attempts {
            0 | 1 => Ok(()),
            attempts => write!(f, " (after {attempts} attempts)"),
        }
    }
}

impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

impl From<SourceError> for io::Error {
    fn from(error: SourceError) -> Self {
        let kind = match error.kind {
            SourceErrorKind::NotFound => io::ErrorKind::NotFound,
            SourceErrorKind::AccessDenied => io::ErrorKind::PermissionDenied,
            SourceErrorKind::RangesIgnored => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
