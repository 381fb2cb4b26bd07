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

/// Runs a playbook on this host alone; `home` is Ansible's.
fn play(home: &Path, playbook: &Path, variables: &serde_json::Value) -> Output {
    let inventory = home.join("inventory.ini");
    let host = "[hypervisors]\nlocalhost ansible_connection=local \
        ansible_python_interpreter=/usr/bin/python3\n";
    std::fs::write(&inventory, host).expect("there is room");
    let programs = Path::new(BINARY).parent().expect("a directory");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
    command("ansible-playbook")
        .arg("-i")
        .arg(inventory)
        .arg(playbook)
        .args(["-e", &variables.to_string()])
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
async fn the_playbook_provisions_once_waits_and_tells_why_it_failed() {
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
    // Once; again, when the volume is ready and is left alone; and again because that is asked for.
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
async fn the_role_writes_a_configuration_that_the_daemon_takes_and_no_other() {
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
