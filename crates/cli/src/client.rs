//! The daemon's HTTP API as calls.
//!
//! Every call has a deadline. An answer that is not a success becomes a [`Failure`] with the
//! daemon's own message and the exit code for the status.

use std::path::Path;
use std::time::Duration;

use lvp_api::error::chain;
use lvp_api::plan::Plan;
use lvp_api::{
    CacheFetchRequest, CachedImages, CancelledJob, DeletedImage, GoldenVolumes, Health,
    JobAccepted, JobId, JobList, JobLog, JobStatus, Priority, ProvisionRequest, Readiness,
    Sha256Digest, Timeline, VerifiedVolume, VerifyRequest, VolumeInfo, VolumeList, VolumeName,
    routes,
};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Body, Certificate, Identity, Method, RequestBuilder, StatusCode, Url};
use serde::de::DeserializeOwned;

use crate::config::{Settings, cannot_read};
use crate::exit::{Exit, Failure};
use crate::sse::EventStream;

mod answer;

/// How long an answer may take unless `--timeout` says otherwise. Nearly every call is answered
/// from memory or SQLite; listing volumes runs LVM, which takes seconds on a busy host.
const DEFAULT_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long connecting may take: hypervisor and operator are in the same network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a request whose answer was lost is sent again under its idempotency key.
const LOST_ANSWER_RETRIES: u32 = 3;

/// The daemon at one endpoint.
pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: String,
    answer_timeout: Duration,
    has_explicit_timeout: bool,
}

/// A part of a list.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Page {
    pub(crate) limit: Option<u32>,
    pub(crate) offset: Option<u32>,
}

impl Client {
    /// Reads the certificates and prepares connections; connects to nothing yet.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &settings.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .map_err(|_| Failure::usage("The token cannot be sent in a header"))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("lvpctl/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout.unwrap_or(CONNECT_TIMEOUT)))
            // The daemon never redirects; following one would carry the token elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(path) = &settings.ca_cert {
            let authorities = Certificate::from_pem_bundle(&read(path)?)
                .map_err(|error| not_pem(path, &chain(&error)))?;
            if authorities.is_empty() {
                return Err(not_pem(path, "it contains no certificate"));
            }
            builder = builder.tls_certs_only(authorities);
        } else if settings.endpoint.starts_with("http:") {
            // Loading the system's authorities fails on a machine without any, and plain HTTP
            // needs none.
            builder = builder.tls_certs_only([]);
        }
        if let Some((cert, key)) = &settings.client_identity {
            let mut pem = read(cert)?;
            pem.push(b'\n');
            pem.extend(read(key)?);
            let identity = Identity::from_pem(&pem).map_err(|error| {
                let both = format!("{} with {}", cert.display(), key.display());
                not_pem(Path::new(&both), &chain(&error))
            })?;
            builder = builder.identity(identity);
        }
        let http = builder.build().map_err(|error| {
            let hint = if settings.ca_cert.is_none() {
                "; install ca-certificates, or give --ca-cert"
            } else {
                ""
            };
            Failure::usage(format!("TLS cannot be set up: {}{hint}", chain(&error)))
        })?;
        Ok(Self {
            http,
            endpoint: settings.endpoint.clone(),
            answer_timeout: settings.timeout.unwrap_or(DEFAULT_ANSWER_TIMEOUT),
            has_explicit_timeout: settings.timeout.is_some(),
        })
    }

    /// Requests a volume. If the answer is lost, the request is sent again with the same idempotency key, so
    /// that it cannot create two jobs.
    pub(crate) async fn provision(
        &self,
        request: &ProvisionRequest,
        idempotency_key: &str,
    ) -> Result<JobAccepted, Failure> {
        let key = HeaderValue::from_str(idempotency_key)
            .map_err(|_| Failure::usage("The idempotency key has control characters"))?;
        let mut retries_left = LOST_ANSWER_RETRIES;
        loop {
            let call = self
                .request(Method::POST, routes::JOBS)
                .header("Idempotency-Key", &key)
                .json(request);
            match call.timeout(self.answer_timeout).send().await {
                Ok(response) => return self.answer(response).await,
                Err(error) if error.is_connect() || error.is_timeout() || error.is_builder() => {
                    return Err(self.no_answer(&error));
                }
                Err(error) if retries_left == 0 => return Err(self.no_answer(&error)),
                Err(_) => retries_left -= 1,
            }
        }
    }

    /// Lists jobs. `filter` has the API's query parameters; those without a value are omitted.
    pub(crate) async fn jobs(
        &self,
        filter: impl IntoIterator<Item = (&'static str, Option<String>)>,
        page: Page,
    ) -> Result<JobList, Failure> {
        let mut query = page.query();
        let given = filter.into_iter();
        query.extend(given.filter_map(|(name, value)| Some((name, value?))));
        self.get(routes::JOBS, &query).await
    }

    pub(crate) async fn job(&self, id: JobId) -> Result<JobStatus, Failure> {
        self.get(&fill(routes::JOB, &id), &[]).await
    }

    pub(crate) async fn timeline(&self, id: JobId) -> Result<Timeline, Failure> {
        self.get(&fill(routes::TIMELINE, &id), &[]).await
    }

    /// The job's log, after the line with this number.
    pub(crate) async fn log(&self, id: JobId, after: Option<u64>) -> Result<JobLog, Failure> {
        let query: Vec<_> = after
            .map(|after| ("after", after.to_string()))
            .into_iter()
            .collect();
        self.get(&fill(routes::LOG, &id), &query).await
    }

    pub(crate) async fn plan(&self, request: &ProvisionRequest) -> Result<Plan, Failure> {
        self.send(self.request(Method::POST, routes::PLAN).json(request))
            .await
    }

    pub(crate) async fn retry(&self, id: JobId) -> Result<JobAccepted, Failure> {
        self.of_ended(Method::POST, &fill(routes::RETRY, &id)).await
    }

    pub(crate) async fn cancel(&self, id: JobId) -> Result<CancelledJob, Failure> {
        self.of_ended(Method::POST, &fill(routes::CANCEL, &id))
            .await
    }

    /// A call that depends on whether the job has ended.
    async fn of_ended<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, Failure> {
        let call = self.request(method, path);
        match self.send(call).await {
            // The API answers 400 if the job has already ended, or has not: the id is known to be well-formed.
            Err(failure) if failure.exit == Exit::Failed => {
                Err(Failure::new(Exit::Conflict, failure.to_string()))
            }
            other => other,
        }
    }

    /// Opens the job's stream of server-sent events.
    pub(crate) async fn events(&self, id: JobId) -> Result<EventStream, Failure> {
        let call = self.request(Method::GET, &fill(routes::EVENTS, &id));
        self.stream(call).await
    }

    /// Opens the stream of all jobs' events, starting after the event with this id unless it is empty.
    pub(crate) async fn all_events(&self, last_id: &str) -> Result<EventStream, Failure> {
        let mut call = self.request(Method::GET, routes::ALL_EVENTS);
        if !last_id.is_empty() {
            call = call.header("Last-Event-ID", last_id);
        }
        self.stream(call).await
    }

    async fn stream(&self, call: RequestBuilder) -> Result<EventStream, Failure> {
        let call = call.header(header::ACCEPT, "text/event-stream");
        // The stream itself has no time limit, only its beginning has.
        let response = tokio::time::timeout(self.answer_timeout, call.send())
            .await
            .map_err(|_| self.no_answer_in_time())?
            .map_err(|error| self.no_answer(&error))?;
        let response = self.check(response).await?;
        let is_stream = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("text/event-stream"));
        if !is_stream {
            return Err(self.not_understood("it is not an event stream"));
        }
        Ok(EventStream::new(response))
    }

    pub(crate) async fn cached_images(&self, page: Page) -> Result<CachedImages, Failure> {
        self.get(routes::CACHE_IMAGES, &page.query()).await
    }

    pub(crate) async fn fetch_into_cache(
        &self,
        request: &CacheFetchRequest,
    ) -> Result<JobAccepted, Failure> {
        let call = self.request(Method::POST, routes::CACHE_FETCH);
        self.send(call.json(request)).await
    }

    pub(crate) async fn delete_cached(&self, key: &Sha256Digest) -> Result<DeletedImage, Failure> {
        let path = routes::CACHE_IMAGE.replace("{key}", &key.to_string());
        self.send(self.request(Method::DELETE, &path)).await
    }

    pub(crate) async fn golden(&self) -> Result<GoldenVolumes, Failure> {
        self.get(routes::GOLDEN, &[]).await
    }

    pub(crate) async fn make_golden(
        &self,
        request: &CacheFetchRequest,
    ) -> Result<JobAccepted, Failure> {
        let call = self.request(Method::POST, routes::GOLDEN);
        self.send(call.json(request)).await
    }

    pub(crate) async fn delete_golden(&self, key: &Sha256Digest) -> Result<DeletedImage, Failure> {
        let path = routes::GOLDEN_ONE.replace("{key}", &key.to_string());
        self.send(self.request(Method::DELETE, &path)).await
    }

    pub(crate) async fn volumes(&self) -> Result<VolumeList, Failure> {
        self.get(routes::VOLUMES, &[]).await
    }

    pub(crate) async fn adopt(&self, name: &VolumeName) -> Result<VolumeInfo, Failure> {
        let path = routes::VOLUME_ADOPT.replace("{name}", name.as_str());
        self.send(self.request(Method::POST, &path)).await
    }

    /// Has the daemon verify a volume as a job; None if there is no such volume, or the daemon is of a release that
    /// does not do that.
    pub(crate) async fn verify_as_job(
        &self,
        name: &VolumeName,
        priority: Option<Priority>,
    ) -> Result<Option<JobAccepted>, Failure> {
        let request = VerifyRequest {
            volume_name: name.to_string(),
            correlation_id: None,
            priority,
        };
        let call = self
            .request(Method::POST, routes::VERIFICATIONS)
            .json(&request);
        let call = call.timeout(self.answer_timeout);
        let response = call.send().await.map_err(|error| self.no_answer(&error))?;
        // The volume does not exist, or the route does not: the older route tells.
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            _ => self.answer(response).await.map(Some),
        }
    }

    /// Has the daemon read a volume and compare it.
    ///
    /// Without an explicit `--timeout`, only connecting is limited: the duration depends on the volume's size.
    pub(crate) async fn verify(&self, name: &VolumeName) -> Result<VerifiedVolume, Failure> {
        let path = routes::VOLUME_VERIFY.replace("{name}", name.as_str());
        let mut call = self.request(Method::POST, &path);
        if self.has_explicit_timeout {
            call = call.timeout(self.answer_timeout);
        }
        let response = call.send().await.map_err(|error| self.no_answer(&error))?;
        self.answer(response).await
    }

    /// Streams `file` into a libvirt storage volume.
    ///
    /// Without an explicit `--timeout`, only connecting is limited: the duration depends on the file's size.
    pub(crate) async fn upload(
        &self,
        file: tokio::fs::File,
        size_bytes: u64,
        volume: &str,
        pool: &str,
    ) -> Result<serde_json::Value, Failure> {
        let header = |name: &str, text: &str| {
            HeaderValue::from_str(text)
                .map_err(|_| Failure::usage(format!("The {name} name has control characters")))
        };
        let mut call = self
            .request(Method::PUT, routes::UPLOAD_V1)
            .header("X-Volume-Name", header("volume", volume)?)
            .header("X-Pool-Name", header("pool", pool)?)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, size_bytes)
            .body(Body::from(file));
        if self.has_explicit_timeout {
            call = call.timeout(self.answer_timeout);
        }
        let response = call.send().await.map_err(|error| self.no_answer(&error))?;
        self.answer(response).await
    }

    pub(crate) async fn health(&self) -> Result<Health, Failure> {
        self.get(routes::HEALTH, &[]).await
    }

    /// Readiness. Here, 503 is an answer and not a failure.
    pub(crate) async fn readiness(&self) -> Result<Readiness, Failure> {
        let call = self.request(Method::GET, routes::READYZ);
        let response = call
            .timeout(self.answer_timeout)
            .send()
            .await
            .map_err(|error| self.no_answer(&error))?;
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            return self.parse(response).await;
        }
        self.answer(response).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.endpoint))
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Failure> {
        let mut url = Url::parse(&format!("{}{path}", self.endpoint))
            .map_err(|error| Failure::usage(format!("The endpoint is wrong: {error}")))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.send(self.http.get(url)).await
    }
}

impl Page {
    fn query(self) -> Vec<(&'static str, String)> {
        let limit = self.limit.map(|limit| ("limit", limit.to_string()));
        let offset = self.offset.map(|offset| ("offset", offset.to_string()));
        limit.into_iter().chain(offset).collect()
    }
}

fn fill(template: &str, id: &JobId) -> String {
    template.replace("{id}", &id.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| cannot_read(path, &error))
}

fn not_pem(path: &Path, why: &str) -> Failure {
    Failure::usage(format!("{} cannot be used: {why}", path.display()))
}
