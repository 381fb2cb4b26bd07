//! A volume group that goes away, a clock that jumps, and commands that hang.

use std::fs::File;
use std::time::{Duration, Instant};

use lvp_api::{JobState, Progress};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::lvm::tool;

use super::{has_tag, world};
use crate::dependencies::becomes;
use crate::support::{MIB, image, metric};

const JUMPED: &str = "The clock jumped: nothing expires by age until the next round";

/// Sets the clock, which is this kernel's alone.
fn set_clock(by_secs: i64) {
    let now: i64 = tool("date +%s").parse().expect("seconds");
    tool(&format!("date --set=@{}", now + by_secs));
}

/// And at once when a job missed it.
pub(crate) async fn the_probe_asks_for_the_volume_group_itself() {
    let (world, _) = world().await;
    let url = world.put("a.qcow2", &image(8 * MIB, 20, 1).build());
    let daemon = world.start();
    becomes(&daemon, "lvm", 1.0).await;
    let size = metric(&daemon, r#"volumes_size_bytes{backend="lvm"}"#).await;
    assert!(size > Some(0.0), "{size:?}");
    tool("vgrename -qq vg0 vg9");
    let missed = daemon.provision(&url, "vm", 8 * MIB).await;
    becomes(&daemon, "lvm", 0.0).await;
    let missed = daemon.ended(&missed.expect("a job")).await;
    assert_eq!(missed.expect("it ends").status, JobState::Failed);
    tool("vgrename -qq vg9 vg0");
    becomes(&daemon, "lvm", 1.0).await;
}

pub(crate) async fn a_clock_that_jumps_ends_no_job_and_forgets_nothing() {
    const JUMP_SECS: i64 = 400 * 24 * 3600;
    let (world, proxy) = world().await;
    let world = world.with("CACHE_EVICTION_INTERVAL", "4s");
    let url = world.put("a.qcow2", &image(8 * MIB, 20, 1).build());
    let daemon = world.start();
    let first = daemon.provision(&url, "vm", 8 * MIB).await;
    let first = first.expect("it is accepted");
    daemon.ended(&first).await.expect("it ends");
    proxy.inject(Rule::new(Fault::Slow(300_000)).method("GET"));
    let large = world.put("b.qcow2", &image(24 * MIB, 100, 3).build());
    let job = daemon.provision(&large, "vm-2", 24 * MIB).await;
    let job = job.expect("it is accepted");
    let progress = async || {
        let progress = daemon.status(&job).await.ok()?.progress?;
        Some(progress).filter(|progress| progress.bytes_processed > 0)
    };
    let mut last = wait_for("the first bytes", progress).await;
    // Forward, and then to as long before the start.
    for by_secs in [JUMP_SECS, -2 * JUMP_SECS] {
        set_clock(by_secs);
        last = wait_for("more bytes", async || {
            let more = |now: &Progress| now.bytes_processed > last.bytes_processed;
            progress().await.filter(more)
        })
        .await;
        let eta_secs = last.overall_eta_sec;
        assert!(eta_secs.is_none_or(|secs| secs < 3600.0), "{eta_secs:?}");
        if by_secs > 0 {
            daemon.until_said(JUMPED).await;
        }
    }
    let health = daemon.call("GET", "/health", None).await.expect("it lives");
    let uptime = health.body["uptime"].as_str().unwrap_or_default();
    assert!(!uptime.contains('h'), "{uptime}");
    set_clock(JUMP_SECS);
    proxy.clear();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    let status = daemon.status(&first).await.expect("it is known still");
    assert_eq!(status.status, JobState::Completed);
    assert_eq!(world.home.cache_files().len(), 2);
}

/// The processes of this name.
fn processes(name: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    let names = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok());
    names.filter(|found| found.trim() == name).count()
}

pub(crate) async fn any_number_of_callers_for_the_volumes_cost_one_lvs_at_a_time() {
    let (world, _proxy) = world().await;
    let daemon = world.start();
    becomes(&daemon, "lvm", 1.0).await;
    wait_for("the first look at the volumes to end", async || {
        (processes("lvs") == 0).then_some(())
    })
    .await;
    let lock = File::options()
        .append(true)
        .create(true)
        .open("/run/lock/lvm/V_vg0")
        .expect("it opens");
    lock.lock().expect("it is free");
    let client = reqwest::Client::new();
    let ask = || {
        let request = client.get(format!("{}/api/v1/volumes", daemon.url()));
        tokio::spawn(async move { request.send().await.expect("an answer").status() })
    };
    // The one whose request began the look goes away, and so do some who wait.
    let first = ask();
    wait_for("a look", async || (processes("lvs") == 1).then_some(())).await;
    let callers: Vec<_> = (0..100).map(|_| ask()).collect();
    first.abort();
    callers
        .iter()
        .take(20)
        .for_each(tokio::task::JoinHandle::abort);
    wait_for("all to have asked", async || {
        let tasks = metric(&daemon, "tokio_tasks").await?;
        (tasks > 80.0).then_some(())
    })
    .await;
    assert_eq!(processes("lvs"), 1);
    drop(lock);
    for caller in callers.into_iter().skip(20) {
        assert_eq!(caller.await.expect("it asks"), 200);
    }
}

pub(crate) async fn a_stuck_lvm_holds_up_neither_the_api_nor_the_stop() {
    let (world, _proxy) = world().await;
    let world = world.with("SHUTDOWN_GRACE", "1s");
    let url = world.put("a.qcow2", &image(8 * MIB, 20, 1).build());
    // LVM removes the file whenever nobody holds the lock.
    let lock = File::options()
        .append(true)
        .create(true)
        .open("/run/lock/lvm/V_vg0")
        .expect("it opens");
    lock.lock().expect("it is free");
    // Every command hangs from here on. It stops before its first probe has had an answer,
    let daemon = world.start();
    let told = Instant::now();
    daemon.signal("TERM").expect("it is told");
    daemon.wait().expect("it ends");
    let took = told.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    // and serves and stops while a job hangs.
    let daemon = world.start();
    let job = daemon.provision(&url, "vm", 8 * MIB).await;
    let job = job.expect("it is accepted");
    wait_for("the job to run", async || {
        let status = daemon.status(&job).await.ok()?.status;
        (status == JobState::Running).then_some(())
    })
    .await;
    for route in ["/health", "/readyz", "/metrics", "/api/v1/jobs"] {
        let asked = Instant::now();
        let answer = daemon.call("GET", route, None).await.expect("an answer");
        assert!(answer.status == 200 || route == "/readyz", "{answer:?}");
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(3), "{route} took {took:?}");
    }
    let told = Instant::now();
    daemon.signal("TERM").expect("it is told");
    let status = daemon.wait().expect("it ends");
    assert!(status.success(), "{status}");
    let took = told.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    drop(lock);
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(has_tag("vm", "lvp.state=ready"));
}
