//! Checks for every S3 server: ours in the process, and rclone's.

use std::error::Error;

use lvp_testkit::rclone::Rclone;
use lvp_testkit::require::require;
use lvp_testkit::s3::{Objects, S3};
use lvp_testkit::tls::TestCa;
use provisioner::secret::Secret;
use provisioner::source::{RangeOptions, Source, SourceError, SourceErrorKind, SourceSettings};

use super::{
    OPTIONS, RANGE_BYTES, check_error, collect, pattern, read_all, resolve, settings, source,
};

const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

async fn check_bytes_are_exact_and_in_order(endpoint: &str, objects: &Objects) {
    let source = source(endpoint);
    for size in [
        0,
        1,
        RANGE_BYTES - 1,
        RANGE_BYTES,
        RANGE_BYTES + 1,
        7 * RANGE_BYTES + 12345,
    ] {
        let bytes = pattern(size);
        let key = format!("image-{size}.raw");
        objects.put("images", &key, &bytes).unwrap();
        let meta = resolve(&source, &format!("s3://images/{key}"))
            .await
            .unwrap();
        assert_eq!(meta.size, size);
        assert!(meta.etag.is_some());
        let found = collect(source.read_ranges(&meta, 0..size, OPTIONS)).await;
        assert!(found.unwrap() == bytes, "{size} bytes differ");
    }
    let size = 7 * RANGE_BYTES + 12345;
    let url = format!("{endpoint}/images/image-{size}.raw");
    let meta = resolve(&source, &url).await.unwrap();
    for (start, end) in [
        (1, 2),
        (RANGE_BYTES - 1, 3 * RANGE_BYTES + 1),
        (size - 1, size),
        (5, 5),
    ] {
        let mut reader = source.read_ranges(&meta, start..end, OPTIONS);
        let mut found = Vec::new();
        while let Some(chunk) = reader.next().await {
            found.extend_from_slice(&chunk.unwrap());
        }
        assert!(found == pattern(size)[start as usize..end as usize]);
    }
}

async fn check_keys_with_odd_characters(endpoint: &str, objects: &Objects) {
    let source = source(endpoint);
    for (key, written) in [
        ("a b+c.img", "a%20b%2Bc.img"),
        ("dir/é=1.img", "dir/%C3%A9=1.img"),
        ("50%.img", "50%25.img"),
        ("x'(1)!$&,;@~.img", "x'(1)!$&,;@~.img"),
        ("q?.img", "q%3F.img"),
    ] {
        objects.put("images", key, key.as_bytes()).unwrap();
        let found = read_all(&source, &format!("s3://images/{written}")).await;
        assert_eq!(found.unwrap(), key.as_bytes(), "{key}");
    }
}

async fn check_sidecars(endpoint: &str, objects: &Objects) {
    let source = source(endpoint);
    objects.put("images", "with.img", b"x").unwrap();
    objects.put_sidecar("images", "with.img").unwrap();
    objects.put("images", "bad.img.sha256", b"<html>").unwrap();
    let large = vec![b' '; 65 << 10];
    objects.put("images", "large.img.sha256", &large).unwrap();
    let line = format!("{DIGEST} *another.img\n");
    objects
        .put("images", "line.img.sha256", line.as_bytes())
        .unwrap();
    let read = async |key: &str| {
        let url = source.parse_url(&format!("s3://images/{key}")).unwrap();
        let checksums = source.checksums(&url, None).await?;
        Ok::<_, SourceError>(checksums.sha256.map(|announced| announced.digest))
    };
    assert_eq!(
        read("with.img").await.unwrap().unwrap().to_string(),
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    );
    assert_eq!(read("line.img").await.unwrap().unwrap().to_string(), DIGEST);
    assert_eq!(read("without.img").await.unwrap(), None);
    let error = read("bad.img").await.unwrap_err();
    check_error(&error, SourceErrorKind::SidecarInvalid, "\"<html>\"");
    let error = read("large.img").await.unwrap_err();
    check_error(&error, SourceErrorKind::SidecarInvalid, "64 KiB");
}

async fn check_what_is_missing(endpoint: &str, objects: &Objects) {
    let source = source(endpoint);
    objects.put("images", "there.img", b"x").unwrap();
    for url in ["s3://images/missing.img", "s3://no-such-bucket/missing.img"] {
        let error = resolve(&source, url).await.unwrap_err();
        check_error(&error, SourceErrorKind::NotFound, "404");
        assert_eq!((error.status(), error.attempts()), (Some(404), 1));
    }
    let error = resolve(&source, "s3://no-such-bucket/k").await.unwrap_err();
    check_error(&error, SourceErrorKind::NotFound, "NoSuchBucket");
}

async fn check_wrong_credentials(endpoint: &str, objects: &Objects) {
    objects.put("images", "there.img", b"x").unwrap();
    let wrong_secret = SourceSettings {
        secret_key: Some(Secret::new("wrong")),
        ..settings(endpoint)
    };
    let wrong_key = SourceSettings {
        access_key: Some("nobody".to_owned()),
        ..settings(endpoint)
    };
    let nobody = SourceSettings {
        access_key: None,
        secret_key: None,
        ..settings(endpoint)
    };
    for settings in [wrong_secret, wrong_key, nobody] {
        let source = Source::new(&settings).unwrap();
        let error = resolve(&source, "s3://images/there.img").await.unwrap_err();
        check_error(
            &error,
            SourceErrorKind::AccessDenied,
            "The server answered 40",
        );
        assert_eq!(error.attempts(), 1);
        let url = source.parse_url("s3://images/there.img").unwrap();
        let error = source.checksums(&url, None).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::AccessDenied);
        if settings.access_key.is_some() {
            let error = source.probe().await.unwrap_err();
            check_error(&error, SourceErrorKind::AccessDenied, "minio.secret_key");
        }
    }
    source(endpoint).probe().await.unwrap();
}

async fn check_an_object_replaced_in_the_middle(endpoint: &str, objects: &Objects) {
    let source = source(endpoint);
    let size = 8 * RANGE_BYTES;
    objects.put("images", "a.img", &pattern(size)).unwrap();
    let meta = resolve(&source, "s3://images/a.img").await.unwrap();
    let options = RangeOptions {
        in_flight: 1,
        ..OPTIONS
    };
    let mut reader = source.read_ranges(&meta, 0..size, options);
    let first = reader.next().await.unwrap().unwrap();
    assert!(pattern(size).starts_with(&first));
    objects
        .put("images", "a.img", &vec![7; size as usize])
        .unwrap();
    let error = loop {
        match reader.next().await.expect("it cannot end well") {
            Ok(chunk) => assert!(chunk.iter().any(|byte| *byte != 7), "versions are mixed"),
            Err(error) => break error,
        }
    };
    check_error(&error, SourceErrorKind::ObjectChanged, "replaced");
    assert!(reader.next().await.is_none());
}

/// Makes each check one test per server.
macro_rules! with_each_server {
    ($($name:ident => $check:ident,)*) => {
        mod in_process {
            use super::*;
            $(
                #[tokio::test]
                async fn $name() {
                    let server = S3::start().await.unwrap();
                    $check(server.endpoint(), server.objects()).await;
                }
            )*
        }

        mod rclone {
            use super::*;
            $(
                #[tokio::test]
                async fn $name() {
                    if require("rclone") {
                        let server = Rclone::start().unwrap();
                        $check(server.endpoint(), server.objects()).await;
                    }
                }
            )*
        }
    };
}

with_each_server! {
    bytes_are_exact_and_in_order_for_odd_sizes => check_bytes_are_exact_and_in_order,
    keys_with_odd_characters_are_signed_right => check_keys_with_odd_characters,
    sidecars_are_read_bounded_and_their_absence_is_told => check_sidecars,
    missing_objects_and_buckets_are_told_at_the_first_attempt => check_what_is_missing,
    wrong_credentials_are_told_and_not_tried_again => check_wrong_credentials,
    an_object_replaced_in_the_middle_is_never_mixed => check_an_object_replaced_in_the_middle,
}

#[tokio::test]
async fn one_read_asks_once_per_range_and_moves_each_byte_once() {
    let server = S3::start().await.unwrap();
    let size = 5 * RANGE_BYTES;
    server.objects().put("img", "k", &pattern(size)).unwrap();
    let source = source(server.endpoint());
    read_all(&source, "s3://img/k").await.unwrap();
    let traffic = server.traffic().object("img/k");
    assert_eq!(
        (traffic.heads, traffic.gets, traffic.sent_bytes),
        (1, 5, size)
    );
}

#[tokio::test]
async fn a_configured_ca_is_trusted_and_an_unknown_one_is_not() {
    let ca = TestCa::new().unwrap();
    let server = S3::start_with_tls(&ca).await.unwrap();
    server.objects().put("img", "k", &pattern(100_000)).unwrap();
    let trusting = Source::new(&SourceSettings {
        ca_cert: Some(ca.certificate().to_owned()),
        ..settings(server.endpoint())
    });
    // The scheme of the URL does not matter: requests go to the endpoint as it is configured.
    let url = format!("{}/img/k", server.endpoint().replace("https", "http"));
    let found = read_all(&trusting.unwrap(), &url).await.unwrap();
    assert!(found == pattern(100_000));

    let error = read_all(&source(server.endpoint()), "s3://img/k")
        .await
        .unwrap_err();
    check_error(&error, SourceErrorKind::Unavailable, "minio.ca_cert");
    assert_eq!(error.attempts(), 1, "a certificate does not get better");
    assert!(error.source().is_some());
}

#[tokio::test]
async fn ca_files_and_half_credentials_are_refused_at_once() {
    let server = S3::start().await.unwrap();
    let not_pem = server.objects().path("img", "k");
    server.objects().put("img", "k", b"no certificate").unwrap();
    for ca_cert in ["/no/such/file".into(), not_pem] {
        let error = Source::new(&SourceSettings {
            ca_cert: Some(ca_cert),
            ..settings(server.endpoint())
        })
        .unwrap_err();
        check_error(&error, SourceErrorKind::Settings, "minio.ca_cert");
    }
    let error = Source::new(&SourceSettings {
        secret_key: None,
        ..settings(server.endpoint())
    })
    .unwrap_err();
    check_error(&error, SourceErrorKind::Settings, "go together");
}

#[tokio::test]
async fn debug_output_shows_no_secret() {
    let settings = settings("http://127.0.0.1:9");
    let source = Source::new(&settings).unwrap();
    let shown = format!("{settings:?} {source:?}");
    assert!(!shown.contains(lvp_testkit::s3::SECRET_KEY), "{shown}");
}
