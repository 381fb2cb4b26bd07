//! Guests come first: jobs step aside while others need the disks.
//!
//! ```text
//!  /proc/diskstats, PSI --load--> L, P --controller--> rate --> one limiter for the writes of all jobs
//!           ^                                 ^
//!  devices: what is on the volumes' disks     '---- what went through the limiter
//! ```
//!
//! - The rate is one for all jobs together, as the disks are. The limits of the configuration hold besides it.
//! - Whatever cannot be measured limits nothing: without disks that can be found, without the kernel's counters, or with
//!   `volumes.yield: off`, every job runs at full speed.
//! - While a limit is in force, jobs write in small portions ([`RateLimiter::portion_bytes`](lvp_image::copy::RateLimiter)),
//!   one at a time for each thread. So what is in flight is a small part of what the rate lets through in a second, and
//!   a guest's request never waits behind megabytes.

pub mod controller;
pub mod devices;
pub mod headroom;
pub mod links;
pub mod load;
pub mod network;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lvp_image::copy::RateLimiter;

use crate::config::windows::Windows;
use crate::config::{Config, ReadRate, YieldUse};
use crate::error::chain;
use crate::estimate::per_second;
use controller::{Controller, Measured};
use devices::{Device, Tree};
use load::{Counted, Files, Leaves};
use network::Network;

/// How often the rate is decided anew.
pub const INTERVAL: Duration = Duration::from_millis(500);

/// How often the devices are looked for anew.
const REFRESH: Duration = Duration::from_secs(10);

/// After how long without a look that succeeds what was found before is believed no more: a volume that has come since
/// would be nobody's, and one with the number of one that has gone would be taken for that.
const BELIEVED: Duration = Duration::from_secs(60);

/// What the configuration says.
#[derive(Debug, Clone)]
pub struct GuestsSettings {
    /// Whether jobs step aside.
    pub yields: YieldUse,
    /// The rate that is always left to them.
    pub floor_bytes_per_sec: u64,
    /// When jobs do not step aside.
    pub windows: Windows,
    /// Whether downloads step aside for others on the network.
    pub yields_network: bool,
}

impl From<&Config> for GuestsSettings {
    fn from(config: &Config) -> Self {
        Self {
            yields: config.volumes.yields,
            floor_bytes_per_sec: config.volumes.yield_floor_bytes_per_sec,
            windows: config.volumes.windows.clone(),
            yields_network: config.minio.max_read_bytes_per_sec == ReadRate::Auto,
        }
    }
}

/// Lets jobs step aside.
#[derive(Debug)]
pub struct Guests {
    settings: GuestsSettings,
    network: Network,
    limiter: Arc<RateLimiter>,
    tree: Tree,
    files: Files,
    mounts: PathBuf,
    /// Volumes that jobs are writing or verifying.
    ours: Mutex<HashMap<Device, usize>>,
    /// Whether the cache is on the volumes' disks.
    shares_cache: AtomicBool,
    watch: Mutex<Option<Watch>>,
}

/// What is watched.
#[derive(Debug)]
struct Watch {
    places: Places,
    leaves: Leaves,
    looked_at: Instant,
    found_at: Instant,
    began: Instant,
    controller: Controller,
    last: Option<Look>,
    /// Whether a job ran at the last look.
    was_running: bool,
    /// What was decided last.
    shown: Shown,
}

#[derive(Debug)]
struct Look {
    at: Instant,
    counted: Counted,
    passed_bytes: u64,
    ours: HashSet<Device>,
}

/// The directories and devices that matter.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Devices or directories of the volumes.
    pub volumes: Vec<PathBuf>,
    /// The cache's directory.
    pub cache: PathBuf,
    /// Other directories with files of this program.
    pub others: Vec<PathBuf>,
}

/// What was measured, and what was decided.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shown {
    /// L: the mean wait of others' requests; None if there were next to none.
    pub wait: Option<Duration>,
    /// The same while no job runs.
    pub idle_wait: Duration,
    /// Jobs are held back while L is longer.
    pub bearable_wait: Duration,
    /// P: the part of the time in which some task of the guests waited for I/O.
    pub pressure: Option<f64>,
    /// T: what jobs moved.
    pub own_bytes_per_sec: f64,
    /// The rate; None while nothing is limited.
    pub rate: Option<u64>,
    /// Since when what was decided before.
    pub passed: Duration,
    /// Whether jobs were moving bytes and held back.
    pub is_held: bool,
}

/// A volume that is being written or verified: what happens on its device is ours, until this is dropped.
#[derive(Debug)]
#[must_use = "the volume is a guest's again when this is dropped"]
pub struct OurVolume {
    guests: Arc<Guests>,
    device: Device,
}

impl Guests {
    /// Nothing is watched, and so nothing limited, before [`Guests::find`].
    pub fn new(settings: GuestsSettings) -> Self {
        let (floor, windows) = (settings.floor_bytes_per_sec, settings.windows.clone());
        Self {
            network: Network::new(settings.yields_network, floor, windows),
            settings,
            limiter: Arc::new(RateLimiter::open()),
            tree: Tree::new("/sys".into()),
            files: Files::of_host(),
            mounts: "/proc/self/mountinfo".into(),
            ours: Mutex::default(),
            shares_cache: AtomicBool::new(false),
            watch: Mutex::default(),
        }
    }

    /// Whether jobs are to step aside.
    pub fn is_on(&self) -> bool {
        self.settings.yields == YieldUse::Auto
    }

    /// The same for the network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The limiter of all that jobs write to volumes, and None if they do not step aside.
    pub fn limiter(&self) -> Option<Arc<RateLimiter>> {
        self.is_on().then(|| Arc::clone(&self.limiter))
    }

    /// The limiter of what is read from and written to the cache: the same if it is on the same disks.
    pub fn cache_limiter(&self) -> Option<Arc<RateLimiter>> {
        let shares = self.shares_cache.load(Ordering::Acquire);
        self.limiter().filter(|_| shares)
    }

    /// Finds the disks, and watches them from now on. Returns their names.
    pub fn find(&self, places: Places) -> io::Result<Vec<String>> {
        let (disks, leaves, shares_cache) = self.look_for(&places)?;
        let kind = self.tree.kind(&disks)?;
        self.shares_cache.store(shares_cache, Ordering::Release);
        let now = Instant::now();
        *self.lock() = Some(Watch {
            places,
            leaves,
            looked_at: now,
            found_at: now,
            began: now,
            controller: Controller::new(kind, self.settings.floor_bytes_per_sec),
            last: None,
            was_running: false,
            shown: Shown::default(),
        });
        Ok(disks.into_iter().map(|disk| self.tree.name(disk)).collect())
    }

    /// Whether the guests have a control group, whose pressure is looked at.
    pub fn has_slice(&self) -> bool {
        self.files.slice.is_some()
    }

    /// A volume was opened for writing.
    pub fn writes(self: &Arc<Self>, file: &File) -> Option<OurVolume> {
        self.takes(&file.metadata().ok()?)
    }

    /// A volume is about to be read.
    pub fn reads(self: &Arc<Self>, path: &Path) -> Option<OurVolume> {
        self.takes(&fs::metadata(path).ok()?)
    }

    /// None for a file, which is on a file system that is shared anyway.
    fn takes(self: &Arc<Self>, metadata: &Metadata) -> Option<OurVolume> {
        if !metadata.file_type().is_block_device() {
            return None;
        }
        let device = Device::of_number(metadata.rdev());
        *self.lock_ours().entry(device).or_default() += 1;
        Some(OurVolume {
            guests: Arc::clone(self),
            device,
        })
    }

    /// Measures, decides and sets the rate. `is_running` is whether a job runs now. None if nothing is watched, or before
    /// the second look.
    pub fn step(&self, is_running: bool) -> io::Result<Option<Shown>> {
        self.step_at(Instant::now(), is_running)
    }

    fn step_at(&self, now: Instant, is_running: bool) -> io::Result<Option<Shown>> {
        let mut watch = self.lock();
        let Some(watch) = watch.as_mut() else {
            return Ok(None);
        };
        if now.duration_since(watch.looked_at) >= REFRESH {
            watch.looked_at = now;
            match self.look_for(&watch.places) {
                Ok((_, leaves, shares_cache)) => {
                    watch.leaves = leaves;
                    watch.found_at = now;
                    self.shares_cache.store(shares_cache, Ordering::Release);
                }
                Err(error) if now.duration_since(watch.found_at) >= BELIEVED => return Err(error),
                // Devices come and go: what was found before is as good until the next look.
                Err(error) => tracing::debug!(
                    component = "yield",
                    error = chain(&error),
                    "The devices cannot be looked for anew"
                ),
            }
        }
        let look = Look {
            at: now,
            counted: Counted::read(&self.files, &watch.leaves)?,
            passed_bytes: self.limiter.passed_bytes(),
            ours: self.lock_ours().keys().copied().collect(),
        };
        let was_running = std::mem::replace(&mut watch.was_running, is_running);
        let Some(last) = watch.last.replace(look) else {
            return Ok(None);
        };
        let Some(look) = &watch.last else {
            return Ok(None);
        };
        let passed = look.at.duration_since(last.at);
        // One that a job has written in a part of the interval is nobody's for this interval.
        let ours = look.ours.union(&last.ours).copied().collect();
        let others = look
            .counted
            .others(&last.counted, &watch.leaves, &ours, passed);
        let own = look.passed_bytes.saturating_sub(last.passed_bytes);
        let measured = Measured {
            wait: others.wait,
            pressure: others.pressure,
            own_bytes_per_sec: per_second(own, passed, Duration::from_millis(1)),
            are_jobs_running: is_running || was_running,
        };
        let before = watch.shown.rate;
        let since_begin = look.at.duration_since(watch.began);
        let rate = watch.controller.step(since_begin, &measured);
        // What is decided meanwhile holds when the window ends.
        let rate = rate.filter(|_| !self.settings.windows.is_open());
        self.limiter.set_rate(rate.and_then(NonZeroU64::new));
        watch.shown = Shown {
            wait: measured.wait,
            idle_wait: watch.controller.idle_wait(),
            bearable_wait: watch.controller.bearable_wait(),
            pressure: measured.pressure,
            own_bytes_per_sec: measured.own_bytes_per_sec,
            rate,
            passed,
            is_held: own > 0 && before.is_some(),
        };
        Ok(Some(watch.shown))
    }

    /// Nothing can be measured now: nothing is limited until it can be again.
    pub fn let_go(&self) {
        self.limiter.set_rate(None);
        if let Some(watch) = self.lock().as_mut() {
            watch.last = None;
        }
    }

    fn look_for(&self, places: &Places) -> io::Result<(BTreeSet<Device>, Leaves, bool)> {
        let carrying = |path: &PathBuf| Device::carrying(path, &self.mounts);
        let volumes: Vec<_> = places
            .volumes
            .iter()
            .map(carrying)
            .collect::<Result<_, _>>()?;
        if volumes.is_empty() {
            return Err(io::Error::other(
                "the back end does not say which disks it uses",
            ));
        }
        let disks = self.tree.disks(&volumes)?;
        let all = self.tree.leaves(&disks)?;
        let cache = carrying(&places.cache).ok();
        let is_on_disks = |device: &Device| -> bool {
            let below = self.tree.disks(&[*device]);
            below.is_ok_and(|below| !below.is_disjoint(&disks))
        };
        let shares_cache = cache.as_ref().is_some_and(is_on_disks);
        // Those that cannot be found are not on these disks: a file system in memory, or of the network.
        let files = places.others.iter().chain(&places.volumes);
        let files = files.filter_map(|path| carrying(path).ok()).chain(cache);
        let shared = files.filter(|device| all.contains(device)).collect();
        let leaves = Leaves {
            all,
            shared,
            disks: disks.clone(),
        };
        Ok((disks, leaves, shares_cache))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Watch>> {
        // At worst one interval is not measured.
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_ours(&self) -> MutexGuard<'_, HashMap<Device, usize>> {
        // Counts that no panic can leave half-changed.
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OurVolume {
    fn drop(&mut self) {
        let mut ours = self.guests.lock_ours();
        if let Some(count) = ours.get_mut(&self.device) {
            *count -= 1;
            if *count == 0 {
                ours.remove(&self.device);
            }
        }
    }
}

#[cfg(test)]
mod tests;
