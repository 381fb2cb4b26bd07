//! Servers that answer a request for all of an object in their own way, or not at once.

use std::collections::HashSet;
use std::sync::Mutex;

use super::*;

fn is_open_range(request: &Request) -> bool {
    request.header("range") == Some("bytes=0-")
}

fn methods(setup: &Setup) -> Vec<String> {
    let asked = setup.asked().into_iter();
    asked.map(|request| request.method).collect()
}

#[tokio::test]
async fn a_server_that_tells_the_size_to_head_only_is_asked_so() {
    let range = |text: String| Rule::new(Fault::Header("content-range", text));
    let chunked = Fault::Chunked {
        length: 1 << 20,
        extra: 0,
    };
    for rule in [
        range(format!("bytes 0-{}/*", SIZE - 1)),
        range("nonsense".to_owned()),
        Rule::new(Fault::IgnoreRange).also(chunked),
        Rule::new(status(400)),
        Rule::new(status(405)),
        Rule::new(status(416)),
        Rule::new(status(501)),
    ] {
        let setup = Setup::with(SIZE, |settings| SourceSettings {
            retry_backoff: Vec::new(),
            ..settings
        })
        .await;
        setup.proxy.inject(rule.when(is_open_range));
        assert!(setup.read().await.unwrap() == pattern(SIZE));
        assert_eq!(methods(&setup)[..3], ["GET", "HEAD", "GET"]);
    }
    // What would be refused anyway is not asked again.
    for answer in [401, 403, 404] {
        let setup = Setup::new(SIZE).await;
        setup.proxy.inject(Rule::new(status(answer)));
        let error = setup.find().await.unwrap_err();
        assert_eq!(error.status(), Some(answer), "{error:?}");
        assert_eq!(methods(&setup), ["GET"]);
    }
    // One that never tells it.
    let setup = Setup::new(SIZE).await;
    let head = Rule::new(Fault::NoHeader("content-length")).method("HEAD");
    setup.proxy.inject(head);
    setup.proxy.inject(range("nonsense".to_owned()));
    let error = setup.find().await.unwrap_err();
    check_error(&error, SourceErrorKind::Protocol, "\"nonsense\"");
    assert_eq!(error.attempts(), 4);
}

#[tokio::test]
async fn an_outage_before_the_download_is_not_taken_for_a_limit_of_requests() {
    let setup = Setup::with(SIZE, |settings| SourceSettings {
        // So that no repeat is sent before all have been refused.
        retry_backoff: vec![Duration::from_millis(300); 3],
        ..settings
    })
    .await;
    let seen = Mutex::new(HashSet::new());
    let is_first = move |request: &Request| seen.lock().unwrap().insert(request.target.clone());
    setup.proxy.inject(Rule::new(status(503)).when(is_first));
    let (meta, checksums) = setup.find().await.unwrap();
    assert!(checksums.sha256.is_some());
    let retries = setup.source.counters().retries.load(Ordering::SeqCst);
    assert_eq!(retries, ROUND as u64, "each is a repeat like any other");
    setup.proxy.hold(|request| request.range_start.is_some());
    let reading = collect(setup.source.read_ranges(&meta, 0..SIZE, OPTIONS));
    let answering = async {
        let is_wide = || setup.proxy.held().len() >= OPTIONS.in_flight - 1;
        eventually("several ranges", is_wide).await;
        setup.proxy.hold_nothing();
    };
    let (read, ()) = soon(async { tokio::join!(reading, answering) }).await;
    assert!(read.unwrap() == pattern(SIZE));
}

#[tokio::test]
async fn a_server_that_ignores_only_a_range_of_everything_is_read_by_ranges() {
    let ignores = || {
        let accepts = Fault::Header("accept-ranges", "bytes".to_owned());
        Rule::new(Fault::IgnoreRange).also(accepts)
    };
    let setup = Setup::new(SIZE).await;
    setup.proxy.inject(ignores().when(is_open_range));
    assert!(setup.read().await.unwrap() == pattern(SIZE));
    assert!(setup.asked().len() > 1, "{:?}", setup.asked());
    // One that says so and serves none.
    let setup = Setup::new(SIZE).await;
    setup.proxy.inject(ignores());
    assert!(setup.read().await.unwrap() == pattern(SIZE));
}

#[tokio::test]
async fn a_fault_that_has_passed_before_the_stream_begins_does_not_fail_it() {
    let setup = Setup::new(SIZE).await;
    let cut = Rule::new(Fault::CutAt(1000)).range_from(0).times(1);
    setup.proxy.inject(cut);
    let is_down = Rule::new(status(500)).range_from(1000).times(3);
    setup.proxy.inject(is_down);
    let (meta, _) = setup.find().await.unwrap();
    eventually("it gives up", || setup.proxy.injected() == 4).await;
    // The last answer is on its way: a plan's read returns when it has come.
    let reader = setup.source.reader(&meta, CancellationToken::new());
    let planning = tokio::task::spawn_blocking(move || {
        reader.read_exact_at(&mut [0; 4096], 0).unwrap();
    });
    soon(planning).await.unwrap();
    let reader = setup.source.read_ranges(&meta, 0..SIZE, OPTIONS);
    assert!(soon(collect(reader)).await.unwrap() == pattern(SIZE));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_that_keeps_another_request_waiting_is_let_go() {
    let setup = Setup::new(SIZE).await;
    setup
        .proxy
        .hold(|request| request.target == "/img/k.sha256");
    let url = setup.source.parse_url(URL).unwrap();
    let finding = setup.source.find(&url, None, Want::Bytes);
    let queueing = async {
        eventually("the opening is full", || setup.received() >= 4 * MIB).await;
        assert_eq!(setup.proxy.held().len(), 1);
        let open = setup.proxy.open_connections();
        let is_closed = || setup.proxy.open_connections() < open;
        eventually("its connection is closed", is_closed).await;
        setup.proxy.hold_nothing();
    };
    let (found, ()) = tokio::join!(finding, queueing);
    let (meta, checksums) = found.unwrap();
    assert!(checksums.sha256.is_some());
    let reader = setup.source.read_ranges(&meta, 0..SIZE, OPTIONS);
    assert!(soon(collect(reader)).await.unwrap() == pattern(SIZE));
}
