//! The ways in which a range is made to read as zero.

use std::fmt;

/// How a range was made to read as zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ZeroMethod {
    /// The file's blocks were freed.
    Hole,
    /// The device's own WRITE ZEROES command, without moving data.
    WriteZeroes,
    /// The kernel wrote zeros, as the device has no command for it.
    KernelZeros,
    /// This program wrote zeros, as neither file system nor kernel do it.
    Written,
}

impl ZeroMethod {
    /// All methods, cheapest first.
    pub const ALL: [Self; 4] = [
        Self::Hole,
        Self::WriteZeroes,
        Self::KernelZeros,
        Self::Written,
    ];

    /// A name for logs and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hole => "hole",
            Self::WriteZeroes => "write-zeroes",
            Self::KernelZeros => "kernel-zeros",
            Self::Written => "written-zeros",
        }
    }

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

impl fmt::Display for ZeroMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
