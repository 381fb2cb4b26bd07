//! One job as the daemon keeps it.

use lvp_api::{
    Checksum, ImageType, JobId, JobKind, JobState, JobStatus, Progress, Sha256Digest, Verified,
    VolumeName,
};

use super::advice;
use crate::source::url::RequestedUrl;

/// The volume that a job writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Its name.
    pub name: VolumeName,
    /// The size that was asked for.
    pub size_bytes: u64,
}

/// What was asked for: the part of a job that never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    /// The image, as it was requested.
    pub image_url: RequestedUrl,
    /// Its declared format.
    pub image_type: ImageType,
    /// What its bytes must be.
    pub checksum: Option<Checksum>,
    /// The volume; none for a job that only fills the cache.
    pub volume: Option<VolumeRequest>,
    /// The client's own word for the request.
    pub correlation_id: Option<String>,
    /// A repeat with the same key returns this job.
    pub idempotency_key: Option<String>,
    /// The volume may be one that nobody has marked as this program's.
    pub adopt: bool,
    /// W3C trace context of the request, so that a resumed job stays in its trace.
    pub traceparent: Option<String>,
}

impl JobSpec {
    /// What the job does.
    pub fn kind(&self) -> JobKind {
        if self.volume.is_some() {
            JobKind::Provision
        } else {
            JobKind::Cache
        }
    }

    /// Whether a repeat of the request asks for the same thing.
    pub fn same_request(&self, other: &Self) -> bool {
        self.image_url.identity() == other.image_url.identity()
            && self.image_type == other.image_type
            && self.checksum == other.checksum
            && self.volume == other.volume
            && self.adopt == other.adopt
    }
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The HTTP status that fits.
    pub code: u16,
    /// A bounded word for metrics.
    pub error_type: String,
    /// What was wrong and what to do.
    pub message: String,
}

/// A job: what was asked for and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The job's name for ever.
    pub id: JobId,
    /// What was asked for.
    pub spec: JobSpec,
    /// Where it stands.
    pub state: JobState,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Whether the image was in the cache.
    pub cache_hit: Option<bool>,
    /// The image's file in the cache.
    pub image_path: Option<String>,
    /// The volume's device or file.
    pub volume_path: Option<String>,
    /// Digest of the image.
    pub image_digest: Option<Sha256Digest>,
    /// What the image was verified against.
    pub verified: Option<Verified>,
    /// What an operator may want to know.
    pub notes: Vec<String>,
    /// How far it is.
    pub progress: Option<Progress>,
    /// How often it was started.
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: String,
    /// When it was first started.
    pub started_at: Option<String>,
    /// When anything last changed.
    pub updated_at: String,
    /// When it ended.
    pub finished_at: Option<String>,
}

impl Job {
    /// A new job that waits.
    pub fn new(id: JobId, spec: JobSpec, now: String) -> Self {
        Self {
            id,
            spec,
            state: JobState::Pending,
            failure: None,
            cache_hit: None,
            image_path: None,
            volume_path: None,
            image_digest: None,
            verified: None,
            notes: Vec::new(),
            progress: None,
            attempts: 0,
            created_at: now.clone(),
            started_at: None,
            updated_at: now,
            finished_at: None,
        }
    }

    /// The job as clients see it.
    pub fn status(&self) -> JobStatus {
        JobStatus {
            job_id: self.id,
            kind: self.spec.kind(),
            status: self.state,
            progress: self.progress.clone(),
            error: self.failure.as_ref().map(|failure| failure.message.clone()),
            error_code: self.failure.as_ref().map(|failure| failure.code),
            error_type: self
                .failure
                .as_ref()
                .map(|failure| failure.error_type.clone()),
            remedy: self
                .failure
                .as_ref()
                .and_then(|failure| advice::remedy(&failure.error_type))
                .map(str::to_owned),
            correlation_id: self.spec.correlation_id.clone(),
            cache_hit: self.cache_hit,
            image_path: self.image_path.clone(),
            image_url: self.spec.image_url.to_string(),
            volume_name: self
                .spec
                .volume
                .as_ref()
                .map(|volume| volume.name.to_string()),
            volume_path: self.volume_path.clone(),
            image_digest: self.image_digest.map(|digest| digest.to_string()),
            verified: self.verified,
            notes: self.notes.clone(),
            attempts: self.attempts,
            created_at: self.created_at.clone(),
            updated_at: self.updated_at.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::kind::JobErrorKind;

    #[test]
    fn a_failed_job_says_what_to_do() {
        let spec = JobSpec {
            image_url: "s3://images/a.qcow2".to_owned().into(),
            image_type: ImageType::Qcow2,
            checksum: None,
            volume: None,
            correlation_id: None,
            idempotency_key: None,
            adopt: false,
            traceparent: None,
        };
        let mut job = Job::new(JobId::random(), spec, String::new());
        assert_eq!(job.status().remedy, None);
        let kind = JobErrorKind::DigestMismatch;
        job.failure = Some(Failure {
            code: kind.code().status(),
            error_type: kind.word().to_owned(),
            message: String::new(),
        });
        let remedy = job.status().remedy.expect("there is one");
        assert!(remedy.contains(".sha256"), "{remedy}");
    }
}
