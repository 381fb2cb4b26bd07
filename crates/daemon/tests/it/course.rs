//! The course of a job: what it waits for, what bounded it, its time line and its log.

use std::time::Duration;

use lvp_api::{
    Bound, Cause, CheckStatus, DoctorReport, History, HostStatus, JobLog, JobState, Lane, Timeline,
    WaitsFor,
};
use lvp_image::builder::ImageBuilder;
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::require::{command, require};

use crate::support::{MIB, World, accepted, completed, ended, image};

/// Bytes that no codec makes smaller.
fn random(disk_bytes: u64, seed: u64) -> Vec<u8> {
    let builder: ImageBuilder = image(disk_bytes, disk_bytes >> 16, seed);
    builder.build()
}

async fn timeline(daemon: &Daemon, job: &str) -> Timeline {
    let route = format!("/api/v1/jobs/{job}/timeline");
    daemon.get(&route).await.expect("a time line")
}

async fn log(daemon: &Daemon, job: &str) -> JobLog {
    let route = format!("/api/v1/jobs/{job}/log");
    daemon.get(&route).await.expect("a log")
}

#[track_caller]
fn assert_mostly(what: &str, bound: Option<Bound>, cause: Cause) {
    let bound = bound.expect("it was measured");
    let shares: f64 = Cause::ALL.map(|cause| bound.share(cause)).iter().sum();
    assert!((shares - 100.0).abs() < 0.5, "{what}: {bound:?}");
    assert_eq!(bound.by, cause, "{what}: {bound:?}");
    assert!(bound.share(cause) > 60.0, "{what}: {bound:?}");
}

#[tokio::test]
async fn a_job_from_a_slow_store_was_bounded_by_the_network() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("MINIO_PARALLEL_RANGES", "1");
    let url = world.put("a.qcow2", &random(24 * MIB, 1));
    proxy.inject(Rule::new(Fault::Slow(4 << 20)).method("GET"));
    let daemon = world.start();
    let status = completed(&daemon, &url, "vm", 24 * MIB).await;
    assert_mostly("slow store", status.bound, Cause::Network);

    // The same says the program for people, with what to do about it.
    if require("lvpctl") {
        let lvpctl = |arguments: &[&str]| {
            let run = command("lvpctl")
                .args(["--endpoint", daemon.url()])
                .args(arguments)
                .output();
            String::from_utf8(run.expect("it runs").stdout).expect("text")
        };
        let id = status.job_id.to_string();
        let said = lvpctl(&["explain", &id]);
        assert!(said.contains("went to the network"), "{said}");
        assert!(said.contains("To make it faster"), "{said}");
        assert!(said.contains("downloading"), "{said}");
        let said = lvpctl(&["log", "-f", &id]);
        assert!(said.contains("Job started"), "{said}");
        assert!(said.trim_end().ends_with("Job completed"), "{said}");
    }
}

#[tokio::test]
async fn a_job_under_a_limit_of_reads_or_writes_was_bounded_by_the_limit() {
    for limit in [
        "MINIO_MAX_READ_BYTES_PER_SEC",
        "LVM_MAX_WRITE_BYTES_PER_SEC",
    ] {
        let world = World::new().await.with(limit, "4M");
        let url = world.put("a.qcow2", &random(24 * MIB, 1));
        let daemon = world.start();
        let status = completed(&daemon, &url, "vm", 24 * MIB).await;
        assert_mostly(limit, status.bound, Cause::Limit);
    }
}

#[tokio::test]
async fn a_job_that_decodes_much_was_bounded_by_the_cpu() {
    let world = World::new().await;
    // Digits, which take xz longer to decode than any disk takes to write them.
    let dir = tempfile::tempdir().expect("there is room");
    let path = dir.path().join("a.raw");
    let mut random = 1_u64;
    let digits = (0..48 * MIB).map(|_| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        b"0123456789abcdef"[(random >> 60) as usize]
    });
    let pattern: Vec<u8> = digits.collect();
    std::fs::write(&path, pattern).expect("it is written");
    let packed = command("xz").args(["-0", "-T1"]).arg(&path).status();
    assert!(packed.expect("xz starts").success());
    let packed = std::fs::read(dir.path().join("a.raw.xz")).expect("it is there");
    world.put("a.raw.xz", &packed);
    let daemon = world.start();
    let body = serde_json::json!({
        "image_url": "s3://images/a.raw.xz", "volume_name": "vm", "volume_size_bytes": 48 * MIB,
        "image_type": "raw",
    });
    let job = daemon.submit("/api/v1/jobs", body).await.expect("a job");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    let bound = status.bound.expect("it was measured");
    // How fast this machine's disk is, nobody knows.
    assert!(
        bound.cpu > bound.network + bound.limit + bound.queue,
        "{bound:?}"
    );
    assert!(bound.cpu > 15.0, "{bound:?}");
}

#[tokio::test]
async fn a_job_that_waits_for_a_place_or_another_job_was_bounded_by_the_queue() {
    let world = World::new().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let world = world.with("MINIO_MAX_READ_BYTES_PER_SEC", "8M");
    let (slow, quick) = (
        world.put("slow.qcow2", &random(24 * MIB, 1)),
        world.put("quick.qcow2", &random(2 * MIB, 2)),
    );
    let daemon = world.start();
    let first = accepted(&daemon, &slow, "vm-1", 24 * MIB).await;
    let second = accepted(&daemon, &quick, "vm-2", 2 * MIB).await;
    let status = daemon.ended(&second).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert_mostly("a place", status.bound, Cause::Queue);
    let stages = timeline(&daemon, &second).await.stages;
    let queued = stages.iter().find(|time| time.stage == Lane::Queued);
    let queued = queued.and_then(|time| time.end_sec).expect("it waited");
    let first = timeline(&daemon, &first).await.stages;
    let end = first
        .iter()
        .filter_map(|time| time.end_sec)
        .fold(0.0, f64::max);
    assert!(queued > end / 2.0, "{stages:?} after {first:?}");
}

#[tokio::test]
async fn a_time_line_has_the_stages_as_they_overlapped_and_every_byte() {
    let world = World::new().await;
    let world = world.with("MINIO_MAX_READ_BYTES_PER_SEC", "16M");
    let bytes = random(24 * MIB, 1);
    let url = world.put("a.qcow2", &bytes);
    let daemon = world.start();
    let status = completed(&daemon, &url, "vm", 24 * MIB).await;
    let found = timeline(&daemon, &status.job_id.to_string()).await;
    let time = |lane: Lane| {
        let time = found.stages.iter().find(|time| time.stage == lane);
        let time = time.unwrap_or_else(|| panic!("no {lane}: {found:?}"));
        (time.begin_sec, time.end_sec.expect("it has ended"))
    };
    let (download, convert) = (time(Lane::Downloading), time(Lane::Converting));
    assert!(time(Lane::Queued).0 == 0.0, "{found:?}");
    let before = time(Lane::Initializing);
    assert!(
        time(Lane::Queued).1 <= before.0 && before.1 <= download.0,
        "{found:?}"
    );
    assert!(
        convert.0 < download.1 && convert.1 >= download.1,
        "{found:?}"
    );
    assert!(time(Lane::Finalizing).0 >= convert.1, "{found:?}");
    let rates = found.rates.expect("it was measured");
    let sum = |series: &[u64]| series.iter().sum::<u64>();
    assert_eq!(sum(&rates.downloaded), bytes.len() as u64);
    assert_eq!(sum(&rates.decoded), 24 * MIB);
    assert!(sum(&rates.written) > 20 * MIB, "{rates:?}");
    assert_eq!(rates.downloaded.len(), rates.written.len());
    // The same after a restart, from the database.
    daemon.kill().expect("it is killed");
    let daemon = world.start();
    let again = timeline(&daemon, &status.job_id.to_string()).await;
    assert_eq!(again.stages, found.stages);
    assert_eq!((again.rates, again.bound), (Some(rates), found.bound));
}

#[tokio::test]
async fn a_job_whose_store_is_gone_says_what_it_waits_for_and_that_it_is_over() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("MINIO_MAX_READ_BYTES_PER_SEC", "8M").with(
        "MINIO_RETRY_BACKOFF_MS",
        "100,1000,1000,1000,5000,5000,5000,5000,5000",
    );
    // For long enough that it is still under way when that is seen on a busy machine.
    let url = world.put("a.qcow2", &random(96 * MIB, 1));
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm", 96 * MIB).await;
    crate::support::fetched(&daemon, &job, 2 * MIB).await;
    proxy.go_down().await;
    let waiting = wait_for("the job to wait", async || {
        let waiting = daemon.status(&job).await.ok()?.waiting?;
        (waiting.attempt >= 2).then_some(waiting)
    })
    .await;
    assert_eq!(waiting.on, WaitsFor::ObjectStore);
    assert!(waiting.reason.contains("refused"), "{waiting:?}");
    assert!(!waiting.since.is_empty());
    proxy.come_up().await.expect("it listens");
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert_eq!(status.waiting, None);
    // One line when it began, and one when it was over; in the daemon's log and in the job's.
    let said = |start: &str| {
        let lines = daemon.log().into_iter().filter(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            message.starts_with(start) && line["job_id"] == job.as_str()
        });
        lines.map(|line| line["level"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(said("Job waits for the object store"), ["warn"]);
    assert_eq!(said("Job continues: the object store is back"), ["info"]);
    let lines = log(&daemon, &job).await.lines;
    let of_wait = lines
        .iter()
        .filter(|line| line.text.starts_with("Job waits"));
    assert_eq!(of_wait.count(), 1, "{lines:?}");
    let stages = timeline(&daemon, &job).await.stages;
    let waited = stages.iter().find(|time| time.stage == Lane::Waiting);
    assert!(
        waited.is_some_and(|time| time.end_sec.is_some()),
        "{stages:?}"
    );
}

#[tokio::test]
async fn a_log_is_kept_with_its_job_and_its_texts_are_printable() {
    let world = World::new().await;
    let daemon = world.start();
    let hostile = "s3://images/\u{202e}<img src=x onerror=alert(1)>.qcow2";
    let status = ended(&daemon, hostile, "vm", MIB).await;
    assert_eq!(status.status, JobState::Failed, "{status:?}");
    let id = status.job_id.to_string();
    let lines = log(&daemon, &id).await.lines;
    assert!(lines[0].text.starts_with("Job started"), "{lines:?}");
    let last = lines.last().expect("there are some");
    assert_eq!(last.level, "error");
    assert!(last.text.contains("not_found"), "{last:?}");
    let printable = |text: &str| text.chars().all(|c| !c.is_control() && c != '\u{202e}');
    assert!(lines.iter().all(|line| printable(&line.text)), "{lines:?}");
    // After a line that the client has.
    let route = format!("/api/v1/jobs/{id}/log?after={}", lines[0].number);
    let later: JobLog = daemon.get(&route).await.expect("a log");
    assert_eq!(later.lines, lines[1..]);
    // It outlives the daemon, and not the job.
    daemon.kill().expect("it is killed");
    let daemon = world.start();
    assert_eq!(log(&daemon, &id).await.lines, lines);
    daemon.kill().expect("it is killed");
    let world = world
        .with("JOBS_RETENTION", "1ms")
        .with("CACHE_EVICTION_INTERVAL", "100ms");
    let daemon = world.start();
    wait_for("the job to be forgotten", async || {
        let route = format!("/api/v1/jobs/{id}/log");
        let answer = daemon.call("GET", &route, None).await.ok()?;
        (answer.status == 404).then_some(())
    })
    .await;
    daemon.signal("TERM").expect("it is told");
    daemon.wait().expect("it ends");
    let database = rusqlite::Connection::open(world.home.path().join("jobs.db"));
    let rows = database
        .expect("it opens")
        .query_row("SELECT count(*) FROM courses", [], |row| {
            row.get::<_, i64>(0)
        });
    assert_eq!(rows.expect("it is read"), 0);
}

#[tokio::test]
async fn a_crash_loses_no_more_of_a_course_than_the_last_moments() {
    let world = World::new().await;
    let world = world.with("MINIO_MAX_READ_BYTES_PER_SEC", "1M");
    let url = world.put("a.qcow2", &random(24 * MIB, 1));
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm", 24 * MIB).await;
    tokio::time::timeout(
        Duration::from_secs(60),
        wait_for("the course to be kept", async || {
            let stages = timeline(&daemon, &job).await.stages;
            let download = stages.iter().find(|time| time.stage == Lane::Downloading)?;
            let kept = rusqlite::Connection::open_with_flags(
                world.home.path().join("jobs.db"),
                rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
            )
            .ok()?
            .query_row("SELECT count(*) FROM courses", [], |row| {
                row.get::<_, i64>(0)
            });
            (kept.ok()? == 1 && download.begin_sec > 0.0).then_some(())
        }),
    )
    .await
    .expect("it is kept");
    daemon.kill().expect("it is killed");
    let world = world.with("MINIO_MAX_READ_BYTES_PER_SEC", "0");
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    let starts = log(&daemon, &job).await.lines;
    let starts = starts
        .iter()
        .filter(|line| line.text.starts_with("Job started"));
    assert_eq!(starts.count(), 2);
    let stages = timeline(&daemon, &job).await.stages;
    let downloads = stages.iter().filter(|time| time.stage == Lane::Downloading);
    assert!(downloads.count() >= 2, "{stages:?}");
    assert_mostly("the limit of the first run", status.bound, Cause::Limit);
}

#[tokio::test]
async fn the_host_tells_of_its_last_day_and_what_doctor_finds_without_touching_the_database() {
    let world = World::new().await;
    let world = world.with(
        "UI_TRACE_URL",
        "https://jaeger.example.com/trace/{trace_id}",
    );
    let bytes = random(8 * MIB, 1);
    let url = world.put("a.qcow2", &bytes);
    let daemon = world.start();
    completed(&daemon, &url, "vm-1", 8 * MIB).await;
    let failed = ended(&daemon, "s3://images/none.qcow2", "vm-2", 8 * MIB).await;
    assert_eq!(failed.status, JobState::Failed, "{failed:?}");
    let history: History = daemon.get("/api/v1/history").await.expect("a history");
    let sum = |series: &[u64]| series.iter().sum::<u64>();
    assert_eq!(history.completed.len(), 96);
    assert_eq!(
        (
            sum(&history.completed),
            sum(&history.failed),
            sum(&history.cancelled)
        ),
        (1, 1, 0)
    );
    assert_eq!(sum(&history.fetched_bytes), bytes.len() as u64);
    assert!(sum(&history.written_bytes) > 0, "{history:?}");
    // The last intervals, as they ended just now.
    assert_eq!(sum(&history.completed[94..]), 1, "{history:?}");

    let host = wait_for("the first probes", async || {
        let host: HostStatus = daemon.get("/api/v1/host").await.ok()?;
        host.readiness.ready.then_some(host)
    })
    .await;
    assert!(
        host.readiness
            .dependencies
            .values()
            .all(|state| state.since.is_some()),
        "{host:?}"
    );
    assert_eq!(host.cache.expect("it is measured").images, 1);
    assert!(host.volumes.expect("it is measured").free_bytes > 0);
    assert_eq!(
        host.trace_url.as_deref(),
        Some("https://jaeger.example.com/trace/{trace_id}")
    );

    let doctor = async || {
        daemon
            .get::<DoctorReport>("/api/v1/doctor")
            .await
            .expect("a report")
    };
    let report = doctor().await;
    let store = report
        .checks
        .iter()
        .find(|check| check.check == "s3.endpoint");
    assert!(
        store.is_some_and(|check| check.status == CheckStatus::Ok),
        "{report:?}"
    );
    assert!(
        report.checks.iter().all(|check| check.check != "database"),
        "{report:?}"
    );
    // The same report for whoever asks soon again, and the database is as locked as before.
    assert_eq!(doctor().await, report);
    let second = format!("{:#}", world.home.start().expect_err("it starts"));
    assert!(second.contains("The database"), "{second}");
    completed(&daemon, &url, "vm-3", 8 * MIB).await;
}
