//! Jobs behind gates: how they wait, and how they are put back behind one.

use lvp_api::{JobState, WaitsFor};

use super::Jobs;
use super::live::{Live, Origin};
use super::slots::{Closed, Ticket};
use crate::job::record::Job;
use crate::job::stop::StopReason;
use crate::store::StoreError;

impl Jobs {
    /// Stops the jobs whose idempotency keys begin with this, and lets them begin again from what is durable, as after
    /// a restart, once their gate is open. Returns how many there are when all have stopped.
    pub async fn put_back(&self, prefix: &str) -> Result<usize, StoreError> {
        let mut records = Vec::new();
        for live in self.lock().values() {
            let key = live.spec().idempotency_key.as_deref();
            if key.is_some_and(|key| key.starts_with(prefix)) {
                // It is left as it is in the database.
                live.stop.stop(StopReason::Shutdown);
                records.push((live.id, live.watch()));
            }
        }
        for (_, record) in &mut records {
            // Closed once the job's task has let go of it.
            while record.changed().await.is_ok() {}
        }
        if self.is_stopping() {
            return Ok(records.len());
        }
        let unfinished = self.0.services.store.unfinished_jobs().await?;
        let mine = |job: &Job| records.iter().any(|(id, _)| *id == job.id);
        for mut job in unfinished.into_iter().filter(mine) {
            // The daemon did not end before the job did, so the start does not count.
            if job.state == JobState::Running {
                job.state = JobState::Pending;
                let was_paused = records
                    .iter()
                    .any(|(id, last)| *id == job.id && is_paused(&last.borrow()));
                // Of a paused one, it is not counted anyway.
                job.attempts = (job.attempts).saturating_sub(u32::from(!was_paused));
                self.0.services.store.update_job(job.clone()).await?;
            }
            let course = self.0.services.store.course(job.id).await?;
            self.spawn(job, Origin::Database, course);
        }
        Ok(records.len())
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

/// Whether a job's transfer is paused, or was when the job was stopped.
fn is_paused(job: &Job) -> bool {
    (job.waiting.as_ref()).is_some_and(|waiting| waiting.on == WaitsFor::Slot)
}
