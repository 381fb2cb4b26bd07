//! The daemon on a thin pool.

#![expect(clippy::print_stdout, reason = "what was measured")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use lvp_api::{JobState, Method, VolumeKind, VolumeList};
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::lvm::{self, device, tool};
use serde_json::json;

use super::{DISK_MIB, has_tag};
use crate::support::{MIB, World, completed, ended, image, metric};

/// Seconds for which a job waits in vain.
const BRIEF: u64 = 8;

/// How often each is timed.
const TIMES: usize = 5;

async fn world(pool_mib: u64) -> World {
    world_on(DISK_MIB, pool_mib, 4).await
}

/// A group of this size, and a pool with metadata of this size, in MiB.
pub(super) async fn world_on(disk_mib: u64, pool_mib: u64, metadata_mib: u64) -> World {
    lvm::remove_group();
    lvm::make_group(&lvm::slice(1, disk_mib));
    lvm::fill_with_marker(100);
    tool(&format!(
        "lvcreate -qq --yes --type thin-pool --size {pool_mib}M --poolmetadatasize {metadata_mib}M --chunksize 64k \
         --name pool0 vg0"
    ));
    World::new()
        .await
        .with("VOLUME_BACKEND", "lvm")
        .with("LVM_VOLUME_GROUP", "vg0")
        .with("LVM_THIN_POOL", "pool0")
        .with("LVM_RETRY_BACKOFF_MS", "50,400")
}

async fn kind(daemon: &Daemon, name: &str) -> Option<VolumeKind> {
    let listed: VolumeList = daemon.get("/api/v1/volumes").await.expect("a list");
    let mut volumes = listed.volumes.into_iter();
    volumes.find(|volume| volume.name.as_str() == name)?.kind
}

fn holds(volume: &str, disk: &[u8]) -> bool {
    let bytes = fs::read(device(volume)).expect("the volume is read");
    let (start, rest) = bytes.split_at(disk.len());
    start == disk && rest.iter().all(|byte| *byte == 0)
}

/// The first job makes the golden volume, the next ones read nothing; what is provisioned again is replaced.
pub(crate) async fn an_image_is_unpacked_once_and_cloned_as_often_as_it_is_asked_for() {
    let world = world(400).await;
    tool("lvcreate -qq --yes -L 32M -n linear --addtag lvp vg0");
    let (first, second) = (image(24 * MIB, 100, 1), image(24 * MIB, 80, 3));
    let first_url = world.put("a.qcow2", &first.build());
    let second_url = world.put("b.qcow2", &second.build());
    let daemon = world.start();
    for volume in ["vm-1", "vm-2"] {
        let status = completed(&daemon, &first_url, volume, 30 * MIB).await;
        assert_eq!(status.method, Some(Method::Clone), "{status:?}");
        assert!(holds(volume, &first.disk()), "{volume} is wrong");
        assert!(has_tag(volume, "lvp.state=ready"));
        assert_eq!(kind(&daemon, volume).await, Some(VolumeKind::Clone));
    }
    tool(
        "lvchange -qq --setautoactivation n --setactivationskip y --readahead 256 --alloc cling \
         --addtag backup vg0/vm-1",
    );
    let properties = "lvs --noheadings -o lv_autoactivation,lv_skip_activation,lv_read_ahead,lv_allocation_policy,lv_tags \
         --select lv_name=vm-1 vg0";
    let before = tool(properties);
    assert!(
        before.contains("skip activation") && before.contains("cling"),
        "{before}"
    );
    let status = completed(&daemon, &second_url, "vm-1", 30 * MIB).await;
    assert_eq!(status.method, Some(Method::Clone), "{status:?}");
    assert!(holds("vm-1", &second.disk()), "vm-1 is not replaced");
    let columns = |text: &str| {
        let mut words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        // Ours say which job and image it is of.
        let tags = words.pop().expect("the tags");
        (words, tags.contains("backup"))
    };
    assert_eq!(columns(&tool(properties)), columns(&before));
    // What a clone cannot have is said, and the volume stays as it is.
    tool("lvchange -qq -a n vg0/vm-2");
    tool("lvchange -qq --yes --persistent y --major 253 --minor 77 -a y vg0/vm-2");
    let refused = ended(&daemon, &second_url, "vm-2", 30 * MIB).await;
    assert_eq!(
        refused.error_type.as_deref(),
        Some("volume_refused"),
        "{refused:?}"
    );
    let error = refused.error.unwrap_or_default();
    assert!(error.contains("persistent device number"), "{error}");
    assert!(holds("vm-2", &first.disk()), "vm-2 was changed");
    tool("lvchange -qq --persistent n vg0/vm-2");
    assert!(holds("vm-2", &first.disk()), "vm-2 was changed");
    let left: Vec<_> = lvm::volumes()
        .into_iter()
        .filter(|volume| volume.name.starts_with("lvp-new") || volume.name.starts_with("lvp-old"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // One that was linear stays so.
    let status = completed(&daemon, &first_url, "linear", 30 * MIB).await;
    assert_ne!(status.method, Some(Method::Clone), "{status:?}");
    assert_eq!(kind(&daemon, "linear").await, Some(VolumeKind::Linear));
    assert!(holds("linear", &first.disk()), "linear is wrong");
    // Names of golden volumes are no requests'.
    let body =
        json!({"image_url": first_url, "volume_name": "lvp-old-1", "volume_size_bytes": 1 << 25});
    let refused = daemon.call("POST", "/api/v1/jobs", Some(body)).await;
    assert_eq!(refused.expect("an answer").status, 400);
    measure(&daemon, &first_url).await;
}

/// A clone by a job against what others do for one, by turns: the two commands that an operator would type; those of
/// Cinder's LVM driver (a look at the source, the snapshot, its activation, its size); those of Proxmox's LvmThinPlugin
/// (a look, the snapshot, and for another size a look and the size); and the same image copied from the cache.
async fn measure(daemon: &Daemon, url: &str) {
    let golden = lvm::volumes().into_iter();
    let mut golden = golden.filter(|volume| volume.name.starts_with("lvp-golden-"));
    let origin = golden.next().expect("it was made").name;
    let by_commands = [
        (
            "lvcreate -s, lvextend",
            vec![
                "lvcreate -qq --yes -s -kn -n NEW vg0/ORIGIN",
                "lvextend -qq -L 40M vg0/NEW",
            ],
        ),
        (
            "Cinder's commands",
            vec![
                "lvs --noheadings --unit=g -o vg_name,name,size --nosuffix vg0/ORIGIN",
                "lvcreate --name NEW --snapshot vg0/ORIGIN",
                "lvchange -a y --yes -K vg0/NEW",
                "lvextend -L 40M vg0/NEW",
            ],
        ),
        (
            "Proxmox's commands",
            vec![
                "lvs --separator : --noheadings --units b --nosuffix --config report/time_format=\"%s\" \
                 --options vg_name,lv_name,lv_size,lv_attr,pool_lv,data_percent,metadata_percent,snap_percent,uuid,tags vg0",
                "lvcreate -n NEW -prw -kn -s vg0/ORIGIN",
                "lvs --noheadings --units b --nosuffix --options lv_size vg0/NEW",
                "lvextend -L 40M vg0/NEW",
            ],
        ),
        ("lvs", vec!["lvs -qq vg0"]),
    ];
    let mut times: Vec<(&str, Vec<Duration>)> = vec![
        ("POST to completed", vec![]),
        ("the same as a copy", vec![]),
    ];
    times.extend(by_commands.iter().map(|(name, _)| (*name, vec![])));
    for round in 0..TIMES {
        let started = Instant::now();
        let made = completed(daemon, url, &format!("timed-{round}"), 40 * MIB).await;
        times[0].1.push(started.elapsed());
        assert_eq!(made.method, Some(Method::Clone), "{made:?}");
        let started = Instant::now();
        let body = json!({
            "image_url": url, "volume_name": format!("copied-{round}"), "volume_size_bytes": 40 * MIB,
            "clone": "never",
        });
        let job = daemon.submit("/api/v1/jobs", body).await.expect("accepted");
        let copied = daemon.ended(&job).await.expect("it ends");
        times[1].1.push(started.elapsed());
        assert_eq!(copied.status, JobState::Completed, "{copied:?}");
        for (at, (name, commands)) in by_commands.iter().enumerate() {
            let new = format!("hand-{at}-{round}");
            let started = Instant::now();
            for command in commands {
                tool(&command.replace("NEW", &new).replace("ORIGIN", &origin));
            }
            times[at + 2].1.push(started.elapsed());
            if *name != "lvs" {
                tool(&format!("lvremove -qq --yes vg0/{new}"));
            }
        }
        tool(&format!(
            "lvremove -qq --yes vg0/timed-{round} vg0/copied-{round}"
        ));
    }
    let medians = times.into_iter().map(|(name, times)| (name, median(times)));
    let medians: Vec<_> = medians.collect();
    let job = medians[0].1;
    for (name, median) in medians {
        println!(
            "median of {TIMES}: {name}: {} ms; a clone by a job takes {:.2} x as long",
            median.as_millis(),
            job.as_secs_f64() / median.as_secs_f64()
        );
    }
}

pub(super) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Guests fill the pool; requests are refused with the numbers and the time to try again, until there is room.
pub(crate) async fn a_pool_beyond_its_limit_refuses_requests_until_there_is_room() {
    let world = world(100).await;
    let picture = image(8 * MIB, 60, 5);
    let url = world.put("a.qcow2", &picture.build());
    let daemon = world.start();
    tool("lvcreate -qq --yes --thinpool pool0 -V 90M -n guest vg0");
    let guest = File::options()
        .write(true)
        .open(device("guest"))
        .expect("it opens");
    guest
        .write_all_at(&vec![1; 82 << 20], 0)
        .expect("it is written");
    guest.sync_all().expect("it is written");
    let used = "pool_used_ratio{pool=\"pool0\",resource=\"data\"}";
    wait_for("the probe to see the pool", async || {
        metric(&daemon, used).await.filter(|ratio| *ratio > 0.8)
    })
    .await;
    assert_eq!(
        metric(&daemon, "pool_sound{pool=\"pool0\"}").await,
        Some(1.0)
    );
    let body = json!({"image_url": url, "volume_name": "vm-1", "volume_size_bytes": 16 * MIB});
    let refused = daemon
        .call("POST", "/api/v1/jobs", Some(body.clone()))
        .await;
    let refused = refused.expect("an answer");
    assert_eq!(refused.status, 503, "{refused:?}");
    let text = refused.body.to_string();
    for part in [
        "vg0/pool0",
        "82.",
        "80 % (lvm.pool_data_percent_max)",
        "lvextend",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let wait = refused.headers.get("retry-after");
    let seconds = wait.and_then(|wait| wait.parse::<u64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds > 0), "{wait:?}");
    assert!(!device("vm-1").exists());
    let (daemon, waiting) = jobs_wait_for_room(&world, daemon, &url).await;
    // The pool is extended.
    tool("lvextend -qq -L +100M vg0/pool0");
    wait_for("the probe to see the room", async || {
        let answer = daemon
            .call("POST", "/api/v1/jobs", Some(body.clone()))
            .await;
        (answer.expect("an answer").status == 202).then_some(())
    })
    .await;
    wait_for("the volume", async || {
        has_ended(&daemon).await.then_some(())
    })
    .await;
    assert!(holds("vm-1", &picture.disk()), "vm-1 is wrong");
    let status = daemon.ended(&waiting).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert_eq!((status.attempts, status.method), (1, Some(Method::Clone)));
    assert!(holds("waits", &picture.disk()), "waits is wrong");
}

/// Jobs that wait for room take no slot, can be cancelled, run out of time, and survive a restart. Returns one.
async fn jobs_wait_for_room(world: &World, daemon: Daemon, url: &str) -> (Daemon, String) {
    let ask = async |daemon: &Daemon, volume: &str, seconds: u64| {
        let body = json!({
            "image_url": url, "volume_name": volume, "volume_size_bytes": 16 * MIB,
            "when_full": "wait", "wait_seconds": seconds,
        });
        let job = daemon.submit("/api/v1/jobs", body).await;
        job.expect("it is accepted")
    };
    let is_waiting = async |daemon: &Daemon, job: &str| {
        wait_for("the job to wait", async || {
            let status = daemon.status(job).await.ok()?;
            let says = |note: &String| note.starts_with("Waits for room until");
            assert!(!status.status.is_terminal(), "{status:?}");
            status.notes.iter().any(says).then_some(())
        })
        .await;
    };
    let begun = Instant::now();
    let first = ask(&daemon, "waits", 3600).await;
    let others = [
        ask(&daemon, "cancelled", 3600).await,
        ask(&daemon, "brief", BRIEF).await,
    ];
    for job in [&first, &others[0]] {
        is_waiting(&daemon, job).await;
    }
    // Two jobs may run at once.
    let body = json!({ "image_url": url });
    let fetch = daemon.submit("/api/v1/cache/fetch", body).await;
    let fetched = daemon.ended(&fetch.expect("accepted")).await;
    let fetched = fetched.expect("it ends");
    assert_eq!(fetched.status, JobState::Completed, "{fetched:?}");
    let route = format!("/api/v1/jobs/{}/cancel", others[0]);
    let answer = daemon.call("POST", &route, None).await;
    assert_eq!(answer.expect("it answers").status, 200);
    let ended = daemon.ended(&others[1]).await.expect("it ends");
    assert_eq!(
        ended.error_type.as_deref(),
        Some("volume_pool"),
        "{ended:?}"
    );
    assert!(
        begun.elapsed() >= Duration::from_secs(BRIEF),
        "it did not wait"
    );
    for volume in ["waits", "cancelled", "brief"] {
        assert!(!device(volume).exists(), "{volume}");
    }
    // Neither a stop nor a kill ends the wait, or counts as an attempt.
    daemon.signal("TERM").expect("it is told to stop");
    assert!(daemon.wait().expect("it ends").success());
    let daemon = world.start();
    is_waiting(&daemon, &first).await;
    daemon.kill().expect("it is killed");
    let daemon = world.start();
    is_waiting(&daemon, &first).await;
    let status = daemon.status(&first).await.expect("it has one");
    assert_eq!(
        (status.status, status.attempts),
        (JobState::Running, 0),
        "{status:?}"
    );
    (daemon, first)
}

async fn has_ended(daemon: &Daemon) -> bool {
    let listed: VolumeList = daemon.get("/api/v1/volumes").await.expect("a list");
    let mut volumes = listed.volumes.iter();
    let is_ready = volumes.any(|volume| volume.name.as_str() == "vm-1" && volume.state == "ready");
    let failed = daemon.call("GET", "/api/v1/jobs?status=failed&volume=vm-1", None);
    let failed = failed.await.expect("an answer").body["total"].as_u64();
    assert_eq!(failed, Some(0), "{:?}", JobState::Failed);
    is_ready
}
