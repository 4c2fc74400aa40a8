//! Saved state. Connections are descriptors of this process and end with it: a restored guest is told so by a
//! TRANSPORT_RESET event and closes its sockets (virtio 1.2, section 5.10.6.7).

use serde::{Deserialize, Serialize};

use super::Vsock;

/// What the device knows beyond its transport's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {
    /// [`VsockState::VERSION`].
    pub version: u32,
    /// The guest's context id.
    pub guest_cid: u64,
}

impl VsockState {
    /// Version of this struct.
    pub const VERSION: u32 = 1;
}

impl Vsock {
    /// Takes over a saved state, before the transport is restored. `false`: it does not describe this device.
    #[must_use]
    pub fn restore(&mut self, state: &VsockState) -> bool {
        if *state != self.save() {
            return false;
        }
        self.announce_reset = true;
        true
    }
}
