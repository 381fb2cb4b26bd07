//! What `lvs` and `vgs` report, as values.
//!
//! Asked for as JSON in bytes (`--reportformat json --units b --nosuffix`). In that format every
//! value is a string, an empty one where there is nothing to say. What LVM says beside it, on
//! standard error, is for people and never read here.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

/// The fields of [`LvRow`], as `lvs -o` takes them.
pub const LV_FIELDS: &str = "lv_name,lv_uuid,vg_uuid,lv_size,lv_tags,lv_path,lv_dm_path,\
    lv_kernel_major,lv_kernel_minor,lv_layout,lv_role,lv_active,lv_device_open,lv_permissions,\
    lv_skip_activation,pool_lv,data_percent";

/// The fields of [`PoolRow`], as `lvs -o` takes them.
pub const POOL_FIELDS: &str = "lv_name,lv_uuid,lv_size,lv_layout,lv_active,lv_permissions,lv_health_status,\
    lv_when_full,lv_check_needed,lv_metadata_size,zero,chunk_size,discards,data_percent,metadata_percent,pool_lv,\
    vg_extent_size";

/// The fields of [`VgRow`], as `vgs -o` takes them.
pub const VG_FIELDS: &str =
    "vg_name,vg_uuid,vg_size,vg_free,vg_extent_size,vg_permissions,vg_exported,vg_missing_pv_count";

/// The fields of the rows of physical volumes, as `pvs -o` takes them.
pub const PV_FIELDS: &str = "pv_name";

/// Settings of `lvm.conf` that would change the form of a report, set back to what is parsed here.
pub const CONFIG: &str = concat!(
    r#"log{report_command_log=0} global{units="b" suffix=0} report{output_format="json" compact_output=0 "#,
    r#"compact_output_cols="" aligned=1 buffered=1 headings=1 separator=" " list_item_separator="," "#,
    r#"prefixes=0 quoted=1 columns_as_rows=0 binary_values_as_numeric=0 mark_hidden_devices=1}"#,
);

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LvRow {
    /// Its name; in brackets when it is a part of another.
    pub lv_name: String,
    /// LVM's identifier of it, the same for its whole life.
    pub lv_uuid: String,
    /// The same of its volume group.
    pub vg_uuid: String,
    /// Its size in bytes.
    #[serde(deserialize_with = "number")]
    pub lv_size: u64,
    /// Its tags.
    #[serde(deserialize_with = "list")]
    pub lv_tags: Vec<String>,
    /// `/dev/VG/LV`; empty for parts of others and for pools.
    pub lv_path: String,
    /// `/dev/mapper/VG-LV`.
    pub lv_dm_path: String,
    /// The device's number; -1 while it is not active.
    #[serde(deserialize_with = "number")]
    pub lv_kernel_major: i64,
    /// The same, second part.
    #[serde(deserialize_with = "number")]
    pub lv_kernel_minor: i64,
    /// How its data lie: `linear`, `striped`, `raid,raid1`, `thin,sparse`, ...
    #[serde(deserialize_with = "list")]
    pub lv_layout: Vec<String>,
    /// What it is to others: `public`, or that and `origin`, `snapshot`, ..., or `private`.
    #[serde(deserialize_with = "list")]
    pub lv_role: Vec<String>,
    /// `active`, or empty.
    pub lv_active: String,
    /// `open` when anything has it open, `unknown` while it is not active, or empty.
    pub lv_device_open: String,
    /// `writeable`, `read-only`, or `unknown` while it is not active and could be written.
    pub lv_permissions: String,
    /// `skip activation`, or empty.
    pub lv_skip_activation: String,
    /// The pool of a thin volume; empty for others.
    pub pool_lv: String,
    /// How much of it a thin volume has taken from its pool; none while it is not active.
    #[serde(deserialize_with = "percent")]
    pub data_percent: Option<f64>,
}

impl LvRow {
    /// The device's number, while it is active.
    pub fn device(&self) -> Option<(u32, u32)> {
        let major = u32::try_from(self.lv_kernel_major).ok()?;
        let minor = u32::try_from(self.lv_kernel_minor).ok()?;
        Some((major, minor))
    }

    /// `/dev/VG/LV`, or the mapper's path for a volume that has no other.
    pub fn lv_path_or_dm(&self) -> &str {
        match self.lv_path.as_str() {
            "" => &self.lv_dm_path,
            path => path,
        }
    }

    /// The name that device-mapper has for a volume by its UUIDs (libdevmapper's `UUID_PREFIX`
    /// and the two UUIDs without their hyphens); parts of a volume have a suffix after it.
    pub fn dm_uuid(&self) -> String {
        format!(
            "LVM-{}",
            [&*self.vg_uuid, &*self.lv_uuid].concat().replace('-', "")
        )
    }
}

/// A thin pool, or a volume in it: LVM reports both by the same fields.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PoolRow {
    /// Its name.
    pub lv_name: String,
    /// LVM's identifier of it.
    pub lv_uuid: String,
    /// A pool's data, or what a volume promises, in bytes.
    #[serde(deserialize_with = "number")]
    pub lv_size: u64,
    /// `thin,pool` or `thin,sparse`.
    #[serde(deserialize_with = "list")]
    pub lv_layout: Vec<String>,
    /// `active`, or empty.
    pub lv_active: String,
    /// `writeable`, `read-only`, `unknown`.
    pub lv_permissions: String,
    /// Empty for a sound pool; `out_of_data`, `metadata_read_only`, `failed`, ...
    pub lv_health_status: String,
    /// What a full pool does with writes: `queue` or `error`.
    pub lv_when_full: String,
    /// `check needed`, or empty.
    pub lv_check_needed: String,
    /// The size of a pool's metadata in bytes.
    #[serde(deserialize_with = "optional")]
    pub lv_metadata_size: Option<u64>,
    /// `zero`, or empty.
    pub zero: String,
    /// The unit in which a pool gives room to volumes, in bytes.
    #[serde(deserialize_with = "number")]
    pub chunk_size: u64,
    /// What becomes of discards: `ignore`, `nopassdown`, `passdown`.
    pub discards: String,
    /// How much of its data is taken; none while that is not known.
    #[serde(deserialize_with = "percent")]
    pub data_percent: Option<f64>,
    /// The same of its metadata.
    #[serde(deserialize_with = "percent")]
    pub metadata_percent: Option<f64>,
    /// The pool of a volume; empty for the pool itself.
    pub pool_lv: String,
    /// The unit of allocation of the group, in bytes.
    #[serde(deserialize_with = "number")]
    pub vg_extent_size: u64,
}

/// What can be set on a volume beside its size and tags. LVM reports what it knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct PropertyRow {
    /// LVM's identifier of it.
    pub lv_uuid: String,
    /// `enabled`, or empty; none for an LVM before 2.03.12.
    pub lv_autoactivation: Option<String>,
    /// `skip activation`, or empty.
    pub lv_skip_activation: String,
    /// `inherit`, `normal`, `contiguous`, `cling`, ...
    pub lv_allocation_policy: String,
    /// `fixed minor`, or empty.
    pub lv_fixed_minor: String,
    /// `auto`, or bytes.
    pub lv_read_ahead: String,
    /// The profile of its metadata; empty without one.
    pub lv_profile: String,
}

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct VgRow {
    /// Its name.
    pub vg_name: String,
    /// LVM's identifier of it.
    pub vg_uuid: String,
    /// Its size in bytes.
    #[serde(deserialize_with = "number")]
    pub vg_size: u64,
    /// What no volume has taken, in bytes.
    #[serde(deserialize_with = "number")]
    pub vg_free: u64,
    /// The unit of allocation, in bytes.
    #[serde(deserialize_with = "number")]
    pub vg_extent_size: u64,
    /// `writeable` or `read-only`.
    pub vg_permissions: String,
    /// `exported`, or empty.
    pub vg_exported: String,
    /// How many of its disks are missing.
    #[serde(deserialize_with = "number")]
    pub vg_missing_pv_count: u64,
}

/// Parses the answer of `lvs`.
pub fn parse_lvs(json: &[u8]) -> serde_json::Result<Vec<LvRow>> {
    let report: Report<LvRow> = serde_json::from_slice(json)?;
    Ok(report.report.into_iter().flat_map(|rows| rows.lv).collect())
}

/// Parses the answer of `lvs` about properties.
pub fn parse_properties(json: &[u8]) -> serde_json::Result<Vec<PropertyRow>> {
    let report: Report<PropertyRow> = serde_json::from_slice(json)?;
    Ok(report.report.into_iter().flat_map(|rows| rows.lv).collect())
}

/// Parses the answer of `lvs` about a pool.
pub fn parse_pools(json: &[u8]) -> serde_json::Result<Vec<PoolRow>> {
    let report: Report<PoolRow> = serde_json::from_slice(json)?;
    Ok(report.report.into_iter().flat_map(|rows| rows.lv).collect())
}

/// Parses the answer of `vgs`.
pub fn parse_vgs(json: &[u8]) -> serde_json::Result<Vec<VgRow>> {
    let report: Report<LvRow> = serde_json::from_slice(json)?;
    Ok(report.report.into_iter().flat_map(|rows| rows.vg).collect())
}

/// Parses the answer of `pvs`: the devices' paths. One that is missing has none.
pub fn parse_pvs(json: &[u8]) -> serde_json::Result<Vec<PathBuf>> {
    let report: Report<LvRow> = serde_json::from_slice(json)?;
    let rows = report.report.into_iter().flat_map(|rows| rows.pv);
    let paths = rows.map(|row| row.pv_name);
    Ok(paths.filter(|path| path.is_absolute()).collect())
}

/// The whole answer. `lvm.conf` may have a log added to it, which is not looked at.
#[derive(Deserialize)]
#[serde(bound(deserialize = "Lv: Deserialize<'de>"))]
struct Report<Lv> {
    report: Vec<Rows<Lv>>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "Lv: Deserialize<'de>"))]
struct Rows<Lv> {
    #[serde(default = "Vec::new")]
    lv: Vec<Lv>,
    #[serde(default)]
    vg: Vec<VgRow>,
    #[serde(default)]
    pv: Vec<PvRow>,
}

#[derive(Deserialize)]
struct PvRow {
    pv_name: PathBuf,
}

fn number<'de, D, N>(deserializer: D) -> Result<N, D::Error>
where
    D: Deserializer<'de>,
    N: std::str::FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    let error = |error| serde::de::Error::custom(format!("{text:?} is not a number: {error}"));
    text.parse().map_err(error)
}

/// A number where there is one to report.
fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let error = |error| serde::de::Error::custom(format!("{text:?} is not a number: {error}"));
    text.parse().map(Some).map_err(error)
}

/// A percentage where there is one to report.
fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Some(percent)),
        _ => Err(serde::de::Error::custom(format!(
            "{text:?} is no percentage"
        ))),
    }
}

fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let items = text.split(',').filter(|item| !item.is_empty());
    Ok(items.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests;
