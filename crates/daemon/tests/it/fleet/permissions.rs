//! The broker's configuration in `deploy/nats`: each host may write its own keys, and no more.

use lvp_bus::async_nats::jetstream::{self, Context};
use lvp_bus::connect::{Persistence, connect};
use lvp_bus::{BusError, Login, put};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::nats::jwt::Operator;
use lvp_testkit::nats::{Nats, NatsUser};
use lvp_testkit::require::{command, require};

use super::broker::rolled_up_is_refused;
use super::{Fleet, Said as _};
use crate::certificates::write;
use crate::deploy::deploy;

const TEMPLATE: &str = include_str!("../../../../../deploy/nats/accounts.conf");

/// The accounts of `deploy/nats`, with the users of this test in place of the examples.
fn accounts(issuer: &NatsUser, hosts: &[(&str, &NatsUser)]) -> String {
    let example = |line: &&str| line.contains("# example");
    let kept: Vec<_> = TEMPLATE.lines().filter(|line| !example(line)).collect();
    let host_of = TEMPLATE
        .lines()
        .filter(example)
        .find(|line| line.contains("kvm1=example=com"));
    let host_of = host_of.expect("an example of a host");
    let issuer_of = TEMPLATE
        .lines()
        .filter(example)
        .find(|line| line.contains("$ISSUER"));
    let issuer_of = issuer_of.expect("an example of an issuer");
    let key_of = |line: &str| {
        let start = line.find("nkey: ").expect("a key") + 6;
        line[start..]
            .split([',', ' ', '}'])
            .next()
            .expect("a key")
            .to_owned()
    };
    let mut users = issuer_of.replace(&key_of(issuer_of), &issuer.public);
    for (part, user) in hosts {
        users.push('\n');
        let line = host_of.replace(&key_of(host_of), &user.public);
        users.push_str(&line.replace("kvm1=example=com", part));
    }
    kept.join("\n").replace("# users", &users)
}

async fn connected(
    nats: &Nats,
    user: &NatsUser,
    host: &str,
    directory: &std::path::Path,
) -> Context {
    let file = directory.join(format!("{host}.nk"));
    std::fs::write(&file, &user.seed).expect("there is room");
    let settings = lvp_bus::Settings {
        servers: vec![nats.url()],
        login: Some(Login::Nkey(file)),
        name: host.to_owned(),
        inbox: format!("_INBOX_lvp.{host}"),
        ..lvp_bus::Settings::default()
    };
    let client = connect(&settings, Persistence::Once, |_| {}).await;
    jetstream::new(client.expect("it is let in"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_writes_its_own_keys_only_and_a_revoked_one_nothing() {
    if !require("nats-server") || !require("lvpctl") {
        return;
    }
    for program in Nats::programs() {
        let issuer = NatsUser::new().expect("a key");
        let (one, two) = (
            NatsUser::new().expect("a key"),
            NatsUser::new().expect("a key"),
        );
        let hosts = [("kvm1=example=com", &one), ("kvm2=example=com", &two)];
        let nats =
            Nats::start_program(&program, &accounts(&issuer, &hosts)).expect("the broker starts");
        let mut fleet = Fleet::around(nats, 2).await;
        let keys = tempfile::tempdir().expect("there is room");
        let write = |name: &str, user: &NatsUser| {
            let path = keys.path().join(name);
            std::fs::write(&path, &user.seed).expect("there is room");
            path.display().to_string()
        };
        let as_issuer = write("issuer.nk", &issuer);
        let as_issuer = [("LVP_NATS_NKEY", as_issuer.as_str())];
        wait_for("the broker to be set up", async || {
            fleet
                .ctl_as(&["init"], &as_issuer)
                .status
                .success()
                .then_some(())
        })
        .await;
        let mut daemons = Vec::new();
        for (home, user) in std::mem::take(&mut fleet.homes)
            .into_iter()
            .zip([&one, &two])
        {
            let name = home.environment()["FLEET_HOST"].clone();
            let home = home.with("FLEET_NKEY_FILE", write(&name, user));
            daemons.push(home.start().expect("the daemon starts"));
            fleet.homes.push(home);
        }
        // Everything that hosts do works with these permissions, waves too.
        let (url, digest) = fleet.image("a.qcow2", 4);
        let order = [
            "order", "prewarm", &url, "--sha256", &digest, "--id", "o", "--all",
        ];
        let wave = [
            "--hosts-at-once",
            "1",
            "--silence",
            "3s",
            "--wait",
            "--timeout",
            "55s",
        ];
        fleet
            .ctl_as(&[&order[..], &wave].concat(), &as_issuer)
            .ok("the order");

        let broker = connected(&fleet.nats, &one, "kvm1=example=com", keys.path()).await;
        let written = async |subject: &str| {
            put(&broker, subject, "{}".into(), None, Default::default()).await
        };
        for own in [
            "$KV.lvp_reports.x.kvm1=example=com",
            "$KV.lvp_hosts.kvm1=example=com",
            "$KV.lvp_waves.x.kvm1=example=com",
        ] {
            written(own).await.expect(own);
        }
        for foreign in [
            "$KV.lvp_reports.o.kvm2=example=com",
            "$KV.lvp_hosts.kvm2=example=com",
            "$KV.lvp_waves.o.kvm2=example=com",
            "lvp.v1.order.all.o",
            "lvp.v1.order.host.kvm1=example=com.o",
        ] {
            let refused = written(foreign).await;
            assert!(
                matches!(
                    refused,
                    Err(BusError::Timeout(_) | BusError::Refused { .. })
                ),
                "{foreign}: {refused:?}"
            );
        }
        rolled_up_is_refused(&broker, &fleet, &as_issuer).await;
        // A credential that is revoked is of no use from then on, and the host says so.
        let left = accounts(&issuer, &hosts[..1]);
        fleet.nats.configure(&left).expect("there is room");
        fleet.nats.reload().expect("it reads it");
        daemons[1]
            .until_said("The fleet's broker refused something")
            .await;
        let (url, digest) = fleet.image("b.qcow2", 5);
        let order = [
            "order", "prewarm", &url, "--sha256", &digest, "--id", "p", "--all",
        ];
        fleet.ctl_as(&order, &as_issuer).ok("the order");
        wait_for("the host that is left", async || {
            let shown = fleet.ctl_as(&["status", "p", "-o", "json"], &as_issuer);
            let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
            (shown["counts"]["cached"] == 1 && shown["outcome"] == "unfinished").then_some(())
        })
        .await;
        assert_eq!(
            super::jobs(&daemons[1]).await.len(),
            1,
            "it has not heard of it"
        );
    }
}

#[test]
fn the_configurations_of_deploy_are_valid_to_each_server() {
    if !require("nats-server") || !require("lvpctl") {
        return;
    }
    let home = tempfile::tempdir().expect("there is room");
    let tls = home.path().join("tls");
    let made = command("lvpctl")
        .args(["cert", "init"])
        .arg(&tls)
        .output()
        .expect("lvpctl starts");
    made.ok("certificates");
    std::fs::write(home.path().join("accounts.conf"), TEMPLATE).expect("there is room");
    for text in [
        include_str!("../../../../../deploy/nats/nats-server.conf"),
        include_str!("../../../../../deploy/nats/cluster.conf"),
    ] {
        let text = text.replace("/etc/nats", &tls.display().to_string());
        let text = text.replace(
            "/var/lib/nats",
            &home.path().join("store").display().to_string(),
        );
        let file = home.path().join("server.conf");
        std::fs::write(&file, text).expect("there is room");
        for program in Nats::programs() {
            let checked = command(&program).arg("-t").arg("-c").arg(&file).output();
            checked.expect("it starts").ok("the configuration");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_lvpctl_connect_over_tls_with_client_certificates_only() {
    if !require("nats-server") || !require("lvpctl") {
        return;
    }
    let home = tempfile::tempdir().expect("there is room");
    let made = command("lvpctl")
        .args(["cert", "init"])
        .arg(home.path().join("tls"))
        .output();
    made.expect("lvpctl starts").ok("certificates");
    let path = |name: &str| home.path().join("tls").join(name).display().to_string();
    let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let tls = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{ca}\", verify: true }}",
        path("server.pem"),
        path("server.key"),
    );
    let nats = Nats::start(&tls).expect("the broker starts");
    let url = nats.url().replace("nats://", "tls://");
    let fleet = Fleet::around(nats, 1).await;
    let ours = [
        ("LVP_NATS_URL", url.as_str()),
        ("LVP_NATS_CA", &ca),
        ("LVP_NATS_CERT", &cert),
        ("LVP_NATS_KEY", &key),
    ];
    wait_for("the broker to be set up", async || {
        fleet
            .ctl_as(&["init"], &ours)
            .status
            .success()
            .then_some(())
    })
    .await;
    // Without the CA, and without a certificate.
    fleet.ctl_as(&["hosts"], &ours[..1]).code(7);
    fleet.ctl_as(&["hosts"], &ours[..2]).code(7);
    let fleet = fleet
        .with("FLEET_URL", &url)
        .with("FLEET_CA_CERT", &ca)
        .with("FLEET_CLIENT_CERT", &cert)
        .with("FLEET_CLIENT_KEY", &key);
    let _hosts = fleet.start();
    let (url, digest) = fleet.image("a.qcow2", 4);
    let order = [
        "order",
        "prewarm",
        &url,
        "--sha256",
        &digest,
        "--all",
        "--wait",
        "--timeout",
        "50s",
    ];
    // Nobody is meant before the host has said that it is there.
    let done = fleet.ctl_as(&order, &ours).ok("the order");
    assert!(done.contains("1 cached"), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn creds_files_let_hosts_and_lvpctl_in_and_those_of_another_operator_do_not() {
    if !require("nats-server") || !require("lvpctl") {
        return;
    }
    let (ours, theirs) = (
        Operator::new().expect("keys"),
        Operator::new().expect("keys"),
    );
    for program in Nats::programs() {
        let nats = Nats::start_program(&program, &ours.configuration).expect("the broker starts");
        let fleet = Fleet::around(nats, 1).await;
        let files = tempfile::tempdir().expect("there is room");
        let file = |name: &str, operator: &Operator| {
            let creds = operator.creds().expect("a user");
            let file = write(files.path(), name, &creds, 0o600);
            file.display().to_string()
        };
        let (lvpctl, host) = (file("lvpctl.creds", &ours), file("host.creds", &ours));
        let foreign = file("foreign.creds", &theirs);
        let as_lvpctl = [("LVP_NATS_CREDS", lvpctl.as_str())];
        wait_for("the broker to be set up", async || {
            let made = fleet.ctl_as(&["init"], &as_lvpctl);
            made.status.success().then_some(())
        })
        .await;
        for environment in [&[("LVP_NATS_CREDS", foreign.as_str())][..], &[]] {
            fleet.ctl_as(&["hosts"], environment).code(6);
        }
        // A host with a foreign credential says so, and is let in with its own.
        let fleet = fleet.with("FLEET_CREDS_FILE", &foreign);
        let refused = fleet.start().remove(0);
        refused
            .until_said("The fleet's broker refused something")
            .await;
        refused.kill().expect("it is killed");
        let fleet = fleet.with("FLEET_CREDS_FILE", &host);
        let _host = fleet.start();
        let (url, digest) = fleet.image("a.qcow2", 4);
        let order = [
            "order",
            "prewarm",
            &url,
            "--sha256",
            &digest,
            "--all",
            "--wait",
            "--timeout",
            "50s",
        ];
        let done = fleet.ctl_as(&order, &as_lvpctl).ok("the order");
        assert!(done.contains("1 cached"), "{done}");
    }
}

#[test]
fn keys_of_users_are_written_once_and_come_with_their_lines() {
    if !require("lvpctl") {
        return;
    }
    let home = tempfile::tempdir().expect("there is room");
    let file = home.path().join("kvm1.nk");
    let make = || {
        let mut command = command("lvpctl");
        let command = command.args(["fleet", "nkey", "--host", "kvm1.example.com"]);
        command.arg(&file).output().expect("lvpctl starts")
    };
    let line = make().ok("a key");
    let seed = std::fs::read_to_string(&file).expect("it is written");
    let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata().expect("it is there"));
    assert_eq!((&seed[..2], mode & 0o777), ("SU", 0o600));
    assert!(
        line.contains("\"$KV.lvp_hosts.kvm1=example=com\""),
        "{line}"
    );
    make().code(1);
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), seed);
}

#[test]
fn the_compose_file_starts_the_server_with_the_configuration_beside_it() {
    let text = include_str!("../../../../../deploy/nats/compose.yaml");
    let compose: serde_json::Value = serde_saphyr::from_str(text).expect("it is YAML");
    let service = &compose["services"]["nats"];
    let mounts = service["volumes"].as_array().expect("mounts").iter();
    let mounts = mounts.map(|mount| {
        mount
            .as_str()
            .expect("a text")
            .split(':')
            .collect::<Vec<_>>()
    });
    let mounts: Vec<_> = mounts.collect();
    for file in ["nats-server.conf", "accounts.conf"] {
        assert!(deploy("nats").join(file).is_file(), "{file}");
    }
    // A single file that is mounted stays the old one if an editor puts a new one in its place.
    let is_directory = |mount: &&Vec<&str>| !mount[0].contains('.') || mount[0] == ".";
    assert!(
        mounts.iter().all(|mount| is_directory(&mount)),
        "{mounts:?}"
    );
    let mounted = |path: &str| {
        let path = std::path::Path::new(path);
        mounts.iter().any(|mount| path.starts_with(mount[1]))
    };
    // What it is told to read, and what that names.
    let command = service["command"].as_array().expect("arguments");
    assert!(
        command.iter().filter_map(|word| word.as_str()).any(mounted),
        "{command:?}"
    );
    let server = include_str!("../../../../../deploy/nats/nats-server.conf");
    for path in [
        "/etc/nats/server.pem",
        "/etc/nats/server.key",
        "/var/lib/nats",
    ] {
        assert!(server.contains(path) && mounted(path), "{path}");
    }
    assert!(mounted("/etc/nats/accounts.conf") && server.contains("include ./accounts.conf"));
}
