//! Thin pools: the one that volumes are made in, and others in the group.

use std::fs;
use std::sync::Arc;

use lvp_api::units::ByteSize;
use serde::Deserialize;

use super::Finding;
use super::lvm::{TIMEOUT, reporting};
use crate::cmd;
use crate::config::{Config, ThinPool};
use crate::error::chain;
use crate::volume::lvm::Lvm;
use crate::volume::{NoLibvirt, PoolUsage, Volumes as _};

const CHECK: &str = "lvm.thin_pool";

/// A pool of others with less room than this needs its operator.
const POOL_FULL_PERCENT: f64 = 80.0;

/// From here on a clone's first write to a block copies so much that guests notice.
const CHUNK_MAX_BYTES: u64 = 512 << 10; // 512 KiB

/// The share of the pool that the group should have left, to extend the pool by once.
const FREE_PERCENT: u64 = 10;

/// The fields of [`Row`].
const FIELDS: &str = "lv_name,lv_layout,lv_role,lv_size,lv_metadata_size,data_percent,metadata_percent,chunk_size,\
    discards,lv_when_full,seg_monitor,vg_free";

#[derive(Debug, Deserialize)]
struct Report {
    report: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(default)]
    lv: Vec<Row>,
}

/// A volume of the group as LVM reports it, hidden ones in brackets.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Row {
    lv_name: String,
    lv_layout: String,
    lv_role: String,
    lv_size: String,
    lv_metadata_size: String,
    data_percent: String,
    metadata_percent: String,
    chunk_size: String,
    discards: String,
    lv_when_full: String,
    seg_monitor: String,
    vg_free: String,
}

/// What the host says around the pool.
#[derive(Debug, Default)]
struct Host {
    /// `activation/thin_pool_autoextend_threshold`: 100 extends nothing.
    autoextend_threshold: Option<u64>,
    /// The kernel's patience with a full pool that queues, in seconds; 0 is for ever.
    no_space_timeout: Option<u64>,
    /// What `thin_check -V` says.
    tools_version: Option<String>,
}

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let group = &config.lvm.volume_group;
    let mut args = reporting(FIELDS);
    args.extend(["--all", "--units", "b", "--nosuffix", group].map(str::to_owned));
    // If the group cannot be read, another check reports it.
    let Ok(output) = cmd::run("lvs", args, TIMEOUT).await else {
        return Vec::new();
    };
    let rows = match serde_json::from_slice::<Report>(&output.stdout) {
        Ok(report) => report.report.into_iter().flat_map(|part| part.lv),
        Err(error) => {
            return vec![Finding::warn(
                "lvm.thin_pools",
                format!("LVM's report on thin pools cannot be parsed: {error}"),
                "Check LVM's version: 2.03 or newer is needed",
            )];
        }
    };
    let rows: Vec<Row> = rows.collect();
    let ours = config.lvm.pool.as_ref();
    let mut findings = others(&rows, ours);
    if let Some(pool) = ours {
        findings.extend(configured(config, pool, &rows).await);
    }
    findings
}

fn is_pool(row: &Row) -> bool {
    row.lv_layout == "thin,pool"
}

fn others(rows: &[Row], ours: Option<&ThinPool>) -> Vec<Finding> {
    const CHECK: &str = "lvm.thin_pools";
    let is_ours = |row: &&Row| ours.is_some_and(|pool| pool.name.as_str() == row.lv_name);
    let others = rows.iter().filter(|row| is_pool(row) && !is_ours(row));
    let mut findings: Vec<_> = others
        .map(|pool| {
            let Row {
                lv_name,
                data_percent,
                metadata_percent,
                ..
            } = pool;
            let message = format!(
                "Thin pool {lv_name}: {data_percent} % of its data and {metadata_percent} % of its \
                 metadata are used; volumes are not created in it"
            );
            let fullest = [data_percent, metadata_percent]
                .into_iter()
                .filter_map(|percent| percent.parse::<f64>().ok())
                .fold(0.0, f64::max);
            if fullest >= POOL_FULL_PERCENT {
                let remedy = "Extend it ('lvextend --size', '--poolmetadatasize'): a full thin pool \
                    stops every guest on it";
                Finding::warn(CHECK, message, remedy)
            } else {
                Finding::ok(CHECK, message)
            }
        })
        .collect();
    if findings.is_empty() {
        let text = match ours {
            Some(_) => "There are no others",
            None => "There are none",
        };
        findings.push(Finding::ok(CHECK, text));
    }
    findings
}

async fn configured(config: &Config, pool: &ThinPool, rows: &[Row]) -> Vec<Finding> {
    let backend = match Lvm::new((&config.lvm).into(), Arc::new(NoLibvirt)) {
        Ok(backend) => backend,
        Err(error) => return vec![Finding::fail(CHECK, chain(&error), "Set lvm.volume_group")],
    };
    if let Err(error) = backend.probe().await {
        let remedy = "Make the pool, or set lvm.thin_pool to the one to use (docs/volumes.md)";
        return vec![Finding::fail(CHECK, chain(&error), remedy)];
    }
    let mut findings: Vec<_> = backend.pool().as_ref().map(fullness).into_iter().collect();
    if let Some(row) = rows.iter().find(|row| row.lv_name == pool.name.as_str()) {
        let target = format!("{}/{}", config.lvm.volume_group, pool.name);
        findings.extend(settings(&target, pool, row, rows, &host().await));
    }
    findings
}

/// Whether jobs get room in the pool.
fn fullness(pool: &PoolUsage) -> Finding {
    if let Some(flaw) = &pool.flaw {
        let remedy = "Jobs are refused until then; see docs/volumes.md";
        return Finding::fail(CHECK, flaw.clone(), remedy);
    }
    let (data, metadata) = (
        pool.data_ratio.unwrap_or(1.0),
        pool.metadata_ratio.unwrap_or(1.0),
    );
    let message = format!(
        "{}: {:.2} % of {} of data and {:.2} % of {} of metadata are taken; its volumes promise {}",
        pool.name,
        data * 100.0,
        ByteSize(pool.size_bytes),
        metadata * 100.0,
        ByteSize(pool.metadata_size_bytes),
        ByteSize(pool.virtual_bytes)
    );
    let remedy = "Remove volumes, or extend the pool ('lvextend -L +SIZE', 'lvextend --poolmetadatasize +SIZE')";
    if data > pool.max_ratios.0 || metadata > pool.max_ratios.1 {
        return Finding::fail(CHECK, format!("{message}: jobs are refused"), remedy);
    }
    match data >= pool.warn_ratios.0 || metadata >= pool.warn_ratios.1 {
        true => Finding::warn(CHECK, message, remedy),
        false => Finding::ok(CHECK, message),
    }
}

/// What will make trouble one day.
fn settings(target: &str, pool: &ThinPool, row: &Row, rows: &[Row], host: &Host) -> Vec<Finding> {
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    let warn = |message: String, remedy: String| Finding::warn(CHECK, message, remedy);
    let mut findings = Vec::new();
    match host.autoextend_threshold {
        Some(threshold) if threshold >= 100 => findings.push(warn(
            format!("{target} is not extended by itself"),
            "Set activation/thin_pool_autoextend_threshold and _percent in lvm.conf, and leave the group room; or watch \
             the metrics and extend it by hand"
                .to_owned(),
        )),
        Some(threshold) if threshold < u64::from(pool.data_percent.1) => findings.push(warn(
            format!(
                "LVM itself makes no volumes in {target} beyond its threshold for extending it, {threshold} %, which is \
                 below lvm.pool_data_percent_max ({} %)",
                pool.data_percent.1
            ),
            "Leave the group room to extend the pool by, or raise activation/thin_pool_autoextend_threshold".to_owned(),
        )),
        _ => {}
    }
    if row.seg_monitor == "not monitored" {
        findings.push(warn(
            format!(
                "dmeventd does not monitor {target}: nobody extends it or warns when it fills up"
            ),
            format!(
                "Run 'lvchange --monitor y {target}', and set activation/monitoring = 1 in lvm.conf"
            ),
        ));
    }
    let spare = rows
        .iter()
        .filter(|row| row.lv_role.split(',').any(|role| role == "spare"));
    let spare = spare.map(|row| number(&row.lv_size)).max().unwrap_or(0);
    if spare < number(&row.lv_metadata_size) {
        findings.push(warn(
            format!("The group has no spare metadata volume for {target}: a repair of the pool needs one"),
            format!("Run 'lvextend --poolmetadatasize +4M {target}', which makes one on the way"),
        ));
    }
    let chunk = number(&row.chunk_size);
    if chunk > CHUNK_MAX_BYTES {
        findings.push(warn(
            format!(
                "{target} has chunks of {}: the first write to one of a clone copies all of it",
                ByteSize(chunk)
            ),
            "Chunks have the size that the pool was made with ('lvcreate --chunksize 64k' to 512k)"
                .to_owned(),
        ));
    }
    if row.discards == "ignore" {
        findings.push(warn(
            format!("{target} ignores discards: what guests delete is never given back, and rewritten volumes are zeroed by writing"),
            format!("Deactivate the pool and run 'lvchange --discards passdown {target}'"),
        ));
    }
    let (size, free) = (number(&row.lv_size), number(&row.vg_free));
    if free < size / 100 * FREE_PERCENT {
        findings.push(warn(
            format!(
                "The group has {} left to extend {target} by",
                ByteSize(free)
            ),
            "Add a disk ('vgextend'), so that the pool can be extended when it has to be"
                .to_owned(),
        ));
    }
    if row.lv_when_full == "queue" && host.no_space_timeout == Some(0) {
        findings.push(warn(
            format!("Writes to {target} wait for ever when it is full"),
            "Set the kernel's parameter dm_thin_pool.no_space_timeout to seconds (60 by default), or run \
             'lvchange --errorwhenfull y'"
                .to_owned(),
        ));
    }
    findings.push(match &host.tools_version {
        Some(version) => Finding::ok(CHECK, format!("thin-provisioning-tools {version}")),
        None => Finding::fail(
            CHECK,
            "thin_check is not installed: LVM does not activate a pool without it".to_owned(),
            "Run 'apt install thin-provisioning-tools'",
        ),
    });
    findings
}

async fn host() -> Host {
    let args = [
        "--type",
        "full",
        "activation/thin_pool_autoextend_threshold",
    ];
    let threshold = cmd::run("lvmconfig", args, TIMEOUT).await.ok();
    let threshold = threshold.and_then(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.trim().rsplit('=').next()?.trim().parse().ok()
    });
    let patience = fs::read_to_string("/sys/module/dm_thin_pool/parameters/no_space_timeout");
    let version = cmd::run("thin_check", ["-V"], TIMEOUT).await.ok();
    Host {
        autoextend_threshold: threshold,
        no_space_timeout: patience.ok().and_then(|text| text.trim().parse().ok()),
        tools_version: version
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()),
    }
}

#[cfg(test)]
mod tests;
