//! What is tortured: a daemon that is started again and again, and what was asked of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lvp_api::JobState;
use lvp_testkit::daemon::{Daemon, Home};
use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use lvp_testkit::lvm;
use lvp_testkit::s3::S3;
use rusqlite::Connection;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::look::{POOL, Place, look};
use crate::restore::{back_up, restore};
use crate::support::{BINARY, MIB, World, address, image};

pub(super) const VOLUMES: u64 = 4;
const IMAGES: u64 = 3;

/// So slow that a kill meets jobs in every stage.
const SOURCE_BYTES_PER_SEC: u64 = 16_000_000;

/// One round in so many goes to its end before the kill.
const WHOLE_ROUNDS: u32 = 8;

const LONGEST_ROUND: Duration = Duration::from_secs(30);

/// xorshift64*: small, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    /// By `LVP_TORTURE_SEED`, or else by chance; prints which.
    pub(crate) fn from_environment() -> Self {
        let seed = number("LVP_TORTURE_SEED", u64::from(std::process::id()) << 20 | 1);
        println!("LVP_TORTURE_SEED={seed}");
        Self::new(seed)
    }

    pub(super) fn new(seed: u64) -> Self {
        // Neighbouring seeds are made unlike, and zero is the one state that must not be.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1))
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

pub(crate) fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What was found, for the closing line.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Kills that were followed by a full look.
    pub(super) kills: u32,
    /// Kills right after a start, with what the killed one had begun still going on.
    pub(super) kills_at_start: u32,
    pub(super) jobs: u32,
    pub(super) completed: u32,
    pub(super) absent: u32,
    pub(super) not_ready: u32,
    pub(super) ready: u32,
    pub(super) cached: u32,
    /// Unpacked copies that hold their image's disk.
    pub(super) unpacked: u32,
    pub(super) partials: u32,
    /// Looks at a ready volume that a guest has written to since.
    pub(super) guests: u32,
    /// Times that an older database was put in the place of the newest.
    pub(super) restored: u32,
    /// Jobs that were refused for that.
    pub(super) overtaken: u32,
}

/// What a guest has made of a volume.
pub(super) struct Guest {
    pub(super) bytes: Vec<u8>,
    /// A job was asked for since.
    pub(super) may_be_rewritten: bool,
}

/// A copy of the database, and how many jobs had been accepted then.
struct Backup {
    path: PathBuf,
    accepted: usize,
}

/// A world with images, and the jobs that its daemons have accepted.
pub(super) struct Rig {
    pub(super) world: World,
    pub(super) place: Place,
    /// The disks of the images, by the images' digests.
    pub(super) disks: BTreeMap<String, Vec<u8>>,
    pub(super) accepted: Vec<String>,
    /// The volumes that guests have written to.
    pub(super) guests: BTreeMap<String, Guest>,
    /// Volumes with jobs that the database in force has never heard of.
    pub(super) forgotten: BTreeSet<String>,
    pub(super) tally: Tally,
    /// The volumes of the accepted jobs.
    volume_of: BTreeMap<String, String>,
    backups: Vec<Backup>,
    urls: Vec<String>,
    proxy: FaultProxy,
    /// How long the last jobs took that nobody disturbed.
    round: Duration,
}

impl Rig {
    pub(super) async fn new(place: Place) -> Self {
        let s3 = S3::start().await.expect("the S3 server starts");
        Self::over(place, s3, |endpoint| {
            Home::new(BINARY, endpoint).expect("there is room for a home")
        })
        .await
    }

    /// One that keeps everything in a directory, where the next one finds it.
    pub(super) async fn kept_in(place: Place, directory: &Path) -> Self {
        let objects = directory.join("objects");
        let s3 = S3::start_in(&objects).await.expect("the S3 server starts");
        Self::over(place, s3, |endpoint| {
            Home::kept_in(&directory.join("home"), BINARY, endpoint).expect("there is room")
        })
        .await
    }

    async fn over(place: Place, s3: S3, home: impl FnOnce(&str) -> Home) -> Self {
        let proxy = FaultProxy::start(address(&s3))
            .await
            .expect("the proxy starts");
        proxy.inject(Rule::new(Fault::Slow(SOURCE_BYTES_PER_SEC)).method("GET"));
        let home = home(&proxy.endpoint());
        let mut world = World { s3, home }
            .with("CACHE_MAX_SIZE_BYTES", "40M")
            .with("LOG_LEVEL", "info");
        if place != Place::Directory {
            world = world
                .with("VOLUME_BACKEND", "lvm")
                .with("LVM_VOLUME_GROUP", "vg0");
        }
        if place == Place::Thin {
            world = world.with("LVM_THIN_POOL", POOL);
        }
        let mut disks = BTreeMap::new();
        let mut urls = Vec::new();
        for index in 0..IMAGES {
            let builder = image(place.disk_bytes(), 120 + 60 * index, 2 * index + 1);
            let bytes = builder.build();
            disks.insert(hex(&Sha256::digest(&bytes)), builder.disk());
            let key = format!("{index}.qcow2");
            let is_there = world.s3.objects().path("images", &key).exists();
            urls.push(match is_there {
                // From before a power cut; written again it would be another version of the object.
                true => format!("s3://images/{key}"),
                false => world.put(&key, &bytes),
            });
        }
        Self {
            world,
            place,
            disks,
            accepted: Vec::new(),
            guests: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            tally: Tally::default(),
            volume_of: BTreeMap::new(),
            backups: Vec::new(),
            urls,
            proxy,
            round: LONGEST_ROUND,
        }
    }

    /// Starts a daemon, asks it for things, and kills it at a random instant; then looks.
    pub(super) async fn kill_once(&mut self, random: &mut Random) {
        let daemon = self.world.start();
        self.ask(&daemon, random).await;
        if random.below(2) == 0 {
            self.back_up();
        }
        let asked = Instant::now();
        let share = random.below(1000);
        let cancels = random.below(4) == 0;
        if self.tally.kills.is_multiple_of(WHOLE_ROUNDS) {
            // How long that takes is what the other rounds' instants are spread over: the machine
            // may be slow, and a kill after the end of everything shows little.
            for job in &self.accepted {
                daemon.ended(job).await.expect("it ends");
            }
            self.round = asked.elapsed().min(LONGEST_ROUND);
        } else {
            let until = asked + self.round * 5 / 4 * u32::try_from(share).expect("small") / 1000;
            let job = self.accepted.last().filter(|_| cancels);
            if let Some(job) = job {
                let route = format!("/api/v1/jobs/{job}/cancel");
                let cancelled = daemon.call("POST", &route, None);
                // The kill may come before the answer: that is the point.
                tokio::time::timeout_at(until.into(), cancelled).await.ok();
            }
            tokio::time::sleep_until(until.into()).await;
        }
        daemon.kill().expect("it is killed");
        if random.below(4) == 0 {
            // The next one meets the commands that the killed one has left running.
            let daemon = self.world.start();
            tokio::time::sleep(Duration::from_millis(random.below(400))).await;
            daemon.kill().expect("it is killed");
            self.tally.kills_at_start += 1;
        }
        self.tally.kills += 1;
        let ready = look(self);
        self.let_guests_write(&ready, random);
        if random.below(3) == 0 {
            self.restore_one(random);
        }
    }

    /// Virtual machines run on some of the ready volumes that no job is about to rewrite.
    fn let_guests_write(&mut self, ready: &[String], random: &mut Random) {
        let database = self.world.home.path().join("jobs.db");
        let database = Connection::open(database).expect("it opens");
        for name in ready {
            let unfinished: u32 = database
                .query_row(
                    "SELECT count(*) FROM jobs WHERE volume_name = ?1 \
                     AND state IN ('pending', 'running')",
                    [name],
                    |row| row.get(0),
                )
                .expect("it is asked");
            if unfinished > 0 || random.below(2) == 0 {
                continue;
            }
            let path = self.place.path(&self.world.home, name);
            if self.place == Place::Thin && !path.exists() {
                // Between two renames there is no device of the name.
                continue;
            }
            let file = File::options().read(true).write(true).open(&path);
            let file = file.expect("it opens");
            for place in [
                4096,
                self.place.disk_bytes() / 2,
                self.place.volume_bytes() - 512,
            ] {
                let word = random.below(1 << 30).to_le_bytes();
                file.write_all_at(&word, place).expect("it is written");
            }
            file.sync_all().expect("it is written");
            let bytes = fs::read(&path).expect("it is read");
            let may_be_rewritten = false;
            let guest = Guest {
                bytes,
                may_be_rewritten,
            };
            self.guests.insert(name.clone(), guest);
        }
    }

    fn back_up(&mut self) {
        let name = format!("backup-{}.db", self.tally.kills);
        self.backups.push(Backup {
            path: back_up(&self.world, &name),
            accepted: self.accepted.len(),
        });
    }

    /// Puts one of the older databases in the newest one's place.
    fn restore_one(&mut self, random: &mut Random) {
        let Some(last) = self.backups.len().checked_sub(1) else {
            return;
        };
        let chosen = usize::try_from(random.below(last as u64 + 1)).expect("small");
        let backup = &self.backups[chosen];
        restore(&self.world, &backup.path);
        for job in self.accepted.drain(backup.accepted..) {
            self.forgotten.extend(self.volume_of.remove(&job));
        }
        // The later ones have jobs that are forgotten now.
        self.backups.truncate(chosen + 1);
        self.tally.restored += 1;
    }

    /// One to three random requests.
    pub(super) async fn ask(&mut self, daemon: &Daemon, random: &mut Random) {
        for _ in 0..1 + random.below(3) {
            let url = &self.urls[usize::try_from(random.below(IMAGES)).expect("small")];
            let (route, body, volume) = if random.below(5) == 0 {
                ("/api/v1/cache/fetch", json!({"image_url": url}), None)
            } else {
                let volume = format!("vm-{}", random.below(VOLUMES));
                let size = self.place.volume_bytes();
                let body =
                    json!({"image_url": url, "volume_name": volume, "volume_size_bytes": size});
                ("/api/v1/jobs", body, Some(volume))
            };
            let answer = daemon.call("POST", route, Some(body)).await;
            let answer = answer.expect("an answer");
            assert!(matches!(answer.status, 202 | 409), "{answer:?}");
            let Some(job) = answer.body["job_id"].as_str().map(str::to_owned) else {
                continue;
            };
            if let Some(volume) = volume {
                if let Some(guest) = self.guests.get_mut(&volume) {
                    guest.may_be_rewritten = true;
                }
                self.forgotten.remove(&volume);
                self.volume_of.insert(job.clone(), volume);
            }
            self.accepted.push(job);
        }
    }

    /// In the end, undisturbed, every job that was accepted ends, and nothing is left over.
    pub(super) async fn finish(&mut self) {
        self.proxy.clear();
        let daemon = self.world.start();
        for job in &self.accepted {
            let status = daemon.ended(job).await.expect("it ends");
            let error = status.error.as_deref().unwrap_or_default();
            // Killed five times.
            let gave_up = error.contains("was started");
            let overtaken = self.tally.restored > 0 && error.contains("resumed from the database");
            self.tally.overtaken += u32::from(overtaken);
            assert!(
                status.status != JobState::Failed || gave_up || overtaken,
                "{status:?}"
            );
            self.tally.completed += u32::from(status.status == JobState::Completed);
            self.tally.jobs += 1;
        }
        drop(daemon);
        look(self);
        self.place.check_leftovers(&self.disks);
    }
}

pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Place {
    /// What the daemon finds there at first: extents that somebody else has written to, and the pool.
    pub(super) fn prepare(self) {
        if self != Self::Directory {
            lvm::fill_with_marker(160);
        }
        if self == Self::Thin {
            lvm::tool(&format!(
                "lvcreate -qq --yes --type thin-pool --size 600M --poolmetadatasize 4M --chunksize 64k --name {POOL} vg0"
            ));
        }
    }

    /// Of each image.
    pub(super) fn disk_bytes(self) -> u64 {
        match self {
            Self::Directory => 48 * MIB,
            Self::Lvm | Self::Thin => 24 * MIB,
        }
    }

    pub(super) fn volume_bytes(self) -> u64 {
        match self {
            Self::Directory => 64 * MIB,
            Self::Lvm | Self::Thin => 32 * MIB,
        }
    }
}
