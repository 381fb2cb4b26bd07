//! The volume group, for the suite that every back end passes.

use std::path::PathBuf;
use std::sync::Arc;

use lvp_testkit::lvm;
use provisioner::volume::lvm::LvmSettings;
use provisioner::volume::{InUse, Volumes};

use super::contract::{Place, SIZE};
use super::fixture::{backend_asking, backend_with, settings, tags_and_commits, tool};

/// `vg0`.
pub(crate) struct Group;

impl Place for Group {
    fn asking(&self, in_use: Arc<dyn InUse>) -> Box<dyn Volumes> {
        Box::new(backend_asking(in_use))
    }

    fn missing(&self) -> (Box<dyn Volumes>, String) {
        let volume_group = "vg9".to_owned();
        let nowhere = backend_with(LvmSettings {
            volume_group: volume_group.clone(),
            ..settings()
        });
        (Box::new(nowhere), volume_group)
    }

    fn path(&self, volume: &str) -> PathBuf {
        lvm::device(volume)
    }

    fn make(&self, volume: &str) {
        tool(&format!(
            "lvcreate --yes --name {volume} --size {SIZE}b vg0"
        ));
    }

    fn replace(&self, volume: &str) {
        tool(&format!("lvremove --yes vg0/{volume}"));
        self.make(volume);
    }

    fn make_alias(&self, volume: &str, other: &str) {
        tool(&format!(
            "lvcreate --yes --snapshot --name {volume} --size 4M vg0/{other}"
        ));
    }

    fn marks(&self, volume: &str) -> String {
        tags_and_commits(volume)
    }
}
