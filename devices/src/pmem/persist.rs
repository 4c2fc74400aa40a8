//! Saved state.

use serde::{Deserialize, Serialize};

use super::Pmem;

/// What the device knows beyond its transport's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PmemState {
    /// Version of this struct: 1.
    pub version: u32,
    /// Guest physical address of the region.
    pub start: u64,
    /// Length of the region in bytes.
    pub size: u64,
}

impl Pmem {
    /// The device as one plain struct.
    pub fn save(&self) -> PmemState {
        PmemState { version: 1, start: self.start, size: self.size }
    }

    /// Whether `state` describes this device: the VMM must have mapped the same region again.
    pub fn accepts(&self, state: &PmemState) -> bool {
        *state == self.save()
    }
}
