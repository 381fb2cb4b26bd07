//! The whole pipeline onto a block device: real jobs in this process, a loop device as the volume.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use lvp_api::{Cause, ImageType, JobId, JobState};
use lvp_image::copy::{Engine, TailPolicy};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use lvp_testkit::loopdev::LoopDevice;
use lvp_testkit::require::require;
use lvp_testkit::s3::{ACCESS_KEY, S3, SECRET_KEY};
use provisioner::cache::{Cache, CacheSettings};
use provisioner::config::CloneUse;
use provisioner::job::record::{Job, JobSpec, NewJob};
use provisioner::job::work::{ImageRequest, VolumeRequest, Work};
use provisioner::jobs::{Cancellation, JobSettings, Jobs, Services};
use provisioner::secret::Secret;
use provisioner::source::{self, Source};
use provisioner::store::{Observer, Store};
use provisioner::telemetry::metrics::Metrics;
use provisioner::web;

use crate::one_device::{O_EXCL, OneDevice};
use crate::support::{MIB, address, image};

struct Silent;

impl Observer for Silent {
    fn operation(&self, _: &'static str, _: Option<&'static str>) {}
}

pub(crate) struct Bench {
    s3: S3,
    proxy: FaultProxy,
    device: LoopDevice,
    pub(crate) volumes: Arc<OneDevice>,
    pub(crate) services: Arc<Services>,
    pub(crate) jobs: Jobs,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn new(device_bytes: u64, timeout: Duration) -> Self {
        let device = LoopDevice::new(device_bytes).expect("a loop device");
        // Another tenant's data.
        let mut file = OpenOptions::new()
            .write(true)
            .open(device.path())
            .expect("it opens");
        for _ in 0..device_bytes / MIB {
            file.write_all(&[0xa5; 1 << 20]).expect("it is written");
        }
        file.sync_all().expect("it is written");
        drop(file);
        Self::on(device, device_bytes, timeout).await
    }

    pub(crate) async fn on(device: LoopDevice, device_bytes: u64, timeout: Duration) -> Self {
        let s3 = S3::start().await.expect("the S3 server starts");
        let proxy = FaultProxy::start(address(&s3))
            .await
            .expect("the proxy starts");
        let dir = tempfile::tempdir().expect("there is room");
        let store = Store::open(&dir.path().join("jobs.db"), Arc::new(Silent)).expect("it opens");
        let settings = source::SourceSettings {
            endpoint: Some(proxy.endpoint()),
            access_key: Some(ACCESS_KEY.to_owned()),
            secret_key: Some(Secret::new(SECRET_KEY)),
            region: "us-east-1".to_owned(),
            ca_cert: None,
            allowed_hosts: Vec::new(),
            retry_backoff: vec![Duration::from_millis(10)],
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
        };
        let cache = CacheSettings {
            dir: dir.path().join("cache"),
            max_age: Duration::from_secs(3600),
            max_size_bytes: None,
            unpacked: provisioner::config::UnpackedUse::Auto,
            min_free_bytes: 0,
        };
        let one = Arc::new(OneDevice::new(device.path().to_owned(), device_bytes));
        let volumes: Arc<dyn provisioner::volume::Volumes> = Arc::clone(&one) as _;
        let golden = provisioner::golden::GoldenSettings {
            max_count: 1,
            max_bytes: None,
            max_age: Duration::from_secs(3600),
        };
        let golden = provisioner::golden::Shelf::new(golden, Arc::clone(&volumes), store.clone());
        let services = Arc::new(Services {
            source: Source::new(&settings).expect("the settings are good"),
            cache: Cache::open(cache, store.clone()).expect("it opens"),
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
                timeout,
                retention: Duration::from_secs(3600),
                require_checksum: true,
                tail: TailPolicy::Zero,
                clone: CloneUse::Never,
                expand: lvp_api::Expand::None,
                adopt_untagged: false,
                max_write_bytes_per_sec: None,
            },
        });
        Self {
            s3,
            proxy,
            device,
            volumes: one,
            services: Arc::clone(&services),
            jobs: Jobs::new(services),
            _dir: dir,
        }
    }

    pub(crate) fn put(&self, bytes: &[u8]) {
        self.s3
            .objects()
            .put("images", "a.qcow2", bytes)
            .expect("it is written");
        self.s3
            .objects()
            .put_sidecar("images", "a.qcow2")
            .expect("it is written");
    }

    /// A request for the device, with a key if it is one of an order.
    pub(crate) fn request(&self, key: Option<&str>, room_wait: Option<Duration>) -> NewJob {
        let url = "s3://images/a.qcow2";
        let work = Work::Provision {
            image: ImageRequest {
                url: url.to_owned().into(),
                image_type: ImageType::Qcow2,
                checksum: None,
            },
            volume: VolumeRequest {
                name: "vm".parse().expect("a name"),
                size_bytes: 32 * MIB,
                adopt: false,
                clone: lvp_api::Cloning::Auto,
                room_wait,
                expand: None,
            },
        };
        NewJob {
            spec: JobSpec {
                work,
                correlation_id: None,
                idempotency_key: key.map(str::to_owned),
                traceparent: None,
                priority: lvp_api::Priority::Normal,
            },
            location: Some(self.services.source.parse_url(url).expect("it is a URL")),
        }
    }

    async fn submit(&self) -> JobId {
        let new = self.request(None, None);
        self.jobs.submit(new).await.expect("it is accepted")
    }

    pub(crate) async fn ended(&self, id: JobId) -> Job {
        wait_for("the job to end", async || {
            let job = self.jobs.get(id).await.expect("it is known")?;
            job.state.is_terminal().then_some(job)
        })
        .await
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut file = File::open(self.device.path()).expect("it opens");
        file.read_to_end(&mut bytes).expect("it is read");
        bytes
    }
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn a_block_device_holds_the_image_and_zeros_and_nothing_of_what_it_held() {
    if !require("loop") {
        return;
    }
    let bench = Bench::new(96 * MIB, LONG).await;
    let builder = image(64 * MIB, 100, 1);
    bench.put(&builder.build());
    for _miss_then_hit in 0..2 {
        let job = bench.submit().await;
        let job = bench.ended(job).await;
        assert_eq!(job.state, JobState::Completed, "{job:?}");
        let bytes = bench.bytes();
        assert!(bytes[..64 << 20] == builder.disk(), "the disk is wrong");
        assert!(
            bytes[64 << 20..].iter().all(|byte| *byte == 0),
            "older bytes are left"
        );
        assert!(
            job.notes.iter().any(|note| note.starts_with("Zeroed ")),
            "{:?}",
            job.notes
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_reprovision_leaves_a_device_that_does_not_look_bootable_and_a_repeat_repairs_it()
{
    if !require("loop") {
        return;
    }
    let bench = Bench::new(96 * MIB, LONG).await;
    let builder = image(64 * MIB, 600, 1);
    let bytes = builder.build();
    bench.put(&bytes);
    let wrong = format!("{}  a.qcow2", "1".repeat(64));
    bench
        .s3
        .objects()
        .put("images", "a.qcow2.sha256", wrong.as_bytes())
        .expect("written");
    let job = bench.submit().await;
    let job = bench.ended(job).await;
    let failure = job.failure.expect("it failed");
    assert_eq!(failure.error_type, "digest_mismatch", "{failure:?}");
    assert!(
        job.notes
            .iter()
            .any(|note| note.contains("is not ready now")),
        "{:?}",
        job.notes
    );
    let device = bench.bytes();
    for (what, place) in [
        ("head", 0),
        ("end of the disk", 63 << 20),
        ("end of the device", 95 << 20),
    ] {
        let place = &device[place..place + (1 << 20)];
        assert!(
            place.iter().all(|byte| *byte == 0),
            "the {what} is not cleared"
        );
    }
    bench.put(&bytes);
    let job = bench.submit().await;
    let job = bench.ended(job).await;
    assert_eq!(job.state, JobState::Completed, "{job:?}");
    assert!(
        bench.bytes()[..64 << 20] == builder.disk(),
        "the disk is wrong"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_too_long_fails_by_name() {
    if !require("loop") {
        return;
    }
    let bench = Bench::new(96 * MIB, Duration::from_millis(700)).await;
    bench.put(&image(64 * MIB, 900, 1).build());
    bench
        .proxy
        .inject(Rule::new(Fault::Slow(300_000)).method("GET"));
    let job = bench.submit().await;
    let failure = bench.ended(job).await.failure.expect("it failed");
    assert_eq!(failure.error_type, "timeout", "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_releases_the_device() {
    if !require("loop") {
        return;
    }
    let bench = Bench::new(96 * MIB, LONG).await;
    bench.put(&image(64 * MIB, 900, 1).build());
    let slow = Rule::new(Fault::Slow(2_000_000)).method("GET");
    bench.proxy.inject(slow);
    let job = bench.submit().await;
    wait_for("the job to run", async || {
        let job = bench.jobs.get(job).await.expect("it is known")?;
        job.volume_path.filter(|_| job.state == JobState::Running)
    })
    .await;
    let cancelled = bench.jobs.cancel(job).await.expect("it is known");
    assert_eq!(cancelled, Cancellation::Cancelled);
    // Nothing has it open any more: it can be claimed exclusively at once.
    let claim = OpenOptions::new()
        .read(true)
        .custom_flags(O_EXCL)
        .open(bench.device.path());
    claim.expect("the device is free");
}

/// What a job that writes random bytes to a slow device waits for is the device.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_on_a_slow_device_was_bounded_by_the_device() {
    if !require("slow-device") {
        return;
    }
    let device = LoopDevice::slow(32 * MIB, 4 * MIB).expect("a slow device");
    let bench = Bench::on(device, 32 * MIB, LONG).await;
    bench.put(&image(32 * MIB, 512, 1).build());
    for miss_or_hit in ["miss", "hit"] {
        let job = bench.submit().await;
        let job = bench.ended(job).await;
        assert_eq!(job.state, JobState::Completed, "{job:?}");
        let bound = job.bound.expect("it was measured");
        assert_eq!(bound.by, Cause::Device, "{miss_or_hit}: {bound:?}");
        assert!(bound.device > 60.0, "{miss_or_hit}: {bound:?}");
    }
}
