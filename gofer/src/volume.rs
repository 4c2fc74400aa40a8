//! What is shared: a directory or file of the host, and how its owners look inside.

use std::os::fd::OwnedFd;

use ringfence_protocol::Cache;
pub use ringfence_protocol::ids::{IdMap, IdRange};
use serde::{Deserialize, Serialize};

/// What is to be shared. `F` is a descriptor: open, or its number in the process that gets this.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume<F = OwnedFd> {
    /// The directory or file.
    pub root: F,
    /// Nothing of it may be changed.
    pub read_only: bool,
    /// The guest may set set-user-ID and set-group-ID bits of files, which then hold on the host, too.
    pub set_id: bool,
    /// User ids: in the sandbox, and on the host.
    pub users: IdMap,
    /// Group ids.
    pub groups: IdMap,
    /// How long the guest may believe what it was told (README, "Coherence"). Our own guest kernel knows its mode by itself;
    /// this is for others.
    pub cache: Cache,
}

impl<F> Volume<F> {
    /// The same with another descriptor.
    pub fn with<G>(self, root: impl FnOnce(F) -> G) -> Volume<G> {
        let Self { root: old, read_only, set_id, users, groups, cache } = self;
        Volume { root: root(old), read_only, set_id, users, groups, cache }
    }
}
