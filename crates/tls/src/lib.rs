//! Explains why a TLS connection failed, and says what to do.
//!
//! The libraries' errors are exact, but help only those who know the libraries: `UnknownIssuer`,
//! `CaUsedAsEndEntity`, `InvalidContentType`. [`explain`] finds the reason in an error's chain, for the daemon
//! and for `lvpctl`.

use std::error::Error;
use std::io;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, InvalidMessage};
use time::OffsetDateTime;

/// The peer of a failed connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// Its host and port, as they are shown.
    pub host: &'a str,
    /// Whether TLS was used.
    pub is_tls: bool,
    /// The setting for further authorities: `minio.ca_cert`, `--ca-cert`.
    pub ca_setting: &'a str,
    /// The setting for the peer's address: `minio.endpoint`, `--endpoint`.
    pub endpoint_setting: &'a str,
}

/// The reason and what to do, if TLS is the cause. Retrying does not help with any of these.
pub fn explain(error: &(dyn Error + 'static), peer: &Peer<'_>) -> Option<String> {
    let Peer {
        host,
        endpoint_setting: endpoint,
        ..
    } = peer;
    match find::<rustls::Error>(error) {
        Some(rustls::Error::InvalidCertificate(reason)) => Some(certificate(reason, peer)),
        // The answer was not a TLS record.
        Some(rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        )) => Some(format!(
            "{host} does not speak TLS on this port: use http:// in {endpoint}, or the server's TLS port"
        )),
        Some(rustls::Error::AlertReceived(alert)) => alerted(*alert, peer),
        Some(rustls::Error::PeerIncompatible(_)) => Some(format!(
            "{host} and this program have no TLS version or cipher in common; TLS 1.2 or 1.3 is needed"
        )),
        _ if peer.is_tls => None,
        // An answer that is not HTTP is usually a TLS alert.
        _ => find::<hyper::Error>(error)
            .is_some_and(hyper::Error::is_parse)
            .then(|| {
                format!(
                    "{host} does not answer in HTTP: if this is its TLS port, use https:// in {endpoint}"
                )
            }),
    }
}

fn certificate(reason: &CertificateError, peer: &Peer<'_>) -> String {
    let Peer {
        host,
        ca_setting: ca,
        endpoint_setting: endpoint,
        ..
    } = peer;
    match reason {
        CertificateError::Expired => {
            format!(
                "The certificate of {host} has expired: renew it, or set this host's clock if \
                it is wrong"
            )
        }
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "The certificate of {host} expired on {}: renew it, or set this host's clock if it is wrong",
            date(*not_after)
        ),
        CertificateError::NotValidYet => {
            format!(
                "The certificate of {host} is not valid yet: set this host's clock if it is \
                behind"
            )
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "The certificate of {host} is not valid before {}: set this host's clock if it is \
             behind",
            date(*not_before)
        ),
        CertificateError::NotValidForName => format!(
            "The certificate of {host} is for another name: use its name in {endpoint}, or get a \
             certificate that was issued for this name"
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "The certificate of {host} is not for {}, but for {}: use one of these names in \
             {endpoint}, or get a certificate that was issued for this name",
            expected.to_str(),
            names(presented)
        ),
        CertificateError::UnknownIssuer => format!(
            "The certificate of {host} is not trusted: no known certificate authority has signed it; set {ca} to the \
             certificate of the one that did"
        ),
        CertificateError::BadSignature => format!(
            "The certificate of {host} was not signed by the certificate authority in {ca}, but \
             by another one with the same name: set {ca} to that one's certificate"
        ),
        CertificateError::Other(other) if is_authority(&*other.0) => format!(
            "The certificate of {host} belongs to a certificate authority (CA:TRUE), which a \
             server must not use: give the server a certificate that this authority signed, or a \
             self-signed one with basicConstraints=CA:FALSE, and set {ca} to it"
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!(
                "The certificate of {host} is not a server certificate: its extendedKeyUsage lacks serverAuth"
            )
        }
        reason => format!("The certificate of {host} cannot be used: {reason}"),
    }
}

fn is_authority(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    matches!(
        error.downcast_ref::<webpki::Error>(),
        Some(webpki::Error::CaUsedAsEndEntity)
    )
}

/// None for alerts that are not about the configuration of either side: they may be temporary.
fn alerted(alert: AlertDescription, peer: &Peer<'_>) -> Option<String> {
    let host = peer.host;
    Some(match alert {
        AlertDescription::CertificateRequired => {
            format!("{host} requires a client certificate, and none was sent")
        }
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::AccessDenied => {
            format!("{host} refused the client certificate ({alert:?})")
        }
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => format!(
            "{host} and this program have no TLS version or cipher in common; TLS 1.2 or 1.3 is needed"
        ),
        _ => return None,
    })
}

/// `DnsName("a")` and `IpAddress(127.0.0.1)` as plain names.
fn names(presented: &[String]) -> String {
    const MAX_NAMES: usize = 10;
    let bare = |name: &String| {
        let inner = name
            .split_once('(')
            .and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"').to_owned()
    };
    let mut names: Vec<_> = presented.iter().take(MAX_NAMES).map(bare).collect();
    match presented.len() {
        0 => return "no name at all (subjectAltName is missing)".to_owned(),
        all if all > MAX_NAMES => names.push("others".to_owned()),
        _ => {}
    }
    names.join(", ")
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).ok();
    let date = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    date.map_or_else(
        || "an unknown date".to_owned(),
        |time| time.date().to_string(),
    )
}

/// The first error of this type in the chain.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    if let Some(found) = error.downcast_ref::<E>() {
        return Some(found);
    }
    // The source of an I/O error is not the error that it wraps, but that one's source.
    let wrapped = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match wrapped {
        Some(wrapped) => find(wrapped),
        None => error.source().and_then(find),
    }
}
