//! The decoding process as the host sees it, and what an operator is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lvp_api::JobState;
use lvp_image::convert::{ConvertOptions, convert};
use lvp_image::copy::{CopyOptions, TailPolicy};
use lvp_image::format::ImageType;
use lvp_testkit::daemon::{Home, wait_for};
use lvp_testkit::require::command;
use lvp_testkit::s3::S3;
use serde_json::json;

use super::{Start, engine, hostile, image_with};
use crate::support::{BINARY, MIB, World, ended, metric};

/// The decoding processes of a daemon.
fn decoders(daemon: u32) -> Vec<PathBuf> {
    let mut found = children(daemon);
    found.retain(|process| {
        let line = fs::read(process.join("cmdline"));
        line.is_ok_and(|line| line.starts_with(b"lvp-decoder\0"))
    });
    found
}

/// The nice value of a process's first thread.
fn niceness(process: &Path) -> Option<i32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(16)?.parse().ok()
}

/// The processes that a process has started and that run.
fn children(process: u32) -> Vec<PathBuf> {
    let is_child = |child: &PathBuf| {
        let stat = fs::read_to_string(child.join("stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        let parent: u32 = fields.next()?.parse().ok()?;
        (state != "Z" && parent == process).then_some(())
    };
    fs::read_dir("/proc")
        .expect("it is mounted")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|child| is_child(child).is_some())
        .collect()
}

#[tokio::test]
async fn the_decoding_process_has_no_rights_no_files_and_no_environment() {
    let world = World::new().await.with("IMAGE_SANDBOX", "require");
    let daemon = world.start();
    let process = wait_for("a process in advance", async || {
        decoders(daemon.pid()).into_iter().next()
    })
    .await;
    // The daemon says that it is ready only after the process did.
    let status = fs::read_to_string(process.join("status")).expect("it runs");
    for line in [
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    if rustix::process::geteuid().is_root() {
        assert!(
            status.contains("Uid:\t65534\t65534\t65534\t65534"),
            "{status}"
        );
        // In a changed root, among others, the kernel makes no user namespaces.
        let mut unshare = command("unshare");
        let unshared = unshare.args(["--user", "true"]).output();
        let are_made = unshared.expect("it starts").status.success();
        let namespaces = ["user", "net", "ipc", "mnt", "uts"];
        for namespace in namespaces.iter().filter(|_| are_made) {
            let of = |process: &Path| {
                fs::read_link(process.join("ns").join(namespace)).expect("it runs")
            };
            assert_ne!(of(&process), of(Path::new("/proc/self")), "{namespace}");
        }
    }
    // Whoever answers requests comes first.
    let daemon_niceness = niceness(&Path::new("/proc").join(daemon.pid().to_string()));
    let lower = daemon_niceness.map(|value| (value + 5).min(19));
    assert_eq!(niceness(&process), lower);
    let score = fs::read_to_string(process.join("oom_score_adj")).expect("it runs");
    assert_eq!(score.trim(), "1000");
    assert_eq!(fs::read(process.join("environ")).expect("it runs"), b"");
    let limits = fs::read_to_string(process.join("limits")).expect("it runs");
    for limit in [
        "Max open files",
        "Max file size",
        "Max core file size",
        "Max processes",
    ] {
        let line = limits.lines().find(|line| line.starts_with(limit));
        let line = line.unwrap_or_else(|| panic!("{limit}: {limits}"));
        let numbers: Vec<&str> = line[limit.len()..].split_whitespace().take(2).collect();
        assert_eq!(numbers, ["0", "0"], "{limit}");
    }
    let mut descriptors: Vec<String> = fs::read_dir(process.join("fd"))
        .expect("it runs")
        .map(|entry| {
            let target = fs::read_link(entry.expect("it runs").path()).expect("it runs");
            let target = target.display().to_string();
            target.split('[').next().unwrap_or_default().to_owned()
        })
        .collect();
    descriptors.sort();
    descriptors.dedup();
    assert_eq!(
        descriptors,
        ["/dev/null", "/memfd:lvp-decode (deleted)", "socket:"]
    );
}

#[tokio::test]
async fn a_process_serves_one_job_and_ends_with_it_and_with_the_daemon() {
    let world = World::new().await;
    let image = image_with(None);
    let url = world.put("a.qcow2", &image.build());
    let daemon = world.start();
    let first = wait_for("a process in advance", async || {
        decoders(daemon.pid()).into_iter().next()
    })
    .await;
    let status = ended(&daemon, &url, "vm-1", 16 * MIB).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    wait_for("the process to end with its job", async || {
        (!first.exists()).then_some(())
    })
    .await;
    let next = wait_for("the next one", async || {
        let running = decoders(daemon.pid());
        (running.len() == 1).then(|| running[0].clone())
    })
    .await;
    assert_ne!(next, first);
    drop(daemon);
    wait_for("the process to end with the daemon", async || {
        (!next.exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_operator_is_told_what_a_hostile_image_did_and_the_daemon_goes_on() {
    let s3 = S3::start().await.expect("the S3 server starts");
    let home = Home::new(hostile().to_str().expect("text"), s3.endpoint());
    let home = home.expect("there is room for a home");
    let world = World { s3, home };
    let good = image_with(None);
    let good_url = world.put("good.qcow2", &good.build());
    let daemon = world.start();
    for (word, told) in [
        (
            "read-shadow",
            "it tried a system call that decoding does not need",
        ),
        ("crash", "crashed (signal 6)"),
        ("out-of-turn", "answered something else than it was asked"),
    ] {
        let bad = image_with(Some(word));
        let url = world.put(&format!("{word}.qcow2"), &bad.build());
        let name = format!("vm-{word}");
        let good_name = format!("{name}-good");
        let (failed, other) = tokio::join!(
            ended(&daemon, &url, &name, 16 * MIB),
            ended(&daemon, &good_url, &good_name, 16 * MIB),
        );
        assert_eq!(failed.status, JobState::Failed, "{word}: {failed:?}");
        assert_eq!(
            failed.error_type.as_deref(),
            Some("decoder"),
            "{word}: {failed:?}"
        );
        let error = failed.error.clone().unwrap_or_default();
        assert!(error.contains(told), "{word}: {error}");
        assert!(failed.remedy.is_some(), "{word}: {failed:?}");
        assert_eq!(other.status, JobState::Completed, "{word}: {other:?}");
        let disk = fs::read(world.home.volume(&good_name)).expect("it is there");
        assert!(
            disk[..8 << 20] == good.disk(),
            "{word}: the other disk is wrong"
        );
    }
    for (reason, failed) in [("ended", 2.0), ("lied", 1.0), ("hung", 0.0)] {
        let series = format!("decoder_processes_failed_total{{reason=\"{reason}\"}}");
        assert_eq!(metric(&daemon, &series).await, Some(failed), "{reason}");
    }
    let started = metric(&daemon, "decoder_processes_started_total").await;
    assert!(started.is_some_and(|count| count >= 6.0), "{started:?}");
}

#[tokio::test]
async fn an_attack_while_an_unpacked_copy_is_made_ends_the_job() {
    let s3 = S3::start().await.expect("the S3 server starts");
    let home = Home::new(hostile().to_str().expect("text"), s3.endpoint());
    let home = home.expect("there is room for a home");
    let world = World { s3, home }.with("CACHE_UNPACKED", "always");
    let url = world.put("bad.qcow2", &image_with(Some("crash")).build());
    let daemon = world.start();
    let fetch = json!({ "image_url": url });
    let fetch = daemon.submit("/api/v1/cache/fetch", fetch).await;
    let fetched = daemon.ended(&fetch.expect("accepted")).await;
    let fetched = fetched.expect("it ends");
    assert_eq!(fetched.status, JobState::Completed, "{fetched:?}");
    let failed = ended(&daemon, &url, "vm-1", 16 * MIB).await;
    assert_eq!(failed.error_type.as_deref(), Some("decoder"), "{failed:?}");
    // There was no second decoder to be attacked.
    let tries_again = |note: &String| note.contains("No unpacked copy");
    assert!(!failed.notes.iter().any(tries_again), "{failed:?}");
    assert!(!world.home.volume("vm-1").exists());
}

#[tokio::test]
async fn a_job_does_not_gather_processes_whose_lanes_are_used_up() {
    let engine = engine(Start::hostile(), Duration::from_secs(60)).for_job();
    let directory = tempfile::tempdir().expect("there is room");
    let source = directory.path().join("image");
    fs::write(&source, image_with(None).build()).expect("there is room");
    for number in 0..12 {
        let options = ConvertOptions {
            copy: CopyOptions::new(&engine, TailPolicy::Zero),
            verify_first: false,
            max_bytes: None,
        };
        let target = directory.path().join(format!("disk-{number}"));
        convert(&source, ImageType::Qcow2, &target, &options).expect("it is sound");
    }
    // At most two that the last copy has used, and one in advance.
    wait_for("the others to be gone", async || {
        (children(std::process::id()).len() <= 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_sandbox_images_are_decoded_in_the_daemon_and_doctor_says_so() {
    let world = World::new().await.with("IMAGE_SANDBOX", "off");
    let image = image_with(None);
    let url = world.put("a.qcow2", &image.build());
    let daemon = world.start();
    let status = ended(&daemon, &url, "vm-1", 16 * MIB).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert_eq!(decoders(daemon.pid()), Vec::<PathBuf>::new());
    assert_ne!(BINARY, "");
}
