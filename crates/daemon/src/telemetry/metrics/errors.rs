//! Which errors are the image's, and during what they happen.

/// `operation` and `error_type` of `image_errors_total`: every pair that there can be. What is not
/// here did not go wrong over the image.
pub(super) const IMAGE_ERRORS: &[(&str, &[&str])] = &[
    (
        "download",
        &[
            "settings",
            "bad_url",
            "url_unreadable",
            "host_not_allowed",
            "not_found",
            "access_denied",
            "object_changed",
            "ranges_ignored",
            "source_unavailable",
            "protocol",
            "incomplete",
        ],
    ),
    (
        "verify",
        &["digest_mismatch", "checksum_missing", "sidecar_invalid"],
    ),
    (
        "inspect",
        &[
            "read",
            "not_one_pass",
            "not_this_format",
            "other_format",
            "backing_file",
            "external_data_file",
            "encrypted",
            "corrupt",
            "unknown_feature",
            "bad_header",
            "bad_table",
            "outside_file",
            "overlap",
            "truncated",
            "bad_cluster",
            "bad_stream",
            "too_large",
        ],
    ),
    ("cache", &["cache", "cache_full"]),
    (
        "convert",
        &[
            "write",
            "device_busy",
            "bad_target",
            "too_small",
            "no_space",
            "image_too_large",
            "volume",
            "volume_refused",
            "volume_too_small",
            "volume_no_space",
            "volume_timeout",
        ],
    ),
];

/// Every word that there can be.
#[cfg(test)]
pub(crate) fn image_error_types() -> impl Iterator<Item = &'static str> {
    IMAGE_ERRORS
        .iter()
        .flat_map(|(_, types)| types.iter().copied())
}

/// What was being done when a job failed so; none when it was not over the image.
pub(super) fn image_operation(error_type: &str) -> Option<&'static str> {
    let (operation, _) = IMAGE_ERRORS
        .iter()
        .find(|(_, error_types)| error_types.contains(&error_type))?;
    Some(operation)
}
