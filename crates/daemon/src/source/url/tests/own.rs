//! URLs of the own endpoint: versions, signatures of others, buckets with hosts, and what was stored.

use super::*;

#[test]
fn urls_of_the_endpoint_may_name_a_version() {
    let request = "https://minio.example.com/b/k%3F?versionId=3.a%2F_-";
    for text in [
        "s3://b/k??versionId=3.a/_-",
        "https://minio.example.com/b/k%3F?versionId=3.a/_-",
        "https://minio.example.com/b/k%3F?versionId=3.a%2F_-",
    ] {
        check_accepted(text, "s3://b/k??versionId=3.a/_-", request);
        let url = policy(ENDPOINT).parse(text).expect("it is accepted");
        assert!(!url.has_siblings() && url.is_signed_by_us());
        assert_eq!(url.base_name(), "k?");
        assert_eq!(url.trust_name(), "b/k?");
    }
    for (query, words) in [
        ("versionId=", "not a version's name"),
        ("versionId=a%20b", "not a version's name"),
        ("versionId=1&versionId=2", "\"versionId\""),
        ("versionid=1", "\"versionid\""),
        ("acl", "\"acl\""),
        ("partNumber=1", "\"partNumber\""),
        (
            "versionId=1&response-content-type=a",
            "response-content-type",
        ),
    ] {
        check_bad(&format!("https://minio.example.com/b/k?{query}"), words);
    }
    check_bad("s3://b/k?versionId=", "not a version's name");
    check_bad("s3://b/k?versionId=1?versionId=2", "not a version's name");
}

#[test]
fn a_pre_signed_url_of_the_endpoint_is_sent_as_it_is_and_is_the_same_object() {
    let query = "X-Amz-Credential=k%2Fd&versionId=7&X-Amz-Signature=c0ffee&x-id=GetObject";
    let text = format!("http://MINIO.example.com:443/b/a+b%20c?{query}");
    let sent = format!("https://minio.example.com/b/a+b%20c?{query}");
    check_accepted(&text, "s3://b/a+b c?versionId=7", &sent);
    let url = policy(ENDPOINT).parse(&text).expect("it is accepted");
    assert!(!url.is_signed_by_us() && !url.has_siblings());
    // A bucket's rules of trust hold for it too.
    assert_eq!(url.trust_name(), "b/a+b c");
    let plain = policy(ENDPOINT).parse("s3://b/a+b c?versionId=7");
    assert_eq!(url.identity(), plain.expect("it is accepted").identity());
    check_bad(
        &format!("https://minio.example.com/b/k?{query}&acl"),
        "\"acl\"",
    );
    check_bad("s3://b/k?X-Amz-Signature=c0ffee", "only http(s) URLs");
}

#[test]
fn buckets_with_hosts_of_their_own_are_known_by_them() {
    let hosts = ["other.s3.example.com".to_owned()];
    let policy = |addressing| {
        UrlPolicy::new(Some("https://s3.example.com"), addressing, &hosts).expect("it can be used")
    };
    let shown = |addressing, text: &str| {
        let url = policy(addressing).parse(text).ok()?;
        Some(format!("{url} {}", url.request_url()))
    };
    let (path, own) = (
        "https://s3.example.com/img/d/k",
        "https://img.s3.example.com/d/k",
    );
    let both = |request: &str| Some(format!("s3://img/d/k {request}"));
    for text in [
        "s3://img/d/k",
        path,
        own,
        "http://IMG.s3.example.com:443/d/k",
    ] {
        assert_eq!(shown(Addressing::Virtual, text), both(own), "{text}");
        assert_eq!(shown(Addressing::Auto, text), both(own), "{text}");
    }
    assert_eq!(shown(Addressing::Path, path), both(path));
    // Another host then, which is not allowed, or is read without credentials.
    assert_eq!(shown(Addressing::Path, own), None);
    let other = "https://other.s3.example.com/k";
    assert_eq!(
        shown(Addressing::Path, other),
        Some(format!("{other} {other}"))
    );
    assert_eq!(
        shown(Addressing::Virtual, "https://img.s3.example.com:8443/k"),
        None
    );
    assert_eq!(
        shown(
            Addressing::Virtual,
            "https://img.s3.example.com.evil.example/k"
        ),
        None
    );
    assert_eq!(
        shown(Addressing::Virtual, "https://a_b.s3.example.com/k"),
        None
    );
    // A signature holds for the host that it was made for.
    let signed = format!("{path}?X-Amz-Signature=1");
    assert_eq!(shown(Addressing::Virtual, &signed), both(&signed));
    let signed = format!("{own}?X-Amz-Signature=1");
    assert_eq!(shown(Addressing::Virtual, &signed), both(&signed));
}

#[test]
fn encoded_s3_urls_of_former_releases_are_rewritten_to_the_same_key() {
    for (text, expected) in [
        ("s3://b/a%20b%2Bc", Some("s3://b/a b+c")),
        ("S3://b/%2525", Some("S3://b/%25")),
        ("s3://b/a+b", None),
        ("s3://b/100%", None),
        ("https://h/a%20b", None),
    ] {
        assert_eq!(literal(text).as_deref(), expected, "{text}");
    }
}

#[test]
fn keys_that_no_image_can_have_are_not_named_after_a_listing() {
    let policy = policy(ENDPOINT);
    for key in ["a\nb", "a\u{85}b", "a\\b", "a/../b", "a/", ""] {
        assert!(policy.object("b", key).is_err(), "{key:?}");
    }
    let odd = policy.object("b", "a %+?#").expect("it can be named");
    assert_eq!(odd.to_string(), "s3://b/a %+?#");
}
