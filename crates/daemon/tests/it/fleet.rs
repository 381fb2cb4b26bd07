//! Orders to a fleet: the real daemons and lvpctl, around a real broker.

mod answers;
mod broker;
mod cluster;
mod network;
mod orders;
mod page;
mod permissions;
mod refused;
mod room;
mod torture;
mod waves;

use std::path::Path;
use std::process::Output;

use lvp_bus::async_nats::jetstream::{self, Context};
use lvp_bus::connect::{Persistence, connect};
use lvp_testkit::daemon::{Daemon, Home, wait_for};
use lvp_testkit::nats::Nats;
use lvp_testkit::require::{command, require};
use lvp_testkit::s3::S3;
use lvp_testkit::wire::Wire;
use serde_json::Value;

use crate::support::{BINARY, MIB, image};

/// A broker, a store with images, and hosts beside it.
pub(crate) struct Fleet {
    pub(crate) nats: Nats,
    /// The servers that hosts and lvpctl are told of.
    url: String,
    s3: S3,
    homes: Vec<Home>,
    keys: tempfile::TempDir,
    /// The line for the hosts' `fleet.trust`.
    trust: String,
}

impl Fleet {
    /// With this many hosts. None where something is not installed.
    pub(crate) async fn new(hosts: usize) -> Option<Self> {
        match require("nats-server") && require("lvpctl") {
            true => Some(Self::with_server(Path::new("nats-server"), hosts).await),
            false => None,
        }
    }

    pub(crate) async fn with_server(program: &Path, hosts: usize) -> Self {
        let nats = Nats::start_program(program, "").expect("the broker starts");
        let fleet = Self::around(nats, hosts).await;
        fleet.ctl(&["init"]).ok("init");
        fleet
    }

    /// Around a broker that is not set up yet.
    pub(crate) async fn around(nats: Nats, hosts: usize) -> Self {
        let s3 = S3::start().await.expect("the S3 server starts");
        let keys = tempfile::tempdir().expect("there is room");
        let file = keys.path().join("ops.key");
        let made = command("lvpctl")
            .args(["fleet", "keygen", "--name", "ops"])
            .arg(&file)
            .output()
            .expect("lvpctl starts");
        let trust = made.ok("keygen");
        let mut fleet = Self {
            url: nats.url(),
            nats,
            s3,
            homes: Vec::new(),
            keys,
            trust: trust.trim().to_owned(),
        };
        for number in 1..=hosts {
            let home = fleet.host(&format!("kvm{number}.example.com"));
            fleet.homes.push(home);
        }
        fleet
    }

    /// The home of a host.
    pub(crate) fn host(&self, name: &str) -> Home {
        let home = Home::new(BINARY, self.s3.endpoint()).expect("there is room for a home");
        home.with("FLEET_URL", self.nats.url())
            .with("FLEET_HOST", name)
            .with("FLEET_TRUST", &self.trust)
    }

    /// Changes all hosts' environments.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        let homes = std::mem::take(&mut self.homes);
        self.homes = homes
            .into_iter()
            .map(|home| home.with(name, value))
            .collect();
        self
    }

    /// Lets one host reach the broker by a wire only, which the test can hold up or cut.
    pub(crate) async fn wired(mut self, host: usize) -> (Self, Wire) {
        let wire = Wire::to(self.nats.address()).await.expect("a port is free");
        let home = self.homes.remove(host - 1);
        let home = home.with("FLEET_URL", format!("nats://{}", wire.address()));
        self.homes.insert(host - 1, home);
        (self, wire)
    }

    pub(crate) fn start(&self) -> Vec<Daemon> {
        let started = self
            .homes
            .iter()
            .map(|home| home.start().expect("the daemon starts"));
        started.collect()
    }

    /// An image in the store: its URL and its digest.
    pub(crate) fn image(&self, key: &str, mib: u64) -> (String, String) {
        let bytes = image(mib * MIB, mib * 16, 1 + mib).build();
        let objects = self.s3.objects();
        objects
            .put("images", key, &bytes)
            .expect("the object is written");
        (format!("s3://images/{key}"), digest(&bytes))
    }

    /// Runs `lvpctl fleet`.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_as(arguments, &[])
    }

    /// The same in a larger environment.
    pub(crate) fn ctl_as(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        command("lvpctl")
            .arg("fleet")
            .args(arguments)
            .env_clear()
            .env("LVP_NATS_URL", &self.url)
            .env("LVP_FLEET_KEY", self.keys.path().join("ops.key"))
            .envs(environment.iter().copied())
            .output()
            .expect("lvpctl starts")
    }

    /// Orders an image onto hosts; returns lvpctl's output.
    pub(crate) fn prewarm(&self, image: &(String, String), arguments: &[&str]) -> Output {
        let (url, digest) = image;
        let order = ["order", "prewarm", url, "--sha256", digest, "--id", "o"];
        self.ctl(&[&order[..], arguments].concat())
    }

    /// How an order stands.
    pub(crate) fn status(&self, order: &str) -> Value {
        let shown = self.ctl(&["status", order, "-o", "json"]);
        serde_json::from_slice(&shown.stdout).unwrap_or(Value::Null)
    }

    /// A host's state in an order.
    pub(crate) fn state(&self, order: &str, host: usize) -> String {
        let status = self.status(order);
        let name = format!("kvm{host}.example.com");
        let hosts = status["hosts"].as_array().cloned().unwrap_or_default();
        let line = hosts.iter().find(|line| line["host"] == name.as_str());
        line.map_or_else(String::new, |line| {
            line["state"].as_str().unwrap_or("").to_owned()
        })
    }

    /// Waits until a host has this state in an order.
    pub(crate) async fn until(&self, order: &str, host: usize, state: &str) {
        wait_for(&format!("kvm{host} to be {state}"), async || {
            (self.state(order, host) == state).then_some(())
        })
        .await;
    }

    /// A connection of the test's own.
    pub(crate) async fn broker(&self) -> Context {
        let settings = lvp_bus::Settings {
            servers: self.url.split(',').map(str::to_owned).collect(),
            name: "a test".to_owned(),
            inbox: "_INBOX_test".to_owned(),
            ..lvp_bus::Settings::default()
        };
        let client = connect(&settings, Persistence::Once, |_| {}).await;
        jetstream::new(client.expect("the broker is there"))
    }

    /// The text of the secret key.
    pub(crate) fn key(&self) -> lvp_fleet::IssuerKey {
        let text = std::fs::read_to_string(self.keys.path().join("ops.key"));
        lvp_fleet::IssuerKey::parse(&text.expect("it was made")).expect("it is a key")
    }
}

/// What a program has said.
pub(crate) trait Said {
    /// Its standard output, if it succeeded.
    fn ok(&self, what: &str) -> String;
    /// Its standard output, if it ended with this code.
    fn code(&self, code: i32) -> String;
}

impl Said for Output {
    fn ok(&self, what: &str) -> String {
        assert!(self.status.success(), "{what}: {self:?}");
        String::from_utf8(self.stdout.clone()).expect("it is text")
    }

    fn code(&self, code: i32) -> String {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        String::from_utf8(self.stdout.clone()).expect("it is text")
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The jobs that a host has had.
pub(crate) async fn jobs(daemon: &Daemon) -> Vec<Value> {
    let list: Value = daemon
        .get("/api/v1/jobs")
        .await
        .expect("the jobs are listed");
    list["jobs"].as_array().cloned().expect("it is a list")
}

/// The value of a metric.
pub(crate) async fn metric(daemon: &Daemon, series: &str) -> f64 {
    let answer = daemon
        .call("GET", "/metrics", None)
        .await
        .expect("it is served");
    let text = answer.body.as_str().expect("it is text").to_owned();
    let full = format!("libvirt_volume_provisioner_{series} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&full));
    line.and_then(|value| value.parse().ok()).unwrap_or(-1.0)
}
