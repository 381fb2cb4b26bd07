//! `lvpctl volumes verify`.

use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::fake::{Fake, JOB, completed};

#[tokio::test]
async fn a_volume_is_verified_with_the_priority_of_the_command_line_or_without_one() {
    let mut ended = completed();
    ended["kind"] = json!("verify");
    ended["verification"] = json!({
        "name": "vm-01", "image_digest": "ab".repeat(32), "matches": true,
        "disk_bytes": 1_u64 << 30, "expected_digest": "cd".repeat(32), "found_digest": "cd".repeat(32),
    });
    let events = ended.clone();
    let routes = Router::new()
        .route(
            "/api/v1/verifications",
            post(async || Json(json!({"job_id": JOB}))),
        )
        .route("/api/v1/jobs/{id}", get(async || Json(ended)))
        .route(
            "/api/v1/jobs/{id}/events",
            get(async || crate::fake::events(vec![events])),
        );
    let fake = Fake::start(routes).await;
    for (more, priority) in [
        (&["--priority", "low"][..], json!("low")),
        (&[], Value::Null),
    ] {
        let before = fake.seen().len();
        let arguments = [&["volumes", "verify", "vm-01"], more].concat();
        let outcome = fake.lvpctl(&arguments).run().await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let seen = &fake.seen()[before];
        let body: Value = serde_json::from_slice(&seen.body).expect("it is JSON");
        assert_eq!(body["volume_name"], "vm-01");
        assert_eq!(body["priority"], priority);
    }
    let outcome = fake.lvpctl(&["volumes", "verify", "vm-01", "--priority", "urgent"]);
    assert_eq!(outcome.run().await.code, Some(64));
}
