//! What is done for one order: one task, from its record to its end.

use std::sync::Arc;

use lvp_fleet::{Order, OrderId, Report, ReportState, envelope};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::place::Place;
use super::{Inner, unix_now, work};
use crate::error::chain;
use crate::store::{FleetRow, StoreError};

/// What is to be done.
#[derive(Debug)]
pub(super) enum Plan {
    /// Follow the order.
    Follow(Box<work::Task>),
    /// Stop what was done for earlier revisions, and report this.
    End(Report),
    /// Tell the wave that this host has failed with this order, which has ended, if that is not known.
    Owe(Box<Order>),
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
            Plan::End(_) | Plan::Owe(_) => None,
        };
        while let Err(error) = self.stop_jobs(id, own.as_deref()).await {
            self.store_failed(&error).await;
        }
        // Nothing is left behind the gates of earlier revisions.
        let all = format!("fleet:{id}:");
        self.services.gates.forget(&all, own.as_deref());
        self.services.rates.forget(&all, own.as_deref());
        let (report, place) = match plan {
            Plan::End(report) => (report, None),
            Plan::Owe(order) => {
                if let Some(wave) = order.wave {
                    Place::enter(self, &order, wave, stop).leave(true).await;
                }
                return;
            }
            Plan::Follow(task) => {
                // That of an earlier revision may have been forgotten only now, and this one's with it.
                self.hold(&task.order);
                let (report, place) = work::follow(self, &task, stop).await;
                let order = &task.order;
                // Whatever has not ended by now does not go on.
                while let Err(error) = self.stop_jobs(id, None).await {
                    self.store_failed(&error).await;
                }
                self.services.gates.open(&order.job_prefix());
                self.services.rates.forget(&order.job_prefix(), None);
                (report, place)
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
        let has_failed = report.state == ReportState::Failed;
        self.reports.tell(report);
        // Whatever the broker says: the order has ended here, and a daemon that starts anew knows it.
        if let Some(place) = place {
            place.leave(has_failed).await;
        }
    }

    /// Goes on to tell the wave that this host has failed, unless something else is done for the order.
    pub(super) fn owe(self: &Arc<Self>, row: &FleetRow, report: &Report) {
        let Some(Ok(order)) =
            (report.state == ReportState::Failed).then(|| envelope::stored(&row.payload))
        else {
            return;
        };
        let is_busy = self
            .lock()
            .get(&order.id)
            .is_some_and(|campaign| !campaign.task.is_finished());
        if order.wave.is_some() && unix_now() < order.deadline && !is_busy {
            let id = order.id.clone();
            self.begin(id, row.revision, Plan::Owe(Box::new(order)));
        }
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
