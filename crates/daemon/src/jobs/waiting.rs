//! A job whose database or cache is not there waits for it: what it has done is not in vain, and
//! whoever repairs the disk need not send every request again.
//!
//! A wait ends when both can be written again, or when the job is stopped: cancelled, out of time, or
//! left to the next start.

use std::time::Duration;

use super::Services;
use super::live::Live;
use crate::error::chain;
use crate::job::error::JobError;

/// How often a waiting job looks whether it can go on.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Returns when the database and the cache can be written, which the job could not go on without.
pub(super) async fn until_healed(
    services: &Services,
    live: &Live,
    error: &JobError,
) -> Result<(), JobError> {
    let why = chain(error);
    tracing::warn!(component = "provisioner", job_id = %live.id, why, "Job waits");
    live.note(format!("Waited: {why}"));
    // The readiness says it too, from now on.
    services.doubt.notify_one();
    loop {
        tokio::select! {
            biased;
            reason = live.stop.stopped() => return Err(JobError::stopped(reason)),
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        if services.store.probe().await.is_ok() && services.cache.probe().await.is_ok() {
            break;
        }
    }
    tracing::info!(component = "provisioner", job_id = %live.id, "Job goes on");
    services.doubt.notify_one();
    Ok(())
}
