//! Object stores that fail, and objects that may not be used.

use std::fs;

use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::signing::Gpg;
use serde_json::json;

use super::{DISK, Told};
use crate::support::{World, image};

fn answer(status: u16, code: &str) -> Fault {
    Fault::Status {
        status,
        retry_after: None,
        code: Some(code.to_owned()),
    }
}

pub(super) async fn failing(told: &mut Told) {
    let (world, proxy) = World::with_faults().await;
    let daemon = world.start();
    let mut seed = 0;
    // Another image each time, so that none is in the cache.
    let mut put = || {
        seed += 1;
        world.put("debian-12.qcow2", &image(DISK, 200, seed).build())
    };
    let ranges = || Rule::new(Fault::Reset).when(|request| request.range_start.is_some());
    let faults = [
        ("access_denied", Rule::new(answer(403, "AccessDenied"))),
        ("source_unavailable", ranges()),
        (
            "object_changed",
            Rule::new(Fault::Header("etag", "\"another\"".to_owned()))
                .method("GET")
                .when(|request| request.range_start.is_some_and(|start| start > 0)),
        ),
        (
            "protocol",
            Rule::new(Fault::Header("content-range", "nonsense".to_owned())).method("GET"),
        ),
        (
            "host_not_allowed",
            Rule::new(Fault::Redirect(
                "http://mirror.example.org/debian-12.qcow2".to_owned(),
            )),
        ),
    ];
    for (word, rule) in faults {
        proxy.clear();
        if word == "object_changed" {
            let first = Fault::Header("etag", "\"first\"".to_owned());
            let cut = Rule::new(first).also(Fault::CutAt(1000));
            proxy.inject(cut.range_from(0));
        }
        proxy.inject(rule);
        told.of(word, &world, &daemon, json!({"image_url": put()}))
            .await;
    }
    proxy.clear();
    let missing = json!({"image_url": "s3://images/debian-13.qcow2"});
    told.of("not_found", &world, &daemon, missing).await;

    let url = put();
    let request = || json!({"image_url": url});
    let sidecar = |text: &str| {
        let objects = world.s3.objects();
        let put = objects.put("images", "debian-12.qcow2.sha256", text.as_bytes());
        put.expect("it is written");
    };
    sidecar(&format!("{}  debian-12.qcow2\n", "0".repeat(64)));
    told.of("digest_mismatch", &world, &daemon, request()).await;
    sidecar("<html>404 Not Found</html>\n");
    told.of("sidecar_invalid", &world, &daemon, request()).await;
}

pub(super) async fn with_policies(told: &mut Told) {
    let world = World::new().await.with("CACHE_REQUIRE_CHECKSUM", "true");
    let daemon = world.start();
    let url = world.put("debian-12.qcow2", &image(DISK, 40, 3).build());
    let request = || json!({"image_url": url});
    fs::remove_file(world.s3.objects().path("images", "debian-12.qcow2.sha256")).expect("removed");
    told.of("checksum_missing", &world, &daemon, request())
        .await;
    drop(daemon);

    let world = World::new().await;
    let (gpg, keys) = (Gpg::new(), world.home.path().join("trusted.asc"));
    let trusted = gpg.key("Images <images@example.com>", "ed25519", "0", None);
    let stranger = gpg.key("Stranger <stranger@example.com>", "ed25519", "0", None);
    fs::write(&keys, gpg.public(&trusted)).expect("there is room");
    let world = world
        .with("TRUST_POLICY", "required")
        .with("TRUST_KEYS", &keys.display().to_string());
    let daemon = world.start();
    let bytes = image(DISK, 40, 3).build();
    let url = world.put("debian-12.qcow2", &bytes);
    let request = || json!({"image_url": url});
    told.of("signature_missing", &world, &daemon, request())
        .await;
    let signature = gpg.sign(&stranger, &["--detach-sign"], &bytes);
    let put = world
        .s3
        .objects()
        .put("images", "debian-12.qcow2.sig", &signature);
    put.expect("it is written");
    told.of("signature_refused", &world, &daemon, request())
        .await;
    fs::remove_file(&keys).expect("it is there");
    told.of("settings", &world, &daemon, request()).await;
}
