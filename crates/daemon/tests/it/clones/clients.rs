//! Golden volumes from the command line and on the page.

use std::fs;
use std::os::unix::fs::FileExt as _;

use lvp_api::{GoldenVolumes, Method};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::require::require;

use super::{DISK, Sharing, golden};
use crate::access::{FULL, READ};
use crate::certificates::with_tokens;
use crate::lvpctl::lvpctl;
use crate::page::play;
use crate::support::{World, completed, image};

#[tokio::test(flavor = "multi_thread")]
async fn golden_volumes_are_made_listed_verified_and_removed_from_the_command_line() {
    if !require("xfs") || !require("lvpctl") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let url = world.put("a.qcow2", &image(DISK, 100, 51).build());
    let daemon = world.start();
    let run = |arguments: &[&str], code: i32| {
        let output = lvpctl(daemon.url(), arguments);
        let found = output.status.code();
        assert_eq!(found, Some(code), "{arguments:?}: {output:?}");
        let [out, err] = [output.stdout, output.stderr].map(String::from_utf8);
        (out.expect("text"), err.expect("text"))
    };
    wait_for("readiness", async || {
        let answer = daemon.call("GET", "/readyz", None).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    let (out, err) = run(&["golden", "ls"], 0);
    assert!(out.is_empty() && err.contains("No golden volumes"), "{err}");
    let (made, _) = run(&["golden", "make", &url, "--wait", "-o", "json"], 0);
    assert!(made.contains("\"completed\""), "{made}");
    let (key, _) = run(&["golden", "ls", "-o", "name"], 0);
    let key = key.trim();
    let (table, _) = run(&["golden", "ls"], 0);
    let lines: Vec<_> = table.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("KEY"), "{table}");
    for part in [key, "qcow2", "32 MiB", "ready", &url] {
        assert!(lines[1].contains(part), "{part}: {table}");
    }

    let provision = [
        "provision",
        &url,
        "vm",
        "--size",
        "32M",
        "--clone",
        "require",
    ];
    run(&[&provision[..], &["--wait"]].concat(), 0);
    let (listed, _) = run(&["golden", "ls", "-o", "json"], 0);
    let listed: GoldenVolumes = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((listed.count, listed.volumes[0].clones), (1, 1));

    let golden_name = format!("lvp-golden-{key}-qcow2");
    let (told, _) = run(&["volumes", "verify", "vm", &golden_name], 0);
    let expected = format!("vm holds image {key}\n{golden_name} holds image {key}\n");
    assert_eq!(told, expected);
    let volume = world.home.volume("vm");
    let guest = fs::File::options().write(true).open(volume);
    let guest = guest.expect("it opens");
    guest.write_all_at(&[1; 10], 4096).expect("it is written");
    guest.sync_all().expect("it is written");
    drop(guest);
    // One that differs does not hide the next.
    let (told, _) = run(&["volumes", "verify", "vm", &golden_name], 1);
    assert!(told.contains("4096 bytes at 4096"), "{told}");
    assert!(told.contains(&format!("{golden_name} holds")), "{told}");
    run(&["volumes", "verify", "absent"], 4);

    let (removed, _) = run(&["golden", "rm", key, "-o", "name"], 0);
    assert_eq!(removed.trim(), key);
    run(&["golden", "rm", key], 4);
    run(&["cache", "rm", key], 0);
    assert_eq!(golden(&daemon).await.count, 0);
    // Both at once.
    run(&["cache", "fetch", "--golden", &url, "--wait"], 0);
    for what in ["golden", "cache"] {
        let (listed, _) = run(&[what, "ls", "-o", "name"], 0);
        assert_eq!(listed.trim(), key, "{what}");
    }
    let (cached, _) = run(&["cache", "ls"], 0);
    assert!(
        cached
            .lines()
            .nth(1)
            .is_some_and(|line| line.contains("yes")),
        "{cached}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_why_there_are_no_golden_volumes() {
    if !require("lvpctl") {
        return;
    }
    let world = World::new().await.with("VOLUME_CLONE", "never");
    let url = world.put("a.qcow2", &image(DISK, 10, 53).build());
    let daemon = world.start();
    let output = lvpctl(daemon.url(), &["golden", "ls"]);
    let told = String::from_utf8(output.stderr).expect("text");
    assert!(told.contains("Volumes cannot be cloned: "), "{told}");
    assert!(told.contains("volumes.clone"), "{told}");
    let output = lvpctl(daemon.url(), &["golden", "make", &url, "--wait"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8(output.stdout).expect("text");
    assert!(told.contains("clone_unavailable"), "{told}");
}

#[tokio::test]
async fn the_page_lists_golden_volumes_and_removes_one() {
    if !require("xfs") {
        return;
    }
    let sharing = Sharing::on("xfs").await;
    let tokens = format!("ci:provision:{FULL}\ngrafana:read:{READ}\n");
    let world = with_tokens(sharing.world, &tokens);
    let url = world.put("debian.qcow2", &image(DISK, 100, 55).build());
    let daemon = world.start().with_token(FULL);
    for volume in ["vm-1", "vm-2"] {
        let status = completed(&daemon, &url, volume, DISK).await;
        assert_eq!(status.method, Some(Method::Clone), "{status:?}");
    }
    if play("golden", daemon.url(), async |what| panic!("{what}")).await {
        assert_eq!(golden(&daemon).await.count, 0);
    }
    drop(daemon);
    drop(world);
    drop(sharing._file_system);
}
