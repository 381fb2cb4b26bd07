//! Files with credentials: unusable ones, changed ones, and FIFOs in their place.

use super::*;

#[tokio::test]
async fn a_tokens_file_that_cannot_be_used_keeps_the_daemon_from_starting() {
    let world = World::new().await;
    let directory = world.home.path().to_owned();
    let missing = directory.join("missing");
    let cases = [
        (missing, "Cannot read the tokens file"),
        (
            write(&directory, "empty", "# none\n", 0o600),
            "There is no token",
        ),
        (
            write(&directory, "open", &both_tokens(), 0o644),
            "open to every user",
        ),
        (
            write(&directory, "line", &format!("a:{FULL}\nc d\n"), 0o600),
            "Line 2 of the tokens",
        ),
        (
            write(
                &directory,
                "weak",
                &format!("a:{FULL}\nold:hunter2\n"),
                0o600,
            ),
            "The token old in line 2",
        ),
        (fifo(&directory, "fifo"), "a FIFO"),
        (directory.clone(), "a directory"),
    ];
    let mut world = world;
    for (path, expected) in cases {
        world = world.with("API_TOKENS_FILE", &path.display().to_string());
        let error = world.home.start().expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
        assert!(
            !error.contains(FULL) && !error.contains("hunter2"),
            "{error}"
        );
    }
}

/// A FIFO, which blocks a process that opens it like a file.
pub(crate) fn fifo(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    let made = command("mkfifo").arg("-m").arg("0600").arg(&path).status();
    assert!(made.expect("mkfifo starts").success());
    path
}

#[tokio::test]
async fn changed_tokens_take_effect_without_a_restart_and_invalid_files_change_nothing() {
    let world = with_tokens(World::new().await, &both_tokens());
    let daemon = world.start();
    let client = reqwest::Client::new();
    let status = async |token: &str| {
        let header = Some(("x-api-token", token));
        let answer = call(&client, daemon.url(), ("GET", "/api/v1/jobs"), header).await;
        answer.status
    };
    assert_eq!(status(FULL).await, 200);
    // Noticed because the file changed.
    let new = "new-0123456789abcdef0123456789abcdef";
    write(world.home.path(), "tokens", &format!("ops:{new}\n"), 0o600);
    wait_for("the new token to count", async || {
        // Reading with a known token shows when, without a guess.
        let read = daemon
            .log()
            .iter()
            .any(|line| line["message"] == "Tokens read again");
        read.then_some(())
    })
    .await;
    assert_eq!((status(new).await, status(FULL).await), (200, 401));
    // Noticed by SIGHUP; an invalid file changes nothing.
    write(world.home.path(), "tokens", "# none\n", 0o600);
    daemon.signal("HUP").expect("it is sent");
    let complaints = || {
        let log = daemon.log().into_iter();
        let complained = |line: &Value| {
            let message = line["message"].as_str();
            message.is_some_and(|text| text.contains("stay in force"))
        };
        log.filter(complained)
            .map(|line| line["error"].to_string())
            .collect::<Vec<_>>()
    };
    wait_for("the complaint", async || {
        (!complaints().is_empty()).then_some(())
    })
    .await;
    assert_eq!(status(new).await, 200);
    // Whatever is there instead of the file.
    let path = world.home.path().join("tokens");
    std::fs::remove_file(&path).expect("it is there");
    fifo(world.home.path(), "tokens");
    wait_for("the complaint of a FIFO", async || {
        complaints()
            .iter()
            .any(|error| error.contains("a FIFO"))
            .then_some(())
    })
    .await;
    assert_eq!(status(new).await, 200);
    std::fs::remove_file(&path).expect("it is there");
    std::fs::create_dir(&path).expect("there is room");
    wait_for("the complaint of a directory", async || {
        complaints()
            .iter()
            .any(|error| error.contains("a directory"))
            .then_some(())
    })
    .await;
    assert_eq!(status(new).await, 200);
    daemon.signal("TERM").expect("it is sent");
    assert!(daemon.wait().expect("it ends").success(), "nothing hangs");
}

#[tokio::test]
async fn a_fifo_in_place_of_a_configured_file_does_not_block_the_daemon() {
    let ours = authority("ours");
    for (variable, expected) in [
        ("TLS_CERT_FILE", "Cannot read certificates"),
        ("TLS_KEY_FILE", "Cannot read a private key"),
        ("CLIENT_CA_CERT", "Cannot read certificates"),
        ("MINIO_CA_CERT", "minio.ca_cert"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "tracing.ca_cert"),
        ("LOG_FILE", "logging.file"),
    ] {
        let world = with_tls(World::new().await, &ours, &ours);
        let path = fifo(world.home.path(), "fifo").display().to_string();
        let world = world.with("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:1");
        let world = world.with(variable, &path);
        let error = world.home.start().expect_err(variable).to_string();
        assert!(
            error.contains(expected) && error.contains("a FIFO"),
            "{variable}: {error}"
        );
    }
    let world = World::new().await;
    let path = fifo(world.home.path(), "config.yaml").display().to_string();
    let output = world
        .home
        .run(&["config", "check", "--config", &path])
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("a FIFO"),
        "{said}"
    );
}
