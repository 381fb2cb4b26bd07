//! `lvpctl cert init`: a small authority with a server's and a client's certificate, for a start.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::args::CertInitArgs;
use crate::exit::{Exit, Failure};
use crate::output::{print_line, say};

/// How long the authority's certificate is valid: long, as it has to be distributed to every client.
const AUTHORITY_DAYS: i64 = 3650;

/// Certificates begin a little in the past, for clocks that are behind.
const BACKDATE: Duration = Duration::hours(1);

type Authority = CertifiedIssuer<'static, KeyPair>;

pub(super) fn init(args: &CertInitArgs) -> Result<Exit, Failure> {
    let made = make(args).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("Cannot create the certificates: {error}"),
        )
    })?;
    let directory = &args.directory;
    let cannot = |error: io::Error| {
        Failure::new(
            Exit::Failed,
            format!("Cannot write to {}: {error}", directory.display()),
        )
    };
    // Before the first file is written: a mixture of old and new files would be useless.
    if let Some((name, ..)) = made.iter().find(|(name, ..)| directory.join(name).exists()) {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "{} exists: choose another directory",
                directory.join(name).display()
            ),
        ));
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).map_err(cannot)?;
    for (name, text, mode) in &made {
        let path = directory.join(name);
        write(&path, text, *mode).map_err(cannot)?;
        print_line(&path.display().to_string())?;
    }
    say(
        "For the daemon: server.tls_cert server.pem, server.tls_key server.key, server.ca_cert \
         ca.pem. For lvpctl: --ca-cert ca.pem --client-cert client.pem --client-key client.key. \
         Anybody who has ca.key can create client certificates: move it to a safe place.",
    );
    Ok(Exit::Success)
}

type Files = Vec<(&'static str, String, u32)>;

fn make(args: &CertInitArgs) -> Result<Files, rcgen::Error> {
    let authority = authority()?;
    let hosts = if args.host.is_empty() {
        vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ]
    } else {
        args.host.clone()
    };
    let server_name = hosts.first().cloned().unwrap_or_default();
    let days = i64::from(args.days);
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    let (server, server_key) = issue(&authority, &server_name, hosts, server, days)?;
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let (client, client_key) = issue(&authority, &args.client, Vec::new(), client, days)?;
    Ok(vec![
        ("ca.pem", authority.pem(), 0o644),
        ("ca.key", authority.key().serialize_pem(), 0o600),
        ("server.pem", server, 0o644),
        ("server.key", server_key, 0o600),
        ("client.pem", client, 0o644),
        ("client.key", client_key, 0o600),
    ])
}

fn authority() -> Result<Authority, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "libvirt-volume-provisioner CA");
    // It may sign servers and clients, but not further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_DAYS);
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn issue(
    authority: &Authority,
    name: &str,
    hosts: Vec<String>,
    purpose: ExtendedKeyUsagePurpose,
    days: i64,
) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    valid_for(&mut params, days);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn valid_for(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + Duration::days(days);
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn six_files_are_made_keys_are_private_and_nothing_is_overwritten() {
        let directory = tempfile::tempdir().expect("there is room");
        let args = CertInitArgs {
            directory: directory.path().join("new"),
            host: vec!["kvm1.example.com".to_owned(), "192.0.2.1".to_owned()],
            client: "ci".to_owned(),
            days: 30,
        };
        init(&args).expect("they are made");
        let read = |name: &str| {
            let path = args.directory.join(name);
            let mode = std::fs::metadata(&path).expect(name).permissions().mode() & 0o777;
            (std::fs::read_to_string(path).expect(name), mode)
        };
        for name in ["ca", "server", "client"] {
            let (certificate, _) = read(&format!("{name}.pem"));
            assert!(certificate.starts_with("-----BEGIN CERTIFICATE"), "{name}");
            let (key, mode) = read(&format!("{name}.key"));
            assert!(key.starts_with("-----BEGIN PRIVATE KEY"), "{name}");
            assert_eq!(mode, 0o600, "{name}");
        }
        let before = read("ca.key");
        let refused = init(&args).expect_err("they exist").to_string();
        assert!(refused.contains("exists"), "{refused}");
        assert_eq!(read("ca.key"), before);
    }
}
