//! `doctor`: its report on a host where everything works, and on each kind of fault.

use lvp_testkit::daemon::Home;
use lvp_testkit::require::require;
use lvp_testkit::s3::S3;
use lvp_testkit::tls::TestCa;
use lvp_testkit::tmpfs::Tmpfs;
use serde_json::Value;

use crate::support::{BINARY, MIB, World, image};

/// The report as JSON, after a check that its exit code matches.
pub(crate) fn report(home: &Home, more: &[&str]) -> Value {
    let arguments = [&["doctor", "--json", "--config", "/dev/null"], more].concat();
    let output = home.run(&arguments).expect("it starts");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {output:?}");
    });
    let code = match report["status"].as_str() {
        Some("ok") => 0,
        Some("warn") => 1,
        _ => 2,
    };
    assert_eq!(output.status.code(), Some(code), "{report:#}");
    for found in report["checks"].as_array().expect("a list") {
        let name = found["check"].as_str().unwrap_or_default();
        let known = provisioner::doctor::CHECKS
            .iter()
            .any(|known| known.0 == name);
        assert!(known, "{name} is in no documentation");
    }
    report
}

/// Status and message of a check; the worst, if there are several.
pub(crate) fn check(report: &Value, name: &str) -> (String, String) {
    let checks = report["checks"].as_array().expect("a list");
    let of_name = checks.iter().filter(|found| found["check"] == name);
    let rank = |found: &&Value| match found["status"].as_str() {
        Some("ok") => 0,
        Some("warn") => 1,
        _ => 2,
    };
    let found = of_name.max_by_key(rank);
    let found = found.unwrap_or_else(|| panic!("no {name} in {report:#}"));
    let has_remedy = found["remedy"].is_string();
    assert_eq!(has_remedy, found["status"] != "ok", "{found}");
    let text = |key: &str| found[key].as_str().expect("a text").to_owned();
    (text("status"), text("message"))
}

fn status(report: &Value, name: &str) -> String {
    check(report, name).0
}

#[tokio::test(flavor = "multi_thread")]
async fn all_checks_pass_beside_a_running_daemon_and_nothing_is_changed() {
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(4 * MIB, 8, 1).build());
    let daemon = world.start();
    let before = world.home.cache_files();
    let report = report(&world.home, &["--image", &url]);
    for name in [
        "config",
        "database",
        "s3.endpoint",
        "s3.clock",
        "s3.image",
        "access",
        "libvirt.connection",
    ] {
        assert_eq!(status(&report, name), "ok", "{report:#}");
    }
    // Whether the file system under /tmp supports direct I/O depends on the machine.
    for name in ["cache.dir", "volumes.dir"] {
        assert_ne!(status(&report, name), "fail", "{report:#}");
    }
    assert_eq!(world.home.cache_files(), before);
    let human = world.home.run(&["doctor", "--config", "/dev/null"]);
    let human = String::from_utf8(human.expect("it starts").stdout).expect("text");
    assert!(human.contains("ok    s3.endpoint"), "{human}");
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_or_refuses_the_key_or_the_image_fails() {
    let world = World::new()
        .await
        .with("MINIO_ENDPOINT", "http://127.0.0.1:9");
    let (found, message) = check(&report(&world.home, &[]), "s3.endpoint");
    assert_eq!(found, "fail");
    assert!(
        message.contains("127.0.0.1:9 cannot be reached"),
        "{message}"
    );

    let world = World::new().await.with("MINIO_SECRET_KEY", "wrong");
    let refused = report(&world.home, &[]);
    let (found, message) = check(&refused, "s3.endpoint");
    assert_eq!(found, "fail");
    assert!(message.contains("check minio.access_key"), "{message}");
    // Its answer has a Date header all the same.
    assert_eq!(status(&refused, "s3.clock"), "ok");

    let world = World::new().await;
    world.put("a.qcow2", &image(4 * MIB, 8, 1).build());
    let objects = world.s3.objects();
    objects
        .put("images", "bare.qcow2", b"x")
        .expect("it is written");
    for (url, expected) in [
        ("s3://images/a.qcow2", "ok"),
        ("s3://images/bare.qcow2", "warn"),
        ("s3://images/none.qcow2", "fail"),
        ("http://elsewhere.example.com/x", "fail"),
    ] {
        let report = report(&world.home, &["--image", url]);
        assert_eq!(status(&report, "s3.image"), expected, "{url}: {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_certificate_is_trusted_by_the_configured_ca_only() {
    let ca = TestCa::new().expect("an authority");
    let s3 = S3::start_with_tls(&ca).await.expect("the S3 server starts");
    let home = Home::new(BINARY, s3.endpoint()).expect("there is room");
    let (found, message) = check(&report(&home, &[]), "s3.endpoint");
    assert_eq!(found, "fail");
    assert!(message.contains("set minio.ca_cert"), "{message}");
    let home = home.with("MINIO_CA_CERT", ca.certificate().display().to_string());
    let report = report(&home, &[]);
    assert_eq!(status(&report, "s3.endpoint"), "ok", "{report:#}");
    let (found, message) = check(&report, "s3.certificate");
    assert_eq!(found, "ok", "{message}");
    assert!(message.contains("is valid until"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_file_systems_and_invalid_configurations_fail() {
    let world = World::new().await;
    let broken = world.home.with("CACHE_MAX_AGE", "soon");
    let report_of_broken = report(&broken, &[]);
    let (found, message) = check(&report_of_broken, "config");
    assert_eq!(found, "fail");
    assert!(message.contains("cache.max_age"), "{message}");
    assert_eq!(report_of_broken["checks"].as_array().map(Vec::len), Some(1));

    if !require("mount") {
        return;
    }
    let world = World::new().await;
    let small = world.home.path().join("small");
    let tmpfs = Tmpfs::mount(&small, 8 << 20).expect("it is mounted");
    let path = |name: &str| small.join(name).display().to_string();
    std::fs::create_dir(small.join("cache")).expect("there is room");
    let home = world
        .home
        .with("CACHE_DIR", path("cache"))
        .with("DB_PATH", path("jobs.db"));
    let report = report(&home, &[]);
    assert_eq!(status(&report, "database"), "fail", "{report:#}");
    assert_eq!(status(&report, "cache.dir"), "warn", "{report:#}");
    let home = home.with("CACHE_MIN_FREE_BYTES", "1G");
    let (found, message) = check(&super::doctor::report(&home, &[]), "cache.dir");
    assert_eq!(found, "fail", "{message}");
    drop(home);
    drop(tmpfs);
}
