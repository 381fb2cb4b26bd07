//! The fields of a request that choose one of several words, or a digest.

use std::time::Duration;

use lvp_api::job::{ROOM_WAIT_SECONDS, ROOM_WAIT_SECONDS_MAX};
use lvp_api::{Checksum, Cloning, Expand, ImageType, Priority, WhenFull};

use crate::http::error::ApiError;
use crate::http::fields::Fields;

/// Whether the volume is to be cloned; an empty string counts as absent.
pub(super) fn cloning(fields: &Fields) -> Result<Cloning, ApiError> {
    match fields.text("clone")?.as_deref() {
        None | Some("") => Ok(Cloning::default()),
        Some(name) => name
            .parse()
            .map_err(|error| ApiError::bad_request(format!("clone: {error}"))),
    }
}

/// How long the job waits for room, if it does; an empty word counts as absent.
pub(super) fn room_wait(fields: &Fields) -> Result<Option<Duration>, ApiError> {
    let when_full = match fields.text("when_full")?.as_deref() {
        None | Some("") => WhenFull::default(),
        Some(word) => word
            .parse()
            .map_err(|error| ApiError::bad_request(format!("when_full: {error}")))?,
    };
    match (when_full, fields.whole("wait_seconds")?) {
        (WhenFull::Refuse, None) => Ok(None),
        (WhenFull::Refuse, Some(_)) => Err(ApiError::bad_request(
            "wait_seconds is given without when_full: send when_full: wait with it",
        )),
        (WhenFull::Wait, seconds) => match seconds.unwrap_or(ROOM_WAIT_SECONDS) {
            seconds @ 1..=ROOM_WAIT_SECONDS_MAX => Ok(Some(Duration::from_secs(seconds))),
            _ => Err(ApiError::bad_request(format!(
                "wait_seconds must be from 1 to {ROOM_WAIT_SECONDS_MAX} (7 days)"
            ))),
        },
    }
}

/// What is done to the guest's partition table; an empty string counts as absent.
pub(super) fn expand(fields: &Fields) -> Result<Option<Expand>, ApiError> {
    match fields.text("expand")?.as_deref() {
        None | Some("") => Ok(None),
        Some(name) => match name.parse() {
            Ok(expand) => Ok(Some(expand)),
            Err(error) => Err(ApiError::bad_request(format!("expand: {error}"))),
        },
    }
}

/// Which jobs begin first; an empty string counts as absent.
pub(super) fn priority(fields: &Fields) -> Result<Option<Priority>, ApiError> {
    match fields.text("priority")?.as_deref() {
        None | Some("") => Ok(None),
        Some(name) => match name.parse() {
            Ok(priority) => Ok(Some(priority)),
            Err(error) => Err(ApiError::bad_request(format!("priority: {error}"))),
        },
    }
}

/// The image's format; an empty string counts as absent, as in the Go program.
pub(super) fn image_type(fields: &Fields) -> Result<ImageType, ApiError> {
    match fields.text("image_type")?.as_deref() {
        None | Some("") => Ok(ImageType::default()),
        Some(name) => name
            .to_ascii_lowercase()
            .parse()
            .map_err(|error| ApiError::bad_request(format!("image_type: {error}"))),
    }
}

/// The digest that the image must have; an empty string counts as absent.
pub(super) fn checksum(fields: &Fields) -> Result<Option<Checksum>, ApiError> {
    match fields.text("checksum")?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => match text.parse() {
            Ok(checksum) => Ok(Some(checksum)),
            Err(error) => Err(ApiError::bad_request(format!("checksum: {error}"))),
        },
    }
}
