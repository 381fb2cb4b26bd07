//! Kills while a golden volume or a clone is made.

use std::fs;

use lvp_api::{JobState, Method};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::require::require;
use serde_json::Value;

use super::{DISK, Sharing, golden};
use crate::restore::{check_recorded, forget_the_end};
use crate::support::{holds, image};

#[tokio::test]
async fn a_kill_while_the_golden_volume_is_made_leaves_nothing_that_is_used() {
    if !require("xfs") {
        return;
    }
    for is_resumed in [true, false] {
        kill_the_maker(is_resumed).await;
    }
}

async fn kill_the_maker(is_resumed: bool) {
    let (world, proxy) = Sharing::with_faults().await;
    let builder = image(DISK, 400, 8);
    let url = world.put("a.qcow2", &builder.build());
    proxy.inject(Rule::new(Fault::Slow(300_000)).method("GET"));
    let daemon = world.start();
    let job = daemon.provision(&url, "vm", DISK).await.expect("accepted");
    let follower = daemon
        .provision(&url, "vm-2", DISK)
        .await
        .expect("accepted");
    wait_for("the golden volume in the making", async || {
        let listed = golden(&daemon).await.volumes;
        let volume = listed.into_iter().next()?;
        assert_eq!(volume.flaw.as_deref(), Some("is not finished"));
        assert!(volume.in_use);
        Some(())
    })
    .await;
    daemon.kill().expect("it is killed");
    assert!(!world.home.volume("vm").exists());

    if is_resumed {
        // The next start goes on with both.
        proxy.clear();
        let daemon = world.start();
        for (job, volume) in [(&job, "vm"), (&follower, "vm-2")] {
            let status = daemon.ended(job).await.expect("it ends");
            assert_eq!(status.method, Some(Method::Clone), "{status:?}");
            assert!(holds(&world.home.volume(volume), &builder.disk()));
        }
        let listed = golden(&daemon).await.volumes;
        assert_eq!((listed.len(), &listed[0].flaw), (1, &None));
    } else {
        // Nobody goes on, so it is swept.
        let arguments = ["db", "cancel-unfinished", "--config", "/dev/null"];
        let output = world.home.run(&arguments).expect("it starts");
        assert!(output.status.success(), "{output:?}");
        let _daemon = world.start();
        wait_for("the sweep", async || {
            world.golden_files().is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_clone_that_a_kill_left_unfinished_is_made_anew_and_one_that_waited_is_swept() {
    if !require("xfs") {
        return;
    }
    let world = Sharing::on("xfs").await;
    let builder = image(DISK, 100, 17);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let job = daemon.provision(&url, "vm", DISK).await.expect("accepted");
    let digest = daemon.ended(&job).await.expect("it ends").image_digest;
    let digest = digest.expect("it has one");
    daemon.kill().expect("it is killed");

    // As if it had been killed before the clone said ready, with whatever in it.
    let record = world.home.volume(".lvp").join("vm.json");
    let text = fs::read_to_string(&record).expect("it has a record");
    let mut json: Value = serde_json::from_str(&text).expect("JSON");
    let fields = json.as_object_mut().expect("an object");
    fields.remove("image").expect("it is ready");
    fields.insert("state".to_owned(), "populating".into());
    fields.insert("created".to_owned(), true.into());
    fs::write(&record, json.to_string()).expect("it is written");
    fs::write(world.home.volume("vm"), b"half").expect("it is written");
    // And another one while it was to replace a volume; its job is unknown.
    let waits = world
        .golden_dir()
        .join(format!("lvp-new-{}", lvp_api::JobId::random()));
    fs::write(&waits, b"half").expect("it is written");
    forget_the_end(&world, &job, 1);

    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert_eq!(status.method, Some(Method::Clone), "{status:?}");
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
    wait_for("the sweep", async || (!waits.exists()).then_some(())).await;

    // One that had said so is only recorded.
    daemon.kill().expect("it is killed");
    forget_the_end(&world, &job, 1);
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    check_recorded(&status, &digest);
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
}
