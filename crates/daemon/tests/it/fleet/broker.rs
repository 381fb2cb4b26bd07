//! Brokers and daemons that die, and brokers that forget.

use lvp_bus::async_nats::HeaderMap;
use lvp_bus::async_nats::jetstream::Context;
use lvp_bus::{BusError, put};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::nats::Nats;
use lvp_testkit::require::require;

use super::{Fleet, Said as _, jobs, metric};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_on_without_the_broker_and_are_reported_when_it_is_back() {
    let Some(fleet) = Fleet::new(3).await else {
        return;
    };
    let mut fleet = fleet.with("MINIO_MAX_READ_BYTES_PER_SEC", "1M");
    let mut hosts = fleet.start();
    let image = fleet.image("a.qcow2", 48);
    fleet.prewarm(&image, &["--all"]).ok("the order");
    for host in 1..=3 {
        fleet.until("o", host, "running").await;
    }
    fleet.nats.kill().expect("the broker is killed");
    // One daemon dies with it, and comes back while it is still away.
    hosts.remove(0).kill().expect("it is killed");
    hosts.insert(
        0,
        fleet.homes[0].start().expect("it starts without a broker"),
    );
    for host in &hosts {
        wait_for("the job's end", async || {
            let jobs = jobs(host).await;
            (jobs[0]["status"] == "completed").then_some(())
        })
        .await;
        assert_eq!(jobs(host).await.len(), 1);
        assert!(metric(host, "fleet_connected").await < 1.0);
    }
    fleet.nats.run().expect("the broker starts");
    let watched = fleet.ctl(&["watch", "o", "--timeout", "50s"]).ok("watch");
    assert!(watched.contains("3: 3 cached"), "{watched}");
    for host in &hosts {
        assert_eq!(jobs(host).await.len(), 1, "no second job");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_in_the_middle_goes_on_with_the_same_job() {
    let Some(fleet) = Fleet::new(1).await else {
        return;
    };
    let fleet = fleet.with("MINIO_MAX_READ_BYTES_PER_SEC", "1M");
    let image = fleet.image("a.qcow2", 48);
    let mut host = fleet.start().remove(0);
    fleet.prewarm(&image, &["--all"]).ok("the order");
    let mut first = None;
    for _ in 0..3 {
        fleet.until("o", 1, "running").await;
        let jobs = jobs(&host).await;
        assert_eq!(jobs.len(), 1);
        let id = jobs[0]["job_id"].clone();
        assert_eq!(first.get_or_insert(id.clone()), &id);
        host.kill().expect("it is killed");
        host = fleet.homes[0].start().expect("it starts again");
    }
    fleet.ctl(&["watch", "o", "--timeout", "50s"]).ok("watch");
    let jobs = jobs(&host).await;
    assert_eq!(jobs.len(), 1);
    assert_eq!(Some(jobs[0]["job_id"].clone()), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_has_lost_its_store_loses_no_word_and_begins_nothing_twice() {
    let Some(mut fleet) = Fleet::new(2).await else {
        return;
    };
    let hosts = fleet.start();
    let image = fleet.image("a.qcow2", 4);
    fleet
        .prewarm(&image, &["--all", "--wait", "--timeout", "50s"])
        .ok("the order");
    let message = {
        let broker = fleet.broker().await;
        let found = lvp_bus::snapshot(&broker, "LVP_ORDERS", "lvp.v1.order.>").await;
        found.expect("the order is there").remove(0)
    };
    fleet.nats.kill().expect("the broker is killed");
    fleet.nats.forget().expect("its store is removed");
    fleet.nats.run().expect("the broker starts");
    fleet.ctl(&["status", "o"]).code(4);
    wait_for("the broker to be set up", async || {
        fleet.ctl(&["init"]).status.success().then_some(())
    })
    .await;
    // What was said is said again, without any order.
    let broker = fleet.broker().await;
    wait_for("the reports", async || {
        let found = lvp_bus::snapshot(&broker, "KV_lvp_reports", "$KV.lvp_reports.o.*").await;
        (found.ok()?.len() == 2).then_some(())
    })
    .await;
    // The order comes again, as if from a backup.
    lvp_bus::put(
        &broker,
        &message.subject,
        message.payload,
        None,
        Default::default(),
    )
    .await
    .expect("it is stored");
    for host in 1..=2 {
        fleet.until("o", host, "cached").await;
    }
    for host in &hosts {
        wait_for("the order to arrive", async || {
            let seen = metric(host, "fleet_orders_total{result=\"duplicate\"}").await;
            (seen >= 1.0).then_some(())
        })
        .await;
        assert_eq!(jobs(host).await.len(), 1, "nothing twice");
    }
    // And later orders are followed.
    let (url, digest) = fleet.image("b.qcow2", 5);
    let order = [
        "order",
        "prewarm",
        &url,
        "--sha256",
        &digest,
        "--id",
        "p",
        "--all",
        "--wait",
        "--timeout",
        "50s",
    ];
    fleet.ctl(&order).ok("another order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_starts_without_a_broker_and_follows_it_once_it_is_there() {
    if !require("nats-server") || !require("lvpctl") {
        return;
    }
    let mut nats = Nats::start("").expect("the broker starts");
    nats.kill().expect("it is killed");
    let mut fleet = Fleet::around(nats, 1).await;
    let host = fleet.start().remove(0);
    let answer = host.call("GET", "/health", None).await.expect("it answers");
    assert_eq!(answer.status, 200);
    fleet.ctl(&["hosts"]).code(7);
    fleet.nats.run().expect("the broker starts");
    // There is no stream yet.
    host.until_said("Connected to the fleet's broker").await;
    wait_for("the broker to be set up", async || {
        fleet.ctl(&["init"]).status.success().then_some(())
    })
    .await;
    let image = fleet.image("a.qcow2", 4);
    fleet
        .prewarm(
            &image,
            &["--host", "kvm1.example.com", "--wait", "--timeout", "50s"],
        )
        .ok("the order");
}

/// A host's own key cannot be written so that those of others go, also once `init` has found buckets of an earlier form.
pub(super) async fn rolled_up_is_refused(
    host: &Context,
    fleet: &Fleet,
    as_issuer: &[(&str, &str)],
) {
    let records = || {
        let shown = fleet.ctl_as(&["hosts", "-o", "json"], as_issuer);
        let shown = shown.ok("hosts");
        shown.matches("kvm2.example.com").count()
    };
    fleet.ctl_as(&["init"], as_issuer).ok("once more");
    assert!(records() > 0, "the other host is there");
    for scope in ["all", "sub"] {
        for own in [
            "$KV.lvp_reports.x.kvm1=example=com",
            "$KV.lvp_hosts.kvm1=example=com",
            "$KV.lvp_waves.x.kvm1=example=com",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Rollup", scope);
            let written = put(host, own, "{}".into(), None, headers).await;
            assert!(
                matches!(written, Err(BusError::Refused { .. })),
                "{own} {scope}: {written:?}"
            );
        }
    }
    assert!(records() > 0, "the other host is still there");
}
