//! What the Go program had and this one does not need: accepted, with a warning that says why.

/// Keys in the Go program's documentation that mean nothing here: accepted with a warning.
pub(super) const IGNORED: &[(&str, &str)] = &[
    ("minio.bucket", "the bucket is part of every image URL"),
    (
        "minio.use_ssl",
        "minio.endpoint says by http:// or https:// whether TLS is spoken",
    ),
    (
        "server.request_timeout",
        "requests are answered at once, and the time limit of jobs is libvirt.job_timeout_minutes",
    ),
];

/// Variables in the Go program's documentation that mean nothing here, likewise.
pub(super) const IGNORED_VARIABLES: &[(&str, &str)] = &[
    ("MINIO_BUCKET", IGNORED[0].1),
    ("MINIO_USE_SSL", IGNORED[1].1),
    ("REQUEST_TIMEOUT", IGNORED[2].1),
];
