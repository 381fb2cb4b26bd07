//! Locks that outlive their holder for a moment.
//!
//! A child that was just forked has every descriptor of its parent until it runs its program,
//! including those that the parent has closed since. So a `flock`, the claim of a block device
//! (`O_EXCL`) or a lock of an open file description may be held by nobody except a command that
//! another thread is starting. "In use" is therefore concluded only when no such child is left.
//!
//! The kernel tells whether one is left, whoever forked it and however slow the machine is. This process
//! always has the writing end of a pipe open, and so do its children until they run their programs. To
//! find out, another pipe replaces it, the writing end here is closed, and the reading end hangs up once
//! the last child has closed its copy. The kernel does not promise in which order a child closes its
//! descriptors (mostly the one that was opened last comes first), so several attempts follow: a child that
//! was preempted between two of its descriptors continues meanwhile.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

/// How long a child may take from fork to exec. It takes less than a millisecond, or some hundred
/// on a host with far more load than processors. A child that hangs there must not hang a job.
const CHILD_TIMEOUT: Duration = Duration::from_secs(10);

/// Attempts after the last child is gone, and the pauses between them: half a second, or more if
/// this process has to wait for a processor as well.
const LAST_ATTEMPTS: u32 = 30;
const LAST_PAUSE: Duration = Duration::from_millis(18);

/// Tries to take a lock. `None` if it is held by others, and not only for a moment. Blocks.
///
/// Whatever is locked must have been locked by this function, or by functions that use it: children
/// that were forked before its first call are not known.
pub fn take<T, E>(mut attempt: impl FnMut() -> Result<Option<T>, E>) -> Result<Option<T>, E> {
    let children = Children::all();
    if let Some(taken) = attempt()? {
        return Ok(Some(taken));
    }
    children.wait(CHILD_TIMEOUT);
    for _ in 1..LAST_ATTEMPTS {
        if let Some(taken) = attempt()? {
            return Ok(Some(taken));
        }
        thread::sleep(LAST_PAUSE);
    }
    attempt()
}

/// For an attempt to open a device with `O_EXCL`: None if it is claimed already (EBUSY).
pub fn unless_busy(opened: io::Result<File>) -> io::Result<Option<File>> {
    match opened {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Locks a byte range for the life of this open file (`F_OFD_SETLK`). False if another open file
/// holds a conflicting lock, and not only for a moment. Blocks.
pub fn lock_range(file: &File, range: &Range<u64>) -> io::Result<bool> {
    let locked = take(|| Ok(sys::try_lock_range(file, range)?.then_some(())));
    locked.map(|locked: Option<()>| locked.is_some())
}

/// The children of this process that have not run their programs yet.
struct Children(Mutex<Pipes>);

#[derive(Default)]
struct Pipes {
    /// The pipe that new children inherit.
    current: Option<(PipeReader, PipeWriter)>,
    /// Earlier pipes that some child still has open.
    old: Vec<PipeReader>,
}

impl Children {
    /// Children are known from the first call on.
    fn all() -> &'static Self {
        static ALL: OnceLock<Children> = OnceLock::new();
        ALL.get_or_init(|| {
            Self(Mutex::new(Pipes {
                // Without free descriptors a process can lock nothing either.
                current: io::pipe().ok(),
                old: Vec::new(),
            }))
        })
    }

    /// Waits until all children that were forked so far run their programs, or the time is over.
    fn wait(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        // Held meanwhile: another caller has to wait for the same children.
        let mut pipes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = io::pipe().ok();
        if let Some((reader, writer)) = std::mem::replace(&mut pipes.current, next) {
            drop(writer);
            pipes.old.push(reader);
        }
        pipes.old.retain(|reader| {
            let left = deadline.saturating_duration_since(Instant::now());
            // A pipe that cannot be polled tells nothing, now or later.
            !sys::wait_for_hangup(reader.as_fd(), left).unwrap_or(true)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_taken_when_it_comes_free_and_given_up_when_it_does_not() {
        let mut looks = 0;
        let taken = take(|| {
            looks += 1;
            Ok::<_, ()>((looks == 3).then_some(looks))
        });
        assert_eq!(taken, Ok(Some(3)));
        assert_eq!(take(|| Ok::<Option<()>, ()>(None)), Ok(None));
        let mut looks = 0;
        let failed = take(|| {
            looks += 1;
            Err::<Option<()>, _>("no locks here")
        });
        assert_eq!((failed, looks), (Err("no locks here"), 1));
    }

    #[test]
    fn a_child_that_has_the_pipe_is_waited_for_and_not_for_ever() {
        let children = Children(Mutex::default());
        children.wait(Duration::ZERO);
        let copy = {
            let pipes = children.0.lock().unwrap();
            let (_, writer) = pipes.current.as_ref().unwrap();
            // As a child would have it.
            writer.try_clone().unwrap()
        };
        let started = Instant::now();
        children.wait(Duration::from_millis(30));
        assert!(started.elapsed() >= Duration::from_millis(30));
        assert_eq!(children.0.lock().unwrap().old.len(), 1);
        // The next call waits for it as well, until it is gone.
        let child = thread::spawn(move || {
            thread::sleep(Duration::from_millis(30));
            drop(copy);
        });
        let started = Instant::now();
        children.wait(CHILD_TIMEOUT);
        assert!(started.elapsed() < CHILD_TIMEOUT);
        assert_eq!(children.0.lock().unwrap().old.len(), 0);
        child.join().unwrap();
    }
}
