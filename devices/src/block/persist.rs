//! Saved state. The disk's content is not part of it.

use serde::{Deserialize, Serialize};

use super::Block;

/// What the device knows beyond its transport's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockState {
    /// Version of this struct: 1.
    pub version: u32,
    /// Capacity in units of 512 bytes.
    pub sectors: u64,
    /// Whether it can be written.
    pub read_only: bool,
    /// Identity string.
    pub id: String,
}

impl Block {
    /// The device as one plain struct.
    pub fn save(&self) -> BlockState {
        BlockState {
            version: 1,
            sectors: self.disk.sectors(),
            read_only: self.disk.read_only(),
            id: self.id.clone(),
        }
    }

    /// Whether `state` describes this device: the VMM must have been given the same disk again.
    pub fn accepts(&self, state: &BlockState) -> bool {
        *state == self.save()
    }
}
