//! A broker of three servers, of which one dies.

use lvp_bus::async_nats::jetstream::Context;
use lvp_fleet::{OrderKind, Report, ReportState};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::nats::Nats;
use lvp_testkit::require::require;

use super::network::order;
use super::{Fleet, jobs};

const HOSTS: usize = 3;
/// So many that their last reports are more than a thousand.
const ORDERS: usize = 340;

async fn leader(broker: &Context, stream: &str) -> Option<String> {
    let info = broker.get_stream(stream).await.ok()?.cached_info().clone();
    info.cluster?.leader.filter(|leader| !leader.is_empty())
}

async fn reports(broker: &Context) -> Option<Vec<Report>> {
    let found = lvp_bus::snapshot(broker, "KV_lvp_reports", "$KV.lvp_reports.>").await;
    let entries = found.ok()?.into_iter();
    entries
        .map(|entry| serde_json::from_slice(&entry.payload).ok())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_amid_a_thousand_reports_loses_none_of_them() {
    if !require("nats-server") || !require("lvpctl") {
        return;
    }
    for program in Nats::programs() {
        let [first, second, third] = Nats::cluster(&program).expect("the servers start");
        let urls = [first.url(), second.url(), third.url()].join(",");
        let mut others = [second, third];
        let mut fleet = Fleet::around(first, HOSTS).await;
        fleet.url.clone_from(&urls);
        let mut fleet = fleet.with("FLEET_URL", &urls).with("FLEET_ALLOW", "evict");
        wait_for("the cluster to be set up", async || {
            let made = fleet.ctl(&["init", "--replicas", "3"]);
            made.status.success().then_some(())
        })
        .await;
        let hosts = fleet.start();
        for host in &hosts {
            host.until_said("Following orders").await;
        }
        let (key, broker) = (fleet.key(), fleet.broker().await);
        for number in 0..ORDERS {
            let order = order(&format!("o{number}"), OrderKind::Evict);
            let message = key.sign(&order).expect("it is signed");
            let subject = order.target.subject(&order.id);
            let put = lvp_bus::put(&broker, &subject, message.into(), None, Default::default());
            put.await.expect("it is stored");
        }
        // In the middle of them.
        wait_for("the first reports", async || {
            let last = reports(&broker).await?;
            let ended = last.iter().filter(|report| report.state.is_final());
            (ended.count() >= HOSTS * ORDERS / 10).then_some(())
        })
        .await;
        let dead = leader(&broker, "KV_lvp_reports").await.expect("it has one");
        let all = std::iter::once(&mut fleet.nats).chain(&mut others);
        let killed = all.into_iter().find(|server| server.name() == dead);
        killed
            .expect("it is one of them")
            .kill()
            .expect("it is killed");
        let last = wait_for("all reports", async || {
            let last = reports(&broker).await?;
            let ended = last.iter().filter(|report| report.state.is_final());
            (ended.count() == HOSTS * ORDERS).then_some(last)
        })
        .await;
        for report in &last {
            assert_eq!(report.state, ReportState::Existing, "{report:?}");
        }
        let now = leader(&broker, "KV_lvp_reports").await;
        assert!(now.is_some_and(|now| now != dead));
        // What two of them have, the third one gets when it is back.
        let all = std::iter::once(&mut fleet.nats).chain(&mut others);
        let back = all.into_iter().find(|server| server.name() == dead);
        back.expect("it is one of them").run().expect("it starts");
        wait_for("the third one", async || {
            let info = broker.get_stream("KV_lvp_reports").await.ok()?;
            let cluster = info.cached_info().cluster.clone()?;
            let all = cluster.replicas.iter().all(|replica| replica.current);
            (all && cluster.replicas.len() == 2).then_some(())
        })
        .await;
        for host in &hosts {
            assert_eq!(jobs(host).await.len(), 0);
        }
    }
}
