//! What each error means to an operator, and what to do. `docs/troubleshooting.md` is generated from this.

use lvp_api::ErrorCode;

/// The `error_type` of failed jobs (the word of a [`super::kind::JobErrorKind`]), what happened, and what
/// to do.
pub const ERROR_TYPES: &[(&str, &str, &str)] = &[
    (
        "settings",
        "The configuration does not allow the request, or a file that it names cannot be used",
        "Correct the key or the file that the message names (config.md), then run `doctor`",
    ),
    (
        "bad_url",
        "The image's URL cannot be used",
        "Write it as `s3://BUCKET/KEY`, or as the object's URL at `minio.endpoint`",
    ),
    (
        "url_unreadable",
        "The daemon was restarted and cannot decrypt the query of the job's image URL",
        "Send the request again: the database was restored without its key (operations.md)",
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
        "The object was replaced while it was being read",
        "Send the request again; upload new images under new names",
    ),
    (
        "sidecar_invalid",
        "A checksum file beside the image has no digest of it, or a digest that contradicts another source",
        "Upload the file that the error names again: the output of `sha256sum IMAGE`",
    ),
    (
        "signature_missing",
        "`trust` requires a signature of the image, and there is none",
        "Sign it and upload the signature beside it (signatures.md), or change `trust.rules`",
    ),
    (
        "signature_refused",
        "A signature of the image or of a checksum file is wrong, or was made with a key that is \
         not trusted for this image, has expired or was revoked",
        "The message says which: sign again, or add the key to `trust.keys` once you know whose it is",
    ),
    (
        "checksum_missing",
        "There is no digest for the image, and `cache.require_checksum` is on",
        "Upload a checksum file: `sha256sum IMAGE > IMAGE.sha256`; or send `checksum`",
    ),
    (
        "digest_mismatch",
        "The image does not have the digest that the request or a checksum file gives",
        "Upload the image and its `.sha256` object again; no downloaded data was kept",
    ),
    (
        "ranges_ignored",
        "The server does not support range requests, which this image needs",
        "Check proxies in front of the server; S3 servers support range requests",
    ),
    (
        "source_unavailable",
        "The server could not be reached, closed the connection early, or answered 5xx, even \
         after all retries",
        "Run `doctor`; check the server; send the request again",
    ),
    (
        "incomplete",
        "The object ended before its announced length",
        "Check the server and proxies in front of it; send the request again",
    ),
    (
        "protocol",
        "The server's answer is not one that an S3 server gives",
        "Check that `minio.endpoint` is the S3 port, not the console's",
    ),
    (
        "cancelled",
        "Somebody cancelled the job",
        "Nothing; if the job had begun to write an existing volume, that volume is not ready",
    ),
    (
        "timeout",
        "The job ran longer than `libvirt.job_timeout_minutes`",
        "Find out what is slow (monitoring.md); raise the limit for large images",
    ),
    (
        "shutdown",
        "The daemon stopped",
        "Nothing: the job continues at the next start",
    ),
    (
        "attempts",
        "The daemon crashed or was killed five times while it ran this job",
        "Check what the daemon logged before each crash, and report it; send the request again",
    ),
    (
        "internal",
        "A bug in the daemon",
        "Check the log, and report it; send the request again",
    ),
    (
        "storage",
        "The database cannot be written or read",
        "Run `doctor`: is its file system full or read-only? See operations.md for backups",
    ),
    (
        "cache",
        "The cache directory cannot be used",
        "Run `doctor`; check the permissions and the file system of `cache.dir`",
    ),
    (
        "cache_full",
        "There is no room for the image beside those that are in use, within `cache.max_size_bytes` and \
         `cache.min_free_bytes`",
        "Free space, remove images that are not needed (`lvpctl cache rm`), or raise the limit",
    ),
    (
        "image_too_large",
        "The image's disk is larger than the requested volume",
        "Request at least the size that the message gives",
    ),
    (
        "too_small",
        "The image's disk is larger than the volume",
        "Request a larger volume",
    ),
    (
        "volume_too_small",
        "The existing volume is smaller than the request or the image",
        "Extend it (`lvextend`), remove it, or request a smaller size",
    ),
    (
        "volume_refused",
        "The volume is open, mounted, used by a running domain, owned by another tool, part of a \
         larger device, not handed over to this program, or was finished by another job before a \
         restart",
        "The message says which: stop the domain, unmount it, hand it over (`lvpctl volumes adopt`) if it may be \
         rewritten, send the request again, or use another name",
    ),
    (
        "volume_no_space",
        "The volume group, or the file system of `volumes.dir`, has no room",
        "Remove volumes that are not needed, or extend the volume group (`vgextend`) or the file system",
    ),
    (
        "volume_pool",
        "The thin pool would become fuller than `lvm.pool_data_percent_max` or \
         `lvm.pool_metadata_percent_max`, or is not healthy",
        "The message says which: remove volumes, extend the pool (`lvextend`), or repair it; see \
         docs/volumes.md",
    ),
    (
        "volume_timeout",
        "An LVM command or a device did not finish in time",
        "Check for a hanging disk (`dmesg`) and for LVM commands that wait for a lock",
    ),
    (
        "volume",
        "LVM or the directory of the volumes cannot be used",
        "Run `doctor`: `lvm.volume_group`, `lvm.kernel`, `volumes.dir`",
    ),
    (
        "clone_unavailable",
        "The request requires a clone (`clone: require`) or a golden volume, which this host \
         cannot make",
        "Send `clone: auto`; or keep volumes in a thin pool, or set `volumes.dir` to a directory \
         on XFS, btrfs or bcachefs (volumes.md)",
    ),
    (
        "device_busy",
        "Another program opened the volume's device after the checks",
        "See `lsof DEVICE` and `virsh domblklist`; send the request again",
    ),
    (
        "bad_target",
        "The volume's path leads to something else",
        "Check the path that the message names; remove what is not a volume",
    ),
    (
        "write",
        "Writing the volume failed",
        "Check the disk (`dmesg`, `smartctl`)",
    ),
    (
        "no_space",
        "The volume's file system filled up while the volume was written",
        "Free space there, and send the request again",
    ),
    (
        "read",
        "Reading the image failed",
        "Send the request again; if the image came from the cache, check the cache's disk",
    ),
    (
        "not_one_pass",
        "The image cannot be read in one pass",
        "Nothing: the daemon downloads it first. If a job fails with this, report it",
    ),
    (
        "packed",
        "The image is in an archive or a stream that must be unpacked first",
        "Nothing: the daemon unpacks it in its cache. If a job fails with this, report it",
    ),
    (
        "not_this_format",
        "The image is not what `image_type` says",
        "Set `image_type` to what the error names, or to `auto`",
    ),
    (
        "other_format",
        "The image is not the raw disk that `image_type` says, or its format is not supported",
        "Set `image_type` to what the error names, or convert it: `qemu-img convert -O qcow2`",
    ),
    (
        "backing_file",
        "The image has a backing file",
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
        "The image is marked as corrupt",
        "Repair the original: `qemu-img check -r all`",
    ),
    (
        "unknown_feature",
        "The image uses a feature of its format that this release does not know",
        "Convert it with fewer options: `qemu-img convert -O qcow2 -o compat=1.1`",
    ),
    (
        "bad_header",
        "The image's header contradicts itself or the format",
        "Treat the image as damaged or hostile; create it again",
    ),
    (
        "bad_table",
        "The image's tables contradict themselves or the format",
        "Treat the image as damaged or hostile; create it again",
    ),
    (
        "outside_file",
        "The image points beyond its own end",
        "Probably an incomplete upload: compare digests, upload it again",
    ),
    (
        "overlap",
        "Parts of the image overlap",
        "Treat the image as damaged or hostile; create it again",
    ),
    (
        "truncated",
        "The image ends too early",
        "Probably an incomplete upload: compare digests, upload it again",
    ),
    (
        "bad_cluster",
        "A compressed cluster cannot be decompressed",
        "Treat the image as damaged; create it again",
    ),
    (
        "bad_stream",
        "The stream or the archive around the image is damaged",
        "Test the original (`gzip -t`, `xz -t`, `zstd -t`, `tar -t`); upload it again",
    ),
    (
        "decoder",
        "The process that decodes images was ended because it crashed, hung or did what it may not, or could not be \
         started",
        "The message says which. Unless memory was short, look at the image as at an attack: compare its digest \
         with its maker's; no other job was affected (security.md)",
    ),
    (
        "bad_manifest",
        "The disk in an OVA does not have the digest in the OVA's manifest",
        "Fetch the OVA again from where it was made, or pack it again; the message says which digest differs",
    ),
    (
        "bad_partition_table",
        "`expand: gpt` was asked for, and the image's GPT is damaged or leaves no room for its backup",
        "Repair the image (`sgdisk --verify` tells more), request a larger volume, or one without `expand`",
    ),
    (
        "too_large",
        "The image exceeds a limit of the reader (images.md lists them)",
        "Create it with larger clusters, or with a smaller disk",
    ),
];

/// What an HTTP status of the API means, and what to do.
pub const fn of_status(code: ErrorCode) -> (&'static str, &'static str) {
    match code {
        ErrorCode::BadRequest => (
            "The request is invalid, or the job to cancel has already ended",
            "Do what the message says; it names unknown fields and invalid names",
        ),
        ErrorCode::Unauthorized => (
            "The request has no credential, or an unknown one",
            "Send a token or connect with a client certificate: security.md",
        ),
        ErrorCode::Forbidden => (
            "The token is read-only; or no tokens are configured and a page of another site sent \
             the request",
            "Use a token with the role `provision`",
        ),
        ErrorCode::NotFound => (
            "There is no such job, image, storage volume, pool or path",
            "Check the lists: `lvpctl jobs`, `lvpctl cache ls`, `virsh vol-list POOL`",
        ),
        ErrorCode::MethodNotAllowed => (
            "The path does not support this method",
            "See `/openapi.json`",
        ),
        ErrorCode::Conflict => (
            "Another job is writing the volume, a running domain uses it, an image is in use, or an \
             `Idempotency-Key` came with another request",
            "Wait for the job that the message names, or stop the domain",
        ),
        ErrorCode::LengthRequired => (
            "An upload has no `Content-Length`",
            "Send it: `curl -T FILE` and `lvpctl upload` do",
        ),
        ErrorCode::PayloadTooLarge => (
            "The JSON body is larger than 1 MiB",
            "Send less; correlation ids have at most 128 characters",
        ),
        ErrorCode::UnsupportedMediaType => (
            "The `Content-Type` is not JSON",
            "Send `Content-Type: application/json`, or none",
        ),
        ErrorCode::Unprocessable => (
            "The content or image does not fit, or the image is refused (as a job's `error_code`)",
            "See the job's error below",
        ),
        ErrorCode::TooManyRequests => (
            "The queue is full, the caller has used up its share of the daemon's limits, or the \
             caller has sent too many unknown tokens",
            "Wait as long as `Retry-After` says; see `jobs.queue_limit`, 'Bounds' in docs/security.md, or the \
             tokens file",
        ),
        ErrorCode::Internal => ("A bug in the daemon", "Check the log, and report it"),
        ErrorCode::Unavailable => (
            "A dependency of the daemon is down, or the daemon is stopping, or has too many callers",
            "Check `/readyz`; run `doctor`; try again",
        ),
        ErrorCode::InsufficientStorage => (
            "The volume group, the cache or the database's file system is full",
            "Free space in the place that the message names",
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
