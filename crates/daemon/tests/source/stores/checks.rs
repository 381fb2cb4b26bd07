//! What is asked of each server.

use super::*;

const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

pub(super) async fn check_bytes_are_exact_and_in_order(store: &Store) {
    let source = open(store);
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
        store.put("images", &key, &bytes).await.unwrap();
        let meta = resolve(&source, &format!("s3://images/{key}"))
            .await
            .unwrap();
        assert_eq!(meta.size, size);
        assert!(meta.etag.is_some());
        let found = collect(source.read_ranges(&meta, 0..size, OPTIONS)).await;
        assert!(found.unwrap() == bytes, "{size} bytes differ");
    }
    let size = 7 * RANGE_BYTES + 12345;
    let url = format!("{}/images/image-{size}.raw", store.endpoint());
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

/// Keys as they are, and as an `http(s)://` URL has them. An `s3://` URL has them as they are.
const ODD_KEYS: &[(&str, &str)] = &[
    ("a b+c.img", "a%20b+c.img"),
    ("a+b%2Bc.img", "a%2Bb%252Bc.img"),
    ("dir/é=1.img", "dir/%C3%A9=1.img"),
    ("50%.img", "50%25.img"),
    ("x'(1)!$&,;@~.img", "x'(1)!$&,;@~.img"),
    ("q?a=1&b.img", "q%3Fa=1&b.img"),
    ("#1.img", "%231.img"),
    ("a:b*c|d.img", "a:b*c%7Cd.img"),
    (
        "\u{1f4bd} [1]{2}^`\"<>.img",
        "%F0%9F%92%BD%20[1]%7B2%7D%5E%60%22%3C%3E.img",
    ),
];

/// An object that was uploaded in parts has another kind of tag, and is read across the parts' borders.
pub(super) async fn check_parts(store: &Store, facts: &Facts) {
    if facts.make == Make::S3s {
        // It takes no uploads, and its objects are files.
        return;
    }
    // The smallest part that S3 permits, but for the last.
    let part_bytes = 5 << 20;
    let bytes = pattern(2 * part_bytes + 12_345);
    let part_bytes = usize::try_from(part_bytes).unwrap();
    let put = store.put_in_parts("images", "parts.img", &bytes, part_bytes);
    put.await.unwrap();
    let source = open(store);
    assert!(read_all(&source, "s3://images/parts.img").await.unwrap() == bytes);
    let meta = resolve(&source, "s3://images/parts.img").await.unwrap();
    assert!(meta.strong_validator().is_some(), "{meta:?}");
    let measured = source.read_ranges(&meta, 0..meta.size, source.range_options());
    assert!(collect(measured).await.unwrap() == bytes);
}

pub(super) async fn check_keys_with_odd_characters(store: &Store) {
    let source = open(store);
    for (key, written) in ODD_KEYS {
        store.put("images", key, key.as_bytes()).await.unwrap();
        let web = format!("{}/images/{written}", store.endpoint());
        for url in [format!("s3://images/{key}"), web] {
            let found = read_all(&source, &url).await;
            assert_eq!(found.unwrap(), key.as_bytes(), "{url}");
        }
    }
    let mut listed = source.list("images", "", None).await.unwrap().objects;
    listed.retain(|object| ODD_KEYS.iter().any(|(key, _)| *key == object.key));
    // All but the one that is in a folder; and each is found by the URL that it is listed with.
    assert_eq!(listed.len(), ODD_KEYS.len() - 1, "{listed:?}");
    for object in listed {
        let url = object.url.unwrap().to_string();
        let found = read_all(&source, &url).await;
        assert_eq!(found.unwrap(), object.key.as_bytes(), "{url}");
    }
}

pub(super) async fn check_sidecars(store: &Store) {
    let source = open(store);
    store.put("images", "with.img", b"x").await.unwrap();
    let line = format!("{}  with.img\n", sha256(b"x"));
    store
        .put("images", "with.img.sha256", line.as_bytes())
        .await
        .unwrap();
    store
        .put("images", "bad.img.sha256", b"<html>")
        .await
        .unwrap();
    let large = vec![b' '; 65 << 10];
    store
        .put("images", "large.img.sha256", &large)
        .await
        .unwrap();
    let line = format!("{DIGEST} *another.img\n");
    store
        .put("images", "line.img.sha256", line.as_bytes())
        .await
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

pub(super) async fn check_what_is_missing(store: &Store, facts: &Facts) {
    let source = open(store);
    store.put("images", "there.img", b"x").await.unwrap();
    for (url, told) in [
        ("s3://images/missing.img", facts.missing_object),
        ("s3://no-such-bucket/missing.img", facts.missing_bucket),
    ] {
        let error = resolve(&source, url).await.unwrap_err();
        check_error(&error, SourceErrorKind::NotFound, "404");
        assert_eq!((error.status(), error.attempts()), (Some(404), 1));
        assert_eq!(answered(&error), told, "{url}");
    }
    let error = resolve(&source, "s3://no-such-bucket/k").await.unwrap_err();
    check_error(
        &error,
        SourceErrorKind::NotFound,
        "the bucket does not exist",
    );
    let error = source.list("no-such-bucket", "", None).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::NotFound, "{error}");
}

pub(super) async fn check_wrong_credentials(store: &Store, facts: &Facts) {
    store.put("images", "there.img", b"x").await.unwrap();
    let wrong_secret = SourceSettings {
        secret_key: Some(Secret::new("wrong")),
        ..of(store)
    };
    let wrong_key = SourceSettings {
        access_key: Some("nobody".to_owned()),
        ..of(store)
    };
    let nobody = SourceSettings {
        access_key: None,
        secret_key: None,
        ..of(store)
    };
    for (settings, told) in [
        (wrong_secret, facts.wrong_secret),
        (wrong_key, facts.wrong_key),
        (nobody, facts.nobody),
    ] {
        let source = Source::new(&settings).unwrap();
        let error = resolve(&source, "s3://images/there.img").await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::AccessDenied, "{error}");
        assert_eq!(answered(&error), told);
        assert_eq!(error.attempts(), 1);
        // moto that checks signatures crashes on a request that has none.
        if settings.access_key.is_some() || facts.make != Make::Moto {
            let url = source.parse_url("s3://images/there.img").unwrap();
            let error = source.checksums(&url, None).await.unwrap_err();
            assert_eq!(error.kind(), SourceErrorKind::AccessDenied);
        }
        if settings.access_key.is_some() {
            let error = source.probe().await.unwrap_err();
            check_error(&error, SourceErrorKind::AccessDenied, "minio.secret_key");
        }
    }
    open(store).probe().await.unwrap();
}

pub(super) async fn check_an_object_replaced_in_the_middle(store: &Store) {
    let source = open(store);
    let size = 8 * RANGE_BYTES;
    store.put("images", "a.img", &pattern(size)).await.unwrap();
    let meta = resolve(&source, "s3://images/a.img").await.unwrap();
    let options = RangeOptions {
        in_flight: 1,
        ..OPTIONS
    };
    let mut reader = source.read_ranges(&meta, 0..size, options);
    let first = reader.next().await.unwrap().unwrap();
    assert!(pattern(size).starts_with(&first));
    store
        .put("images", "a.img", &vec![7; size as usize])
        .await
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

pub(super) async fn check_session_tokens(store: &Store, facts: &Facts) {
    assert_eq!(store.lent().is_some(), facts.tokens);
    let Some(lent) = store.lent() else {
        return;
    };
    store.put("images", "lent.img", b"lent").await.unwrap();
    let source = Source::new(&with(store, lent)).unwrap();
    let found = read_all(&source, "s3://images/lent.img").await.unwrap();
    assert_eq!(found, b"lent");
    source.probe().await.unwrap();
    let wrong = Credentials {
        session_token: Some("of somebody else".to_owned()),
        ..lent.clone()
    };
    let source = Source::new(&with(store, &wrong)).unwrap();
    let error = resolve(&source, "s3://images/lent.img").await.unwrap_err();
    check_error(
        &error,
        SourceErrorKind::AccessDenied,
        "renew the credentials",
    );
    let without = Credentials {
        session_token: None,
        ..lent.clone()
    };
    let source = Source::new(&with(store, &without)).unwrap();
    let error = resolve(&source, "s3://images/lent.img").await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::AccessDenied, "{error}");
}

/// The daemon puts an image on a volume, and knows it the second time.
pub(super) async fn check_a_volume_is_provisioned(store: &Store) {
    let disk_bytes = 4_u64 << 20;
    let mut builder = ImageBuilder::new(disk_bytes);
    let mut disk = vec![0; disk_bytes as usize];
    for (at, stored) in [(0, Stored::Plain), (1 << 20, Stored::Compressed)] {
        let bytes = pattern(1 << 16);
        builder.write(at, &bytes, stored);
        disk[at as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    let image = builder.build();
    let (key, line) = ("vm/a+b.qcow2", format!("{}  a+b.qcow2\n", sha256(&image)));
    store.put("images", key, &image).await.unwrap();
    let sidecar = format!("{key}.sha256");
    store
        .put("images", &sidecar, line.as_bytes())
        .await
        .unwrap();
    // Of those who are lent their credentials, where there are any.
    let credentials = store.lent().unwrap_or(store.credentials());
    let token = credentials.session_token.clone().unwrap_or_default();
    let home = Home::new(BINARY, store.endpoint())
        .unwrap()
        .with("MINIO_ACCESS_KEY", &credentials.access_key)
        .with("MINIO_SECRET_KEY", &credentials.secret_key)
        .with("MINIO_SESSION_TOKEN", token);
    let daemon = home.start().unwrap();
    for (volume, hit) in [("vm-1", false), ("vm-2", true)] {
        let url = format!("s3://images/{key}");
        let job = daemon.provision(&url, volume, disk_bytes).await.unwrap();
        let status = daemon.ended(&job).await.unwrap();
        assert_eq!(status.status, JobState::Completed, "{status:?}");
        assert_eq!(status.cache_hit, Some(hit), "{status:?}");
        let found = std::fs::read(home.volume(volume)).unwrap();
        assert!(found == disk, "{volume} differs");
    }
}

pub(super) async fn check_virtual_hosts(store: &Store, facts: &Facts) {
    let Some(endpoint) = store.named_endpoint() else {
        assert!(!facts.virtual_hosts);
        return;
    };
    assert!(facts.virtual_hosts);
    let key = "dir/a b+c.img";
    store.put("images", key, key.as_bytes()).await.unwrap();
    for addressing in [Addressing::Virtual, Addressing::Auto, Addressing::Path] {
        let source = Source::new(&SourceSettings {
            addressing,
            endpoint: Some(endpoint.clone()),
            ..of(store)
        })
        .unwrap();
        let found = read_all(&source, &format!("s3://images/{key}")).await;
        assert_eq!(found.unwrap(), key.as_bytes(), "{addressing:?}");
        let listed = source.list("images", "dir/a b", None).await.unwrap();
        assert_eq!(listed.objects.len(), 1, "{addressing:?}");
        let error = resolve(&source, "s3://no-such-bucket/k").await.unwrap_err();
        check_error(&error, SourceErrorKind::NotFound, "NoSuchBucket");
        let by_host = endpoint.replace("http://", "http://images.");
        let by_host = resolve(&source, &format!("{by_host}/dir/a%20b+c.img")).await;
        match addressing {
            Addressing::Path => {
                let error = by_host.unwrap_err();
                assert_eq!(error.kind(), SourceErrorKind::HostNotAllowed, "{error}");
            }
            _ => assert_eq!(by_host.unwrap().size, key.len() as u64),
        }
    }
    // A signature for another host is refused: it is the host of the bucket that is signed.
    let wrong = Source::new(&SourceSettings {
        addressing: Addressing::Virtual,
        endpoint: Some(endpoint),
        secret_key: Some(Secret::new("wrong")),
        ..of(store)
    });
    let error = resolve(&wrong.unwrap(), &format!("s3://images/{key}")).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::AccessDenied, "{error}");
}

pub(super) async fn check_versions(store: &Store, facts: &Facts) {
    let source = open(store);
    let has_versions = store.keep_versions("versions").await.unwrap();
    assert_eq!(has_versions, facts.versions);
    let first = store.put("versions", "a.img", b"first").await.unwrap();
    store.put("versions", "a.img", b"second").await.unwrap();
    let url = |version: &str| format!("s3://versions/a.img?versionId={version}");
    if !has_versions {
        // It would be the newest one.
        let error = resolve(&source, &url("1")).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::NotFound, "{error}");
        return;
    }
    let first = first.unwrap();
    let web = url(&first).replace("s3://", &format!("{}/", store.endpoint()));
    for url in [url(&first), web] {
        assert_eq!(read_all(&source, &url).await.unwrap(), b"first", "{url}");
    }
    let newest = read_all(&source, "s3://versions/a.img").await.unwrap();
    assert_eq!(newest, b"second");
    let error = resolve(&source, &url("none-of-these")).await.unwrap_err();
    assert!(!error.is_transient(), "{error}");
}

pub(super) async fn check_pre_signed_urls(store: &Store, facts: &Facts) {
    if !facts.presigned {
        return;
    }
    store.put("images", "signed.img", b"signed").await.unwrap();
    let url = store.presigned("images", "signed.img").await.unwrap();
    // Nothing of the daemon's own.
    let source = Source::new(&SourceSettings {
        access_key: None,
        secret_key: None,
        session_token: None,
        ..of(store)
    })
    .unwrap();
    let found = read_all(&source, url.as_str()).await.unwrap();
    assert_eq!(found, b"signed");
    let plain = resolve(&open(store), "s3://images/signed.img")
        .await
        .unwrap();
    let signed = resolve(&source, url.as_str()).await.unwrap();
    assert_eq!(signed.identity(), plain.identity());
    assert_eq!(signed.etag, plain.etag);
    let mut forged = url.to_string();
    let last = forged.pop();
    forged.push(if last == Some('0') { '1' } else { '0' });
    let error = read_all(&source, &forged).await.unwrap_err();
    check_error(&error, SourceErrorKind::AccessDenied, "sign the URL again");
    assert!(!format!("{error:?}").contains("X-Amz-Signature"), "{error}");
}
