//! What `lvpctl` does without a daemon: wrong command lines, help, completion scripts, manual pages.

use super::*;

#[tokio::test]
async fn what_is_wrong_on_the_command_line_sends_nothing() {
    let fake = Fake::start(accepting()).await;
    for args in [
        &["provision", "s3://images/a", "vm-01"][..],
        &["provision", "s3://images/a", "../vm", "--size", "1G"],
        &["provision", "s3://images/a", "vm-01", "--size", "50"],
        &["provision", "s3://images/a", "vm-01", "--size", "5GB"],
        &[
            "provision",
            "s3://a/b",
            "v",
            "--size",
            "1G",
            "--image-type",
            "qed",
        ],
        &["jobs", "--status", "done"],
        &["status", "no-uuid"],
        &["cache", "rm", "abc"],
        &["jobs", "--timeout", "soon"],
        &["jobs", "--token", "a", "--token-file", "b"],
        &["jobs", "--ca-cert", "/nonexistent"],
        &["upload", "/nonexistent", "seed"],
        &["upload", "/", "seed"],
        &["frobnicate"],
        &[],
    ] {
        let outcome = fake.lvpctl(args).run().await;
        assert_eq!(outcome.code, Some(64), "{args:?}: {outcome:?}");
        assert_eq!(outcome.stdout, "", "{args:?}");
        assert_ne!(outcome.stderr, "", "{args:?}");
    }
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn help_and_version_are_results() {
    for args in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["cache", "--help"],
    ] {
        let outcome = lvpctl(args).run().await;
        assert_eq!(outcome.code, Some(0), "{args:?}");
        assert_ne!(outcome.stdout, "", "{args:?}");
        assert_eq!(outcome.stderr, "", "{args:?}");
    }
}

#[tokio::test]
async fn completion_scripts_need_no_daemon() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = lvpctl(&["completion", shell]).run().await;
        assert_eq!(outcome.code, Some(0));
        assert!(outcome.stdout.contains("provision"), "{shell}");
    }
}

#[tokio::test]
async fn manual_pages_are_written_for_every_command() {
    let directory = tempfile::tempdir().expect("there is room");
    let pages = directory.path().join("man1");
    let outcome = lvpctl(&["man", &pages.display().to_string()]).run().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for (name, expected) in [
        ("lvpctl.1", "Exit codes"),
        ("lvpctl-provision.1", "idempotency"),
        ("lvpctl-cache-fetch.1", "image"),
    ] {
        let page = std::fs::read_to_string(pages.join(name)).expect(name);
        assert!(page.contains(".TH "), "{name}");
        assert!(page.contains(expected), "{name}: {page}");
    }
    let refused = lvpctl(&["man", "/proc/no/man1"]).run().await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
}
