//! What the service manager is told, and the sockets that it passes.

mod uml;

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lvp_testkit::daemon::{DEADLINE, wait_for};
use lvp_testkit::require::{command, require};
use rusqlite::Connection;

use crate::support::{BINARY, World};

/// The service manager's end of the daemon's notifications.
struct Manager(UnixDatagram);

impl Manager {
    fn new(world: World) -> (World, Self) {
        let path = world.home.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("the socket is made");
        let world = world.with("NOTIFY_SOCKET", path.to_str().expect("text"));
        (world, Self(socket))
    }

    /// The next message that contains this, if it comes in time.
    fn hears_within(&self, what: &str, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        let mut buffer = [0; 4096];
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            let left = left.max(Duration::from_millis(1));
            self.0.set_read_timeout(Some(left)).expect("it is set");
            let length = self.0.recv(&mut buffer).ok()?;
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.contains(what) {
                return Some(message);
            }
        }
    }

    fn hears(&self, what: &str) -> String {
        self.hears_within(what, DEADLINE)
            .unwrap_or_else(|| panic!("{what} was not told"))
    }

    /// Discards the messages so far.
    fn forget(&self) {
        self.0.set_nonblocking(true).expect("it is set");
        while self.0.recv(&mut [0; 4096]).is_ok() {}
        self.0.set_nonblocking(false).expect("it is set");
    }
}

#[tokio::test]
async fn the_service_manager_is_notified_of_readiness_reloads_and_the_stop() {
    let (world, manager) = Manager::new(World::new().await.with("SHUTDOWN_GRACE", "1h"));
    let daemon = world.start();
    let ready = manager.hears("READY=1");
    let address = daemon.url().trim_start_matches("http://");
    assert!(
        ready.contains(&format!("STATUS=Serving on {address}")),
        "{ready}"
    );
    // When READY=1 is sent, requests are already answered.
    let health = daemon
        .call("GET", "/healthz", None)
        .await
        .expect("an answer");
    assert_eq!(health.status, 200);

    daemon.signal("HUP").expect("it is told");
    let reloading = manager.hears("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.hears("READY=1");

    daemon.signal("TERM").expect("it is told");
    let stopping = manager.hears("STOPPING=1");
    // An hour of grace and half a minute for the rest, whatever the unit says.
    assert!(
        stopping.contains("EXTEND_TIMEOUT_USEC=3630000000\n"),
        "{stopping}"
    );
    assert!(daemon.wait().expect("it ends").success());
}

#[tokio::test]
async fn the_status_line_names_dependencies_that_are_down() {
    let world = World::new()
        .await
        .with("MINIO_ENDPOINT", "http://127.0.0.1:1");
    let (world, manager) = Manager::new(world);
    let _daemon = world.start();
    let status = manager.hears("down: minio");
    assert!(status.contains("0 of 2 jobs running"), "{status}");
}

#[tokio::test]
async fn a_daemon_whose_database_does_not_answer_sends_no_watchdog_message() {
    let (world, manager) = Manager::new(World::new().await);
    // A message is due every 300 ms, and answers may take that long.
    let world = world.with("WATCHDOG_USEC", "900000");
    let daemon = world.start();
    manager.hears("WATCHDOG=1");
    let database = Connection::open(world.home.path().join("jobs.db")).expect("it opens");
    database.busy_timeout(DEADLINE).expect("it is set");
    database
        .execute_batch("BEGIN IMMEDIATE")
        .expect("it is locked");
    manager.forget();
    // One may have been sent already.
    manager.hears_within("WATCHDOG=1", Duration::from_millis(300));
    let sign = manager.hears_within("WATCHDOG=1", Duration::from_secs(2));
    assert_eq!(sign, None, "the database does not answer");
    let health = daemon
        .call("GET", "/healthz", None)
        .await
        .expect("an answer");
    assert_eq!(health.status, 200, "the rest of the daemon works");
    database.execute_batch("ROLLBACK").expect("it is unlocked");
    manager.hears("WATCHDOG=1");
}

#[tokio::test]
async fn without_a_watchdog_no_watchdog_messages_are_sent() {
    let (world, manager) = Manager::new(World::new().await);
    let _daemon = world.start();
    // Its status is sent by the same task, after the first life sign would have been.
    manager.hears("READY=1");
    let message = manager.hears_within("WATCHDOG=1", Duration::from_secs(1));
    assert_eq!(message, None);
}

/// The daemon as a socket unit starts it, on a socket that it did not open itself.
/// Returns its answer, or its last output.
async fn behind_a_socket(world: &World, host: &str) -> Result<u16, String> {
    let port = {
        let listener = std::net::TcpListener::bind((host, 0)).expect("a port");
        listener.local_addr().expect("it has an address").port()
    };
    let log_path = world.home.path().join("activated.log");
    let log = std::fs::File::create(&log_path).expect("a log");
    let mut manager = command("systemd-socket-activate");
    manager.arg(format!("--listen={host}:{port}"));
    for (name, value) in world.home.environment() {
        manager.arg(format!("--setenv={name}={value}"));
    }
    let mut process = manager
        .args([BINARY, "serve", "--config", "/dev/null"])
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("systemd-socket-activate starts");
    let client = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{port}/healthz");
    let answer = wait_for("an answer or an end", async || {
        let answer = tokio::time::timeout(Duration::from_secs(5), client.get(&url).send()).await;
        match (answer, process.try_wait().expect("it is asked for")) {
            (Ok(Ok(answer)), _) => Some(Ok(answer.status().as_u16())),
            (_, Some(_)) => Some(Err(std::fs::read_to_string(&log_path).expect("a log"))),
            _ => None,
        }
    })
    .await;
    process.kill().ok();
    process.wait().expect("it has ended");
    answer
}

#[tokio::test]
async fn the_socket_of_a_socket_unit_is_served() {
    if !require("systemd") {
        return;
    }
    let world = World::new().await;
    assert_eq!(behind_a_socket(&world, "127.0.0.1").await, Ok(200));
}

#[tokio::test]
async fn a_socket_that_other_hosts_can_reach_is_refused_without_credentials() {
    if !require("systemd") {
        return;
    }
    let world = World::new().await;
    let said = behind_a_socket(&world, "0.0.0.0")
        .await
        .expect_err("it is refused");
    assert!(
        said.contains("neither tokens nor a client CA are configured"),
        "{said}"
    );
}
