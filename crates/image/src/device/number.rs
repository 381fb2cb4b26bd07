//! How the kernel numbers block devices.

use std::fmt;

/// A block device's number, in the form of sysfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DeviceNumber {
    /// The driver.
    major: u32,
    /// The device of that driver.
    minor: u32,
}

impl DeviceNumber {
    pub(super) fn new(rdev: u64) -> Self {
        Self {
            major: libc::major(rdev),
            minor: libc::minor(rdev),
        }
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Whether the device has a WRITE ZEROES command (Documentation/ABI/stable/sysfs-block).
pub(super) fn has_write_zeroes(number: DeviceNumber) -> bool {
    // A partition has no queue of its own; its disk's is one level up.
    ["queue", "../queue"].iter().any(|queue| {
        let limit = format!("/sys/dev/block/{number}/{queue}/write_zeroes_max_bytes");
        std::fs::read_to_string(limit)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
            .is_some_and(|bytes| bytes > 0)
    })
}
