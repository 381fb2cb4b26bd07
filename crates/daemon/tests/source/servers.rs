//! What our server in the process shows of how it is read, over TLS too, and which settings are refused.

use std::error::Error;

use lvp_testkit::s3::S3;
use lvp_testkit::tls::TestCa;
use provisioner::source::{Source, SourceErrorKind, SourceSettings};

use super::{RANGE_BYTES, check_error, pattern, read_all, settings, source};

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
