//! The web page: static files in the binary, which use the API as any client does.
//!
//! They contain nothing about this host, so that everybody may read them; what they show is fetched with the
//! viewer's own credential. The browser is told to run no other code and to contact no other host.

use std::io::Write as _;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use super::error::ApiError;

/// Only code, styles and data of the daemon itself, and no frame of another page. Icons are in the style sheet.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file, and its name below `/ui/`.
struct Asset {
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! asset {
    ($name:literal, $content_type:literal) => {
        Asset {
            name: $name,
            content_type: $content_type,
            bytes: include_bytes!(concat!("../../ui/", $name)),
        }
    };
}

const ASSETS: &[Asset] = &[
    asset!("index.html", "text/html; charset=utf-8"),
    asset!("style.css", "text/css; charset=utf-8"),
    asset!("main.js", "text/javascript; charset=utf-8"),
    asset!("api.js", "text/javascript; charset=utf-8"),
    asset!("format.js", "text/javascript; charset=utf-8"),
    asset!("store.js", "text/javascript; charset=utf-8"),
    asset!("parts.js", "text/javascript; charset=utf-8"),
    asset!("jobs.js", "text/javascript; charset=utf-8"),
    asset!("job.js", "text/javascript; charset=utf-8"),
    asset!("course.js", "text/javascript; charset=utf-8"),
    asset!("provision.js", "text/javascript; charset=utf-8"),
    asset!("cache.js", "text/javascript; charset=utf-8"),
    asset!("volumes.js", "text/javascript; charset=utf-8"),
    asset!("fleet.js", "text/javascript; charset=utf-8"),
    asset!("host.js", "text/javascript; charset=utf-8"),
    asset!("preact.js", "text/javascript; charset=utf-8"),
    asset!("LICENSES.txt", "text/plain; charset=utf-8"),
];

/// A file as it is sent.
struct Served {
    asset: &'static Asset,
    gzip: Vec<u8>,
    /// Strong entity tags of both forms.
    etag: HeaderValue,
    gzip_etag: HeaderValue,
}

static SERVED: LazyLock<Vec<Served>> = LazyLock::new(|| ASSETS.iter().map(served).collect());

fn served(asset: &'static Asset) -> Served {
    let digest = Sha256::digest(asset.bytes);
    let digest: String = digest
        .iter()
        .take(12)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // Hexadecimal digits and quotes are valid in a header.
    let tag = |suffix: &str| {
        HeaderValue::from_str(&format!("\"{digest}{suffix}\""))
            .unwrap_or_else(|_| HeaderValue::from_static("\"\""))
    };
    Served {
        asset,
        gzip: compressed(asset.bytes),
        etag: tag(""),
        gzip_etag: tag("-gzip"),
    }
}

/// Empty if compression fails; then the file is sent uncompressed.
fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.unwrap_or_default()
}

/// `GET /`
pub(super) async fn index(headers: HeaderMap) -> Result<Response, ApiError> {
    serve("index.html", &headers)
}

/// `GET /ui/{file}`
pub(super) async fn file(
    Path(name): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    match serve(&name, &headers) {
        Err(_) => Err(super::not_found(uri).await),
        found => found,
    }
}

fn serve(name: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let served = SERVED.iter().find(|served| served.asset.name == name);
    let served = served
        .ok_or_else(|| ApiError::new(lvp_api::ErrorCode::NotFound, "There is no such file"))?;
    let is_gzip = accepts_gzip(headers) && !served.gzip.is_empty();
    let etag = if is_gzip {
        &served.gzip_etag
    } else {
        &served.etag
    };
    let mut response = if has(headers, etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if is_gzip {
        served.gzip.as_slice().into_response()
    } else {
        served.asset.bytes.into_response()
    };
    let answer = response.headers_mut();
    if is_gzip {
        answer.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer.insert(header::ETAG, etag.clone());
    for (name, value) in [
        (header::CONTENT_TYPE, served.asset.content_type),
        // A new release is seen at once; what has not changed is not sent again.
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept-encoding"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        answer.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Whether the client has the file already.
fn has(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let tags = known.filter_map(|tags| tags.to_str().ok());
    let mut tags = tags.flat_map(|tags| tags.split(',')).map(str::trim);
    // Compared weakly, as RFC 9110, 13.1.2 has it.
    tags.any(|tag| tag == "*" || tag.trim_start_matches("W/").as_bytes() == etag.as_bytes())
}

/// Whether `gzip` is among what the client takes, with a weight above 0 (RFC 9110, 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map(str::parse::<f32>);
        name.trim().eq_ignore_ascii_case("gzip") && !matches!(weight, Some(Ok(0.0)))
    })
}

#[cfg(test)]
mod tests {
    use lvp_api::{
        Cause, CheckStatus, ImageType, JobState, Lane, Method, Priority, Stage, Verified, WaitsFor,
    };

    use super::*;

    #[test]
    fn the_page_takes_less_than_60_kib_compressed() {
        let bytes: usize = SERVED.iter().map(|served| served.gzip.len()).sum();
        assert!(bytes <= 60 << 10, "{bytes} bytes");
    }

    /// A file that a browser would not find is noticed here, and not by its user.
    #[test]
    fn every_import_and_link_names_a_file_that_is_served() {
        for asset in ASSETS.iter().filter(|asset| asset.name != "preact.js") {
            let text = std::str::from_utf8(asset.bytes).expect("text");
            let quoted = text.split(['"', '\'']).skip(1).step_by(2);
            for link in quoted.filter(|part| part.ends_with(".js") || part.ends_with(".css")) {
                let name = link.trim_start_matches("./").trim_start_matches("ui/");
                assert!(
                    ASSETS.iter().any(|asset| asset.name == name),
                    "{} names {link}",
                    asset.name
                );
            }
        }
    }

    /// The page is not Rust, so the compiler cannot check its lists.
    #[test]
    fn the_page_knows_every_format_state_and_stage() {
        let text = |name: &str| {
            let asset = ASSETS.iter().find(|asset| asset.name == name);
            std::str::from_utf8(asset.expect("it is served").bytes).expect("text")
        };
        for (file, words) in [
            ("parts.js", ImageType::NAMES),
            ("jobs.js", JobState::NAMES),
            ("job.js", Stage::NAMES),
            ("job.js", Verified::NAMES),
            ("job.js", Method::NAMES),
            ("course.js", Cause::NAMES),
            ("course.js", Lane::NAMES),
            ("parts.js", WaitsFor::NAMES),
            ("parts.js", Priority::NAMES),
            ("host.js", CheckStatus::NAMES),
            ("fleet.js", lvp_fleet::ReportState::NAMES),
        ] {
            for word in words {
                let quoted = [format!("'{word}'"), format!("{word}:")];
                assert!(
                    quoted.iter().any(|word| text(file).contains(word)),
                    "{file} has no {word}"
                );
            }
        }
    }

    #[test]
    fn encodings_and_tags_are_read_as_http_has_them() {
        let header = |name: header::HeaderName, value: &'static str| {
            HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
        };
        for (value, expected) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("gzip;q=0, br", false),
            ("br", false),
        ] {
            let found = accepts_gzip(&header(header::ACCEPT_ENCODING, value));
            assert_eq!(found, expected, "{value}");
        }
        let etag = HeaderValue::from_static("\"a\"");
        for (value, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
        ] {
            let found = has(&header(header::IF_NONE_MATCH, value), &etag);
            assert_eq!(found, expected, "{value}");
        }
    }
}
