//! Orders to the fleet: what a broker brings becomes ordinary jobs, and what becomes of them is reported.
//!
//! ```text
//! broker -> intake     verify, decide (lvp_fleet::intake), record in the database, then acknowledge
//!             v
//!        campaign      one task per order: its jitter, its place in the wave, its jobs by idempotency key, its end
//!          |    '----> place    claims and renews this host's place (lvp_fleet::wave); opens and closes the jobs' gate
//!          v             ^
//!        reports       watch    follows all hosts' claims, while any order here has a wave
//!          v
//! broker: lvp_reports, lvp_hosts
//! ```
//!
//! - What this host has seen is in its database, not in the broker. An order that is recorded is followed to its end,
//!   whether the broker is there, has lost its store, or sends everything again.
//! - An order is acknowledged once it is recorded; its jobs have idempotency keys that name order, revision and target,
//!   so that no target gets a second job, however often the order arrives or the daemon is killed in between.
//! - At most one campaign works on an order: a later revision waits until the one before has let go.
//! - Jobs of an order with a wave run only while the host holds its place: their gate is closed before the first of them
//!   exists, and at the start before any job is resumed.
//! - Without `fleet.url` there is no [`Fleet`], and no gate is ever closed.

mod campaign;
mod heartbeat;
mod intake;
mod parts;
mod place;
mod reports;
mod shown;
mod teller;
mod watch;
mod work;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lvp_bus::async_nats::Event;
use lvp_bus::async_nats::jetstream::{self, Context};
use lvp_bus::connect::Persistence;
use lvp_fleet::{Action, Order, OrderId, Report, envelope};
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::config;
use crate::error::chain;
use crate::jobs::{Jobs, Services};
use crate::store::{FleetRow, StoreError};
use campaign::{Campaign, Plan};
use reports::Reports;
use watch::Watch;

/// Pause before the configuration's files are tried again.
const CONNECT_PAUSE: Duration = Duration::from_secs(30);

/// Pause before the database is tried again.
const STORE_PAUSE: Duration = Duration::from_secs(2);

/// This host's part in the fleet. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    settings: config::Fleet,
    services: Arc<Services>,
    jobs: Jobs,
    reports: Reports,
    watch: Watch,
    campaigns: Mutex<HashMap<OrderId, Campaign>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// The broker, once a connection has been configured.
    broker: channel::Sender<Option<Context>>,
    link: channel::Sender<Link>,
    started: Instant,
}

/// The connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Link {
    is_up: bool,
    /// How often it was made or lost.
    changes: u64,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("host", &self.0.settings.host)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// Nothing is read or sent yet.
    pub fn new(settings: config::Fleet, jobs: Jobs, services: Arc<Services>) -> Self {
        Self(Arc::new(Inner {
            settings,
            services,
            jobs,
            reports: Reports::default(),
            watch: Watch::default(),
            campaigns: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            broker: channel::Sender::new(None),
            link: channel::Sender::default(),
            started: Instant::now(),
        }))
    }

    /// Closes the gates of the orders that this host has not ended and that have waves, and brings back their rates. To be
    /// called before the jobs in the database are resumed.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        for row in self.0.services.store.fleet_orders().await? {
            if row.report.is_none()
                && let Ok(order) = envelope::stored(&row.payload)
            {
                self.0.hold(&order);
            }
        }
        Ok(())
    }

    /// Follows orders until it is told to stop. Jobs go on without it; whoever stops the daemon stops them first.
    pub async fn run(self, stop: CancellationToken) {
        let inner = &self.0;
        let work = async {
            inner.resume().await;
            let broker = inner.connect().await;
            tokio::join!(
                intake::run(inner, &broker),
                reports::run(inner, &broker),
                heartbeat::run(inner, &broker),
                watch::run(inner, &broker),
            )
        };
        if stop.run_until_cancelled(work).await.is_none() {
            tracing::debug!(component = "fleet", "Stopped");
        }
        inner.stop.cancel();
        inner.tasks.close();
        inner.tasks.wait().await;
    }
}

impl Inner {
    /// Lets no job of an order run before its turn, nor faster than it may.
    fn hold(&self, order: &Order) {
        let prefix = order.job_prefix();
        if order.wave.is_some() {
            self.services.gates.close(&prefix);
        }
        if let Some(rate) = order.bytes_per_sec {
            self.services.rates.set(&prefix, rate);
        }
    }

    /// Goes on with what was recorded.
    async fn resume(self: &Arc<Self>) {
        let rows = loop {
            match self.services.store.fleet_orders().await {
                Ok(rows) => break rows,
                Err(error) => self.store_failed(&error).await,
            }
        };
        for row in rows {
            if let Err(error) = self.resume_one(&row).await {
                let error = chain(&error);
                tracing::error!(
                    component = "fleet",
                    order = row.id,
                    error,
                    "The order cannot be resumed"
                );
            }
        }
    }

    async fn resume_one(self: &Arc<Self>, row: &FleetRow) -> Result<(), StoreError> {
        let report = row.report.as_deref().map(serde_json::from_str::<Report>);
        let Ok(id) = row.id.parse::<OrderId>() else {
            return Ok(());
        };
        if let Some(Ok(report)) = report {
            if !row.published {
                self.reports.tell(report.clone());
            }
            // Jobs of an earlier revision that were still to be stopped when the daemon ended.
            let left = self
                .services
                .store
                .unfinished_by_key(format!("fleet:{id}:"))
                .await?;
            if !left.is_empty() {
                self.begin(id, row.revision, Plan::End(report));
            } else {
                self.owe(row, &report);
            }
            return Ok(());
        }
        match envelope::stored(&row.payload) {
            Ok(order) => {
                let plan = self.plan(order, row, None);
                self.begin(id, row.revision, plan);
            }
            // It was recorded by a later release.
            Err(error) => {
                let report = self.report(
                    id.clone(),
                    row.revision,
                    lvp_fleet::ReportState::Unsupported,
                );
                let report = Report {
                    reason: Some(error.to_string()),
                    ..report
                };
                self.begin(id, row.revision, Plan::End(report));
            }
        }
        Ok(())
    }

    /// What is to be done for an order that is recorded and is to be followed or cancelled. `before` is the last report
    /// about an earlier revision, if that has ended.
    fn plan(&self, order: Order, row: &FleetRow, before: Option<Report>) -> Plan {
        match order.action {
            Action::Follow => Plan::Follow(Box::new(work::Task {
                order,
                traceparent: row.traceparent.clone(),
                received_at: row.received_at.clone(),
            })),
            Action::Cancel => {
                let cancelled =
                    self.report(order.id, order.revision, lvp_fleet::ReportState::Cancelled);
                Plan::End(match before {
                    // What is done cannot be cancelled any more.
                    Some(before) if before.state.is_good() => Report {
                        revision: cancelled.revision,
                        time: cancelled.time,
                        ..before
                    },
                    _ => cancelled,
                })
            }
        }
    }

    /// Connects, once the configured files can be used; the connection is then kept in the background.
    async fn connect(self: &Arc<Self>) -> Context {
        let settings = lvp_bus::Settings {
            servers: self.settings.servers.clone(),
            ca_cert: self.settings.ca_cert.clone(),
            client_cert: self.settings.client_cert.clone(),
            login: self.settings.login.clone(),
            name: format!("libvirt-volume-provisioner on {}", self.settings.host),
            inbox: format!("_INBOX_lvp.{}", self.settings.host.part()),
        };
        loop {
            let link = self.link.clone();
            let services = Arc::clone(&self.services);
            let told = move |event: &Event| observe(&link, &services, event);
            match lvp_bus::connect::connect(&settings, Persistence::Forever, told).await {
                Ok(client) => {
                    let broker = jetstream::new(client);
                    self.broker.send_replace(Some(broker.clone()));
                    return broker;
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(
                        component = "fleet",
                        error,
                        "Cannot follow orders; trying again"
                    );
                    tokio::time::sleep(CONNECT_PAUSE).await;
                }
            }
        }
    }

    /// The clock of places in waves.
    fn moment(&self) -> Duration {
        self.started.elapsed()
    }

    /// A report in which nothing has happened yet.
    fn report(&self, order: OrderId, revision: u64, state: lvp_fleet::ReportState) -> Report {
        Report::new(
            order,
            revision,
            self.settings.host.clone(),
            state,
            unix_now(),
        )
    }

    async fn store_failed(&self, error: &StoreError) {
        let error = chain(error);
        tracing::error!(
            component = "fleet",
            error,
            "The database cannot be used; trying again"
        );
        self.services.doubt.notify_one();
        tokio::time::sleep(STORE_PAUSE).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OrderId, Campaign>> {
        // Entries are replaced as a whole.
        self.campaigns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970.
fn unix_now() -> u64 {
    u64::try_from(clock::now().unix_timestamp()).unwrap_or(0)
}

/// The connection has changed.
fn observe(link: &channel::Sender<Link>, services: &Services, event: &Event) {
    let is_up = match event {
        Event::Connected => true,
        Event::Disconnected | Event::Closed => false,
        // Refused credentials and permissions come this way, again and again.
        Event::ServerError(_) | Event::ClientError(_) => {
            tracing::warn!(component = "fleet", error = %event, "The fleet's broker refused something");
            return;
        }
        _ => return,
    };
    link.send_modify(|link| {
        link.is_up = is_up;
        link.changes += 1;
    });
    services.metrics.fleet_connected(is_up);
    match is_up {
        true => tracing::info!(component = "fleet", "Connected to the fleet's broker"),
        false => tracing::warn!(
            component = "fleet",
            "The fleet's broker is not connected; jobs go on without it"
        ),
    }
}

/// Whether this revision of an order has ended here, and asked for something else. One that has no payload that can be read
/// was not followed.
fn is_another(row: &FleetRow, order: &Order) -> bool {
    let before = envelope::stored(&row.payload);
    row.report.is_some() && before.is_ok_and(|before| !before.is_same_as(order))
}
