//! What an object is, its digests and its first bytes, by requests that go out together.

mod servers;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lvp_image::ReadAt;
use lvp_testkit::fault::{Fault, FaultProxy, Request, Rule};
use lvp_testkit::s3::S3;
use provisioner::source::{
    Checksums, ObjectMeta, Source, SourceError, SourceErrorKind, SourceSettings, Want,
};
use tokio_util::sync::CancellationToken;

use super::{OPTIONS, check_error, collect, eventually, pattern, resolve, settings, soon};

const MIB: u64 = 1 << 20;
/// Longer than what is kept, and longer than what is read in one range because little is left.
const SIZE: u64 = 9 * MIB + 4321;
const URL: &str = "s3://img/k";
/// The image, and the files beside it.
const ROUND: usize = 8;

struct Setup {
    server: S3,
    proxy: FaultProxy,
    source: Source,
}

impl Setup {
    async fn new(size: u64) -> Self {
        Self::with(size, |settings| settings).await
    }

    async fn with(size: u64, change: impl FnOnce(SourceSettings) -> SourceSettings) -> Self {
        let server = S3::start().await.unwrap();
        server.objects().put("img", "k", &pattern(size)).unwrap();
        server.objects().put_sidecar("img", "k").unwrap();
        let proxy = FaultProxy::start(server.address()).await.unwrap();
        let source = Source::new(&change(settings(&proxy.endpoint()))).unwrap();
        Self {
            server,
            proxy,
            source,
        }
    }

    async fn find(&self) -> Result<(ObjectMeta, Checksums), SourceError> {
        let url = self.source.parse_url(URL).unwrap();
        soon(self.source.find(&url, None, Want::Bytes)).await
    }

    async fn read(&self) -> Result<Vec<u8>, SourceError> {
        let (meta, _) = self.find().await?;
        soon(collect(self.source.read_ranges(
            &meta,
            0..meta.size,
            OPTIONS,
        )))
        .await
    }

    fn received(&self) -> u64 {
        let counters = self.source.counters();
        counters.received_bytes.load(Ordering::SeqCst)
    }

    /// The requests for the image itself.
    fn asked(&self) -> Vec<Request> {
        let mut requests = self.proxy.requests();
        requests.retain(|request| request.target == "/img/k");
        requests
    }
}

fn status(status: u16) -> Fault {
    Fault::Status {
        status,
        retry_after: None,
        code: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_object_is_found_planned_and_read_by_one_round_of_requests() {
    let setup = Setup::new(3 * MIB + 17).await;
    let (meta, checksums) = setup.find().await.unwrap();
    assert_eq!(meta, resolve(&setup.source, URL).await.unwrap());
    assert!(checksums.sha256.is_some());
    setup.proxy.clear();

    let expected = pattern(meta.size);
    let reader = setup.source.reader(&meta, CancellationToken::new());
    let begin = expected[..2_000_000].to_vec();
    let end = expected[3_000_000..].to_vec();
    let planning = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; begin.len()];
        reader.read_exact_at(&mut buffer, 0).unwrap();
        assert!(buffer == begin);
        let mut buffer = vec![0; end.len()];
        reader.read_exact_at(&mut buffer, 3_000_000).unwrap();
        assert!(buffer == end);
    });
    soon(planning).await.unwrap();
    let options = setup.source.range_options();
    let reader = setup.source.read_ranges(&meta, 0..meta.size, options);
    assert!(soon(collect(reader)).await.unwrap() == expected);
    assert_eq!(setup.proxy.requests(), [], "all of it was there");
}

#[tokio::test]
async fn all_requests_are_under_way_before_any_is_answered() {
    let setup = Setup::new(SIZE).await;
    setup.proxy.hold(|_| true);
    let url = setup.source.parse_url(URL).unwrap();
    let finding = setup.source.find(&url, None, Want::Bytes);
    let answering = async {
        eventually("the round", || setup.proxy.held().len() == ROUND).await;
        setup.proxy.hold_nothing();
    };
    let (found, ()) = soon(async { tokio::join!(finding, answering) }).await;
    assert_eq!(found.unwrap().0.size, SIZE);
    assert_eq!(setup.proxy.requests().len(), ROUND);
}

#[tokio::test]
async fn an_opening_that_is_cut_off_goes_on_at_the_exact_byte_and_in_the_same_version() {
    for at in [0, 1, 1000, 256 << 10, 4 * MIB - 1] {
        let setup = Setup::new(SIZE).await;
        let cut = Rule::new(Fault::CutAt(at)).range_from(0).times(1);
        setup.proxy.inject(cut);
        let (meta, _) = setup.find().await.unwrap();
        eventually("it goes on", || setup.asked().len() == 2).await;
        let reader = setup.source.read_ranges(&meta, 0..SIZE, OPTIONS);
        assert!(
            soon(collect(reader)).await.unwrap() == pattern(SIZE),
            "cut at {at}"
        );
        let asked = setup.asked();
        assert_eq!(asked[0].header("range"), Some("bytes=0-"));
        assert_eq!(asked[1].range_start, Some(at), "cut at {at}");
        let ranges = &asked[1..];
        assert!(
            ranges
                .iter()
                .all(|range| range.header("if-match").is_some())
        );
    }
    // Beyond what the stream goes on with, nobody notices.
    for at in [5 * MIB, SIZE - 1] {
        let setup = Setup::new(SIZE).await;
        setup
            .proxy
            .inject(Rule::new(Fault::CutAt(at)).range_from(0));
        assert!(setup.read().await.unwrap() == pattern(SIZE), "cut at {at}");
    }
}

#[tokio::test]
async fn an_object_that_is_replaced_after_its_opening_is_never_mixed() {
    let setup = Setup::new(SIZE).await;
    let (meta, _) = setup.find().await.unwrap();
    let other = vec![7; SIZE as usize];
    setup.server.objects().put("img", "k", &other).unwrap();
    let reader = setup.source.read_ranges(&meta, 0..SIZE, OPTIONS);
    let error = soon(collect(reader)).await.unwrap_err();
    check_error(&error, SourceErrorKind::ObjectChanged, "replaced");
    // An opening that is continued asks for its version too.
    let setup = Setup::new(SIZE).await;
    let cut = Rule::new(Fault::CutAt(1000)).range_from(0).times(1);
    setup.proxy.inject(cut);
    let is_rest = |request: &Request| request.range_start == Some(1000);
    setup.proxy.hold(is_rest);
    let (meta, _) = setup.find().await.unwrap();
    eventually("the rest is wanted", || setup.proxy.held().len() == 1).await;
    setup.server.objects().put("img", "k", &other).unwrap();
    setup.proxy.hold_nothing();
    let reader = setup.source.read_ranges(&meta, 0..SIZE, OPTIONS);
    let error = soon(collect(reader)).await.unwrap_err();
    check_error(&error, SourceErrorKind::ObjectChanged, "replaced");
}

#[tokio::test]
async fn without_a_strong_tag_all_bytes_are_of_the_opening() {
    let weak = || Rule::new(Fault::Header("etag", "W/\"1\"".to_owned()));
    let setup = Setup::new(SIZE).await;
    setup.proxy.inject(weak());
    let (meta, _) = setup.find().await.unwrap();
    let found = soon(collect(setup.source.read_once(&meta))).await.unwrap();
    assert!(found == pattern(SIZE));
    assert_eq!(setup.asked().len(), 1);
    for at in [1, 100_000, 5 * MIB, SIZE - 1] {
        setup.proxy.clear();
        setup
            .proxy
            .inject(weak().also(Fault::CutAt(at)).range_from(0));
        let (meta, _) = setup.find().await.unwrap();
        let error = soon(collect(setup.source.read_once(&meta))).await;
        let error = error.unwrap_err();
        let words = "without a strong ETag";
        check_error(&error, SourceErrorKind::Unavailable, words);
        assert_eq!(setup.asked().len(), 1, "cut at {at}");
    }
    // With a digest that is known, the rest may come by other requests.
    setup.proxy.clear();
    let cut = weak().also(Fault::CutAt(100_000)).range_from(0).times(1);
    setup.proxy.inject(cut);
    setup.proxy.inject(weak());
    assert!(setup.read().await.unwrap() == pattern(SIZE));
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_by_the_one_answer() {
    let setup = Setup::new(SIZE).await;
    let says_so = Rule::new(Fault::IgnoreRange).also(Fault::NoHeader("accept-ranges"));
    setup.proxy.inject(says_so);
    assert!(setup.read().await.unwrap() == pattern(SIZE));
    assert_eq!(setup.asked().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_not_clearly_all_of_the_object_is_not_read() {
    for fault in [
        Fault::Header("content-range", format!("bytes 1-9/{SIZE}")),
        Fault::Header("content-range", format!("bytes 0-9/{SIZE}")),
        Fault::Header("content-range", "nonsense".to_owned()),
        Fault::LongLength(10),
        Fault::ShortBody(1000),
        Fault::Chunked {
            length: 1 << 20,
            extra: 1,
        },
    ] {
        let setup = Setup::new(SIZE).await;
        let rule = Rule::new(fault.clone()).range_from(0).times(1);
        setup.proxy.inject(rule);
        assert!(setup.read().await.unwrap() == pattern(SIZE), "{fault:?}");
        let again = setup.asked()[1..]
            .iter()
            .any(|asked| asked.range_start == Some(0));
        assert!(again, "{fault:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_object_is_said_before_what_is_wrong_beside_it() {
    let setup = Setup::new(SIZE).await;
    let is_image = |request: &Request| request.target == "/img/k";
    setup.proxy.inject(Rule::new(status(404)).when(is_image));
    setup.proxy.inject(Rule::new(status(403)));
    setup.proxy.hold(is_image);
    let url = setup.source.parse_url(URL).unwrap();
    let finding = setup.source.find(&url, None, Want::Bytes);
    let answering = async {
        // The others are refused first.
        eventually("all are asked", || setup.proxy.requests().len() == ROUND).await;
        eventually("all others are answered", || {
            setup.proxy.injected() == ROUND
        })
        .await;
        setup.proxy.hold_nothing();
    };
    let (found, ()) = soon(async { tokio::join!(finding, answering) }).await;
    check_error(&found.unwrap_err(), SourceErrorKind::NotFound, "404");
    // An object that is there, and files of which nobody knows whether they are.
    setup.proxy.clear();
    let is_beside = |request: &Request| request.target != "/img/k";
    setup.proxy.inject(Rule::new(status(403)).when(is_beside));
    let error = setup.find().await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::AccessDenied, "{error:?}");
}

#[tokio::test]
async fn what_fails_together_with_the_object_is_not_repeated_on_its_own() {
    let setup = Setup::new(SIZE).await;
    setup.proxy.inject(Rule::new(status(503)));
    let error = setup.find().await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{error:?}");
    assert_eq!(error.attempts(), 4);
    let beside = setup.proxy.requests().len() - setup.asked().len();
    assert_eq!((setup.asked().len(), beside), (4, ROUND - 1));
    // Once the object is found, they are.
    setup.proxy.clear();
    setup
        .proxy
        .inject(Rule::new(status(503)).times(ROUND as u32));
    let (_, checksums) = setup.find().await.unwrap();
    assert!(checksums.sha256.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_an_opening_is_bounded_until_the_stream_begins() {
    const SIZE: u64 = 64 * MIB;
    let setup = Setup::new(SIZE).await;
    let (meta, _) = setup.find().await.unwrap();
    eventually("it is full", || setup.received() >= 4 * MIB).await;
    // Until it stays the same for half a second.
    let (mut last, mut since) = (setup.received(), Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if setup.received() != last {
            (last, since) = (setup.received(), Instant::now());
        }
        assert!(last <= 5 * MIB, "{last} bytes");
    }
    // Nobody wants it after all.
    drop(meta);
    let is_closed = || setup.proxy.open_connections() < ROUND;
    eventually("its connection is closed", is_closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_serves_one_request_at_once_is_not_kept_from_the_others_by_the_opening() {
    let setup = Setup::with(SIZE, |settings| SourceSettings {
        retry_backoff: vec![Duration::from_millis(20); 100],
        ..settings
    })
    .await;
    setup.proxy.serve_at_most(1);
    let is_image = |request: &Request| request.range_start.is_some();
    let slow = Rule::new(Fault::Slow(40 << 20)).when(is_image);
    setup.proxy.inject(slow);
    let (meta, checksums) = setup.find().await.unwrap();
    assert!(checksums.sha256.is_some());
    let before = setup.proxy.requests().len();
    let options = setup.source.range_options();
    let reader = setup.source.read_ranges(&meta, 0..SIZE, options);
    assert!(soon(collect(reader)).await.unwrap() == pattern(SIZE));
    let asked = setup.proxy.requests().len() - before;
    // Each range once; and again if the server had not noticed the end of the answer before.
    assert!(asked <= 6, "{asked} requests");
}
