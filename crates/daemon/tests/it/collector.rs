//! A collector for traces, made from the standard's own definitions.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lvp_testkit::daemon::wait_for;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::TcpIncoming;

/// An OTLP receiver: gRPC by the standard's own definitions.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    pub(crate) received: Received,
    runtime: Option<Runtime>,
}

#[derive(Clone, Default)]
pub(crate) struct Received {
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    /// The last request's `x-tenant`.
    pub(crate) tenant: Arc<Mutex<Option<String>>>,
    /// How long an answer takes.
    delay: Duration,
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        tokio::time::sleep(self.delay).await;
        let tenant = request.metadata().get("x-tenant");
        let tenant = tenant
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        *self.tenant.lock().unwrap_or_else(PoisonError::into_inner) = tenant;
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.push(request.into_inner());
        drop(requests);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::start_slow(Duration::ZERO).await
    }

    /// One that takes this long for each batch.
    pub(crate) async fn start_slow(delay: Duration) -> Self {
        let received = Received {
            delay,
            ..Received::default()
        };
        Self::start_at("127.0.0.1:0", received).await
    }

    pub(crate) async fn start_at(address: &str, received: Received) -> Self {
        // All of its connections end with its runtime, as if a process ended.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let bound = runtime.spawn(TcpListener::bind(address.to_owned())).await;
        let listener = bound.expect("no panic").expect("a port");
        let address = listener.local_addr().expect("it has an address");
        let service = TraceServiceServer::new(received.clone());
        runtime.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpIncoming::from(listener))
                .await
                .expect("the collector serves");
        });
        Self {
            address,
            received,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let requests = self.received.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let resources = self.requests().into_iter().flat_map(|r| r.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// The one span of this name, once it is there.
    pub(crate) async fn span(&self, name: &str) -> Span {
        wait_for(name, async || {
            self.spans().into_iter().find(|span| span.name == name)
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Ends TLS in front of a collector; gone when dropped.
pub(crate) async fn tls_before(
    collector: &Collector,
    (certificate, key): &(String, String),
) -> (String, AbortOnDropHandle<()>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("there are some")
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("it is PEM")],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("it is PEM"),
        )
        .expect("they belong together");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it has an address");
    let upstream = collector.address;
    let relay = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                // A client that does not trust this ends the handshake.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                if let Ok(mut upstream) = TcpStream::connect(upstream).await {
                    tokio::io::copy_bidirectional(&mut stream, &mut upstream)
                        .await
                        .ok();
                }
            });
        }
    });
    (format!("https://{address}"), AbortOnDropHandle::new(relay))
}
