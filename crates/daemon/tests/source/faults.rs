//! Every way in which a server and a network fail, at every range.

mod flow;
mod resolve;

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

/// From the last to the first: requests that are still in flight after an error are for later ranges, and
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

/// Temporary faults: the same request may work a moment later.
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

/// Short time-outs, so that silence is noticed early.
fn impatient(settings: SourceSettings) -> SourceSettings {
    SourceSettings {
        idle_timeout: Duration::from_millis(300),
        ..settings
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fault_of_any_kind_at_any_range_changes_no_byte() {
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
async fn faults_at_all_ranges_at_once_are_survived_within_each_ranges_budget() {
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
async fn an_interrupted_range_continues_at_the_exact_byte_of_the_same_version() {
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
async fn a_permanent_fault_fails_after_the_ranges_own_budget() {
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
async fn final_answers_are_not_requested_again() {
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
async fn another_version_is_noticed_at_every_range_even_if_the_server_ignores_conditions() {
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
async fn a_replacement_is_noticed_when_an_interrupted_range_continues() {
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
        // HEAD works, then a proxy in between starts to strip the header.
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
async fn an_interrupted_whole_object_answer_starts_again_and_repeats_no_byte() {
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
async fn retry_after_is_honoured() {
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
