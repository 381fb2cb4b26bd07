//! Networks that part.

use lvp_fleet::{Action, Image, Order, OrderKind};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::wire::Passage;

use super::waves::{Observer, WAVE};
use super::{Fleet, Said as _, jobs, metric};

/// An order of a test's own for all hosts.
pub(super) fn order(id: &str, kind: OrderKind) -> Order {
    Order {
        id: id.parse().expect("a name"),
        revision: 1,
        action: Action::Follow,
        kind,
        target: "all".parse().expect("a target"),
        image: Image {
            url: Some("s3://images/none.qcow2".to_owned()),
            image_type: lvp_api::ImageType::default(),
            sha256: lvp_api::Sha256Digest::new([7; 32]),
        },
        volumes: Vec::new(),
        wave: None,
        bytes_per_sec: None,
        jitter_seconds: 0,
        issued_at: 1,
        deadline: 1 << 40,
        issuer: "a test".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_cut_off_follows_what_it_missed_and_once() {
    let Some(fleet) = Fleet::new(2).await else {
        return;
    };
    let (fleet, wire) = fleet.wired(1).await;
    let hosts = fleet.start();
    let image = fleet.image("a.qcow2", 4);
    let both = ["--host", "kvm1.example.com,kvm2.example.com"];
    fleet.prewarm(&image, &both).ok("the order");
    fleet.until("o", 1, "cached").await;
    let mut seen = 1;
    for (id, then) in [("parted", Passage::Open), ("cut", Passage::Cut)] {
        wire.set(Passage::Parted);
        let (url, digest) = fleet.image(&format!("{id}.qcow2"), 5 + seen);
        let order = ["order", "prewarm", &url, "--sha256", &digest, "--id", id];
        fleet.ctl(&[&order[..], &both].concat()).ok("the order");
        fleet.until(id, 2, "cached").await;
        assert_eq!(fleet.state(id, 1), "unseen");
        assert_eq!(jobs(&hosts[0]).await.len() as u64, seen);
        // It goes on where it was, or it is told at last that its connection is lost.
        wire.set(then);
        if then == Passage::Cut {
            wait_for("the host to notice", async || {
                (metric(&hosts[0], "fleet_connected").await < 0.5).then_some(())
            })
            .await;
        }
        wire.set(Passage::Open);
        fleet.until(id, 1, "cached").await;
        seen += 1;
        assert_eq!(jobs(&hosts[0]).await.len() as u64, seen, "once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_a_wave_that_is_cut_off_stops_before_another_begins() {
    let Some(fleet) = Fleet::new(2).await else {
        return;
    };
    let fleet = fleet.with("MINIO_MAX_READ_BYTES_PER_SEC", "1M");
    let (fleet, first) = fleet.wired(1).await;
    let (fleet, second) = fleet.wired(2).await;
    let hosts = fleet.start();
    let image = fleet.image("a.qcow2", 12);
    let observer = Observer::of(&hosts);
    fleet.prewarm(&image, &WAVE).ok("the order");
    let working = wait_for("one to work", async || {
        (1..=2).find(|host| fleet.state("o", *host) == "running")
    })
    .await;
    let wire = [&first, &second][working - 1];
    wire.set(Passage::Parted);
    fleet.until("o", 3 - working, "cached").await;
    assert_eq!(jobs(&hosts[working - 1]).await[0]["status"], "pending");
    wire.set(Passage::Open);
    fleet.ctl(&["watch", "o", "--timeout", "58s"]).ok("watch");
    assert_eq!(observer.most().await, 1);
    for host in &hosts {
        assert_eq!(jobs(host).await.len(), 1);
    }
}
