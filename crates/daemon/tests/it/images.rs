//! Images in object storage, as clients choose from them.

use lvp_api::StoredImages;
use lvp_testkit::daemon::Daemon;
use lvp_testkit::fault::{Fault, Rule};
use lvp_testkit::rclone::Rclone;
use lvp_testkit::require::require;

use crate::support::{MIB, World, completed, image};

async fn listed(daemon: &Daemon, query: &str) -> StoredImages {
    let answer = daemon
        .call("GET", &format!("/api/v1/images?{query}"), None)
        .await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_value(answer.body).expect("a listing")
}

/// Whatever the server: the images of one folder, with what is known of each.
async fn lists(world: &World) {
    let daemon = world.start();
    let found = listed(&daemon, "prefix=s3://images/debian/").await;
    assert_eq!(found.folders, ["s3://images/debian/old/"]);
    let shown =
        |image: &lvp_api::StoredImage| (image.image_url.clone(), image.has_digest, image.is_cached);
    assert_eq!(
        found.images.iter().map(shown).collect::<Vec<_>>(),
        [
            ("s3://images/debian/12.qcow2".to_owned(), true, false),
            ("s3://images/debian/a b%.img".to_owned(), false, false),
        ]
    );
    assert!(found.images[0].size > 0 && found.images[0].last_modified.contains('T'));
    // What was listed can be asked for as it is, and is known afterwards.
    let url = &found.images[0].image_url;
    completed(&daemon, url, "vm-1", 8 * MIB).await;
    let found = listed(&daemon, "prefix=s3://images/debian/1").await;
    assert_eq!(
        found.images.iter().map(shown).collect::<Vec<_>>(),
        [(url.clone(), true, true)]
    );
    let none = listed(&daemon, "prefix=s3://images/none").await;
    assert!(none.images.is_empty() && none.folders.is_empty() && none.next.is_none());
}

fn fill(put: impl Fn(&str, &[u8])) {
    put("debian/12.qcow2", &image(8 * MIB, 20, 3).build());
    put("debian/a b%.img", b"raw");
    put("debian/old/11.qcow2", b"old");
    put("debian/SHA256SUMS", b"of others");
    put("other.qcow2", b"other");
}

#[tokio::test]
async fn a_folder_of_a_bucket_is_listed_with_what_is_known_of_each_image() {
    let world = World::new().await;
    fill(|key, bytes| {
        world
            .s3
            .objects()
            .put("images", key, bytes)
            .expect("written");
    });
    world
        .s3
        .objects()
        .put_sidecar("images", "debian/12.qcow2")
        .expect("written");
    lists(&world).await;
}

#[tokio::test]
async fn a_folder_is_listed_on_a_server_that_is_not_ours() {
    if !require("rclone") {
        return;
    }
    let server = Rclone::start().expect("it starts");
    fill(|key, bytes| server.objects().put("images", key, bytes).expect("written"));
    server
        .objects()
        .put_sidecar("images", "debian/12.qcow2")
        .expect("written");
    let world = World::new().await.with("MINIO_ENDPOINT", server.endpoint());
    lists(&world).await;
}

#[tokio::test]
async fn what_cannot_be_listed_says_why() {
    let (world, proxy) = World::with_faults().await;
    world.put("a.qcow2", b"a");
    let world = world.with("MINIO_RETRY_ATTEMPTS", "0");
    let daemon = world.start();
    let refused = async |query: &str| {
        let answer = daemon
            .call("GET", &format!("/api/v1/images?{query}"), None)
            .await;
        let answer = answer.expect("an answer");
        let message = answer.body["message"]
            .as_str()
            .expect("a message")
            .to_owned();
        (answer.status, message)
    };
    for query in [
        "",
        "prefix=",
        "prefix=images",
        "prefix=s3://",
        "prefix=http://h/b",
        "prefix=s3://a%20b/",
    ] {
        let (status, message) = refused(query).await;
        assert_eq!(status, 400, "{query}: {message}");
        assert!(message.contains("s3://BUCKET/"), "{message}");
    }
    let (status, message) = refused("prefix=s3://none/").await;
    assert_eq!(status, 404, "{message}");
    let denied = Fault::Status {
        status: 403,
        retry_after: None,
        code: Some("AccessDenied".to_owned()),
    };
    proxy.inject(Rule::new(denied).method("GET"));
    let (status, message) = refused("prefix=s3://images/").await;
    assert_eq!(status, 503, "{message}");
    assert!(message.contains("list the bucket"), "{message}");
    proxy.clear();
    // An error that says that it is none, as S3 itself has them.
    let error = Fault::Status {
        status: 200,
        retry_after: None,
        code: Some("InternalError".to_owned()),
    };
    proxy.inject(Rule::new(error).method("GET"));
    let (status, message) = refused("prefix=s3://images/").await;
    assert_eq!(status / 100, 5, "{message}");
    assert!(message.contains("not a listing of a bucket"), "{message}");
}
