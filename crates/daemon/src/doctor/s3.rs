//! Object storage: reachable, credentials accepted, clock, certificate, and one image if requested.

use time::{Duration, OffsetDateTime};

use super::{Finding, access, size};
use crate::config::Config;
use crate::error::chain;
use crate::source::{self, Source};

/// From this difference on, S3 refuses signatures (RequestTimeTooSkewed).
const SKEW_REFUSED: Duration = Duration::minutes(15);

/// A difference above this means that a clock is not synchronised. The server's `Date` has whole
/// seconds.
const SKEW_ODD: Duration = Duration::seconds(60);

/// How much of an image is read to find out whether it can be read.
const HEADER_BYTES: u64 = 4096;

pub(super) async fn check(config: &Config, image: Option<&str>) -> Vec<Finding> {
    const CHECK: &str = "s3.endpoint";
    let settings = source::SourceSettings {
        // No repeats: the report is wanted now.
        retry_backoff: Vec::new(),
        ..source::SourceSettings::from(config)
    };
    let source = match Source::new(&settings) {
        Ok(source) => source,
        Err(error) => {
            let remedy = "See the keys of minio in docs/config.md";
            return vec![Finding::fail(CHECK, chain(&error), remedy)];
        }
    };
    let mut findings = Vec::new();
    if let Some(endpoint) = &config.minio.endpoint {
        findings.extend(server(&source, endpoint).await);
    }
    for (mirror, answer) in source.look_at_mirrors().await {
        findings.push(self::mirror(&mirror, answer));
    }
    if let Some(path) = &config.minio.ca_cert {
        findings.push(access::validity("s3.certificate", path));
    }
    if let Some(image) = image {
        findings.push(self::image(&source, config, image).await);
    }
    findings
}

async fn server(source: &Source, endpoint: &str) -> Vec<Finding> {
    const CHECK: &str = "s3.endpoint";
    const REMEDY: &str = "See minio.endpoint, minio.access_key, minio.secret_key, minio.region and \
        minio.ca_cert, and that the server is up";
    let look = match source.look().await {
        Ok(look) => look,
        Err(error) => return vec![Finding::fail(CHECK, chain(&error), REMEDY)],
    };
    let mut findings = vec![match &look.refused {
        None => Finding::ok(
            CHECK,
            format!("{endpoint} answers and accepts the credentials"),
        ),
        Some(error) => Finding::fail(CHECK, chain(error), REMEDY),
    }];
    match look.date {
        Some(date) => findings.push(clock(date, OffsetDateTime::now_utc())),
        None => findings.push(Finding::warn(
            "s3.clock",
            "The server's answer has no Date header",
            "Check that this host's clock is right: 'timedatectl'",
        )),
    }
    if let Some(certificate) = &look.certificate {
        let spans = access::span(certificate).into_iter();
        let what = format!("The certificate of {endpoint}");
        let now = OffsetDateTime::now_utc();
        findings.push(access::judge("s3.certificate", &what, spans, now));
    }
    findings
}

/// A mirror that does not answer costs time, and nothing else.
fn mirror(mirror: &str, answer: source::Result<u16>) -> Finding {
    const CHECK: &str = "s3.mirror";
    const REMEDY: &str = "Images are read from the endpoint meanwhile. See minio.mirrors, and that the mirror is up and \
        reaches the endpoint";
    match answer {
        Ok(status @ 500..) => {
            let message = format!("The mirror {mirror} answers with the status {status}");
            Finding::warn(CHECK, message, REMEDY)
        }
        Ok(_) => Finding::ok(CHECK, format!("The mirror {mirror} answers")),
        Err(error) => Finding::warn(CHECK, chain(&error), REMEDY),
    }
}

fn clock(theirs: OffsetDateTime, ours: OffsetDateTime) -> Finding {
    const CHECK: &str = "s3.clock";
    const REMEDY: &str = "Set the clock of this host or of the server: 'timedatectl set-ntp true'";
    let skew = (theirs - ours).abs();
    let seconds = skew.whole_seconds();
    let message = format!("This host's clock and the S3 server's are {seconds} s apart");
    if skew >= SKEW_REFUSED {
        Finding::fail(CHECK, message, REMEDY)
    } else if skew > SKEW_ODD {
        Finding::warn(CHECK, message, REMEDY)
    } else {
        Finding::ok(CHECK, message)
    }
}

async fn image(source: &Source, config: &Config, url: &str) -> Finding {
    const CHECK: &str = "s3.image";
    match examine(source, url).await {
        Err(error) => {
            let remedy = "Check the URL's spelling, and that the access key may get the object";
            Finding::fail(CHECK, chain(&error), remedy)
        }
        Ok((size_bytes, true)) => Finding::ok(
            CHECK,
            format!("The image has {} and a .sha256 object", size(size_bytes)),
        ),
        Ok((size_bytes, false)) => {
            let message = format!("The image has {} and no .sha256 object", size(size_bytes));
            let remedy = "Upload one: 'sha256sum IMAGE > IMAGE.sha256'";
            match config.cache.require_checksum {
                true => Finding::fail(CHECK, message, remedy),
                false => Finding::warn(CHECK, message, remedy),
            }
        }
    }
}

/// The image's size, and whether it has a digest that it can be verified against.
async fn examine(source: &Source, url: &str) -> source::Result<(u64, bool)> {
    let url = source.parse_url(url)?;
    let object = source.resolve(&url).await?;
    let checksums = source.checksums(&url, None).await?;
    // Being allowed to ask for the size does not imply being allowed to read.
    let range = 0..object.size.min(HEADER_BYTES);
    let mut header = source.read_ranges(&object, range, source::RangeOptions::default());
    while let Some(chunk) = header.next().await {
        chunk?;
    }
    Ok((object.size, !checksums.is_empty()))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::super::Status;
    use super::*;

    #[test]
    fn a_clock_is_right_or_off_or_too_far_off_to_sign() {
        let ours = datetime!(2026-01-27 12:00 UTC);
        for (seconds, expected) in [
            (0, Status::Ok),
            (-60, Status::Ok),
            (61, Status::Warn),
            (-899, Status::Warn),
            (900, Status::Fail),
            (-86_400, Status::Fail),
        ] {
            let found = clock(ours + Duration::seconds(seconds), ours);
            assert_eq!(found.status, expected, "{found:?}");
        }
    }
}
