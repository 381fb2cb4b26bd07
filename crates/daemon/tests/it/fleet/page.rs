//! The host's own view of the orders that have arrived: the API's, and the page's.

use lvp_testkit::daemon::wait_for;
use reqwest::Client;
use serde_json::Value;

use super::{Fleet, Said as _};
use crate::access::{FULL, READ};
use crate::certificates::write;
use crate::page::play;
use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_the_orders_of_this_host_as_they_go_on() {
    let Some(fleet) = Fleet::new(1).await else {
        return;
    };
    let text = format!("ci:provision:{FULL}\ngrafana:read:{READ}\n");
    let tokens = write(fleet.homes[0].path(), "tokens", &text, 0o600);
    let mut fleet = fleet
        .with("API_TOKENS_FILE", &tokens.display().to_string())
        .with("FLEET_GROUPS", "rack-1");
    let daemon = fleet.start().remove(0).with_token(READ);
    let (url, digest) = fleet.image("a.qcow2", 24);
    let provision = [
        "order",
        "provision",
        &url,
        "--sha256",
        &digest,
        "--id",
        "vms-1",
        "--all",
        "--volume",
        "vm-1=64M",
    ];
    fleet.ctl(&provision).ok("an order");
    let prewarm = [
        "order",
        "prewarm",
        &url,
        "--sha256",
        &digest,
        "--id",
        "debian-13",
        "--all",
        "--issuer",
        "ops",
        "--bytes-per-sec",
        "256K",
    ];
    fleet.ctl(&prewarm).ok("another one");
    let order = async |id: &str| {
        let shown: Value = daemon.get("/api/v1/fleet").await.expect("it is shown");
        let orders = shown["orders"].as_array().cloned().unwrap_or_default();
        orders.into_iter().find(|order| order["id"] == id)
    };
    let running = wait_for("the order", async || {
        order("debian-13")
            .await
            .filter(|order| order["state"] == "running" && order["jobs"] == 1)
    })
    .await;
    assert_eq!(running["asks"]["bytes_per_sec"], 256 << 10);
    assert_eq!(
        (&running["signer"], &running["ended"]),
        (&"ops".into(), &false.into())
    );
    let refused = order("vms-1").await.expect("it has arrived");
    assert_eq!(
        (&refused["state"], &refused["asks"]["volumes"]),
        (&"refused".into(), &1.into())
    );
    let page: Value = daemon
        .get("/api/v1/fleet?limit=1&offset=1")
        .await
        .expect("a part");
    assert_eq!(
        (&page["total"], &page["orders"][0]["id"]),
        (&2.into(), &"vms-1".into())
    );
    let url = daemon.url().to_owned();
    play("fleet", &url, async |what| match what {
        "kill the broker" => {
            fleet.nats.kill().expect("it is killed");
            let job = order("debian-13").await.expect("it goes on")["job_id"].clone();
            let route = format!("/api/v1/jobs/{}/cancel", job.as_str().expect("an id"));
            let request = Client::new()
                .post(format!("{url}{route}"))
                .bearer_auth(FULL);
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status(), 200);
            wait_for("the end", async || {
                order("debian-13")
                    .await
                    .filter(|order| order["ended"] == true && order["reported"] == false)
            })
            .await;
        }
        "start the broker" => fleet.nats.run().expect("it starts"),
        other => panic!("the browser asks to {other}"),
    })
    .await;
}

#[tokio::test]
async fn without_a_fleet_there_is_no_view_of_it() {
    let world = World::new().await;
    let daemon = world.start();
    let answer = daemon
        .call("GET", "/api/v1/fleet", None)
        .await
        .expect("an answer");
    assert_eq!(answer.status, 404);
    assert!(
        answer
            .body
            .to_string()
            .contains("fleet.url is not configured"),
        "{answer:?}"
    );
    let host: Value = daemon.get("/api/v1/host").await.expect("an answer");
    assert!(host.get("fleet").is_none());
}
