//! Stopping the daemon, and clients that do not wait.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lvp_api::{JobList, JobState};
use lvp_testkit::daemon::{DEADLINE, wait_for};
use lvp_testkit::fault::{Fault, Rule};
use rusqlite::Connection;
use serde_json::json;

use crate::support::{MIB, World, accepted, fetched, holds, image};

#[tokio::test]
async fn a_second_sigterm_ends_the_daemon_at_once_and_its_job_continues_at_the_next_start() {
    let (world, proxy) = World::with_faults().await;
    let world = world.with("SHUTDOWN_GRACE", "1h");
    let builder = image(64 * MIB, 300, 1);
    let url = world.put("a.qcow2", &builder.build());
    proxy.inject(Rule::new(Fault::Slow(200_000)).method("GET"));
    let daemon = world.start();
    let job = accepted(&daemon, &url, "vm", 64 * MIB).await;
    fetched(&daemon, &job, 0).await;
    daemon.signal("TERM").expect("it is told");
    daemon.until_said("Stopping").await;
    // Within the grace period status stays readable, and new jobs are refused.
    let running = daemon.status(&job).await.expect("it is readable");
    assert_eq!(running.status, JobState::Running, "{running:?}");
    let body = json!({"image_url": url});
    let refused = daemon
        .call("POST", "/api/v1/cache/fetch", Some(body))
        .await
        .expect("an answer");
    assert_eq!(refused.status, 503, "{refused:?}");

    let told = Instant::now();
    daemon.signal("TERM").expect("it is told again");
    let status = daemon.wait().expect("it ends");
    assert_eq!(status.code(), Some(130), "{status}");
    assert!(
        told.elapsed() < Duration::from_secs(5),
        "{:?}",
        told.elapsed()
    );
    proxy.clear();
    let daemon = world.start();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(
        (status.status, status.attempts),
        (JobState::Completed, 2),
        "{status:?}"
    );
    assert!(holds(&world.home.volume("vm"), &builder.disk()));
}

#[tokio::test]
async fn clients_that_disconnect_during_their_requests_still_get_their_jobs() {
    const CLIENTS: usize = 10;
    let world = World::new().await;
    let builder = image(32 * MIB, 20, 1);
    let url = world.put("a.qcow2", &builder.build());
    let daemon = world.start();
    let address = daemon.url().trim_start_matches("http://");
    // The requests wait for the database, as if another process were writing to it.
    let database = Connection::open(world.home.path().join("jobs.db")).expect("it opens");
    database.busy_timeout(DEADLINE).expect("it is set");
    database
        .execute_batch("BEGIN IMMEDIATE")
        .expect("it is locked");
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let body = json!({
            "image_url": url, "volume_name": format!("vm-{client}"), "volume_size_bytes": 32 * MIB,
        })
        .to_string();
        let head = format!(
            "POST /api/v1/jobs HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(address).expect("it is connected");
        stream
            .write_all((head + &body).as_bytes())
            .expect("it is sent");
        clients.push(stream);
    }
    // Later requests are answered, so the earlier ones have begun.
    for _ in 0..5 {
        let list: JobList = daemon.get("/api/v1/jobs").await.expect("a list");
        assert_eq!(list.jobs.len(), 0, "the database was not locked");
    }
    drop(clients);
    daemon.get::<JobList>("/api/v1/jobs").await.expect("a list");
    database.execute_batch("ROLLBACK").expect("it is unlocked");
    let jobs = wait_for("the jobs", async || {
        let list: JobList = daemon.get("/api/v1/jobs?limit=100").await.ok()?;
        (list.jobs.len() == CLIENTS).then_some(list.jobs)
    })
    .await;
    for job in jobs {
        let status = daemon
            .ended(&job.job_id.to_string())
            .await
            .expect("it ends");
        assert_eq!(status.status, JobState::Completed, "{status:?}");
    }
    for client in 0..CLIENTS {
        let volume = world.home.volume(&format!("vm-{client}"));
        assert!(holds(&volume, &builder.disk()), "{}", volume.display());
    }
}

#[tokio::test]
async fn clients_that_close_directly_after_sending_still_get_their_jobs() {
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 4, 1).build());
    let daemon = world.start();
    let address = daemon.url().trim_start_matches("http://").to_owned();
    for index in 0..10 {
        let body = json!({
            "image_url": url, "volume_name": format!("vm-{index}"), "volume_size_bytes": 32 * MIB,
        })
        .to_string();
        let request = format!(
            "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut client = TcpStream::connect(&address).expect("it connects");
        client.write_all(request.as_bytes()).expect("it is sent");
        // Closed in order, without waiting for an answer.
        client
            .shutdown(std::net::Shutdown::Write)
            .expect("it is closed");
        drop(client);
    }
    wait_for("ten completed jobs", async || {
        let list: JobList = daemon.get("/api/v1/jobs?status=completed").await.ok()?;
        (list.total == 10).then_some(())
    })
    .await;
}
