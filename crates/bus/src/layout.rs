//! The stream and the buckets, with their limits.

use std::time::Duration;

use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, stream};
use lvp_fleet::envelope::MESSAGE_MAX;
use lvp_fleet::names::{HOSTS_BUCKET, ORDERS_PREFIX, ORDERS_STREAM, REPORTS_BUCKET, WAVES_BUCKET};

use crate::{BusError, refused};

/// How long orders and what was said about them are kept.
pub const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Most bytes of all orders: an order to a thousand hosts by name has some MiB.
const ORDERS_MAX_BYTES: i64 = 256 << 20; // 256 MiB

/// Most bytes of all reports: one has about 400, so this is a million of them. A server reserves what its streams may
/// take, so these limits decide what it needs: 1.1 GiB in all.
const REPORTS_MAX_BYTES: i64 = 512 << 20; // 512 MiB

/// Most bytes of all hosts' records: four thousand of the largest.
const HOSTS_MAX_BYTES: i64 = 256 << 20; // 256 MiB

/// Most bytes of all claims: one has about 100.
const WAVES_MAX_BYTES: i64 = 128 << 20; // 128 MiB

/// Largest report: its reason is bounded.
const REPORT_MAX_BYTES: i32 = 16 << 10; // 16 KiB

/// Largest record of a host: a thousand digests.
const HOST_MAX_BYTES: i32 = 128 << 10; // 128 KiB

/// Largest claim.
const CLAIM_MAX_BYTES: i32 = 1 << 10; // 1 KiB

/// Most consumers of a stream: each host has one, and so has each command of lvpctl while it reads. Since 2.15, servers allow a
/// thousand unless a stream says otherwise, and let that be changed; before, they had no limit.
const CONSUMERS_MAX: i32 = 100_000;

/// Makes what is absent, and brings what is there to these limits. Returns the names.
pub async fn create(broker: &Context, replicas: usize) -> Result<Vec<String>, BusError> {
    let max_consumers = match broker.client().is_server_compatible(2, 15, 0) {
        true => CONSUMERS_MAX,
        false => -1,
    };
    let orders = stream::Config {
        name: ORDERS_STREAM.to_owned(),
        description: Some("Orders to the fleet, one message for each order and target".to_owned()),
        subjects: vec![format!("{ORDERS_PREFIX}.>")],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        // A new revision replaces the one before.
        max_messages_per_subject: 1,
        max_bytes: ORDERS_MAX_BYTES,
        max_consumers,
        max_age: KEPT,
        max_message_size: i32::try_from(MESSAGE_MAX).unwrap_or(i32::MAX),
        // A full stream refuses new orders: whoever issues one is told, and no older one is lost.
        discard: DiscardPolicy::New,
        num_replicas: replicas,
        allow_direct: true,
        ..stream::Config::default()
    };
    let made = broker.create_or_update_stream(orders).await;
    made.map_err(|error| refused(ORDERS_STREAM, &error))?;
    let mut names = vec![ORDERS_STREAM.to_owned()];
    for (bucket, description, max_bytes, max_message_size) in [
        (
            REPORTS_BUCKET,
            "What hosts say about orders, by ORDER.HOST",
            REPORTS_MAX_BYTES,
            REPORT_MAX_BYTES,
        ),
        (
            HOSTS_BUCKET,
            "What hosts say about themselves, by HOST",
            HOSTS_MAX_BYTES,
            HOST_MAX_BYTES,
        ),
        (
            WAVES_BUCKET,
            "Hosts' claims on places in waves, by ORDER.HOST",
            WAVES_MAX_BYTES,
            CLAIM_MAX_BYTES,
        ),
    ] {
        // What every client of NATS takes for a bucket (ADR-8 of its design).
        let config = stream::Config {
            name: format!("KV_{bucket}"),
            description: Some(description.to_owned()),
            subjects: vec![crate::key_subject(bucket, ">")],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            max_messages_per_subject: 1,
            max_bytes,
            max_consumers,
            max_age: KEPT,
            max_message_size,
            discard: DiscardPolicy::New,
            num_replicas: replicas,
            // A roll-up would let whoever may write one key remove all of them. So keys are purged by the stream's API only,
            // for which hosts have no permission.
            allow_rollup: false,
            deny_delete: true,
            allow_direct: true,
            ..stream::Config::default()
        };
        let made = broker.create_or_update_stream(config).await;
        made.map_err(|error| refused(bucket, &error))?;
        names.push(format!("KV_{bucket}"));
    }
    Ok(names)
}
