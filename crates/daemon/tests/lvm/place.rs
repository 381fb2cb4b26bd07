//! The volume group, for the suite that every back end passes.

use std::path::PathBuf;
use std::sync::Arc;

use lvp_testkit::lvm;
use provisioner::volume::lvm::{Lvm, LvmSettings};
use provisioner::volume::{InUse, Volumes};

use super::contract::{Place, SIZE};
use super::fixture::{
    backend_asking, backend_with, settings, tags_and_commits, thin_settings, tool,
};

fn missing_group(settings: LvmSettings) -> (Box<dyn Volumes>, String) {
    let volume_group = "vg9".to_owned();
    let nowhere = backend_with(LvmSettings {
        volume_group: volume_group.clone(),
        ..settings
    });
    (Box::new(nowhere), volume_group)
}

fn make_snapshot(volume: &str, other: &str) {
    tool(&format!(
        "lvcreate --yes --snapshot --name {volume} --size 4M vg0/{other}"
    ));
}

/// `vg0`.
pub(crate) struct Group;

impl Place for Group {
    fn asking(&self, in_use: Arc<dyn InUse>) -> Box<dyn Volumes> {
        Box::new(backend_asking(in_use))
    }

    fn missing(&self) -> (Box<dyn Volumes>, String) {
        missing_group(settings())
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
        make_snapshot(volume, other);
    }

    fn marks(&self, volume: &str) -> String {
        tags_and_commits(volume)
    }
}

/// `vg0` with the thin pool `pool0`, in which new volumes are made, also those made by hand.
pub(crate) struct Pool;

impl Place for Pool {
    fn asking(&self, in_use: Arc<dyn InUse>) -> Box<dyn Volumes> {
        Box::new(Lvm::new(thin_settings(), in_use).unwrap())
    }

    fn missing(&self) -> (Box<dyn Volumes>, String) {
        // What is looked up is looked up in the group, whatever pool new volumes are made in.
        missing_group(thin_settings())
    }

    fn path(&self, volume: &str) -> PathBuf {
        lvm::device(volume)
    }

    fn make(&self, volume: &str) {
        tool(&format!(
            "lvcreate --yes --thinpool pool0 --name {volume} --virtualsize {SIZE}b vg0"
        ));
    }

    fn replace(&self, volume: &str) {
        tool(&format!("lvremove --yes vg0/{volume}"));
        self.make(volume);
    }

    fn make_alias(&self, volume: &str, other: &str) {
        // A thin snapshot is a volume of its own; a thick one shares its origin's fate.
        make_snapshot(volume, other);
    }

    fn marks(&self, volume: &str) -> String {
        tags_and_commits(volume)
    }
}
