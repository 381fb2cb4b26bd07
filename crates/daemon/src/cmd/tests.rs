use std::time::{Duration, Instant};

use super::*;

const LONG: Duration = Duration::from_secs(20);

async fn shell(script: &str, timeout: Duration) -> Result<Output, CmdError> {
    run("sh", ["-c", script], timeout).await
}

#[tokio::test]
async fn a_tools_output_is_returned() {
    let output = shell("echo out; echo warned >&2", LONG).await.unwrap();
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, "warned\n");
}

#[tokio::test]
async fn a_tool_sees_the_c_locale_no_input_and_nothing_of_our_environment() {
    let output = shell("cat; env", LONG).await.unwrap();
    let seen = String::from_utf8(output.stdout).unwrap();
    assert!(seen.contains("LC_ALL=C\n"), "{seen}");
    // Cargo sets this variable for every test, so it would be visible if anything were inherited.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(!seen.contains("CARGO"), "{seen}");
    assert!(!seen.contains("LANG="), "{seen}");
}

#[tokio::test]
async fn a_failure_keeps_the_command_its_status_and_its_standard_error() {
    let error = shell("echo 'no such thing' >&2; exit 5", LONG)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CmdErrorKind::Failed(5));
    assert_eq!(
        error.to_string(),
        r#"'sh -c "echo 'no such thing' >&2; exit 5"' ended with status 5: no such thing"#
    );
}

#[tokio::test]
async fn a_signal_is_told_apart_from_an_exit_status() {
    let error = shell("kill -9 $$", LONG).await.unwrap_err();
    assert_eq!(error.kind(), CmdErrorKind::Signalled(9));
}

#[tokio::test]
async fn a_missing_tool_names_the_package_to_install() {
    let error = run("no-such-tool", ["x"], LONG).await.unwrap_err();
    assert_eq!(error.kind(), CmdErrorKind::NotInstalled(None));
    for (tool, package) in PACKAGES {
        assert!(!tool.is_empty() && !package.is_empty());
    }
}

#[tokio::test]
async fn a_path_is_not_a_tool() {
    for tool in ["", ".", "..", "no/such"] {
        let error = run(tool, ["x"], LONG).await.unwrap_err();
        assert_eq!(error.kind(), CmdErrorKind::NotInstalled(None), "{tool}");
    }
}

#[tokio::test]
async fn a_tool_that_hangs_is_killed_with_everything_it_started() {
    let started = Instant::now();
    // The inner shell ignores SIGTERM, as LVM does in its critical sections.
    let script = "sh -c 'trap \"\" TERM; echo $$ >&2; while :; do sleep 1; done' & wait";
    let error = shell(script, Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error.kind(), CmdErrorKind::TimedOut(_)), "{error}");
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
    let inner: i32 = error.stderr().trim().parse().unwrap();
    wait_until_gone(inner).await;
}

#[tokio::test]
async fn a_caller_that_stops_waiting_ends_the_tool() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; sleep 60",
        pid_file.display()
    );
    let mut call = Box::pin(shell(&script, LONG));
    let pid: i32 = loop {
        tokio::select! {
            _ = &mut call => panic!("it sleeps for a minute"),
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
        if let Ok(text) = std::fs::read_to_string(&pid_file) {
            break text.trim().parse().unwrap();
        }
    };
    drop(call);
    wait_until_gone(pid).await;
}

#[tokio::test]
async fn a_tool_that_never_stops_printing_is_killed() {
    let error = shell("yes", LONG).await.unwrap_err();
    assert_eq!(error.kind(), CmdErrorKind::TooMuchOutput);
}

#[tokio::test]
async fn endless_warnings_are_cut_and_do_not_block_the_tool() {
    let script = "dd if=/dev/zero bs=1M count=2 status=none | tr '\\0' w >&2; echo done";
    let output = shell(script, LONG).await.unwrap();
    assert_eq!(output.stdout, b"done\n");
    assert_eq!(output.stderr.len(), STDERR_LIMIT);
}

async fn wait_until_gone(pid: i32) {
    let deadline = Instant::now() + LONG;
    let pid = Pid::from_raw(pid).unwrap();
    while rustix::process::test_kill_process(pid).is_ok() {
        assert!(Instant::now() < deadline, "{pid:?} is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
