//! `--wait` on a terminal: a real one, from script(1).

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::fake::{Fake, completed, running, status};
use crate::waiting::streaming;

#[expect(
    clippy::disallowed_methods,
    reason = "a program that gives the one under test a terminal, with a deadline"
)]
#[tokio::test]
async fn a_terminal_gets_a_bar_that_is_redrawn_and_a_dumb_one_lines() {
    let statuses = vec![
        status("pending"),
        running("downloading", 9.0),
        running("downloading", 55.0),
        completed(),
    ];
    let fake = Fake::start(streaming(statuses)).await;
    let run = async |term: &str| {
        let line = format!(
            "{} provision s3://images/debian-12.qcow2 vm-01 --size 50G --wait",
            env!("CARGO_BIN_EXE_lvpctl")
        );
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TERM", term)
            .env("LVP_ENDPOINT", fake.endpoint())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(Duration::from_secs(60), output).await;
        let output = output.expect("it ends in time").expect("script starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let bar = run("xterm").await;
    assert!(bar.contains("[=") && bar.contains("\u{1b}["), "{bar:?}");
    assert!(bar.contains("Status:   completed"), "{bar:?}");
    let lines = run("dumb").await;
    assert!(lines.contains("downloading: 55.0 %"), "{lines:?}");
    assert!(!lines.contains('\u{1b}'), "{lines:?}");
}
