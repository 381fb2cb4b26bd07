//! The crate's error type: a kind for programs, a context for people, and a source for the chain.

use std::fmt;
use std::io;

use crate::names::named;

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for callers that decide by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Reading the image failed.
    Read,
    /// Writing the target failed.
    Write,
    /// The work was cancelled by its owner.
    Cancelled,
    /// The target is in use: mounted, held by another driver, or open in a virtual machine.
    DeviceBusy,
    /// The target is not of a kind that can be written to.
    BadTarget,
    /// The target is smaller than the image's disk.
    TooSmall,
    /// The target's file system, thin pool or quota is full.
    NoSpace,
    /// The image cannot be read in one pass, and must be copied from a local file.
    NotOnePass,
    /// The image is in an archive or a stream, and must be unpacked to a local file first.
    Packed,
    /// The process that decodes compressed data could not be started, or was ended because it crashed,
    /// hung, or did what it may not.
    Decoder,
    /// A bug in this program.
    Internal,
    /// Refused: the image is not of the declared type.
    NotThisFormat,
    /// Refused: declared raw, but the content is of another image format.
    OtherFormat,
    /// Refused: the image needs a backing file.
    BackingFile,
    /// Refused: the image keeps its data in another file.
    ExternalDataFile,
    /// Refused: the image is encrypted.
    Encrypted,
    /// Refused: the image is marked corrupt.
    Corrupt,
    /// Refused: the image needs a feature that this crate does not know.
    UnknownFeature,
    /// Refused: a field of the header, a header extension or a table descriptor is invalid.
    BadHeader,
    /// Refused: an entry of a table is invalid.
    BadTable,
    /// Refused: a table or a cluster is outside the file.
    OutsideFile,
    /// Refused: two parts of the image overlap.
    Overlap,
    /// Refused: the file ends before the image does.
    Truncated,
    /// Refused: a compressed cluster does not decompress to a whole cluster.
    BadCluster,
    /// Refused: the compressed stream around a raw image is damaged.
    BadStream,
    /// Refused: an OVA's disk does not have the digest in the OVA's manifest.
    BadManifest,
    /// Refused: the disk's GPT is damaged, or there is no room to move its backup.
    BadPartitionTable,
    /// Refused: the image is beyond a limit of this crate; see [`limits`](crate::limits).
    TooLarge,
}

impl ErrorKind {
    /// The kind of a failed write.
    pub(crate) fn of_write(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Write,
        }
    }

    /// Whether this is a verdict on the image, which a retry will not change.
    pub fn is_refusal(self) -> bool {
        match self {
            Self::Read
            | Self::Write
            | Self::Cancelled
            | Self::DeviceBusy
            | Self::BadTarget
            | Self::TooSmall
            | Self::NoSpace
            | Self::NotOnePass
            | Self::Packed
            | Self::Decoder
            | Self::Internal => false,
            Self::NotThisFormat
            | Self::OtherFormat
            | Self::BackingFile
            | Self::ExternalDataFile
            | Self::Encrypted
            | Self::Corrupt
            | Self::UnknownFeature
            | Self::BadHeader
            | Self::BadTable
            | Self::OutsideFile
            | Self::Overlap
            | Self::Truncated
            | Self::BadCluster
            | Self::BadStream
            | Self::BadManifest
            | Self::BadPartitionTable
            | Self::TooLarge => true,
        }
    }
}

named!(ErrorKind, "kind of error", {
    Read => "read",
    Write => "write",
    Cancelled => "cancelled",
    DeviceBusy => "device_busy",
    BadTarget => "bad_target",
    TooSmall => "too_small",
    NoSpace => "no_space",
    NotOnePass => "not_one_pass",
    Packed => "packed",
    Decoder => "decoder",
    Internal => "internal",
    NotThisFormat => "not_this_format",
    OtherFormat => "other_format",
    BackingFile => "backing_file",
    ExternalDataFile => "external_data_file",
    Encrypted => "encrypted",
    Corrupt => "corrupt",
    UnknownFeature => "unknown_feature",
    BadHeader => "bad_header",
    BadTable => "bad_table",
    OutsideFile => "outside_file",
    Overlap => "overlap",
    Truncated => "truncated",
    BadCluster => "bad_cluster",
    BadStream => "bad_stream",
    BadManifest => "bad_manifest",
    BadPartitionTable => "bad_partition_table",
    TooLarge => "too_large",
});

/// An error with its kind, its context, and its cause.
///
/// `Display` shows the context only; the cause is in the chain.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<io::Error>,
}

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// An error that an I/O error caused.
    pub fn io(kind: ErrorKind, context: impl Into<String>, source: io::Error) -> Self {
        Self {
            kind,
            context: context.into(),
            source: Some(source),
        }
    }

    /// What went wrong, for programs.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The I/O error behind this one, if there is one.
    pub fn io_error(&self) -> Option<&io::Error> {
        self.source.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}
