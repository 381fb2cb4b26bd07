//! Every kind of failure of a job, provoked; docs/errors.md shows how each reads.
//!
//! What an error says is read here as its user does: with the daemon's own words, and nothing else at hand.

mod hosts;
mod images;
mod stores;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lvp_api::{JobState, JobStatus};
use lvp_testkit::daemon::Daemon;
use lvp_testkit::docs::check_section;
use lvp_testkit::require::require;
use serde_json::json;

use crate::support::{MIB, World};

const DISK: u64 = 16 * MIB;

/// Words that no job of this test ends with, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("bad_url", "the request is refused, there is no job"),
    (
        "bad_target",
        "volumes are looked up before they are opened; on LVM a device can be replaced",
    ),
    ("cache", "the job waits until the cache can be used again"),
    ("cancelled", "a job that was cancelled has no error"),
    ("decoder", "a decoder that misbehaves: tests of the sandbox"),
    (
        "device_busy",
        "a block device that is opened between the check and the copy: tests on LVM",
    ),
    (
        "incomplete",
        "a server that ends an answer too early is asked again until `source_unavailable`",
    ),
    ("internal", "a bug"),
    ("not_one_pass", "the image is downloaded first"),
    ("packed", "the image is unpacked first"),
    ("ranges_ignored", "the image is downloaded first"),
    (
        "read",
        "a disk that cannot read its own cache: tests on LVM with failing disks",
    ),
    ("shutdown", "the job continues at the next start"),
    (
        "storage",
        "the job waits until the database can be used again",
    ),
    (
        "timeout",
        "`libvirt.job_timeout_minutes` is a minute at least",
    ),
    (
        "too_small",
        "`image_too_large` or `volume_too_small` comes first",
    ),
    (
        "url_unreadable",
        "the key beside the database is lost: tests of pre-signed URLs",
    ),
    ("volume_pool", "a thin pool: tests on LVM"),
    ("volume_timeout", "an LVM command that hangs: tests on LVM"),
    (
        "write",
        "a disk that cannot write: tests on LVM with failing disks",
    ),
];

/// How the failures read that were provoked, by their word.
#[derive(Default)]
struct Told(BTreeMap<String, JobStatus>);

impl Told {
    /// Keeps a failed job, which has to be one of this kind.
    fn keep(&mut self, word: &str, world: &World, mut status: JobStatus) {
        assert_eq!(status.status, JobState::Failed, "{word}: {status:?}");
        assert_eq!(status.error_type.as_deref(), Some(word), "{status:?}");
        assert!(status.remedy.is_some(), "{word}: {status:?}");
        status.error = status.error.map(|error| public(&error, world));
        self.0.insert(word.to_owned(), status);
    }

    /// Runs a job for a new volume, which has to fail with this word.
    async fn of(&mut self, word: &str, world: &World, daemon: &Daemon, more: serde_json::Value) {
        let mut body = json!({"volume_name": format!("vm-{word}"), "volume_size_bytes": DISK});
        let fields = body.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        let job = daemon.submit("/api/v1/jobs", body).await;
        let job = job.unwrap_or_else(|error| panic!("{word}: {error:?}"));
        let status = daemon.ended(&job).await.expect("it ends");
        self.keep(word, world, status);
    }
}

/// The text without what differs from run to run.
fn public(error: &str, world: &World) -> String {
    let home = world.home.path().display().to_string();
    let endpoint = &world.home.environment()["MINIO_ENDPOINT"];
    let host = |url: &str| url.trim_start_matches("http://").to_owned();
    let error = error
        .replace(endpoint, "https://minio.example.com")
        .replace(&host(endpoint), "minio.example.com:9000")
        .replace(world.s3.endpoint(), "https://minio.example.com")
        .replace(&host(world.s3.endpoint()), "minio.example.com:9000")
        .replace(&home, "/srv");
    // The guest that has a volume open is this test.
    let me = format!("process {} (", std::process::id());
    let error = match error.split_once(&me) {
        Some((before, after)) => {
            let (_, after) = after.split_once(')').expect("its name ends");
            format!("{before}process 4711 (qemu-system-x86){after}")
        }
        None => error,
    };
    let mut words = Vec::new();
    for word in error.split(' ') {
        let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_hex = core
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        let name = match core.len() {
            36 if is_hex => "JOB",
            64 if is_hex => "DIGEST",
            40 if is_hex => "FINGERPRINT",
            // Which write meets a full disk first, differs.
            _ if words.ends_with(&["failed".to_owned(), "at".to_owned(), "bytes".to_owned()]) => {
                "RANGE"
            }
            _ => core,
        };
        words.push(word.replace(core, name));
    }
    words.join(" ")
}

/// The words of docs/troubleshooting.md, in its order.
fn words() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/troubleshooting.md");
    let page = fs::read_to_string(page).expect("it is there");
    let (_, table) = page.split_once("<!-- types begin -->").expect("the table");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next())
        .filter(|word| *word != "error_type")
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_docs_show_how_each_failure_reads() {
    let needed = ["mount", "gpg", "minisign"];
    if !needed.into_iter().all(require) {
        return;
    }
    let mut told = Told::default();
    images::refused(&mut told).await;
    stores::failing(&mut told).await;
    stores::with_policies(&mut told).await;
    hosts::refusing(&mut told).await;
    hosts::full(&mut told).await;
    hosts::stopped(&mut told).await;

    let mut text = String::new();
    for word in words() {
        let elsewhere = ELSEWHERE.iter().find(|(known, _)| *known == word);
        match (told.0.get(&word), elsewhere) {
            (Some(status), None) => text.push_str(&row(&word, status)),
            (None, Some((_, why))) => {
                text.push_str(&format!("### `{word}`\n\nNot shown: {why}.\n\n"));
            }
            (Some(_), Some(_)) => panic!("{word} is provoked, and listed as not"),
            (None, None) => panic!("nothing provokes {word}"),
        }
    }
    check_section("docs/errors.md", "errors", &text);
}

fn row(word: &str, status: &JobStatus) -> String {
    format!(
        "### `{word}`\n\nstatus {}\n\n> {}\n\n{}\n\n",
        status.error_code.expect("it has one"),
        status
            .error
            .as_deref()
            .expect("it has one")
            .replace('<', "\\<"),
        status.remedy.as_deref().expect("it has one"),
    )
}
