//! What a host's key in the bucket of claims holds, and what a host is to do.

use serde::{Deserialize, Serialize};

/// What a host's key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The order's revision.
    pub revision: u64,
    /// The number of the claim's first write; none in that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<u64>,
    /// What it says.
    pub state: ClaimState,
    /// A host that has not renewed for so long does not work.
    pub silence_seconds: u64,
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimState {
    /// The host wants a place, or has it.
    Claimed,
    /// It has given it back.
    Back,
    /// It has given it back, and its jobs have failed.
    Failed,
}

impl ClaimState {
    pub(super) fn given_back(has_failed: bool) -> Self {
        match has_failed {
            true => Self::Failed,
            false => Self::Back,
        }
    }
}

/// What the host is to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing before the next observation, or a moment.
    Idle,
    /// Write this to its key, if the key's last number is still `expected` (0: if there is none).
    Write {
        /// What to write.
        record: Record,
        /// The number.
        expected: u64,
    },
    /// It has a place: begin.
    Begin,
    /// It has lost its place: stop at once.
    Stop,
    /// Too many hosts have failed: do not begin any more.
    Halt {
        /// How many.
        failures: u32,
    },
}
