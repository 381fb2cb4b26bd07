//! A certificate authority for one test.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// A CA with its certificate in a file; issues server certificates for this machine's loopback.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
    _directory: TempDir,
}

impl TestCa {
    /// Makes a new CA.
    pub fn new() -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("ca.pem");
        std::fs::write(&path, certificate.pem())?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate: path,
            _directory: directory,
        })
    }

    /// The PEM file of the CA's certificate.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// A server side of TLS for `127.0.0.1` and `localhost`.
    ///
    /// # Panics
    ///
    /// When the libraries refuse what was made for them, which is this function's mistake.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.try_acceptor()
            .unwrap_or_else(|error| panic!("no TLS configuration for a test: {error}"))
    }

    fn try_acceptor(&self) -> Result<TlsAcceptor, Box<dyn std::error::Error>> {
        let key = KeyPair::generate()?;
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &self.issuer)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
