//! The methods by which a range is made to read as zero.

use crate::names::named;

/// How a range was made to read as zero, cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ZeroMethod {
    /// The file's blocks were freed.
    Hole,
    /// The device's own WRITE ZEROES command, which transfers no data.
    WriteZeroes,
    /// The kernel wrote zeros, because the device has no command for it.
    KernelZeros,
    /// This program wrote zeros, because neither file system nor kernel can.
    Written,
}

impl ZeroMethod {
    /// Whether the method costs the device as much as writing the same bytes.
    pub(super) fn moves_data(self) -> bool {
        matches!(self, Self::KernelZeros | Self::Written)
    }

    /// The next thing to try where this method is not supported.
    pub(super) fn fallback(self) -> Option<Self> {
        match self {
            Self::WriteZeroes => Some(Self::KernelZeros),
            Self::Hole | Self::KernelZeros => Some(Self::Written),
            Self::Written => None,
        }
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

named!(ZeroMethod, "zeroing method", {
    Hole => "hole",
    WriteZeroes => "write-zeroes",
    KernelZeros => "kernel-zeros",
    Written => "written-zeros",
});
