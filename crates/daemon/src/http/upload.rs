//! The handler that writes a libvirt storage volume's content, such as the seed image of cloud-init.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::http::{HeaderMap, Request, header};
use futures::StreamExt as _;
use lvp_api::{ErrorCode, UploadedContent};
use tokio::sync::mpsc;

use super::App;
use super::error::ApiError;
use crate::access::audit::Subject;
use crate::libvirt::{LibvirtError, LibvirtErrorKind, Upload};

/// The default pool.
const DEFAULT_POOL: &str = "cloud-init";

/// Longest name of a pool or volume: the longest name that a file can have.
const NAME_MAX_BYTES: usize = 255;

/// Pieces of the content that are buffered between the client and libvirt.
const CHUNKS: usize = 4;

/// How long libvirt may take to accept a piece of the content.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the client may take for the next piece.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How much of a refused body is still read, and for how long: most clients read the answer only after they
/// have sent the whole body.
const DRAIN_MAX_BYTES: usize = 64 << 20; // 64 MiB
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// `PUT /api/v1/volumes/upload-content`, `PUT /volumes/upload-content`
pub(super) async fn put(
    State(app): State<App>,
    request: Request<Body>,
) -> Result<Json<UploadedContent>, ApiError> {
    let headers = request.headers();
    let volume = name(headers, "X-Volume-Name")?.ok_or_else(|| {
        ApiError::bad_request("X-Volume-Name is missing: name an existing storage volume")
    })?;
    let pool = name(headers, "X-Pool-Name")?.unwrap_or_else(|| DEFAULT_POOL.to_owned());
    let size_bytes = content_length(headers)?;
    Subject::of(request.extensions()).is(format!("volume {volume} in pool {pool}"));
    let hypervisor = app.services.hypervisor.clone().ok_or_else(|| {
        ApiError::new(
            ErrorCode::Unavailable,
            "This daemon works without libvirt (libvirt.enabled is false): there are no storage \
             volumes to write",
        )
    })?;
    let (chunks, content) = mpsc::channel(CHUNKS);
    let upload = Upload {
        pool: pool.clone(),
        volume: volume.clone(),
        size_bytes,
        content,
    };
    // A task of its own, so that it ends properly even if the client disconnects: content that ends early
    // aborts it.
    let mut upload = tokio::spawn(async move { hypervisor.upload(upload).await });
    let mut body = request.into_body().into_data_stream();
    // A client that stops sending aborts the upload.
    let next = async |body: &mut BodyDataStream| {
        let next = tokio::time::timeout(READ_TIMEOUT, body.next()).await;
        next.map_err(|_| {
            ApiError::bad_request(format!(
                "No content arrived for {} s: the upload was aborted, and the volume's content is \
                 incomplete",
                READ_TIMEOUT.as_secs()
            ))
        })
    };
    while let Some(chunk) = next(&mut body).await? {
        let chunk = chunk.map_err(|error| {
            ApiError::bad_request(format!("The content is incomplete: {error}"))
        })?;
        match tokio::time::timeout(WRITE_TIMEOUT, chunks.send(chunk)).await {
            Ok(Ok(())) => {}
            // The upload has ended; its result says why.
            Ok(Err(_)) => {
                drain(&mut body).await;
                break;
            }
            Err(_) => return Err(slow()),
        }
    }
    drop(chunks);
    let ended = tokio::time::timeout(WRITE_TIMEOUT, &mut upload).await;
    ended
        .map_err(|_| slow())?
        .map_err(|_| ApiError::new(ErrorCode::Internal, "The upload crashed: see the log"))??;
    Ok(Json(UploadedContent {
        status: "uploaded".to_owned(),
        volume: volume.clone(),
        pool: pool.clone(),
        bytes: size_bytes,
        volume_name: volume,
        pool_name: pool,
        size_bytes,
    }))
}

async fn drain(body: &mut BodyDataStream) {
    let read = async {
        let mut left = DRAIN_MAX_BYTES;
        while let Some(Ok(chunk)) = body.next().await
            && left > 0
        {
            left = left.saturating_sub(chunk.len());
        }
    };
    // A slower client will see its connection closed.
    tokio::time::timeout(DRAIN_TIMEOUT, read).await.ok();
}

fn slow() -> ApiError {
    ApiError::new(
        ErrorCode::Unavailable,
        format!(
            "libvirt accepted no data for {} s, and the volume's content is incomplete: check \
             libvirtd",
            WRITE_TIMEOUT.as_secs()
        ),
    )
}

/// A pool's or volume's name, which must not be a path.
fn name(headers: &HeaderMap, header: &str) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(header) else {
        return Ok(None);
    };
    let good = |name: &&str| {
        (1..=NAME_MAX_BYTES).contains(&name.len())
            && !matches!(*name, "." | "..")
            && !name.contains(|c: char| c == '/' || c.is_control())
    };
    let name = value.to_str().ok().filter(good).ok_or_else(|| {
        ApiError::bad_request(format!(
            "{header} must be a name of 1 to {NAME_MAX_BYTES} ASCII characters without a slash"
        ))
    })?;
    Ok(Some(name.to_owned()))
}

fn content_length(headers: &HeaderMap) -> Result<u64, ApiError> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else {
        return Err(ApiError::new(
            ErrorCode::LengthRequired,
            "Content-Length is missing: say how long the content is (curl -T FILE does)",
        ));
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    match length {
        Some(length @ 1..) => Ok(length),
        _ => Err(ApiError::bad_request(
            "The content is empty: send the volume's content as the body",
        )),
    }
}

impl From<LibvirtError> for ApiError {
    fn from(error: LibvirtError) -> Self {
        let code = match error.kind {
            LibvirtErrorKind::Down => ErrorCode::Unavailable,
            LibvirtErrorKind::NotFound => ErrorCode::NotFound,
            LibvirtErrorKind::InUse => ErrorCode::Conflict,
            LibvirtErrorKind::TooLarge => ErrorCode::Unprocessable,
            LibvirtErrorKind::Incomplete => ErrorCode::BadRequest,
            LibvirtErrorKind::Failed => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}
