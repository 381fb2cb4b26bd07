//! Jobs that are put back behind their gate while they wait for room.

use std::sync::atomic::Ordering;
use std::time::Duration;

use lvp_api::{JobId, JobState};
use lvp_testkit::daemon::wait_for;
use lvp_testkit::loopdev::LoopDevice;
use lvp_testkit::require::require;
use provisioner::clock;
use provisioner::job::record::Job;
use provisioner::volume::{Unmarked, Volumes as _};

use crate::block::Bench;
use crate::support::{MIB, image};

const GATE: &str = "fleet:order:";
const LONG: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_room_and_is_put_back_loses_no_attempt() {
    if !require("loop") {
        return;
    }
    let device = LoopDevice::new(32 * MIB).expect("a loop device");
    let bench = Bench::on(device, 32 * MIB, LONG).await;
    let builder = image(32 * MIB, 10, 1);
    bench.put(&builder.build());
    bench.volumes.is_full.store(true, Ordering::Release);
    // Two runs before were cut short.
    let new = bench.request(Some("fleet:order:1:vm"), Some(LONG));
    let mut job = Job::new(JobId::random(), new.spec, clock::now_text());
    let id = job.id;
    let store = &bench.services.store;
    let admitted = store.admit(job.clone(), |_, _| (true, ()));
    admitted.await.expect("it is written");
    (job.state, job.attempts) = (JobState::Running, 2);
    store.update_job(job).await.expect("it is written");
    let name = "vm".parse().expect("a name");
    let volume = bench.volumes.lookup(&name).await.expect("it is there");
    let volume = volume.expect("it is there");
    let marked = bench.volumes.mark_populating(&volume, id, Unmarked::Adopt);
    marked.await.expect("it is marked");
    assert_eq!(bench.jobs.resume().await.expect("it is read"), 1);
    for _ in 0..2 {
        wait_for("the job to wait for room", async || {
            let job = bench.jobs.get(id).await.expect("it is read")?;
            assert!(!job.state.is_terminal(), "{job:?}");
            let is_told = job
                .notes
                .iter()
                .any(|note| note.starts_with("Waits for room"));
            (is_told && bench.jobs.active() == 0 && job.attempts == 2).then_some(())
        })
        .await;
        bench.services.gates.close(GATE);
        assert_eq!(bench.jobs.put_back(GATE).await, 1);
        let job = bench.jobs.get(id).await.expect("it is read");
        let job = job.expect("it is known");
        assert_eq!((job.state, job.attempts), (JobState::Pending, 2));
        bench.services.gates.open(GATE);
    }
    bench.volumes.is_full.store(false, Ordering::Release);
    let job = bench.ended(id).await;
    assert_eq!(
        (job.state, job.attempts),
        (JobState::Completed, 3),
        "{job:?}"
    );
}
