//! What the tests share: an S3 server with images, and a daemon's home beside it.

use std::fs;
use std::path::Path;

use lvp_api::{JobState, JobStatus};
use lvp_image::builder::{ImageBuilder, Stored};
use lvp_testkit::daemon::{Daemon, Home, wait_for};
use lvp_testkit::fault::FaultProxy;
use lvp_testkit::require::command;
use lvp_testkit::s3::S3;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_libvirt-volume-provisioner");
pub(crate) const MIB: u64 = 1 << 20;

/// The environment of one test.
pub(crate) struct World {
    pub(crate) s3: S3,
    pub(crate) home: Home,
}

impl World {
    pub(crate) async fn new() -> Self {
        let s3 = S3::start().await.expect("the S3 server starts");
        let home = Home::new(BINARY, s3.endpoint()).expect("there is room for a home");
        Self { s3, home }
    }

    /// A world whose daemon reaches the S3 server through a proxy that can break things.
    pub(crate) async fn with_faults() -> (Self, FaultProxy) {
        let s3 = S3::start().await.expect("the S3 server starts");
        let proxy = FaultProxy::start(address(&s3))
            .await
            .expect("the proxy starts");
        let home = Home::new(BINARY, &proxy.endpoint()).expect("there is room for a home");
        (Self { s3, home }, proxy)
    }

    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        Self {
            home: self.home.with(name, value),
            ..self
        }
    }

    pub(crate) fn start(&self) -> Daemon {
        self.home.start().expect("the daemon starts")
    }

    /// Puts an image and its sidecar into the store. Returns its URL.
    pub(crate) fn put(&self, key: &str, image: &[u8]) -> String {
        self.s3
            .objects()
            .put("images", key, image)
            .expect("the object is written");
        self.s3
            .objects()
            .put_sidecar("images", key)
            .expect("the sidecar is written");
        format!("s3://images/{key}")
    }
}

/// Requests a volume of this many bytes with an image. Returns the job.
pub(crate) async fn accepted(daemon: &Daemon, url: &str, volume: &str, bytes: u64) -> String {
    let job = daemon.provision(url, volume, bytes).await;
    job.expect("it is accepted")
}

/// Waits until a job has fetched more than this many bytes.
pub(crate) async fn fetched(daemon: &Daemon, job: &str, bytes: u64) {
    wait_for("the download", async || {
        let progress = daemon.status(job).await.ok()?.progress?;
        (progress.bytes_processed > bytes).then_some(())
    })
    .await;
}

/// Provisions a volume of this many bytes with an image, and waits for the end.
pub(crate) async fn ended(daemon: &Daemon, url: &str, volume: &str, bytes: u64) -> JobStatus {
    let job = accepted(daemon, url, volume, bytes).await;
    daemon.ended(&job).await.expect("it ends")
}

/// The same, which has to succeed.
pub(crate) async fn completed(daemon: &Daemon, url: &str, volume: &str, bytes: u64) -> JobStatus {
    let status = ended(daemon, url, volume, bytes).await;
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    status
}

/// A valid image: data of every kind on a disk of this many bytes.
pub(crate) fn image(disk_bytes: u64, data_clusters: u64, seed: u64) -> ImageBuilder {
    let mut builder = ImageBuilder::new(disk_bytes);
    let mut random = seed | 1;
    let clusters = disk_bytes >> 16;
    for index in 0..data_clusters {
        // The first and the last cluster of the disk, and others over all of it.
        let cluster = match index {
            0 => 0,
            1 => clusters - 1,
            _ => index * clusters / data_clusters,
        };
        let mut bytes = vec![0; 1 << 16];
        for chunk in bytes.chunks_exact_mut(8) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let value = if index % 3 == 0 {
                random
            } else {
                random & 0xff
            };
            chunk.copy_from_slice(&value.to_le_bytes());
        }
        let stored = if index % 3 == 0 {
            Stored::Plain
        } else {
            Stored::Compressed
        };
        builder.write(cluster << 16, &bytes, stored);
    }
    builder
}

/// Whether a volume's file holds exactly this disk, and zeros after it.
pub(crate) fn holds(volume: &Path, disk: &[u8]) -> bool {
    let found = fs::read(volume).expect("the volume can be read");
    found.len() >= disk.len()
        && found[..disk.len()] == *disk
        && found[disk.len()..].iter().all(|byte| *byte == 0)
}

/// An image's disk, as qemu-img reads it.
pub(crate) fn qemu_disk(image: &Path) -> Vec<u8> {
    let raw = tempfile::NamedTempFile::new().expect("there is room for a file");
    let converted = command("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .arg(image)
        .arg(raw.path())
        .status()
        .expect("qemu-img starts");
    assert!(converted.success(), "qemu-img ended with {converted}");
    fs::read(raw.path()).expect("the raw image can be read")
}

pub(crate) fn address(s3: &S3) -> std::net::SocketAddr {
    let address = s3.endpoint().trim_start_matches("http://");
    address.parse().expect("an endpoint ends in an address")
}

/// One of our series by name and labels, as a scraper reads it; None if it does not exist yet.
pub(crate) async fn metric(daemon: &Daemon, series: &str) -> Option<f64> {
    let answer = daemon.call("GET", "/metrics", None).await.ok()?;
    let text = answer.body.as_str()?.to_owned();
    let line = text.lines().find_map(|line| {
        let line = line.strip_prefix("libvirt_volume_provisioner_")?;
        line.strip_prefix(series)
    })?;
    line.trim().parse().ok()
}
