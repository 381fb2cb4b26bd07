//! The API's description: served, committed, the same.

use std::path::Path;

use lvp_testkit::daemon::answer;
use serde_json::Value;

use crate::support::World;

#[tokio::test]
async fn the_docs_hold_the_served_description() {
    let world = World::new().await;
    let daemon = world.start();
    let served: Value = daemon.get("/openapi.json").await.expect("it is served");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let text = format!("{served:#}\n");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).expect("it is written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        committed, text,
        "docs/openapi.json is out of date: run ./dev docs"
    );
}

#[tokio::test]
async fn every_described_route_exists_with_its_method() {
    let world = World::new().await;
    let daemon = world.start();
    let document: Value = daemon.get("/openapi.json").await.expect("it is served");
    let http = reqwest::Client::new();
    let paths = document["paths"].as_object().expect("there are paths");
    assert!(paths.len() >= 16, "{}", paths.len());
    for (path, item) in paths {
        for method in item.as_object().expect("methods").keys() {
            // An endless stream: its beginning is sufficient.
            if path == lvp_api::routes::ALL_EVENTS {
                let answer = reqwest::get(format!("{}{path}", daemon.url())).await;
                assert_eq!(answer.expect("an answer").status(), 200);
                continue;
            }
            let route = path.replace("{id}", "x").replace("{key}", "x");
            let url = format!("{}{route}", daemon.url());
            let method = method.to_uppercase().parse().expect("a method");
            let sent = http.request(method, url).send().await;
            let sent = sent.expect("answer");
            let kind = sent.headers().get("content-type");
            if kind.is_some_and(|kind| kind == "text/event-stream") {
                // It has no end.
                assert_eq!(sent.status(), 200, "{path}");
                continue;
            }
            let answer = answer(sent).await.expect("it is read");
            assert_ne!(answer.status, 405, "{path}: {answer:?}");
            let nothing = answer.body["message"]
                .as_str()
                .is_some_and(|text| text.contains("nothing at"));
            assert!(!nothing, "{path}: {answer:?}");
        }
    }
}
