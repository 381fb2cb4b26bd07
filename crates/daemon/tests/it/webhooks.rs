//! Webhooks: every job's end reaches its receivers, signed, whatever happens to them and the daemon.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use lvp_api::{JobState, JobStatus, WebhookEvent};
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::port::Port;
use lvp_testkit::require::{command, require};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::{MIB, World, accepted, image};

const SECRET: &str = "a-secret-of-the-receiver";

/// What a receiver was sent.
#[derive(Debug, Clone)]
struct Received {
    headers: HeaderMap,
    body: String,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        let value = value.unwrap_or_else(|| panic!("no {name} in {:?}", self.headers));
        value.to_str().expect("text")
    }

    fn event(&self) -> WebhookEvent {
        serde_json::from_str(&self.body).expect("an event")
    }
}

/// An HTTP server that records requests and answers as configured.
struct Receiver {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    received: Arc<Mutex<Vec<Received>>>,
    answers: Arc<Mutex<VecDeque<u16>>>,
    hangs: bool,
}

impl Receiver {
    async fn start(address: &str, answers: &[u16]) -> Self {
        Self::serve(address, answers, false).await
    }

    async fn serve(address: &str, answers: &[u16], hangs: bool) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let received = Arc::default();
        let shared = Shared {
            received: Arc::clone(&received),
            answers: Arc::new(Mutex::new(answers.iter().copied().collect())),
            hangs,
        };
        let router = Router::new().route("/hook", post(take)).with_state(shared);
        let address = listener.local_addr().expect("it listens");
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        });
        Self {
            address,
            received,
            server,
        }
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn received(&self) -> Vec<Received> {
        let received = self.received.lock();
        received.unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn waits_for(&self, count: usize) -> Vec<Received> {
        wait_for("the events", async || {
            Some(self.received()).filter(|received| received.len() >= count)
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(shared): State<Shared>, headers: HeaderMap, body: String) -> StatusCode {
    let received = Received { headers, body };
    shared
        .received
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(received);
    if shared.hangs {
        std::future::pending::<()>().await;
    }
    let mut answers = shared
        .answers
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let answer = answers.pop_front().unwrap_or(204);
    StatusCode::from_u16(answer).expect("a status")
}

async fn world(urls: &str) -> (World, String) {
    let world = World::new().await;
    let world = world
        .with("WEBHOOK_URLS", urls)
        .with("WEBHOOK_SECRET", SECRET);
    let url = world.put("a.qcow2", &image(4 * MIB, 8, 1).build());
    (world, url)
}

async fn provision(daemon: &Daemon, url: &str, volume: &str) -> JobStatus {
    let job = accepted(daemon, url, volume, 4 * MIB).await;
    daemon.ended(&job).await.expect("it ends")
}

async fn deliveries(daemon: &Daemon, result: &str) -> f64 {
    let answer = daemon.call("GET", "/metrics", None).await.expect("metrics");
    let text = answer.body.as_str().expect("text").to_owned();
    let name =
        format!("libvirt_volume_provisioner_webhook_deliveries_total{{result=\"{result}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.expect("the metric").parse().expect("a number")
}

#[tokio::test]
async fn every_jobs_end_is_posted_to_every_receiver_with_a_signature() {
    let first = Receiver::start("127.0.0.1:0", &[]).await;
    let second = Receiver::start("127.0.0.1:0", &[]).await;
    let (world, url) = world(&format!("{},{}", first.url(), second.url())).await;
    let daemon = world.start();
    let done = provision(&daemon, &url, "vm-1").await;
    assert_eq!(done.status, JobState::Completed, "{done:?}");
    let failed = provision(&daemon, "s3://images/none.qcow2", "vm-2").await;
    assert_eq!(failed.status, JobState::Failed, "{failed:?}");
    for receiver in [&first, &second] {
        let received = receiver.waits_for(2).await;
        assert_eq!(received.len(), 2, "{received:#?}");
        for (received, (event, job)) in received
            .iter()
            .zip([("job.completed", &done), ("job.failed", &failed)])
        {
            assert_eq!(received.header("x-lvp-event"), event);
            assert_eq!(received.header("content-type"), "application/json");
            let told = received.event();
            assert_eq!(told.event, event);
            // The document is the same as the API's.
            assert_eq!(&told.job, job);
        }
        let ids: Vec<_> = received
            .iter()
            .map(|received| received.header("x-lvp-delivery").to_owned())
            .collect();
        assert_ne!(ids[0], ids[1]);
    }
    verify_by_the_documentation(&first.received()[0]);
    wait_for("the counter", async || {
        (deliveries(&daemon, "delivered").await == 4.0).then_some(())
    })
    .await;
    let log = daemon.log_text().join("\n");
    assert!(!log.contains(SECRET), "the secret is in the log");
}

/// Runs the lines of docs/webhooks.md on what was received, and on the same with another body.
fn verify_by_the_documentation(received: &Received) {
    if !require("python3") {
        return;
    }
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/webhooks.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let (_, rest) = page.split_once("```python\n").expect("it has an example");
    let (example, _) = rest.split_once("```").expect("it ends");
    let program = format!(
        "{example}\nimport sys\nsys.exit(0 if is_genuine(sys.argv[1].encode(), sys.argv[2], \
         sys.argv[3], sys.argv[4].encode()) else 1)\n"
    );
    let judged = |secret: &str, body: &str| {
        let status = command("python3")
            .args(["-c", &program, secret])
            .args([
                received.header("x-lvp-timestamp"),
                received.header("x-lvp-signature"),
            ])
            .arg(body)
            .status();
        status.expect("python3 starts").code()
    };
    assert_eq!(judged(SECRET, &received.body), Some(0));
    assert_eq!(judged("another", &received.body), Some(1));
    assert_eq!(
        judged(SECRET, &received.body.replace("vm-", "wm-")),
        Some(1)
    );
}

#[tokio::test]
async fn a_failed_attempt_is_repeated_as_the_same_delivery() {
    // The second event is refused once by itself: the third does not wait for it.
    let receiver = Receiver::start("127.0.0.1:0", &[500, 204, 400]).await;
    let (world, url) = world(&receiver.url()).await;
    let daemon = world.start();
    provision(&daemon, &url, "vm-1").await;
    let received = receiver.waits_for(2).await;
    let id = |index: usize| received[index].header("x-lvp-delivery").to_owned();
    assert_eq!(id(0), id(1));
    assert_eq!(received[0].body, received[1].body);
    wait_for("the counter", async || {
        (deliveries(&daemon, "delivered").await == 1.0).then_some(())
    })
    .await;
    provision(&daemon, &url, "vm-2").await;
    receiver.waits_for(3).await;
    provision(&daemon, &url, "vm-3").await;
    wait_for("all", async || {
        (deliveries(&daemon, "delivered").await == 3.0).then_some(())
    })
    .await;
    assert_eq!(deliveries(&daemon, "failed").await, 2.0);
    assert_eq!(deliveries(&daemon, "dropped").await, 0.0);
    assert_eq!(receiver.received().len(), 5);
}

#[tokio::test]
async fn events_outlive_the_daemon_and_a_receiver_that_is_down_delays_no_job() {
    // Nobody listens there at first.
    let port = Port::reserve().expect("a port");
    let (world, url) = world(&format!("http://{}/hook", port.address())).await;
    let daemon = world.start();
    let done = provision(&daemon, &url, "vm-1").await;
    assert_eq!(done.status, JobState::Completed, "{done:?}");
    wait_for("an attempt", async || {
        (deliveries(&daemon, "failed").await > 0.0).then_some(())
    })
    .await;
    let told = |line: &Value| line["component"] == "webhook" && line["level"] == "warn";
    // Counted first, then logged.
    wait_for("the line", async || {
        daemon.log().iter().any(told).then_some(())
    })
    .await;
    daemon.kill().expect("it is killed");

    let receiver = Receiver::start(&port.address().to_string(), &[]).await;
    let daemon = world.start();
    let received = receiver.waits_for(1).await;
    assert_eq!(received[0].event().job.job_id, done.job_id);
    wait_for("the counter", async || {
        (deliveries(&daemon, "delivered").await == 1.0).then_some(())
    })
    .await;
    daemon.kill().expect("it is killed");
    // What was taken is not sent again.
    let daemon = world.start();
    provision(&daemon, &url, "vm-2").await;
    let received = receiver.waits_for(2).await;
    assert_eq!(received.len(), 2, "{received:#?}");
    assert_ne!(received[1].event().job.job_id, done.job_id);
}

#[tokio::test]
async fn a_hanging_receiver_delays_neither_jobs_nor_the_stop() {
    let receiver = Receiver::serve("127.0.0.1:0", &[], true).await;
    let (world, url) = world(&receiver.url()).await;
    let daemon = world.start();
    provision(&daemon, &url, "vm-1").await;
    receiver.waits_for(1).await;
    let started = Instant::now();
    for volume in ["vm-2", "vm-3"] {
        let done = provision(&daemon, &url, volume).await;
        assert_eq!(done.status, JobState::Completed, "{done:?}");
    }
    daemon.signal("TERM").expect("it is sent");
    let status = daemon.wait().expect("it ends");
    assert!(status.success(), "{status}");
    // The receiver's answer would have been waited for for 10 s.
    assert!(
        started.elapsed() < Duration::from_secs(9),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn events_for_a_receiver_that_was_removed_from_the_configuration_are_dropped() {
    let (world, url) = world("http://127.0.0.1:9/hook").await;
    let daemon = world.start();
    provision(&daemon, &url, "vm-1").await;
    daemon.kill().expect("it is killed");
    let receiver = Receiver::start("127.0.0.1:0", &[]).await;
    let world = world.with("WEBHOOK_URLS", &receiver.url());
    let daemon = world.start();
    wait_for("the counter", async || {
        (deliveries(&daemon, "dropped").await == 1.0).then_some(())
    })
    .await;
    provision(&daemon, &url, "vm-2").await;
    let received = receiver.waits_for(1).await;
    let job = received[0].event().job;
    assert_eq!(job.volume_name.as_deref(), Some("vm-2"), "{job:?}");
}

#[tokio::test]
async fn an_event_that_is_too_old_is_dropped() {
    let (world, url) = world("http://127.0.0.1:9/hook").await;
    let world = world.with("WEBHOOK_MAX_AGE", "1s");
    let daemon = world.start();
    provision(&daemon, &url, "vm-1").await;
    wait_for("the counter", async || {
        (deliveries(&daemon, "dropped").await == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_webhook_without_a_secret_or_a_valid_url_is_refused() {
    let world = World::new()
        .await
        .with("WEBHOOK_URLS", "https://ci.example.com/x");
    let error = world.home.start().expect_err("no secret").to_string();
    assert!(error.contains("webhooks.secret must be set"), "{error}");
    let world = world
        .with("WEBHOOK_SECRET", SECRET)
        .with("WEBHOOK_URLS", "file:///etc/passwd");
    let error = world.home.start().expect_err("no URL").to_string();
    assert!(error.contains("webhooks.urls must be URLs"), "{error}");
}
