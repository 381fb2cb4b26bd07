//! SIGKILL at random instants, again and again; after each, everything on the disk is looked at.
//!
//! `./dev torture SECONDS` runs it for long; among the other tests it runs for a moment. The seed is
//! printed, and `LVP_TORTURE_SEED` repeats a run's requests and delays.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use lvp_api::JobState;
use lvp_testkit::daemon::Daemon;
use lvp_testkit::fault::{Fault, Rule};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{MIB, World, image};

/// How long it runs unless `LVP_TORTURE_SECS` says otherwise.
const DEFAULT_SECS: u64 = 20;

const DISK: u64 = 48 * MIB;
const VOLUMES: u64 = 4;

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// What was found after the kills, for the closing line.
#[derive(Debug, Default)]
struct Tally {
    kills: u32,
    jobs: u32,
    absent: u32,
    not_ready: u32,
    ready: u32,
    cached: u32,
    partials: u32,
}

#[tokio::test]
async fn torture_kills_at_random_instants_leave_nothing_half_true() {
    let seed = number("LVP_TORTURE_SEED", u64::from(std::process::id()) << 20 | 1);
    let until = Instant::now() + Duration::from_secs(number("LVP_TORTURE_SECS", DEFAULT_SECS));
    println!("LVP_TORTURE_SEED={seed}");
    let mut random = Random(seed);
    let (world, proxy) = World::with_faults().await;
    // So slow that a kill meets jobs in every stage.
    proxy.inject(Rule::new(Fault::Slow(16_000_000)).method("GET"));
    let world = world
        .with("CACHE_MAX_SIZE_BYTES", "40M")
        .with("LOG_LEVEL", "info");
    let mut disks = BTreeMap::new();
    let urls: Vec<String> = (0..3_u64)
        .map(|index| {
            let builder = image(DISK, 120 + 60 * index, 2 * index + 1);
            let bytes = builder.build();
            disks.insert(hex(&Sha256::digest(&bytes)), builder.disk());
            world.put(&format!("{index}.qcow2"), &bytes)
        })
        .collect();
    let mut tally = Tally::default();
    let mut accepted: Vec<String> = Vec::new();
    while Instant::now() < until {
        let daemon = world.start();
        for _ in 0..1 + random.below(3) {
            accepted.extend(request(&daemon, &mut random, &urls).await);
        }
        let delay = Duration::from_millis(random.below(900));
        if random.below(4) == 0 && !accepted.is_empty() {
            let job = &accepted[accepted.len() - 1];
            let route = format!("/api/v1/jobs/{job}/cancel");
            // The kill may come before the answer: that is the point.
            tokio::time::timeout(delay, daemon.call("POST", &route, None))
                .await
                .ok();
        } else {
            tokio::time::sleep(delay).await;
        }
        daemon.kill().expect("it is killed");
        tally.kills += 1;
        look(&world, &disks, &mut tally);
    }
    // In the end, undisturbed, every job that was accepted ends, and nothing is left over.
    proxy.clear();
    let daemon = world.start();
    for job in &accepted {
        let status = daemon.ended(job).await.expect("it ends");
        let gave_up = status
            .error
            .as_deref()
            .is_some_and(|error| error.contains("was started"));
        assert!(status.status != JobState::Failed || gave_up, "{status:?}");
        tally.jobs += 1;
    }
    look(&world, &disks, &mut tally);
    println!("{tally:?}");
    assert!(
        tally.kills > 0 && tally.ready > 0,
        "nothing happened: {tally:?}"
    );
}

/// One random request; its job, if it became one.
async fn request(daemon: &Daemon, random: &mut Random, urls: &[String]) -> Option<String> {
    let url = &urls[usize::try_from(random.below(3)).expect("small")];
    let (route, body) = if random.below(5) == 0 {
        ("/api/v1/cache/fetch", json!({"image_url": url}))
    } else {
        let volume = format!("vm-{}", random.below(VOLUMES));
        let body = json!({"image_url": url, "volume_name": volume, "volume_size_bytes": 64 * MIB});
        ("/api/v1/jobs", body)
    };
    let answer = daemon
        .call("POST", route, Some(body))
        .await
        .expect("an answer");
    assert!(matches!(answer.status, 202 | 409), "{answer:?}");
    answer.body["job_id"].as_str().map(str::to_owned)
}

/// Every volume is absent, provably not ready, or right; every cache file is what its name says.
fn look(world: &World, disks: &BTreeMap<String, Vec<u8>>, tally: &mut Tally) {
    for index in 0..VOLUMES {
        let name = format!("vm-{index}");
        let path = world.home.volume(&name);
        let Ok(bytes) = fs::read(&path) else {
            tally.absent += 1;
            continue;
        };
        let record = path.with_file_name(".lvp").join(format!("{name}.json"));
        let record = fs::read(record).unwrap_or_default();
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        if record["state"] == "ready" {
            let digest = record["image"]
                .as_str()
                .expect("a ready volume names its image");
            let disk = disks.get(digest).expect("the image is one of ours");
            assert!(
                bytes[..disk.len()] == **disk,
                "{name} says ready and is wrong"
            );
            assert!(
                bytes[disk.len()..].iter().all(|byte| *byte == 0),
                "{name} has a tail"
            );
            tally.ready += 1;
        } else {
            let looks_bootable = disks
                .values()
                .any(|disk| bytes.get(..disk.len()) == Some(disk));
            // Written whole and not yet marked is the instant between head and tag.
            let head_clear = bytes.iter().take(1 << 20).all(|byte| *byte == 0);
            assert!(
                looks_bootable || head_clear,
                "{name} is not ready and has a head"
            );
            tally.not_ready += 1;
        }
    }
    for file in world.home.cache_files() {
        if let Some(digest) = file.strip_suffix(".img") {
            let bytes = fs::read(world.home.path().join("cache").join(&file)).expect("it is read");
            assert_eq!(
                hex(&Sha256::digest(bytes)),
                digest,
                "a cache file is not its name's"
            );
            tally.cached += 1;
        } else {
            assert!(file.ends_with(".partial"), "{file} is left in the cache");
            tally.partials += 1;
        }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
