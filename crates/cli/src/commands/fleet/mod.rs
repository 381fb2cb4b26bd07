//! `lvpctl fleet`: orders to many hosts, and what they report, over NATS.

use std::collections::BTreeMap;

use lvp_bus::async_nats::jetstream::{self, Context};
use lvp_bus::connect::{Persistence, connect};
use lvp_bus::{BusError, ConnectError, Entry, Login, snapshot};
use lvp_fleet::names::{HOSTS_BUCKET, ORDERS_PREFIX, ORDERS_STREAM, REPORTS_BUCKET, parsed_key};
use lvp_fleet::standing::Heard;
use lvp_fleet::{HostName, HostReport, Order, OrderId, Report, envelope};
use time::OffsetDateTime;

use crate::args::{BrokerArgs, FleetArgs, FleetCommand};
use crate::exit::{Exit, Failure};
use crate::output::Format;

mod hosts;
mod issue;
mod keys;
mod plan;
mod spec;
mod status;

/// Where the broker is unless somebody says otherwise.
const DEFAULT_URL: &str = "nats://127.0.0.1:4222";

pub(super) async fn run(
    format: Format,
    timeout: Option<std::time::Duration>,
    args: FleetArgs,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Exit, Failure> {
    if let FleetCommand::Keygen { file, name } = &args.command {
        return keys::make(format, file, name);
    }
    if let FleetCommand::Nkey { file, host } = &args.command {
        return keys::make_nkey(format, file, host.as_ref());
    }
    let settings = settings(args.broker, env)?;
    let fleet = Fleet {
        broker: broker(&settings).await?,
        format,
        timeout,
    };
    match args.command {
        FleetCommand::Keygen { .. } | FleetCommand::Nkey { .. } => Ok(Exit::Success),
        FleetCommand::Init { replicas } => keys::init(&fleet, replicas).await,
        FleetCommand::Order(command) => issue::order(&fleet, *command, env).await,
        FleetCommand::Status { order } => status::show(&fleet, &order).await,
        FleetCommand::Watch { order } => status::watch(&fleet, &order).await,
        FleetCommand::Cancel { order, signing } => {
            issue::cancel(&fleet, &order, &signing, env).await
        }
        FleetCommand::Hosts => hosts::list(&fleet).await,
    }
}

/// What every command needs that talks to the broker.
struct Fleet {
    broker: Context,
    format: Format,
    timeout: Option<std::time::Duration>,
}

fn settings(
    args: BrokerArgs,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<lvp_bus::Settings, Failure> {
    let path =
        |given: Option<std::path::PathBuf>, name: &str| given.or_else(|| env(name).map(Into::into));
    let servers = match args.nats_url.is_empty() {
        false => args.nats_url,
        true => {
            let text = env("LVP_NATS_URL").unwrap_or_else(|| DEFAULT_URL.to_owned());
            text.split(',').map(|part| part.trim().to_owned()).collect()
        }
    };
    let client_cert = match (
        path(args.nats_cert, "LVP_NATS_CERT"),
        path(args.nats_key, "LVP_NATS_KEY"),
    ) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => {
            return Err(Failure::usage(
                "--nats-cert and --nats-key belong together: give both",
            ));
        }
    };
    let login = match (args.nats_creds, args.nats_nkey) {
        (Some(creds), _) => Some(Login::Creds(creds)),
        (None, Some(nkey)) => Some(Login::Nkey(nkey)),
        (None, None) => {
            let creds = env("LVP_NATS_CREDS").map(|path| Login::Creds(path.into()));
            creds.or_else(|| env("LVP_NATS_NKEY").map(|path| Login::Nkey(path.into())))
        }
    };
    Ok(lvp_bus::Settings {
        servers,
        ca_cert: path(args.nats_ca, "LVP_NATS_CA"),
        client_cert,
        login,
        name: "lvpctl".to_owned(),
        inbox: "_INBOX_lvpctl".to_owned(),
    })
}

async fn broker(settings: &lvp_bus::Settings) -> Result<Context, Failure> {
    let connected = connect(settings, Persistence::Once, |_| {}).await;
    let client = connected.map_err(|error| {
        let exit = match &error {
            ConnectError::Broker { why, .. } if why.to_lowercase().contains("authorization") => {
                Exit::Unauthorized
            }
            ConnectError::Broker { .. } => Exit::Unavailable,
            _ => Exit::Usage,
        };
        Failure::new(exit, error.to_string())
    })?;
    Ok(jetstream::new(client))
}

/// The failure for an error of the broker.
fn failure(error: &BusError) -> Failure {
    let exit = match error {
        BusError::Conflict => Exit::Conflict,
        BusError::NoStream(_) => Exit::NotFound,
        BusError::Timeout(_) => Exit::Timeout,
        BusError::Refused { .. } | BusError::Full { .. } => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

impl Fleet {
    async fn snapshot(&self, stream: &str, filter: &str) -> Result<Vec<Entry>, Failure> {
        let found = snapshot(&self.broker, stream, filter).await;
        found.map_err(|error| failure(&error))
    }

    /// The documents of an order, with their subjects and numbers. They are shown and replaced; who signed them is for
    /// the hosts to verify.
    async fn documents(&self, id: &OrderId) -> Result<Vec<(Entry, Option<Order>)>, Failure> {
        let part = id.part();
        let mut found = Vec::new();
        for middle in ["all", "group.*", "host.*"] {
            let filter = format!("{ORDERS_PREFIX}.{middle}.{part}");
            found.extend(self.snapshot(ORDERS_STREAM, &filter).await?);
        }
        let read = |entry: Entry| {
            let order = envelope::unverified(&entry.payload);
            (entry, order)
        };
        Ok(found.into_iter().map(read).collect())
    }

    /// What hosts say about an order.
    async fn reports(&self, id: &OrderId) -> Result<BTreeMap<HostName, Report>, Failure> {
        let filter = lvp_bus::key_subject(REPORTS_BUCKET, &format!("{}.*", id.part()));
        let entries = self
            .snapshot(&format!("KV_{REPORTS_BUCKET}"), &filter)
            .await?;
        let prefix = lvp_bus::key_subject(REPORTS_BUCKET, "");
        let read = |entry: Entry| {
            let (order, host) = parsed_key(entry.subject.strip_prefix(&prefix)?)?;
            let report: Report = serde_json::from_slice(&entry.payload).ok()?;
            // A host may write under its own key only, so the key says who speaks.
            (order == report.order && host == report.host).then_some((host, report))
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }

    /// What hosts say about themselves.
    async fn hosts(&self) -> Result<BTreeMap<HostName, (Heard, OffsetDateTime)>, Failure> {
        let filter = lvp_bus::key_subject(HOSTS_BUCKET, "*");
        let entries = self
            .snapshot(&format!("KV_{HOSTS_BUCKET}"), &filter)
            .await?;
        let prefix = lvp_bus::key_subject(HOSTS_BUCKET, "");
        let now = OffsetDateTime::now_utc();
        let read = |entry: Entry| {
            let host = HostName::of_part(entry.subject.strip_prefix(&prefix)?).ok()?;
            let report: HostReport = serde_json::from_slice(&entry.payload).ok()?;
            let age_seconds = u64::try_from((now - entry.stored).whole_seconds()).unwrap_or(0);
            let heard = Heard {
                report,
                age_seconds,
            };
            (heard.report.host == host).then_some((host, (heard, entry.stored)))
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }
}

/// The clock, in seconds since 1970.
fn unix_now() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0)
}
