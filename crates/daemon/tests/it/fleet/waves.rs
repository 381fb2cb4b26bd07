//! Never more hosts at once than told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lvp_testkit::daemon::{Daemon, wait_for};
use serde_json::Value;

use super::{Fleet, Said as _, jobs};

pub(super) const WAVE: [&str; 6] = [
    "--all",
    "--hosts-at-once",
    "1",
    "--silence",
    "3s",
    "--deadline=1h",
];

/// Looks all the time at how many hosts have a job that runs.
pub(super) struct Observer {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Observer {
    pub(super) fn of(hosts: &[Daemon]) -> Self {
        let (most, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let urls: Vec<_> = hosts.iter().map(|host| host.url().to_owned()).collect();
        let (seen, stopped) = (Arc::clone(&most), Arc::clone(&stop));
        let client = reqwest::Client::builder()
            .timeout(Duration::from_millis(500))
            .build()
            .expect("a client");
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Acquire) {
                let asked = urls.iter().map(|url| {
                    let asked = client
                        .get(format!("{url}/api/v1/jobs?status=running"))
                        .send();
                    async move { asked.await.ok()?.json::<Value>().await.ok()?["total"].as_u64() }
                });
                let running = futures::future::join_all(asked).await;
                let sum = running.into_iter().flatten().sum();
                seen.fetch_max(sum, Ordering::AcqRel);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { most, stop, task }
    }

    pub(super) async fn most(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.task.await.expect("it ends");
        self.most.load(Ordering::Acquire)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_take_turns_and_never_two_work_at_once() {
    let Some(fleet) = Fleet::new(3).await else {
        return;
    };
    let fleet = fleet.with("MINIO_MAX_READ_BYTES_PER_SEC", "2M");
    let hosts = fleet.start();
    let image = fleet.image("a.qcow2", 12);
    let observer = Observer::of(&hosts);
    fleet.prewarm(&image, &WAVE).ok("the order");
    fleet.ctl(&["watch", "o", "--timeout", "55s"]).ok("watch");
    assert_eq!(observer.most().await, 1);
    for host in &hosts {
        assert_eq!(jobs(host).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dies_loses_its_place_and_waits_for_another_when_it_is_back() {
    let Some(fleet) = Fleet::new(2).await else {
        return;
    };
    let fleet = fleet.with("MINIO_MAX_READ_BYTES_PER_SEC", "1M");
    let mut hosts = fleet.start();
    let image = fleet.image("a.qcow2", 16);
    fleet.prewarm(&image, &WAVE).ok("the order");
    let first = wait_for("one to work", async || {
        (1..=2).find(|host| fleet.state("o", *host) == "running")
    })
    .await;
    let other = 3 - first;
    assert_eq!(fleet.state("o", other), "waiting");
    hosts.remove(first - 1).kill().expect("it is killed");
    hosts.insert(
        first - 1,
        fleet.homes[first - 1].start().expect("it starts again"),
    );
    let observer = Observer::of(&hosts);
    // Its job is not resumed before it has a place again: that is the other's now, or its own anew.
    let watched = fleet.ctl(&["watch", "o", "--timeout", "58s"]);
    watched.ok("watch");
    assert!(observer.most().await <= 1);
    for host in &hosts {
        let jobs = jobs(host).await;
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        assert_eq!(jobs[0]["status"], "completed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_reach_the_broker_stops_before_its_place_is_taken() {
    let Some(fleet) = Fleet::new(1).await else {
        return;
    };
    let mut fleet = fleet.with("MINIO_MAX_READ_BYTES_PER_SEC", "512K");
    let host = fleet.start().remove(0);
    let image = fleet.image("a.qcow2", 12);
    fleet.prewarm(&image, &WAVE).ok("the order");
    fleet.until("o", 1, "running").await;
    fleet.nats.kill().expect("the broker is killed");
    host.until_said("This host has lost its turn, as it could not renew it: its jobs stop, and go on with the next").await;
    wait_for("the job to wait", async || {
        let jobs = jobs(&host).await;
        (jobs[0]["status"] == "pending").then_some(())
    })
    .await;
    fleet.nats.run().expect("the broker starts");
    fleet.ctl(&["watch", "o", "--timeout", "58s"]).ok("watch");
    let jobs = jobs(&host).await;
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0]["status"], "completed", "{jobs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_failures_stop_a_wave() {
    let Some(fleet) = Fleet::new(3).await else {
        return;
    };
    let hosts = fleet.start();
    let (_, digest) = fleet.image("a.qcow2", 4);
    let none = ("s3://images/none.qcow2".to_owned(), digest);
    let ordered = fleet.prewarm(
        &none,
        &[
            &WAVE[..],
            &["--max-failures", "0", "--wait", "--timeout", "55s"],
        ]
        .concat(),
    );
    ordered.code(1);
    let counts = fleet.status("o")["counts"].clone();
    assert_eq!(counts, serde_json::json!({"failed": 1, "cancelled": 2}));
    let mut made = 0;
    for host in &hosts {
        made += jobs(host).await.len();
    }
    assert_eq!(made, 1);
}
