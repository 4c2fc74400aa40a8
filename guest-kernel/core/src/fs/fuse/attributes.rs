//! What an inode was last known to be.
//!
//! Our own writes change size and times on the host, and the host's users do, too. Attributes that come are held against the last
//! ones: if size, mtime or ctime differ and nothing of our own doing can be the reason, what is cached of the content is
//! stale. After something of ours the next attributes are taken as they are (a change of the host's at just that time
//! is seen with the next one).

use crate::fs::types::{Metadata, Timestamp};

/// Attributes, and how far they can be believed.
pub struct Attributes {
    metadata: Metadata,
    /// The time (`time::now`) until which they hold.
    until: u64,
    /// Renames of the volume when they came: those change inodes nobody names.
    renames: u64,
    /// Something of ours has changed them since they came.
    ours: bool,
    /// Counts what we change, at its beginning and at its end: an answer to what was asked before tells of before.
    version: u64,
}

impl Attributes {
    /// As they came now.
    pub fn new(metadata: Metadata, until: u64, renames: u64) -> Attributes {
        Attributes { metadata, until, renames, ours: false, version: 0 }
    }

    /// The last known ones.
    pub fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// How often we have changed something.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether they still hold at `now`, after so many renames.
    pub fn hold(&self, now: u64, renames: u64) -> bool {
        now < self.until && renames == self.renames && !self.ours
    }

    /// Whether mode and owner do: what we write changes other things.
    pub fn rights_hold(&self, now: u64) -> bool {
        now < self.until
    }

    /// Takes new ones, which were asked for at `version`; whether what is cached of the content is stale.
    pub fn learn(&mut self, new: Metadata, version: u64, until: u64, renames: u64) -> bool {
        let mark = |m: &Metadata| -> (u64, Timestamp, Timestamp) { (m.size, m.mtime, m.ctime) };
        let before = version != self.version;
        let stale = !self.ours && !before && mark(&new) != mark(&self.metadata);
        let size = if before { self.metadata.size } else { new.size };
        self.metadata = Metadata { size, ..new };
        (self.until, self.renames) = (until, renames);
        // Of before our last change: good for mode and owner, and to be asked for again.
        self.ours = before;
        stale
    }

    /// We have changed something, or begin to: they have to be asked for, and are no surprise.
    pub fn changed(&mut self) {
        self.ours = true;
        self.version += 1;
    }

    /// We have written up to `end`.
    pub fn written(&mut self, end: u64) {
        self.metadata.size = self.metadata.size.max(end);
        self.changed();
    }

    /// We have set the size.
    pub fn set_size(&mut self, size: u64) {
        self.metadata.size = size;
        self.changed();
    }
}
