//! A fixed number of aligned buffers, which bounds the memory of a copy.
//!
//! Code that reads an image can fill buffers of the same kind and [feed](crate::copy::Copier::feed)
//! them to the copier.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

pub(crate) use crate::sys::AlignedBuf;

/// How often a wait checks whether it was cancelled. Nothing else depends on it: returning a buffer
/// wakes a waiting thread.
const CANCEL_CHECK: Duration = Duration::from_millis(50);

/// Hands out page-aligned buffers of one size. Callers wait while all are in use.
#[derive(Debug, Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    buffer_bytes: usize,
    stock: Mutex<Stock>,
    returned: Condvar,
}

#[derive(Debug)]
struct Stock {
    idle: Vec<AlignedBuf>,
    /// How many more may be allocated.
    unmade: usize,
}

impl BufferPool {
    /// A pool of at most `buffers` buffers. Each is allocated when it is first needed.
    pub fn new(buffers: usize, buffer_bytes: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                buffer_bytes,
                stock: Mutex::new(Stock {
                    idle: Vec::with_capacity(buffers),
                    unmade: buffers,
                }),
                returned: Condvar::new(),
            }),
        }
    }

    /// Takes a buffer, which may still hold its previous user's data. Waits if all are in use;
    /// `None` if `is_stopped` returns true meanwhile.
    pub fn take(&self, is_stopped: impl Fn() -> bool) -> io::Result<Option<PooledBuf>> {
        let mut stock = self.shared.lock();
        loop {
            if is_stopped() {
                return Ok(None);
            }
            let buffer = match stock.idle.pop() {
                Some(buffer) => Some(buffer),
                None if stock.unmade > 0 => {
                    let buffer = AlignedBuf::with_huge_pages(self.shared.buffer_bytes, usize::MAX)?;
                    stock.unmade -= 1;
                    Some(buffer)
                }
                None => None,
            };
            if let Some(buffer) = buffer {
                return Ok(Some(PooledBuf {
                    buffer: Some(buffer),
                    home: Arc::clone(&self.shared),
                }));
            }
            stock = self
                .shared
                .returned
                .wait_timeout(stock, CANCEL_CHECK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Stock> {
        // The list of free buffers is consistent between any two statements of its users.
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer in use. It returns to its pool when dropped.
#[derive(Debug)]
pub struct PooledBuf {
    /// Some until the drop.
    buffer: Option<AlignedBuf>,
    home: Arc<Shared>,
}

impl Deref for PooledBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or_default()
    }
}

impl DerefMut for PooledBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().unwrap_or_default()
    }
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.home.lock().idle.push(buffer);
            self.home.returned.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_pool_never_makes_more_buffers_than_it_may_and_hands_returned_ones_out_again() {
        let pool = BufferPool::new(2, 8192);
        let first = pool.take(|| false).unwrap().unwrap();
        let second = pool.take(|| false).unwrap().unwrap();
        assert_eq!((first.len(), second.len()), (8192, 8192));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.take(|| false).unwrap().is_some());
            drop(first);
            assert!(waiter.join().unwrap());
        });
    }

    #[test]
    fn a_wait_for_a_buffer_ends_when_the_copy_is_stopped() {
        let pool = BufferPool::new(1, 8192);
        let _all = pool.take(|| false).unwrap().unwrap();
        let stopped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.take(|| stopped.load(Ordering::Relaxed)).unwrap());
            stopped.store(true, Ordering::Relaxed);
            assert!(waiter.join().unwrap().is_none());
        });
    }
}
