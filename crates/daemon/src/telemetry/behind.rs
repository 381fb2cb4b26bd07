//! Lines on their way to a stream or a file, written by a dedicated thread so that nothing waits for a slow reader.
//!
//! A pipe that nobody reads holds 64 KiB, and a disk may hang. Lines are put into memory. If too many wait, the newest
//! are dropped and counted, and a line says so once there is room again. When the daemon ends, waiting lines are
//! written for at most [`CLOSE_TIMEOUT`].

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::delivery::outbox::Counts;

/// Bytes of lines that may wait: some seconds of a busy daemon.
const WAITING_MAX_BYTES: usize = 4 << 20; // 4 MiB

/// How long the end of the daemon waits for the last lines.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where lines are written.
pub(super) trait Destination: Send + 'static {
    /// Writes one line.
    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()>;
}

/// A queue for one destination. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Behind(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    waiting: Mutex<Waiting>,
    /// There is something to write.
    more: Condvar,
    /// No more lines will come.
    done: Condvar,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<(Level, Vec<u8>)>,
    bytes: usize,
    is_writing: bool,
}

impl Behind {
    /// Starts the thread of this name.
    pub(super) fn start(name: &'static str, mut to: impl Destination) -> io::Result<Self> {
        let behind = Self(Arc::new(Inner {
            waiting: Mutex::default(),
            more: Condvar::new(),
            done: Condvar::new(),
            counts: Arc::default(),
        }));
        let inner = Arc::clone(&behind.0);
        // The thread is not joined, because it may hang in a write; it lives as long as the
        // process.
        let writer = move || {
            let mut told = 0;
            loop {
                inner.write_all(&mut to);
                let dropped = inner.counts.overflowed.load(Ordering::Relaxed);
                if dropped > told {
                    tracing::warn!(
                        component = "telemetry",
                        destination = name,
                        lines = dropped - told,
                        "Log lines were dropped: they came faster than they could be written"
                    );
                    told = dropped;
                }
            }
        };
        std::thread::Builder::new()
            .name(format!("log-{name}"))
            .spawn(writer)?;
        Ok(behind)
    }

    /// Counts of lines.
    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.0.counts
    }

    /// Waits until all lines are written, or the timeout has passed.
    pub(super) fn close(&self) {
        let waiting = self.0.lock();
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.lines.is_empty();
        // If they cannot be written in time, they are lost.
        drop(
            self.0
                .done
                .wait_timeout_while(waiting, CLOSE_TIMEOUT, is_busy),
        );
    }

    fn push(&self, level: Level, line: &[u8]) {
        let mut waiting = self.0.lock();
        let bytes = waiting.bytes.saturating_add(line.len());
        if bytes > WAITING_MAX_BYTES {
            drop(waiting);
            self.0.counts.overflowed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes = bytes;
        waiting.lines.push_back((level, line.to_vec()));
        drop(waiting);
        self.0.more.notify_one();
    }
}

impl Inner {
    /// Waits for lines, and writes those that there are.
    fn write_all(&self, to: &mut impl Destination) {
        let waiting = self.lock();
        let is_empty = |waiting: &mut Waiting| waiting.lines.is_empty();
        let waited = self.more.wait_while(waiting, is_empty);
        let mut waiting = waited.unwrap_or_else(PoisonError::into_inner);
        waiting.is_writing = true;
        while let Some((level, line)) = waiting.lines.pop_front() {
            waiting.bytes = waiting.bytes.saturating_sub(line.len());
            drop(waiting);
            let counter = match to.write(level, &line) {
                Ok(()) => &self.counts.sent,
                // There is no place left to report the error.
                Err(_) => &self.counts.refused,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            waiting = self.lock();
        }
        waiting.is_writing = false;
        drop(waiting);
        self.done.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Lines and their total size, which a panic cannot leave half-changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> MakeWriter<'a> for Behind {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self, Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        Line(self, *metadata.level())
    }
}

/// Takes one line, which the log writes as a whole.
#[derive(Debug)]
pub(super) struct Line<'a>(&'a Behind, Level);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(self.1, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Waits for a permit before each line.
    struct Slow(mpsc::Receiver<()>, mpsc::Sender<String>);

    impl Destination for Slow {
        fn write(&mut self, _: Level, line: &[u8]) -> io::Result<()> {
            self.0.recv().map_err(io::Error::other)?;
            let text = String::from_utf8_lossy(line).into_owned();
            self.1.send(text).map_err(io::Error::other)
        }
    }

    #[test]
    fn a_destination_that_hangs_delays_nobody_and_dropped_lines_are_counted() {
        let (permit, permits) = mpsc::channel();
        let (lines, written) = mpsc::channel();
        let behind = Behind::start("test", Slow(permits, lines)).expect("a thread");
        let line = vec![b'x'; 1 << 20];
        for _ in 0..8 {
            behind.push(Level::INFO, &line);
        }
        let counts = behind.counts();
        let dropped = counts.overflowed.load(Ordering::Relaxed);
        assert!((3..=4).contains(&dropped), "{dropped}");
        for _ in 0..8 - dropped {
            permit.send(()).expect("it listens");
            assert_eq!(written.recv().expect("a line").len(), 1 << 20);
        }
        behind.close();
        assert_eq!(counts.sent.load(Ordering::Relaxed), 8 - dropped);
        // In order, and there is room again.
        behind.push(Level::INFO, b"last");
        permit.send(()).expect("it listens");
        assert_eq!(written.recv().expect("a line"), "last");
    }
}
