use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

/// Treats a zero range as its start says.
#[derive(Debug, Clone, Default)]
struct Script {
    done: Arc<AtomicU64>,
}

const PANIC: u64 = 1 << 40;
const FAIL: u64 = 2 << 40;

impl Worker for Script {
    fn run(&mut self, work: Work) -> Result<()> {
        let Work::Zero(range) = work else {
            panic!("only zero ranges are submitted");
        };
        assert_ne!(range.start, PANIC, "asked to panic");
        if range.start == FAIL {
            return Err(Error::new(ErrorKind::NoSpace, "asked to fail"));
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

fn pool(script: &Script) -> WorkerPool {
    let stop = Arc::new(StopSignal::new(Arc::new(AtomicBool::new(false))));
    WorkerPool::start(3, || script.clone(), stop).unwrap()
}

/// Submits far more than fits in the queue, including one bad work item.
fn submit_all(pool: &WorkerPool, bad: Option<u64>) -> Result<()> {
    for index in 0..100 {
        let start = bad.filter(|_| index == 40).unwrap_or(index);
        pool.submit(Work::Zero(start..start + 1))?;
    }
    Ok(())
}

#[test]
fn everything_submitted_is_done_when_the_pool_has_finished() {
    let script = Script::default();
    let pool = pool(&script);
    submit_all(&pool, None).unwrap();
    pool.finish().unwrap();
    assert_eq!(script.done.load(Ordering::Relaxed), 100);
}

#[test]
fn a_workers_failure_and_a_workers_panic_reach_the_feeder() {
    for (bad, kind) in [(FAIL, ErrorKind::NoSpace), (PANIC, ErrorKind::Internal)] {
        let script = Script::default();
        let pool = pool(&script);
        let result = submit_all(&pool, Some(bad)).and_then(|()| pool.drain());
        assert_eq!(result.unwrap_err().kind(), kind);
        // Later calls fail as well, and dropping the pool joins its threads.
        assert!(pool.submit(Work::Zero(0..1)).is_err());
    }
}
