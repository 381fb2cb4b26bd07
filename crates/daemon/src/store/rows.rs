//! Reads rows of the database: texts are parsed, and one that cannot be is an error that names the column.

use std::time::Duration;

use lvp_api::{ImageType, JobId, JobKind};
use rusqlite::Row;

use super::seal::Seal;
use crate::job::record::{Failure, Job, JobSpec};
use crate::job::work::{ImageRequest, VolumeRequest, Work};
use crate::source::url::RequestedUrl;

pub(super) fn from_json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: &str,
) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| unreadable(column, error)))
        .transpose()
}

fn unreadable(
    column: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    tracing::error!(component = "storage", column, error = %error, "A row cannot be read");
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
}

pub(super) fn parsed<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|error| unreadable(column, error))
}

pub(super) fn parsed_if_any<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    match row.get::<_, Option<String>>(column)? {
        None => Ok(None),
        Some(_) => parsed(row, column).map(Some),
    }
}

pub(super) fn image_type(row: &Row<'_>) -> rusqlite::Result<ImageType> {
    parsed(row, "image_type")
}

/// The part of a job's URL that is stored in clear text.
fn shown_url(row: &Row<'_>) -> rusqlite::Result<RequestedUrl> {
    let url: String = row.get("image_url")?;
    Ok(match row.get("image_identity")? {
        Some(identity) => {
            let sealed: Option<Vec<u8>> = row.get("image_url_sealed")?;
            RequestedUrl::kept(url, identity, sealed.map(|_| None))
        }
        // Written by an earlier release.
        None => RequestedUrl::new(&url),
    })
}

/// The whole URL of a job that has not ended.
pub(super) fn whole_url(row: &Row<'_>, job: JobId, seal: &Seal) -> rusqlite::Result<RequestedUrl> {
    let shown = shown_url(row)?;
    let sealed: Option<Vec<u8>> = row.get("image_url_sealed")?;
    let Some(sealed) = sealed else {
        return Ok(shown);
    };
    let query = seal
        .open(job, &sealed)
        .inspect_err(|error| {
            tracing::error!(
                component = "storage", job_id = %job, error = %error,
                "The query of a job's image URL cannot be decrypted"
            );
        })
        .ok();
    let (base, identity) = (shown.base().to_owned(), shown.identity().to_owned());
    Ok(RequestedUrl::kept(base, identity, Some(query)))
}

/// What a job is to do, by its kind; with the part of its image's URL that is stored in clear text.
fn work(row: &Row<'_>) -> rusqlite::Result<Work> {
    let image = || {
        Ok::<_, rusqlite::Error>(ImageRequest {
            url: shown_url(row)?,
            image_type: image_type(row)?,
            checksum: parsed_if_any(row, "checksum")?,
        })
    };
    Ok(match parsed(row, "kind")? {
        JobKind::Provision => Work::Provision {
            image: image()?,
            volume: VolumeRequest {
                name: parsed(row, "volume_name")?,
                size_bytes: row.get::<_, i64>("volume_size_bytes")?.cast_unsigned(),
                adopt: row.get("adopt")?,
                clone: parsed(row, "clone")?,
                room_wait: row
                    .get::<_, Option<i64>>("room_wait_seconds")?
                    .map(|seconds| Duration::from_secs(seconds.cast_unsigned())),
                expand: parsed_if_any(row, "expand")?,
            },
        },
        JobKind::Cache => Work::Fetch { image: image()? },
        JobKind::Golden => Work::Golden { image: image()? },
        JobKind::Verify => Work::Verify {
            volume: parsed(row, "volume_name")?,
        },
    })
}

/// A job, with the part of its image's URL that is stored in clear text.
pub(super) fn job_row(row: &Row<'_>) -> rusqlite::Result<Job> {
    let failure = match row.get::<_, Option<String>>("error")? {
        None => None,
        Some(message) => Some(Failure {
            message,
            code: row.get("error_code")?,
            error_type: row.get("error_type")?,
        }),
    };
    Ok(Job {
        id: parsed(row, "id")?,
        spec: JobSpec {
            work: work(row)?,
            correlation_id: row.get("correlation_id")?,
            idempotency_key: row.get("idempotency_key")?,
            traceparent: row.get("traceparent")?,
            priority: parsed(row, "priority")?,
        },
        state: parsed(row, "state")?,
        failure,
        cache_hit: row.get("cache_hit")?,
        image_path: row.get("image_path")?,
        volume_path: row.get("volume_path")?,
        image_digest: parsed_if_any(row, "image_digest")?,
        verified: parsed_if_any(row, "verified")?,
        method: parsed_if_any(row, "method")?,
        signer: from_json(row, "signer")?,
        verification: from_json(row, "verification")?,
        notes: from_json(row, "notes")?.unwrap_or_default(),
        progress: from_json(row, "progress")?,
        waiting: None,
        bound: from_json(row, "bound")?,
        requests: row.get::<_, i64>("requests")?.cast_unsigned(),
        fetched_bytes: row.get::<_, i64>("fetched_bytes")?.cast_unsigned(),
        written_bytes: row.get::<_, i64>("written_bytes")?.cast_unsigned(),
        attempts: row.get("attempts")?,
        created_at: row.get("created_at")?,
        started_at: row.get("started_at")?,
        updated_at: row.get("updated_at")?,
        finished_at: row.get("finished_at")?,
    })
}
