//! What LVM says of the thin pool at one moment, and whether the pool is sound.

use std::collections::HashMap;
use std::time::Instant;

use super::report::PoolRow;

/// A pool as LVM reported it.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) row: PoolRow,
    pub(super) extent_bytes: u64,
    pub(super) virtual_bytes: u64,
    /// What each active volume has taken of the pool.
    pub(super) mapped: HashMap<String, u64>,
}

impl Look {
    /// The pool of that name among the rows, with the volumes that are in it.
    pub(super) fn of(rows: Vec<PoolRow>, pool: &str) -> Option<Self> {
        let mut found = None;
        let (mut virtual_bytes, mut mapped) = (0_u64, HashMap::new());
        for row in rows {
            if row.lv_name == pool {
                found = Some(row);
            } else if row.pool_lv == pool {
                virtual_bytes = virtual_bytes.saturating_add(row.lv_size);
                if let Some(percent) = row.data_percent {
                    mapped.insert(row.lv_name, part_of(row.lv_size, percent));
                }
            }
        }
        let row = found?;
        Some(Self {
            at: Instant::now(),
            extent_bytes: row.vg_extent_size,
            row,
            virtual_bytes,
            mapped,
        })
    }

    /// Why nothing may be written to the pool, if so.
    pub(super) fn flaw(&self, group: &str) -> Option<String> {
        let row = &self.row;
        let pool = format!("{group}/{}", row.lv_name);
        let is_pool = row.lv_layout.iter().any(|layout| layout == "pool");
        if !is_pool || !row.lv_layout.iter().any(|layout| layout == "thin") {
            let layout = row.lv_layout.join(",");
            return Some(format!(
                "{pool} is no thin pool, its layout is {layout:?}: set lvm.thin_pool to one"
            ));
        }
        if row.lv_check_needed == "check needed" {
            return Some(format!(
                "The thin pool {pool} needs a check of its metadata: stop its users, deactivate it and run \
                 'lvconvert --repair {pool}'"
            ));
        }
        match row.lv_health_status.as_str() {
            "" => {}
            "out_of_data" => {
                return Some(format!(
                    "The thin pool {pool} is out of data: extend it ('lvextend -L +SIZE {pool}')"
                ));
            }
            "metadata_read_only" => {
                return Some(format!(
                    "The metadata of the thin pool {pool} are read-only after an error or for want of room: stop its \
                     users, deactivate it and run 'lvconvert --repair {pool}', then extend the metadata"
                ));
            }
            other => {
                return Some(format!(
                    "LVM says that the thin pool {pool} is not sound ({other}): see 'lvs -o +lv_health_status' and \
                     the kernel's log"
                ));
            }
        }
        if row.lv_permissions == "read-only" {
            return Some(format!(
                "The thin pool {pool} is read-only: 'lvchange -p rw {pool}' changes that"
            ));
        }
        if row.zero != "zero" {
            return Some(format!(
                "The thin pool {pool} gives new volumes what older ones have left in it: switch zeroing on \
                 ('lvchange -Z y {pool}')"
            ));
        }
        if row.data_percent.is_none() || row.metadata_percent.is_none() {
            return Some(format!(
                "It cannot be told how full the thin pool {pool} is: activate it ('lvchange -a y {pool}')"
            ));
        }
        None
    }
}

/// That share of the bytes, rounded up to hundredths of a percent.
pub(super) fn part_of(bytes: u64, percent: f64) -> u64 {
    // LVM reports hundredths of a percent, and rounds no part down to nothing.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 10 000, as the report's parser has checked"
    )]
    let hundredths = (percent * 100.0).ceil() as u64;
    share(bytes, hundredths, 10_000)
}

/// `of * part / all`, without overflow.
pub(super) fn share(of: u64, part: u64, all: u64) -> u64 {
    let scaled = u128::from(of) * u128::from(part) / u128::from(all.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}
