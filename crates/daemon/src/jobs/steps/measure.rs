//! Measurements of a job's steps, and estimates made from them.

use std::time::Duration;

use lvp_image::plan::ImageInfo;

use super::Steps;
use crate::job::error::JobError;
use crate::job::meter::Rates;
use crate::job::work::Work;
use crate::store::Measurement;
use crate::telemetry::metrics::TimedStage;

impl Steps<'_> {
    /// Starts estimates from the measured rates of earlier jobs.
    pub(super) async fn expect_rates(&self) -> Result<(), JobError> {
        let store = &self.services.store;
        let known = Rates::default();
        self.live.meter.expect(Rates {
            download: store
                .stage_rate(TimedStage::Download.as_str())
                .await?
                .unwrap_or(known.download),
            convert: store
                .stage_rate(TimedStage::Convert.as_str())
                .await?
                .unwrap_or(known.convert),
        });
        Ok(())
    }

    /// Counts each job once, by its first lookup: one that waited for another job's download has missed too.
    pub(super) fn count_lookup(&self, is_hit: bool) {
        if self.live.job().cache_hit.is_none() {
            self.services.metrics.cache_looked_up(is_hit);
        }
    }

    /// A guest's disk of this size is to be written.
    pub(super) fn expect_disk(&self, info: &ImageInfo) {
        if self.writes_disk() {
            let size = info.virtual_size.unwrap_or(0);
            let holes = size.saturating_sub(info.allocated_bytes);
            self.live.meter.expect_disk(size, holes);
        }
    }

    /// Whether a guest's disk is written, the requested volume or a golden one.
    fn writes_disk(&self) -> bool {
        self.volume.is_some() || matches!(self.live.spec().work, Work::Golden { .. })
    }

    /// A guest's disk is to be written after the download. While its size is not known, the image's size is
    /// used instead: otherwise the end of the download would be shown as the end of the job.
    pub(super) fn expect_disk_after(&self, info: Option<&ImageInfo>, image_bytes: u64) {
        if let Some(info) = info {
            self.expect_disk(info);
        }
        if let Some(request) = self.volume {
            let meter = &self.live.meter;
            meter.guess_disk(image_bytes.min(request.size_bytes));
        }
    }

    /// Counts a completed stage. Its rate is recorded for estimates together with the job's end, as a commit of its own
    /// would make a small job take longer.
    pub(super) fn measured(&self, stage: TimedStage, bytes: u64, took: Duration) {
        self.services.metrics.stage_completed(stage, took);
        self.live.measured(Measurement {
            stage: stage.as_str(),
            bytes,
            took,
        });
    }
}
