//! Whose signature an image has: found beside it, held against its bytes, and refused when in doubt.

mod policy;

use std::fs;
use std::path::PathBuf;

use lvp_api::{JobState, JobStatus, SignatureFormat, Verified, VolumeList};
use lvp_testkit::daemon::Daemon;
use lvp_testkit::require::{command, require};
use lvp_testkit::signing::{Gpg, Minisign};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{BINARY, MIB, World, holds, image};

fn put(world: &World, key: &str, bytes: &[u8]) {
    let objects = world.s3.objects();
    objects.put("images", key, bytes).expect("it is written");
}

fn sum(bytes: &[u8]) -> String {
    lvp_api::Sha256Digest::new(Sha256::digest(bytes).into()).to_string()
}

/// A line of `sha256sum`.
fn line(bytes: &[u8], name: &str) -> String {
    format!("{}  {name}\n", sum(bytes))
}

async fn run(daemon: &Daemon, key: &str) -> JobStatus {
    let volume = key.replace(['/', '.'], "-");
    run_url(daemon, &format!("s3://images/{key}"), &volume).await
}

async fn run_url(daemon: &Daemon, url: &str, volume: &str) -> JobStatus {
    let body = json!({
        "image_url": url, "volume_name": volume, "volume_size_bytes": 32 * MIB,
    });
    let job = daemon.submit("/provision", body).await;
    daemon
        .ended(&job.expect("it is accepted"))
        .await
        .expect("it ends")
}

#[track_caller]
fn check_refused(status: &JobStatus, kind: &str, words: &[&str]) {
    assert_eq!(status.error_type.as_deref(), Some(kind), "{status:?}");
    let error = status.error.as_deref().unwrap_or_default();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
    assert_eq!(status.signer, None, "{status:?}");
}

/// Names and contents of what is beside an image.
type Files<'a> = &'a [(&'a str, Vec<u8>)];

/// Keys of gpg and of minisign, the files with their public parts, and a key that nobody trusts.
struct Signers {
    gpg: Gpg,
    key: String,
    stranger: String,
    minisign: Minisign,
    files: [PathBuf; 2],
}

impl Signers {
    fn new(world: &World) -> Self {
        let (gpg, minisign) = (Gpg::new(), Minisign::new());
        let key = gpg.key("Images <images@example.com>", "ed25519", "0", None);
        let stranger = gpg.key("Stranger <stranger@example.com>", "ed25519", "0", None);
        let files = ["gpg.asc", "minisign.pub"].map(|name| world.home.path().join(name));
        fs::write(&files[0], gpg.public(&key)).expect("there is room");
        fs::write(&files[1], minisign.public()).expect("there is room");
        Self {
            gpg,
            key,
            stranger,
            minisign,
            files,
        }
    }

    fn keys(&self) -> String {
        self.files
            .each_ref()
            .map(|file| file.display().to_string())
            .join(",")
    }

    fn detached(&self, key: &str, data: &[u8]) -> Vec<u8> {
        self.gpg.sign(key, &["--detach-sign", "--armor"], data)
    }
}

/// A daemon that wants a signature of every image, and the keys.
async fn required() -> (World, Signers) {
    let world = World::new().await;
    let signers = Signers::new(&world);
    let world = world
        .with("TRUST_POLICY", "required")
        .with("TRUST_KEYS", &signers.keys());
    (world, signers)
}

fn are_here() -> bool {
    require("gpg") && require("minisign")
}

#[tokio::test]
async fn a_signed_image_is_written_and_its_job_says_by_whom() {
    if !are_here() {
        return;
    }
    let (world, signers) = required().await;
    let daemon = world.start();
    let builder = image(8 * MIB, 20, 5);
    let bytes = builder.build();
    let sums = line(&bytes, "a.qcow2");
    let clearsigned = signers
        .gpg
        .sign(&signers.key, &["--clearsign"], sums.as_bytes());
    let binary = |data: &[u8]| signers.gpg.sign(&signers.key, &["--detach-sign"], data);
    let cases: [(&str, Files<'_>, SignatureFormat); 8] = [
        (
            "a",
            &[("a.qcow2.minisig", signers.minisign.sign(&[], &bytes))],
            SignatureFormat::Minisign,
        ),
        (
            "b",
            &[("a.qcow2.asc", signers.detached(&signers.key, &bytes))],
            SignatureFormat::OpenPgp,
        ),
        (
            "c",
            &[("a.qcow2.sig", binary(&bytes))],
            SignatureFormat::OpenPgp,
        ),
        (
            "d",
            &[("a.qcow2.gpg", binary(&bytes))],
            SignatureFormat::OpenPgp,
        ),
        (
            "e",
            &[
                ("SHA256SUMS", sums.clone().into()),
                ("SHA256SUMS.gpg", binary(sums.as_bytes())),
            ],
            SignatureFormat::OpenPgp,
        ),
        (
            "f",
            &[("SHA256SUMS", clearsigned.clone())],
            SignatureFormat::OpenPgp,
        ),
        (
            "g",
            &[
                ("a.qcow2.sha256", sums.clone().into()),
                (
                    "a.qcow2.sha256.minisig",
                    signers.minisign.sign(&["-l"], sums.as_bytes()),
                ),
            ],
            SignatureFormat::Minisign,
        ),
        // What a stranger says beside it counts for nothing, and is told.
        (
            "h",
            &[
                ("CHECKSUM", clearsigned),
                ("a.qcow2.asc", signers.detached(&signers.stranger, &bytes)),
            ],
            SignatureFormat::OpenPgp,
        ),
    ];
    for (directory, files, format) in cases {
        let key = format!("{directory}/a.qcow2");
        put(&world, &key, &bytes);
        for (name, text) in files {
            put(&world, &format!("{directory}/{name}"), text);
        }
        for is_hit in [false, true] {
            let status = run(&daemon, &key).await;
            assert_eq!(
                status.status,
                JobState::Completed,
                "{directory}: {status:?}"
            );
            // The first may be one too: the image is known by a signed digest.
            assert!(!is_hit || status.cache_hit == Some(true), "{directory}");
            assert_eq!(status.verified, Some(Verified::Signature), "{directory}");
            let signer = status.signer.expect("there is one");
            assert_eq!(signer.format, format, "{directory}");
            if format == SignatureFormat::OpenPgp {
                assert_eq!(signer.fingerprint, signers.key);
                assert_eq!(signer.name.as_deref(), Some("Images <images@example.com>"));
            }
            let notes = status.notes.join(" ");
            assert_eq!(
                notes.contains(&signers.stranger),
                directory == "h",
                "{notes}"
            );
        }
        let name = key.replace(['/', '.'], "-");
        let listed: VolumeList = daemon.get("/api/v1/volumes").await.expect("a list");
        let mut listed = listed.volumes.into_iter();
        let listed = listed.find(|volume| volume.name.as_str() == name);
        let signer = listed.expect("it is there").signer.expect("it is said");
        assert_eq!(signer.format, format, "{directory}");
        if format == SignatureFormat::OpenPgp {
            assert_eq!(signer.fingerprint, signers.key);
        }
        let volume = world.home.volume(&name);
        assert!(
            holds(&volume, &builder.disk()),
            "{directory}: the volume is wrong"
        );
    }
    let metrics = daemon.call("GET", "/metrics", None).await;
    let metrics = metrics.expect("it answers").body;
    let metrics = metrics.as_str().expect("it is text");
    assert!(
        metrics.contains("images_verified_total{verified=\"signature\"} 16"),
        "{metrics}"
    );
    let said =
        |line: &Value| line["component"] == "audit" && line["fingerprint"] == signers.key.as_str();
    assert!(daemon.log().iter().any(said), "the audit log says it");
}

#[tokio::test]
async fn an_image_that_is_not_rightly_signed_reaches_no_volume() {
    if !are_here() {
        return;
    }
    let (world, signers) = required().await;
    let daemon = world.start();
    let bytes = image(8 * MIB, 20, 6).build();
    let other = image(8 * MIB, 20, 12).build();
    assert!(other != bytes, "the seeds make two images");
    let sums = line(&bytes, "a.qcow2");
    let sign = |data: &[u8]| signers.detached(&signers.key, data);
    let sha1 = signers.gpg.sign(
        &signers.key,
        &[
            "--clearsign",
            "--digest-algo",
            "SHA1",
            "--allow-weak-digest-algos",
        ],
        sums.as_bytes(),
    );
    let bare = sum(&bytes);
    let renamed = line(&bytes, "older.qcow2");
    let stranger = signers.stranger.as_str();
    let cases: [(&str, Files<'_>, &str, &[&str]); 9] = [
        ("a", &[], "signature_missing", &["has no signature"]),
        // The body is written by then, and the head never.
        (
            "b",
            &[("a.qcow2.asc", sign(&other))],
            "signature_refused",
            &["does not match", &signers.key],
        ),
        (
            "c",
            &[("a.qcow2.minisig", signers.minisign.sign(&[], &other))],
            "signature_refused",
            &["does not match"],
        ),
        (
            "d",
            &[("a.qcow2.asc", signers.detached(stranger, &bytes))],
            "signature_refused",
            &["not among the trusted keys", stranger],
        ),
        (
            "e",
            &[("SHA256SUMS", sha1)],
            "signature_refused",
            &["SHA1", "too weak"],
        ),
        (
            "f",
            &[
                ("a.qcow2.sha256", bare.clone().into()),
                ("a.qcow2.sha256.asc", sign(bare.as_bytes())),
            ],
            "signature_refused",
            &["without a file name"],
        ),
        (
            "g",
            &[
                ("a.qcow2.sha256", renamed.clone().into()),
                ("a.qcow2.sha256.asc", sign(renamed.as_bytes())),
            ],
            "signature_refused",
            &["none of its lines names \"a.qcow2\""],
        ),
        (
            "h",
            &[
                ("SHA256SUMS", renamed.clone().into()),
                ("SHA256SUMS.asc", sign(renamed.as_bytes())),
            ],
            "signature_missing",
            &["SHA256SUMS is signed by", &signers.key, "does not name it"],
        ),
        // Rightly signed, and of another image.
        (
            "i",
            &[
                ("SHA256SUMS", line(&other, "a.qcow2").into()),
                ("SHA256SUMS.asc", sign(line(&other, "a.qcow2").as_bytes())),
            ],
            "digest_mismatch",
            &["its directory's SHA256SUMS says"],
        ),
    ];
    for (directory, files, kind, words) in cases {
        let key = format!("{directory}/a.qcow2");
        put(&world, &key, &bytes);
        for (name, text) in files {
            put(&world, &format!("{directory}/{name}"), text);
        }
        check_refused(&run(&daemon, &key).await, kind, words);
    }
    assert_eq!(
        world.home.cache_files(),
        Vec::<String>::new(),
        "the download was discarded"
    );
    assert_eq!(
        world.home.volume_files(),
        Vec::<String>::new(),
        "nor any volume"
    );
}
