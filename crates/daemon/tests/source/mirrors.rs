//! Caches in front of an object store: nginx with the configuration that is shipped, and mirrors with every fault.

use std::sync::atomic::Ordering;

use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use lvp_testkit::require::require;
use lvp_testkit::s3::S3;
use provisioner::source::{RangeOptions, Source, SourceErrorKind, SourceSettings};

use crate::ways::Proxy;
use crate::{
    OPTIONS, RANGE_BYTES, check_error, collect, pattern, read_all, resolve, settings, soon,
};

const SIZE: u64 = 3 * RANGE_BYTES + 4321;
const URL: &str = "s3://img/k";

/// The shipped configuration as a mirror of this server, on this port, with its files in this directory.
fn shipped(upstream: std::net::SocketAddr) -> impl Fn(u16, &std::path::Path) -> String {
    let text = include_str!("../../../../deploy/mirror/nginx.conf");
    move |port, directory| {
        let directory = directory.display();
        let text = text
            .replace("/var/cache/nginx/lvp", &format!("{directory}/cache"))
            .replace("min_free=10g", "min_free=1m")
            .replace("minio.example.com:9000", &upstream.to_string())
            .replace("listen 8081;", &format!("listen 127.0.0.1:{port};"));
        format!(
            "daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
            events {{}}
            http {{
                client_body_temp_path {directory}/a; proxy_temp_path {directory}/b;
                fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d;
                scgi_temp_path {directory}/e;
                {text}
            }}"
        )
    }
}

fn through(endpoint: &str, mirrors: &[String]) -> Source {
    Source::new(&SourceSettings {
        mirrors: mirrors.to_vec(),
        ..settings(endpoint)
    })
    .unwrap()
}

/// Requests, failures and bytes of each mirror.
fn counts(source: &Source) -> Vec<(u64, u64, u64)> {
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    source
        .mirrors()
        .map(|(_, counters)| {
            let (requests, failures) = (load(&counters.requests), load(&counters.failures));
            (requests, failures, load(&counters.received_bytes))
        })
        .collect()
}

/// Reads an object as a job does: in ranges that follow the measurement.
async fn read_measured(source: &Source, url: &str) -> Vec<u8> {
    let meta = resolve(source, url).await.unwrap();
    let options = source.range_options();
    collect(source.read_ranges(&meta, 0..meta.size, options))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_hosts_behind_nginx_read_the_store_once() {
    if !require("nginx") {
        return;
    }
    // No multiple of a slice.
    let size = (21 << 20) + 4321;
    let image = pattern(size);
    let server = S3::start().await.unwrap();
    server.objects().put("img", "a b+c.img", &image).unwrap();
    let nginx = Proxy::start("nginx", shipped(server.address()), &[]);
    let mirror = nginx.url();
    let url = "s3://img/a b+c.img";
    let sources: Vec<_> = (0..8)
        .map(|_| through(server.endpoint(), std::slice::from_ref(&mirror)))
        .collect();
    // All at once: nothing is in the cache yet.
    let readers = sources.iter().map(|source| read_measured(source, url));
    for bytes in futures::future::join_all(readers).await {
        assert!(bytes == image);
    }
    let sent = server
        .traffic()
        .objects()
        .values()
        .map(|object| object.sent_bytes)
        .sum::<u64>();
    assert!(
        sent >= size && sent <= size + size / 50,
        "the store sent {sent} bytes for {size}"
    );
    for source in &sources {
        let [(requests, 0, bytes)] = counts(source)[..] else {
            panic!("{:?}", counts(source));
        };
        assert_eq!(bytes, size);
        assert!(requests >= 1, "{requests}");
        assert_eq!(source.counters().retries.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_serves_no_old_version_and_nobody_without_the_entity_tag() {
    if !require("nginx") {
        return;
    }
    let server = S3::start().await.unwrap();
    let nginx = Proxy::start("nginx", shipped(server.address()), &[]);
    let source = through(server.endpoint(), &[nginx.url()]);
    for version in 1..=3_u64 {
        let image: Vec<u8> = pattern(SIZE + version).split_off(version as usize);
        server.objects().put("img", "k", &image).unwrap();
        for _ in 0..2 {
            assert!(read_all(&source, URL).await.unwrap() == image);
        }
        let sent = server.traffic().object("img/k").sent_bytes;
        assert_eq!(sent, version * SIZE, "each version once");
    }
    assert_eq!(counts(&source)[0].1, 0, "no failure");
    for (method, headers) in [
        ("GET", &[("Range", "bytes=0-9")][..]),
        ("GET", &[("If-Match", "\"x\"")]),
        ("HEAD", &[("Range", "bytes=0-9"), ("If-Match", "\"x\"")]),
        ("PUT", &[("Range", "bytes=0-9"), ("If-Match", "\"x\"")]),
    ] {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let method = method.parse().unwrap();
        let mut request = client.request(method, format!("{}/img/k", nginx.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 403, "{headers:?}");
    }
    let wrong = through(server.endpoint(), &[nginx.url()]);
    let wrong = Source::new(&SourceSettings {
        secret_key: Some(provisioner::secret::Secret::new("wrong")),
        mirrors: wrong.mirrors().map(|(url, _)| url.to_owned()).collect(),
        ..settings(server.endpoint())
    })
    .unwrap();
    let refused = read_all(&wrong, URL).await.unwrap_err();
    check_error(&refused, SourceErrorKind::AccessDenied, "");
    assert_eq!(counts(&wrong), [(0, 0, 0)], "the store is asked first");
}

struct Mirrored {
    server: S3,
    mirror: FaultProxy,
    source: Source,
    image: Vec<u8>,
}

impl Mirrored {
    /// A mirror that passes everything on.
    async fn new() -> Self {
        let server = S3::start().await.unwrap();
        let image = pattern(SIZE);
        server.objects().put("img", "k", &image).unwrap();
        let mirror = FaultProxy::start(server.address()).await.unwrap();
        let source = through(server.endpoint(), &[mirror.endpoint()]);
        Self {
            server,
            mirror,
            source,
            image,
        }
    }

    async fn reads(&self) {
        let read = soon(read_all(&self.source, URL)).await;
        assert!(read.unwrap() == self.image);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gets_what_the_endpoint_would_get() {
    let world = Mirrored::new().await;
    world.reads().await;
    let requests = world.mirror.requests();
    assert_eq!(requests.len(), 4);
    for request in requests {
        assert_eq!(request.method, "GET");
        assert_eq!(request.target, "/img/k");
        let host = world.server.address().to_string();
        assert_eq!(request.header("host"), Some(host.as_str()));
        assert!(request.header("if-match").is_some());
        assert!(request.header("authorization").is_some());
    }
    assert_eq!(counts(&world.source), [(4, 0, SIZE)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_mirror_does_wrong_the_bytes_are_right() {
    let other = pattern(2 * SIZE).split_off(SIZE as usize);
    for (fault, rests) in [
        (Fault::Reset, true),
        (Fault::CutAt(1000), true),
        (Fault::ShortBody(1000), false),
        (status(503), true),
        (status(502), true),
        (status(429), true),
        (status(403), false),
        (status(404), false),
        (status(412), false),
        (Fault::Redirect("http://127.0.0.1:9/".to_owned()), false),
        (Fault::IgnoreRange, false),
        (Fault::NoHeader("etag"), false),
        (Fault::Header("etag", "\"another\"".to_owned()), false),
        (
            Fault::Header("content-range", "bytes 5-9/10".to_owned()),
            false,
        ),
    ] {
        let world = Mirrored::new().await;
        world.mirror.inject(Rule::new(fault.clone()));
        world.reads().await;
        let [(requests, failures, _)] = counts(&world.source)[..] else {
            panic!("one mirror");
        };
        // At most once for each range, of which there are four.
        assert!((1..=4).contains(&failures), "{fault:?}: {failures}");
        assert_eq!(requests, failures, "{fault:?}");
        assert_eq!(
            world.source.counters().retries.load(Ordering::Relaxed),
            0,
            "{fault:?}"
        );
        // The next image.
        world.server.objects().put("img", "l", &other).unwrap();
        world.mirror.clear();
        let next = world.source.observed(std::sync::Arc::new(Nobody));
        assert!(soon(read_all(&next, "s3://img/l")).await.unwrap() == other);
        assert_eq!(world.mirror.requests().is_empty(), rests, "{fault:?}");
    }
}

fn status(status: u16) -> Fault {
    Fault::Status {
        status,
        retry_after: None,
        code: None,
    }
}

#[derive(Debug)]
struct Nobody;

impl provisioner::source::Observer for Nobody {
    fn asked(&self) {}

    fn failing(
        &self,
        _: provisioner::source::RequestId,
        _: u32,
        _: &provisioner::source::SourceError,
        _: std::time::Duration,
    ) {
    }

    fn recovered(&self, _: provisioner::source::RequestId) {}

    fn gave_up(&self, _: provisioner::source::RequestId) {}

    fn waited(&self, _: provisioner::source::WaitReason, _: std::time::Duration) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_a_mirror_cuts_is_continued_at_the_byte() {
    let world = Mirrored::new().await;
    world.mirror.inject(
        Rule::new(Fault::CutAt(1000))
            .range_from(RANGE_BYTES)
            .times(1),
    );
    // One range after the other.
    let meta = resolve(&world.source, URL).await.unwrap();
    let options = RangeOptions {
        in_flight: 1,
        ..OPTIONS
    };
    let before = world.server.traffic().object("img/k").sent_bytes;
    let reader = world.source.read_ranges(&meta, 0..SIZE, options);
    assert!(soon(collect(reader)).await.unwrap() == world.image);
    let [(2, 1, bytes)] = counts(&world.source)[..] else {
        panic!("{:?}", counts(&world.source));
    };
    assert_eq!(bytes, RANGE_BYTES + 1000);
    // What the cut answer had in flight is not read by anybody.
    assert!(world.server.traffic().object("img/k").sent_bytes >= before + SIZE);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_in_their_order_and_then_the_endpoint() {
    let world = Mirrored::new().await;
    let second = FaultProxy::start(world.server.address()).await.unwrap();
    let mirrors = [
        "http://127.0.0.1:9".to_owned(),
        world.mirror.endpoint(),
        second.endpoint(),
    ];
    let source = through(world.server.endpoint(), &mirrors);
    world.mirror.inject(Rule::new(status(404)).range_from(0));
    let meta = resolve(&source, URL).await.unwrap();
    let options = RangeOptions {
        in_flight: 1,
        ..OPTIONS
    };
    let reader = source.read_ranges(&meta, 0..SIZE, options);
    assert!(soon(collect(reader)).await.unwrap() == world.image);
    assert_eq!(counts(&source), [(1, 1, 0), (1, 1, 0), (4, 0, SIZE)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_without_a_strong_tag_come_from_the_endpoint() {
    for rule in [
        Rule::new(Fault::NoHeader("etag")),
        Rule::new(Fault::Header("etag", "W/\"weak\"".to_owned())),
    ] {
        let world = Mirrored::new().await;
        let endpoint = FaultProxy::start(world.server.address()).await.unwrap();
        endpoint.inject(rule);
        let source = through(&endpoint.endpoint(), &[world.mirror.endpoint()]);
        let meta = resolve(&source, URL).await.unwrap();
        assert!(soon(collect(source.read_once(&meta))).await.unwrap() == world.image);
        assert!(world.mirror.requests().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_with_wrong_bytes_is_avoided_and_blamed() {
    let world = Mirrored::new().await;
    world.mirror.inject(Rule::new(Fault::WrongByte(7)));
    let job = world.source.observed(std::sync::Arc::new(Nobody));
    assert!(!job.used_mirrors() && !job.avoid_mirrors());
    assert!(soon(read_all(&job, URL)).await.unwrap() != world.image);
    assert!(job.used_mirrors());
    assert!(job.avoid_mirrors() && !job.avoid_mirrors());
    let before = counts(&job);
    assert!(soon(read_all(&job, URL)).await.unwrap() == world.image);
    assert_eq!(counts(&job), before, "the mirror is not asked again");
    // Others ask it until it is known whose fault it was.
    let other = world.source.observed(std::sync::Arc::new(Nobody));
    let mut range = other.read_ranges(&resolve(&other, URL).await.unwrap(), 0..1, OPTIONS);
    range.next().await.unwrap().unwrap();
    assert_eq!(counts(&job)[0].0, before[0].0 + 1);
    // A range that began before the blame, and whose bytes come after it, does not end the rest.
    let begun = world.source.observed(std::sync::Arc::new(Nobody));
    let meta = resolve(&begun, URL).await.unwrap();
    let options = RangeOptions {
        in_flight: 1,
        ..OPTIONS
    };
    world.mirror.clear();
    world.mirror.inject(Rule::new(Fault::Slow(20_000)));
    let mut slow = begun.read_ranges(&meta, 0..RANGE_BYTES, options);
    slow.next().await.unwrap().unwrap();
    job.blame_mirrors();
    slow.next().await.unwrap().unwrap();
    drop(slow);
    let before = counts(&job);
    let other = world.source.observed(std::sync::Arc::new(Nobody));
    assert!(soon(read_all(&other, URL)).await.unwrap() == world.image);
    assert_eq!(counts(&job)[0].0, before[0].0, "it rests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_trickles_is_left() {
    let world = Mirrored::new().await;
    world.mirror.inject(Rule::new(Fault::Slow(1000)));
    let read = tokio::time::timeout(
        std::time::Duration::from_secs(45),
        read_all(&world.source, URL),
    );
    assert!(read.await.expect("it would take minutes").unwrap() == world.image);
    let [(requests, failures, bytes)] = counts(&world.source)[..] else {
        panic!("one mirror");
    };
    assert_eq!(requests, failures);
    assert!(bytes < 200_000, "{bytes}");
    assert_eq!(world.source.counters().retries.load(Ordering::Relaxed), 0);
}
