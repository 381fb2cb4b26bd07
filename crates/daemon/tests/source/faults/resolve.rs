//! Faults before the first byte of an image: resolving, checksum files, probes.

use super::*;

#[tokio::test]
async fn resolving_and_sidecars_also_have_a_budget() {
    let setup = Setup::new().await;
    setup.server.objects().put_sidecar("img", "k").unwrap();
    let url = setup.source.parse_url(URL).unwrap();
    for fault in [Fault::Reset, status(500), status(429)] {
        setup.proxy.clear();
        setup.proxy.inject(Rule::new(fault.clone()).times(3));
        assert_eq!(setup.source.resolve(&url).await.unwrap().size, SIZE);
        setup.proxy.clear();
        setup.proxy.inject(Rule::new(fault.clone()).times(3));
        assert!(!setup.source.checksums(&url, None).await.unwrap().is_empty());
        setup.proxy.clear();
        setup.proxy.inject(Rule::new(fault));
        let error = setup.source.resolve(&url).await.unwrap_err();
        assert_eq!((error.attempts(), error.is_transient()), (4, true));
        let error = setup.source.checksums(&url, None).await.unwrap_err();
        assert_eq!((error.attempts(), error.is_transient()), (4, true));
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_reported_and_used_again_when_it_returns() {
    let setup = Setup::with(|settings| SourceSettings {
        retry_backoff: vec![Duration::from_millis(50); 100],
        ..settings
    })
    .await;
    setup.proxy.go_down().await;
    let impatient = source(&setup.proxy.endpoint());
    let error = soon(resolve(&impatient, URL)).await.unwrap_err();
    check_error(&error, SourceErrorKind::Unavailable, "minio.endpoint");
    assert_eq!(error.attempts(), 4);
    let error = impatient.probe().await.unwrap_err();
    assert!(error.is_transient());

    let patient = setup.source.clone();
    let reading = tokio::spawn(async move { read_all(&patient, URL).await });
    let retries = || setup.source.counters().retries.load(Ordering::SeqCst);
    eventually("it tries again", || retries() > 1).await;
    setup.proxy.come_up().await.unwrap();
    assert!(soon(reading).await.unwrap().unwrap() == pattern(SIZE));
    impatient.probe().await.unwrap();
}

#[tokio::test]
async fn credentials_that_may_only_get_objects_suffice() {
    let setup = Setup::new().await;
    let answer = |status, code: &str| Fault::Status {
        status,
        retry_after: None,
        code: Some(code.to_owned()),
    };
    for fault in [
        answer(403, "AccessDenied"),
        answer(501, "NotImplemented"),
        answer(405, "MethodNotAllowed"),
    ] {
        setup.proxy.clear();
        setup.proxy.inject(Rule::new(fault));
        setup.source.probe().await.unwrap();
    }
    for (fault, kind, words) in [
        (
            answer(403, "SignatureDoesNotMatch"),
            SourceErrorKind::AccessDenied,
            "minio.secret_key",
        ),
        (
            answer(403, "InvalidAccessKeyId"),
            SourceErrorKind::AccessDenied,
            "minio.access_key",
        ),
        (
            answer(403, "RequestTimeTooSkewed"),
            SourceErrorKind::AccessDenied,
            "clock",
        ),
        (
            answer(400, "AuthorizationHeaderMalformed"),
            SourceErrorKind::AccessDenied,
            "minio.region",
        ),
        (status(403), SourceErrorKind::AccessDenied, "403"),
        (status(500), SourceErrorKind::Unavailable, "500"),
        (Fault::Reset, SourceErrorKind::Unavailable, "was lost"),
    ] {
        setup.proxy.clear();
        setup.proxy.inject(Rule::new(fault));
        let error = setup.source.probe().await.unwrap_err();
        check_error(&error, kind, words);
        assert_eq!(setup.proxy.requests().len(), 1, "a probe is one request");
    }
}

#[tokio::test]
async fn a_sidecar_that_may_not_be_read_is_an_error_and_not_absent() {
    let setup = Setup::new().await;
    let denied = Fault::Status {
        status: 403,
        retry_after: None,
        code: Some("AccessDenied".to_owned()),
    };
    setup.proxy.inject(Rule::new(denied));
    let url = setup.source.parse_url(URL).unwrap();
    let error = setup.source.checksums(&url, None).await.unwrap_err();
    check_error(&error, SourceErrorKind::AccessDenied, "list the bucket");
}
