//! Ways to an object store: below a path, and through a proxy. The proxies are nginx and tinyproxy themselves.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lvp_testkit::port::Port;
use lvp_testkit::require::{command, require};
use lvp_testkit::s3::S3;
use lvp_testkit::tls::TestCa;
use provisioner::config::EndpointPath;
use provisioner::secret::SecretUrl;
use provisioner::source::{Source, SourceErrorKind, SourceSettings};
use tempfile::TempDir;

use crate::{check_error, read_all, resolve, settings};

/// Keys that a proxy could encode in another way than they came.
const KEYS: [&str; 4] = ["a.img", "dir/a b+c.img", "50%/é~'(x).img", "a%2Bb=c&d.img"];

/// How long a proxy may take to start.
const START: Duration = Duration::from_secs(30);

/// A running proxy; stops when it is dropped.
pub(crate) struct Proxy {
    process: Child,
    address: SocketAddr,
    directory: TempDir,
    _port: Port,
}

impl Proxy {
    pub(crate) fn start(
        program: &str,
        configuration: impl Fn(u16, &Path) -> String,
        args: &[&str],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = Port::reserve().unwrap();
        let address = port.address();
        let file = directory.path().join("proxy.conf");
        fs::write(&file, configuration(address.port(), directory.path())).unwrap();
        let process = command(program)
            .args(args)
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let proxy = Self {
            process,
            address,
            directory,
            _port: port,
        };
        let deadline = Instant::now() + START;
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "{program} does not start");
            std::thread::yield_now();
        }
        proxy
    }

    fn nginx(upstream: SocketAddr) -> Self {
        let configuration = |port: u16, directory: &Path| {
            let directory = directory.display();
            format!(
                "daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
                events {{}}
                http {{
                    access_log {directory}/access.log;
                    client_body_temp_path {directory}/a; proxy_temp_path {directory}/b;
                    fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d;
                    scgi_temp_path {directory}/e;
                    server {{
                        listen 127.0.0.1:{port};
                        proxy_set_header Host $http_host;
                        location /s3/ {{ proxy_pass http://{upstream}/; }}
                        location /kept/ {{ proxy_pass http://{upstream}; }}
                    }}
                }}"
            )
        };
        Self::start("nginx", configuration, &[])
    }

    fn tinyproxy(more: &str) -> Self {
        let configuration = |port: u16, directory: &Path| {
            let log = directory.join("log");
            format!(
                "Port {port}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\nMaxClients 50\n\
                 LogFile \"{}\"\nLogLevel Connect\n{more}\n",
                log.display()
            )
        };
        Self::start("tinyproxy", configuration, &["-d"])
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Requests that the proxy's log has, by their method.
    fn logged(&self, method: &str) -> usize {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.matches(&format!("): {method} ")).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn below(proxy: &Proxy, path: &str, endpoint_path: EndpointPath) -> Source {
    Source::new(&SourceSettings {
        endpoint_path,
        ..settings(&format!("http://{}{path}", proxy.address))
    })
    .unwrap()
}

#[tokio::test]
async fn an_endpoint_may_be_below_a_path_that_a_proxy_keeps_or_removes() {
    if !require("nginx") {
        return;
    }
    let s3 = S3::start().await.unwrap();
    for key in KEYS {
        s3.objects().put("images", key, key.as_bytes()).unwrap();
        // As the server sees it where the path stays: a bucket with all of it.
        let kept = format!("images/{key}");
        s3.objects().put("kept", &kept, key.as_bytes()).unwrap();
    }
    let nginx = Proxy::nginx(s3.address());
    for (path, right, wrong) in [
        ("/s3", EndpointPath::Strip, EndpointPath::Keep),
        ("/s3/", EndpointPath::Strip, EndpointPath::Keep),
        ("/kept/", EndpointPath::Keep, EndpointPath::Strip),
    ] {
        let source = below(&nginx, path, right);
        for key in KEYS {
            let found = read_all(&source, &format!("s3://images/{key}")).await;
            assert_eq!(found.unwrap(), key.as_bytes(), "{path} {key}");
        }
        // By its http URL, which has the path too; one beside it is nobody's.
        let folder = path.trim_end_matches('/');
        let url = format!("http://{}{folder}/images/dir/a%20b+c.img", nginx.address);
        let meta = resolve(&source, &url).await.unwrap();
        assert_eq!(meta.url.to_string(), "s3://images/dir/a b+c.img");
        for other in ["/images/a.img", "/s3x/images/a.img", "/"] {
            let url = format!("http://{}{other}", nginx.address);
            let error = resolve(&source, &url).await.unwrap_err();
            check_error(&error, SourceErrorKind::BadUrl, "not below");
        }
        let error = resolve(&below(&nginx, path, wrong), "s3://images/a.img")
            .await
            .unwrap_err();
        check_error(&error, SourceErrorKind::AccessDenied, "minio.");
    }
    let source = below(&nginx, "/s3", EndpointPath::Strip);
    let listed = source.list("images", "dir/", None).await.unwrap();
    assert_eq!(listed.objects.len(), 1);
    source.probe().await.unwrap();
}

fn through(proxy: &str, no_proxy: &[&str], endpoint: &str) -> SourceSettings {
    SourceSettings {
        proxy: Some(SecretUrl::new(proxy.parse().unwrap())),
        no_proxy: no_proxy.iter().map(|&host| host.to_owned()).collect(),
        ..settings(endpoint)
    }
}

#[tokio::test]
async fn requests_go_through_the_configured_proxy_but_for_the_hosts_that_are_excepted() {
    if !require("tinyproxy") {
        return;
    }
    let s3 = S3::start().await.unwrap();
    let ca = TestCa::new().unwrap();
    let tls = S3::start_with_tls(&ca).await.unwrap();
    for server in [&s3, &tls] {
        for key in KEYS {
            server.objects().put("images", key, key.as_bytes()).unwrap();
        }
    }
    let proxy = Proxy::tinyproxy("");
    let at = format!("http://{}", proxy.address);

    for key in KEYS {
        let source = Source::new(&through(&at, &[], s3.endpoint())).unwrap();
        let found = read_all(&source, &format!("s3://images/{key}")).await;
        assert_eq!(found.unwrap(), key.as_bytes(), "{key}");
    }
    let plain = proxy.logged("GET") + proxy.logged("HEAD");
    assert!(plain >= 2 * KEYS.len(), "{plain}");
    assert_eq!(proxy.logged("CONNECT"), 0);
    // Over TLS it sees a tunnel.
    let source = Source::new(&SourceSettings {
        ca_cert: Some(ca.certificate().to_owned()),
        ..through(&at, &[], tls.endpoint())
    });
    let found = read_all(&source.unwrap(), "s3://images/a.img").await;
    assert_eq!(found.unwrap(), b"a.img");
    assert!(proxy.logged("CONNECT") > 0);
    assert_eq!(proxy.logged("GET") + proxy.logged("HEAD"), plain);
    // Addresses and networks that are excepted.
    for rule in ["127.0.0.1", "127.0.0.0/8", "example.com,127.0.0.1"] {
        let rules: Vec<_> = rule.split(',').collect();
        let source = Source::new(&through(&at, &rules, s3.endpoint())).unwrap();
        read_all(&source, "s3://images/a.img").await.unwrap();
    }
    assert_eq!(proxy.logged("GET") + proxy.logged("HEAD"), plain);
    // One that nobody answers at.
    let nobody = Port::reserve().unwrap();
    let down = format!("http://user:secret@{}", nobody.address());
    let source = Source::new(&through(&down, &[], s3.endpoint())).unwrap();
    let error = read_all(&source, "s3://images/a.img").await.unwrap_err();
    check_error(&error, SourceErrorKind::Unavailable, "minio.proxy");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn a_proxy_that_wants_credentials_gets_those_of_its_url() {
    if !require("tinyproxy") {
        return;
    }
    let s3 = S3::start().await.unwrap();
    s3.objects().put("images", "a.img", b"bytes").unwrap();
    let proxy = Proxy::tinyproxy("BasicAuth user word");
    let at = |who: &str| format!("http://{who}{}", proxy.address);
    let source = Source::new(&through(&at("user:word@"), &[], s3.endpoint())).unwrap();
    let found = read_all(&source, "s3://images/a.img").await;
    assert_eq!(found.unwrap(), b"bytes");
    for who in ["", "user:other@"] {
        let source = Source::new(&through(&at(who), &[], s3.endpoint())).unwrap();
        let error = read_all(&source, "s3://images/a.img").await.unwrap_err();
        assert!(error.to_string().contains("minio.proxy"), "{error}");
        assert_eq!(error.attempts(), 1, "{error}");
    }
}
