//! Saved state. What is on its way is lost, as on any network.

use serde::{Deserialize, Serialize};

use super::{Mac, Net};

/// What the device knows beyond its transport's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetState {
    /// Version of this struct: 1.
    pub version: u32,
    /// The guest's address.
    pub mac: Mac,
    /// The largest packet.
    pub mtu: u16,
    /// Whether the backend has offloads.
    pub offloads: bool,
}

impl Net {
    /// The device as one plain struct.
    pub fn save(&self) -> NetState {
        NetState {
            version: 1,
            mac: self.config.mac,
            mtu: self.config.mtu,
            offloads: self.backend.has_offloads(),
        }
    }

    /// Whether `state` describes this device: the VMM must have been given the same kind of backend again.
    pub fn accepts(&self, state: &NetState) -> bool {
        *state == self.save()
    }
}
