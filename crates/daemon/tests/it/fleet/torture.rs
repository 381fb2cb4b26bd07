//! Kills of daemons and of the broker at random moments while orders run; after each round, every job that there should
//! be is looked for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lvp_bus::async_nats::jetstream::Context;
use lvp_fleet::order::Volume;
use lvp_fleet::{Order, OrderKind, Report, Wave};
use lvp_testkit::daemon::{Daemon, wait_for};
use serde_json::Value;

use super::Fleet;
use super::network::order;
use crate::support::{MIB, holds, image};
use crate::torture::rig::{Random, number};

/// How long it runs unless `LVP_TORTURE_SECS` says otherwise.
const DEFAULT_SECS: u64 = 15;

const HOSTS: usize = 3;

/// Images, by their sizes in MiB.
const IMAGES: [u64; 3] = [2, 3, 5];

/// Kills of one daemon in a round: a job that was begun five times is not begun again.
const KILLS_OF_ONE: u32 = 3;

/// Longest time between two kills.
const PAUSE_MS: u64 = 700;

/// One round in so many has waves, which take their time.
const WAVE_ROUNDS: u32 = 12;

#[derive(Debug, Default)]
struct Tally {
    rounds: u32,
    kills_of_daemons: u32,
    kills_of_brokers: u32,
    orders: u32,
    jobs: u32,
    sent_again: u32,
    twice: u32,
    lost: u32,
}

struct Rig {
    fleet: Fleet,
    broker: Context,
    hosts: Vec<Option<Daemon>>,
    images: Vec<(String, String)>,
    tally: Tally,
}

#[tokio::test(flavor = "multi_thread")]
async fn torture_kills_of_daemons_and_brokers_run_no_job_twice_and_lose_none() {
    let Some(fleet) = Fleet::new(HOSTS).await else {
        return;
    };
    let mut random = Random::from_environment();
    let fleet = fleet
        .with("FLEET_ALLOW", "prewarm,provision,evict")
        .with("MINIO_MAX_READ_BYTES_PER_SEC", "8M")
        .with("LOG_LEVEL", "info");
    let images = IMAGES.iter().enumerate();
    let images = images.map(|(index, mib)| fleet.image(&format!("{index}.qcow2"), *mib));
    let mut rig = Rig {
        images: images.collect(),
        broker: fleet.broker().await,
        hosts: fleet.start().into_iter().map(Some).collect(),
        fleet,
        tally: Tally::default(),
    };
    let until = Instant::now() + Duration::from_secs(number("LVP_TORTURE_SECS", DEFAULT_SECS));
    while rig.tally.rounds == 0 || Instant::now() < until {
        rig.round(&mut random).await;
        rig.tally.rounds += 1;
        println!("{:?}", rig.tally);
        assert_eq!((rig.tally.twice, rig.tally.lost), (0, 0));
    }
    assert!(rig.tally.kills_of_daemons > 0 && rig.tally.jobs > 0);
}

impl Rig {
    async fn round(&mut self, random: &mut Random) {
        let orders = self.orders(random);
        let mut messages = BTreeMap::new();
        for order in &orders {
            let message = self.fleet.key().sign(order).expect("it is signed");
            messages.insert(order.target.subject(&order.id), message);
        }
        self.send(&messages).await;
        self.tally.orders += u32::try_from(orders.len()).expect("they are few");
        let mut killed = [0; HOSTS];
        for _ in 0..4 + random.below(5) {
            tokio::time::sleep(Duration::from_millis(random.below(PAUSE_MS))).await;
            match random.below(4) {
                0 => {
                    self.fleet.nats.kill().expect("the broker is killed");
                    self.tally.kills_of_brokers += 1;
                    tokio::time::sleep(Duration::from_millis(random.below(PAUSE_MS))).await;
                    self.fleet.nats.run().expect("the broker starts");
                    if random.below(3) == 0 {
                        // As a restored backup would, or somebody who has the broker.
                        self.send(&messages).await;
                        self.tally.sent_again += 1;
                    }
                }
                _ => {
                    let host = usize::try_from(random.below(HOSTS as u64)).expect("it is small");
                    if killed[host] == KILLS_OF_ONE {
                        continue;
                    }
                    killed[host] += 1;
                    let daemon = self.hosts[host].take().expect("it runs");
                    daemon.kill().expect("it is killed");
                    self.tally.kills_of_daemons += 1;
                    let started = self.fleet.homes[host].start();
                    self.hosts[host] = Some(started.expect("it starts"));
                }
            }
        }
        self.until_all_have_ended(&orders).await;
        for order in &orders {
            self.look(order).await;
        }
    }

    /// Volumes from one image, another one in advance, and the third removed.
    fn orders(&self, random: &mut Random) -> Vec<Order> {
        let round = self.tally.rounds;
        let first = usize::try_from(random.below(IMAGES.len() as u64)).expect("it is small");
        let waved = round % WAVE_ROUNDS == WAVE_ROUNDS - 1;
        let kinds = [OrderKind::Provision, OrderKind::Prewarm, OrderKind::Evict];
        let orders = kinds.into_iter().enumerate().map(|(index, kind)| {
            let (url, digest) = &self.images[(first + index) % IMAGES.len()];
            let mut order = order(&format!("{kind}-{round}"), kind);
            order.image.url = Some(url.clone());
            order.image.sha256 = digest.parse().expect("a digest");
            if kind == OrderKind::Provision {
                order.volumes = ["a", "b"]
                    .map(|volume| Volume {
                        name: format!("r{round}-{volume}").parse().expect("a name"),
                        size_bytes: 6 * MIB,
                    })
                    .into();
            }
            if kind == OrderKind::Prewarm && waved {
                order.wave = Some(Wave {
                    hosts_at_once: 2,
                    max_failures: None,
                    silence_seconds: 3,
                });
            }
            order.issued_at = 1 + u64::from(round);
            order
        });
        orders.collect()
    }

    async fn send(&self, messages: &BTreeMap<String, Vec<u8>>) {
        for (subject, message) in messages {
            wait_for("an order to be stored", async || {
                let message = message.clone().into();
                let put = lvp_bus::put(&self.broker, subject, message, None, Default::default());
                put.await.ok()
            })
            .await;
        }
    }

    async fn until_all_have_ended(&self, orders: &[Order]) {
        for order in orders {
            let filter = format!("$KV.lvp_reports.{}.*", order.id);
            wait_for(&format!("the end of {}", order.id), async || {
                let found = lvp_bus::snapshot(&self.broker, "KV_lvp_reports", &filter).await;
                let entries = found.ok()?;
                let last = entries
                    .iter()
                    .filter_map(|entry| serde_json::from_slice::<Report>(&entry.payload).ok())
                    .filter(|report| report.state.is_final());
                let last: Vec<_> = last.collect();
                let bad = last.iter().find(|report| !report.state.is_good());
                assert!(bad.is_none(), "{bad:?}");
                (last.len() == HOSTS).then_some(())
            })
            .await;
        }
    }

    /// Each of the order's targets has had one job on each host, and that is done.
    async fn look(&mut self, order: &Order) {
        let disk = self.disk(order);
        for (home, daemon) in self.fleet.homes.iter().zip(&self.hosts) {
            let daemon = daemon.as_ref().expect("it runs");
            let route = format!("/api/v1/jobs?limit=1000&q=fleet:{}:1", order.id);
            let list: Value = daemon.get(&route).await.expect("the jobs are listed");
            let jobs = list["jobs"].as_array().cloned().unwrap_or_default();
            let id = format!("fleet:{}:1", order.id);
            let jobs = jobs
                .iter()
                .filter(|job| job["correlation_id"] == id.as_str());
            let mut by_target: BTreeMap<&str, u32> = BTreeMap::new();
            for job in jobs {
                assert_eq!(job["status"], "completed", "{job}");
                let target = job["volume_name"].as_str().unwrap_or("the image");
                *by_target.entry(target).or_default() += 1;
                self.tally.jobs += 1;
            }
            for volume in &order.volumes {
                assert!(holds(&home.volume(volume.name.as_str()), &disk));
            }
            let wanted = order.job_targets().len();
            let twice = by_target.values().map(|count| count - 1).sum::<u32>();
            self.tally.twice += twice;
            self.tally.lost += u32::try_from(wanted - by_target.len()).expect("they are few");
        }
    }

    fn disk(&self, order: &Order) -> Vec<u8> {
        let digest = order.image.sha256.to_string();
        let of = self.images.iter().position(|image| image.1 == digest);
        let mib = IMAGES[of.expect("it is one of them")];
        image(mib * MIB, mib * 16, 1 + mib).disk()
    }
}
