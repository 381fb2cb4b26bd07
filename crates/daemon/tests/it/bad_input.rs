//! What a client gets for each mistake, and that nothing is left behind.

use lvp_api::JobState;
use serde_json::{Value, json};

use crate::support::{MIB, World, accepted, image};

#[tokio::test]
async fn bad_requests_are_refused_field_by_field() {
    let world = World::new().await;
    let daemon = world.start();
    let good = json!({"image_url": "s3://images/a", "volume_name": "vm", "volume_size_gb": 1});
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    let long = "x".repeat(129);
    for (body, expected) in [
        (with("volume_name", json!("../etc")), "volume_name"),
        (with("volume_name", json!("-L1G")), "volume_name"),
        (with("volume_name", json!("a_tmeta")), "reserved"),
        (with("volume_size_gb", json!(0)), "volume_size_gb is 0"),
        (with("volume_size_gb", json!(-1)), "-1"),
        (
            with("volume_size_gb", json!(u64::MAX)),
            "volume_size_gb is above the limit",
        ),
        (
            with("volume_size_gb", json!("10")),
            "volume_size_gb: must be a whole number, not the string \"10\"",
        ),
        (
            with("volume_size_gb", json!(1.0)),
            "volume_size_gb: must be a whole number, not the number 1.0",
        ),
        (
            with("volume_name", json!(100)),
            "volume_name: must be a string, not the number 100",
        ),
        (
            with("correlation_id", json!(7)),
            "correlation_id: must be a string, not the number 7",
        ),
        (
            with("adopt", json!("true")),
            "adopt: must be true or false, not the string \"true\"",
        ),
        (with("volume_size_bytes", json!(1)), "both given"),
        (
            with("image_type", json!("qed")),
            "image_type: \"qed\" is not a known image type: use one of ",
        ),
        (with("correlation_id", json!(long)), "129 characters"),
        (
            with("volume_size_bg", json!(1)),
            "volume_size_bg: unknown field: use volume_size_gb",
        ),
        (
            with("image_url", json!("file:///etc/passwd")),
            "image_url: The image URL \"file:///etc/passwd\"",
        ),
        (
            with("image_url", json!("https://evil.example/a/b")),
            "evil.example",
        ),
        (with("image_url", json!("s3://images")), "s3://images"),
        (
            json!({"volume_name": "vm", "volume_size_gb": 1}),
            "image_url is missing",
        ),
        (
            json!({"image_url": "s3://images/a", "volume_name": "vm"}),
            "volume_size_gb is missing",
        ),
        (json!([]), "The body must be a JSON object, not a list"),
    ] {
        for route in ["/api/v1/jobs", "/api/v1/provision", "/provision"] {
            let answer = daemon
                .call("POST", route, Some(body.clone()))
                .await
                .expect("an answer");
            assert_eq!(answer.status, 400, "{body}: {answer:?}");
            assert_eq!(answer.body["error"], "invalid request");
            assert_eq!(answer.body["code"], 400);
            assert_eq!(answer.body["details"], answer.body["message"]);
            let message = answer.body["message"].as_str().expect("there is a message");
            assert!(message.contains(expected), "{body}: {message}");
        }
    }
    let asked = world.s3.traffic().objects();
    assert!(
        !asked.keys().any(|path| path.starts_with("images/")),
        "{asked:?}"
    );
    assert_eq!(world.home.volume_files(), Vec::<String>::new());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let world = World::new().await;
    let daemon = world.start();
    let body = json!({"image_url": "x".repeat(1 << 20)});
    let answer = daemon
        .call("POST", "/api/v1/jobs", Some(body))
        .await
        .expect("an answer");
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(answer.body["code"], 413);
}

#[tokio::test]
async fn unknown_jobs_images_and_paths_are_not_found() {
    let world = World::new().await;
    let daemon = world.start();
    let id = "00000000-0000-4000-8000-000000000000";
    for (method, route, status) in [
        ("GET", format!("/api/v1/jobs/{id}"), 404),
        ("GET", format!("/api/v1/status/{id}"), 404),
        ("GET", "/api/v1/jobs/nonsense".to_owned(), 404),
        ("POST", format!("/api/v1/jobs/{id}/cancel"), 404),
        ("DELETE", format!("/api/v1/cancel/{id}"), 404),
        ("GET", format!("/api/v1/jobs/{id}/events"), 404),
        ("GET", "/api/v2/jobs".to_owned(), 404),
        ("PATCH", "/api/v1/jobs".to_owned(), 405),
        ("DELETE", "/api/v1/cache/images/nonsense".to_owned(), 400),
        (
            "DELETE",
            format!("/api/v1/cache/images/{}", "A".repeat(64)),
            400,
        ),
        (
            "DELETE",
            format!("/api/v1/cache/images/{}", "a".repeat(64)),
            404,
        ),
        ("GET", "/api/v1/jobs?status=lost".to_owned(), 400),
        ("GET", "/api/v1/jobs?limit=many".to_owned(), 400),
    ] {
        let answer = daemon.call(method, &route, None).await.expect("an answer");
        assert_eq!(answer.status, status, "{method} {route}: {answer:?}");
        assert_eq!(answer.body["code"], status, "{method} {route}");
    }
}

/// Runs one job that must fail, and checks that it leaves neither volume nor cache file.
async fn fails(world: &World, url: &str, volume_bytes: u64) -> (u16, String) {
    let daemon = world.start();
    let job = accepted(&daemon, url, "vm", volume_bytes).await;
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Failed, "{status:?}");
    assert_eq!(
        world.home.volume_files(),
        Vec::<String>::new(),
        "a volume is left"
    );
    assert_eq!(
        world.home.cache_files(),
        Vec::<String>::new(),
        "a cache file is left"
    );
    let error = status.error.expect("a failed job has an error");
    (status.error_code.expect("and a code"), error)
}

#[tokio::test]
async fn a_missing_object_fails_the_job_with_its_name() {
    let world = World::new().await;
    world.put("other", b"x");
    let (code, error) = fails(&world, "s3://images/nothing.qcow2", 32 * MIB).await;
    assert_eq!(code, 404, "{error}");
    assert!(error.contains("/images/nothing.qcow2"), "{error}");
}

#[tokio::test]
async fn a_wrong_digest_leaves_nothing() {
    let world = World::new().await;
    let url = world.put("bad.qcow2", &image(32 * MIB, 40, 1).build());
    let wrong = format!("{}  bad.qcow2\n", "0".repeat(64));
    world
        .s3
        .objects()
        .put("images", "bad.qcow2.sha256", wrong.as_bytes())
        .expect("it is written");
    let (code, error) = fails(&world, &url, 32 * MIB).await;
    assert_eq!(code, 422, "{error}");
    assert!(
        error.contains(&"0".repeat(64)) && error.contains("SHA-256"),
        "{error}"
    );
}

#[tokio::test]
async fn a_sidecar_that_holds_no_digest_fails_the_job() {
    let world = World::new().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 4, 1).build());
    world
        .s3
        .objects()
        .put("images", "a.qcow2.sha256", b"<html>oops</html>")
        .expect("written");
    let (code, error) = fails(&world, &url, 32 * MIB).await;
    assert_eq!(code, 422, "{error}");
    assert!(error.contains("a.qcow2.sha256"), "{error}");
}

#[tokio::test]
async fn a_missing_sidecar_is_refused_where_one_is_required() {
    let world = World::new().await.with("CACHE_REQUIRE_CHECKSUM", "true");
    let image = image(32 * MIB, 4, 1).build();
    world
        .s3
        .objects()
        .put("images", "a.qcow2", &image)
        .expect("it is written");
    let (code, error) = fails(&world, "s3://images/a.qcow2", 32 * MIB).await;
    assert_eq!(code, 422, "{error}");
    assert!(error.contains("cache.require_checksum"), "{error}");
}

#[tokio::test]
async fn a_truncated_image_is_refused() {
    let world = World::new().await;
    let whole = image(32 * MIB, 60, 1).build();
    let url = world.put("cut.qcow2", &whole[..whole.len() / 2]);
    let (code, error) = fails(&world, &url, 32 * MIB).await;
    assert_eq!(code, 422, "{error}");
}

#[tokio::test]
async fn an_image_with_a_backing_file_is_refused_by_name() {
    let world = World::new().await;
    let mut hostile = image(32 * MIB, 4, 1).build();
    // backing_file_offset and backing_file_size of the qcow2 header, and a name in its cluster.
    hostile[8..16].copy_from_slice(&512_u64.to_be_bytes());
    hostile[16..20].copy_from_slice(&11_u32.to_be_bytes());
    hostile[512..523].copy_from_slice(b"/etc/passwd");
    let url = world.put("hostile.qcow2", &hostile);
    let (code, error) = fails(&world, &url, 32 * MIB).await;
    assert_eq!(code, 422, "{error}");
    assert!(error.contains("backing file"), "{error}");
}

#[tokio::test]
async fn an_image_larger_than_the_volume_is_refused_before_anything_is_written() {
    let world = World::new().await;
    let url = world.put("large.qcow2", &image(64 * MIB, 4, 1).build());
    let (code, error) = fails(&world, &url, 32 * MIB).await;
    assert_eq!(code, 422, "{error}");
    assert!(
        error.contains("67108864") && error.contains("33554432"),
        "{error}"
    );
}

#[tokio::test]
async fn an_existing_volume_that_is_too_small_is_refused_and_left_alone() {
    let world = World::new().await;
    let (small, large) = (image(32 * MIB, 9, 1), image(64 * MIB, 9, 2));
    let small_url = world.put("small.qcow2", &small.build());
    let large_url = world.put("large.qcow2", &large.build());
    let daemon = world.start();
    let job = accepted(&daemon, &small_url, "vm", 32 * MIB).await;
    assert_eq!(
        daemon.ended(&job).await.expect("it ends").status,
        JobState::Completed
    );
    let job = accepted(&daemon, &large_url, "vm", 64 * MIB).await;
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(
        (status.status, status.error_code),
        (JobState::Failed, Some(409)),
        "{status:?}"
    );
    let error = status.error.expect("an error");
    assert!(
        error.contains("33554432") && error.contains("67108864"),
        "{error}"
    );
    assert!(
        crate::support::holds(&world.home.volume("vm"), &small.disk()),
        "it was touched"
    );
}

#[tokio::test]
async fn wrong_credentials_are_named_as_such() {
    let world = World::new().await.with("MINIO_SECRET_KEY", "wrong");
    let url = world.put("a.qcow2", &image(32 * MIB, 4, 1).build());
    let (code, error) = fails(&world, &url, 32 * MIB).await;
    assert_eq!(code, 503, "{error}");
    assert!(error.contains("minio.secret_key"), "{error}");
    assert!(!error.contains("wrong"), "a secret is shown: {error}");
}

#[tokio::test]
async fn an_s3_server_that_is_down_fails_the_job_after_the_retries() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(32 * MIB, 4, 1).build());
    proxy.go_down().await;
    let (code, error) = fails(&world, &url, 32 * MIB).await;
    assert_eq!(code, 503, "{error}");
}
