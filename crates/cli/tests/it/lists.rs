//! Lists and views in their formats.

use std::process::Stdio;

use axum::http::StatusCode;
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::fake::{Fake, JOB, completed, error, finish, running, status};

fn jobs() -> Router {
    let list = json!({
        "jobs": [running("downloading", 41.57), status("pending"), completed()],
        "count": 3,
        "total": 120,
        "offset": 10,
        "limit": 3,
    });
    Router::new()
        .route("/api/v1/jobs", get(async || Json(list)))
        .route("/api/v1/jobs/{id}", get(async || Json(completed())))
}

#[tokio::test]
async fn jobs_are_a_table_for_people_and_names_for_scripts() {
    let fake = Fake::start(jobs()).await;
    let args = [
        "jobs",
        "--status",
        "running,failed",
        "--volume",
        "vm-01",
        "--image",
        "debian",
        "--search",
        "ticket 7",
        "--since",
        "2026-01-27T10:30:00Z",
        "--until",
        "2026-01-28T00:00:00Z",
        "--limit",
        "3",
        "--offset",
        "10",
    ];
    let outcome = fake.lvpctl(&args).run().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(
        fake.calls(),
        [
            "GET /api/v1/jobs?limit=3&offset=10&status=running%2Cfailed&volume=vm-01&image=debian&q=ticket+7\
             &since=2026-01-27T10%3A30%3A00Z&until=2026-01-28T00%3A00%3A00Z"
        ]
    );
    insta::assert_snapshot!(outcome.stdout, @r"
    JOB                                    STATUS      DONE    VOLUME   IMAGE                         CREATED
    6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01   running     41 %    vm-01    s3://images/debian-12.qcow2   2026-01-02T03:04:05Z
    6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01   pending     -       vm-01    s3://images/debian-12.qcow2   2026-01-02T03:04:05Z
    6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01   completed   100 %   vm-01    s3://images/debian-12.qcow2   2026-01-02T03:04:05Z
    ");
    assert_eq!(
        outcome.stderr,
        "3 of 120 shown; use --offset 13 to see more\n"
    );

    let outcome = fake.lvpctl(&["jobs", "-o", "name"]).run().await;
    assert_eq!(outcome.stdout, format!("{JOB}\n{JOB}\n{JOB}\n"));
    let outcome = fake.lvpctl(&["jobs", "-o", "json"]).run().await;
    let list: Value = serde_json::from_str(&outcome.stdout).expect("it is JSON");
    assert_eq!(list["jobs"][2]["notes"], completed()["notes"]);
    assert_eq!(list["total"], 120);
    assert_eq!(outcome.stderr, "");
}

#[tokio::test]
async fn one_job_is_shown_with_all_that_is_known() {
    let fake = Fake::start(jobs()).await;
    let outcome = fake.lvpctl(&["status", JOB]).run().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    insta::assert_snapshot!(outcome.stdout, @r"
    Job:      6c8a5b4e-0d6f-4a53-9d5b-0f4e1f6b7a01
    Kind:     provision
    Status:   completed
    Image:    s3://images/debian-12.qcow2
    Cache:    miss
    Volume:   vm-01
    Path:     /dev/vg0/vm-01
    Created:  2026-01-02T03:04:05Z
    Updated:  2026-01-02T03:04:06Z
    Note:     The tail of the volume was zeroed
    ");
}

#[tokio::test]
async fn an_empty_list_is_no_output() {
    let empty = json!({"jobs": [], "count": 0, "total": 0, "offset": 0, "limit": 50});
    let routes = Router::new().route("/api/v1/jobs", get(async || Json(empty)));
    let fake = Fake::start(routes).await;
    let outcome = fake.lvpctl(&["jobs"]).run().await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""));
    assert_eq!(outcome.stderr, "No jobs\n");
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let fake = Fake::start(jobs()).await;
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let child = fake.lvpctl(&["jobs"]).stdout(Stdio::from(writer)).spawn();
    let outcome = finish(child).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(!outcome.stderr.contains("error"), "{outcome:?}");
}

#[tokio::test]
async fn a_result_that_cannot_be_written_is_an_error() {
    let fake = Fake::start(jobs()).await;
    let full = std::fs::File::options().write(true).open("/dev/full");
    let full = Stdio::from(full.expect("Linux has it"));
    let outcome = finish(fake.lvpctl(&["jobs"]).stdout(full).spawn()).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("No space left"), "{outcome:?}");
}

#[tokio::test]
async fn the_cache_is_listed_and_cleaned() {
    let key = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let busy = "0".repeat(64);
    let image = json!({
        "key": key,
        "path": format!("/var/lib/libvirt/images/{key}"),
        "size": 4_u64 << 30,
        "checksum": key,
        "mod_time": "2026-01-02T03:04:05Z",
        "last_used": "2026-01-03T03:04:05Z",
        "image_url": "s3://images/debian-12.qcow2",
        "in_use": true,
        "unpacked_bytes": 10_u64 << 30,
    });
    let images = json!({"images": [image], "count": 1, "offset": 0, "limit": 100});
    let routes = Router::new()
        .route("/api/v1/cache/images", get(async || Json(images)))
        .route(
            &format!("/api/v1/cache/images/{key}"),
            delete(async move || Json(json!({"status": "deleted", "key": key}))),
        )
        .route(
            &format!("/api/v1/cache/images/{busy}"),
            delete(async || error(409, "conflict", "A job is using the image")),
        );
    let fake = Fake::start(routes).await;

    let outcome = fake.lvpctl(&["cache", "ls"]).run().await;
    insta::assert_snapshot!(outcome.stdout, @r"
    KEY                                                                SIZE    UNPACKED   IN USE   GOLDEN   LAST USED              IMAGE
    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855   4 GiB   10 GiB     yes      no       2026-01-03T03:04:05Z   s3://images/debian-12.qcow2
    ");
    let outcome = fake.lvpctl(&["cache", "ls", "-o", "name"]).run().await;
    assert_eq!(outcome.stdout, format!("{key}\n"));

    let outcome = fake.lvpctl(&["cache", "rm", key, &busy]).run().await;
    assert_eq!(outcome.stdout, format!("{key} deleted\n"));
    assert_eq!(outcome.code, Some(5), "{outcome:?}");
}

#[tokio::test]
async fn volumes_are_listed_with_what_they_hold() {
    let volumes = json!({
        "volumes": [
            {
                "name": "vm-01",
                "path": "/dev/vg0/vm-01",
                "size_bytes": 50_u64 << 30,
                "kind": "clone",
                "state": "ready",
                "image_digest":
                    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            },
            {
                "name": "swap",
                "path": "/dev/vg0/swap",
                "size_bytes": 1_u64 << 30,
                "kind": "linear",
                "state": "untagged",
            },
        ],
        "count": 2,
    });
    let routes = Router::new().route("/api/v1/volumes", get(async || Json(volumes)));
    let fake = Fake::start(routes).await;
    let outcome = fake.lvpctl(&["volumes"]).run().await;
    insta::assert_snapshot!(outcome.stdout, @r"
    NAME    SIZE     KIND     STATE      IMAGE          PATH
    vm-01   50 GiB   clone    ready      e3b0c44298fc   /dev/vg0/vm-01
    swap    1 GiB    linear   untagged   -              /dev/vg0/swap
    ");
    let outcome = fake.lvpctl(&["volumes", "-o", "name"]).run().await;
    assert_eq!(outcome.stdout, "vm-01\nswap\n");
}

#[tokio::test]
async fn health_names_what_is_down_and_the_exit_code_shows_it() {
    for (is_ready, code) in [(true, 0), (false, 7)] {
        let health = json!({
            "status": "degraded",
            "timestamp": "2026-01-02T03:04:05Z",
            "version": "v1.0.0",
            "uptime": "3h14m52s",
        });
        let minio = if is_ready {
            json!({"up": true})
        } else {
            json!({"up": false, "error": "Connection refused"})
        };
        let readiness = json!({
            "ready": is_ready,
            "dependencies": {"lvm": {"up": true}, "minio": minio},
        });
        let status = if is_ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let routes = Router::new()
            .route("/health", get(async || Json(health)))
            .route("/readyz", get(async move || (status, Json(readiness))));
        let fake = Fake::start(routes).await;
        let outcome = fake.lvpctl(&["health"]).run().await;
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        if !is_ready {
            insta::assert_snapshot!(outcome.stdout, @r"
            Status:   degraded (every job slot is taken; further jobs wait)
            Ready:    no
            Version:  v1.0.0
            Uptime:   3h14m52s
            lvm:      up
            minio:    down: Connection refused
            ");
        }
        let outcome = fake.lvpctl(&["health", "-o", "json"]).run().await;
        let report: Value = serde_json::from_str(&outcome.stdout).expect("it is JSON");
        assert_eq!(report["readiness"]["ready"], is_ready);
    }
}
