//! `lvpctl fleet order` and `cancel`: what is signed and sent.

use std::collections::BTreeMap;

use lvp_bus::async_nats::HeaderMap;
use lvp_bus::{BusError, put};
use lvp_fleet::{Action, Image, IssuerKey, Order, OrderId, OrderKind};
use serde_json::json;

use super::spec::Spec;
use super::{Fleet, failure, keys, plan, status, unix_now};
use crate::args::{HowArgs, OrderCommand, SigningArgs};
use crate::exit::{Exit, Failure};
use crate::output::{self, Format};

const FULL: &str = ". Orders that hosts have ended are of no use to them: purge the subjects of old ones (`nats stream purge \
                    LVP_ORDERS --subject=...`), or let the broker keep more";

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) async fn order(
    fleet: &Fleet,
    command: OrderCommand,
    env: Env<'_>,
) -> Result<Exit, Failure> {
    let (spec, signing, how) = match command {
        OrderCommand::Prewarm { image, order } => {
            let spec = Spec::of_options(OrderKind::Prewarm, image.into(), Vec::new(), &order)?;
            (spec, order.signing, order.how)
        }
        OrderCommand::Provision {
            image,
            volumes,
            order,
        } => {
            let spec = Spec::of_options(OrderKind::Provision, image.into(), volumes, &order)?;
            (spec, order.signing, order.how)
        }
        OrderCommand::Evict { sha256, order } => {
            let image = Image {
                url: None,
                image_type: lvp_api::ImageType::default(),
                sha256,
            };
            let spec = Spec::of_options(OrderKind::Evict, image, Vec::new(), &order)?;
            (spec, order.signing, order.how)
        }
        OrderCommand::Apply { file, signing, how } => (Spec::of_file(&file)?, signing, how),
    };
    issue(fleet, &spec, &signing, how, env).await
}

async fn issue(
    fleet: &Fleet,
    spec: &Spec,
    signing: &SigningArgs,
    how: HowArgs,
    env: Env<'_>,
) -> Result<Exit, Failure> {
    let found = Found::of(fleet, &spec.id).await?;
    if found.revision.is_some() && !how.revise {
        return Err(Failure::new(
            Exit::Conflict,
            format!(
                "Order {} exists: see `lvpctl fleet status {}`, give --revise to replace it, or --id for another one",
                spec.id, spec.id
            ),
        ));
    }
    let next = found.revision.map_or(1, |revision| revision + 1);
    let issuer = issuer(signing, env);
    let mut revision = next;
    let mut follow = spec.documents(revision, unix_now(), &issuer)?;
    let drops_some = (found.orders.keys()).any(|subject| !follow.contains_key(subject));
    if drops_some {
        // A host may be meant by a document that is cancelled and by one that is not. It gets the latter first, and
        // that has the higher revision, so that the former is over for it whenever it comes.
        revision = next + 1;
        follow = spec.documents(revision, unix_now(), &issuer)?;
    }
    if how.dry_run {
        return plan::show(fleet, &follow).await;
    }
    let no_longer = (found.orders.iter())
        .filter(|(subject, _)| !follow.contains_key(*subject))
        .map(|(subject, order)| (subject.clone(), cancelled(order, next, &issuer)));
    let no_longer: Vec<_> = no_longer.collect();
    let documents: Vec<_> = follow.into_iter().chain(no_longer).collect();
    let key = keys::read(signing, env)?;
    send(fleet, &found, &documents, &key).await?;
    told(fleet, &spec.id, revision, documents.len())?;
    match how.wait {
        true => status::watch(fleet, &spec.id).await,
        false => Ok(Exit::Success),
    }
}

pub(super) async fn cancel(
    fleet: &Fleet,
    id: &OrderId,
    signing: &SigningArgs,
    env: Env<'_>,
) -> Result<Exit, Failure> {
    let key = keys::read(signing, env)?;
    let found = Found::of(fleet, id).await?;
    let Some(revision) = found.revision.map(|revision| revision + 1) else {
        return Err(status::unknown(id));
    };
    let issuer = issuer(signing, env);
    let documents = found
        .orders
        .iter()
        .map(|(subject, order)| (subject.clone(), cancelled(order, revision, &issuer)));
    let documents: Vec<_> = documents.collect();
    send(fleet, &found, &documents, &key).await?;
    told(fleet, id, revision, documents.len())?;
    Ok(Exit::Success)
}

fn told(fleet: &Fleet, id: &OrderId, revision: u64, messages: usize) -> Result<(), Failure> {
    match fleet.format {
        Format::Json => output::print_json_line(&json!({
            "order": id, "revision": revision, "messages": messages,
        })),
        Format::Name => output::print_line(id.as_str()),
        Format::Table => output::print_line(&format!(
            "{id} revision {revision} issued in {messages} message(s)"
        )),
    }
}

/// What the broker has of an order.
struct Found {
    revision: Option<u64>,
    orders: BTreeMap<String, Order>,
    numbers: BTreeMap<String, u64>,
}

impl Found {
    async fn of(fleet: &Fleet, id: &OrderId) -> Result<Self, Failure> {
        let documents = fleet.documents(id).await?;
        let orders = documents.iter().filter_map(|(entry, order)| {
            // What cannot be read is replaced where the new order has the same target.
            Some((
                entry.subject.clone(),
                order.clone().filter(|order| order.id == *id)?,
            ))
        });
        let orders: BTreeMap<_, _> = orders.collect();
        let numbers = documents
            .iter()
            .map(|(entry, _)| (entry.subject.clone(), entry.number));
        Ok(Self {
            revision: orders.values().map(|order| order.revision).max(),
            numbers: numbers.collect(),
            orders,
        })
    }
}

fn cancelled(order: &Order, revision: u64, issuer: &str) -> Order {
    let now = unix_now();
    Order {
        revision,
        action: Action::Cancel,
        issued_at: now,
        // What has expired can be cancelled too.
        deadline: order.deadline.max(now + 1),
        issuer: issuer.to_owned(),
        ..order.clone()
    }
}

fn issuer(signing: &SigningArgs, env: Env<'_>) -> String {
    let given = signing.issuer.clone().or_else(|| env("USER"));
    given.unwrap_or_else(|| "lvpctl".to_owned())
}

/// Signs and sends all documents in their order, each in place of the one that was found, and of no other.
async fn send(
    fleet: &Fleet,
    found: &Found,
    documents: &[(String, Order)],
    key: &IssuerKey,
) -> Result<(), Failure> {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", traceparent());
    let count = documents.len();
    for (index, (subject, order)) in documents.iter().enumerate() {
        let message = key
            .sign(order)
            .map_err(|error| Failure::usage(error.to_string()))?;
        let expected = found.numbers.get(subject).copied().unwrap_or(0);
        let sent = put(
            &fleet.broker,
            subject,
            message.into(),
            Some(expected),
            headers.clone(),
        );
        sent.await.map_err(|error| {
            let exit = failure(&error).exit;
            let left = match index {
                0 => "nothing was sent".to_owned(),
                _ => format!("{index} of {count} messages were sent: issue it again with --revise"),
            };
            let advice = match &error {
                BusError::Full { .. } => FULL,
                _ => "",
            };
            Failure::new(exit, format!("{error} ({subject}); {left}{advice}"))
        })?;
    }
    Ok(())
}

/// A trace of its own for each order (W3C Trace Context, section 3.2), which the jobs of all hosts become part of.
fn traceparent() -> String {
    let trace: u128 = rand::random();
    let span: u64 = rand::random();
    // An id of zeros is none.
    format!("00-{:032x}-{:016x}-01", trace | 1, span | 1)
}
