//! A small S3 server over a directory, inside the process.
//!
//! `ROOT/BUCKET/KEY` is object `KEY` of `BUCKET`. The protocol (routing, SigV4, XML, errors) is
//! `s3s`, and most operations are `s3s-fs`; reading objects is [`Store`]'s own, because `s3s-fs`
//! ignores `If-Match`, reads in pieces of 4 KiB, and hashes a whole file for each range of it
//! when the file was not uploaded through it.
//!
//! The demo of the daemon uses it, and the tests, which also want to know what was read:
//! [`Traffic`] counts requests and the bytes that really left, per object.

mod store;
mod traffic;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

pub use store::Store;
pub use traffic::{ObjectTraffic, Traffic};

/// Time for a client to send the head of its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a server listens, and which credentials it accepts.
#[derive(Clone)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one.
    pub address: SocketAddr,
    /// Access key and secret key; `None` lets everybody in.
    pub credentials: Option<(String, String)>,
    /// Speaks TLS with this configuration.
    pub tls: Option<TlsAcceptor>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            credentials: None,
            tls: None,
        }
    }
}

/// A running server; stops, and closes its connections, when it is dropped.
#[derive(Debug)]
pub struct S3Server {
    endpoint: String,
    address: SocketAddr,
    traffic: Arc<Traffic>,
    _accepting: AbortOnDropHandle<()>,
}

impl S3Server {
    /// Serves the directory, which must exist.
    pub async fn start(root: &Path, options: Options) -> io::Result<Self> {
        let store = Store::new(root)?;
        let mut builder = S3ServiceBuilder::new(store);
        if let Some((access_key, secret_key)) = options.credentials {
            builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
        }
        let service = builder.build();
        let listener = TcpListener::bind(options.address).await?;
        let address = listener.local_addr()?;
        let scheme = if options.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let traffic = Arc::new(Traffic::default());
        let accepting = tokio::spawn(accept(listener, options.tls, service, Arc::clone(&traffic)));
        Ok(Self {
            endpoint: format!("{scheme}://{address}"),
            address,
            traffic,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    /// The server's URL, without a trailing slash.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests it got and what it sent.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}

/// Accepts until it is aborted; its connections end with it.
async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: S3Service,
    traffic: Arc<Traffic>,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: wait for some to be closed.
                tracing::warn!(%error, "Cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, service, traffic) = (tls.clone(), service.clone(), Arc::clone(&traffic));
        connections.spawn(async move {
            if let Err(error) = connection(stream, tls, service, traffic).await {
                tracing::debug!(error = &*error, "A client's connection ended badly");
            }
        });
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    service: S3Service,
    traffic: Arc<Traffic>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    match tls {
        Some(tls) => serve(tls.accept(stream).await?, service, traffic).await,
        None => serve(stream, service, traffic).await,
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S3Service,
    traffic: Arc<Traffic>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let _open = traffic.connection();
    let counted = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let record = traffic.request(request.method(), request.uri().path());
        let answer = service.call(request.map(s3s::Body::from));
        async move { answer.await.map(|response| record.count(response)) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), counted)
        .await?;
    Ok(())
}
