//! Allowed hosts that are not our object storage, and redirects.

use lvp_api::Verified;
use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use lvp_testkit::s3::S3;
use provisioner::source::{Source, SourceErrorKind, SourceSettings};

use super::{RANGE_BYTES, check_error, pattern, read_all, resolve, settings};

const SIZE: u64 = 4 * RANGE_BYTES + 1;

struct Mirror {
    server: S3,
    proxy: FaultProxy,
    /// The endpoint, which is another server.
    endpoint: S3,
}

impl Mirror {
    async fn start() -> Self {
        let server = S3::start_anonymous().await.unwrap();
        server.objects().put("img", "k", &pattern(SIZE)).unwrap();
        let proxy = FaultProxy::start(server.address()).await.unwrap();
        let endpoint = S3::start().await.unwrap();
        endpoint.objects().put("img", "k", &pattern(SIZE)).unwrap();
        Self {
            server,
            proxy,
            endpoint,
        }
    }

    /// A source that may read from these besides its endpoint.
    fn source(&self, allowed: &[&str]) -> Source {
        let hosts = allowed.iter().map(|url| url.replace("http://", ""));
        Source::new(&SourceSettings {
            allowed_hosts: hosts.collect(),
            ..settings(self.endpoint.endpoint())
        })
        .unwrap()
    }

    fn url(&self) -> String {
        format!("{}/img/k", self.proxy.endpoint())
    }
}

#[tokio::test]
async fn an_allowed_host_is_read_without_our_credentials() {
    let mirror = Mirror::start().await;
    let source = mirror.source(&[&mirror.proxy.endpoint()]);
    let url = format!("{}?token=abc", mirror.url());
    assert!(read_all(&source, &url).await.unwrap() == pattern(SIZE));
    for request in mirror.proxy.requests() {
        assert_eq!(request.target, "/img/k?token=abc");
        assert_eq!(request.header("authorization"), None);
    }
    let parsed = source.parse_url(&mirror.url()).unwrap();
    assert_eq!(
        source.checksums(&parsed, None).await.unwrap().verified(),
        Verified::None
    );
    mirror.server.objects().put_sidecar("img", "k").unwrap();
    assert!(!source.checksums(&parsed, None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_host_that_is_not_allowed_sees_no_request() {
    let mirror = Mirror::start().await;
    let error = mirror.source(&[]).parse_url(&mirror.url()).unwrap_err();
    check_error(
        &error,
        SourceErrorKind::HostNotAllowed,
        "minio.allowed_hosts",
    );
    assert_eq!(mirror.proxy.requests(), []);
}

#[tokio::test]
async fn redirects_are_resolved_once_and_not_per_range() {
    let mirror = Mirror::start().await;
    let target = format!("{}/img/k", mirror.server.endpoint());
    mirror.proxy.inject(Rule::new(Fault::Redirect(target)));
    let source = mirror.source(&[&mirror.proxy.endpoint(), mirror.server.endpoint()]);
    assert!(read_all(&source, &mirror.url()).await.unwrap() == pattern(SIZE));
    assert_eq!(mirror.proxy.requests().len(), 1);
    assert_eq!(mirror.server.traffic().object("img/k").gets, 5);
}

#[tokio::test]
async fn a_redirect_to_a_host_that_is_not_allowed_is_refused() {
    let mirror = Mirror::start().await;
    let target = format!("{}/img/k", mirror.server.endpoint());
    mirror.proxy.inject(Rule::new(Fault::Redirect(target)));
    let source = mirror.source(&[&mirror.proxy.endpoint()]);
    let error = resolve(&source, &mirror.url()).await.unwrap_err();
    check_error(
        &error,
        SourceErrorKind::HostNotAllowed,
        "minio.allowed_hosts",
    );
    let url = source.parse_url(&mirror.url()).unwrap();
    let error = source.checksums(&url, None).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::HostNotAllowed);
    assert!(mirror.server.traffic().objects().is_empty());
}

#[tokio::test]
async fn an_endpoint_cannot_redirect_our_credentials_elsewhere() {
    let mirror = Mirror::start().await;
    let proxied = FaultProxy::start(mirror.endpoint.address()).await.unwrap();
    let elsewhere = mirror.proxy.endpoint();
    proxied.inject(Rule::new(Fault::Redirect(format!("{elsewhere}/img/k"))));
    let open = |allowed_hosts| {
        Source::new(&SourceSettings {
            allowed_hosts,
            ..settings(&proxied.endpoint())
        })
        .unwrap()
    };
    let error = resolve(&open(vec![]), "s3://img/k").await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::HostNotAllowed);
    assert_eq!(mirror.proxy.requests(), []);

    let allowed = open(vec![elsewhere.replace("http://", "")]);
    resolve(&allowed, "s3://img/k").await.unwrap();
    let requests = mirror.proxy.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("authorization"), None);
}

#[tokio::test]
async fn a_redirect_within_the_endpoint_is_signed_anew() {
    let mirror = Mirror::start().await;
    let proxied = FaultProxy::start(mirror.endpoint.address()).await.unwrap();
    let source = super::source(&proxied.endpoint());
    let objects = mirror.endpoint.objects();
    objects.put("img", "moved", &pattern(SIZE)).unwrap();
    proxied.inject(Rule::new(Fault::Redirect("/img/moved".to_owned())).times(1));
    let meta = resolve(&source, "s3://img/old").await.unwrap();
    assert_eq!(meta.size, SIZE);
}

#[tokio::test]
async fn redirects_in_a_circle_and_to_nowhere_end() {
    let mirror = Mirror::start().await;
    let source = mirror.source(&[&mirror.proxy.endpoint()]);
    for (target, words) in [
        (mirror.url().as_str(), "redirects more than 5 times"),
        ("file:///etc/passwd", "not a plain http(s) URL"),
        ("http://user@127.0.0.1/", "not a plain http(s) URL"),
        ("http://[bad", "malformed location"),
    ] {
        mirror.proxy.clear();
        mirror
            .proxy
            .inject(Rule::new(Fault::Redirect(target.to_owned())));
        let error = resolve(&source, &mirror.url()).await.unwrap_err();
        check_error(&error, SourceErrorKind::Protocol, words);
        assert!(mirror.proxy.requests().len() <= 6);
    }
}

#[tokio::test]
async fn a_url_that_is_signed_for_get_only_resolves_too() {
    let mirror = Mirror::start().await;
    let source = mirror.source(&[&mirror.proxy.endpoint()]);
    for status in [403, 405] {
        mirror.proxy.clear();
        let refused = Fault::Status {
            status,
            retry_after: None,
            code: None,
        };
        mirror.proxy.inject(Rule::new(refused).method("HEAD"));
        let found = read_all(&source, &mirror.url()).await.unwrap();
        assert!(found == pattern(SIZE));
    }
    // A server that tells no length to HEAD, and knows no ranges.
    mirror.proxy.clear();
    let without_length = Rule::new(Fault::NoHeader("content-length"));
    mirror.proxy.inject(without_length.method("HEAD"));
    mirror.proxy.inject(Rule::new(Fault::IgnoreRange));
    assert!(read_all(&source, &mirror.url()).await.unwrap() == pattern(SIZE));
}

#[tokio::test]
async fn without_an_etag_the_date_distinguishes_versions() {
    let mirror = Mirror::start().await;
    let source = mirror.source(&[&mirror.proxy.endpoint()]);
    mirror.proxy.inject(Rule::new(Fault::NoHeader("etag")));
    assert!(read_all(&source, &mirror.url()).await.unwrap() == pattern(SIZE));

    let meta = resolve(&source, &mirror.url()).await.unwrap();
    mirror.proxy.clear();
    let date = "Thu, 01 Jan 1970 00:00:00 GMT".to_owned();
    mirror
        .proxy
        .inject(Rule::new(Fault::Header("last-modified", date)));
    let mut reader = source.read_ranges(&meta, 0..SIZE, super::OPTIONS);
    let error = reader.next().await.unwrap().unwrap_err();
    check_error(&error, SourceErrorKind::ObjectChanged, "last-modified");
}
