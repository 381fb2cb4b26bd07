//! A collector that is down, silent, slow, behind TLS, or not wanted.

use super::*;

#[tokio::test]
async fn a_collector_that_is_down_or_silent_delays_neither_a_job_nor_the_end() {
    // One that refuses connections, one that accepts them and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent_endpoint = format!("http://{}", silent.local_addr().expect("an address"));
    for endpoint in ["http://127.0.0.1:1", &silent_endpoint] {
        let world = World::new()
            .await
            .with("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        let url = world.put("a.qcow2", &image(32 * MIB, 20, 34).build());
        let daemon = world.start();
        let started = Instant::now();
        completed(&daemon, &url, "vm", 64 * MIB).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{endpoint}");
        let stopped = Instant::now();
        daemon.signal("TERM").expect("it is told");
        let status = daemon.wait().expect("it ends");
        assert!(status.success(), "{status}");
        assert!(stopped.elapsed() < Duration::from_secs(8), "{endpoint}");
    }
}

#[tokio::test]
async fn a_collector_that_is_down_for_a_while_misses_no_span() {
    let port = Port::reserve().expect("a port");
    let address = port.address().to_string();
    let collector = Collector::start_at(&address, Received::default()).await;
    let world = World::new()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .with("OTEL_BSP_SCHEDULE_DELAY", "50");
    let url = world.put("a.qcow2", &image(32 * MIB, 20, 35).build());
    let daemon = world.start();
    let get = async |route| daemon.call("GET", route, None).await.expect("it answers");
    get("/health").await;
    collector.span("GET /health").await;
    let received = collector.received.clone();
    drop(collector);
    completed(&daemon, &url, "vm", 64 * MIB).await;
    let said = |message: &str| {
        let of_tracing = |line: &&serde_json::Value| line["receiver"] == "tracing";
        let lines = daemon.log();
        let lines = lines.iter().filter(of_tracing);
        lines.filter(|line| line["message"] == message).count()
    };
    wait_for("the operator to be told", async || {
        (said("Cannot deliver to a receiver; trying again") == 1).then_some(())
    })
    .await;
    // Its connections and its port are gone, or will be in a moment.
    wait_for("the port", async || TcpListener::bind(&address).await.ok()).await;
    let collector = Collector::start_at(&address, received).await;
    for name in [
        "POST /api/v1/jobs",
        "runJob",
        "DownloadImageToPath",
        "PopulateVolume",
    ] {
        collector.span(name).await;
    }
    wait_for("the good news", async || {
        (said("Delivery to a receiver works again") == 1).then_some(())
    })
    .await;
    for reason in ["queue_full", "not_delivered"] {
        let series = format!("trace_spans_dropped_total{{reason=\"{reason}\"}}");
        assert_eq!(metric(&daemon, &series).await, Some(0.0), "{reason}");
    }
}

#[tokio::test]
async fn a_collector_behind_tls_is_trusted_by_its_ca_alone() {
    let collector = Collector::start().await;
    let ours = authority("ours");
    let (endpoint, _relay) = tls_before(&collector, &issue(&ours, "collector", 30)).await;
    let world = World::new()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .with("OTEL_BSP_SCHEDULE_DELAY", "50");
    let daemon = world.start();
    daemon
        .call("GET", "/livez", None)
        .await
        .expect("it answers");
    wait_for("the operator to be told", async || {
        let lines = daemon.log();
        lines
            .iter()
            .any(|line| line["receiver"] == "tracing")
            .then_some(())
    })
    .await;
    assert!(collector.spans().is_empty());
    drop(daemon);
    let ca = write(world.home.path(), "collector.pem", &ours.pem(), 0o644);
    let world = world.with("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca.display().to_string());
    let daemon = world.start();
    daemon
        .call("GET", "/livez", None)
        .await
        .expect("it answers");
    collector.span("GET /livez").await;
}

#[tokio::test]
async fn a_slow_collector_delays_nothing_and_dropped_spans_are_counted() {
    let collector = Collector::start_slow(Duration::from_millis(400)).await;
    let world = World::new()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .with("OTEL_BSP_SCHEDULE_DELAY", "50")
        .with("OTEL_BSP_MAX_QUEUE_SIZE", "10")
        .with("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5");
    let daemon = world.start();
    const REQUESTS: usize = 60;
    let began = Instant::now();
    for _ in 0..REQUESTS {
        daemon
            .call("GET", "/livez", None)
            .await
            .expect("it answers");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    // Every span was either sent or counted as dropped.
    let (sent, dropped) = wait_for("the queue to be empty", async || {
        let sent = metric(&daemon, "trace_spans_sent_total").await?;
        let series = r#"trace_spans_dropped_total{reason="queue_full"}"#;
        let dropped = metric(&daemon, series).await?;
        (sent + dropped == REQUESTS as f64).then_some((sent, dropped))
    })
    .await;
    assert!(
        sent >= 10.0 && dropped >= 1.0,
        "{sent} sent, {dropped} dropped"
    );
    assert_eq!(collector.spans().len() as f64, sent);
}

// Waiting for the daemon's end blocks a thread; the collector runs on another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_spans_are_sent_before_the_daemon_ends() {
    let collector = Collector::start().await;
    let world = World::new()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint());
    let daemon = world.start();
    daemon
        .call("GET", "/health", None)
        .await
        .expect("it answers");
    daemon.signal("TERM").expect("it is told");
    assert!(daemon.wait().expect("it ends").success());
    let names: Vec<String> = collector.spans().into_iter().map(|s| s.name).collect();
    assert!(names.contains(&"GET /health".to_owned()), "{names:?}");
}

// Waiting for the daemon's end blocks a thread; the collector runs on another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_when_traces_are_turned_off_or_sampled_away() {
    let collector = Collector::start().await;
    for (name, value) in [
        ("OTEL_TRACES_EXPORTER", "none"),
        ("TRACING_SAMPLING_RATE", "0"),
    ] {
        let world = World::new()
            .await
            .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
            .with(name, value);
        let daemon = world.start();
        daemon
            .call("GET", "/health", None)
            .await
            .expect("it answers");
        daemon.signal("TERM").expect("it is told");
        assert!(daemon.wait().expect("it ends").success());
        assert_eq!(collector.spans().len(), 0, "{name}");
    }
}
