//! The fixed layout of every file.

/// Offsets in the file are multiples of this.
pub(super) const ALIGNMENT: u64 = 1 << 20;

/// Everything before the log: identifier, headers and region tables.
pub(super) const FIRST_REGION: u64 = 1 << 20;
