//! TLS: the server's certificate, and the name in a client's certificate.
//!
//! A client may present a certificate or none. One that is presented must be valid and signed by
//! the configured CA, or the handshake fails: an invalid certificate is never treated like none.
//! What a client without a certificate may do is decided by the layer above.
//!
//! Sessions are never resumed: a resumed session would carry over a certificate that may have
//! expired since, or whose CA is no longer trusted.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use time::OffsetDateTime;
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config;
use crate::files;

/// TLS as currently configured by the files.
pub struct Tls {
    files: config::Tls,
    refused: AtomicU64,
    current: RwLock<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    not_after: Option<OffsetDateTime>,
    client_ca_not_after: Option<OffsetDateTime>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// The name in a verified certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The subject's common name, or otherwise its first alternative name.
    pub name: String,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("Cannot read {what} from {}", path.display())]
    Read {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is not valid PEM.
    #[error("Cannot read {what} from {}", path.display())]
    Pem {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A file without a certificate.
    #[error("There is no certificate in {}: it must hold PEM blocks", .0.display())]
    Empty(PathBuf),
    /// A certificate in the CA file that cannot be a CA.
    #[error("{} cannot be used as the CA of client certificates", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The CA file as a whole.
    #[error("{} cannot be used as the CA of client certificates", path.display())]
    Verifier {
        /// The file.
        path: PathBuf,
        /// Why.
        source: VerifierBuilderError,
    },
    /// The certificate and the key do not work together.
    #[error("{} and its key cannot be used: check that they belong together", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

impl Tls {
    /// Reads the files.
    pub fn load(files: config::Tls) -> Result<Self, TlsError> {
        let current = RwLock::new(read(&files)?);
        Ok(Self {
            files,
            current,
            refused: AtomicU64::new(0),
        })
    }

    /// Reads the files again. If they cannot be used, what was read before stays in force. Existing
    /// connections are not affected.
    pub fn reload(&self) -> Result<(), TlsError> {
        let read = read(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// Accepts TLS on a new connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current.config))
    }

    /// Counts a handshake that failed because of the client's certificate.
    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many handshakes failed because of the client's certificate.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// When the server's certificate expires, or a certificate of its chain if that is sooner.
    pub fn not_after(&self) -> Option<OffsetDateTime> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.not_after
    }

    /// When the first of the client CAs expires.
    pub fn client_ca_not_after(&self) -> Option<OffsetDateTime> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.client_ca_not_after
    }

    /// Whether clients may present certificates.
    pub fn has_client_ca(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// The files that are read.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let ca = self.files.client_ca.as_deref();
        [self.files.cert.as_path(), self.files.key.as_path()]
            .into_iter()
            .chain(ca)
    }
}

fn read(files: &config::Tls) -> Result<Current, TlsError> {
    let chain = certificates(&files.cert)?;
    let not_after = chain.iter().filter_map(ends_at).min();
    let mut client_ca_not_after = None;
    let what = "a private key";
    let key =
        PrivateKeyDer::from_pem_slice(&pem(&files.key, what)?).map_err(|source| TlsError::Pem {
            what,
            path: files.key.clone(),
            source,
        })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let usable = |source| TlsError::Certificate {
        path: files.cert.clone(),
        source,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(usable)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let authorities = certificates(path)?;
            client_ca_not_after = authorities.iter().filter_map(ends_at).min();
            for certificate in authorities {
                roots.add(certificate).map_err(|source| TlsError::Ca {
                    path: path.clone(),
                    source,
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|source| TlsError::Verifier {
                    path: path.clone(),
                    source,
                })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(usable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Current {
        config: Arc::new(config),
        not_after,
        client_ca_not_after,
    })
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificates";
    let found = CertificateDer::pem_slice_iter(&pem(path, what)?).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|source| TlsError::Pem {
        what,
        path: path.to_owned(),
        source,
    })?;
    if found.is_empty() {
        return Err(TlsError::Empty(path.to_owned()));
    }
    Ok(found)
}

/// Reads a file, whatever may have been put in its place.
fn pem(path: &Path, what: &'static str) -> Result<Vec<u8>, TlsError> {
    files::read(path, files::PEM_MAX_BYTES).map_err(|source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

fn ends_at(certificate: &CertificateDer<'_>) -> Option<OffsetDateTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    OffsetDateTime::from_unix_timestamp(certificate.validity().not_after.timestamp()).ok()
}

/// The name in the client's certificate, which the handshake has verified.
pub(super) fn identity(connection: &ServerConnection) -> Option<Identity> {
    let certificate = connection.peer_certificates()?.first()?;
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let common_name = certificate
        .subject()
        .iter_common_name()
        .find_map(|name| name.as_str().ok());
    let alternative = || {
        let names = certificate.subject_alternative_name().ok()??;
        names
            .value
            .general_names
            .iter()
            .find_map(|name| match name {
                GeneralName::DNSName(name)
                | GeneralName::RFC822Name(name)
                | GeneralName::URI(name) => Some(*name),
                _ => None,
            })
    };
    // A certificate without any name is still signed by the CA.
    let name = common_name.or_else(alternative).unwrap_or("unnamed");
    Some(Identity {
        name: name.to_owned(),
    })
}

/// Whether a handshake failed because of what the client presented.
pub(super) fn is_about_certificate(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(
        error,
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
    )
}
