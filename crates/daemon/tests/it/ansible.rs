//! `deploy/ansible`, run against this host and a real daemon.

use std::path::{Path, PathBuf};
use std::process::Output;

use lvp_api::JobList;
use lvp_testkit::daemon::answer;
use lvp_testkit::require::{command, require};

use crate::access::FULL;
use crate::certificates::{authority, https, with_tls, with_tokens};
use crate::support::{BINARY, MIB, World, holds, image};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/ansible")
}

/// Runs a playbook on this host only; `home` is Ansible's home directory.
fn play(home: &Path, playbook: &Path, variables: &serde_json::Value) -> Output {
    play_on(home, "localhost", playbook, variables, &[])
}

/// Runs a playbook on several hosts that are all this one: one line of the inventory each.
fn play_on(
    home: &Path,
    hosts: &str,
    playbook: &Path,
    variables: &serde_json::Value,
    options: &[&str],
) -> Output {
    let inventory = home.join("inventory.ini");
    let all = "[hypervisors:vars]\nansible_connection=local\nansible_python_interpreter=/usr/bin/python3\n";
    let text = format!("[hypervisors]\n{hosts}\n{all}");
    std::fs::write(&inventory, text).expect("there is room");
    let programs = Path::new(BINARY).parent().expect("a directory");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
    command("ansible-playbook")
        .arg("-i")
        .arg(inventory)
        .arg(playbook)
        .args(["-e", &variables.to_string()])
        .args(options)
        .env_clear()
        .env("HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .env("ANSIBLE_PIPELINING", "1")
        .env("PATH", path)
        .env("ANSIBLE_ROLES_PATH", deploy().join("roles"))
        .output()
        .expect("ansible-playbook starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_playbook_provisions_once_waits_and_reports_why_it_failed() {
    if !require("ansible") {
        return;
    }
    let ours = authority("ours");
    let world = with_tls(
        with_tokens(World::new().await, &format!("ansible:{FULL}\n")),
        &ours,
        &ours,
    );
    let builder = image(4 * MIB, 8, 1);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let home = world.home.path();
    let run = |playbook: &Path, image: &str, volume: &str| {
        let variables = serde_json::json!({
            "lvp_endpoint": https(&daemon),
            "lvp_token": FULL,
            "lvp_ca_cert": home.join("ca.pem"),
            "lvp_image": image,
            "lvp_volume": volume,
            "lvp_size_gb": 1,
        });
        let output = play(home, playbook, &variables);
        let text = String::from_utf8(output.stdout).expect("text");
        (output.status.code(), text)
    };
    // Once; again, when the volume is ready and is left unchanged; and again because the playbook says so.
    let thrice = home.join("thrice.yml");
    let tasks = deploy().join("tasks/provision.yml");
    let include = format!("    - ansible.builtin.include_tasks: {}\n", tasks.display());
    let text = format!(
        "- hosts: hypervisors\n  gather_facts: false\n  tasks:\n{include}{include}{include}      \
         vars: {{lvp_reprovision: true}}\n"
    );
    std::fs::write(&thrice, text).expect("there is room");
    let (code, text) = run(&thrice, &url, "vm-1");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("changed=2 "), "{text}");
    assert!(holds(&world.home.volume("vm-1"), &builder.disk()));
    let client = crate::certificates::client(&ours, None);
    let request = client.get(format!("{}/api/v1/jobs", https(&daemon)));
    let sent = request.bearer_auth(FULL).send().await.expect("an answer");
    let body = answer(sent).await.expect("a body").body;
    let jobs = serde_json::from_value::<JobList>(body)
        .expect("a list")
        .jobs;
    assert_eq!(jobs.len(), 2, "{jobs:?}");
    assert_eq!(jobs[0].correlation_id.as_deref(), Some("ansible-vm-1"));
    let (code, text) = run(
        &deploy().join("provision.yml"),
        "s3://images/none.qcow2",
        "vm-2",
    );
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("check the image URL's spelling"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_writes_a_configuration_that_the_daemon_accepts_and_refuses_others() {
    if !require("ansible") {
        return;
    }
    let world = crate::support::World::new().await;
    let home = world.home.path();
    let directory = home.join("etc");
    let playbook = home.join("role.yml");
    let play_of_role = "- hosts: hypervisors\n  gather_facts: false\n  roles: [lvp]\n";
    // The second time there is nothing to change.
    std::fs::write(&playbook, play_of_role.repeat(2)).expect("there is room");
    let run = |max_age: &str| {
        let variables = serde_json::json!({
            "lvp_start": false,
            "lvp_config_dir": directory,
            "lvp_tokens": [format!("ansible:{FULL}")],
            "lvp_config": {
                "server": {
                    "port": 0,
                    "db_path": home.join("jobs.db"),
                    "api_tokens_file": directory.join("tokens"),
                },
                "minio": {
                    "endpoint": world.s3.endpoint(),
                    "access_key": lvp_testkit::s3::ACCESS_KEY,
                    "secret_key": lvp_testkit::s3::SECRET_KEY,
                },
                "libvirt": {"enabled": false},
                "volumes": {"backend": "dir", "dir": home.join("volumes")},
                "cache": {"dir": home.join("cache"), "max_age": max_age},
            },
        });
        let output = play(home, &playbook, &variables);
        let text = String::from_utf8(output.stdout).expect("text");
        (output.status.code(), text)
    };
    let (code, text) = run("24h");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("changed=3 "), "{text}");
    let written = std::fs::read_to_string(directory.join("config.yaml")).expect("it is there");
    let (code, text) = run("soon");
    assert_eq!(code, Some(2), "{text}");
    let kept = std::fs::read_to_string(directory.join("config.yaml")).expect("it is there");
    assert_eq!(kept, written);
    assert!(!text.contains(lvp_testkit::s3::SECRET_KEY), "{text}");
}

/// The number of changed tasks of each host, from the end of a run's output.
fn changes(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let recap = text.split("PLAY RECAP").nth(1).unwrap_or_default();
    let counts = recap
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("changed="));
    counts.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hypervisors_are_checked_provisioned_and_then_left_unchanged() {
    if !require("ansible") {
        return;
    }
    let worlds = [World::new().await, World::new().await];
    let builder = image(4 * MIB, 8, 1);
    let daemons = worlds.each_ref().map(|world| {
        world.put("a.qcow2", &builder.build());
        world.start()
    });
    let home = worlds[0].home.path();
    let hosts: Vec<_> = daemons
        .iter()
        .enumerate()
        .map(|(index, daemon)| format!("kvm{index} lvp_endpoint={}", daemon.url()))
        .collect();
    let run = |options: &[&str]| {
        let variables = serde_json::json!({
            "lvp_image": "s3://images/a.qcow2", "lvp_volume": "100", "lvp_size_gb": "1",
        });
        let playbook = deploy().join("provision.yml");
        let output = play_on(home, &hosts.join("\n"), &playbook, &variables, options);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        changes(&output)
    };
    assert_eq!(run(&["--check"]), ["1", "1"]);
    for daemon in &daemons {
        let jobs: JobList = daemon.get("/api/v1/jobs").await.expect("a list");
        assert_eq!(jobs.total, 0);
    }
    assert_eq!(run(&[]), ["1", "1"]);
    for world in &worlds {
        assert!(holds(&world.home.volume("100"), &builder.disk()));
    }
    assert_eq!(run(&[]), ["0", "0"]);
    assert_eq!(run(&["--check"]), ["0", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_yaml_reads_as_a_number_is_refused_with_a_remedy() {
    if !require("ansible") {
        return;
    }
    let world = World::new().await;
    let daemon = world.start();
    let home = world.home.path();
    for (name, value, said) in [
        ("lvp_volume", serde_json::json!(100), "quote them"),
        ("lvp_size_gb", serde_json::json!(1.5), "whole number of GiB"),
        ("lvp_size_gb", serde_json::json!("50G"), "not 50G"),
    ] {
        let mut variables = serde_json::json!({
            "lvp_endpoint": daemon.url(), "lvp_image": "s3://images/a.qcow2", "lvp_volume": "vm", "lvp_size_gb": 1,
        });
        variables[name] = value;
        let output = play(home, &deploy().join("provision.yml"), &variables);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(said), "{name}: {text}");
    }
    let playbook = home.join("role.yml");
    let text = "- hosts: hypervisors\n  gather_facts: false\n  roles: [lvp]\n";
    std::fs::write(&playbook, text).expect("there is room");
    for config in [
        serde_json::json!({"minio": {"access_key": 42_798}}),
        serde_json::json!({"lvm": {"volume_group": 7}}),
    ] {
        let variables = serde_json::json!({
            "lvp_start": false, "lvp_doctor": false, "lvp_config_dir": home.join("etc"), "lvp_config": config,
        });
        let output = play(home, &playbook, &variables);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("quote it"), "{text}");
        assert!(!home.join("etc").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_runs_in_check_mode_on_a_bare_host() {
    if !require("ansible") {
        return;
    }
    let world = World::new().await;
    let home = world.home.path();
    let playbook = home.join("role.yml");
    let text = "- hosts: hypervisors\n  gather_facts: false\n  roles: [lvp]\n";
    std::fs::write(&playbook, text).expect("there is room");
    let variables = serde_json::json!({
        "lvp_config_dir": home.join("etc"),
        "lvp_service": "lvp-no-such-service",
        "lvp_tokens": [format!("ansible:{FULL}")],
        "lvp_config": {"minio": {"endpoint": world.s3.endpoint(), "access_key": "00123456", "secret_key": "1e10"}},
    });
    let output = play_on(
        home,
        "localhost",
        &playbook,
        &variables,
        &["--check", "--diff"],
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(changes(&output), ["1"], "{text}");
    assert!(!home.join("etc").exists());
    assert!(!text.contains(FULL) && !text.contains("1e10"), "{text}");
}
