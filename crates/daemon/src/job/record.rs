//! The daemon's record of a job.

use lvp_api::{
    Bound, Cause, JobId, JobState, JobStatus, LaneTime, Method, Priority, Progress, Rates,
    Sha256Digest, Signer, Timeline, Verified, VerifiedVolume, Waiting, WhenFull,
};
use serde::{Deserialize, Deserializer, Serialize};

use super::advice;
use super::log::Kept;
use super::work::Work;
use crate::source::ImageUrl;

/// What was requested: the part of a job that never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    /// What is to be done.
    pub work: Work,
    /// The client's own id for the request.
    pub correlation_id: Option<String>,
    /// A repeat with the same key returns this job.
    pub idempotency_key: Option<String>,
    /// W3C trace context of the request, so that a resumed job stays in its trace.
    pub traceparent: Option<String>,
    /// Which jobs begin first.
    pub priority: Priority,
}

/// A request that may become a job: what is stored of it, and where its image's URL leads according to the
/// current configuration.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// What is stored.
    pub spec: JobSpec,
    /// Where the image is, if there is one.
    pub location: Option<ImageUrl>,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The corresponding HTTP status.
    pub code: u16,
    /// A word from a fixed list, for metrics.
    pub error_type: String,
    /// What was wrong and what to do.
    pub message: String,
}

/// A job: what was requested and what happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The job's id, which never changes.
    pub id: JobId,
    /// What was requested.
    pub spec: JobSpec,
    /// Its state.
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
    /// How the volume's bytes came there.
    pub method: Option<Method>,
    /// Whose signature it has.
    pub signer: Option<Signer>,
    /// What a verification found.
    pub verification: Option<VerifiedVolume>,
    /// Notes for operators.
    pub notes: Vec<String>,
    /// Its progress.
    pub progress: Option<Progress>,
    /// What it waits for.
    pub waiting: Option<Waiting>,
    /// What its time went to.
    pub bound: Option<Bound>,
    /// Requests that it has sent for its image.
    pub requests: u64,
    /// Bytes that it fetched, once it has ended.
    pub fetched_bytes: u64,
    /// Bytes that it wrote to its volume, once it has ended.
    pub written_bytes: u64,
    /// How often it was started.
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: String,
    /// When it was first started.
    pub started_at: Option<String>,
    /// When anything about it last changed.
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
            method: None,
            signer: None,
            verification: None,
            notes: Vec::new(),
            progress: None,
            waiting: None,
            bound: None,
            requests: 0,
            fetched_bytes: 0,
            written_bytes: 0,
            attempts: 0,
            created_at: now.clone(),
            started_at: None,
            updated_at: now,
            finished_at: None,
        }
    }

    /// The job as the API shows it.
    pub fn status(&self) -> JobStatus {
        let work = &self.spec.work;
        JobStatus {
            job_id: self.id,
            kind: work.kind(),
            status: self.state,
            progress: self.progress.clone(),
            priority: self.spec.priority,
            waiting: self.waiting.clone(),
            bound: self.bound,
            requests: self.requests,
            trace_id: self.trace_id().map(str::to_owned),
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
            image_url: work.image_url(),
            image_type: work.image().map(|image| image.image_type),
            volume_size_bytes: work.volume().map(|volume| volume.size_bytes),
            volume_name: work.volume_name().map(ToString::to_string),
            volume_path: self.volume_path.clone(),
            image_digest: self.image_digest.map(|digest| digest.to_string()),
            verified: self.verified,
            clone: work.volume().map(|volume| volume.clone),
            expand: work.volume().and_then(|volume| volume.expand),
            method: self.method,
            signer: self.signer.clone(),
            verification: self.verification.clone(),
            when_full: work.volume().map(|volume| match volume.room_wait {
                Some(_) => WhenFull::Wait,
                None => WhenFull::Refuse,
            }),
            notes: self.notes.clone(),
            attempts: self.attempts,
            created_at: self.created_at.clone(),
            updated_at: self.updated_at.clone(),
        }
    }
}

impl Job {
    /// The trace that the request was part of (W3C Trace Context, section 3.2.2).
    fn trace_id(&self) -> Option<&str> {
        let traceparent = self.spec.traceparent.as_deref()?;
        traceparent.split('-').nth(1)
    }

    /// Its time line, of a course that is known.
    pub fn timeline(&self, trail: TrailRecord) -> Timeline {
        let by = self.bound.map(|bound| bound.by);
        let explained = |bound: Bound| {
            let by = bound.by;
            format!(
                "{:.0} % of the job's time went to {}",
                bound.share(by),
                by.text()
            )
        };
        Timeline {
            job_id: self.id,
            created_at: self.created_at.clone(),
            stages: trail.times,
            rates: trail.rates,
            bound: self.bound,
            explanation: self.bound.map(explained),
            requests: self.requests,
            advice: by.map(Cause::advice).map(str::to_owned),
        }
    }
}

/// What is kept of a job besides its record: read for one job at a time only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Course {
    /// When its stages ran.
    pub trail: TrailRecord,
    /// What was logged about it.
    pub log: Kept,
}

/// A job's time line, as it is stored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TrailRecord {
    /// When the parts of its work ran.
    pub times: Vec<LaneTime>,
    /// How fast its bytes moved, since its last start.
    pub rates: Option<Rates>,
    /// Seconds that went to each of [`Cause::ALL`].
    #[serde(deserialize_with = "by_cause")]
    pub spent: [f64; Cause::ALL.len()],
}

/// Seconds by cause. Records of earlier releases have fewer causes, of which the last are missing.
fn by_cause<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<[f64; Cause::ALL.len()], D::Error> {
    let found = Vec::<f64>::deserialize(deserializer)?;
    let mut seconds = [0.0; Cause::ALL.len()];
    for (seconds, found) in seconds.iter_mut().zip(found) {
        *seconds = found;
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use lvp_api::ImageType;

    use super::*;
    use crate::job::kind::JobErrorKind;
    use crate::job::work::ImageRequest;

    #[test]
    fn a_course_of_a_release_that_knew_fewer_causes_is_read() {
        let old = r#"{"times":[],"rates":null,"spent":[1.0,2.0,3.0,4.0,5.0]}"#;
        let read: TrailRecord = serde_json::from_str(old).expect("it is read");
        assert_eq!(read.spent, [1.0, 2.0, 3.0, 4.0, 5.0, 0.0]);
    }

    #[test]
    fn a_failed_job_says_what_to_do() {
        let spec = JobSpec {
            work: Work::Fetch {
                image: ImageRequest {
                    url: "s3://images/a.qcow2".to_owned().into(),
                    image_type: ImageType::Qcow2,
                    checksum: None,
                },
            },
            correlation_id: None,
            idempotency_key: None,
            traceparent: None,
            priority: Priority::Normal,
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
