//! What the scenarios share: a back end on `vg0`, and LVM's own tools to look from outside.

use std::sync::Arc;
use std::time::Duration;

use lvp_api::{JobId, Sha256Digest, VolumeName};
use lvp_testkit::require::command;
use provisioner::volume::lvm::{Lvm, Settings};
use provisioner::volume::{
    InUse, NoLibvirt, Volume, VolumeError, VolumeErrorKind, VolumeState, Volumes,
};

pub const MIB: u64 = 1 << 20;

/// LVM's default.
pub const EXTENT: u64 = 4 * MIB;

pub fn settings() -> Settings {
    Settings {
        volume_group: "vg0".to_owned(),
        retry_attempts: 2,
        retry_backoff: vec![Duration::from_millis(50), Duration::from_millis(400)],
        command_timeout: Duration::from_secs(60),
        adopt_untagged: true,
    }
}

pub fn backend() -> Lvm {
    backend_with(settings())
}

pub fn backend_with(settings: Settings) -> Lvm {
    Lvm::new(settings, Arc::new(NoLibvirt)).unwrap()
}

pub fn backend_asking(in_use: Arc<dyn InUse>) -> Lvm {
    Lvm::new(settings(), in_use).unwrap()
}

pub fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

pub fn digest(byte: u8) -> Sha256Digest {
    Sha256Digest::new([byte; 32])
}

pub fn kind<T: std::fmt::Debug>(result: Result<T, VolumeError>) -> VolumeErrorKind {
    result.unwrap_err().kind()
}

pub fn populating(job: JobId, created: bool) -> VolumeState {
    VolumeState::Populating { job, created }
}

pub async fn look(backend: &Lvm, volume: &str) -> Volume {
    backend.lookup(&name(volume)).await.unwrap().unwrap()
}

/// Runs a tool that must succeed, and returns what it printed.
pub fn tool(line: &str) -> String {
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
pub fn foreign(volume: &str, more: &str) {
    tool(&format!(
        "lvcreate --yes --name {volume} --size 8M {more} vg0"
    ));
}

/// A volume's tags, as LVM has them.
pub fn tags(volume: &str) -> String {
    tool(&format!("lvs --noheadings --options lv_tags vg0/{volume}"))
}

/// The number of commits that the volume group's metadata has had.
pub fn commits() -> u64 {
    tool("vgs --noheadings --options vg_seqno vg0")
        .parse()
        .unwrap()
}
