//! Claims on places whose answers are lost, as the broker dies at that moment.

use lvp_fleet::wave::{ClaimState, Record};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::wire::Passage;

use super::{Fleet, Said as _, jobs};

const HOST: &str = "$KV.lvp_waves.o.kvm1=example=com";

/// What the broker has of the first host's claim, and under which number.
async fn claim(fleet: &Fleet) -> Option<(Record, u64)> {
    let broker = fleet.broker().await;
    let found = lvp_bus::snapshot(&broker, "KV_lvp_waves", HOST)
        .await
        .ok()?;
    let entry = found.first()?;
    Some((serde_json::from_slice(&entry.payload).ok()?, entry.number))
}

fn waves(more: &[&'static str]) -> Vec<&'static str> {
    let wave = ["--all", "--hosts-at-once", "1", "--silence", "8s"];
    [&wave[..], more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_whose_answer_dies_with_the_broker_costs_the_host_no_turn() {
    let Some(fleet) = Fleet::new(1).await else {
        return;
    };
    let fleet = fleet.with("MINIO_MAX_READ_BYTES_PER_SEC", "1M");
    let (mut fleet, wire) = fleet.wired(1).await;
    let host = fleet.start().remove(0);
    let image = fleet.image("a.qcow2", 24);
    fleet.prewarm(&image, &waves(&[])).ok("the order");
    fleet.until("o", 1, "running").await;
    let (first, before) = claim(&fleet).await.expect("it has its turn");
    // The next renewal is stored, and the host does not hear of it.
    wire.set(Passage::Deaf);
    wait_for("a renewal", async || {
        (claim(&fleet).await?.1 > before).then_some(())
    })
    .await;
    fleet.nats.kill().expect("the broker is killed");
    wire.set(Passage::Cut);
    fleet.nats.run().expect("the broker starts");
    wire.set(Passage::Open);
    let (second, stored) = claim(&fleet).await.expect("it has kept it");
    assert_eq!(second.claim, first.claim.or(Some(before)));
    // It is renewed from there on.
    wait_for("another renewal", async || {
        let (record, number) = claim(&fleet).await?;
        (number > stored && record.claim == second.claim).then_some(())
    })
    .await;
    fleet.ctl(&["watch", "o", "--timeout", "55s"]).ok("watch");
    let jobs = jobs(&host).await;
    assert_eq!(
        (jobs.len(), &jobs[0]["attempts"]),
        (1, &1.into()),
        "{jobs:?}"
    );
    let said = host.log_text();
    assert!(!said.iter().any(|line| line.contains("lost its turn")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_the_broker_died_before_storing_stops_the_wave_nevertheless() {
    let Some(fleet) = Fleet::new(2).await else {
        return;
    };
    let fleet = fleet.with("MINIO_MAX_READ_BYTES_PER_SEC", "1M");
    let (fleet, first) = fleet.wired(1).await;
    let (mut fleet, second) = fleet.wired(2).await;
    let hosts = fleet.start();
    let (url, _) = fleet.image("a.qcow2", 3);
    let wrong = (url, "0".repeat(64));
    let failing = waves(&["--max-failures", "0"]);
    fleet.prewarm(&wrong, &failing).ok("the order");
    let working = wait_for("one to work", async || {
        (1..=2).find(|host| fleet.state("o", *host) == "running")
    })
    .await;
    // What it says from now on is lost with the broker.
    let wires = [&first, &second];
    wires[working - 1].set(Passage::Parted);
    hosts[working - 1]
        .until_said("The broker could not be told that this host has failed. It is told again until it knows, as the order's --max-failures may depend on it")
        .await;
    // It has ended here, whatever the broker knows.
    let shown: serde_json::Value = hosts[working - 1]
        .get("/api/v1/fleet")
        .await
        .expect("it is shown");
    let order = &shown["orders"][0];
    assert_eq!(
        (&order["state"], &order["ended"]),
        (&"failed".into(), &true.into())
    );
    fleet.nats.kill().expect("the broker is killed");
    wires[working - 1].set(Passage::Cut);
    fleet.nats.run().expect("the broker starts");
    wires[working - 1].set(Passage::Open);
    fleet.ctl(&["watch", "o", "--timeout", "55s"]).code(1);
    assert_eq!(fleet.state("o", working), "failed");
    assert_eq!(fleet.state("o", 3 - working), "cancelled");
    assert_eq!(jobs(&hosts[2 - working]).await.len(), 0);
    let broker = fleet.broker().await;
    let claims = lvp_bus::snapshot(&broker, "KV_lvp_waves", "$KV.lvp_waves.o.*").await;
    let failed = claims.expect("claims").into_iter().filter(|entry| {
        let record = serde_json::from_slice::<Record>(&entry.payload);
        record.is_ok_and(|record| record.state == ClaimState::Failed)
    });
    assert_eq!(failed.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_host_that_dies_before_the_broker_knows_says_so_when_it_is_back() {
    let Some(fleet) = Fleet::new(1).await else {
        return;
    };
    let fleet = fleet.with("MINIO_MAX_READ_BYTES_PER_SEC", "1M");
    let (fleet, wire) = fleet.wired(1).await;
    let host = fleet.start().remove(0);
    let (url, _) = fleet.image("a.qcow2", 3);
    let wrong = (url, "0".repeat(64));
    fleet.prewarm(&wrong, &waves(&[])).ok("the order");
    fleet.until("o", 1, "running").await;
    wire.set(Passage::Parted);
    wait_for("the job to fail", async || {
        (jobs(&host).await[0]["status"] == "failed").then_some(())
    })
    .await;
    host.kill().expect("it is killed");
    wire.set(Passage::Open);
    let host = fleet.homes[0].start().expect("it starts again");
    // Without another turn, which would be half a minute later.
    fleet.until("o", 1, "failed").await;
    wait_for("the claim", async || {
        (claim(&fleet).await?.0.state == ClaimState::Failed).then_some(())
    })
    .await;
    assert_eq!(jobs(&host).await.len(), 1);
    assert!(
        !host
            .log_text()
            .iter()
            .any(|line| line.contains("has its turn"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_has_lost_its_store_is_told_again_who_has_failed() {
    let Some(mut fleet) = Fleet::new(1).await else {
        return;
    };
    let _host = fleet.start();
    let (url, _) = fleet.image("a.qcow2", 3);
    let wrong = (url, "0".repeat(64));
    fleet.prewarm(&wrong, &waves(&[])).ok("the order");
    let failed = async |fleet: &Fleet| {
        wait_for("the claim", async || {
            (claim(fleet).await?.0.state == ClaimState::Failed).then_some(())
        })
        .await;
    };
    failed(&fleet).await;
    fleet.nats.kill().expect("the broker is killed");
    fleet.nats.forget().expect("its store is removed");
    fleet.nats.run().expect("the broker starts");
    wait_for("the broker to be set up", async || {
        fleet.ctl(&["init"]).status.success().then_some(())
    })
    .await;
    failed(&fleet).await;
}
