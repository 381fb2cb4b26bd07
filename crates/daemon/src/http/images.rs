//! Images in object storage.

use std::collections::HashSet;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use lvp_api::{StoredImage, StoredImages};

use super::App;
use super::error::ApiError;
use super::fields::Fields;
use crate::error::chain;
use crate::source::{ListedObject, is_checksum_file, own_checksum_files};

/// Suffixes of objects that hold another object's signature or MD5 sum, and are not images.
const BESIDE: [&str; 5] = [".md5", ".minisig", ".asc", ".sig", ".gpg"];

/// The query parameters of a listing.
const LISTING: &[&str] = &["prefix", "after"];

/// `GET /api/v1/images`
pub(super) async fn list(State(app): State<App>, uri: Uri) -> Result<Json<StoredImages>, ApiError> {
    let fields = Fields::of_query(&uri, LISTING)?;
    let prefix = fields.text("prefix")?.unwrap_or_default();
    let rest = prefix.strip_prefix("s3://").unwrap_or_default();
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let source = &app.services.source;
    source.check_bucket(bucket).map_err(|error| {
        ApiError::bad_request(format!(
            "prefix: must be s3://BUCKET/ and the beginning of a key, not {prefix:?}: {}",
            chain(&error)
        ))
    })?;
    let listing = source
        .list(bucket, key, fields.text("after")?.as_deref())
        .await?;
    let keys: HashSet<_> = listing
        .objects
        .iter()
        .map(|object| object.key.as_str())
        .collect();
    let is_beside = |object: &ListedObject| {
        let name = object.key.to_ascii_lowercase();
        is_checksum_file(&object.key) || BESIDE.iter().any(|end| name.ends_with(end))
    };
    let has_digest = |object: &ListedObject| {
        own_checksum_files(&object.key).any(|file| keys.contains(file.as_str()))
    };
    let images = listing.objects.iter().filter(|object| !is_beside(object));
    let images: Vec<_> = images
        .filter_map(|object| {
            let url = object.url.as_ref()?;
            let image = StoredImage {
                image_url: url.to_string(),
                size: object.size,
                last_modified: object.last_modified.clone(),
                has_digest: has_digest(object),
                is_cached: false,
            };
            Some((url.identity(), image))
        })
        .collect();
    let identities = images
        .iter()
        .map(|(identity, _)| identity.clone())
        .collect();
    let kept: HashSet<_> = app
        .services
        .store
        .kept_objects(identities)
        .await?
        .into_iter()
        .collect();
    let images = images.into_iter().map(|(identity, image)| StoredImage {
        is_cached: kept.contains(&identity),
        ..image
    });
    let folders = listing.folders.iter();
    Ok(Json(StoredImages {
        folders: folders
            .map(|folder| format!("s3://{bucket}/{folder}"))
            .collect(),
        images: images.collect(),
        next: listing.next,
        prefix,
        warnings: fields.warnings(),
    }))
}
