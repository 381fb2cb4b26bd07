//! Callers that use up everything they can: others are served all the same.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lvp_api::JobList;
use lvp_testkit::daemon::{Answer, Daemon, answer, wait_for};
use lvp_testkit::fault::{Fault, Rule};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::access::{FULL, READ};
use crate::certificates::with_tokens;
use crate::peer::{self, Peer};
use crate::support::{MIB, World, image, metric};

/// Requests at once on one connection, as `net` allows.
const STREAMS: usize = 32;

fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.expect("a number") << 10
}

/// A daemon with this many jobs in its history, each with a long URL.
async fn with_history(jobs: usize) -> (World, Daemon) {
    let tokens = format!("ci:{FULL}\ngrafana:read:{READ}\n");
    let world = with_tokens(World::new().await, &tokens);
    let world = world.with("JOBS_QUEUE_LIMIT", "10000");
    let daemon = world.start().with_token(FULL);
    for number in 0..jobs {
        let key = format!("{}{number}", "k".repeat(900));
        let body =
            json!({"image_url": format!("s3://images/{key}"), "correlation_id": "c".repeat(128)});
        daemon
            .submit("/api/v1/cache/fetch", body)
            .await
            .expect("a job");
    }
    wait_for("the jobs' ends", async || {
        let list: JobList = daemon
            .get("/api/v1/jobs?status=pending&limit=1")
            .await
            .ok()?;
        (list.total == 0).then_some(())
    })
    .await;
    (world, daemon)
}

/// Connections whose answers nobody reads: every second one requests lists, the others metrics.
struct Flood<'a> {
    daemon: &'a Daemon,
    list: &'a str,
    peers: Vec<Peer>,
    /// When the last of them connected.
    began: Instant,
}

impl<'a> Flood<'a> {
    fn new(daemon: &'a Daemon, list: &'a str) -> Self {
        let (peers, began) = (Vec::new(), Instant::now());
        Self {
            daemon,
            list,
            peers,
            began,
        }
    }

    async fn connect(&self, number: usize) -> Peer {
        match number % 2 {
            0 => Peer::connect(self.daemon, &[self.list; STREAMS], Some(READ)).await,
            _ => Peer::connect(self.daemon, &["/metrics"; STREAMS], None).await,
        }
    }

    async fn grow(&mut self, connections: usize) {
        for number in self.peers.len()..connections {
            self.peers.push(self.connect(number).await);
        }
        self.began = Instant::now();
    }

    /// Waits until requests were refused because of this limit.
    async fn until_refused(&mut self, full: &str) {
        let series = format!("callers_refused_total{{full=\"{full}\"}}");
        wait_for(&format!("{full} to be refused"), async || {
            if metric(self.daemon, &series).await? > 20.0 {
                return Some(());
            }
            // On a slow machine the connections are ended before so many of their requests are answered.
            for number in 0..self.peers.len() {
                if self.peers[number].is_closed() {
                    self.peers[number] = self.connect(number).await;
                    self.began = Instant::now();
                }
            }
            None
        })
        .await;
    }
}

async fn assert_answered(daemon: &Daemon, route: &str) {
    let answer = daemon.call("GET", route, None).await.expect("an answer");
    assert!(
        matches!(answer.status, 200 | 503) && answer.body["error"].is_null(),
        "{route}: {}",
        answer.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_bounded_and_end_their_connection() {
    let (_world, daemon) = with_history(500).await;
    let list = "/api/v1/jobs?limit=1000";
    let one = daemon.call("GET", list, None).await.expect("an answer");
    assert!(
        one.body.to_string().len() > 600 << 10,
        "the answer is too short to tell"
    );
    let before = resident(&daemon);
    let mut flood = Flood::new(&daemon, list);
    // Fewer requests than an address may have in flight, and longer answers than may wait for it.
    flood.grow(6).await;
    flood.until_refused("answers").await;
    for route in ["/health", "/readyz", "/metrics", "/api/v1/jobs?limit=1"] {
        assert_answered(&daemon, route).await;
    }
    flood.grow(48).await;
    let quiet = Peer::connect(&daemon, &[], None).await;
    flood.until_refused("requests").await;
    // Unbounded these would be 24 x 32 answers of more than 600 KiB: half a GiB.
    let grown = resident(&daemon).saturating_sub(before);
    assert!(grown < 128 << 20, "{} MiB", grown >> 20);
    for route in ["/health", "/readyz", "/metrics"] {
        assert_answered(&daemon, route).await;
    }
    let Flood { peers, began, .. } = flood;
    wait_for("the connections to be ended", async || {
        (peers.iter().all(Peer::is_closed) && quiet.is_closed()).then_some(())
    })
    .await;
    assert!(
        began.elapsed() >= Duration::from_secs(29),
        "{:?}",
        began.elapsed()
    );
    let answer = daemon.call("GET", list, None).await.expect("an answer");
    assert_eq!(answer.status, 200, "there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_of_one_address_lock_nobody_out() {
    let world = World::new().await;
    let daemon = world.start();
    let mut peers = Vec::new();
    for _ in 0..200 {
        peers.push(Peer::connect(&daemon, &[], None).await);
    }
    let answer = daemon
        .call("GET", "/api/v1/jobs", None)
        .await
        .expect("an answer");
    assert_eq!(answer.status, 200);
    wait_for("the oldest to make room", async || {
        (peers.iter().filter(|peer| peer.is_closed()).count() > 72).then_some(())
    })
    .await;
    let open = peers.iter().filter(|peer| !peer.is_closed()).count();
    assert!(open >= 100, "{open} are open: those of the share stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_answered_while_all_places_are_taken_and_a_missing_body_times_out() {
    let world = World::new().await;
    let daemon = world.start();
    let request = "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n";
    let mut busy = Vec::new();
    for host in 1..=4 {
        for _ in 0..128 {
            busy.push(peer::from(host, &daemon, request).await);
        }
    }
    // Each request from a client of its own, so that each makes a connection.
    let ask = async |route: &str| -> Answer {
        let request = reqwest::Client::new().get(format!("{}{route}", daemon.url()));
        answer(request.send().await.expect("an answer"))
            .await
            .expect("a body")
    };
    // A connection that comes before the last of them is busy takes its place.
    let refused = wait_for("all to be busy", async || {
        let answer = ask("/api/v1/jobs").await;
        if answer.status != 503 {
            busy.push(peer::from(5, &daemon, request).await);
        }
        Some(answer).filter(|answer| answer.status == 503)
    })
    .await;
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    // However many connections there are in the reserve.
    for _ in 0..50 {
        for route in ["/health", "/readyz"] {
            let answer = ask(route).await;
            assert!(answer.body["error"].is_null(), "{route}: {answer:?}");
        }
    }
    let metrics = ask("/metrics").await;
    let series = "callers_refused_total{full=\"connections\"}";
    assert!(
        metrics.body.as_str().expect("a text").contains(series),
        "{metrics:?}"
    );
    // Connections that take places of the reserve and send no request do not keep them.
    let mut lurkers = Vec::new();
    for _ in 0..64 {
        lurkers.push(peer::from(9, &daemon, "").await);
    }
    assert_eq!(ask("/livez").await.status, 200);
    let mut first = busy.swap_remove(0);
    let mut text = String::new();
    first
        .read_to_string(&mut text)
        .await
        .expect("it is answered and closed");
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    assert!(text.contains("did not arrive within 30 s"), "{text}");
    wait_for("room for everybody", async || {
        (ask("/api/v1/jobs").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn event_streams_have_a_share_for_each_caller() {
    let (world, proxy) = World::with_faults().await;
    let tokens = format!("ci:{FULL}\ngrafana:read:{READ}\n");
    let world = with_tokens(world, &tokens);
    let url = world.put("a.qcow2", &image(32 * MIB, 20, 71).build());
    proxy.inject(Rule::new(Fault::StallAt(0)));
    let daemon = world.start().with_token(FULL);
    let job = daemon.provision(&url, "vm", 64 * MIB).await.expect("a job");
    let client = reqwest::Client::new();
    let events = format!("{}/api/v1/jobs/{job}/events", daemon.url());
    let open = async |token: &str| {
        let request = client.get(&events).bearer_auth(token);
        request.send().await.expect("an answer")
    };
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(open(FULL).await);
    }
    assert!(streams.iter().all(|stream| stream.status() == 200));
    let refused = answer(open(FULL).await).await.expect("a body");
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    let message = refused.body["message"].as_str().expect("a text");
    assert!(message.contains("event streams"), "{message}");
    assert_eq!(open(READ).await.status(), 200, "another caller has its own");
    streams.pop();
    wait_for("a place", async || {
        (open(FULL).await.status() == 200).then_some(())
    })
    .await;
    let cancelled = daemon
        .call("POST", &format!("/api/v1/jobs/{job}/cancel"), None)
        .await;
    assert_eq!(cancelled.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_list_of_jobs_is_cut_by_bytes_and_says_where_to_continue() {
    let (_world, daemon) = with_history(900).await;
    let (mut seen, mut offset, mut parts) = (BTreeSet::new(), 0, 0);
    loop {
        let route = format!("/api/v1/jobs?limit=1000&offset={offset}");
        let answer = daemon.call("GET", &route, None).await.expect("an answer");
        assert!(
            answer.body.to_string().len() < (1 << 20) + 1024,
            "part {parts} is too long"
        );
        let list: JobList = serde_json::from_value(answer.body).expect("a list");
        assert_eq!((list.total, list.count), (900, list.jobs.len()));
        parts += 1;
        seen.extend(list.jobs.iter().map(|job| job.job_id));
        let Some(next) = list.next_offset else { break };
        assert_eq!(
            usize::try_from(next).expect("it is small"),
            seen.len(),
            "nothing is skipped or shown twice"
        );
        offset = next;
    }
    assert_eq!(seen.len(), 900);
    assert!(parts > 1, "one part held them all");
    let short: JobList = daemon.get("/api/v1/jobs?limit=10").await.expect("a list");
    assert_eq!(
        (short.count, short.next_offset),
        (10, None),
        "a list that is whole has no next part"
    );
}
