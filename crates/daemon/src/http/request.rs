//! From a request's bytes to a job's specification: every rule of the request, in one place.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use lvp_api::job::CORRELATION_ID_MAX;
use lvp_api::units::GIB;
use lvp_api::{CacheFetchRequest, ErrorCode, ImageType, ProvisionRequest, VolumeName};
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::job::record::{JobSpec, NewJob};
use crate::job::work::{ImageRequest, VolumeRequest, Work};
use crate::source::url::RequestedUrl;
use crate::source::{ImageUrl, Source};
use crate::telemetry::traces;

/// Largest body of a request.
pub(super) const BODY_MAX_BYTES: usize = 1 << 20; // 1 MiB

/// Largest volume: half of what a signed 64-bit number counts, far beyond any disk, so that sums
/// of sizes cannot overflow.
const VOLUME_MAX_BYTES: u64 = 1 << 62; // 4 EiB

/// Longest `Idempotency-Key`: a UUID has 36 characters, and nobody needs a page.
const IDEMPOTENCY_KEY_MAX: usize = 255;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a JSON body. The content type is not looked at: the Go program did not either, and
/// `curl -d` sends another.
pub(super) async fn json<T: DeserializeOwned>(request: Request<Body>) -> Result<T, ApiError> {
    let body = Limited::new(request.into_body(), BODY_MAX_BYTES).collect();
    let body = tokio::time::timeout(BODY_TIMEOUT, body)
        .await
        .map_err(|_| {
            ApiError::bad_request(format!(
                "The body did not arrive within {} s: send it at once",
                BODY_TIMEOUT.as_secs()
            ))
        })?;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let message =
                format!("The body is larger than {BODY_MAX_BYTES} bytes, the limit of this call");
            ApiError::new(ErrorCode::PayloadTooLarge, message)
        } else {
            ApiError::bad_request(format!("The body did not arrive whole: {error}"))
        }
    })?;
    let bytes = body.to_bytes();
    if bytes.is_empty() {
        return Err(ApiError::bad_request(
            "The body is empty: send a JSON object",
        ));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::bad_request(format!("The body is not the expected JSON: {error}"))
    })
}

/// Turns a provision request into a job, checking field by field.
pub(super) fn provision(
    request: ProvisionRequest,
    headers: &HeaderMap,
    source: &Source,
) -> Result<NewJob, ApiError> {
    let correlation_id = request.correlation_id.clone();
    checked_provision(request, headers, source).map_err(|error| error.correlated(correlation_id))
}

fn checked_provision(
    request: ProvisionRequest,
    headers: &HeaderMap,
    source: &Source,
) -> Result<NewJob, ApiError> {
    let name: VolumeName = request
        .volume_name
        .parse()
        .map_err(|error| ApiError::bad_request(format!("volume_name: {error}")))?;
    let size_bytes = volume_size(request.volume_size_gb, request.volume_size_bytes)?;
    let (mut image, location) = image(&request.image_url, request.image_type, source)?;
    image.checksum = request.checksum;
    let volume = VolumeRequest {
        name,
        size_bytes,
        adopt: request.adopt,
    };
    let spec = spec(
        Work::Provision { image, volume },
        request.correlation_id,
        headers,
    )?;
    Ok(NewJob { spec, location })
}

/// Turns a cache request into a job.
pub(super) fn cache_fetch(
    request: CacheFetchRequest,
    headers: &HeaderMap,
    source: &Source,
) -> Result<NewJob, ApiError> {
    let (mut image, location) = image(&request.image_url, request.image_type, source)?;
    image.checksum = request.checksum;
    let spec = spec(Work::Fetch { image }, request.correlation_id, headers)?;
    Ok(NewJob { spec, location })
}

/// The image as it is kept, and where it is: the only look at a request's URL.
fn image(
    url: &str,
    image_type: ImageType,
    source: &Source,
) -> Result<(ImageRequest, ImageUrl), ApiError> {
    let location = source.parse_url(url)?;
    let url = RequestedUrl::new(url);
    let image = ImageRequest {
        url,
        image_type,
        checksum: None,
    };
    Ok((image, location))
}

fn spec(work: Work, correlation: Option<String>, headers: &HeaderMap) -> Result<JobSpec, ApiError> {
    Ok(JobSpec {
        work,
        correlation_id: correlation_id(correlation)?,
        idempotency_key: idempotency_key(headers)?,
        traceparent: traces::current_traceparent(),
    })
}

fn volume_size(gib: Option<u64>, bytes: Option<u64>) -> Result<u64, ApiError> {
    let (field, size) = match (gib, bytes) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request(
                "volume_size_gb and volume_size_bytes are both given: send one of them",
            ));
        }
        (None, None) => {
            return Err(ApiError::bad_request(
                "volume_size_gb is missing: send the volume's size in GiB (or volume_size_bytes)",
            ));
        }
        (Some(gib), None) => ("volume_size_gb", gib.checked_mul(GIB)),
        (None, Some(bytes)) => ("volume_size_bytes", Some(bytes)),
    };
    match size {
        Some(0) => Err(ApiError::bad_request(format!(
            "{field} is 0: it must be at least 1"
        ))),
        Some(size) if size <= VOLUME_MAX_BYTES => Ok(size),
        _ => Err(ApiError::bad_request(format!(
            "{field} is beyond {VOLUME_MAX_BYTES} bytes, the largest volume: it counts {}",
            if field == "volume_size_gb" {
                "GiB"
            } else {
                "bytes"
            }
        ))),
    }
}

fn correlation_id(id: Option<String>) -> Result<Option<String>, ApiError> {
    match id {
        Some(id) if id.chars().count() > CORRELATION_ID_MAX => Err(ApiError::bad_request(format!(
            "correlation_id has {} characters: at most {CORRELATION_ID_MAX} are taken",
            id.chars().count()
        ))),
        id => Ok(id.filter(|id| !id.is_empty())),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if (1..=IDEMPOTENCY_KEY_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(ApiError::bad_request(format!(
            "The Idempotency-Key header must have 1 to {IDEMPOTENCY_KEY_MAX} ASCII characters"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_counted_in_gib_or_bytes_and_never_both() {
        assert_eq!(volume_size(Some(10), None).ok(), Some(10 << 30));
        assert_eq!(volume_size(None, Some(4096)).ok(), Some(4096));
        for (gib, bytes) in [
            (None, None),
            (Some(1), Some(1 << 30)),
            (Some(0), None),
            (None, Some(0)),
            (Some(u64::MAX), None),
            (None, Some(u64::MAX)),
        ] {
            assert!(volume_size(gib, bytes).is_err(), "{gib:?} {bytes:?}");
        }
    }

    #[test]
    fn correlation_ids_are_counted_in_characters() {
        assert!(correlation_id(Some("é".repeat(128))).is_ok());
        assert!(correlation_id(Some("x".repeat(129))).is_err());
        assert_eq!(correlation_id(Some(String::new())).ok(), Some(None));
    }
}
