//! Saved state: none beyond the transport's. Entropy must not be saved, and a restored bucket starts full.

use serde::{Deserialize, Serialize};

use super::Rng;

/// What the device knows beyond its transport's state: nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngState {
    /// Version of this struct: 1.
    pub version: u32,
}

impl Rng {
    /// The device as one plain struct.
    pub fn save(&self) -> RngState {
        RngState { version: 1 }
    }

    /// Whether `state` describes this device.
    pub fn accepts(&self, state: &RngState) -> bool {
        *state == self.save()
    }
}
