//! How many rounds of requests a job needs: which of them it sends before it has an answer to any.

use lvp_api::JobStatus;
use lvp_testkit::daemon::{Daemon, wait_for};
use lvp_testkit::fault::{Fault, FaultProxy, Request, Rule};

use crate::support::{MIB, World, accepted, completed, image};

/// The request for the image, and those for the seven files beside it that may have its digest.
const ROUND: usize = 8;

fn is_image(request: &Request) -> bool {
    request.target.starts_with("/images/")
}

/// Lets a job's requests go round by round. Returns the rounds until it has ended.
async fn rounds(daemon: &Daemon, proxy: &FaultProxy, job: &str) -> (JobStatus, Vec<Vec<Request>>) {
    let mut rounds = Vec::new();
    loop {
        let ended = wait_for("a round, or the end", async || {
            let held = proxy.held();
            if held.len() == ROUND {
                return Some(None);
            }
            let status = daemon.status(job).await.ok()?;
            status.status.is_terminal().then_some(Some(status))
        });
        if let Some(status) = ended.await {
            assert!(proxy.held().is_empty(), "{:?}", proxy.held());
            return (status, rounds);
        }
        rounds.push(proxy.held());
        proxy.let_go();
    }
}

/// The requests for the image itself: method and range.
fn of_image(round: &[Request], path: &str) -> Vec<(String, Option<String>)> {
    let image = round.iter().filter(|request| request.target == path);
    let range = |request: &Request| request.header("range").map(str::to_owned);
    image
        .map(|request| (request.method.clone(), range(request)))
        .collect()
}

#[tokio::test]
async fn a_small_image_takes_one_round_of_requests_and_so_does_a_hit() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(8 * MIB, 40, 1).build());
    let daemon = world.start();
    proxy.hold(is_image);

    let job = accepted(&daemon, &url, "cold", 8 * MIB).await;
    let (status, cold) = rounds(&daemon, &proxy, &job).await;
    assert!(status.error.is_none(), "{status:?}");
    assert_eq!(cold.len(), 1, "{cold:#?}");
    let opening = ("GET".to_owned(), Some("bytes=0-".to_owned()));
    assert_eq!(of_image(&cold[0], "/images/a.qcow2"), [opening]);
    let sidecar = |round: &[Request]| of_image(round, "/images/a.qcow2.sha256").len();
    assert_eq!(sidecar(&cold[0]), 1, "{cold:#?}");
    assert_eq!(status.requests, ROUND as u64);

    let job = accepted(&daemon, &url, "hit", 8 * MIB).await;
    let (status, hit) = rounds(&daemon, &proxy, &job).await;
    assert_eq!(status.cache_hit, Some(true), "{status:?}");
    assert_eq!(hit.len(), 1, "{hit:#?}");
    assert_eq!(
        of_image(&hit[0], "/images/a.qcow2"),
        [("HEAD".to_owned(), None)]
    );
    assert_eq!(sidecar(&hit[0]), 1, "{hit:#?}");
    assert_eq!(status.requests, ROUND as u64);
}

#[tokio::test]
async fn jobs_that_begin_at_once_ask_for_the_images_bytes_once() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(8 * MIB, 40, 1).build());
    let daemon = world.start();
    proxy.hold(is_image);
    let first = accepted(&daemon, &url, "one", 8 * MIB).await;
    wait_for("the first job", async || {
        (proxy.held().len() == ROUND).then_some(())
    })
    .await;
    let second = accepted(&daemon, &url, "two", 8 * MIB).await;
    wait_for("both jobs", async || {
        (proxy.held().len() == 2 * ROUND).then_some(())
    })
    .await;
    proxy.hold_nothing();
    for job in [first, second] {
        let status = daemon.ended(&job).await.expect("it ends");
        assert!(status.error.is_none(), "{status:?}");
    }
    let gets = proxy.requests().into_iter();
    let gets =
        gets.filter(|request| request.method == "GET" && request.target == "/images/a.qcow2");
    assert_eq!(gets.count(), 1, "the job with the first bytes has the lead");
}

#[tokio::test]
async fn a_job_does_not_wait_for_anothers_request_that_is_not_answered() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(8 * MIB, 40, 1).build());
    let daemon = world.start();
    proxy.hold(|request| is_image(request) && request.header("range") == Some("bytes=0-"));
    let first = accepted(&daemon, &url, "one", 8 * MIB).await;
    wait_for("the first job", async || {
        (proxy.held().len() == 1).then_some(())
    })
    .await;
    let second = completed(&daemon, &url, "two", 8 * MIB).await;
    assert!(second.error.is_none(), "{second:?}");
    assert_eq!(proxy.held().len(), 1, "the first job still waits");
    proxy.hold_nothing();
    let first = daemon.ended(&first).await.expect("it ends");
    assert!(first.error.is_none(), "{first:?}");
}

#[tokio::test]
async fn a_jobs_record_counts_its_requests_with_repeats_and_keeps_them() {
    let (world, proxy) = World::with_faults().await;
    let url = world.put("a.qcow2", &image(8 * MIB, 40, 1).build());
    let daemon = world.start();
    // The opening is cut off, and continued where it was.
    let cut = Rule::new(Fault::CutAt(100_000)).method("GET").range_from(0);
    proxy.inject(cut.times(1));
    let status = completed(&daemon, &url, "vm", 8 * MIB).await;
    let asked = proxy.requests().into_iter().filter(is_image).count() as u64;
    assert_eq!(asked, ROUND as u64 + 1);
    assert_eq!(status.requests, asked);
    drop(daemon);
    let daemon = world.start();
    let again = daemon
        .status(&status.job_id.to_string())
        .await
        .expect("it is kept");
    assert_eq!(again.requests, asked);
}
