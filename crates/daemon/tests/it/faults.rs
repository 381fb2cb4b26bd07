//! Every kind of failure of a server or network, at every range of a whole job: it ends with the
//! right disk, or failed with nothing left.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lvp_api::{JobState, JobStatus};
use lvp_testkit::daemon::Daemon;
use lvp_testkit::fault::{Fault, FaultProxy, Rule};
use sha2::{Digest as _, Sha256};

use crate::support::{MIB, World, accepted, fetched, holds, image};

const DISK: u64 = 24 * MIB;

/// The size of the daemon's range requests (`RangeOptions`).
const RANGE: u64 = 4 * MIB;

/// A daemon behind the proxy, and one image.
struct Stage {
    world: World,
    proxy: FaultProxy,
    daemon: Daemon,
    url: String,
    bytes: Vec<u8>,
    disk: Vec<u8>,
    digest: String,
    /// Whether the rule's fault was met.
    met: Arc<AtomicBool>,
}

impl Stage {
    async fn new() -> Self {
        let (world, proxy) = World::with_faults().await;
        // A silent server is given up early, so that the tests need not wait for long; not so early
        // that one on a busy machine seems silent.
        let world = world.with("MINIO_IDLE_TIMEOUT", "1s");
        let builder = image(DISK, 300, 1);
        let bytes = builder.build();
        let url = world.put("a.qcow2", &bytes);
        let daemon = world.start();
        let digest = Sha256::digest(&bytes);
        Self {
            world,
            proxy,
            daemon,
            url,
            disk: builder.disk(),
            bytes,
            met: Arc::default(),
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    /// The offsets at which the ranges of the pass begin.
    fn ranges(&self) -> impl Iterator<Item = u64> {
        let size = self.bytes.len() as u64;
        assert!(size > 3 * RANGE, "the image has {size} bytes only");
        (0..size.div_ceil(RANGE)).map(|range| range * RANGE)
    }

    /// The rule's fault at a server whose first connection is slow, so that the image is read by ranges of 1 or 4 MiB.
    fn divide(&self, rule: Rule) {
        let met = Arc::clone(&self.met);
        met.store(false, Ordering::SeqCst);
        self.proxy.inject(rule.noting(met));
        let slow = Rule::new(Fault::Slow(40_000_000));
        self.proxy.inject(image_only(slow).range_from(0));
    }

    fn met(&self) -> bool {
        self.met.load(Ordering::SeqCst)
    }

    async fn provision(&self) -> JobStatus {
        let job = accepted(&self.daemon, &self.url, "vm", DISK).await;
        self.daemon.ended(&job).await.expect("it ends")
    }

    /// A job under this rule must complete.
    async fn survives(&self, what: &str, rule: Rule) {
        self.proxy.clear();
        self.divide(rule);
        let status = self.provision().await;
        assert!(self.met(), "{what}: the fault was not met");
        self.assert_right(what, &status);
        self.start_afresh().await;
    }

    /// A job under this rule must fail with this code and leave nothing; without it, it completes.
    async fn fails(&self, what: &str, code: u16, rule: Rule) {
        self.proxy.clear();
        self.divide(rule);
        let status = self.provision().await;
        assert!(self.met(), "{what}: the fault was not met");
        assert_eq!(
            (status.status, status.error_code),
            (JobState::Failed, Some(code)),
            "{what}: {status:?}"
        );
        assert_eq!(
            self.world.home.volume_files(),
            Vec::<String>::new(),
            "{what}"
        );
        let published = self.world.home.cache_files();
        assert!(
            published.iter().all(|file| file.ends_with(".partial")),
            "{what}: {published:?}"
        );
        if code == 422 {
            assert_eq!(
                published,
                Vec::<String>::new(),
                "{what}: wrong bytes are kept"
            );
        }
        self.proxy.clear();
        let status = self.provision().await;
        self.assert_right(what, &status);
        self.start_afresh().await;
    }

    fn assert_right(&self, what: &str, status: &JobStatus) {
        assert_eq!(status.status, JobState::Completed, "{what}: {status:?}");
        assert!(
            holds(&self.world.home.volume("vm"), &self.disk),
            "{what}: the disk is wrong"
        );
        assert_eq!(
            self.world.home.cache_files(),
            [format!("{}.img", self.digest)],
            "{what}"
        );
    }

    /// Nothing cached, no volume.
    async fn start_afresh(&self) {
        self.proxy.clear();
        let route = format!("/api/v1/cache/images/{}", self.digest);
        let answer = self.daemon.call("DELETE", &route, None).await;
        assert!(answer.expect("an answer").status < 300);
        fs::remove_file(self.world.home.volume("vm")).expect("it is removed");
    }
}

fn status(status: u16, retry_after: Option<&str>, code: &str) -> Fault {
    Fault::Status {
        status,
        retry_after: retry_after.map(str::to_owned),
        code: Some(code.to_owned()),
    }
}

/// The image's bytes, not its sidecar's.
fn image_only(rule: Rule) -> Rule {
    rule.method("GET")
        .when(|request| request.target.ends_with("a.qcow2"))
}

#[tokio::test]
async fn a_temporary_fault_at_any_range_fails_no_job() {
    let stage = Stage::new().await;
    for start in stage.ranges() {
        for fault in [
            Fault::Reset,
            Fault::CutAt(0),
            Fault::CutAt(100_000),
            Fault::StallAt(0),
            Fault::StallAt(100_000),
            Fault::ShortBody(100_000),
            Fault::LongLength(100_000),
            Fault::NoHeader("content-range"),
            Fault::Header("content-range", "bytes 1-2/3".to_owned()),
            status(500, None, "InternalError"),
            status(502, None, ""),
            status(503, Some("0"), "SlowDown"),
            status(429, Some("1"), "TooManyRequests"),
        ] {
            let what = format!("{fault:?} at {start}");
            let rule = image_only(Rule::new(fault)).range_from(start).times(1);
            stage.survives(&what, rule).await;
        }
    }
}

#[tokio::test]
async fn a_temporary_fault_before_the_first_range_fails_no_job() {
    let stage = Stage::new().await;
    for fault in [
        Fault::Reset,
        status(500, None, "InternalError"),
        status(503, Some("1"), "SlowDown"),
    ] {
        let what = format!("{fault:?} at the first request");
        let rule = image_only(Rule::new(fault.clone())).times(1);
        stage.survives(&what, rule).await;
        let what = format!("{fault:?} at the sidecar");
        let rule = Rule::new(fault)
            .when(|request| request.target.ends_with(".sha256"))
            .times(1);
        stage.survives(&what, rule).await;
    }
}

#[tokio::test]
async fn a_server_that_is_slow_or_serves_no_ranges_fails_no_job() {
    let stage = Stage::new().await;
    let slow = image_only(Rule::new(Fault::Slow(8_000_000)));
    stage.survives("slow", slow).await;
    let whole = image_only(Rule::new(Fault::IgnoreRange));
    stage.survives("no ranges", whole).await;
}

#[tokio::test]
async fn a_permanent_fault_fails_the_job_and_leaves_nothing() {
    let stage = Stage::new().await;
    for start in stage.ranges() {
        for (fault, code) in [
            (Fault::Reset, 503),
            (Fault::CutAt(0), 503),
            (Fault::StallAt(100_000), 503),
            (status(500, None, "InternalError"), 503),
            (status(403, None, "AccessDenied"), 503),
            (status(404, None, "NoSuchKey"), 404),
        ] {
            let what = format!("always {fault:?} at {start}");
            // Received bytes are not requested again, so the rest of the range fails as well.
            let rule = image_only(Rule::new(fault)).when(move |request| {
                request
                    .range_start
                    .is_some_and(|first| (start..start + RANGE).contains(&first))
            });
            stage.fails(&what, code, rule).await;
        }
    }
}

#[tokio::test]
async fn wrong_bytes_at_any_range_fail_the_job_and_nothing_is_kept() {
    let stage = Stage::new().await;
    for start in stage.ranges().skip(1) {
        let what = format!("a wrong byte at {start}");
        let rule = image_only(Rule::new(Fault::WrongByte(5)))
            .range_from(start)
            .times(1);
        stage.fails(&what, 422, rule).await;
    }
}

#[tokio::test]
async fn an_object_that_seems_to_change_at_every_request_fails_the_job() {
    let stage = Stage::new().await;
    let other = Fault::Header("etag", "\"another-version\"".to_owned());
    let once = image_only(Rule::new(other.clone()))
        .range_from(RANGE)
        .times(1);
    stage.survives("another ETag once", once).await;
    let always = image_only(Rule::new(other)).range_from(RANGE);
    stage.fails("another ETag always", 409, always).await;
}

#[tokio::test]
async fn an_object_that_is_replaced_while_it_is_read_yields_one_version() {
    let (world, proxy) = World::with_faults().await;
    // More ranges than are requested at once: the later ones get the new version.
    let disk = 128 * MIB;
    let [old, new] = [1, 3].map(|seed| image(disk, 1600, seed));
    // Without a sidecar nothing else could detect a mixture.
    let put = |bytes: &[u8]| {
        let objects = world.s3.objects();
        objects.put("images", "a.qcow2", bytes).expect("it is put");
    };
    put(&old.build());
    proxy.inject(image_only(Rule::new(Fault::Slow(3_000_000))));
    let daemon = world.start();
    let job = accepted(&daemon, "s3://images/a.qcow2", "vm", disk).await;
    fetched(&daemon, &job, MIB).await;
    let bytes = new.build();
    put(&bytes);
    proxy.clear();
    let status = daemon.ended(&job).await.expect("it ends");
    assert_eq!(status.status, JobState::Completed, "{status:?}");
    assert!(
        holds(&world.home.volume("vm"), &new.disk()),
        "not the new version"
    );
    let digest: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        status.image_digest.map(|found| found.to_string()),
        Some(digest)
    );
    let notes = format!("{:?}", status.notes);
    assert!(notes.contains("changed while it was read"), "{notes}");
}
