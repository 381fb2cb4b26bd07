//! The collector: OTLP over gRPC or HTTP.

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{
    Compression as Compressed, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _,
};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Compression, OtlpProtocol, Tracing};
use crate::{files, web};

/// The error for an endpoint. It does not show the endpoint, which may hold credentials.
const UNUSABLE: &str =
    "tracing.endpoint cannot be used: it must be a URL such as https://otel.example.com:4317";

/// Creates the exporter for this endpoint. Must be called within a runtime, which runs the sending.
pub(super) fn exporter(config: &Tracing, endpoint: &str) -> anyhow::Result<SpanExporter> {
    let ca = config
        .ca_cert
        .as_deref()
        .filter(|_| endpoint.starts_with("https://"))
        .map(|path| {
            files::read(path, files::PEM_MAX_BYTES).with_context(|| {
                format!(
                    "Cannot read the collector's CA {} (tracing.ca_cert)",
                    path.display()
                )
            })
        })
        .transpose()?;
    match config.protocol {
        OtlpProtocol::Grpc => grpc(config, endpoint, ca),
        OtlpProtocol::HttpProtobuf => posted(config, endpoint, ca),
    }
}

fn grpc(config: &Tracing, endpoint: &str, ca: Option<Vec<u8>>) -> anyhow::Result<SpanExporter> {
    let mut exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_protocol(Protocol::Grpc)
        .with_timeout(config.timeout);
    if endpoint.starts_with("https://") {
        let mut tls = ClientTlsConfig::new().with_native_roots();
        if let Some(pem) = ca {
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        exporter = exporter.with_tls_config(tls);
    }
    if config.compression == Compression::Gzip {
        exporter = exporter.with_compression(Compressed::Gzip);
    }
    exporter.build().context(UNUSABLE)
}

fn posted(config: &Tracing, endpoint: &str, ca: Option<Vec<u8>>) -> anyhow::Result<SpanExporter> {
    let mut http = web::client().timeout(config.timeout);
    if let Some(pem) = ca {
        let authorities = reqwest::Certificate::from_pem_bundle(&pem)
            .context("tracing.ca_cert has no usable certificates")?;
        http = http.tls_certs_merge(authorities);
    } else if endpoint.starts_with("http://") {
        // Loading the system's CAs fails on a host without any, and plain HTTP needs none.
        http = http.tls_certs_only([]);
    }
    let client = Client {
        http: http
            .build()
            .context("Cannot create the HTTP client for traces")?,
        runtime: Handle::current(),
    };
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(endpoint)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(config.timeout);
    if config.compression == Compression::Gzip {
        exporter = exporter.with_compression(Compressed::Gzip);
    }
    exporter.build().context(UNUSABLE)
}

/// Posts from the SDK's export thread, which has no runtime of its own.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: Handle,
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move {
            let answer = http.execute(request).await?.error_for_status()?;
            let status = answer.status();
            let body = answer.bytes().await?;
            Ok::<_, reqwest::Error>((status, body))
        });
        let (status, body) = AbortOnDropHandle::new(sent)
            .await?
            .map_err(reqwest::Error::without_url)?;
        Ok(Response::builder().status(status).body(body)?)
    }
}
