//! What the scenarios share: a back end on `vg0`, and LVM's own tools to inspect it from outside.

use std::sync::Arc;
use std::time::Duration;

use lvp_testkit::require::command;
use provisioner::volume::lvm::{Lvm, LvmSettings, PoolSettings, Watermarks};
use provisioner::volume::{InUse, NoLibvirt};

pub(crate) use super::contract::{MIB, digest, kind, look, name, populating};

/// LVM's default.
pub(crate) const EXTENT: u64 = 4 * MIB;

pub(crate) fn settings() -> LvmSettings {
    LvmSettings {
        volume_group: "vg0".to_owned(),
        pool: None,
        retry_backoff: vec![Duration::from_millis(50), Duration::from_millis(400)],
        command_timeout: Duration::from_secs(60),
    }
}

/// New volumes in the thin pool `pool0`, which has no overcommitment to mind.
pub(crate) fn thin_settings() -> LvmSettings {
    let pool = PoolSettings {
        name: name("pool0"),
        data: Watermarks { warn: 70, max: 80 },
        metadata: Watermarks { warn: 60, max: 75 },
        overcommit_percent_max: None,
    };
    LvmSettings {
        pool: Some(pool),
        ..settings()
    }
}

pub(crate) fn thin_backend() -> Lvm {
    backend_with(thin_settings())
}

/// Makes the pool again, in a group that has nothing else.
pub(crate) fn make_pool(mib: u64, more: &str) {
    // Snapshots and thin volumes go with what they are of.
    tool("lvremove --quiet --yes --force vg0");
    tool(&format!(
        "lvcreate --yes --type thin-pool --size {mib}M --poolmetadatasize 4M --chunksize 64k --name pool0 {more} vg0"
    ));
}

/// One field that LVM reports of a volume.
pub(crate) fn field(volume: &str, field: &str) -> String {
    tool(&format!("lvs --noheadings --options {field} vg0/{volume}"))
}

pub(crate) fn backend() -> Lvm {
    backend_with(settings())
}

pub(crate) fn backend_with(settings: LvmSettings) -> Lvm {
    Lvm::new(settings, Arc::new(NoLibvirt)).unwrap()
}

pub(crate) fn backend_asking(in_use: Arc<dyn InUse>) -> Lvm {
    Lvm::new(settings(), in_use).unwrap()
}

/// Runs a tool that must succeed, and returns what it printed.
pub(crate) fn tool(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = command(words.next().unwrap()).args(words).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{line}: {}: {stderr}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A volume as an operator or another tool would make it.
pub(crate) fn foreign(volume: &str, more: &str) {
    tool(&format!(
        "lvcreate --yes --name {volume} --size 8M {more} vg0"
    ));
}

/// A volume's tags, as LVM has them.
pub(crate) fn tags(volume: &str) -> String {
    tool(&format!("lvs --noheadings --options lv_tags vg0/{volume}"))
}

/// The number of commits that the volume group's metadata has had.
pub(crate) fn commits() -> u64 {
    tool("vgs --noheadings --options vg_seqno vg0")
        .parse()
        .unwrap()
}

/// Both at once, to see whether anything was changed.
pub(crate) fn tags_and_commits(volume: &str) -> String {
    tool(&format!(
        "lvs --noheadings --options lv_tags,vg_seqno vg0/{volume}"
    ))
}
