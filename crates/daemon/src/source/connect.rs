//! How connections to a store are made: certificates, proxy, name resolution and time limits.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::SourceSettings;
use super::error::{Result, SourceError, SourceErrorKind};
use super::url::loopback;
use crate::secret::SecretUrl;
use crate::{files, web};

/// Idle connections are closed before the usual servers and firewalls drop them silently.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The system's resolver, but for what never leaves the host.
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Addrs = match loopback(name.as_str()) {
                Some(addresses) => Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0))),
                None => {
                    let found: Vec<_> =
                        tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
                    Box::new(found.into_iter())
                }
            };
            Ok(found)
        })
    }
}

/// A client for requests to the store, or to mirrors of it, through this proxy if there is one.
pub(super) fn build_http(
    settings: &SourceSettings,
    proxy: Option<&SecretUrl>,
) -> Result<reqwest::Client> {
    let ca = match &settings.ca_cert {
        Some(path) => read_certificates(path)?,
        None => Vec::new(),
    };
    let proxy = match proxy {
        Some(proxy) => Some(proxy_of(proxy, &settings.no_proxy)?),
        None => None,
    };
    let builder = || {
        let client = match &proxy {
            Some(proxy) => web::client().proxy(proxy.clone()),
            None => web::client(),
        };
        client
            // Parallel ranges need connections of their own, and HTTP/2 would use a single one.
            .http1_only()
            .connect_timeout(settings.connect_timeout)
            .dns_resolver(Arc::new(Resolver))
            .read_timeout(settings.idle_timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            // To read how long the server's certificate is valid.
            .tls_info(true)
    };
    match builder().tls_certs_merge(ca).build() {
        Ok(client) => Ok(client),
        // A host without the ca-certificates package: plain HTTP still works, and every TLS
        // handshake fails.
        Err(error) if settings.ca_cert.is_none() => {
            tracing::warn!(
                error = &error as &dyn Error,
                "There are no certificate authorities on this host: https endpoints need \
                 minio.ca_cert"
            );
            builder().tls_certs_only([]).build()
        }
        Err(error) => Err(error),
    }
    .map_err(|error| {
        SourceError::new(
            SourceErrorKind::Settings,
            "The HTTP client cannot be set up; check minio.ca_cert",
        )
        .with_source(error)
    })
}

/// The configured proxy, for all hosts but those that are excepted.
fn proxy_of(proxy: &SecretUrl, no_proxy: &[String]) -> Result<reqwest::Proxy> {
    let used = reqwest::Proxy::all(proxy.expose().clone()).map_err(|error| {
        SourceError::new(
            SourceErrorKind::Settings,
            format!("The proxy {proxy} (minio.proxy) cannot be used"),
        )
        .with_source(error)
    })?;
    Ok(used.no_proxy(reqwest::NoProxy::from_string(&no_proxy.join(","))))
}

fn read_certificates(path: &Path) -> Result<Vec<reqwest::Certificate>> {
    let error = |why: &str| {
        SourceError::new(
            SourceErrorKind::Settings,
            format!("The file {} of minio.ca_cert {why}", path.display()),
        )
    };
    let pem = files::read(path, files::PEM_MAX_BYTES);
    let pem = pem.map_err(|cause| error("cannot be read").with_source(cause))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|cause| error("is not a PEM file").with_source(cause))?;
    if certificates.is_empty() {
        return Err(error("contains no certificate"));
    }
    Ok(certificates)
}
