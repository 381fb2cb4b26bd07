//! Who may connect: loopback, tokens, certificates.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Finding, storage};
use crate::access::check_tokens;
use crate::config::{self, Config};
use crate::error::chain;
use crate::net::tls::{Tls, certificates};

/// A certificate that expires within this time is reported.
const SOON: Duration = Duration::days(30);

pub(super) fn check(config: &Config) -> Vec<Finding> {
    let server = &config.server;
    let mut findings = vec![who(server)];
    if let Some(path) = &server.api_tokens_file {
        findings.push(match check_tokens(path) {
            Ok(count) => Finding::ok(
                "access.tokens",
                format!("{} can be used; it has {count} tokens", path.display()),
            ),
            Err(error) => {
                let remedy = "See 'Tokens' in docs/security.md; the daemon does not start until this is fixed";
                Finding::fail("access.tokens", chain(&error), remedy)
            }
        });
    }
    if let Some(files) = &server.tls {
        findings.extend(tls(files));
    }
    findings
}

fn who(server: &config::Server) -> Finding {
    const CHECK: &str = "access";
    let has_ca = server
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_ca.is_some());
    let loopback = server.host.is_loopback();
    match (server.api_tokens_file.is_some(), has_ca) {
        (false, false) if loopback => Finding::ok(
            CHECK,
            "Only this host may connect, and everybody on it may do everything",
        ),
        (false, false) => Finding::warn(
            CHECK,
            "There are neither tokens nor a client CA, so the daemon listens on loopback only, \
             whatever server.host says",
            "Set server.api_tokens_file, or server.ca_cert with server.tls_cert and server.tls_key; \
             or set server.host to 127.0.0.1",
        ),
        (true, _) if server.tls.is_none() && !loopback => Finding::warn(
            CHECK,
            "Tokens travel in clear text",
            "Set server.tls_cert and server.tls_key ('lvpctl cert init' creates both)",
        ),
        (tokens, ca) => {
            let with = match (tokens, ca) {
                (true, true) => "a token or a client certificate",
                (true, false) => "a token",
                _ => "a client certificate",
            };
            Finding::ok(CHECK, format!("Callers need {with}"))
        }
    }
}

fn tls(files: &config::Tls) -> Vec<Finding> {
    const CHECK: &str = "access.tls";
    if let Err(error) = Tls::load(files.clone()) {
        let remedy = "See 'TLS and client certificates' in docs/security.md; the daemon does not \
            start so";
        return vec![Finding::fail(CHECK, chain(&error), remedy)];
    }
    let mut findings = vec![validity(CHECK, &files.cert)];
    findings.extend(files.client_ca.as_deref().map(|path| validity(CHECK, path)));
    let key = files.key.display();
    if storage::mode(&files.key).is_some_and(|mode| mode & 0o007 != 0) {
        findings.push(Finding::warn(
            CHECK,
            format!("The key {key} is open to every user of this host"),
            format!(
                "Remove that permission with 'chmod o= {key}', and create a new key and certificate"
            ),
        ));
    }
    findings
}

/// How long a file's certificates are valid: the first to expire counts.
pub(super) fn validity(check: &'static str, path: &Path) -> Finding {
    let shown = path.display();
    match certificates(path) {
        Ok(found) => {
            let spans = found.iter().filter_map(|certificate| span(certificate));
            let what = format!("The certificate in {shown}");
            judge(check, &what, spans, OffsetDateTime::now_utc())
        }
        Err(error) => {
            let remedy = "Use a file with PEM certificates";
            Finding::fail(check, chain(&error), remedy)
        }
    }
}

/// A certificate's beginning and end.
pub(super) fn span(certificate: &[u8]) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let certificate = CertificateDer::from(certificate);
    let (_, certificate) = X509Certificate::from_der(&certificate).ok()?;
    let validity = certificate.validity();
    let time = |timestamp| OffsetDateTime::from_unix_timestamp(timestamp).ok();
    Some((
        time(validity.not_before.timestamp())?,
        time(validity.not_after.timestamp())?,
    ))
}

/// Judges the dates of certificates that are only valid together.
pub(super) fn judge(
    check: &'static str,
    what: &str,
    spans: impl Iterator<Item = (OffsetDateTime, OffsetDateTime)>,
    now: OffsetDateTime,
) -> Finding {
    const RENEW: &str = "Renew it; new files take effect without a restart";
    let both = spans.reduce(|a, b| (a.0.max(b.0), a.1.min(b.1)));
    let Some((begins, ends)) = both else {
        return Finding::fail(check, format!("{what} has no validity dates"), RENEW);
    };
    let (first, last) = (begins.date(), ends.date());
    if ends <= now {
        Finding::fail(check, format!("{what} expired on {last}"), RENEW)
    } else if begins > now {
        let remedy = "Check this host's clock, or wait until then";
        Finding::fail(check, format!("{what} is not valid before {first}"), remedy)
    } else if ends - now < SOON {
        Finding::warn(check, format!("{what} expires soon, on {last}"), RENEW)
    } else {
        Finding::ok(check, format!("{what} is valid until {last}"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertificateParams, KeyPair};
    use time::macros::datetime;

    use super::super::Status;
    use super::super::tests::config;
    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-01-27 12:00 UTC);

    #[test]
    fn certificates_are_judged_by_their_dates() {
        let day = Duration::days(1);
        for (begins, ends, expected) in [
            (NOW - day, NOW + day * 31, Status::Ok),
            (NOW - day, NOW + day * 29, Status::Warn),
            (NOW - day * 2, NOW - day, Status::Fail),
            (NOW + day, NOW + day * 400, Status::Fail),
        ] {
            let found = judge("access.tls", "It", [(begins, ends)].into_iter(), NOW);
            assert_eq!(found.status, expected, "{found:?}");
        }
        // A chain is as good as its worst certificate.
        let chain = [(NOW - day, NOW + day * 400), (NOW - day, NOW + day)];
        let found = judge("access.tls", "It", chain.into_iter(), NOW);
        assert_eq!(found.status, Status::Warn, "{found:?}");
        let none = judge("access.tls", "It", std::iter::empty(), NOW);
        assert_eq!(none.status, Status::Fail);
    }

    /// A server's certificate and key in files, valid for this many days.
    fn issue(directory: &Path, name: &str, days: i64) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.not_before = OffsetDateTime::now_utc() - Duration::days(60);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
        let certificate = params.self_signed(&key).expect("a certificate");
        let (cert, key_file) = (
            directory.join(format!("{name}.pem")),
            directory.join(format!("{name}.key")),
        );
        fs::write(&cert, certificate.pem()).expect("there is room");
        fs::write(&key_file, key.serialize_pem()).expect("there is room");
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).expect("it is ours");
        (cert.display().to_string(), key_file.display().to_string())
    }

    #[test]
    fn tls_files_are_valid_soon_to_expire_expired_exposed_or_mismatched() {
        let home = tempfile::tempdir().expect("there is room");
        let look = |cert: &str, key: &str| {
            let config = config(&[("TLS_CERT_FILE", cert), ("TLS_KEY_FILE", key)]);
            let findings = check(&config);
            let worst = findings.iter().filter(|found| found.check == "access.tls");
            worst.map(|found| found.status).max().expect("one at least")
        };
        let (good, good_key) = issue(home.path(), "good", 90);
        let (soon, soon_key) = issue(home.path(), "soon", 5);
        let (past, past_key) = issue(home.path(), "past", -1);
        assert_eq!(look(&good, &good_key), Status::Ok);
        assert_eq!(look(&soon, &soon_key), Status::Warn);
        assert_eq!(look(&past, &past_key), Status::Fail);
        assert_eq!(look(&good, &soon_key), Status::Fail);
        assert_eq!(look("/nonexistent", &good_key), Status::Fail);
        fs::set_permissions(&good_key, fs::Permissions::from_mode(0o644)).expect("it is ours");
        assert_eq!(look(&good, &good_key), Status::Warn);
    }

    #[test]
    fn a_tokens_file_is_usable_world_readable_or_empty() {
        let home = tempfile::tempdir().expect("there is room");
        let path = home.path().join("tokens");
        let look = |text: &str, mode: u32| {
            fs::write(&path, text).expect("there is room");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
            let file = path.display().to_string();
            let findings = check(&config(&[("API_TOKENS_FILE", &file)]));
            let found = findings
                .into_iter()
                .find(|found| found.check == "access.tokens");
            found.expect("it is looked at").status
        };
        let line = "ci:9f3c0123456789abcdef0123456789ab\n";
        assert_eq!(look(line, 0o640), Status::Ok);
        assert_eq!(look(line, 0o644), Status::Fail);
        assert_eq!(look("# none\n", 0o600), Status::Fail);
    }

    #[test]
    fn who_may_connect_is_reported() {
        for (pairs, expected) in [
            (&[("HOST", "127.0.0.1")][..], Status::Ok),
            (&[("HOST", "0.0.0.0")], Status::Warn),
            (
                &[("HOST", "0.0.0.0"), ("API_TOKENS_FILE", "/x")],
                Status::Warn,
            ),
            (&[("HOST", "::1"), ("API_TOKENS_FILE", "/x")], Status::Ok),
            (
                &[
                    ("TLS_CERT_FILE", "/x"),
                    ("TLS_KEY_FILE", "/x"),
                    ("CLIENT_CA_CERT", "/x"),
                ],
                Status::Ok,
            ),
        ] {
            let found = who(&config(pairs).server);
            assert_eq!(found.status, expected, "{pairs:?}: {found:?}");
        }
    }
}
