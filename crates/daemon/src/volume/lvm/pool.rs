//! The thin pool: whether it is sound, how full it is, and what running jobs are going to take.
//!
//! A pool that is full stops every guest on it, and one whose metadata are full may need repair. So there is one
//! account for the pool: what is taken, as LVM says, and what running jobs have reserved and not written yet.
//! Nothing is reserved beyond the configured shares, and nothing at all in a pool that is not sound. Guests write
//! as well, and are not asked: what they take shows at the next look.
//!
//! - Invariant: a reservation is made in one step with the comparison; two jobs cannot both take the last room.
//! - Invariant: what cannot be told (an inactive pool, a report without numbers) counts as full.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lvp_api::VolumeName;
use lvp_api::units::ByteSize;

use super::super::room::{Need, PoolUsage, Reservation};
use super::super::{VolumeError, VolumeErrorKind};
use super::Lvm;
use super::commands::{bad_report, report_args};
use super::look::{Look, part_of, share};
use super::report;
use super::settings::PoolSettings;

/// How old a look may be that a reservation is judged by. A hundred clones in a row ask LVM a few times and not a
/// hundred times; what they reserve counts at once.
const LOOK_AGE: Duration = Duration::from_secs(3);

/// What one clone costs of the metadata, until somebody writes to it: a device's entry and the root of its map,
/// with the blocks above that are written anew (dm-thin's blocks have 4 KiB).
const CLONE_METADATA_BYTES: u64 = 32 << 10; // 32 KiB

/// What a chunk costs of the metadata: an entry of 16 bytes in a leaf of 4 KiB that is half full at worst, and the
/// nodes above.
const CHUNK_METADATA_BYTES: u64 = 40;

/// What images are written in, at least: a cluster of qcow2 as it is made by default.
const PIECE_BYTES: u64 = 64 << 10; // 64 KiB

/// The account of the pool.
#[derive(Debug, Default)]
pub(super) struct Account {
    look: Option<Look>,
    held: HashMap<u64, Held>,
    next: u64,
    /// How many reservations of bytes were given back: what their jobs wrote shows in a later look only.
    released: u64,
    /// That number before the look.
    looked_at: u64,
}

/// What one job has reserved.
#[derive(Debug)]
struct Held {
    volume: VolumeName,
    data_bytes: u64,
    metadata_bytes: u64,
}

impl Account {
    /// What the jobs have not written yet of what they reserved: data and metadata.
    fn outstanding(&self) -> (u64, u64) {
        let mapped = |held: &Held| {
            let look = self.look.as_ref();
            let mapped = look.and_then(|look| look.mapped.get(held.volume.as_str()));
            mapped.copied().unwrap_or(0)
        };
        self.held.values().fold((0, 0), |(data, metadata), held| {
            let left = held.data_bytes.saturating_sub(mapped(held));
            // In proportion: the entries of what is written are taken already.
            let of_metadata = match held.data_bytes {
                0 => held.metadata_bytes,
                all => share(held.metadata_bytes, left, all),
            };
            (
                data.saturating_add(left),
                metadata.saturating_add(of_metadata),
            )
        })
    }
}

/// How full something is, and would be.
struct Level<'a> {
    what: &'a str,
    size_bytes: u64,
    used_percent: f64,
    reserved_bytes: u64,
    need_bytes: u64,
    max_percent: u8,
    key: &'a str,
    remedy: String,
}

impl Level<'_> {
    fn refusal(&self, pool: &str) -> Option<VolumeError> {
        let used = part_of(self.size_bytes, self.used_percent);
        let planned = used
            .saturating_add(self.reserved_bytes)
            .saturating_add(self.need_bytes);
        let limit = share(self.size_bytes, self.max_percent.into(), 100);
        if planned <= limit {
            return None;
        }
        let Self {
            what,
            used_percent,
            max_percent,
            key,
            remedy,
            ..
        } = self;
        let [size, reserved, need] =
            [self.size_bytes, self.reserved_bytes, self.need_bytes].map(ByteSize);
        let taken =
            format!("The thin pool {pool} has {used_percent:.2} % of its {what} ({size}) taken");
        let limit = format!("{max_percent} % ({key})");
        let text = match (self.reserved_bytes, self.need_bytes) {
            (0, 0) => format!("{taken}, which is beyond {limit}: {remedy}"),
            _ => format!(
                "{taken}, running jobs are going to take {reserved} and this one up to {need} ({} bytes): that would \
                 pass {limit}; {remedy}",
                self.need_bytes
            ),
        };
        Some(VolumeError::new(VolumeErrorKind::PoolFull, text))
    }
}

impl Lvm {
    /// The pool as it is now, activated if it has to be for that.
    pub(super) async fn look_at_pool(&self, pool: &PoolSettings) -> Result<Look, VolumeError> {
        let look = self.look_once(pool).await?;
        let is_known = look.row.data_percent.is_some();
        if is_known || look.flaw(self.group_name()).is_none() {
            return Ok(look);
        }
        let target = format!("{}/{}", self.group_name(), pool.name);
        if let Err(error) = self.run("lvchange", &["-a", "y", &target]).await {
            tracing::warn!(%error, "the thin pool {target} cannot be activated");
        }
        self.look_once(pool).await
    }

    async fn look_once(&self, pool: &PoolSettings) -> Result<Look, VolumeError> {
        let name = pool.name.as_str();
        let selection = format!("lv_name=\"{name}\" || pool_lv=\"{name}\"");
        let mut args = report_args(report::POOL_FIELDS, &selection);
        args.push(self.group_name());
        let released = self.account().released;
        let rows = match self.run("lvs", &args).await {
            Ok(json) => report::parse_pools(&json).map_err(bad_report)?,
            Err(error) => {
                self.group().await?;
                return Err(VolumeError::command(
                    "Asking for the thin pool failed",
                    error,
                ));
            }
        };
        let Some(look) = Look::of(rows, name) else {
            self.group().await?;
            let group = self.group_name();
            return Err(VolumeError::new(
                VolumeErrorKind::DependencyDown,
                format!(
                    "There is no thin pool {name} in the volume group {group}: make it \
                     ('lvcreate --type thin-pool -L SIZE -n {name} {group}'), or set lvm.thin_pool"
                ),
            ));
        };
        let mut account = self.account();
        account.look = Some(look.clone());
        account.looked_at = released;
        drop(account);
        Ok(look)
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        // Numbers that no panic can leave half-changed.
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn fresh_look(&self, pool: &PoolSettings) -> Result<Look, VolumeError> {
        let last = {
            let account = self.account();
            let is_whole = account.looked_at == account.released;
            account.look.clone().filter(|_| is_whole)
        };
        match last {
            Some(look) if look.at.elapsed() < LOOK_AGE => Ok(look),
            _ => self.look_at_pool(pool).await,
        }
    }

    /// Whether so much more may be promised to volumes of the pool and written to them.
    pub(super) async fn check_pool(
        &self,
        pool: &PoolSettings,
        new_bytes: u64,
    ) -> Result<Look, VolumeError> {
        // What was made since the last look is promised as well.
        let look = match pool.overcommit_percent_max {
            Some(_) => self.look_at_pool(pool).await?,
            None => self.fresh_look(pool).await?,
        };
        self.judge(pool, &look, &self.account(), (0, 0))?;
        let group = self.group_name();
        if new_bytes > look.row.lv_size {
            let free_bytes = self.free_bytes(pool, &look);
            let kind = VolumeErrorKind::NoSpace {
                free_bytes,
                want_bytes: new_bytes,
            };
            let message = format!(
                "The volume would have {} ({new_bytes} bytes), more than the whole thin pool {group}/{}, which has {}, {} of \
                 it free ({free_bytes} bytes): ask for a smaller volume, or extend the pool",
                ByteSize(new_bytes),
                pool.name,
                ByteSize(look.row.lv_size),
                ByteSize(free_bytes)
            );
            return Err(VolumeError::new(kind, message));
        }
        if let Some(percent) = pool.overcommit_percent_max {
            let promised = look.virtual_bytes.saturating_add(new_bytes);
            let limit = share(look.row.lv_size, percent, 100);
            if promised > limit {
                return Err(VolumeError::new(
                    VolumeErrorKind::PoolFull,
                    format!(
                        "The volumes of the thin pool {group}/{} would have {} in all, which is more than {percent} % \
                         of the pool's {} (lvm.pool_overcommit_percent_max): remove volumes, or extend the pool",
                        pool.name,
                        ByteSize(promised),
                        ByteSize(look.row.lv_size)
                    ),
                ));
            }
        }
        Ok(look)
    }

    fn judge(
        &self,
        pool: &PoolSettings,
        look: &Look,
        account: &Account,
        (data_bytes, metadata_bytes): (u64, u64),
    ) -> Result<(), VolumeError> {
        if let Some(flaw) = look.flaw(self.group_name()) {
            return Err(VolumeError::new(VolumeErrorKind::PoolUnsound, flaw));
        }
        let (held_data, held_metadata) = account.outstanding();
        let target = format!("{}/{}", self.group_name(), pool.name);
        let row = &look.row;
        let levels = [
            Level {
                what: "data",
                size_bytes: row.lv_size,
                used_percent: row.data_percent.unwrap_or(100.0),
                reserved_bytes: held_data,
                need_bytes: data_bytes,
                max_percent: pool.data.max,
                key: "lvm.pool_data_percent_max",
                remedy: format!("remove volumes, or extend it ('lvextend -L +SIZE {target}')"),
            },
            Level {
                what: "metadata",
                size_bytes: row.lv_metadata_size.unwrap_or(0),
                used_percent: row.metadata_percent.unwrap_or(100.0),
                reserved_bytes: held_metadata,
                need_bytes: metadata_bytes,
                max_percent: pool.metadata.max,
                key: "lvm.pool_metadata_percent_max",
                remedy: format!(
                    "remove volumes, or extend them ('lvextend --poolmetadatasize +SIZE {target}')"
                ),
            },
        ];
        match levels.iter().find_map(|level| level.refusal(&target)) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    /// Keeps room for a job.
    pub(super) async fn reserve_in(
        &self,
        pool: &PoolSettings,
        volume: &VolumeName,
        need: Need,
    ) -> Result<Reservation, VolumeError> {
        let look = self.fresh_look(pool).await?;
        let chunk = look.row.chunk_size.max(1);
        let (data_bytes, metadata_bytes) = match need {
            Need::Clone => (0, CLONE_METADATA_BYTES),
            Need::Disk { bytes, size_bytes } => {
                // A piece takes whole chunks; where discards are switched off, the copier writes zeros as well.
                let spread = bytes.saturating_mul(chunk.div_ceil(PIECE_BYTES));
                let bytes = match look.row.discards.as_str() {
                    "ignore" => size_bytes,
                    _ => spread.min(size_bytes),
                };
                // No more than the pool has: what does not fit is refused in any case.
                let most = look.row.lv_size.saturating_add(chunk);
                let chunks = bytes.min(most).div_ceil(chunk);
                let metadata_bytes = chunks.saturating_mul(CHUNK_METADATA_BYTES);
                (chunks.saturating_mul(chunk), metadata_bytes)
            }
        };
        let mut account = self.account();
        // What somebody else saw meanwhile is newer.
        let look = account.look.clone().unwrap_or(look);
        self.judge(pool, &look, &account, (data_bytes, metadata_bytes))?;
        let number = account.next;
        account.next += 1;
        let held = Held {
            volume: volume.clone(),
            data_bytes,
            metadata_bytes,
        };
        account.held.insert(number, held);
        drop(account);
        let account = Arc::clone(&self.account);
        Ok(Reservation::released_by(move || {
            release(&account, number);
        }))
    }

    /// Whether anything at all can be reserved, by the last look.
    pub(super) fn admits_by_last_look(&self, pool: &PoolSettings) -> Result<(), VolumeError> {
        let account = self.account();
        match account.look.clone() {
            Some(look) => self.judge(pool, &look, &account, (0, 0)),
            None => Ok(()),
        }
    }

    /// What new volumes may take of the pool.
    pub(super) fn free_bytes(&self, pool: &PoolSettings, look: &Look) -> u64 {
        let row = &look.row;
        let used = part_of(row.lv_size, row.data_percent.unwrap_or(100.0));
        let (held, _) = self.account().outstanding();
        share(row.lv_size, pool.data.max.into(), 100)
            .saturating_sub(used)
            .saturating_sub(held)
    }

    /// The last look, for those who show it.
    pub(super) fn pool_usage(&self, pool: &PoolSettings) -> Option<PoolUsage> {
        let account = self.account();
        let look = account.look.as_ref()?;
        let (reserved_bytes, _) = account.outstanding();
        let ratio = |percent: u8| f64::from(percent) / 100.0;
        Some(PoolUsage {
            name: pool.name.to_string(),
            size_bytes: look.row.lv_size,
            metadata_size_bytes: look.row.lv_metadata_size.unwrap_or(0),
            data_ratio: look.row.data_percent.map(|percent| percent / 100.0),
            metadata_ratio: look.row.metadata_percent.map(|percent| percent / 100.0),
            reserved_bytes,
            virtual_bytes: look.virtual_bytes,
            warn_ratios: (ratio(pool.data.warn), ratio(pool.metadata.warn)),
            max_ratios: (ratio(pool.data.max), ratio(pool.metadata.max)),
            flaw: look.flaw(self.group_name()),
        })
    }
}

fn release(account: &Mutex<Account>, number: u64) {
    let mut account = account.lock().unwrap_or_else(PoisonError::into_inner);
    let held = account.held.remove(&number);
    account.released += u64::from(held.is_some_and(|held| held.data_bytes > 0));
}
