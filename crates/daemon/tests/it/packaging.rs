//! The files under `packaging/`, by the judgement of the programs that read them.

use std::fs;
use std::path::{Path, PathBuf};

use lvp_testkit::require::{command, require};

use crate::support::BINARY;

/// Of `systemd-analyze security`: 0 is a service that can do nothing, 10 one that can do everything.
/// What is left belongs to LVM (root, CAP_SYS_ADMIN, block devices) and to S3 (the network).
const MAX_EXPOSURE: f64 = 2.5;

fn packaging(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../packaging")
        .join(path)
        .canonicalize()
        .expect("it is there")
}

/// Runs a tool that must succeed; all that it said.
fn judged(mut tool: std::process::Command) -> String {
    let output = tool.output().expect("it starts");
    assert!(output.status.success(), "{tool:?}: {output:?}");
    [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !require("systemd") {
        return;
    }
    // With the program where the units expect it.
    let copies = tempfile::tempdir().expect("a directory");
    let mut verify = command("systemd-analyze");
    verify.args(["verify", "--man=no"]);
    for entry in fs::read_dir(packaging("systemd")).expect("it is read") {
        let entry = entry.expect("it is read");
        let unit = fs::read_to_string(entry.path()).expect("it is read");
        let unit = unit.replace("/usr/bin/libvirt-volume-provisioner", BINARY);
        let copy = copies.path().join(entry.file_name());
        fs::write(&copy, unit).expect("it is written");
        verify.arg(copy);
    }
    let said = judged(verify);
    let ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("libvirt-volume-provisioner"))
        .collect();
    assert_eq!(ours, Vec::<&str>::new());
}

#[test]
fn the_service_is_exposed_no_more_than_lvm_demands() {
    if !require("systemd") {
        return;
    }
    let mut analyze = command("systemd-analyze");
    analyze
        .args(["security", "--offline=true", "--no-pager"])
        .arg(packaging("systemd/libvirt-volume-provisioner.service"));
    let said = judged(analyze);
    let exposure = said
        .lines()
        .find_map(|line| line.split_once("Overall exposure level for "))
        .and_then(|(_, rest)| rest.split_once(": "))
        .and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok())
        .unwrap_or_else(|| panic!("no score: {said}"));
    assert!(exposure <= MAX_EXPOSURE, "{exposure}: {said}");
}

#[test]
fn users_and_directories_can_be_made() {
    if !require("systemd") {
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    fs::create_dir(root.path().join("etc")).expect("it is made");
    let at_root = format!("--root={}", root.path().display());
    let mut sysusers = command("systemd-sysusers");
    sysusers
        .arg(&at_root)
        .arg(packaging("sysusers/libvirt-volume-provisioner.conf"));
    judged(sysusers);
    let users = fs::read_to_string(root.path().join("etc/passwd")).expect("users were made");
    assert!(users.contains("libvirt-volume-provisioner:"), "{users}");
    assert!(users.contains("nologin"), "{users}");
    let mut tmpfiles = command("systemd-tmpfiles");
    tmpfiles
        .args([&at_root, "--create"])
        .arg(packaging("tmpfiles/libvirt-volume-provisioner.conf"));
    judged(tmpfiles);
    for (directory, mode) in [
        ("etc/libvirt-volume-provisioner", 0o750),
        ("var/lib/libvirt-volume-provisioner", 0o700),
        ("var/log/libvirt-volume-provisioner", 0o2750),
    ] {
        let metadata = fs::metadata(root.path().join(directory)).expect(directory);
        let found = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
        assert_eq!(found & 0o7777, mode, "{directory}");
    }
}

#[test]
fn the_apparmor_profile_is_sound() {
    if !require("apparmor_parser") {
        return;
    }
    let mut parser = command("apparmor_parser");
    parser
        .args(["--skip-kernel-load", "--skip-cache"])
        .arg(packaging("apparmor/libvirt-volume-provisioner"));
    judged(parser);
}
