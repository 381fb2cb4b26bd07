//! The course of a job, running or ended: its time line and its log.

use std::convert::Infallible;
use std::time::Duration;

use lvp_api::{JobId, JobLog, Timeline};

use super::Jobs;
use super::live::Live;
use crate::store::StoreError;

/// How often the course of a running job is written to the database: what a crash may lose of it.
const KEEP_INTERVAL: Duration = Duration::from_secs(5);

impl Jobs {
    /// When a job's stages ran, how fast its bytes moved, and what its time went to.
    pub async fn timeline(&self, id: JobId) -> Result<Option<Timeline>, StoreError> {
        if let Some(live) = self.find(id) {
            let mut job = live.job();
            job.bound = live.meter.account.bound();
            return Ok(Some(job.timeline(live.trail())));
        }
        let store = &self.services().store;
        let Some(job) = store.job(id).await? else {
            return Ok(None);
        };
        let course = store.course(id).await?;
        Ok(Some(job.timeline(course.trail)))
    }

    /// What was logged about a job, after the line of a number.
    pub async fn log(&self, id: JobId, after: Option<u64>) -> Result<Option<JobLog>, StoreError> {
        if let Some(live) = self.find(id) {
            return Ok(Some(live.log.after(id, after)));
        }
        let store = &self.services().store;
        if store.job(id).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(store.course(id).await?.log.after(id, after)))
    }

    /// Writes the course of a running job at every interval, for as long as it is polled.
    pub(super) async fn keep_course(&self, live: &Live) -> Infallible {
        loop {
            tokio::time::sleep(KEEP_INTERVAL).await;
            let kept = self.services().store.keep_course(live.id, live.course());
            if let Err(error) = kept.await {
                // Only what a crash would lose; a database that cannot be written is reported by others.
                tracing::debug!(component = "storage", error = %error, "A job's course was not kept");
            }
        }
    }
}
