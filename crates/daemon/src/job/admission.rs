//! Decides whether a request becomes a job: a pure function of the existing jobs and the request.
//!
//! It takes no lock, reads no clock and does no I/O: [`crate::store::Store::admit`] calls it inside
//! the transaction that would insert the job, so its answer cannot be out of date.

use lvp_api::{JobId, VolumeName};

use super::record::Job;

/// The existing jobs that matter to a new one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Surroundings {
    /// The job with the same idempotency key.
    pub same_key: Option<Job>,
    /// The job that holds the volume now.
    pub volume_holder: Option<JobId>,
    /// How many jobs are waiting.
    pub pending: usize,
}

/// The decision about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It becomes a job.
    Accept,
    /// It repeats an earlier request, and is answered with that request's job.
    AlreadyDone(JobId),
    /// It does not become a job.
    Refused(Refusal),
}

/// Why a request does not become a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The idempotency key belongs to a different request.
    #[error(
        "The Idempotency-Key was already used for a different request (job {0}): use a new key"
    )]
    KeyReused(JobId),
    /// Another job holds the volume.
    #[error(
        "Volume {volume} is being written or verified by job {holder}: wait for it or cancel it"
    )]
    VolumeBusy {
        /// The volume.
        volume: VolumeName,
        /// Its job.
        holder: JobId,
    },
    /// Too many jobs are waiting.
    #[error("{0} jobs are waiting, which is the limit (jobs.queue_limit): try again later")]
    QueueFull(usize),
    /// The pool that volumes share has no room.
    #[error("{0}")]
    NoRoom(String),
}

/// Decides about one request; `no_room` says why its volume has none.
pub fn decide(
    around: &Surroundings,
    job: &Job,
    queue_limit: usize,
    no_room: Option<String>,
) -> Decision {
    if let Some(first) = &around.same_key {
        return if first.spec.work.is_same(&job.spec.work) {
            Decision::AlreadyDone(first.id)
        } else {
            Decision::Refused(Refusal::KeyReused(first.id))
        };
    }
    if let (Some(holder), Some(volume)) = (around.volume_holder, job.spec.work.volume_name()) {
        return Decision::Refused(Refusal::VolumeBusy {
            volume: volume.clone(),
            holder,
        });
    }
    if around.pending >= queue_limit {
        return Decision::Refused(Refusal::QueueFull(queue_limit));
    }
    if let Some(why) = no_room {
        return Decision::Refused(Refusal::NoRoom(why));
    }
    Decision::Accept
}

#[cfg(test)]
mod tests {
    use lvp_api::{Cloning, ImageType};
    use proptest::prelude::*;

    use super::*;
    use crate::job::record::JobSpec;
    use crate::job::work::{ImageRequest, VolumeRequest, Work};

    fn job(image: u8, volume: Option<u8>) -> Job {
        let image = ImageRequest {
            url: format!("s3://images/{image}").into(),
            image_type: ImageType::Qcow2,
            checksum: None,
        };
        let spec = JobSpec {
            work: match volume {
                None => Work::Fetch { image },
                Some(number) => Work::Provision {
                    image,
                    volume: VolumeRequest {
                        name: format!("vm{number}").parse().expect("a valid name"),
                        size_bytes: 1 << 30,
                        adopt: false,
                        expand: None,
                        clone: Cloning::Auto,
                        room_wait: None,
                    },
                },
            },
            correlation_id: None,
            idempotency_key: None,
            traceparent: None,
            priority: lvp_api::Priority::Normal,
        };
        Job::new(JobId::random(), spec, String::new())
    }

    #[test]
    fn a_repeat_under_the_same_key_gets_the_first_job_even_when_the_queue_is_full() {
        let first = job(1, Some(1));
        let around = Surroundings {
            same_key: Some(first.clone()),
            volume_holder: Some(first.id),
            pending: 9,
        };
        assert_eq!(
            decide(&around, &job(1, Some(1)), 1, Some("full".to_owned())),
            Decision::AlreadyDone(first.id)
        );
    }

    #[test]
    fn a_key_that_was_used_for_another_request_is_refused() {
        let first = job(1, Some(1));
        let around = Surroundings {
            same_key: Some(first.clone()),
            ..Default::default()
        };
        let decision = decide(&around, &job(2, Some(1)), 9, None);
        assert_eq!(decision, Decision::Refused(Refusal::KeyReused(first.id)));
    }

    proptest! {
        #[test]
        fn nothing_is_accepted_beyond_the_limit_or_onto_a_held_volume(
            held: bool, full: bool, volume: Option<u8>, pending in 0_usize..6, limit in 1_usize..6,
        ) {
            let holder = held.then(JobId::random);
            let around = Surroundings { same_key: None, volume_holder: holder, pending };
            let no_room = full.then(|| "full".to_owned());
            let accepted = decide(&around, &job(1, volume), limit, no_room) == Decision::Accept;
            let free = !(held && volume.is_some());
            prop_assert_eq!(accepted, free && pending < limit && !full);
        }
    }
}
