//! Saved state.

use serde::{Deserialize, Serialize};

use super::Balloon;

/// What the device knows beyond its transport's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonState {
    /// [`BalloonState::VERSION`].
    pub version: u32,
    /// Pages of 4 KiB the host asks for.
    pub target: u32,
    /// Pages of 4 KiB the guest says it has given.
    pub actual: u32,
}

impl BalloonState {
    /// Version of this struct.
    pub const VERSION: u32 = 1;
}

impl Balloon {
    /// The device as one plain struct.
    pub fn save(&self) -> BalloonState {
        BalloonState { version: BalloonState::VERSION, target: self.target, actual: self.actual }
    }

    /// Takes over a saved state, before the transport is restored. `false`: another version.
    #[must_use]
    pub fn restore(&mut self, state: &BalloonState) -> bool {
        if state.version != BalloonState::VERSION {
            return false;
        }
        self.target = state.target;
        self.actual = state.actual;
        true
    }
}
