//! Every way in which a server and a network fail, at every range.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use lvp_testkit::s3::S3;
use provisioner::source::{ObjectMeta, RangeOptions, Source, SourceErrorKind, SourceSettings};

use super::{
    OPTIONS, RANGE_BYTES, check_error, collect, eventually, pattern, read_all, resolve, settings,
    soon, source,
};

const RANGES: u64 = 4;
/// The last range is an odd one.
const SIZE: u64 = 3 * RANGE_BYTES + 4321;
const URL: &str = "s3://img/k";

struct Setup {
    server: S3,
    proxy: FaultProxy,
    source: Source,
    meta: ObjectMeta,
}

impl Setup {
    async fn new() -> Self {
        Self::with(|settings| settings).await
    }

    async fn with(change: impl FnOnce(SourceSettings) -> SourceSettings) -> Self {
        let server = S3::start().await.unwrap();
        server.objects().put("img", "k", &pattern(SIZE)).unwrap();
        let proxy = FaultProxy::start(server.address()).await.unwrap();
        let source = Source::new(&change(settings(&proxy.endpoint()))).unwrap();
        let meta = resolve(&source, URL).await.unwrap();
        proxy.clear();
        Self {
            server,
            proxy,
            source,
            meta,
        }
    }

    async fn read(&self) -> Result<Vec<u8>, provisioner::source::SourceError> {
        let reader = self.source.read_ranges(&self.meta, 0..SIZE, OPTIONS);
        soon(collect(reader)).await
    }

    /// How often the range that begins at this byte was asked for.
    fn asked(&self, start: u64) -> usize {
        let requests = self.proxy.requests();
        requests
            .iter()
            .filter(|request| request.range_start == Some(start))
            .count()
    }
}

/// From the last to the first: requests that an error left under way are for later ranges, and
/// must not be counted in the next case.
fn ranges() -> impl Iterator<Item = u64> {
    (0..RANGES).rev()
}

fn status(status: u16) -> Fault {
    Fault::Status {
        status,
        retry_after: None,
        code: None,
    }
}

/// What passes: the same request may work a moment later.
fn passing_faults() -> Vec<Fault> {
    vec![
        Fault::Reset,
        Fault::CutAt(0),
        Fault::CutAt(1000),
        Fault::CutAt(4320),
        Fault::StallAt(0),
        Fault::StallAt(1000),
        Fault::ShortBody(0),
        Fault::ShortBody(1000),
        Fault::LongLength(10),
        Fault::Header("content-range", format!("bytes 1-2/{SIZE}")),
        Fault::Header("content-range", "nonsense".to_owned()),
        Fault::NoHeader("content-range"),
        Fault::NoHeader("etag"),
        status(408),
        status(429),
        status(500),
        status(502),
        status(503),
        status(504),
    ]
}

/// Silence is noticed soon in these tests.
fn impatient(settings: SourceSettings) -> SourceSettings {
    SourceSettings {
        idle_timeout: Duration::from_millis(300),
        ..settings
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fault_of_any_kind_at_any_range_leaves_the_bytes_exact() {
    let setup = Setup::with(impatient).await;
    for fault in passing_faults() {
        for range in ranges() {
            setup.proxy.clear();
            let rule = Rule::new(fault.clone()).range_from(range * RANGE_BYTES);
            setup.proxy.inject(rule.times(1));
            let found = setup.read().await;
            let found = found.unwrap_or_else(|error| panic!("{fault:?} at {range}: {error:?}"));
            assert!(found == pattern(SIZE), "{fault:?} at range {range}");
            assert_eq!(setup.proxy.injected(), 1, "{fault:?} at range {range}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_at_every_range_at_once_are_survived_within_each_ones_budget() {
    let setup = Setup::with(impatient).await;
    let retries = |setup: &Setup| setup.source.counters().retries.load(Ordering::SeqCst);
    let before = retries(&setup);
    for range in ranges() {
        for (fault, offset) in [
            (Fault::CutAt(1000), 0),
            (status(503), 1000),
            (Fault::CutAt(500), 1000),
        ] {
            let rule = Rule::new(fault).range_from(range * RANGE_BYTES + offset);
            setup.proxy.inject(rule.times(1));
        }
    }
    assert!(setup.read().await.unwrap() == pattern(SIZE));
    assert_eq!(retries(&setup) - before, 3 * RANGES);
}

#[tokio::test]
async fn a_cut_range_goes_on_at_the_exact_byte_under_the_same_tag() {
    let setup = Setup::new().await;
    let rule = Rule::new(Fault::CutAt(1000)).range_from(RANGE_BYTES);
    setup.proxy.inject(rule);
    assert!(setup.read().await.unwrap() == pattern(SIZE));
    assert_eq!(setup.asked(RANGE_BYTES), 1);
    assert_eq!(setup.asked(RANGE_BYTES + 1000), 1);
    for request in setup.proxy.requests() {
        assert_eq!(request.header("if-match"), setup.meta.etag.as_deref());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_that_stays_fails_after_the_ranges_own_budget() {
    let setup = Setup::with(impatient).await;
    for (fault, kind) in [
        (Fault::Reset, SourceErrorKind::Unavailable),
        (Fault::CutAt(0), SourceErrorKind::Unavailable),
        (Fault::StallAt(0), SourceErrorKind::Unavailable),
        (Fault::ShortBody(0), SourceErrorKind::Protocol),
        (status(503), SourceErrorKind::Unavailable),
        (status(429), SourceErrorKind::Unavailable),
        (Fault::NoHeader("content-range"), SourceErrorKind::Protocol),
    ] {
        for range in ranges() {
            setup.proxy.clear();
            let start = range * RANGE_BYTES;
            setup
                .proxy
                .inject(Rule::new(fault.clone()).range_from(start));
            let error = setup.read().await.expect_err("the fault stays");
            check_error(&error, kind, "(after 4 attempts)");
            assert_eq!(error.attempts(), 4, "{fault:?} at range {range}");
            assert_eq!(setup.asked(start), 4, "{fault:?} at range {range}");
            assert_eq!(error.is_transient(), kind == SourceErrorKind::Unavailable);
        }
    }
}

#[tokio::test]
async fn final_answers_are_not_asked_for_again() {
    let setup = Setup::new().await;
    for (code, kind) in [
        (400, SourceErrorKind::Protocol),
        (401, SourceErrorKind::AccessDenied),
        (403, SourceErrorKind::AccessDenied),
        (404, SourceErrorKind::NotFound),
        (405, SourceErrorKind::Protocol),
        (412, SourceErrorKind::ObjectChanged),
        (416, SourceErrorKind::ObjectChanged),
    ] {
        for range in ranges() {
            setup.proxy.clear();
            let start = range * RANGE_BYTES;
            setup
                .proxy
                .inject(Rule::new(status(code)).range_from(start));
            let error = setup.read().await.expect_err("the answer is final");
            check_error(&error, kind, &code.to_string());
            assert_eq!((error.status(), error.attempts()), (Some(code), 1));
            assert_eq!(setup.asked(start), 1);
        }
    }
}

#[tokio::test]
async fn another_version_is_told_at_every_range_even_if_the_server_ignores_conditions() {
    let setup = Setup::new().await;
    let other_tag = Fault::Header("etag", "\"other\"".to_owned());
    let other_size =
        |start: u64| Fault::Header("content-range", format!("bytes {start}-{start}/9999999"));
    for range in ranges() {
        let start = range * RANGE_BYTES;
        for fault in [other_tag.clone(), other_size(start)] {
            setup.proxy.clear();
            setup.proxy.inject(Rule::new(fault).range_from(start));
            let error = setup.read().await.expect_err("the version changed");
            check_error(&error, SourceErrorKind::ObjectChanged, "replaced");
            assert_eq!(setup.asked(start), 1);
        }
    }
}

#[tokio::test]
async fn a_replacement_is_noticed_when_a_cut_range_goes_on() {
    let setup = Setup::new().await;
    setup
        .proxy
        .inject(Rule::new(Fault::StallAt(1000)).range_from(0));
    let options = RangeOptions {
        in_flight: 1,
        ..OPTIONS
    };
    let mut reader = setup.source.read_ranges(&setup.meta, 0..SIZE, options);
    reader.next().await.unwrap().unwrap();
    setup
        .server
        .objects()
        .put("img", "k", &vec![7; SIZE as usize])
        .unwrap();
    setup.proxy.go_down().await;
    setup.proxy.come_up().await.unwrap();
    let error = loop {
        if let Err(error) = soon(reader.next()).await.unwrap() {
            break error;
        }
    };
    check_error(&error, SourceErrorKind::ObjectChanged, "412");
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_on_one_connection() {
    let setup = Setup::new().await;
    for range in ranges() {
        setup.proxy.clear();
        // Its head works, then a proxy in between begins to strip the header.
        let later = move |start: Option<u64>| start.is_some_and(|at| at >= range * RANGE_BYTES);
        let rule = Rule::new(Fault::IgnoreRange).when(move |request| later(request.range_start));
        setup.proxy.inject(rule);
        assert!(
            setup.read().await.unwrap() == pattern(SIZE),
            "range {range}"
        );
        let whole = |request: &&lvp_testkit::fault::Request| request.range_start.is_none();
        assert_eq!(setup.proxy.requests().iter().filter(whole).count(), 1);
    }
}

#[tokio::test]
async fn a_whole_object_answer_that_is_cut_begins_again_and_repeats_nothing() {
    let setup = Setup::new().await;
    let whole = |fault| Rule::new(fault).when(|request| request.range_start.is_none());
    setup
        .proxy
        .inject(whole(Fault::CutAt(RANGE_BYTES + 77)).times(1));
    setup.proxy.inject(whole(Fault::CutAt(100)).times(1));
    setup.proxy.inject(whole(Fault::CutAt(SIZE - 1)).times(1));
    setup.proxy.inject(Rule::new(Fault::IgnoreRange));
    assert!(setup.read().await.unwrap() == pattern(SIZE));

    setup.proxy.clear();
    setup
        .proxy
        .inject(whole(Fault::Header("etag", "\"other\"".to_owned())));
    setup.proxy.inject(Rule::new(Fault::IgnoreRange));
    let error = setup.read().await.expect_err("the version changed");
    check_error(&error, SourceErrorKind::ObjectChanged, "etag");
}

#[tokio::test]
async fn wrong_bytes_arrive_as_they_are_for_the_digest_to_catch() {
    let setup = Setup::new().await;
    setup
        .proxy
        .inject(Rule::new(Fault::WrongByte(7)).range_from(RANGE_BYTES));
    let mut expected = pattern(SIZE);
    expected[RANGE_BYTES as usize + 7] ^= 0xff;
    assert!(setup.read().await.unwrap() == expected);
}

#[tokio::test]
async fn a_slow_server_is_waited_for_while_bytes_come() {
    let setup = Setup::with(|settings| SourceSettings {
        idle_timeout: Duration::from_millis(800),
        ..settings
    })
    .await;
    setup
        .proxy
        .inject(Rule::new(Fault::Slow(40_000)).range_from(0));
    let start = Instant::now();
    assert!(setup.read().await.unwrap() == pattern(SIZE));
    assert!(start.elapsed() > Duration::from_millis(800));
    assert_eq!(setup.asked(0), 1);
}

#[tokio::test]
async fn the_servers_own_wish_for_a_pause_is_honoured() {
    let setup = Setup::new().await;
    for code in [429, 503] {
        setup.proxy.clear();
        let pause = Fault::Status {
            status: code,
            retry_after: Some("1".to_owned()),
            code: Some("SlowDown".to_owned()),
        };
        setup.proxy.inject(Rule::new(pause).range_from(0).times(1));
        let start = Instant::now();
        assert!(setup.read().await.unwrap() == pattern(SIZE));
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test]
async fn resolving_and_sidecars_have_a_budget_too() {
    let setup = Setup::new().await;
    setup.server.objects().put_sidecar("img", "k").unwrap();
    let url = setup.source.parse_url(URL).unwrap();
    for fault in [Fault::Reset, status(500), status(429)] {
        setup.proxy.clear();
        setup.proxy.inject(Rule::new(fault.clone()).times(3));
        assert_eq!(setup.source.resolve(&url).await.unwrap().size, SIZE);
        setup.proxy.clear();
        setup.proxy.inject(Rule::new(fault.clone()).times(3));
        assert!(!setup.source.checksums(&url, None).await.unwrap().is_empty());
        setup.proxy.clear();
        setup.proxy.inject(Rule::new(fault));
        let error = setup.source.resolve(&url).await.unwrap_err();
        assert_eq!((error.attempts(), error.is_transient()), (4, true));
        let error = setup.source.checksums(&url, None).await.unwrap_err();
        assert_eq!((error.attempts(), error.is_transient()), (4, true));
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_told_and_one_that_returns_is_used() {
    let setup = Setup::with(|settings| SourceSettings {
        retry_backoff: vec![Duration::from_millis(50); 100],
        ..settings
    })
    .await;
    setup.proxy.go_down().await;
    let impatient = source(&setup.proxy.endpoint());
    let error = soon(resolve(&impatient, URL)).await.unwrap_err();
    check_error(&error, SourceErrorKind::Unavailable, "minio.endpoint");
    assert_eq!(error.attempts(), 4);
    let error = impatient.probe().await.unwrap_err();
    assert!(error.is_transient());

    let patient = setup.source.clone();
    let reading = tokio::spawn(async move { read_all(&patient, URL).await });
    let retries = || setup.source.counters().retries.load(Ordering::SeqCst);
    eventually("it tries again", || retries() > 1).await;
    setup.proxy.come_up().await.unwrap();
    assert!(soon(reading).await.unwrap().unwrap() == pattern(SIZE));
    impatient.probe().await.unwrap();
}

#[tokio::test]
async fn credentials_that_may_only_get_objects_are_fine() {
    let setup = Setup::new().await;
    let answer = |status, code: &str| Fault::Status {
        status,
        retry_after: None,
        code: Some(code.to_owned()),
    };
    for fault in [
        answer(403, "AccessDenied"),
        answer(501, "NotImplemented"),
        answer(405, "MethodNotAllowed"),
    ] {
        setup.proxy.clear();
        setup.proxy.inject(Rule::new(fault));
        setup.source.probe().await.unwrap();
    }
    for (fault, kind, words) in [
        (
            answer(403, "SignatureDoesNotMatch"),
            SourceErrorKind::AccessDenied,
            "minio.secret_key",
        ),
        (
            answer(403, "InvalidAccessKeyId"),
            SourceErrorKind::AccessDenied,
            "minio.access_key",
        ),
        (
            answer(403, "RequestTimeTooSkewed"),
            SourceErrorKind::AccessDenied,
            "clock",
        ),
        (
            answer(400, "AuthorizationHeaderMalformed"),
            SourceErrorKind::AccessDenied,
            "minio.region",
        ),
        (status(403), SourceErrorKind::AccessDenied, "403"),
        (status(500), SourceErrorKind::Unavailable, "500"),
        (Fault::Reset, SourceErrorKind::Unavailable, "broke"),
    ] {
        setup.proxy.clear();
        setup.proxy.inject(Rule::new(fault));
        let error = setup.source.probe().await.unwrap_err();
        check_error(&error, kind, words);
        assert_eq!(setup.proxy.requests().len(), 1, "a probe is one request");
    }
}

#[tokio::test]
async fn a_sidecar_that_may_not_be_seen_is_an_error_and_not_absent() {
    let setup = Setup::new().await;
    let denied = Fault::Status {
        status: 403,
        retry_after: None,
        code: Some("AccessDenied".to_owned()),
    };
    setup.proxy.inject(Rule::new(denied));
    let url = setup.source.parse_url(URL).unwrap();
    let error = setup.source.checksums(&url, None).await.unwrap_err();
    check_error(&error, SourceErrorKind::AccessDenied, "list the bucket");
}

#[tokio::test]
async fn a_dropped_reader_frees_its_connections_at_once() {
    let setup = Setup::new().await;
    setup.proxy.inject(Rule::new(Fault::StallAt(10)));
    let mut reader = setup.source.read_ranges(&setup.meta, 0..SIZE, OPTIONS);
    reader.next().await.unwrap().unwrap();
    eventually("all ranges stall", || setup.proxy.injected() == 3).await;
    drop(reader);
    let freed = || setup.proxy.open_connections() <= 1;
    // One may be idle: that of the HEAD request, if it is kept for reuse.
    eventually("the connections are closed", freed).await;
}

#[tokio::test]
async fn a_consumer_that_waits_bounds_what_is_fetched() {
    let size = 40 * RANGE_BYTES;
    let setup = Setup::new().await;
    setup
        .server
        .objects()
        .put("img", "large", &pattern(size))
        .unwrap();
    let meta = resolve(&setup.source, "s3://img/large").await.unwrap();
    setup.proxy.clear();
    let received = || {
        setup
            .source
            .counters()
            .received_bytes
            .load(Ordering::SeqCst)
    };
    let before = received();
    let mut reader = setup.source.read_ranges(&meta, 0..size, OPTIONS);
    let first = reader.next().await.unwrap().unwrap();
    eventually("three ranges arrive", || {
        received() - before == 3 * RANGE_BYTES
    })
    .await;
    assert_eq!(setup.proxy.requests().len(), 3);
    let mut found = first.to_vec();
    while let Some(chunk) = reader.next().await {
        found.extend_from_slice(&chunk.unwrap());
        assert!(received() - before <= found.len() as u64 + 3 * RANGE_BYTES);
    }
    assert!(found == pattern(size));
}

#[tokio::test]
async fn a_consumer_that_waits_bounds_a_whole_object_answer_too() {
    const SIZE: u64 = 64 << 20;
    const BOUND: u64 = 16 << 20;
    let setup = Setup::new().await;
    setup
        .server
        .objects()
        .put("img", "large", &vec![1; SIZE as usize])
        .unwrap();
    let meta = resolve(&setup.source, "s3://img/large").await.unwrap();
    setup.proxy.inject(Rule::new(Fault::IgnoreRange));
    let received = || {
        setup
            .source
            .counters()
            .received_bytes
            .load(Ordering::SeqCst)
    };
    let before = received();
    let mut reader = setup.source.read_ranges(&meta, 0..SIZE, OPTIONS);
    let first = reader.next().await.unwrap().unwrap();
    // Until it stays the same for half a second.
    let (mut last, mut since) = (received(), Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if received() != last {
            (last, since) = (received(), Instant::now());
        }
        assert!(last - before <= BOUND, "{} bytes", last - before);
    }
    let mut count = first.len() as u64;
    while let Some(chunk) = reader.next().await {
        count += chunk.unwrap().len() as u64;
    }
    assert_eq!(count, SIZE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_hold_the_configured_rate_within_five_percent() {
    const RATE: u64 = 2 << 20;
    let setup = Setup::with(|settings| SourceSettings {
        max_read_bytes_per_sec: Some(RATE),
        ..settings
    })
    .await;
    let size = 3 * RATE;
    setup
        .server
        .objects()
        .put("img", "large", &pattern(size))
        .unwrap();
    let start = Instant::now();
    // Two readers share the rate.
    let (one, two) = tokio::join!(
        read_all(&setup.source, "s3://img/large"),
        read_all(&setup.source, "s3://img/large")
    );
    let took = start.elapsed().as_secs_f64();
    assert!(one.unwrap() == pattern(size) && two.unwrap() == pattern(size));
    let rate = 2.0 * size as f64 / took;
    let share = rate / RATE as f64;
    assert!((0.95..=1.05).contains(&share), "{share:.3} of the limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_serves_one_request_at_once_is_asked_for_one_range_at_once() {
    let setup = Setup::with(|settings| SourceSettings {
        retry_backoff: vec![Duration::from_millis(1)],
        ..settings
    })
    .await;
    setup.proxy.serve_at_most(1);
    // Slow enough for the ranges of a reader to overlap.
    setup.proxy.inject(Rule::new(Fault::Slow(1 << 20)));
    assert!(setup.read().await.unwrap() == pattern(SIZE));
    let asked = setup.proxy.requests().len() as u64;
    let least = RANGES + 1;
    let most = RANGES + OPTIONS.in_flight as u64 - 1;
    assert!(
        (least..=most).contains(&asked),
        "{asked} requests for {RANGES} ranges"
    );
}
