//! What this host says about itself, and how it notices that the broker has lost what was said before.

use std::sync::Arc;
use std::time::Duration;

use lvp_bus::async_nats::HeaderMap;
use lvp_bus::async_nats::jetstream::Context;
use lvp_bus::{key_subject, put};
use lvp_fleet::HostReport;
use lvp_fleet::names::HOSTS_BUCKET;
use lvp_fleet::report::{CACHED_MAX, HEARTBEAT_SECONDS};

use super::{Inner, unix_now};
use crate::error::chain;

/// Says it for ever.
pub(super) async fn run(fleet: &Arc<Inner>, broker: &Context) {
    let mut link = fleet.link.subscribe();
    let mut last = 0;
    let mut tick = tokio::time::interval(Duration::from_secs(HEARTBEAT_SECONDS));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            // At once, so that a host that is back is not taken for a silent one.
            changed = link.changed() => if changed.is_err() { return },
        }
        if !link.borrow().is_up {
            continue;
        }
        let subject = key_subject(HOSTS_BUCKET, &fleet.settings.host.part());
        let Ok(bytes) = serde_json::to_vec(&record(fleet).await) else {
            continue;
        };
        match put(broker, &subject, bytes.into(), None, HeaderMap::new()).await {
            Ok(number) => {
                // Numbers only grow, but in a store that was made anew or restored from an older one.
                if number <= last {
                    tracing::warn!(
                        component = "fleet",
                        "The broker has lost what it had: reports are sent again"
                    );
                    fleet.say_all_again().await;
                }
                last = number;
            }
            Err(error) => {
                let error = chain(&error);
                tracing::debug!(
                    component = "fleet",
                    error,
                    "This host's record cannot be sent"
                );
            }
        }
    }
}

async fn record(fleet: &Inner) -> HostReport {
    let services = &fleet.services;
    let limit = u32::try_from(CACHED_MAX).unwrap_or(u32::MAX);
    // What cannot be read is left out: that this host is there is what matters.
    let images = services.cache.list(limit, 0).await.unwrap_or_default();
    let count = services.cache.count().await.unwrap_or_default();
    let usage = services.cache.usage().await.ok();
    let cached: Vec<_> = images
        .iter()
        .filter_map(|image| image.key.parse().ok())
        .collect();
    HostReport {
        host: fleet.settings.host.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        groups: fleet.settings.groups.clone(),
        allow: fleet.settings.allow.clone(),
        time: unix_now(),
        slots: services.settings.max_concurrent as u64,
        running: fleet.jobs.active() as u64,
        cache_bytes: usage.map_or(0, |usage| usage.size_bytes),
        free_bytes: services.cache.free_bytes().await.unwrap_or(0),
        has_more: count > cached.len() as u64,
        cached,
    }
}
