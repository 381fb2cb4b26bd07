//! A job waits while the database or the cache is unavailable: what it has done is not lost, and the requests
//! need not be sent again after the disk was repaired.
//!
//! A wait ends when both can be written again, or when the job is stopped: cancelled, out of time, or
//! left to the next start.

use std::time::Duration;

use lvp_api::{Cause, WaitsFor};

use super::Services;
use super::live::Live;
use crate::error::chain;
use crate::job::error::JobError;
use crate::source::RequestId;

/// How often a waiting job checks whether it can continue.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Returns when the database and the cache can be written again.
pub(super) async fn until_available(
    services: &Services,
    live: &Live,
    error: &JobError,
) -> Result<(), JobError> {
    let why = chain(error);
    tracing::warn!(component = "provisioner", job_id = %live.id, why, "Job waits until the \
        database and the cache are available");
    live.note(format!("Waited: {why}"));
    live.meter.account.charge(Cause::Device);
    let (wait, storage) = (RequestId::next(), WaitsFor::Storage);
    live.waits.failing(wait, storage, 1, why, Duration::ZERO);
    live.update(|job| job.waiting = live.waits.now());
    let healed = healed(services, live).await;
    live.waits.over(wait, healed.is_ok());
    live.update(|job| job.waiting = live.waits.now());
    healed
}

async fn healed(services: &Services, live: &Live) -> Result<(), JobError> {
    // So that /readyz shows it from now on.
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
    tracing::info!(component = "provisioner", job_id = %live.id, "Job continues");
    services.doubt.notify_one();
    Ok(())
}
