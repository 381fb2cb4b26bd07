//! What is done for one order: one task, from its record to its end.

use std::sync::Arc;

use lvp_fleet::{OrderId, Report};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Inner, work};
use crate::error::chain;
use crate::store::StoreError;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Plan {
    /// Follow the order.
    Follow(Box<work::Task>),
    /// Stop what was done for earlier revisions, and report this.
    End(Report),
}

/// The task of an order.
#[derive(Debug)]
pub(super) struct Campaign {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Inner {
    /// Begins to work on a revision of an order, once the work on the one before has let go.
    pub(super) fn begin(self: &Arc<Self>, id: OrderId, revision: u64, plan: Plan) {
        let mut campaigns = self.lock();
        campaigns.retain(|_, campaign| !campaign.task.is_finished());
        let previous = campaigns.remove(&id);
        let stop = self.stop.child_token();
        let (fleet, stopped, order) = (Arc::clone(self), stop.clone(), id.clone());
        let task = self.tasks.spawn(async move {
            if let Some(previous) = previous {
                previous.stop.cancel();
                // It ends by itself; a crash in it is no reason not to go on.
                previous.task.await.ok();
            }
            let campaign = fleet.campaign(&order, revision, plan, &stopped);
            stopped.run_until_cancelled(campaign).await;
            fleet.measure();
        });
        campaigns.insert(id, Campaign { stop, task });
        drop(campaigns);
        self.measure();
    }

    fn measure(&self) {
        let campaigns = self.lock();
        let active = campaigns
            .values()
            .filter(|campaign| !campaign.task.is_finished())
            .count();
        self.services.metrics.fleet_orders_active(active as u64);
    }

    async fn campaign(
        self: &Arc<Self>,
        id: &OrderId,
        revision: u64,
        plan: Plan,
        stop: &CancellationToken,
    ) {
        let own = match &plan {
            Plan::Follow(task) => Some(task.order.job_prefix()),
            Plan::End(_) => None,
        };
        while let Err(error) = self.stop_jobs(id, own.as_deref()).await {
            self.store_failed(&error).await;
        }
        // Nothing is left behind the gates of earlier revisions.
        let all = format!("fleet:{id}:");
        self.services.gates.forget(&all, own.as_deref());
        self.services.rates.forget(&all, own.as_deref());
        let report = match plan {
            Plan::End(report) => report,
            Plan::Follow(task) => {
                let report = work::follow(self, &task, stop).await;
                let order = &task.order;
                // Whatever has not ended by now does not go on.
                while let Err(error) = self.stop_jobs(id, None).await {
                    self.store_failed(&error).await;
                }
                self.services.gates.open(&order.job_prefix());
                self.services.rates.forget(&order.job_prefix(), None);
                report
            }
        };
        tracing::info!(
            component = "fleet", order = %id, revision, state = %report.state,
            reason = report.reason, "The order has ended here"
        );
        loop {
            let text = match serde_json::to_string(&report) {
                Ok(text) => text,
                Err(error) => {
                    tracing::error!(component = "fleet", %error, "A report cannot be written");
                    return;
                }
            };
            match self
                .services
                .store
                .end_fleet_order(id.to_string(), revision, text)
                .await
            {
                Ok(()) => break,
                Err(error) => self.store_failed(&error).await,
            }
        }
        self.reports.tell(report);
    }

    /// Cancels the jobs of an order that have not ended, except those whose keys begin with `keep`.
    async fn stop_jobs(&self, id: &OrderId, keep: Option<&str>) -> Result<(), StoreError> {
        loop {
            let jobs = self
                .services
                .store
                .unfinished_by_key(format!("fleet:{id}:"))
                .await?;
            let jobs = jobs
                .into_iter()
                .filter(|(_, key)| !keep.is_some_and(|keep| key.starts_with(keep)));
            let mut is_done = true;
            for (job, _) in jobs {
                is_done = false;
                let cancelled = self.jobs.cancel(job).await;
                if let Err(error) = &cancelled {
                    let error = chain(error);
                    tracing::warn!(component = "fleet", job_id = %job, error, "A job cannot be cancelled");
                }
            }
            if is_done || self.jobs.is_stopping() {
                return Ok(());
            }
            tokio::time::sleep(work::LOOK).await;
        }
    }
}
