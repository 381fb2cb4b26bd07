//! Whether the endpoint and its mirrors answer, and what the endpoint says about itself.

use std::time::Duration;

use ::http::{HeaderMap, Method, header};
use time::OffsetDateTime;

use super::error::{Result, SourceError, SourceErrorKind};
use super::http::{Location, header_text};
use super::refusal::Refusal;
use super::retry::Failure;
use super::{Inner, Source};

/// A health probe that takes longer counts as down.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What object storage reported about itself.
#[derive(Debug)]
pub struct Look {
    /// Its clock.
    pub date: Option<OffsetDateTime>,
    /// Its certificate (DER), over TLS.
    pub certificate: Option<Vec<u8>>,
    /// Why it refuses requests.
    pub refused: Option<SourceError>,
}

impl Source {
    /// Whether object storage answers and knows the credentials; one request, no retries.
    ///
    /// Lists the buckets. Credentials that may only get objects are refused with the code `AccessDenied` after
    /// their signature was verified, which counts as success.
    pub async fn probe(&self) -> Result<()> {
        self.look().await?.refused.map_or(Ok(()), Err)
    }

    /// What object storage reports about itself in the answer to [`Source::probe`]'s request. An error if there
    /// is no answer at all.
    pub async fn look(&self) -> Result<Look> {
        let Some(endpoint) = self.inner.policy.endpoint() else {
            return Err(SourceError::new(
                SourceErrorKind::Settings,
                "No object storage is configured; set minio.endpoint (MINIO_ENDPOINT)",
            ));
        };
        let location = Location {
            url: endpoint.clone(),
            signed: true,
        };
        tokio::time::timeout(PROBE_TIMEOUT, self.inner.look(&location))
            .await
            .unwrap_or_else(|_| {
                Err(Failure::passing(SourceError::new(
                    SourceErrorKind::Unavailable,
                    format!("{location} did not answer within {PROBE_TIMEOUT:?}"),
                )))
            })
            .map_err(|failure| failure.error.with_attempts(1))
    }

    /// What each mirror answers to a request for the list of buckets, which it may refuse.
    pub async fn look_at_mirrors(&self) -> Vec<(String, Result<u16>)> {
        let Some(endpoint) = self.inner.policy.endpoint() else {
            return Vec::new();
        };
        let location = Location {
            url: endpoint.clone(),
            signed: true,
        };
        let client = &self.inner.client;
        let mut answers = Vec::new();
        for mirror in self.inner.mirrors.all() {
            let asked =
                client.send_to(None, Some(mirror), Method::GET, &location, HeaderMap::new());
            let answer = match tokio::time::timeout(PROBE_TIMEOUT, asked).await {
                Ok(Ok(response)) => Ok(response.status().as_u16()),
                Ok(Err(failure)) => Err(failure.error.with_attempts(1)),
                Err(_) => Err(SourceError::new(
                    SourceErrorKind::Unavailable,
                    format!("It did not answer within {PROBE_TIMEOUT:?}"),
                )),
            };
            answers.push((mirror.shown().to_owned(), answer));
        }
        answers
    }
}

impl Inner {
    async fn look(&self, location: &Location) -> Result<Look, Failure> {
        let response = self
            .client
            .send(Method::GET, location, HeaderMap::new())
            .await?;
        let date = header_text(response.headers(), header::DATE);
        let date = date.and_then(|text| httpdate::parse_http_date(text).ok());
        let tls = response.extensions().get::<reqwest::tls::TlsInfo>();
        let certificate = tls
            .and_then(|tls| tls.peer_certificate())
            .map(<[u8]>::to_vec);
        let refused = match response.status().is_success() {
            true => None,
            false => {
                let refusal = Refusal::read(response).await;
                match (refusal.status.as_u16(), refusal.code.as_deref()) {
                    (403, Some("AccessDenied")) => None,
                    // It does not list buckets, but it answers.
                    (404 | 405 | 501, _) => None,
                    _ => Some(refusal.into_failure(location).error.with_attempts(1)),
                }
            }
        };
        Ok(Look {
            date: date.map(OffsetDateTime::from),
            certificate,
            refused,
        })
    }
}
