//! CAs, certificates and tokens for daemons that require credentials.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use lvp_testkit::daemon::Daemon;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use time::{Duration, OffsetDateTime};

use crate::support::World;

/// Creates a file with this text and mode, atomically.
pub(crate) fn write(directory: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = directory.join(name);
    let new = directory.join(format!("{name}.new"));
    std::fs::write(&new, text).expect("it is written");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    std::fs::rename(&new, &path).expect("it is renamed");
    path
}

/// A world whose daemon has a tokens file.
pub(crate) fn with_tokens(world: World, text: &str) -> World {
    let path = write(world.home.path(), "tokens", text, 0o600);
    world.with("API_TOKENS_FILE", &path.display().to_string())
}

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("valid names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("a certificate")
}

/// A certificate that expires in this many days, and its key.
pub(crate) fn issue(authority: &Authority, name: &str, days: i64) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = CertificateParams::new(names).expect("valid names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = OffsetDateTime::now_utc() - Duration::days(30);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

/// A client that trusts this server, and presents a certificate or none.
pub(crate) fn client(
    server: &Authority,
    certificate: Option<&(String, String)>,
) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(server.pem().as_bytes()).expect("a certificate");
    let mut builder = reqwest::Client::builder().tls_certs_only([root]);
    if let Some((certificate, key)) = certificate {
        let pem = format!("{certificate}{key}");
        let identity = reqwest::Identity::from_pem(pem.as_bytes()).expect("an identity");
        builder = builder.identity(identity);
    }
    builder.build().expect("a client")
}

/// A world whose daemon uses TLS and trusts clients of this CA.
pub(crate) fn with_tls(world: World, server: &Authority, clients: &Authority) -> World {
    let directory = world.home.path().to_owned();
    let (certificate, key) = issue(server, "server", 30);
    let file = |name, text: &str| write(&directory, name, text, 0o600).display().to_string();
    world
        .with("TLS_CERT_FILE", &file("server.pem", &certificate))
        .with("TLS_KEY_FILE", &file("server.key", &key))
        .with("CLIENT_CA_CERT", &file("ca.pem", &clients.pem()))
}

pub(crate) fn https(daemon: &Daemon) -> String {
    daemon.url().replacen("http://", "https://", 1)
}
