//! Single requests: signing, sending, and classifying failures.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, Method, Uri, header};
use lvp_tls::Peer;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpRequest, HttpRequestBody};
use reqwest::Response;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use url::{Position, Url};

use super::SourceSettings;
use super::connect::build_http;
use super::credentials::Credentials;
use super::error::{Result, SourceError, SourceErrorKind};
use super::mirrors::Mirror;
use super::mover::Mover;
use super::retry::{Failure, Observer};
use super::url::{ImageUrl, UrlPolicy, without_query};

/// Redirects that are followed, each to an allowed host.
const MAX_REDIRECTS: usize = 5;

/// Where a request goes, redirects resolved.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) url: Url,
    /// Whether the endpoint's credentials sign it.
    pub(super) signed: bool,
}

impl Location {
    /// Where an image is, before any redirect.
    pub(super) fn of(url: &ImageUrl) -> Self {
        Self {
            url: url.request_url(),
            signed: url.is_signed_by_us(),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (signed: {})", without_query(&self.url), self.signed)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_query(&self.url))
    }
}

/// What a source has done since it was made.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests that were sent.
    pub requests: AtomicU64,
    /// Requests that were sent again after a passing fault.
    pub retries: AtomicU64,
    /// Body bytes that arrived.
    pub received_bytes: AtomicU64,
}

/// Sends requests that are signed where they have to be, each exactly once.
pub(super) struct Client {
    http: reqwest::Client,
    /// For mirrors, which are not behind the proxy.
    direct: reqwest::Client,
    credentials: Credentials,
    region: String,
    /// A proxy that requests go through, as it is shown.
    proxy: Option<String>,
    /// The beginning of paths that a reverse proxy removes, so that signatures do not cover it.
    unsigned: Option<String>,
    mover: Mover,
    pub(super) counters: Counters,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(
        settings: &SourceSettings,
        unsigned: Option<String>,
        mover: Mover,
    ) -> Result<Self> {
        let http = build_http(settings, settings.proxy.as_ref())?;
        let direct = match settings.proxy {
            Some(_) => build_http(settings, None)?,
            None => http.clone(),
        };
        Ok(Self {
            credentials: Credentials::new(settings, &http)?,
            http,
            direct,
            region: settings.region.clone(),
            proxy: settings.proxy.as_ref().map(ToString::to_string),
            unsigned,
            mover,
            counters: Counters::default(),
        })
    }

    /// Sends one request and returns the answer whatever its status, unless no answer came.
    pub(super) async fn send(
        &self,
        method: Method,
        location: &Location,
        headers: HeaderMap,
    ) -> Result<Response, Failure> {
        self.send_to(None, None, method, location, headers).await
    }

    /// Sends one request, to a mirror if there is one to ask: what it gets is what the location's server would get.
    pub(super) async fn send_to(
        &self,
        observer: Option<&dyn Observer>,
        mirror: Option<&Mirror>,
        method: Method,
        location: &Location,
        headers: HeaderMap,
    ) -> Result<Response, Failure> {
        let signature = self.sign(&method, location).await?;
        if let Some(observer) = observer {
            observer.asked();
        }
        let request = match mirror {
            None => {
                self.counters.requests.fetch_add(1, Ordering::Relaxed);
                self.http.request(method, location.url.clone())
            }
            Some(mirror) => {
                mirror.asked();
                let host = &location.url[Position::BeforeHost..Position::AfterPort];
                let url = mirror.instead_of(&location.url);
                (self.direct.request(method, url)).header(header::HOST, host)
            }
        };
        let request = request.headers(headers).headers(signature);
        // A connection that this opens stays with the runtime that it was opened in.
        let sent = AbortOnDropHandle::new(self.mover().spawn(request.send()));
        match sent.await {
            Ok(answer) => answer.map_err(|error| match mirror {
                None => self.unreached(location, error),
                Some(mirror) => unanswered(mirror, error),
            }),
            // Only a runtime that shuts down ends a task early.
            Err(error) => Err(Failure::last(
                SourceError::new(
                    SourceErrorKind::Cancelled,
                    format!("The request for {location} was interrupted by a shutdown"),
                )
                .with_source(error),
            )),
        }
    }

    /// A request without an answer. Whether it is the proxy that cannot be reached is not told by the HTTP library.
    fn unreached(&self, location: &Location, error: reqwest::Error) -> Failure {
        let is_connect = error.is_connect();
        let mut failure = no_answer(location, error);
        if let Some(proxy) = self.proxy.as_ref().filter(|_| is_connect) {
            failure.error = SourceError::new(
                failure.error.kind(),
                format!("There is no connection through the proxy {proxy} (minio.proxy)"),
            )
            .with_source(failure.error);
        }
        failure
    }

    pub(super) fn mover(&self) -> &Handle {
        self.mover.handle()
    }

    /// Sends one request and follows its redirects; only to hosts that are allowed, and with the
    /// credentials only within the endpoint's own origin.
    pub(super) async fn follow(
        &self,
        observer: Option<&dyn Observer>,
        policy: &UrlPolicy,
        method: Method,
        location: &mut Location,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        for _ in 0..=MAX_REDIRECTS {
            let sent = self.send_to(observer, None, method.clone(), location, headers.clone());
            let response = sent.await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            *location = redirected(policy, location, &response)?;
        }
        Err(Failure::last(SourceError::new(
            SourceErrorKind::Protocol,
            format!("{location} redirects more than {MAX_REDIRECTS} times"),
        )))
    }

    /// The headers that SigV4 needs. Only the host and `x-amz-*` are signed, so that a proxy which handles
    /// ranges or conditions itself does not break the signature.
    async fn sign(&self, method: &Method, location: &Location) -> Result<HeaderMap, Failure> {
        if !location.signed {
            return Ok(HeaderMap::new());
        }
        let Some(credential) = self.credentials.get().await? else {
            return Ok(HeaderMap::new());
        };
        let unsigned = |error: Box<dyn Error + Send + Sync>| {
            SourceError::new(
                SourceErrorKind::Settings,
                format!("The request for {location} cannot be signed; check minio.region and keys"),
            )
            .with_source(error)
        };
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.clone();
        *request.uri_mut() = Uri::try_from(self.signed_url(location).as_str())
            .map_err(|error| unsigned(error.into()))?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|error| unsigned(error.into()))?;
        Ok(request.into_parts().0.headers)
    }
}

impl Client {
    /// The URL that the server sees: without what a reverse proxy removes from it.
    fn signed_url(&self, location: &Location) -> Url {
        let mut url = location.url.clone();
        let rest = self.unsigned.as_ref().and_then(|prefix| {
            let rest = location.url.path().strip_prefix(prefix.as_str())?;
            Some(format!("/{rest}"))
        });
        if let Some(rest) = rest {
            url.set_path(&rest);
        }
        url
    }
}

/// Where a redirect leads, if it may be followed.
fn redirected(policy: &UrlPolicy, from: &Location, response: &Response) -> Result<Location> {
    let status = response.status();
    let protocol = |why: &str| {
        SourceError::new(
            SourceErrorKind::Protocol,
            format!("{from} answered {status} {why}"),
        )
        .with_status(status.as_u16())
    };
    let target = response
        .headers()
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| protocol("without a location; check minio.endpoint and minio.region"))?;
    let url = from
        .url
        .join(target)
        .map_err(|cause| protocol("with a malformed location").with_source(cause))?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() {
        return Err(protocol("with a location that is not a plain http(s) URL"));
    }
    if from.url.scheme() == "https" && url.scheme() == "http" {
        return Err(protocol("with a location that leaves https for http"));
    }
    let same_origin = url.origin() == from.url.origin();
    if !same_origin {
        policy.check_host(&url).map_err(|refusal| {
            SourceError::new(
                SourceErrorKind::HostNotAllowed,
                format!("{from} redirects to another host"),
            )
            .with_status(status.as_u16())
            .with_source(refusal)
        })?;
    }
    Ok(Location {
        url,
        signed: from.signed && same_origin,
    })
}

/// A request without an answer, or an answer that was cut off.
pub(super) fn no_answer(location: &Location, error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let host = location.url.authority();
    if error.is_builder() {
        return Failure::last(
            SourceError::new(
                SourceErrorKind::Protocol,
                format!("The request for {location} cannot be built"),
            )
            .with_source(error),
        );
    }
    let peer = Peer {
        host,
        is_tls: location.url.scheme() == "https",
        ca_setting: "minio.ca_cert",
        endpoint_setting: match location.signed {
            true => "minio.endpoint",
            false => "the image's URL",
        },
    };
    if let Some(reason) = lvp_tls::explain(&error, &peer) {
        let error = SourceError::new(SourceErrorKind::Unavailable, reason).with_source(error);
        return Failure::last(error);
    }
    let happened = if error.is_connect() {
        format!("{host} cannot be reached; check minio.endpoint and that the server is up")
    } else if error.is_timeout() {
        format!("{host} stopped sending while {location} was read")
    } else {
        format!("The connection to {host} was lost while {location} was read")
    };
    Failure::passing(SourceError::new(SourceErrorKind::Unavailable, happened).with_source(error))
}

/// A mirror's request without an answer.
fn unanswered(mirror: &Mirror, error: reqwest::Error) -> Failure {
    let what = match error.is_connect() {
        true => "cannot be reached",
        false => "did not answer",
    };
    let error = SourceError::new(
        SourceErrorKind::Unavailable,
        format!("The mirror {} {what}", mirror.shown()),
    )
    .with_source(error.without_url());
    Failure::passing(error)
}

/// A header's value, if it is text.
pub(super) fn header_text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
