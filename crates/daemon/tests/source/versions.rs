//! Servers that do not distinguish versions, and answers that are longer than they should be.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use lvp_testkit::s3::S3;
use provisioner::source::{ObjectMeta, RangeOptions, Source, SourceErrorKind};

use super::{OPTIONS, RANGE_BYTES, check_error, collect, pattern, resolve, soon, source};

const SIZE: u64 = 3 * RANGE_BYTES + 4321;

struct Setup {
    server: S3,
    proxy: FaultProxy,
    source: Source,
}

impl Setup {
    async fn new() -> Self {
        let server = S3::start().await.unwrap();
        server.objects().put("img", "k", &pattern(SIZE)).unwrap();
        let proxy = FaultProxy::start(server.address()).await.unwrap();
        Self {
            source: source(&proxy.endpoint()),
            server,
            proxy,
        }
    }

    async fn resolve(&self) -> ObjectMeta {
        self.proxy.clear();
        let meta = resolve(&self.source, "s3://img/k").await.unwrap();
        self.proxy.clear();
        meta
    }
}

fn status(status: u16) -> Fault {
    Fault::Status {
        status,
        retry_after: None,
        code: None,
    }
}

#[tokio::test]
async fn an_object_that_is_read_once_is_requested_once_and_whole() {
    let setup = Setup::new().await;
    let meta = setup.resolve().await;
    let found = soon(collect(setup.source.read_once(&meta))).await.unwrap();
    assert!(found == pattern(SIZE));
    let requests = setup.proxy.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("range"), None);
}

#[tokio::test]
async fn an_object_that_is_read_once_is_requested_again_only_before_its_first_byte() {
    let setup = Setup::new().await;
    let meta = setup.resolve().await;
    for fault in [Fault::Reset, Fault::CutAt(0), status(503)] {
        setup.proxy.clear();
        setup.proxy.inject(Rule::new(fault.clone()).times(1));
        let found = soon(collect(setup.source.read_once(&meta))).await;
        assert!(found.unwrap() == pattern(SIZE), "{fault:?}");
        assert_eq!(setup.proxy.requests().len(), 2, "{fault:?}");
    }
    for at in [1, RANGE_BYTES, SIZE - 1] {
        setup.proxy.clear();
        setup.proxy.inject(Rule::new(Fault::CutAt(at)).times(1));
        let error = soon(collect(setup.source.read_once(&meta))).await;
        check_error(
            &error.unwrap_err(),
            SourceErrorKind::Unavailable,
            "without a strong ETag",
        );
        assert_eq!(setup.proxy.requests().len(), 1, "cut at {at}");
    }
}

#[tokio::test]
async fn a_range_with_too_long_a_body_is_never_cut_to_fit() {
    let setup = Setup::new().await;
    let meta = setup.resolve().await;
    let read = || soon(collect(setup.source.read_ranges(&meta, 0..SIZE, OPTIONS)));
    for length in [1000, 1 << 20] {
        for range in (0..4).rev() {
            let with = |extra| {
                let chunked = Fault::Chunked { length, extra };
                Rule::new(chunked).range_from(range * RANGE_BYTES)
            };
            setup.proxy.clear();
            setup.proxy.inject(with(0));
            assert!(read().await.unwrap() == pattern(SIZE), "without a length");
            setup.proxy.clear();
            setup.proxy.inject(with(1));
            let error = read().await.unwrap_err();
            check_error(
                &error,
                SourceErrorKind::Protocol,
                "more bytes than were requested",
            );
        }
    }
}

#[tokio::test]
async fn a_whole_object_that_is_longer_than_announced_is_never_cut_to_fit() {
    let setup = Setup::new().await;
    let meta = setup.resolve().await;
    let whole = |fault| Rule::new(fault).when(|request| request.range_start.is_none());
    let too_long = [
        Fault::LongLength(1),
        Fault::Chunked {
            length: 1000,
            extra: 1,
        },
        Fault::Chunked {
            length: 1 << 20,
            extra: 70_000,
        },
    ];
    for fault in too_long {
        setup.proxy.clear();
        setup.proxy.inject(whole(fault.clone()));
        let error = soon(collect(setup.source.read_once(&meta))).await;
        let error = error.unwrap_err();
        check_error(&error, SourceErrorKind::ObjectChanged, "bytes");
        // The same of a server that ignores ranges.
        setup.proxy.inject(Rule::new(Fault::IgnoreRange));
        let reader = setup.source.read_ranges(&meta, 0..SIZE, OPTIONS);
        let error = soon(collect(reader)).await.unwrap_err();
        check_error(&error, SourceErrorKind::ObjectChanged, "bytes");
    }
    setup.proxy.clear();
    setup.proxy.inject(whole(Fault::Chunked {
        length: 1000,
        extra: 0,
    }));
    let found = soon(collect(setup.source.read_once(&meta))).await.unwrap();
    assert!(found == pattern(SIZE));
}

#[tokio::test]
async fn a_part_of_an_object_can_be_read_from_a_server_that_ignores_ranges() {
    let setup = Setup::new().await;
    let meta = setup.resolve().await;
    setup.proxy.inject(Rule::new(Fault::IgnoreRange));
    let (start, end) = (RANGE_BYTES + 7, 2 * RANGE_BYTES + 9);
    let mut reader = setup.source.read_ranges(&meta, start..end, OPTIONS);
    let mut found = Vec::new();
    while let Some(chunk) = soon(reader.next()).await {
        found.extend_from_slice(&chunk.unwrap());
    }
    assert!(found == pattern(SIZE)[start as usize..end as usize]);
}

#[tokio::test]
async fn bytes_that_come_in_tiny_chunks_arrive_whole() {
    let setup = Setup::new().await;
    let meta = setup.resolve().await;
    setup.proxy.inject(Rule::new(Fault::Chunked {
        length: 3,
        extra: 0,
    }));
    let received = || {
        let counters = setup.source.counters();
        counters.received_bytes.load(Ordering::SeqCst)
    };
    let before = received();
    let mut reader = setup.source.read_ranges(&meta, 0..SIZE, OPTIONS);
    let mut found = soon(reader.next()).await.unwrap().unwrap().to_vec();
    // Everything that may be in flight is in flight before reading continues.
    super::eventually("three ranges arrive", || {
        received() - before == 3 * RANGE_BYTES
    })
    .await;
    while let Some(chunk) = soon(reader.next()).await {
        found.extend_from_slice(&chunk.unwrap());
    }
    assert!(found == pattern(SIZE));
}

/// Memory of this process that is not shared, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_come_in_tiny_chunks_take_little_more_memory_than_the_ranges_have() {
    const DEADLINE: Duration = Duration::from_secs(120);
    let options = RangeOptions {
        range_bytes: 1 << 20,
        ..RangeOptions::default()
    };
    // The first range stalls, so that the others have to be kept.
    let kept = options.range_bytes * (options.in_flight as u64 - 1);
    let size = options.range_bytes + kept;
    let setup = Setup::new().await;
    let objects = setup.server.objects();
    objects.put("img", "k", &pattern(size)).unwrap();
    let meta = setup.resolve().await;
    setup
        .proxy
        .inject(Rule::new(Fault::StallAt(0)).range_from(0));
    setup.proxy.inject(Rule::new(Fault::Chunked {
        length: 4,
        extra: 0,
    }));
    let received = || {
        let counters = setup.source.counters();
        counters.received_bytes.load(Ordering::SeqCst)
    };
    let before = (received(), memory());
    let mut reader = setup.source.read_ranges(&meta, 0..size, options);
    let reading = tokio::spawn(async move { reader.next().await.is_none() });
    let start = Instant::now();
    while received() - before.0 < kept {
        assert!(start.elapsed() < DEADLINE, "{} bytes came", received());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let taken = memory().saturating_sub(before.1);
    reading.abort();
    // Room for the proxy and the server, which are in this process too.
    assert!(
        taken < kept + (16 << 20),
        "{} MiB for {} MiB",
        taken >> 20,
        kept >> 20
    );
}
