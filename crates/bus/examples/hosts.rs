//! Many hosts in one process, for measuring the broker: each has a connection, a durable consumer and a heartbeat, verifies
//! orders, and reports as a daemon does that fetches an image (`seen`, `running`, two reports of progress, `cached`).
//! Nothing is fetched.
//!
//! `hosts URL COUNT NAME=KEY`: prints a line once all are connected, and ends with its standard input.

use std::time::Duration;

use futures::StreamExt as _;
use lvp_bus::async_nats::HeaderMap;
use lvp_bus::async_nats::jetstream::consumer::{AckPolicy, pull};
use lvp_bus::async_nats::jetstream::{self, Context};
use lvp_bus::connect::{Persistence, Settings, connect};
use lvp_bus::{key_subject, put};
use lvp_fleet::names::{
    HOSTS_BUCKET, ORDERS_PREFIX, ORDERS_STREAM, REPORTS_BUCKET, key_of, subjects_of,
};
use lvp_fleet::{HostName, HostReport, OrderKind, Report, ReportState, Trusted};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long each part of an order takes.
const PAUSE: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, count, trust] = &arguments[..] else {
        return Err("usage: hosts URL COUNT NAME=KEY".into());
    };
    let trust = Trusted::parse(&[trust])?;
    let mut connected = tokio::task::JoinSet::new();
    for number in 0..count.parse::<usize>()? {
        let host: HostName = format!("sim{number:04}").parse()?;
        connected.spawn(host_of(url.clone(), host, trust.clone()));
    }
    while let Some(one) = connected.join_next().await {
        one??;
    }
    tokio::io::AsyncWriteExt::write_all(&mut tokio::io::stdout(), b"all are connected\n").await?;
    tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await?;
    Ok(())
}

/// Connects a host, and lets it go on by itself.
async fn host_of(url: String, host: HostName, trust: Trusted) -> Result<(), Failure> {
    let settings = Settings {
        servers: vec![url],
        name: host.to_string(),
        inbox: format!("_INBOX_lvp.{}", host.part()),
        ..Settings::default()
    };
    let broker = jetstream::new(connect(&settings, Persistence::Forever, |_| {}).await?);
    // A machine that starts a thousand at once is busy.
    while heartbeat(&broker, &host).await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
    let is_new = broker.client().is_server_compatible(2, 10, 0);
    let config = pull::Config {
        durable_name: Some(host.part()),
        ack_policy: AckPolicy::Explicit,
        filter_subject: if is_new {
            String::new()
        } else {
            format!("{ORDERS_PREFIX}.>")
        },
        filter_subjects: if is_new {
            subjects_of(&host, &[])
        } else {
            Vec::new()
        },
        ..pull::Config::default()
    };
    let consumer = loop {
        let made = broker.create_consumer_on_stream(config.clone(), ORDERS_STREAM);
        match made.await {
            Ok(consumer) => break consumer,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    let (beating, beats) = (broker.clone(), host.clone());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(15)).await;
            // The next one says as much.
            heartbeat(&beating, &beats).await.ok();
        }
    });
    tokio::spawn(async move {
        loop {
            let batch = consumer
                .batch()
                .max_messages(32)
                .expires(Duration::from_secs(20));
            let Ok(mut batch) = batch.messages().await else {
                continue;
            };
            while let Some(Ok(message)) = batch.next().await {
                let verified = trust.verify(&message.payload);
                message.ack().await.ok();
                if let Ok(verified) = verified.map(|verified| verified.order)
                    && verified.target.is(&host, &[])
                {
                    tokio::spawn(follow(broker.clone(), host.clone(), verified));
                }
            }
        }
    });
    Ok(())
}

async fn follow(broker: Context, host: HostName, order: lvp_fleet::Order) {
    use ReportState::{Cached, Running, Seen};
    for state in [Seen, Running, Running, Running, Cached] {
        let report = Report {
            bytes_total: 1 << 30,
            ..Report::new(order.id.clone(), order.revision, host.clone(), state, 0)
        };
        let bytes = serde_json::to_vec(&report).unwrap_or_default();
        let subject = key_subject(REPORTS_BUCKET, &key_of(&order.id, &host));
        while put(
            &broker,
            &subject,
            bytes.clone().into(),
            None,
            HeaderMap::new(),
        )
        .await
        .is_err()
        {
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn heartbeat(broker: &Context, host: &HostName) -> Result<(), Failure> {
    let report = HostReport {
        host: host.clone(),
        version: "simulated".to_owned(),
        groups: Vec::new(),
        allow: vec![OrderKind::Prewarm],
        time: 0,
        slots: 2,
        running: 0,
        cache_bytes: 0,
        free_bytes: 0,
        cached: vec![lvp_api::Sha256Digest::new([7; 32]); 20],
        has_more: false,
    };
    let bytes = serde_json::to_vec(&report)?;
    let subject = key_subject(HOSTS_BUCKET, &host.part());
    put(broker, &subject, bytes.into(), None, HeaderMap::new()).await?;
    Ok(())
}
