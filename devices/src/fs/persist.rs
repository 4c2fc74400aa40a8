//! Saved state: none. What the guest knows of a host directory lives in the gofer, and a restored sandbox has another one: its
//! driver finds the device gone, as after the gofer's death.

use serde::{Deserialize, Serialize};

use super::Fs;

/// What the device knows beyond its transport's state: nothing that could be kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FsState {
    /// Version of this struct: 1.
    pub version: u32,
}

impl Fs {
    /// The device as one plain struct.
    pub fn save(&self) -> FsState {
        FsState { version: 1 }
    }

    /// Whether `state` describes this device.
    pub fn accepts(&self, state: &FsState) -> bool {
        *state == self.save()
    }
}
