//! Copies that are held still, and copies that give way to others.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lvp_image::ErrorKind;
use lvp_image::copy::{Copier, CopyOptions, Engine, RateLimiter, TailPolicy};
use lvp_image::format::ImageType;

use crate::engine_copy::{file_target, planner};
use crate::engine_support::{assert_same, noise, wait_until};

const MIB: usize = 1 << 20;

/// Longer than a worker takes for several MiB.
const WATCHED: Duration = Duration::from_millis(300);

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[test]
fn a_copy_that_is_held_still_writes_nothing_until_it_goes_on_or_is_cancelled() {
    let directory = tempfile::tempdir().unwrap();
    let (image, target) = (
        directory.path().join("image"),
        directory.path().join("target"),
    );
    let disk = noise(11, 40 * MIB);
    std::fs::write(&image, &disk).unwrap();
    for is_cancelled in [true, false] {
        let options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
        let (brake, counters) = (Arc::clone(&options.brake), Arc::clone(&options.counters));
        let cancel = Arc::clone(&options.cancel);
        brake.set(true);
        let (planner, target_file) = (planner(&image, ImageType::Raw), file_target(&target));
        let copy = std::thread::spawn(move || Copier::copy_file(planner, target_file, options));
        // The queue is full, and a worker has something to do.
        wait_until("the queue is full", || {
            count(&counters.source_bytes) >= 16 * MIB as u64
        });
        // That nothing happens can only be watched for a while.
        let until = Instant::now() + WATCHED;
        while Instant::now() < until {
            assert_eq!(count(&counters.written_bytes), 0);
            std::thread::yield_now();
        }
        if is_cancelled {
            let asked = Instant::now();
            cancel.store(true, Ordering::Relaxed);
            let error = copy.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled);
            assert!(asked.elapsed() < Duration::from_secs(1));
            continue;
        }
        brake.set(false);
        let body = copy.join().unwrap().unwrap();
        // What it stood still for is nobody's work.
        assert!(count(&counters.time.busy_ns) > 0);
        body.commit().unwrap();
        assert_same(&std::fs::read(&target).unwrap(), &disk, "disk");
    }
}

#[test]
fn a_copy_gives_way_at_the_rate_that_is_left_and_is_fast_when_that_is_lifted() {
    let directory = tempfile::tempdir().unwrap();
    let (image, target) = (
        directory.path().join("image"),
        directory.path().join("target"),
    );
    let disk = noise(12, 40 * MIB);
    std::fs::write(&image, &disk).unwrap();
    let mut options = CopyOptions::new(&Engine::new(), TailPolicy::Zero);
    // By this rate the copy would take forty minutes.
    let limiter = Arc::new(RateLimiter::new(NonZeroU64::new(16 << 10).unwrap()));
    options.yielding = Some(Arc::clone(&limiter));
    options.yields_reads = true;
    let counters = Arc::clone(&options.counters);
    let (planner, target_file) = (planner(&image, ImageType::Raw), file_target(&target));
    let copy = std::thread::spawn(move || Copier::copy_file(planner, target_file, options));
    wait_until("it waits", || limiter.passed_bytes() > 0);
    assert!(count(&counters.written_bytes) < 8 * MIB as u64);
    limiter.set_rate(None);
    let body = copy.join().unwrap().unwrap();
    body.commit().unwrap();
    assert_same(&std::fs::read(&target).unwrap(), &disk, "disk");
    assert!(count(&counters.time.yield_ns) > 0);
    assert_eq!(count(&counters.time.limit_ns), 0);
    // Read and written, but for the head and the foot, which are written at the end in any case.
    let passed = limiter.passed_bytes();
    assert!(
        (70 * MIB as u64..=82 * MIB as u64).contains(&passed),
        "{passed}"
    );
}
