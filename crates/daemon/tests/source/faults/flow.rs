//! How fast a reader fetches: what a slow consumer, a dropped reader and a rate limit do.

use super::*;

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
async fn a_slow_consumer_bounds_what_is_fetched() {
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
async fn a_large_range_stops_reading_when_its_share_of_the_window_is_full() {
    const SIZE: u64 = 96 << 20;
    // The window, and what a chunk of each range can be beyond it.
    const BOUND: u64 = (16 << 20) + (1 << 20);
    let setup = Setup::new().await;
    let bytes = pattern(SIZE);
    setup.server.objects().put("img", "large", &bytes).unwrap();
    let meta = resolve(&setup.source, "s3://img/large").await.unwrap();
    let counters = setup.source.counters();
    let received = || counters.received_bytes.load(Ordering::SeqCst);
    let before = received();
    let options = RangeOptions {
        range_bytes: SIZE / 3,
        in_flight: 2,
        is_measured: false,
    };
    let mut reader = setup.source.read_ranges(&meta, 0..SIZE, options);
    let mut found = reader.next().await.unwrap().unwrap().to_vec();
    // Until it stays the same for half a second.
    let (mut last, mut since) = (received(), Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if received() != last {
            (last, since) = (received(), Instant::now());
        }
        assert!(last - before <= BOUND, "{} bytes", last - before);
    }
    while let Some(chunk) = reader.next().await {
        found.extend_from_slice(&chunk.unwrap());
        let ahead = received() - before - found.len() as u64;
        assert!(ahead <= BOUND, "{ahead} bytes");
    }
    assert!(found == bytes);

    // A server for one connection: the one that stands still must not keep it from the one that is read.
    setup.proxy.serve_at_most(1);
    let reader = setup.source.read_ranges(&meta, 0..SIZE, options);
    let found = tokio::time::timeout(super::super::SOON * 6, collect(reader)).await;
    assert!(found.expect("it goes on").unwrap() == bytes);
}

#[tokio::test]
async fn a_slow_consumer_also_bounds_a_whole_object_answer() {
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
        retry_backoff: vec![Duration::from_millis(50); 100],
        ..settings
    })
    .await;
    setup.proxy.serve_at_most(1);
    // Slow enough for the ranges of a reader to overlap.
    setup.proxy.inject(Rule::new(Fault::Slow(256 << 10)));
    assert!(setup.read().await.unwrap() == pattern(SIZE));
    let asked = setup.proxy.requests().len() as u64;
    assert!(asked > RANGES, "{asked} requests: none was refused");
    // The others that were in flight at first; and the one that follows a range may arrive before the server
    // has noticed the end of that range's answer.
    let most = RANGES + OPTIONS.in_flight as u64 + RANGES;
    assert!(asked <= most, "{asked} requests for {RANGES} ranges");
}
