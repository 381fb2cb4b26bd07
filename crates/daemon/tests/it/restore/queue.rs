//! Jobs that were waiting for a slot when the database was copied.

use super::*;

/// A job that waits for a slot behind one on another volume.
async fn waiting(daemon: &Daemon, proxy: &FaultProxy, slow: &str, url: &str) -> (String, String) {
    proxy.inject(Rule::new(Fault::Slow(100_000)).method("GET"));
    let first = daemon.provision(slow, "other", 32 * MIB).await;
    let second = daemon.provision(url, "vm", 32 * MIB).await;
    let (first, second) = (first.expect("accepted"), second.expect("accepted"));
    wait_for("the first one to run", async || {
        let status = daemon.status(&first).await.ok()?.status;
        (status == JobState::Running).then_some(())
    })
    .await;
    let status = daemon.status(&second).await.expect("it is known").status;
    assert_eq!(status, JobState::Pending);
    (first, second)
}

#[tokio::test]
async fn a_job_that_waited_to_rewrite_a_volume_does_so_after_a_restart() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let (old, new) = (image(32 * MIB, 20, 1), image(32 * MIB, 20, 3));
    let (old_url, new_url) = (
        world.put("old.qcow2", &old.build()),
        world.put("new.qcow2", &new.build()),
    );
    let slow = world.put("slow.qcow2", &image(32 * MIB, 200, 5).build());
    let daemon = world.start();
    provision(&daemon, &old_url).await;
    // One that ends without writing it is the last that the volume knows.
    let missing = provision(&daemon, "s3://images/none.qcow2").await;
    assert_eq!(missing.error_code, Some(404), "{missing:?}");
    let (_, job) = waiting(&daemon, &proxy, &slow, &new_url).await;
    daemon.kill().expect("it is killed");
    proxy.clear();
    let daemon = world.start();
    let status = ended(&daemon, &job).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(holds(&world.home.volume("vm"), &new.disk()));
}

#[tokio::test]
async fn a_job_that_was_cancelled_since_the_backup_rewrites_nothing_after_it_is_restored() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let (old, new) = (image(32 * MIB, 20, 1), image(32 * MIB, 20, 3));
    let (old_url, new_url) = (
        world.put("old.qcow2", &old.build()),
        world.put("new.qcow2", &new.build()),
    );
    let slow = world.put("slow.qcow2", &image(32 * MIB, 200, 5).build());
    let daemon = world.start();
    provision(&daemon, &old_url).await;
    let (_, job) = waiting(&daemon, &proxy, &slow, &new_url).await;
    let copy = back_up(&world, "nightly.db");
    let cancel = format!("/api/v1/jobs/{job}/cancel");
    let answer = daemon.call("POST", &cancel, None).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    daemon.kill().expect("it is killed");
    let guest = guest_writes(&world);
    proxy.clear();
    // And each time it is restored: the new mark does not hide that.
    for _ in 0..2 {
        restore(&world, &copy);
        let daemon = world.start();
        check_refused(&ended(&daemon, &job).await);
        check_untouched(&world, &guest);
    }
}

#[tokio::test]
async fn a_finished_job_that_waits_after_a_restore_cannot_be_cancelled() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("MAX_CONCURRENT", "1");
    let url = world.put("a.qcow2", &image(32 * MIB, 20, 1).build());
    let slow = world.put("slow.qcow2", &image(32 * MIB, 200, 5).build());
    let daemon = world.start();
    let finished = provision(&daemon, &url).await.job_id.to_string();
    proxy.inject(Rule::new(Fault::Slow(100_000)).method("GET"));
    let running = accepted(&daemon, &slow, "other", 32 * MIB).await;
    wait_for("it to run", async || {
        let status = daemon.status(&running).await.ok()?.status;
        (status == JobState::Running).then_some(())
    })
    .await;
    daemon.kill().expect("it is killed");
    forget_the_end(&world, &finished, 1);
    let database = Connection::open(world.home.path().join("jobs.db")).expect("it opens");
    let waits = database.execute(
        "UPDATE jobs SET state = 'pending' WHERE id = ?1",
        [&finished],
    );
    assert_eq!(waits.expect("it is changed"), 1);
    drop(database);
    let guest = guest_writes(&world);
    let daemon = world.start();
    wait_for("the other one to run", async || {
        let status = daemon.status(&running).await.ok()?;
        (status.attempts > 1).then_some(())
    })
    .await;
    let cancel = format!("/api/v1/jobs/{finished}/cancel");
    let answer = daemon.call("POST", &cancel, None).await.expect("an answer");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(ended(&daemon, &finished).await.status, JobState::Completed);
    check_untouched(&world, &guest);
}
