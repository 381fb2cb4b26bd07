use super::*;

/// A configuration by environment variables, for the checks that only read it.
pub(super) fn config(pairs: &[(&str, &str)]) -> Config {
    let base = [
        ("VOLUME_BACKEND", "dir"),
        ("VOLUME_DIR", "/srv/volumes"),
        ("CACHE_DIR", "/srv/cache"),
        ("LIBVIRT_ENABLED", "false"),
        ("MINIO_ENDPOINT", "http://127.0.0.1:9"),
    ];
    let environment = |name: &str| {
        let all = pairs.iter().chain(&base);
        let found = all.into_iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let settings = Settings::load(Path::new("/nonexistent"), false, environment);
    Config::from_settings(&settings.expect("all keys are known")).expect("it can be used")
}

#[test]
fn the_worst_finding_is_the_result_and_the_exit_code() {
    let ok = Finding::ok("config", "Fine");
    let warn = Finding::warn("database", "Odd", "Look");
    let fail = Finding::fail("cache.dir", "Broken", "Mend it");
    for (findings, code) in [
        (vec![], 0),
        (vec![ok.clone()], 0),
        (vec![ok.clone(), warn.clone()], 1),
        (vec![ok.clone(), fail.clone(), warn.clone()], 2),
    ] {
        assert_eq!(exit_code(Report::new(findings).status), code);
    }
    let report = Report::new(vec![ok, warn, fail]);
    insta::assert_snapshot!(report.text(), @r"
    ok    config     Fine
    warn  database   Odd
                     -> Look
    fail  cache.dir  Broken
                     -> Mend it

    1 ok, 1 to look at, 1 failed
    ");
}

#[test]
fn secrets_in_a_world_readable_file_are_reported() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().expect("there is room");
    let file = home.path().join("config.yaml");
    let look = |text: &str, mode: u32| {
        std::fs::write(&file, text).expect("there is room");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("it is ours");
        let settings = Settings::load(&file, true, |_| None).expect("it is read");
        configuration(&file, &settings)
            .iter()
            .map(|found| found.status)
            .max()
    };
    let secret = "minio:\n  secret_key: hunter2\n";
    assert_eq!(look(secret, 0o640), Some(Status::Ok));
    assert_eq!(look(secret, 0o644), Some(Status::Warn));
    assert_eq!(look("minio:\n  region: x\n", 0o644), Some(Status::Ok));
    assert_eq!(look("minio:\n  bucket: x\n", 0o600), Some(Status::Warn));
}

fn markdown() -> String {
    let mut text = String::from("| check | what it looks at |\n|---|---|\n");
    for (name, what) in CHECKS {
        text.push_str(&format!("| `{name}` | {what} |\n"));
    }
    text
}

#[test]
fn the_docs_hold_every_check_of_the_doctor() {
    lvp_testkit::docs::check_section("docs/doctor.md", "checks", &markdown());
}
