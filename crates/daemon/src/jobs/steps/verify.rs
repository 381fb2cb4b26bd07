//! The one step of a job that verifies a volume. It changes nothing, so a repeat after a crash reads it again.

use lvp_api::{Stage, VolumeName};

use crate::golden::content::Watch;
use crate::job::error::JobError;
use crate::jobs::Services;
use crate::jobs::live::Live;

/// Reads the volume, and records what was found.
pub(super) async fn run(
    services: &Services,
    live: &Live,
    volume: &VolumeName,
) -> Result<(), JobError> {
    let meter = &live.meter;
    let watch = Watch {
        stop: live.stop.flag(),
        counters: meter.new_copy(),
        ..Default::default()
    };
    let expect_bytes = |bytes| {
        meter.expect_disk(bytes, 0);
        meter.enter(Stage::Verifying);
    };
    let found = services.volumes.lookup(volume).await?;
    let _ours = found.and_then(|found| services.guests.reads(&found.path));
    let verified = services.golden.verify(volume, &watch, expect_bytes);
    let verified = tokio::select! {
        biased;
        reason = live.stop.stopped() => return Err(JobError::stopped(reason)),
        verified = verified => verified?,
    };
    tracing::info!(
        component = "golden", job_id = %live.id, volume = %volume, matches = verified.matches,
        "Verified a volume"
    );
    if !verified.matches {
        live.note("The volume differs from what was written to it");
    }
    live.update(|job| job.verification = Some(verified));
    Ok(())
}
