//! From a request's bytes to a job's specification: every rule of the request, in one place.

mod choices;

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use lvp_api::job::CORRELATION_ID_MAX;
use lvp_api::units::GIB;
use lvp_api::{ErrorCode, ImageType, Priority, VolumeName};

use self::choices::{checksum, cloning, expand, image_type, priority, room_wait};
use super::error::ApiError;
use super::fields::Fields;
use crate::job::record::{JobSpec, NewJob};
use crate::job::work::{ImageRequest, VolumeRequest, Work};
use crate::source::url::RequestedUrl;
use crate::source::{ImageUrl, Source};
use crate::telemetry::traces;
use crate::volume::clones::{GOLDEN_PREFIX, WAITING_PREFIX, is_reserved};

/// Largest body of a request.
pub(super) const BODY_MAX_BYTES: usize = 1 << 20; // 1 MiB

/// Largest volume: half of the range of a signed 64-bit number, far beyond any disk, so that sums of sizes
/// cannot overflow.
const VOLUME_MAX_BYTES: u64 = 1 << 62; // 4 EiB

/// Longest `Idempotency-Key`: a UUID has 36 characters.
const IDEMPOTENCY_KEY_MAX: usize = 255;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The fields of a request for a volume.
const PROVISION: &[&str] = &[
    "image_url",
    "volume_name",
    "volume_size_gb",
    "volume_size_bytes",
    "image_type",
    "checksum",
    "correlation_id",
    "adopt",
    "clone",
    "when_full",
    "wait_seconds",
    "expand",
    "priority",
];

/// The fields of a request to verify a volume.
const VERIFICATION: &[&str] = &["volume_name", "correlation_id", "priority"];

/// The fields of a request for the cache.
const CACHE_FETCH: &[&str] = &[
    "image_url",
    "image_type",
    "checksum",
    "correlation_id",
    "priority",
];

/// Reads the fields of a request for a volume.
pub(super) async fn provision_fields(request: Request<Body>) -> Result<Fields, ApiError> {
    Fields::of_json(&body(request).await?, PROVISION)
}

/// Reads the fields of a request for the cache.
pub(super) async fn cache_fetch_fields(request: Request<Body>) -> Result<Fields, ApiError> {
    Fields::of_json(&body(request).await?, CACHE_FETCH)
}

/// Reads the fields of a request to verify a volume.
pub(super) async fn verification_fields(request: Request<Body>) -> Result<Fields, ApiError> {
    Fields::of_json(&body(request).await?, VERIFICATION)
}

/// Reads a body. The content type is ignored, as in the Go program: `curl -d` sends another one.
async fn body(request: Request<Body>) -> Result<Bytes, ApiError> {
    let body = Limited::new(request.into_body(), BODY_MAX_BYTES).collect();
    let body = tokio::time::timeout(BODY_TIMEOUT, body)
        .await
        .map_err(|_| {
            ApiError::bad_request(format!(
                "The body did not arrive within {} s: send it without delay",
                BODY_TIMEOUT.as_secs()
            ))
        })?;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let message =
                format!("The body is larger than {BODY_MAX_BYTES} bytes, the limit of this call");
            ApiError::new(ErrorCode::PayloadTooLarge, message)
        } else {
            ApiError::bad_request(format!("The body is incomplete: {error}"))
        }
    })?;
    let bytes = body.to_bytes();
    if bytes.is_empty() {
        return Err(ApiError::bad_request(
            "The body is empty: send a JSON object",
        ));
    }
    Ok(bytes)
}

/// Which part of a list is requested.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) limit: u32,
    pub(super) offset: u32,
}

impl Part {
    /// The default of `limit`.
    const LIMIT: u32 = 100;
    /// The maximum of `limit`.
    const LIMIT_MAX: u32 = 1000;

    pub(super) fn of(fields: &Fields) -> Result<Self, ApiError> {
        let limit = fields.whole_text("limit")?.unwrap_or(Self::LIMIT);
        Ok(Self {
            limit: limit.min(Self::LIMIT_MAX),
            offset: fields.whole_text("offset")?.unwrap_or(0),
        })
    }
}

/// Turns a provision request into a job, checking field by field.
pub(super) fn provision(
    fields: &Fields,
    headers: &HeaderMap,
    source: &Source,
) -> Result<NewJob, ApiError> {
    checked_provision(fields, headers, source).map_err(|error| correlated(error, fields))
}

/// Adds a request's correlation id to its error, if it can be read.
pub(super) fn correlated(error: ApiError, fields: &Fields) -> ApiError {
    error.correlated(fields.text("correlation_id").ok().flatten())
}

fn checked_provision(
    fields: &Fields,
    headers: &HeaderMap,
    source: &Source,
) -> Result<NewJob, ApiError> {
    let url = image_url(fields)?;
    let name = fields.text("volume_name")?.ok_or_else(|| {
        ApiError::bad_request("volume_name is missing: send the name of the volume")
    })?;
    let name = volume_name("volume_name", &name)?;
    let gib = fields.whole("volume_size_gb")?;
    let size_bytes = volume_size(gib, fields.whole("volume_size_bytes")?)?;
    let (mut image, location) = image(&url, image_type(fields)?, source)?;
    image.checksum = checksum(fields)?;
    let volume = VolumeRequest {
        name,
        size_bytes,
        adopt: fields.truth("adopt")?.unwrap_or(false),
        clone: cloning(fields)?,
        room_wait: room_wait(fields)?,
        expand: expand(fields)?,
    };
    let work = Work::Provision { image, volume };
    let spec = spec(work, fields, Priority::Normal, headers)?;
    Ok(NewJob {
        spec,
        location: Some(location),
    })
}

/// Turns a request for the cache, or for a golden volume, into a job.
pub(super) fn of_image(
    fields: &Fields,
    headers: &HeaderMap,
    source: &Source,
    work: fn(ImageRequest) -> Work,
) -> Result<NewJob, ApiError> {
    let checked = || {
        let (mut image, location) = image(&image_url(fields)?, image_type(fields)?, source)?;
        image.checksum = checksum(fields)?;
        // Nobody waits for what is fetched in advance.
        let spec = spec(work(image), fields, Priority::Low, headers)?;
        Ok(NewJob {
            spec,
            location: Some(location),
        })
    };
    checked().map_err(|error| correlated(error, fields))
}

/// Turns a request to verify a volume into a job. The name of a golden volume is allowed too.
pub(super) fn verification(
    fields: &Fields,
    headers: &HeaderMap,
) -> Result<(VolumeName, NewJob), ApiError> {
    let checked = || {
        let name = fields.text("volume_name")?.ok_or_else(|| {
            ApiError::bad_request("volume_name is missing: send the name of the volume")
        })?;
        let name: VolumeName = name
            .parse()
            .map_err(|error| ApiError::bad_request(format!("volume_name: {error}")))?;
        let work = Work::Verify {
            volume: name.clone(),
        };
        let spec = spec(work, fields, Priority::Normal, headers)?;
        let location = None;
        Ok((name, NewJob { spec, location }))
    };
    checked().map_err(|error| correlated(error, fields))
}

/// The image as it is stored, and where it is: the only place where a request's URL is parsed.
fn image(
    url: &str,
    image_type: ImageType,
    source: &Source,
) -> Result<(ImageRequest, ImageUrl), ApiError> {
    let location = source.parse_url(url).map_err(|error| {
        let error = ApiError::from(error);
        ApiError::new(error.code(), format!("image_url: {}", error.message()))
    })?;
    let url = RequestedUrl::new(url);
    let image = ImageRequest {
        url,
        image_type,
        checksum: None,
    };
    Ok((image, location))
}

fn spec(
    work: Work,
    fields: &Fields,
    usual: Priority,
    headers: &HeaderMap,
) -> Result<JobSpec, ApiError> {
    Ok(JobSpec {
        work,
        priority: priority(fields)?.unwrap_or(usual),
        correlation_id: correlation_id(fields.text("correlation_id")?)?,
        idempotency_key: idempotency_key(headers)?,
        traceparent: traces::current_traceparent(),
    })
}

fn image_url(fields: &Fields) -> Result<String, ApiError> {
    fields.text("image_url")?.ok_or_else(|| {
        ApiError::bad_request("image_url is missing: send s3://BUCKET/KEY, or the object's URL")
    })
}

/// Parses a volume's name, if requests may use it.
pub(super) fn volume_name(field: &str, name: &str) -> Result<VolumeName, ApiError> {
    let name: VolumeName = name
        .parse()
        .map_err(|error| ApiError::bad_request(format!("{field}: {error}")))?;
    match is_reserved(&name) {
        true => Err(ApiError::bad_request(format!(
            "{field}: names that begin with {GOLDEN_PREFIX} or {WAITING_PREFIX} are reserved for \
             golden volumes and their clones: choose another name"
        ))),
        false => Ok(name),
    }
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
            "{field} is above the limit of {VOLUME_MAX_BYTES} bytes: its unit is {}",
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
            "correlation_id has {} characters: at most {CORRELATION_ID_MAX} are allowed",
            id.chars().count()
        ))),
        id => Ok(id.filter(|id| !id.is_empty())),
    }
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
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
