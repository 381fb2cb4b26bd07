//! What every error means to an operator, and what to do: `docs/troubleshooting.md` is made of this.

use lvp_api::ErrorCode;

/// `error_type` of jobs that fail: the word of a [`super::kind::JobErrorKind`], what happened, what to do.
pub const ERROR_TYPES: &[(&str, &str, &str)] = &[
    (
        "settings",
        "The configuration does not fit the request: keys of `minio`, or a file that they name",
        "Run `doctor`; see `minio` in config.md",
    ),
    (
        "bad_url",
        "The image's URL cannot be used",
        "Write it as `s3://BUCKET/KEY`, or as the object's URL at `minio.endpoint`",
    ),
    (
        "url_unreadable",
        "The daemon was started again, and cannot decrypt the query of the job's image URL",
        "Send the request again: the database came without its key (operations.md)",
    ),
    (
        "host_not_allowed",
        "The URL, or a redirect, names a host that is not configured",
        "Use the endpoint, or add the host to `minio.allowed_hosts`",
    ),
    (
        "not_found",
        "There is no such object or bucket",
        "Check the URL's spelling: `mc ls`, or `doctor --image URL`",
    ),
    (
        "access_denied",
        "The server refused the credentials, or they may not get the object",
        "Check `minio.access_key`, its policy (get the object, list the bucket), and this host's clock",
    ),
    (
        "object_changed",
        "The object was replaced while it was read",
        "Send the request again; upload new images under new names",
    ),
    (
        "sidecar_invalid",
        "A checksum file beside the image holds no digest of it, or says another than the rest",
        "Upload the one that the error names again: the output of `sha256sum IMAGE`",
    ),
    (
        "signature_missing",
        "`trust` asks for a signature of the image, and there is none",
        "Sign it and upload the signature beside it (signatures.md), or change `trust.rules`",
    ),
    (
        "signature_refused",
        "A signature of the image, or of a checksum file of it, is wrong, or by a key that is not trusted for it, is \
         expired or was revoked",
        "The message says which: sign again, or add the key to `trust.keys` once you know whose it is",
    ),
    (
        "checksum_missing",
        "Nobody says what the image must be, and `cache.require_checksum` is on",
        "Upload a checksum file: `sha256sum IMAGE > IMAGE.sha256`; or send `checksum`",
    ),
    (
        "digest_mismatch",
        "The image does not have the digest that the request or a checksum file says",
        "Upload the image and its `.sha256` object again; nothing of it was kept",
    ),
    (
        "ranges_ignored",
        "The server does not serve parts of objects, which this image needs",
        "Look at proxies before the server; S3 servers serve ranges",
    ),
    (
        "source_unavailable",
        "The server could not be reached, cut the connection, or answered 5xx after all repeats",
        "Run `doctor`; look at the server; send the request again",
    ),
    (
        "incomplete",
        "The object ended before its length",
        "Look at the server and at proxies before it; send the request again",
    ),
    (
        "protocol",
        "The server answered something that S3 servers do not",
        "Check that `minio.endpoint` is the S3 port, not the console's",
    ),
    (
        "cancelled",
        "Somebody cancelled the job",
        "Nothing; a volume that it found and had begun to write is not ready",
    ),
    (
        "timeout",
        "The job ran longer than `libvirt.job_timeout_minutes`",
        "Look for what is slow (monitoring.md); raise the limit for large images",
    ),
    (
        "shutdown",
        "The daemon stopped",
        "Nothing: the job goes on at the next start",
    ),
    (
        "attempts",
        "The daemon ended five times while it ran this job",
        "Look at the daemon's log before each end, and report it; send the request again",
    ),
    (
        "internal",
        "A mistake in the daemon",
        "Look at the log, and report it; send the request again",
    ),
    (
        "storage",
        "The database cannot be written or read",
        "Run `doctor`: is its file system full or read-only? See operations.md for backups",
    ),
    (
        "cache",
        "The cache's directory cannot be used",
        "Run `doctor`; check the permissions and the file system of `cache.dir`",
    ),
    (
        "cache_full",
        "There is no room for the image beside those in use, within `cache.max_size_bytes` and \
         `cache.min_free_bytes`",
        "Free space, `lvpctl cache rm` what is not needed, or raise the limit",
    ),
    (
        "image_too_large",
        "The image's disk is larger than the requested volume",
        "Ask for at least the size that the message says",
    ),
    (
        "too_small",
        "The image's disk is larger than the volume",
        "Ask for a larger volume",
    ),
    (
        "volume_too_small",
        "The existing volume is smaller than the request or the image",
        "Extend it (`lvextend`), remove it, or ask for less",
    ),
    (
        "volume_refused",
        "The volume is open, mounted, a running domain's, another tool's, part of something larger, not \
         handed over, or was finished by another job before a restart",
        "The message says which: stop the domain, unmount it, `lvpctl volumes adopt` it if it may be \
         rewritten, send the request again, or take another name",
    ),
    (
        "volume_no_space",
        "The volume group, or the file system of `volumes.dir`, has no room",
        "Remove volumes, or extend it (`vgextend`)",
    ),
    (
        "volume_timeout",
        "An LVM command or a device did not answer in time",
        "Look for a hanging disk (`dmesg`) and for LVM commands that wait for a lock",
    ),
    (
        "volume",
        "LVM or the volumes' directory cannot be used",
        "Run `doctor`: `lvm.volume_group`, `lvm.kernel`, `volumes.dir`",
    ),
    (
        "device_busy",
        "Somebody took the volume's device after the checks",
        "See `lsof DEVICE` and `virsh domblklist`; send the request again",
    ),
    (
        "bad_target",
        "The volume's path leads to something else",
        "Look at the path that the message names; remove what is not a volume",
    ),
    (
        "write",
        "Writing the volume failed",
        "Look at the disk (`dmesg`, `smartctl`)",
    ),
    (
        "no_space",
        "The volume's file system ran full while it was written",
        "Free space there, and send the request again",
    ),
    (
        "read",
        "Reading the image failed",
        "Send the request again; if it is from the cache, look at the cache's disk",
    ),
    (
        "not_one_pass",
        "The image cannot be read in one pass",
        "Nothing: the daemon downloads it first. If a job fails by this, report it",
    ),
    (
        "packed",
        "The image is in an archive or a stream that must be unpacked first",
        "Nothing: the daemon does so from its cache. If a job fails by this, report it",
    ),
    (
        "not_this_format",
        "The image is not what `image_type` says",
        "Set `image_type` to what the error names, or to `auto`",
    ),
    (
        "other_format",
        "The image is not the raw disk that `image_type` says, or of a format that is not read",
        "Set `image_type` to what the error names, or convert it: `qemu-img convert -O qcow2`",
    ),
    (
        "backing_file",
        "The image is a layer on another one",
        "Flatten it: `qemu-img convert -O qcow2`",
    ),
    (
        "external_data_file",
        "The image keeps its data in another file",
        "Convert it: `qemu-img convert -O qcow2`",
    ),
    (
        "encrypted",
        "The image is encrypted",
        "Store it decrypted, and encrypt the object store instead",
    ),
    (
        "corrupt",
        "The image says itself that it is damaged",
        "Mend it where it comes from: `qemu-img check -r all`",
    ),
    (
        "unknown_feature",
        "The image uses a feature of its format that this release does not know",
        "Convert it with fewer options: `qemu-img convert -O qcow2 -o compat=1.1`",
    ),
    (
        "bad_header",
        "The image's header contradicts itself or the format",
        "Treat the image as damaged or hostile; make it again",
    ),
    (
        "bad_table",
        "The image's tables contradict themselves or the format",
        "Treat the image as damaged or hostile; make it again",
    ),
    (
        "outside_file",
        "The image points beyond its own end",
        "Probably a broken upload: compare digests, upload it again",
    ),
    (
        "overlap",
        "Parts of the image lie on one another",
        "Treat the image as damaged or hostile; make it again",
    ),
    (
        "truncated",
        "The image ends too early",
        "Probably a broken upload: compare digests, upload it again",
    ),
    (
        "bad_cluster",
        "A compressed cluster cannot be unpacked",
        "Treat the image as damaged; make it again",
    ),
    (
        "bad_stream",
        "The stream or the archive around the image is damaged",
        "Test it where it comes from (`gzip -t`, `xz -t`, `zstd -t`, `tar -t`); upload it again",
    ),
    (
        "too_large",
        "The image exceeds a limit of the reader: images.md has them",
        "Make it with larger clusters, or smaller",
    ),
];

/// What an HTTP status of the API means, and what to do.
pub const fn of_status(code: ErrorCode) -> (&'static str, &'static str) {
    match code {
        ErrorCode::BadRequest => (
            "The request breaks a rule, or the job has already ended (on cancelling)",
            "Do what the message says; unknown fields and bad names are told by name",
        ),
        ErrorCode::Unauthorized => (
            "No credential, or one that is not known",
            "Send a token or connect with a client certificate: security.md",
        ),
        ErrorCode::Forbidden => (
            "The token may only read; or, without tokens, another site's page sent the request",
            "Use a token with the role `provision`",
        ),
        ErrorCode::NotFound => (
            "There is no such job, image, storage volume, pool or path",
            "Look at the lists: `lvpctl jobs`, `lvpctl cache ls`, `virsh vol-list POOL`",
        ),
        ErrorCode::MethodNotAllowed => {
            ("The path does not take this method", "See `/openapi.json`")
        }
        ErrorCode::Conflict => (
            "Another job holds the volume, a running domain uses it, an image is in use, or an \
             `Idempotency-Key` came with another request",
            "Wait for the job that the message names, or stop the domain",
        ),
        ErrorCode::LengthRequired => (
            "An upload without `Content-Length`",
            "Send it: `curl -T FILE` and `lvpctl upload` do",
        ),
        ErrorCode::PayloadTooLarge => (
            "A JSON body over 1 MiB",
            "Send less; correlation ids have at most 128 characters",
        ),
        ErrorCode::UnsupportedMediaType => (
            "The body is not JSON by its `Content-Type`",
            "Send `Content-Type: application/json`, or none",
        ),
        ErrorCode::Unprocessable => (
            "The content or image does not fit, or the image is refused (as a job's `error_code`)",
            "See the job's error below",
        ),
        ErrorCode::TooManyRequests => (
            "The queue is full, the caller has its share of what the daemon can serve, or the token is \
             not known, as others before it",
            "Wait as long as `Retry-After` says; see `jobs.queue_limit`, 'Bounds' in docs/security.md, or the \
             tokens file",
        ),
        ErrorCode::Internal => ("A mistake in the daemon", "Look at the log, and report it"),
        ErrorCode::Unavailable => (
            "Something that the daemon depends on is down, it is stopping, or it has too many callers",
            "See `/readyz` for what; run `doctor`; try again",
        ),
        ErrorCode::InsufficientStorage => (
            "The volume group, the cache or the database's file system is full",
            "Free space where the message says",
        ),
    }
}

/// What to do about this `error_type`.
pub fn remedy(error_type: &str) -> Option<&'static str> {
    let known = ERROR_TYPES.iter().find(|known| known.0 == error_type);
    known.map(|(_, _, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_have_a_remedy_for_every_status_and_every_error_of_a_job() {
        let mut statuses =
            String::from("| status | `error` | what happened | what to do |\n|---|---|---|---|\n");
        for code in ErrorCode::ALL {
            let (what, remedy) = of_status(code);
            let (status, phrase) = (code.status(), code.phrase());
            statuses.push_str(&format!("| {status} | {phrase} | {what} | {remedy} |\n"));
        }
        let mut types =
            String::from("| `error_type` | what happened | what to do |\n|---|---|---|\n");
        for (word, what, remedy) in ERROR_TYPES {
            types.push_str(&format!("| `{word}` | {what} | {remedy} |\n"));
        }
        lvp_testkit::docs::check_section("docs/troubleshooting.md", "statuses", &statuses);
        lvp_testkit::docs::check_section("docs/troubleshooting.md", "types", &types);
    }

    #[test]
    fn no_error_has_two_remedies() {
        for (index, (word, ..)) in ERROR_TYPES.iter().enumerate() {
            let again = ERROR_TYPES[..index].iter().any(|known| known.0 == *word);
            assert!(!again, "{word} is there twice");
        }
    }
}
