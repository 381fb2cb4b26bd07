mod own;

use super::*;

const ENDPOINT: &str = "https://minio.example.com";

fn policy(endpoint: &str) -> UrlPolicy {
    let allowed = ["mirror.example.org", "files.example.org:8443"].map(str::to_owned);
    UrlPolicy::new(Some(endpoint), Addressing::Path, &allowed).expect("the settings are good")
}

fn check_accepted(text: &str, display: &str, request: &str) {
    check_accepted_on(ENDPOINT, text, display, request);
}

fn check_accepted_on(endpoint: &str, text: &str, display: &str, request: &str) {
    let policy = policy(endpoint);
    let url = policy
        .parse(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(url.to_string(), display, "{text}");
    let sent = url.request_url();
    assert_eq!(sent.as_str(), request, "{text}");
}

fn check_refused(text: &str, kind: SourceErrorKind, words: &str) {
    let error = policy(ENDPOINT).parse(text).expect_err(text);
    assert_eq!(error.kind(), kind, "{text}: {error}");
    assert!(error.to_string().contains(words), "{text}: {error}");
    assert!(!error.is_transient(), "{text}");
}

fn check_bad(text: &str, words: &str) {
    check_refused(text, SourceErrorKind::BadUrl, words);
}

#[test]
fn objects_are_named_by_s3_urls_and_by_endpoint_urls() {
    let display = "s3://images/debian/12.qcow2";
    let request = "https://minio.example.com/images/debian/12.qcow2";
    for text in [
        "s3://images/debian/12.qcow2",
        "S3://images/debian/12.qcow2",
        "https://minio.example.com/images/debian/12.qcow2",
        "https://MinIO.Example.COM:443/images/debian/12.qcow2",
    ] {
        check_accepted(text, display, request);
    }
}

#[test]
fn the_scheme_of_an_endpoint_url_neither_decides_nor_downgrades() {
    let display = "s3://b/k";
    let request = "https://minio.example.com/b/k";
    check_accepted("http://minio.example.com/b/k", display, request);
    check_accepted("http://minio.example.com:443/b/k", display, request);
    let endpoint = "http://10.0.0.1:9000";
    for text in ["http://10.0.0.1:9000/b/k", "https://10.0.0.1:9000/b/k"] {
        check_accepted_on(endpoint, text, display, "http://10.0.0.1:9000/b/k");
    }
    let endpoint = "http://[fd00::1]:9000/";
    let text = "http://[FD00:0::1]:9000/b/k";
    check_accepted_on(endpoint, text, display, "http://[fd00::1]:9000/b/k");
}

#[test]
fn an_endpoint_without_a_scheme_is_https() {
    let request = "https://minio.local:9000/b/k";
    check_accepted_on("minio.local:9000", "s3://b/k", "s3://b/k", request);
}

#[test]
fn keys_stand_as_they_are_in_s3_urls_and_are_decoded_once_in_others() {
    let check = |key: &str, written: &str, encoded: &str| {
        for text in [
            format!("s3://b/{key}"),
            format!("https://minio.example.com/b/{written}"),
        ] {
            let request = format!("https://minio.example.com/b/{encoded}");
            check_accepted(&text, &format!("s3://b/{key}"), &request);
        }
    };
    check("a b", "a%20b", "a%20b");
    check("a b", "a b", "a%20b");
    check("a%20b", "a%2520b", "a%2520b");
    check("a+b", "a+b", "a%2Bb");
    check("a+b", "a%2Bb", "a%2Bb");
    check("a%2Bb", "a%252Bb", "a%252Bb");
    check("a%2Fb", "a%252Fb", "a%252Fb");
    check("a/b", "a%2Fb", "a/b");
    check("é", "%C3%A9", "%C3%A9");
    check("é", "é", "%C3%A9");
    check("a?b#c", "a%3Fb%23c", "a%3Fb%23c");
    check("100%", "100%25", "100%25");
    check("%zz", "%25zz", "%25zz");
    check("..%2Fk", "..%252Fk", "..%252Fk");
    check(
        "a'(b)!*;:@&=$,[c]",
        "a'(b)!*;:@&=$,[c]",
        "a%27%28b%29%21%2A%3B%3A%40%26%3D%24%2C%5Bc%5D",
    );
    check("-._~", "-._~", "-._~");
    check("a//b", "a//b", "a//b");
    check("..a/b..", "..a/b..", "..a/b..");
    // What no s3:// URL can have is named by the other kind, also where it is shown.
    for key in ["a%20", "a%3FversionId=1", "a%3FX-Amz-Signature=1"] {
        let url = format!("https://minio.example.com/b/{key}");
        let request = url.replace('=', "%3D");
        check_accepted(&url, &request, &request);
    }
}

#[test]
fn other_hosts_need_to_be_allowed_by_name() {
    let url = "https://mirror.example.org/d/12.qcow2";
    check_accepted(url, url, url);
    let url = "http://mirror.example.org/d/12.qcow2";
    check_accepted(url, url, url);
    let url = "https://files.example.org:8443/12.qcow2";
    check_accepted(url, url, url);
    for host in [
        "other.example.org",
        "mirror.example.org:8080",
        "files.example.org",
        "files.example.org:443",
        "xmirror.example.org",
        "mirror.example.org.evil.example",
        "minio.example.com:9000",
        "minio.example.com.",
        "minio.example.com.evil.example",
        "127.0.0.1",
        "169.254.169.254",
        "[::1]",
    ] {
        let url = format!("http://{host}/b/k");
        check_refused(&url, SourceErrorKind::HostNotAllowed, "minio.allowed_hosts");
    }
}

#[test]
fn an_allowed_default_port_is_that_port_alone() {
    let allowed = |entry: &str| {
        UrlPolicy::new(None, Addressing::Path, &[entry.to_owned()]).expect("it is a host")
    };
    let policy = allowed("h.example:80");
    assert!(policy.parse("http://h.example/k").is_ok());
    assert!(policy.parse("https://h.example:80/k").is_ok());
    assert!(policy.parse("https://h.example/k").is_err());
    let policy = allowed("H.Example:443");
    assert!(policy.parse("https://h.example/k").is_ok());
    assert!(policy.parse("http://h.example/k").is_err());
}

#[test]
fn the_query_of_an_allowed_host_is_sent_and_never_shown() {
    let url = "https://mirror.example.org/a.img?X-Amz-Signature=c0ffee";
    check_accepted(url, "https://mirror.example.org/a.img", url);
    let parsed = policy(ENDPOINT).parse(url).expect("the host is allowed");
    assert!(!format!("{parsed:?}").contains("c0ffee"));
    assert!(parsed.sibling(Sibling::Suffix(".sha256")).is_none());

    for bad in [
        "https://other.example.org/a.img?X-Amz-Signature=c0ffee",
        "s3://b/k?X-Amz-Signature=c0ffee",
        "https://minio.example.com/b/k?acl=c0ffee",
        "ftp://user:c0ffee@host/?token=c0ffee",
        "https://user:c0ffee@mirror.example.org/a.img",
        "c0ffee@host",
    ] {
        let error = policy(ENDPOINT).parse(bad).expect_err(bad);
        assert!(!format!("{error} {error:?}").contains("c0ffee"), "{error}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    check_bad("https://minio.example.com/b/../c/k", "'..'");
    check_bad("https://minio.example.com/b/%2e%2E/c", "'..'");
    check_bad("https://minio.example.com/b/x/%2E./c", "'..'");
    check_bad("https://mirror.example.org/../k", "'..'");
    check_bad("https://mirror.example.org/a%2F..%2Fk", "'..'");
    check_bad("s3://b/..", "'..'");
    check_bad("s3://b/./k", "'..'");
    check_bad("s3://../k", "bucket");
    check_bad("s3://b%2Fc/k", "bucket");
    check_bad("s3://b%20c/k", "bucket");
    check_bad("https://minio.example.com/b%2Fc/k", "bucket");
    check_bad("s3://b/a\\b", "backslash");
    check_bad("s3://b/a\nb", "control");
    for (path, words) in [
        ("a%5Cb", "backslash"),
        ("a%0ab", "control"),
        ("a%00", "control"),
        ("%ff", "UTF-8"),
        ("100%", "%25"),
        ("%zz", "%25"),
        ("%+1", "%25"),
    ] {
        check_bad(&format!("https://minio.example.com/b/{path}"), words);
    }
    check_bad(" s3://b/k", "white space");
    check_bad("s3://b/k\u{a0}", "white space");
}

#[test]
fn what_names_no_object_is_refused() {
    check_bad("", "no scheme");
    check_bad("/var/lib/images/a.img", "no scheme");
    check_bad("images/a.img", "no scheme");
    check_bad("s3:b/k", "no scheme");
    check_bad("s3://", "no bucket");
    check_bad("s3:///k", "no bucket");
    check_bad("s3://b", "no object");
    check_bad("s3://b/", "no object");
    check_bad("s3://b/k/", "folder");
    check_bad("s3://b u/k", "bucket");
    check_bad("https://minio.example.com", "no bucket");
    check_bad("https://minio.example.com/b", "no object");
    check_bad("https://mirror.example.org", "not name a file");
    check_bad("https://mirror.example.org/d/", "not name a file");
    check_bad("https://minio.example.com//b/k", "no bucket");
    check_bad(&format!("s3://b/{}", "k".repeat(1025)), "1024");
    check_bad(&format!("s3://b/{}", "k".repeat(5000)), "4096");
}

#[test]
fn other_schemes_and_parts_are_refused() {
    for scheme in ["file", "ftp", "gs", "data", "s3a", "HTTPx"] {
        check_bad(
            &format!("{scheme}://minio.example.com/b/k"),
            "only s3, http",
        );
    }
    check_bad("file:///etc/shadow", "only s3, http");
    check_bad("s3://key:secret@b/k", "credentials");
    check_bad("https://user@minio.example.com/b/k", "credentials");
    check_bad("https://minio.example.com/b/k#part", "%23");
    check_bad("https://minio.example.com:0x50/b/k", "host");
    check_bad("https:///b/k", "host");
}

#[test]
fn object_urls_need_a_configured_endpoint() {
    let policy = UrlPolicy::new(None, Addressing::Path, &[]).expect("nothing is configured");
    let error = policy.parse("s3://b/k").expect_err("there is no endpoint");
    assert_eq!(error.kind(), SourceErrorKind::BadUrl);
    assert!(error.to_string().contains("MINIO_ENDPOINT"), "{error}");
}

#[test]
fn bad_settings_are_named() {
    for endpoint in [
        "",
        "ftp://h",
        "https://user:secret@h",
        "https://h/a//b",
        "https://h?x=1",
        "h h",
    ] {
        let error = UrlPolicy::new(Some(endpoint), Addressing::Path, &[]).expect_err(endpoint);
        assert_eq!(error.kind(), SourceErrorKind::Settings);
        assert!(error.to_string().contains("minio.endpoint"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    for host in ["", "*", "*.org", "http://h", "h/path", "u@h", "h:x"] {
        let error = UrlPolicy::new(None, Addressing::Path, &[host.to_owned()]).expect_err(host);
        assert_eq!(error.kind(), SourceErrorKind::Settings);
        assert!(error.to_string().contains("minio.allowed_hosts"), "{error}");
    }
}

#[test]
fn sidecars_and_base_names_follow_the_key() {
    let policy = policy(ENDPOINT);
    let check = |text: &str, sidecar: &str, base_name: &str| {
        let url = policy.parse(text).expect("it is an image URL");
        assert_eq!(url.base_name(), base_name);
        let found = url.sibling(Sibling::Suffix(".sha256"));
        assert_eq!(found.expect("it has no query").to_string(), sidecar);
        let sums = url
            .sibling(Sibling::Beside("SUMS"))
            .expect("it has no query");
        let directory = sidecar.rfind('/').expect("it has a path");
        assert_eq!(sums.to_string(), format!("{}/SUMS", &sidecar[..directory]));
    };
    check("s3://b/d/a b", "s3://b/d/a b.sha256", "a b");
    check("s3://b/d/a%20b", "s3://b/d/a%20b.sha256", "a%20b");
    let mirror = "https://mirror.example.org/d/";
    check(
        &format!("{mirror}x%20y.img"),
        &format!("{mirror}x%20y.img.sha256"),
        "x y.img",
    );
}

proptest::proptest! {
    #[test]
    fn every_accepted_object_reads_back_from_its_display(text in "s3://[a-z]{1,4}/[ -~é]{1,20}") {
        let policy = policy(ENDPOINT);
        if let Ok(url) = policy.parse(&text) {
            proptest::prop_assert_eq!(policy.parse(&url.to_string()).unwrap(), url.clone());
            let sent = url.request_url();
            proptest::prop_assert!(sent.host_str() == Some("minio.example.com"));
            proptest::prop_assert!(sent.query().is_none() || url.version().is_some());
            proptest::prop_assert!(sent.fragment().is_none());
        }
    }
}

#[test]
fn an_object_is_told_by_endpoint_bucket_and_key_or_by_url_and_query() {
    let hosts = ["m.example".to_owned(), "m.example:8080".to_owned()];
    let policy = |endpoint| {
        UrlPolicy::new(Some(endpoint), Addressing::Path, &hosts).expect("it can be used")
    };
    let first = policy("https://s3.example:9000");
    let identity = |policy: &UrlPolicy, url: &str| {
        let parsed = policy.parse(url).expect("it is accepted");
        parsed.identity()
    };
    let all = [
        identity(&first, "s3://b/k"),
        identity(&first, "s3://b/k/k"),
        identity(&first, "s3://b2/k"),
        identity(&first, "s3://b/k?versionId=1"),
        identity(&first, "s3://b/k?versionId=2"),
        identity(&policy("https://other.example:9000"), "s3://b/k"),
        identity(&first, "http://m.example/b/k"),
        identity(&first, "https://m.example/b/k"),
        identity(&first, "http://m.example:8080/b/k"),
        identity(&first, "http://m.example/b/k?file=a"),
        identity(&first, "http://m.example/b/k?file=b"),
        identity(&first, "http://m.example/b/k?versionId=1"),
        identity(&first, "http://m.example/b/k?versionId=2"),
    ];
    let different: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len());

    let same = |one, other| assert_eq!(identity(&first, one), identity(&first, other));
    same("s3://b/k", "http://s3.example:9000/b/k");
    same(
        "http://m.example/b/k?versionId=1",
        "http://m.example/b/k?X-Amz-Date=d&versionId=1&X-Amz-Signature=s",
    );
    same(
        "http://m.example/b/k",
        "http://m.example/b/k?sv=1&se=2&sig=3",
    );
}

#[test]
fn a_requested_url_shows_its_query_to_nobody_and_repeats_are_told_whatever_signs_them() {
    let text = "https://m.example/k?versionId=1&X-Amz-Date=d&X-Amz-Signature=0123456789";
    let url = RequestedUrl::new(text);
    assert_eq!(url.whole().as_deref(), Some(text));
    assert_eq!(url.to_string(), "https://m.example/k");
    let shown = format!("{url} {url:?}");
    assert!(!shown.contains("0123456789"), "{shown}");
    let again = RequestedUrl::new("https://m.example/k?versionId=1&X-Amz-Signature=9876");
    assert_eq!(url.identity(), again.identity());
    let other = RequestedUrl::new("https://m.example/k?versionId=2&X-Amz-Signature=9876");
    assert_ne!(url.identity(), other.identity());
    for plain in ["s3://b/k", "s3://b/k?a=b#c", "s3://b/k?versionId=1"] {
        let url = RequestedUrl::new(plain);
        assert_eq!(url.whole().as_deref(), Some(plain));
        assert_eq!(url.to_string(), plain);
    }
    let mistaken = RequestedUrl::new("s3://b/k?X-Amz-Signature=0123456789");
    assert_eq!(mistaken.to_string(), "s3://b/k");
}
