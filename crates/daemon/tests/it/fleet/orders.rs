//! From the order to its end.

use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::nats::Nats;
use lvp_testkit::require::require;
use serde_json::Value;

use super::{Fleet, Said as _, jobs};
use crate::access::audit;
use crate::support::{MIB, holds, image};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_followed_by_all_hosts_and_watched_to_its_end_with_each_broker() {
    if !require("nats-server") || !require("lvpctl") {
        return;
    }
    for program in Nats::programs() {
        let fleet = Fleet::with_server(&program, 3).await;
        let hosts = fleet.start();
        let image = fleet.image("a.qcow2", 4);
        wait_for("the hosts' records", async || {
            let listed = fleet.ctl(&["hosts", "-o", "name"]).ok("hosts");
            (listed.lines().count() == 3).then_some(())
        })
        .await;
        let planned = fleet.prewarm(&image, &["--all", "--dry-run"]).ok("dry run");
        assert_eq!(planned.matches("fetches the image").count(), 3, "{planned}");
        fleet.ctl(&["status", "o"]).code(4);
        let watched = fleet.prewarm(&image, &["--all", "--wait", "--timeout", "50s"]);
        let watched = watched.ok("the order");
        assert!(watched.contains("3: 3 cached"), "{watched}");
        for host in &hosts {
            let jobs = jobs(host).await;
            assert_eq!(jobs.len(), 1, "{jobs:?}");
            assert_eq!(jobs[0]["image_digest"], image.1.as_str());
        }
        // The same again: nothing is fetched.
        let again = fleet.prewarm(&image, &["--all"]);
        again.code(5);
        let revised = fleet.prewarm(&image, &["--all", "--revise", "--wait", "--timeout", "50s"]);
        assert!(revised.ok("the revision").contains("3: 3 existing"));
        let planned = fleet
            .prewarm(&image, &["--all", "--dry-run", "--revise"])
            .ok("dry run");
        // The records follow after a while.
        assert_eq!(planned.lines().count(), 4, "{planned}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_written_and_images_evicted_where_that_is_allowed_and_refused_elsewhere() {
    let Some(fleet) = Fleet::new(2).await else {
        return;
    };
    let one = fleet
        .host("kvm3.example.com")
        .with("FLEET_ALLOW", "provision,evict")
        .with("FLEET_GROUPS", "rack,b");
    let hosts = fleet.start();
    let allowing = one.start().expect("the daemon starts");
    let image_of = fleet.image("a.qcow2", 4);
    let (url, digest) = (&image_of.0, &image_of.1);
    let file = one.path().join("order.yaml");
    let text = format!(
        "id: vms\nkind: provision\nimage: {{url: '{url}', sha256: {digest}, type: qcow2}}\n\
         targets: ['group:rack', 'host:kvm1.example.com']\nvolumes: [{{name: vm-1, size: 8M}}, {{name: vm-2, size: 8M}}]\n"
    );
    std::fs::write(&file, text).expect("there is room");
    let file = file.display().to_string();
    let done = fleet.ctl(&[
        "order",
        "apply",
        &file,
        "--wait",
        "--timeout",
        "50s",
        "-o",
        "json",
    ]);
    done.code(1);
    assert_eq!(fleet.state("vms", 3), "done");
    assert_eq!(fleet.state("vms", 1), "refused");
    let disk = image(4 * MIB, 64, 5).disk();
    for volume in ["vm-1", "vm-2"] {
        assert!(holds(&one.volume(volume), &disk), "{volume}");
    }
    let table = fleet.ctl(&["status", "vms"]).code(1);
    assert!(table.contains("fleet.allow does not name it"), "{table}");
    assert_eq!(jobs(&hosts[0]).await.len(), 0);
    // Who signed it is in the audit log, and its trace is the jobs'.
    let lines = audit(&allowing);
    let line = lines
        .iter()
        .find(|line| line["order"] == "vms")
        .expect("an audit line");
    assert_eq!(
        (&line["signer"], &line["result"]),
        (&"ops".into(), &"followed".into())
    );
    let traces: Vec<_> = jobs(&allowing)
        .await
        .iter()
        .map(|job| job["trace_id"].clone())
        .collect();
    assert!(
        traces.len() == 2 && traces[0].is_string() && traces[0] == traces[1],
        "{traces:?}"
    );
    let evict = [
        "order",
        "evict",
        digest,
        "--host",
        "kvm3.example.com",
        "--wait",
        "--timeout",
        "50s",
    ];
    fleet.ctl(&evict).ok("evict");
    wait_for("the image to go", async || {
        one.cache_files().is_empty().then_some(())
    })
    .await;
    let again = [&evict[..], &["--revise"]].concat();
    let again = fleet.ctl(&again).ok("evict again");
    assert!(again.contains("1 existing"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_fewer_hosts_are_meant_by_goes_on_at_those_and_ends_at_the_others() {
    let Some(fleet) = Fleet::new(2).await else {
        return;
    };
    let fleet = fleet.with("MINIO_MAX_READ_BYTES_PER_SEC", "1M");
    let hosts = fleet.start();
    let image = fleet.image("a.qcow2", 16);
    fleet.prewarm(&image, &["--all"]).ok("the order");
    for host in 1..=2 {
        fleet.until("o", host, "running").await;
    }
    let narrowed = [
        "--host",
        "kvm2.example.com",
        "--revise",
        "--wait",
        "--timeout",
        "50s",
    ];
    let told = fleet.prewarm(&image, &narrowed).ok("the revision");
    assert!(told.contains("1 cached"), "{told}");
    assert_eq!(fleet.state("o", 2), "cached");
    let ends = |jobs: Vec<Value>| -> Vec<String> {
        let states = jobs.iter().filter_map(|job| job["status"].as_str());
        states.map(str::to_owned).collect()
    };
    wait_for("the job of the other to be cancelled", async || {
        (ends(jobs(&hosts[0]).await) == ["cancelled"]).then_some(())
    })
    .await;
    let second = ends(jobs(&hosts[1]).await);
    assert!(second.contains(&"completed".to_owned()), "{second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_cancelled_on_all_hosts_and_what_fails_is_grouped_by_its_reason() {
    let Some(fleet) = Fleet::new(2).await else {
        return;
    };
    let fleet = fleet.with("MINIO_MAX_READ_BYTES_PER_SEC", "256K");
    let hosts = fleet.start();
    let image = fleet.image("a.qcow2", 64);
    fleet.prewarm(&image, &["--all"]).ok("the order");
    for host in 1..=2 {
        fleet.until("o", host, "running").await;
    }
    fleet.ctl(&["cancel", "o"]).ok("cancel");
    for host in 1..=2 {
        fleet.until("o", host, "cancelled").await;
    }
    fleet
        .ctl(&["status", "o"])
        .ok("a cancelled order is done once all have ended");
    for host in &hosts {
        let jobs = jobs(host).await;
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0]["status"], "cancelled");
    }
    let wrong = "0".repeat(64);
    let none = (image.0.clone(), wrong);
    let (url, digest) = (&none.0, &none.1);
    let order = [
        "order",
        "prewarm",
        "s3://images/none.qcow2",
        "--sha256",
        digest,
        "--id",
        "none",
        "--all",
    ];
    fleet
        .ctl(&[&order[..], &["--wait", "--timeout", "50s"]].concat())
        .code(1);
    let table = fleet.ctl(&["status", "none"]).code(1);
    let grouped = table
        .lines()
        .find(|line| line.contains("not_found"))
        .expect("the reason");
    assert!(grouped.starts_with("2 "), "{table}");
    assert!(url.starts_with("s3://"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_with_a_rate_is_followed_no_faster_also_after_a_restart_and_others_are() {
    let Some(fleet) = Fleet::new(1).await else {
        return;
    };
    let host = fleet.start().remove(0);
    let image = fleet.image("a.qcow2", 24);
    let slow = ["--all", "--bytes-per-sec", "256K"];
    fleet.prewarm(&image, &slow).ok("the order");
    let at_work = async |host: &Daemon, after: u64| {
        wait_for("the job to go on", async || {
            let job = jobs(host).await.first()?.clone();
            assert_ne!(
                job["status"], "completed",
                "24 MiB at 256 KiB/s take a minute and a half"
            );
            let bytes = job["progress"]["bytes_processed"].as_u64()?;
            (job["status"] == "running" && bytes > after).then_some(bytes)
        })
        .await
    };
    at_work(&host, 0).await;
    host.kill().expect("it is killed");
    let host = fleet.homes[0].start().expect("it starts again");
    let bytes = at_work(&host, 0).await;
    at_work(&host, bytes).await;
    // Another order is not slowed down by it, though both are followed at the same time.
    let (url, digest) = fleet.image("b.qcow2", 25);
    let other = [
        "order", "prewarm", &url, "--sha256", &digest, "--id", "p", "--all",
    ];
    let done = fleet.ctl(&[&other[..], &["--wait", "--timeout", "50s"]].concat());
    done.ok("another order");
    let first = jobs(&host)
        .await
        .into_iter()
        .find(|job| job["correlation_id"] == "fleet:o:1");
    assert_eq!(first.expect("the first")["status"], "running");
    let none = ["--all", "--bytes-per-sec", "0"];
    fleet
        .prewarm(&image, &[&none[..], &["--revise"]].concat())
        .code(64);
    let revised = ["--all", "--revise", "--wait", "--timeout", "50s"];
    fleet
        .prewarm(&image, &revised)
        .ok("a revision without a rate");
}
