//! Shows the whole path of an image on this machine without any set-up: an S3 server inside the
//! process, the daemon with volumes in a directory, one image provisioned twice, and a check that
//! the bytes are right.
//!
//! Needs no root, no LVM, no libvirt and no qemu-img.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use futures::StreamExt as _;
use lvp_api::units::{ByteSize, MIB};
use lvp_api::{JobAccepted, JobState, JobStatus, Method};
use lvp_image::builder::{ImageBuilder, Stored};
use lvp_image::convert::ConvertOptions;
use lvp_image::copy::{CopyOptions, Engine, TailPolicy};
use lvp_image::format::ImageType;
use lvp_s3server::{Options, S3Server};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::cmd::Launcher;
use crate::config::{Config, Settings};
use crate::serve::{Daemon, Inherited};
use crate::threads::blocking;
use crate::web;

/// Size of the generated disk.
const DISK_BYTES: u64 = 2 << 30; // 2 GiB

/// How much of it holds data.
const DATA_BYTES: usize = 192 << 20; // 192 MiB

/// Time limit of one provisioning.
const JOB_DEADLINE: Duration = Duration::from_secs(1800);

const ACCESS_KEY: &str = "demo";
const SECRET_KEY: &str = "demo-secret";

/// `demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// A qcow2 image to use instead of a generated one
    #[arg(long, env = "IMAGE", value_name = "PATH")]
    image: Option<PathBuf>,
    /// Directory to work in; everything is kept there. Without it, a temporary directory is used
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The image that is provisioned, and the SHA-256 of the disk that it must produce.
struct Image {
    disk_bytes: u64,
    disk_digest: String,
    how: &'static str,
}

/// What is on the disk before anything starts.
struct Prepared {
    root: PathBuf,
    /// Removed at the end.
    temporary: Option<TempDir>,
    image: Image,
}

/// Runs the demonstration.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let is_kept = args.dir.is_some();
    let prepared = blocking(move || prepare(args)).await??;
    let Prepared {
        root,
        temporary,
        image,
    } = prepared;
    let shown = demonstrate(&root, &image, is_kept).await;
    blocking(move || drop(temporary)).await?;
    shown
}

/// Makes the directories and the image, with its checksum file.
fn prepare(args: DemoArgs) -> anyhow::Result<Prepared> {
    let (root, temporary) = match args.dir {
        Some(dir) => (dir, None),
        None => {
            let temporary = tempfile::Builder::new().prefix("lvp-demo-").tempdir()?;
            (temporary.path().to_owned(), Some(temporary))
        }
    };
    let bucket = root.join("s3/images");
    std::fs::create_dir_all(&bucket)?;
    std::fs::create_dir_all(root.join("volumes"))?;
    let object = bucket.join("demo.qcow2");

    say(&format!("Working in {}", root.display()));
    let image = match args.image {
        Some(path) => {
            say(&format!("Copying {} into the object store", path.display()));
            own_image(&path, &object)?
        }
        None => {
            say("Generating a qcow2 image with compressed, plain, zero and unallocated clusters");
            generate(&object)?
        }
    };
    let sidecar = sidecar_of(&object)?;
    let file_bytes = std::fs::metadata(&object)?.len();
    say(&format!(
        "Image: {} in the object store, a disk of {}; SHA-256 {}...",
        ByteSize(file_bytes),
        ByteSize(image.disk_bytes),
        &sidecar[..16]
    ));
    Ok(Prepared {
        root,
        temporary,
        image,
    })
}

/// Provisions the image twice and checks the volumes.
async fn demonstrate(root: &Path, image: &Image, is_kept: bool) -> anyhow::Result<()> {
    let options = Options {
        credentials: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
        ..Options::default()
    };
    let s3 = S3Server::start(&root.join("s3"), options).await?;
    say(&format!("S3 server: {}", s3.endpoint()));
    let inherited = Inherited {
        launcher: Some(Launcher::of_this_program()),
        ..Inherited::default()
    };
    let daemon = Daemon::start(config(root, s3.endpoint())?, inherited).await?;
    let address = daemon.address()?;
    let daemon = tokio::spawn(daemon.run());
    say(&format!(
        "Daemon: http://{address} (volumes in {})",
        root.join("volumes").display()
    ));

    let client = Client {
        base: format!("http://{address}"),
        http: web::client().build()?,
    };
    for (volume, expect_hit) in [("vm-01", false), ("vm-02", true)] {
        let what = if expect_hit {
            "now from the cache"
        } else {
            "first time: a cache miss"
        };
        say(&format!("\nProvisioning volume {volume} ({what})"));
        let started = Instant::now();
        let status = client.provision(volume, image.disk_bytes).await?;
        let seconds = started.elapsed().as_secs_f64();
        ensure!(
            status.cache_hit == Some(expect_hit),
            "cache_hit is {:?}",
            status.cache_hit
        );
        let path = status.volume_path.context("the job has no volume path")?;
        let (disk_bytes, path_checked) = (image.disk_bytes, PathBuf::from(&path));
        let digest = blocking(move || hash_head(&path_checked, disk_bytes)).await??;
        ensure!(
            digest == image.disk_digest,
            "{path} does not hold the image's disk: {digest} instead of {}",
            image.disk_digest
        );
        let way = match status.method {
            Some(Method::Clone) => ", cloned",
            _ => "",
        };
        say(&format!(
            "  ready in {seconds:.2} s{way}; every byte of {path} is right ({})",
            image.how
        ));
    }

    say("\nWhat to look at next:");
    if is_kept {
        say(&format!(
            "  {}   the volumes, the cache and the object store",
            root.display()
        ));
    }
    say("  README.md                  a page of real use: S3, LVM, lvpctl");
    say("  libvirt-volume-provisioner config show   every key, its value, its origin");
    say("  libvirt-volume-provisioner demo --dir DIR   the same, and keeps the files");
    daemon.abort();
    Ok(())
}

fn config(root: &Path, endpoint: &str) -> anyhow::Result<Config> {
    // Nothing of this host's configuration affects the demonstration.
    let mut settings = Settings::load(Path::new("/nonexistent"), false, |_| None)?;
    let path = |name: &str| root.join(name).display().to_string();
    for (key, value) in [
        ("server.host", "127.0.0.1".to_owned()),
        ("server.port", "0".to_owned()),
        ("server.db_path", path("jobs.db")),
        ("minio.endpoint", endpoint.to_owned()),
        ("minio.access_key", ACCESS_KEY.to_owned()),
        ("minio.secret_key", SECRET_KEY.to_owned()),
        ("libvirt.enabled", "false".to_owned()),
        ("cache.dir", path("cache")),
        ("cache.min_free_bytes", "0".to_owned()),
        ("volumes.backend", "dir".to_owned()),
        ("volumes.dir", path("volumes")),
    ] {
        settings.set(key, &value)?;
    }
    Ok(Config::from_settings(&settings)?)
}

struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    async fn provision(&self, volume: &str, size_bytes: u64) -> anyhow::Result<JobStatus> {
        let request = serde_json::json!({
            "image_url": "s3://images/demo.qcow2",
            "volume_name": volume,
            "volume_size_bytes": size_bytes,
            "correlation_id": format!("demo-{volume}"),
        });
        let answer = self
            .http
            .post(format!("{}/api/v1/jobs", self.base))
            .json(&request)
            .send();
        let answer = answer.await?.error_for_status()?;
        let JobAccepted { job_id, .. } = answer.json().await?;
        let job = job_id.to_string();
        let followed = tokio::time::timeout(JOB_DEADLINE, self.follow(&job));
        let status = followed.await.context("The job did not end in time")??;
        match status.status {
            JobState::Completed => Ok(status),
            state => bail!("The job is {state}: {}", status.error.unwrap_or_default()),
        }
    }

    /// Shows every event of the job until its end.
    async fn follow(&self, job: &str) -> anyhow::Result<JobStatus> {
        let url = format!("{}/api/v1/jobs/{job}/events", self.base);
        let mut chunks = self
            .http
            .get(url)
            .send()
            .await?
            .error_for_status()?
            .bytes_stream();
        let mut text = String::new();
        while let Some(chunk) = chunks.next().await {
            text.push_str(std::str::from_utf8(&chunk?)?);
            while let Some(end) = text.find("\n\n") {
                let event: String = text.drain(..end + 2).collect();
                let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) else {
                    continue;
                };
                let status: JobStatus = serde_json::from_str(data)?;
                show(&status);
                if status.status.is_terminal() {
                    return Ok(status);
                }
            }
        }
        bail!("The event stream ended before the job")
    }
}

#[expect(clippy::print_stdout, reason = "a demonstration talks")]
fn show(status: &JobStatus) {
    let Some(progress) = &status.progress else {
        return;
    };
    println!(
        "  {:>5.1} %  {:<12} {:>10} of {:<10} eta {}",
        progress.overall_percent,
        progress.stage.as_str(),
        ByteSize(progress.bytes_processed).to_string(),
        ByteSize(progress.bytes_total).to_string(),
        progress
            .overall_eta_sec
            .map_or_else(|| "-".to_owned(), |eta| format!("{eta:.1} s")),
    );
}

#[expect(clippy::print_stdout, reason = "a demonstration talks")]
fn say(text: &str) {
    println!("{text}");
}

/// Makes an image with clusters of every kind, and computes the SHA-256 of its disk.
fn generate(object: &Path) -> anyhow::Result<Image> {
    let cluster = 64 << 10;
    let mut builder = ImageBuilder::new(DISK_BYTES);
    let mut disk = Sha256::new();
    let mut position = 0;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let clusters = DATA_BYTES / cluster;
    // Runs of data over the whole disk, with holes between them.
    let stride = DISK_BYTES / clusters as u64 / cluster as u64 * cluster as u64;
    let mut bytes = vec![0; cluster];
    for index in 0..clusters as u64 {
        let text = index % 4 != 3;
        for chunk in bytes.chunks_exact_mut(8) {
            // xorshift64: data that is the same in every run and does not compress.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let value = if text {
                u64::from_le_bytes(*b"libvirt ") ^ (random & 0x0f0f)
            } else {
                random
            };
            chunk.copy_from_slice(&value.to_le_bytes());
        }
        let offset = (index / 8 * 8 * stride) + (index % 8) * cluster as u64;
        let stored = if text {
            Stored::Compressed
        } else {
            Stored::Plain
        };
        builder.write(offset, &bytes, stored);
        hash_zeros(&mut disk, offset - position);
        disk.update(&bytes);
        position = offset + cluster as u64;
    }
    hash_zeros(&mut disk, DISK_BYTES - position);
    File::create(object)?.write_all(&builder.build())?;
    Ok(Image {
        disk_bytes: DISK_BYTES,
        disk_digest: hex(&disk.finalize()),
        how: "compared with the generator",
    })
}

/// Takes a given image; the expected disk is found by converting it separately.
fn own_image(path: &Path, object: &Path) -> anyhow::Result<Image> {
    std::fs::copy(path, object).with_context(|| format!("Cannot copy {}", path.display()))?;
    let raw = object.with_extension("raw");
    let options = ConvertOptions {
        copy: CopyOptions::new(&Engine::new(), TailPolicy::Zero),
        verify_first: false,
        max_bytes: None,
    };
    let converted = lvp_image::convert::convert(object, ImageType::Qcow2, &raw, &options);
    converted.with_context(|| format!("{} cannot be converted", path.display()))?;
    let disk_bytes = std::fs::metadata(&raw)?.len();
    let disk_digest = hash_head(&raw, disk_bytes)?;
    std::fs::remove_file(&raw)?;
    Ok(Image {
        disk_bytes,
        disk_digest,
        how: "compared with a separate conversion",
    })
}

fn sidecar_of(object: &Path) -> anyhow::Result<String> {
    let digest = crate::cache::hash_file(&File::open(object)?)?.to_string();
    let mut sidecar = object.as_os_str().to_owned();
    sidecar.push(".sha256");
    std::fs::write(sidecar, format!("{digest}  demo.qcow2\n"))?;
    Ok(digest)
}

/// SHA-256 of a file's first bytes.
fn hash_head(path: &Path, bytes: u64) -> anyhow::Result<String> {
    let mut file = File::open(path)?.take(bytes);
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&block[..read]),
        }
    }
}

fn hash_zeros(hasher: &mut Sha256, mut count: u64) {
    let zeros = vec![0; usize::try_from(MIB).unwrap_or(1 << 20)];
    while count > 0 {
        let part = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(zeros.len());
        hasher.update(&zeros[..part]);
        count -= part as u64;
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
