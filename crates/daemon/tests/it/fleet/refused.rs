//! Orders that nobody may follow.

use lvp_fleet::{IssuerKey, envelope};
use lvp_testkit::daemon::wait_for;

use super::{Fleet, Said as _, jobs, metric};

async fn publish(fleet: &Fleet, subject: &str, message: Vec<u8>) {
    let broker = fleet.broker().await;
    let stored = lvp_bus::put(&broker, subject, message.into(), None, Default::default());
    stored.await.expect("the broker takes anything");
}

async fn until_counted(host: &lvp_testkit::daemon::Daemon, result: &str) {
    wait_for(result, async || {
        let series = format!("fleet_orders_total{{result=\"{result}\"}}");
        (metric(host, &series).await >= 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_foreign_redirected_and_replayed_orders_are_refused() {
    let Some(fleet) = Fleet::new(1).await else {
        return;
    };
    let host = fleet.start().remove(0);
    let image = fleet.image("a.qcow2", 4);
    // A genuine order for another host, to have something to forge.
    fleet
        .prewarm(&image, &["--host", "kvm9.example.com"])
        .ok("the order");
    let broker = fleet.broker().await;
    let found = lvp_bus::snapshot(&broker, "LVP_ORDERS", "lvp.v1.order.>").await;
    let genuine = found.expect("the order is there").remove(0);
    let order = envelope::unverified(&genuine.payload).expect("it is an order");

    // By a key that this host does not trust.
    let mut wanted = order.clone();
    wanted.target = "all".parse().expect("a target");
    wanted.id = "foreign".parse().expect("a name");
    let foreign = IssuerKey::new(&[9; 32])
        .sign(&wanted)
        .expect("it is signed");
    publish(&fleet, "lvp.v1.order.all.foreign", foreign).await;
    until_counted(&host, "unknown_key").await;
    fleet.until("foreign", 1, "refused").await;

    // With the target changed, and the signature left.
    let text = String::from_utf8(genuine.payload.to_vec()).expect("it is text");
    let mut message: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let mut changed = order.clone();
    changed.target = "host:kvm1.example.com".parse().expect("a target");
    let other = IssuerKey::new(&[9; 32])
        .sign(&changed)
        .expect("it is signed");
    let other: serde_json::Value = serde_json::from_slice(&other).expect("it is JSON");
    message["payload"] = other["payload"].clone();
    let forged = serde_json::to_vec(&message).expect("it is JSON");
    publish(&fleet, "lvp.v1.order.host.kvm1=example=com.o", forged).await;
    until_counted(&host, "bad_signature").await;

    // As it was signed, but under this host's subject.
    publish(
        &fleet,
        "lvp.v1.order.host.kvm1=example=com.o",
        genuine.payload.to_vec(),
    )
    .await;
    until_counted(&host, "not_meant").await;

    // What is no order at all.
    publish(&fleet, "lvp.v1.order.all.noise", b"{}".to_vec()).await;
    until_counted(&host, "unreadable").await;

    // Of a later form, by the right key.
    let later = serde_json::json!({"id": "later", "revision": 1});
    let later = fleet.key().sign_bytes(
        "application/vnd.libvirt-volume-provisioner.order.v2+json",
        later.to_string().as_bytes(),
    );
    publish(&fleet, "lvp.v1.order.all.later", later).await;
    until_counted(&host, "unsupported").await;

    // An older revision, after a later one has cancelled it.
    fleet
        .ctl(&[
            "order", "prewarm", &image.0, "--sha256", &image.1, "--id", "r", "--all", "--jitter",
            "1h",
        ])
        .ok("the order");
    fleet.until("r", 1, "waiting").await;
    let found = lvp_bus::snapshot(&broker, "LVP_ORDERS", "lvp.v1.order.all.r").await;
    let first = found.expect("the order is there").remove(0);
    fleet.ctl(&["cancel", "r"]).ok("cancel");
    fleet.until("r", 1, "cancelled").await;
    publish(&fleet, "lvp.v1.order.all.r", first.payload.to_vec()).await;
    until_counted(&host, "older").await;

    assert_eq!(jobs(&host).await.len(), 0, "nothing of it was followed");
    let lines = crate::access::audit(&host);
    for result in [
        "unknown_key",
        "bad_signature",
        "not_meant",
        "unreadable",
        "unsupported",
        "older",
    ] {
        assert!(
            lines.iter().any(|line| line["result"] == result),
            "{result}"
        );
    }
    // Good orders are followed after all that.
    let good = [
        "order",
        "prewarm",
        &image.0,
        "--sha256",
        &image.1,
        "--id",
        "good",
        "--host",
        "kvm1.example.com",
    ];
    fleet
        .ctl(&[&good[..], &["--wait", "--timeout", "50s"]].concat())
        .ok("a good order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_order_does_not_change_what_is_said_about_a_genuine_one() {
    let Some(fleet) = Fleet::new(1).await else {
        return;
    };
    let host = fleet.start().remove(0);
    let image = fleet.image("a.qcow2", 4);
    fleet
        .prewarm(&image, &["--all", "--wait", "--timeout", "50s"])
        .ok("the order");
    publish(
        &fleet,
        "lvp.v1.order.host.kvm1=example=com.o",
        b"forged".to_vec(),
    )
    .await;
    until_counted(&host, "unreadable").await;
    assert_eq!(fleet.state("o", 1), "cached");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_ends_at_its_deadline_and_a_host_that_never_spoke_is_silent() {
    let Some(fleet) = Fleet::new(1).await else {
        return;
    };
    let fleet = fleet.with("MINIO_MAX_READ_BYTES_PER_SEC", "64K");
    let host = fleet.start().remove(0);
    let image = fleet.image("a.qcow2", 64);
    let hosts = [
        "--host",
        "kvm1.example.com,ghost.example.com",
        "--deadline",
        "4s",
    ];
    fleet.prewarm(&image, &hosts).ok("the order");
    fleet.until("o", 1, "running").await;
    fleet.until("o", 1, "expired").await;
    let jobs = jobs(&host).await;
    assert_eq!(jobs[0]["status"], "cancelled", "{jobs:?}");
    let status = fleet.status("o");
    let ghost = status["hosts"]
        .as_array()
        .expect("hosts")
        .iter()
        .find(|line| line["host"] == "ghost.example.com");
    assert_eq!(ghost.expect("it is meant")["state"], "silent");
    assert_eq!(status["outcome"], "unfinished");
    fleet.ctl(&["status", "o"]).code(8);
}
