//! The types that the daemon and its clients exchange: requests, answers, identifiers, units.
//!
//! No I/O and no async code: `lvpctl` and other tools can depend on this crate alone. Names that come from
//! outside ([`VolumeName`], [`Sha256Digest`], [`JobId`]) are parsed once, at the edge, into types that cannot
//! hold an invalid value.

pub mod cache;
pub mod course;
pub mod digest;
pub mod error;
pub mod fleet;
pub mod golden;
pub mod health;
pub mod host;
pub mod job;
pub mod names;
pub mod plan;
pub mod routes;
pub mod units;
pub mod volume;

pub use cache::{
    CacheFetchRequest, CachedImage, CachedImages, DeletedImage, StoredImage, StoredImages,
};
pub use course::{
    Bound, Cause, JobLog, Lane, LaneTime, LogLine, Rates, Timeline, Waiting, WaitsFor,
};
pub use digest::{Checksum, Sha256Digest, Sha512Digest};
pub use error::{ErrorBody, ErrorCode};
pub use fleet::{FleetAsks, FleetOrder, FleetStatus};
pub use golden::{ByteRange, GoldenVolume, GoldenVolumes, VerifiedVolume, VerifyRequest};
pub use health::{DependencyState, Health, HealthStatus, Readiness};
pub use host::{
    CertificateEnd, CheckStatus, DoctorCheck, DoctorReport, History, HostCache, HostFleet,
    HostJobs, HostPool, HostStatus, HostVolumes,
};
pub use job::{
    CancelledJob, Cloning, Expand, FeedEvent, ImageType, JobAccepted, JobEvent, JobId, JobKind,
    JobList, JobState, JobStatus, Method, Priority, Progress, ProvisionRequest, SignatureFormat,
    Signer, Stage, Verified, WebhookEvent, WhenFull,
};
pub use volume::{UploadedContent, VolumeInfo, VolumeKind, VolumeList, VolumeName};
