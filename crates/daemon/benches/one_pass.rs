//! One job, from an S3 server to a block device, by the daemon's own jobs, in this process.
//!
//! `one_pass ENDPOINT BUCKET/KEY DEVICE` prints the seconds from the request to the completed job, as
//! JSON: a daemon is running when it is asked, so its start is not counted, nor the removal of what
//! this program leaves. `bench/service.py` calls it, in turn with the alternatives. The credentials
//! are the test servers'.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

#[path = "../tests/it/one_device.rs"]
mod one_device;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use lvp_api::{ImageType, JobState};
use lvp_image::copy::{Engine, TailPolicy};
use lvp_testkit::s3::{ACCESS_KEY, SECRET_KEY};
use provisioner::cache::{Cache, CacheSettings};
use provisioner::config::CloneUse;
use provisioner::job::record::{JobSpec, NewJob};
use provisioner::job::work::{ImageRequest, VolumeRequest, Work};
use provisioner::jobs::{JobSettings, Jobs, Services};
use provisioner::secret::Secret;
use provisioner::source::{self, Source};
use provisioner::store::{Observer, Store};
use provisioner::telemetry::metrics::Metrics;
use provisioner::web;

use one_device::OneDevice;

struct Silent;

impl Observer for Silent {
    fn operation(&self, _: &'static str, _: Option<&'static str>) {}
}

fn main() -> anyhow::Result<()> {
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [endpoint, object, device] = arguments.as_slice() else {
        println!(
            "usage: one_pass ENDPOINT BUCKET/KEY DEVICE (./dev bench has everything around it)"
        );
        return Ok(());
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run(endpoint, object, device.into()))
}

async fn run(endpoint: &str, object: &str, device: PathBuf) -> anyhow::Result<()> {
    // Beside the working directory, so that it is a disk's file system and no tmpfs.
    let dir = tempfile::tempdir_in(".")?;
    let store = Store::open(&dir.path().join("jobs.db"), Arc::new(Silent))?;
    let source = Source::new(&source::SourceSettings {
        endpoint: Some(endpoint.to_owned()),
        access_key: Some(ACCESS_KEY.to_owned()),
        secret_key: Some(Secret::new(SECRET_KEY)),
        region: "us-east-1".to_owned(),
        ca_cert: None,
        allowed_hosts: Vec::new(),
        retry_backoff: vec![Duration::from_millis(100)],
        connect_timeout: web::CONNECT_TIMEOUT,
        idle_timeout: Duration::from_secs(30),
        session_token: None,
        lender: None,
        endpoint_path: provisioner::config::EndpointPath::Keep,
        proxy: None,
        no_proxy: Vec::new(),
        mirrors: Vec::new(),
        parallel_ranges: 4,
        addressing: provisioner::config::Addressing::Path,
        max_read_bytes_per_sec: None,
        trust: source::Trust::default(),
    })?;
    let cache = CacheSettings {
        dir: dir.path().join("cache"),
        max_age: Duration::from_secs(3600),
        max_size_bytes: None,
        unpacked: provisioner::config::UnpackedUse::Auto,
        min_free_bytes: 0,
    };
    let mut file = std::fs::File::open(&device)?;
    let size_bytes = std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;
    drop(file);
    let url = format!("s3://{object}");
    let location = source.parse_url(&url)?;
    let volumes: Arc<dyn provisioner::volume::Volumes> =
        Arc::new(OneDevice::new(device, size_bytes));
    let golden = provisioner::golden::GoldenSettings {
        max_count: 1,
        max_bytes: None,
        max_age: Duration::from_secs(3600),
    };
    let golden = provisioner::golden::Shelf::new(golden, Arc::clone(&volumes), store.clone());
    let services = Services {
        source,
        cache: Cache::open(cache, store.clone())?,
        volumes,
        golden,
        engine: Engine::new(),
        guests: Arc::new(provisioner::guests::Guests::new(
            provisioner::guests::GuestsSettings {
                yields: provisioner::config::YieldUse::Off,
                floor_bytes_per_sec: 16 << 20,
                windows: Default::default(),
                yields_network: false,
            },
        )),
        hypervisor: None,
        store,
        metrics: Arc::new(Metrics::new(2, None)),
        webhooks: None,
        logs: provisioner::job::log::Logs::default(),
        gates: Arc::default(),
        rates: Arc::default(),
        doubt: Arc::default(),
        settings: JobSettings {
            max_concurrent: 2,
            queue_limit: 10,
            timeout: Duration::from_secs(3600),
            retention: Duration::from_secs(3600),
            require_checksum: false,
            tail: TailPolicy::Keep,
            clone: CloneUse::Never,
            expand: lvp_api::Expand::None,
            adopt_untagged: false,
            max_write_bytes_per_sec: None,
        },
    };
    let jobs = Jobs::new(Arc::new(services));
    let work = Work::Provision {
        image: ImageRequest {
            url: url.into(),
            image_type: ImageType::Qcow2,
            checksum: None,
        },
        volume: VolumeRequest {
            name: "bench".parse()?,
            size_bytes,
            adopt: true,
            clone: lvp_api::Cloning::Never,
            room_wait: None,
            expand: None,
        },
    };
    let new = NewJob {
        spec: JobSpec {
            work,
            correlation_id: None,
            idempotency_key: None,
            traceparent: None,
            priority: lvp_api::Priority::Normal,
        },
        location: Some(location),
    };
    let started = Instant::now();
    let id = jobs.submit(new).await?;
    let mut record = jobs.watch(id).context("the job has ended at once")?;
    let job = record
        .wait_for(|job| job.state.is_terminal())
        .await?
        .clone();
    let seconds = started.elapsed().as_secs_f64();
    if let Some(failure) = job.failure {
        bail!("the job failed: {}", failure.message);
    }
    ensure!(job.state == JobState::Completed, "the job is {}", job.state);
    println!("{}", serde_json::json!({ "wall_s": seconds }));
    Ok(())
}
