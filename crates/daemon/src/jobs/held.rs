//! Jobs behind gates: how they wait, and how they are put back behind one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use lvp_api::{JobId, JobState};

use super::Jobs;
use super::live::{Live, Origin};
use super::slots::{Closed, Ticket};
use crate::backoff::Backoff;
use crate::error::chain;
use crate::job::record::Job;
use crate::job::stop::StopReason;
use crate::store::StoreError;

/// Waits before the database is asked again.
const AGAIN_FIRST: Duration = Duration::from_millis(200);
/// See [`AGAIN_FIRST`].
const AGAIN_MOST: Duration = Duration::from_secs(10);

impl Jobs {
    /// Stops the jobs whose idempotency keys begin with this, and lets them begin again from what is durable, as after
    /// a restart, once their gate is open. Returns how many there are when all have stopped. It is done completely,
    /// whether or not the caller waits: a job that is stopped and not begun again would hold its volume's name until
    /// the daemon's next start.
    pub async fn put_back(&self, prefix: &str) -> usize {
        let (jobs, prefix) = (self.clone(), prefix.to_owned());
        let all = tokio::spawn(async move {
            let stopped = jobs.stop_behind(&prefix).await;
            let mut backoff = Backoff::doubling(AGAIN_FIRST, AGAIN_MOST);
            while !jobs.is_stopping() {
                match jobs.begin_again(&stopped).await {
                    Ok(()) => break,
                    Err(error) => {
                        let error = chain(&error);
                        tracing::error!(
                            component = "fleet",
                            error,
                            "Jobs that were stopped cannot be begun again yet"
                        );
                        tokio::time::sleep(backoff.failed(None).unwrap_or(AGAIN_MOST)).await;
                    }
                }
            }
            stopped.len()
        });
        all.await.unwrap_or(0)
    }

    /// Stops the jobs with such keys, which stay as they are in the database. Those that had tasks, and whether the run
    /// of each counted as an attempt.
    async fn stop_behind(&self, prefix: &str) -> Vec<(JobId, bool)> {
        let mut records = Vec::new();
        for live in self.lock().values() {
            let key = live.spec().idempotency_key.as_deref();
            if key.is_some_and(|key| key.starts_with(prefix)) {
                // It is left as it is in the database.
                live.stop.stop(StopReason::Shutdown);
                records.push((live.id, live.watch(), live.counted()));
            }
        }
        for (_, record, _) in &mut records {
            // Closed once the job's task has let go of it.
            while record.changed().await.is_ok() {}
        }
        let ended = records.into_iter();
        ended
            .map(|(id, _, counted)| (id, counted.load(Ordering::Acquire)))
            .collect()
    }

    /// Begins those of these jobs that have not ended and have no task.
    async fn begin_again(&self, stopped: &[(JobId, bool)]) -> Result<(), StoreError> {
        let unfinished = self.0.services.store.unfinished_jobs().await?;
        let is_stopped = |id| stopped.iter().any(|(stopped, _)| *stopped == id);
        let mine = |job: &Job| is_stopped(job.id) && !self.lock().contains_key(&job.id);
        for mut job in unfinished.into_iter().filter(mine) {
            // The daemon did not end before the job did, so the start does not count.
            if job.state == JobState::Running {
                job.state = JobState::Pending;
                // Of one that was paused or waited for room, it is not counted anyway.
                let was_counted = stopped.contains(&(job.id, true));
                job.attempts = (job.attempts).saturating_sub(u32::from(was_counted));
                self.0.services.store.update_job(job.clone()).await?;
            }
            let course = self.0.services.store.course(job.id).await?;
            self.spawn(job, Origin::Database, course);
        }
        Ok(())
    }

    /// Waits until the job may run and has a slot. Without a ticket, it takes one once its gate is open.
    pub(super) async fn turn(
        &self,
        live: &Live,
        ticket: &mut Option<Ticket>,
    ) -> Result<(), Closed> {
        let gates = &self.0.services.gates;
        let key = live.spec().idempotency_key.as_deref();
        loop {
            let held = match ticket {
                Some(held) => held,
                None => {
                    if !gates.opened(key).await {
                        return Err(Closed);
                    }
                    ticket.insert(self.ask_for_slot(live))
                }
            };
            held.granted().await?;
            // The gate may have been closed while the job waited for its slot.
            if gates.is_open(key) {
                return Ok(());
            }
            *ticket = None;
        }
    }
}
