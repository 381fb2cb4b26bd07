//! Makes ranges of a target read as zero.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::target::{Kind, Target};
use super::zero_method::ZeroMethod;
use crate::error::Result;
use crate::sys::{self, AlignedBuf};

/// Zeros written by one request if nothing better works.
const ZERO_BLOCK_BYTES: usize = 1 << 20; // 1 MiB

/// Size of one request to a device that has WRITE ZEROES. Devices split it as needed; the bound
/// keeps a cancelled copy from waiting long.
const FAST_ZERO_STEP_BYTES: u64 = 256 << 20; // 256 MiB

/// Size of one request if the kernel or this program actually writes the zeros: a slow disk (60
/// MB/s) takes about half a second for it, so that a cancelled copy ends in time.
const SLOW_ZERO_STEP_BYTES: u64 = 32 << 20; // 32 MiB

impl Target {
    /// How much of a range one call of [`Target::zero_range`] should clear, so that a caller who
    /// checks for cancellation between calls does so often enough.
    pub(crate) fn zero_step_bytes(&self) -> u64 {
        if self.zeroing_moves_data() {
            SLOW_ZERO_STEP_BYTES
        } else {
            FAST_ZERO_STEP_BYTES
        }
    }

    /// Whether zeroing a range costs as much as writing it.
    pub(crate) fn zeroing_moves_data(&self) -> bool {
        self.zero_method().moves_data()
    }

    fn zero_method(&self) -> ZeroMethod {
        *ZeroMethod::ALL
            .get(self.zero_method.load(Ordering::Relaxed))
            .expect("only a method's index is stored")
    }

    /// Makes a range read as zero, and returns the method. Parts that are not whole blocks of the
    /// device are written.
    pub(crate) fn zero_range(&self, range: Range<u64>) -> Result<ZeroMethod> {
        let method = self.zero_method();
        if method == ZeroMethod::Written {
            self.write_zeros(range)?;
            return Ok(method);
        }
        let (cleared, result) = match self.kind {
            Kind::File { .. } => (range.clone(), sys::punch_hole(&self.file, &range)),
            Kind::Block { .. } => {
                let start = range.start.next_multiple_of(self.block_bytes);
                let whole = start..range.end - range.end % self.block_bytes;
                if whole.is_empty() {
                    self.write_zeros(range)?;
                    return Ok(ZeroMethod::Written);
                }
                let result = if method == ZeroMethod::WriteZeroes {
                    // For a block device this is WRITE ZEROES, and it fails if the device does not
                    // support that (block/fops.c: BLKDEV_ZERO_NOFALLBACK). Unlike BLKZEROOUT it
                    // lets the device free the space, as long as it reads as zero.
                    sys::punch_hole(&self.file, &whole)
                } else {
                    sys::block_zero_out(&self.file, &whole)
                };
                (whole, result)
            }
        };
        match result {
            Ok(()) => {
                self.write_zeros(range.start..cleared.start)?;
                self.write_zeros(cleared.end..range.end)?;
                Ok(method)
            }
            Err(error) if is_unsupported(&error) => {
                let next = method.fallback().unwrap_or(ZeroMethod::Written);
                self.zero_method.store(next.index(), Ordering::Relaxed);
                self.zero_range(range)
            }
            Err(source) => Err(self.write_error("Zeroing", &range, source)),
        }
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let zeros = match self.zeros.get() {
            Some(zeros) => zeros,
            None => {
                let fresh = AlignedBuf::new(ZERO_BLOCK_BYTES)
                    .map_err(|source| self.write_error("Zeroing", &range, source))?;
                self.zeros.get_or_init(|| fresh)
            }
        };
        let mut offset = range.start;
        while offset < range.end {
            let len = (range.end - offset).min(zeros.len() as u64);
            let len = usize::try_from(len).unwrap_or(zeros.len());
            self.write_all_at(&zeros[..len], offset)?;
            offset += len as u64;
        }
        Ok(())
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS | libc::EINVAL)
    )
}
