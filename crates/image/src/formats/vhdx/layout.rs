//! What stands where in every file.

/// What offsets in the file are multiples of.
pub(super) const ALIGNMENT: u64 = 1 << 20;

/// Everything before the log: identifier, headers and region tables.
pub(super) const FIRST_REGION: u64 = 1 << 20;
