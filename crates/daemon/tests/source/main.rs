//! Reading images from real servers, with and without faults.

#![expect(
    clippy::unwrap_used,
    reason = "in helpers too, a step that fails is a test that fails"
)]

mod faults;
mod lent;
mod mirrors;
mod opening;
mod reader;
mod servers;
mod stores;
mod tls;
mod versions;
mod ways;
mod web;

use std::future::Future;
use std::time::{Duration, Instant};

use lvp_testkit::s3::{ACCESS_KEY, SECRET_KEY};
use provisioner::secret::Secret;
use provisioner::source::{
    ObjectMeta, RangeOptions, RangeReader, Source, SourceError, SourceErrorKind, SourceSettings,
    Trust,
};

/// Small ranges: a few of them cover a small object.
const RANGE_BYTES: u64 = 64 << 10;
const OPTIONS: RangeOptions = RangeOptions {
    range_bytes: RANGE_BYTES,
    in_flight: 3,
    is_measured: false,
};
/// Deadline for anything that should happen at once, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(10);

/// Settings with three fast repeats and the keys of the test servers.
fn settings(endpoint: &str) -> SourceSettings {
    SourceSettings {
        endpoint: Some(endpoint.to_owned()),
        access_key: Some(ACCESS_KEY.to_owned()),
        secret_key: Some(Secret::new(SECRET_KEY)),
        region: "us-east-1".to_owned(),
        ca_cert: None,
        allowed_hosts: Vec::new(),
        retry_backoff: vec![Duration::from_millis(1); 3],
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(10),
        session_token: None,
        lender: None,
        endpoint_path: provisioner::config::EndpointPath::Keep,
        proxy: None,
        no_proxy: Vec::new(),
        mirrors: Vec::new(),
        parallel_ranges: 4,
        addressing: provisioner::config::Addressing::Path,
        max_read_bytes_per_sec: None,
        trust: Trust::default(),
    }
}

fn source(endpoint: &str) -> Source {
    Source::new(&settings(endpoint)).unwrap()
}

/// Bytes of which no two ranges are alike.
fn pattern(length: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length as usize + 8);
    while (bytes.len() as u64) < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length as usize);
    bytes
}

async fn resolve(source: &Source, url: &str) -> Result<ObjectMeta, SourceError> {
    source.resolve(&source.parse_url(url)?).await
}

/// Reads to the end, or to the first error.
async fn collect(mut reader: RangeReader) -> Result<Vec<u8>, SourceError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next().await {
        let chunk = chunk?;
        assert!(!chunk.is_empty());
        bytes.extend_from_slice(&chunk);
        assert_eq!(reader.position(), bytes.len() as u64);
    }
    Ok(bytes)
}

async fn read_all(source: &Source, url: &str) -> Result<Vec<u8>, SourceError> {
    let meta = resolve(source, url).await?;
    collect(source.read_ranges(&meta, 0..meta.size, OPTIONS)).await
}

fn check_error(error: &SourceError, kind: SourceErrorKind, words: &str) {
    assert_eq!(error.kind(), kind, "{error:?}");
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(text.contains(words), "{text}");
    assert!(!text.contains(SECRET_KEY), "{text}");
}

/// Waits for a condition by polling.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Fails instead of hanging.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it hangs")
}
