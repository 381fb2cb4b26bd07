//! Locks that outlive their holder for a moment.
//!
//! A child that was just forked has every descriptor of its parent until it runs its program, also
//! those that the parent has closed since. So a `flock`, the claim of a block device (`O_EXCL`) and
//! locks of an open file description may be held by nobody but a command that another thread is
//! starting. "In use" is therefore concluded only when it has been true for a while.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

/// How long a lock may be held before it counts as in use. From fork to exec takes less than a
/// millisecond, on a host with far more to run than it has processors some hundred.
pub const HELD_BY_CHILD: Duration = Duration::from_millis(500);

/// The first pause between two attempts; each is twice the one before, up to the last.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LAST_PAUSE: Duration = Duration::from_millis(20);

/// Tries to take a lock until it is had, fails, or was held by others for [`HELD_BY_CHILD`]: then
/// `None`. Blocks.
pub fn take<T, E>(attempt: impl FnMut() -> Result<Option<T>, E>) -> Result<Option<T>, E> {
    take_within(HELD_BY_CHILD, attempt)
}

/// For an attempt to open a device with `O_EXCL`: none while another one has claimed it (EBUSY).
pub fn unless_busy(opened: io::Result<File>) -> io::Result<Option<File>> {
    match opened {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Locks a byte range for the life of this open file (`F_OFD_SETLK`). False when another open file
/// holds a conflicting lock, and not for a moment only. Blocks.
pub fn lock_range(file: &File, range: &Range<u64>) -> io::Result<bool> {
    let locked = take(|| Ok(sys::try_lock_range(file, range)?.then_some(())));
    locked.map(|locked: Option<()>| locked.is_some())
}

fn take_within<T, E>(
    limit: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        // Looked at before the attempt, so that one comes after the whole time however late it is.
        let is_last = started.elapsed() >= limit;
        match attempt()? {
            Some(taken) => return Ok(Some(taken)),
            None if is_last => return Ok(None),
            None => thread::sleep(pause),
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_taken_when_it_comes_free_and_given_up_only_after_the_whole_time() {
        let mut looks = 0;
        let taken = take(|| {
            looks += 1;
            Ok::<_, ()>((looks == 3).then_some(looks))
        });
        assert_eq!(taken, Ok(Some(3)));
        let limit = Duration::from_millis(30);
        let started = Instant::now();
        let never = take_within(limit, || Ok::<Option<()>, ()>(None));
        assert_eq!(never, Ok(None));
        assert!(started.elapsed() >= limit);
        let mut looks = 0;
        let failed = take(|| {
            looks += 1;
            Err::<Option<()>, _>("no locks here")
        });
        assert_eq!((failed, looks), (Err("no locks here"), 1));
    }
}
