//! Streams that are full.

use lvp_bus::async_nats::jetstream::Context;
use lvp_testkit::daemon::wait_for;
use lvp_testkit::nats::Nats;
use lvp_testkit::require::require;

use super::{Fleet, Said as _, jobs};

#[tokio::test(flavor = "multi_thread")]
async fn streams_have_room_for_the_consumers_of_thousands_of_hosts_with_each_broker() {
    if !require("nats-server") || !require("lvpctl") {
        return;
    }
    for program in Nats::programs() {
        let fleet = Fleet::with_server(&program, 0).await;
        // A second time, for streams that exist.
        fleet.ctl(&["init"]).ok("init");
        let broker = fleet.broker().await;
        for stream in ["LVP_ORDERS", "KV_lvp_waves"] {
            let stream = broker.get_stream(stream).await.expect("it is there");
            let most = stream.cached_info().config.max_consumers;
            // What says nothing has a thousand since 2.15, and no limit before.
            let says_nothing = !broker.client().is_server_compatible(2, 15, 0);
            assert_eq!(
                (says_nothing, most > 10_000),
                (most <= 0, most > 0),
                "{most}"
            );
        }
    }
}

/// Changes how much a stream may hold.
async fn bound(broker: &Context, stream: &str, max_bytes: i64) {
    let stream = broker.get_stream(stream).await.expect("it is there");
    let mut config = stream.cached_info().config.clone();
    config.max_bytes = max_bytes;
    broker.update_stream(config).await.expect("it is changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_a_full_stream_refuses_is_not_sent_and_lvpctl_says_why() {
    let Some(fleet) = Fleet::new(1).await else {
        return;
    };
    let host = fleet.start().remove(0);
    let image = fleet.image("a.qcow2", 4);
    let broker = fleet.broker().await;
    fleet
        .prewarm(&image, &["--all", "--jitter", "1h"])
        .ok("the order");
    fleet.until("o", 1, "waiting").await;
    bound(&broker, "LVP_ORDERS", 1000).await;
    let (url, digest) = &image;
    let order = [
        "order", "prewarm", url, "--sha256", digest, "--id", "p", "--all",
    ];
    let refused = fleet.ctl(&order);
    refused.code(1);
    let said = String::from_utf8_lossy(&refused.stderr);
    for part in [
        "The broker has no room for lvp.v1.order.all.p",
        "maximum bytes exceeded",
        "nothing was sent",
        "purge the subjects of old ones",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // The older order is there, and is followed.
    fleet.ctl(&["status", "p"]).code(4);
    assert_eq!(fleet.state("o", 1), "waiting");
    bound(&broker, "LVP_ORDERS", 1 << 20).await;
    fleet.ctl(&order).ok("the order");
    fleet.until("p", 1, "cached").await;
    assert_eq!(jobs(&host).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_reports_find_no_room_goes_on_says_so_and_reports_later() {
    let Some(fleet) = Fleet::new(1).await else {
        return;
    };
    let host = fleet.start().remove(0);
    let image = fleet.image("a.qcow2", 4);
    let broker = fleet.broker().await;
    bound(&broker, "KV_lvp_reports", 10).await;
    fleet.prewarm(&image, &["--all"]).ok("the order");
    let said = host
        .until_said("The fleet's broker does not take this host's reports. Orders are followed nevertheless, and reports are sent again until it does: see what it says, and what its bucket lvp_reports may hold")
        .await;
    let why = said["error"].as_str().unwrap_or_default();
    assert!(
        why.contains("no room") && why.contains("maximum bytes"),
        "{why}"
    );
    wait_for("the job's end", async || {
        (jobs(&host).await.first()?["status"] == "completed").then_some(())
    })
    .await;
    assert_eq!(fleet.state("o", 1), "unseen");
    bound(&broker, "KV_lvp_reports", 1 << 20).await;
    fleet.until("o", 1, "cached").await;
    host.until_said("The fleet's broker takes reports again")
        .await;
}
