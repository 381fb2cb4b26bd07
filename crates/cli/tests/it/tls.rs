//! Own certificate authority and client certificates, over real TLS.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::routing::get;
use axum::serve::Listener;
use axum::{Json, Router};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::fake::lvpctl;

/// Accepts only clients with a certificate of the authority.
struct MutualTls {
    tcp: TcpListener,
    tls: tokio_rustls::TlsAcceptor,
}

impl Listener for MutualTls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.tcp.accept().await.expect("a connection");
            // A client without a certificate is refused here; the next one may have one.
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("valid names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("a certificate")
}

fn issue(authority: &Authority, name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name.to_owned()]).expect("valid names");
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    (certificate, key)
}

async fn serve(authority: &Authority) -> SocketAddr {
    let (certificate, key) = issue(authority, "localhost");
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).expect("an authority");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .expect("a verifier");
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a configuration");
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = tcp.local_addr().expect("it is bound");
    let listener = MutualTls {
        tcp,
        tls: Arc::new(config).into(),
    };
    let volumes = json!({"volumes": [], "count": 0});
    let routes = Router::new().route("/api/v1/volumes", get(async || Json(volumes)));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("an ASCII path").to_owned()
}

#[tokio::test]
async fn only_a_client_certificate_of_the_authority_is_accepted() {
    let authority = authority();
    let endpoint = format!("https://localhost:{}", serve(&authority).await.port());
    let directory = tempfile::tempdir().expect("a directory");
    let (certificate, key) = issue(&authority, "operator");
    let ca = write(directory.path(), "ca.pem", &authority.pem());
    let cert = write(directory.path(), "cert.pem", &certificate.pem());
    let key = write(directory.path(), "key.pem", &key.serialize_pem());
    let volumes = || lvpctl(&["volumes"]).env("LVP_ENDPOINT", &endpoint);

    let outcome = volumes()
        .env("LVP_CA_CERT", &ca)
        .env("LVP_CLIENT_CERT", &cert)
        .env("LVP_CLIENT_KEY", &key)
        .run()
        .await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stderr, "No volumes\n");

    let outcome = volumes().env("LVP_CA_CERT", &ca).run().await;
    assert_eq!(outcome.code, Some(7), "no certificate: {outcome:?}");

    let other = write(directory.path(), "other.pem", &self::authority().pem());
    let outcome = volumes().env("LVP_CA_CERT", &other).run().await;
    assert_eq!(outcome.code, Some(7), "another authority: {outcome:?}");
    assert!(outcome.stderr.contains("--ca-cert"), "{outcome:?}");
}

#[tokio::test]
async fn files_that_are_not_certificates_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let garbage = write(directory.path(), "garbage.pem", "no certificate\n");
    for args in [
        &["--ca-cert", &garbage][..],
        &["--client-cert", &garbage, "--client-key", &garbage],
    ] {
        let args = [&["volumes", "--endpoint", "https://localhost:1"], args].concat();
        let outcome = lvpctl(&args).run().await;
        assert_eq!(outcome.code, Some(64), "{outcome:?}");
        assert!(outcome.stderr.contains("garbage.pem"), "{outcome:?}");
    }
}
