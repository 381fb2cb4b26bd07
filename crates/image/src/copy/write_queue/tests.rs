use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::super::engine::Engine;
use super::super::limits::Limits;
use super::super::options::Counters;
use super::super::stop::StopSignal;
use super::*;
use crate::device::{FileSize, Target};

/// How much of a buffer is written.
const USED_BYTES: usize = 16 << 10;

/// A new file of two buffers, and the queue that writes to it.
fn queue(path: &Path, may_be_async: bool) -> (Arc<Output>, WriteQueue) {
    let mut target = Target::open_file(path, FileSize::OfImage).unwrap();
    let size = 2 * USED_BYTES as u64;
    target.prepare(Some(size), 4096, false).unwrap();
    assert!(target.is_direct(), "nothing is tried without direct I/O");
    let stop = Arc::new(StopSignal::new(Arc::default()));
    let output = Output::new(
        target,
        Arc::new(Counters::default()),
        Limits::default(),
        stop,
    );
    let output = Arc::new(output);
    let mut queue = WriteQueue::new(Arc::clone(&output), Engine::new().lease());
    queue.may_be_async = may_be_async;
    (output, queue)
}

/// Writes one buffer in two segments, the second of which is `tail` bytes short. Returns the file's
/// content, and whether it still accepts direct writes.
fn written(may_be_async: bool, tail: usize) -> (Vec<u8>, bool) {
    // Beside the test's executable, which is on a disk.
    let program = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
    let path = directory.path().join("target");
    let (output, mut queue) = queue(&path, may_be_async);
    let mut buffer = queue.buffer().unwrap();
    buffer.fill(7);
    let half = USED_BYTES / 2;
    let segments = [(0, 0..half), (USED_BYTES, half..USED_BYTES - tail)];
    let segments = segments.map(|(guest_offset, range)| Segment {
        guest_offset: guest_offset as u64,
        range,
    });
    queue.write(Memory::Own(buffer), &segments).unwrap();
    assert_eq!(queue.writes.is_some(), may_be_async);
    queue.flush().unwrap();
    assert_eq!(queue.idle.len(), 1, "the buffer is free again");
    let written = output.counters().written_bytes.load(Ordering::Relaxed);
    assert_eq!(written, (USED_BYTES - tail) as u64);
    (fs::read(&path).unwrap(), output.target().is_direct())
}

fn expected(tail: usize) -> Vec<u8> {
    let half = USED_BYTES / 2;
    let mut bytes = vec![0; 2 * USED_BYTES];
    bytes[..half].fill(7);
    bytes[USED_BYTES..USED_BYTES + half - tail].fill(7);
    bytes
}

#[test]
fn with_and_without_asynchronous_writes_the_same_is_written() {
    for may_be_async in [true, false] {
        assert!(written(may_be_async, 0) == (expected(0), true));
    }
}

#[test]
fn a_write_that_the_kernel_refuses_is_done_again_in_another_way() {
    // Not whole blocks: a direct write fails with EINVAL, and then the page cache is used.
    for may_be_async in [true, false] {
        assert!(written(may_be_async, 1000) == (expected(1000), false));
    }
}
