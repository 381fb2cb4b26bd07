//! Orders as they arrive: verified, decided about, recorded, and then acknowledged.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use lvp_bus::async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use lvp_bus::async_nats::jetstream::{AckKind, Context, Message};
use lvp_bus::{BusError, not_followed};
use lvp_fleet::envelope::{EnvelopeError, VerifiedOrder};
use lvp_fleet::intake::{Here, Verdict, decide};
use lvp_fleet::names::{ORDERS_PREFIX, ORDERS_STREAM, subjects_of};
use lvp_fleet::{OrderId, Report, ReportState, envelope};

use super::campaign::Plan;
use super::{Inner, is_another, unix_now};
use crate::access::audit::{self, OrderLine};
use crate::backoff::Backoff;
use crate::clock;
use crate::error::chain;
use crate::store::{FleetRow, StoreError};

/// How long the broker keeps a request for orders.
const PULL_TIMEOUT: Duration = Duration::from_secs(20);

/// Orders that are asked for at once.
const BATCH: usize = 32;

/// How long an order that could not be recorded stays with the broker.
const NOT_NOW: Duration = Duration::from_secs(10);

/// After how long the broker sends an order again that was not acknowledged.
const ACK_WAIT: Duration = Duration::from_secs(15);

/// Longest trace context that is taken over: those of version 00 have 55 bytes.
const TRACEPARENT_MAX: usize = 256;

/// Follows orders for ever: a broker that does not know this host is asked again.
pub(super) async fn run(fleet: &Arc<Inner>, broker: &Context) {
    let mut backoff = Backoff::doubling(Duration::from_millis(200), Duration::from_secs(10));
    let mut said = String::new();
    let mut link = fleet.link.subscribe();
    loop {
        link.wait_for(|link| link.is_up).await.ok();
        match consumer(fleet, broker).await {
            Ok(consumer) => {
                tracing::info!(component = "fleet", host = %fleet.settings.host, "Following orders");
                said.clear();
                backoff.reset();
                let why = drain(fleet, &consumer).await;
                tracing::debug!(component = "fleet", why, "Following orders anew");
            }
            Err(error) => {
                let error = chain(&error);
                if error != said {
                    tracing::warn!(
                        component = "fleet",
                        error,
                        "Cannot follow orders; trying again"
                    );
                    said = error;
                }
            }
        }
        tokio::time::sleep(backoff.failed(None).unwrap_or(NOT_NOW)).await;
    }
}

/// This host's place in the stream, which the broker keeps.
async fn consumer(fleet: &Inner, broker: &Context) -> Result<Consumer<pull::Config>, BusError> {
    let host = &fleet.settings.host;
    let config = |filter_subject: String, filter_subjects: Vec<String>| pull::Config {
        durable_name: Some(host.part()),
        description: Some(format!("Orders for {host}")),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: 256,
        filter_subject,
        filter_subjects,
        ..pull::Config::default()
    };
    // Several filters since 2.10. Before that, a host gets all orders, and leaves those for others.
    let config = match broker.client().is_server_compatible(2, 10, 0) {
        true => config(String::new(), subjects_of(host, &fleet.settings.groups)),
        false => config(format!("{ORDERS_PREFIX}.>"), Vec::new()),
    };
    let made = broker
        .create_consumer_on_stream(config.clone(), ORDERS_STREAM)
        .await;
    match made {
        Ok(consumer) => Ok(consumer),
        Err(first) => {
            // One with other settings that cannot be changed.
            let deleted = broker
                .delete_consumer_from_stream(host.part(), ORDERS_STREAM)
                .await;
            if deleted.is_err() {
                return Err(not_followed(ORDERS_STREAM, &first));
            }
            let made = broker
                .create_consumer_on_stream(config, ORDERS_STREAM)
                .await;
            made.map_err(|error| not_followed(ORDERS_STREAM, &error))
        }
    }
}

/// Takes orders until something is wrong with the connection or the consumer.
async fn drain(fleet: &Arc<Inner>, consumer: &Consumer<pull::Config>) -> String {
    let mut link = fleet.link.subscribe();
    loop {
        let batch = consumer
            .batch()
            .max_messages(BATCH)
            .expires(PULL_TIMEOUT)
            .messages();
        let mut batch = match batch.await {
            Ok(batch) => batch,
            Err(error) => return error.to_string(),
        };
        let mut is_empty = true;
        loop {
            // What has arrived is taken first: it would come again only after a while.
            let message = tokio::select! {
                biased;
                message = batch.next() => message,
                _ = link.changed() => return "the connection has changed".to_owned(),
            };
            match message {
                None => break,
                Some(Err(error)) => return error.to_string(),
                Some(Ok(message)) => {
                    is_empty = false;
                    receive(fleet, &message).await;
                }
            }
        }
        // A broker that lost its store says nothing about a consumer that it does not know.
        if is_empty && let Err(error) = consumer.get_info().await {
            return error.to_string();
        }
    }
}

/// One message: it is acknowledged once it is in the database, or is of no use to anybody.
async fn receive(fleet: &Arc<Inner>, message: &Message) {
    let traceparent = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get("traceparent"));
    let traceparent = traceparent.map(|value| value.as_str().to_owned());
    let traceparent = traceparent.filter(|text| text.len() <= TRACEPARENT_MAX && text.is_ascii());
    let answer = match fleet
        .consider(&message.subject, &message.payload, traceparent)
        .await
    {
        Ok(()) => AckKind::Ack,
        Err(error) => {
            let error = chain(&error);
            tracing::error!(
                component = "fleet",
                error,
                "An order cannot be recorded; the broker keeps it"
            );
            AckKind::Nak(Some(NOT_NOW))
        }
    };
    if let Err(error) = message.ack_with(answer).await {
        // The broker sends it again.
        tracing::debug!(component = "fleet", %error, "An order could not be acknowledged");
    }
}

impl Inner {
    /// Decides about a message, and records what follows from it.
    pub(super) async fn consider(
        self: &Arc<Self>,
        subject: &str,
        payload: &[u8],
        traceparent: Option<String>,
    ) -> Result<(), StoreError> {
        let verified = match self.settings.trust.verify(payload) {
            Ok(verified) => verified,
            Err(error) => return self.refuse_message(subject, payload, error).await,
        };
        let order = &verified.order;
        let (known, floor) = self
            .services
            .store
            .fleet_order(order.id.to_string())
            .await?;
        let verdict = decide(
            order,
            &Here {
                host: &self.settings.host,
                groups: &self.settings.groups,
                allow: &self.settings.allow,
                known: known.as_ref().map(|row| row.revision),
                is_another: known.as_ref().is_some_and(|row| is_another(row, order)),
                floor,
                now: unix_now(),
            },
        );
        let (result, reason) = match &verdict {
            Verdict::Follow => ("followed", None),
            Verdict::Cancel => ("cancelled", None),
            Verdict::Refuse(why) => ("refused", Some(why.clone())),
            Verdict::Expired => ("expired", None),
            Verdict::Duplicate => ("duplicate", None),
            Verdict::Older => ("older", None),
            Verdict::NotMeant => ("not_meant", None),
        };
        let is_for_others =
            verdict == Verdict::NotMeant && order.target.subject(&order.id) == subject;
        self.services.metrics.fleet_order(result);
        // Before NATS 2.10, every host sees the orders of all.
        if !is_for_others && verdict != Verdict::Duplicate {
            audit::order_received(&OrderLine {
                id: Some(order.id.as_str()),
                revision: Some(order.revision),
                kind: Some(order.kind.as_str()),
                signer: Some(&verified.signer),
                key_id: Some(&verified.key_id),
                subject,
                result,
                reason: reason.as_deref(),
            });
        }
        match verdict {
            Verdict::NotMeant | Verdict::Older => Ok(()),
            Verdict::Duplicate => {
                // Whoever sends it again may have lost what was said about it.
                let ended = known.and_then(|row| serde_json::from_str(&row.report?).ok());
                match ended {
                    Some(report) => self.reports.tell(report),
                    None => self.reports.again(&order.id),
                }
                Ok(())
            }
            Verdict::Follow | Verdict::Cancel => self.accept(verified, traceparent, known).await,
            Verdict::Refuse(why) => {
                let report = self.report(order.id.clone(), order.revision, ReportState::Refused);
                let report = Report {
                    reason: Some(why),
                    ..report
                };
                self.turn_down(&verified, report).await
            }
            Verdict::Expired => {
                let report = self.report(order.id.clone(), order.revision, ReportState::Expired);
                let why = format!(
                    "Its deadline had passed by this host's clock ({})",
                    clock::now_text()
                );
                let report = Report {
                    reason: Some(why),
                    ..report
                };
                self.turn_down(&verified, report).await
            }
        }
    }

    async fn accept(
        self: &Arc<Self>,
        verified: VerifiedOrder,
        traceparent: Option<String>,
        known: Option<FleetRow>,
    ) -> Result<(), StoreError> {
        let order = verified.order.clone();
        let row = row(&verified, traceparent, None);
        // Before there is anything that could run.
        self.hold(&order);
        self.services.store.save_fleet_order(row.clone()).await?;
        let before = known.and_then(|row| serde_json::from_str(&row.report?).ok());
        let (id, revision) = (order.id.clone(), order.revision);
        let plan = self.plan(order, &row, before);
        self.begin(id, revision, plan);
        Ok(())
    }

    /// Records that an order is not followed, and ends what was done for an earlier revision.
    async fn turn_down(
        self: &Arc<Self>,
        verified: &VerifiedOrder,
        report: Report,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(&report).ok();
        let row = row(verified, None, text);
        self.services.store.save_fleet_order(row).await?;
        let order = &verified.order;
        self.begin(order.id.clone(), order.revision, Plan::End(report));
        Ok(())
    }

    /// A message that is no order that this host may follow. What it claims to be is not believed: a report is made only
    /// about an order of which this host knows nothing else.
    async fn refuse_message(
        self: &Arc<Self>,
        subject: &str,
        payload: &[u8],
        error: EnvelopeError,
    ) -> Result<(), StoreError> {
        let why = error.to_string();
        let result = error.word();
        let (named, is_genuine) = match error {
            EnvelopeError::Unsupported { named, .. } => (named, true),
            EnvelopeError::Invalid { id, revision, .. } => (Some((id, revision)), true),
            // What it says itself is as good as the subject, which anybody chose who may write there.
            _ => {
                let id = lvp_fleet::names::order_of_subject(subject);
                let says = envelope::unverified(payload);
                let says = says.filter(|order| Some(&order.id) == id.as_ref());
                let revision = says.map_or(0, |order| order.revision);
                (id.map(|id| (id, revision)), false)
            }
        };
        self.services.metrics.fleet_order(result);
        audit::order_received(&OrderLine {
            id: named.as_ref().map(|(id, _)| id.as_str()),
            subject,
            result,
            reason: Some(&why),
            ..OrderLine::default()
        });
        let Some((id, revision)) = named else {
            return Ok(());
        };
        let (known, _) = self.services.store.fleet_order(id.to_string()).await?;
        let is_news = known.is_none_or(|row| is_genuine && row.revision < revision);
        // A genuine one may be for another host: before NATS 2.10, every host sees the orders of all.
        let is_ours = self.is_own_subject(subject);
        if !is_news || !is_ours {
            return Ok(());
        }
        let state = match result {
            "unsupported" => ReportState::Unsupported,
            _ => ReportState::Refused,
        };
        let report = self.report(id.clone(), revision, state);
        let report = Report {
            reason: Some(why),
            ..report
        };
        if is_genuine {
            self.services
                .store
                .save_fleet_order(FleetRow {
                    id: id.to_string(),
                    revision,
                    issued_at: 0,
                    payload: payload.to_vec(),
                    signer: String::new(),
                    traceparent: None,
                    received_at: clock::now_text(),
                    report: serde_json::to_string(&report).ok(),
                    published: false,
                })
                .await?;
            self.begin(id, revision, Plan::End(report));
        } else {
            self.reports.tell_stranger(report);
        }
        Ok(())
    }

    fn is_own_subject(&self, subject: &str) -> bool {
        let own = subjects_of(&self.settings.host, &self.settings.groups);
        own.iter().any(|own| {
            let prefix = own.trim_end_matches('*');
            subject
                .strip_prefix(prefix)
                .is_some_and(|rest| OrderId::of_part(rest).is_ok())
        })
    }
}

fn row(verified: &VerifiedOrder, traceparent: Option<String>, report: Option<String>) -> FleetRow {
    FleetRow {
        id: verified.order.id.to_string(),
        revision: verified.order.revision,
        issued_at: verified.order.issued_at,
        payload: verified.payload.clone(),
        signer: verified.signer.clone(),
        traceparent,
        received_at: clock::now_text(),
        report,
        published: false,
    }
}
