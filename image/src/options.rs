//! What the caller chooses, and what it is told.

/// How to make an image.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// No time in the image is later than this (seconds since 1970): `SOURCE_DATE_EPOCH` for reproducible images.
    pub clamp_mtime: Option<i64>,
    /// The volume id; by default it is derived from the metadata of the tree.
    pub uuid: Option<[u8; 16]>,
    /// Everything belongs to this user and group.
    pub owner: Option<(u32, u32)>,
    /// Directories only: pack what is mounted inside of the tree, too.
    pub cross_mounts: bool,
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the metadata of the source.
    Scan,
    /// Writing file data.
    Data,
    /// Writing metadata and waiting for the disk.
    Finish,
}

/// Where packing is. Totals are 0 as long as they are not known; for an archive that is always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// Files seen or packed in this phase.
    pub files: u64,
    /// Of how many.
    pub files_total: u64,
    /// Bytes of data packed.
    pub bytes: u64,
    /// Of how many.
    pub bytes_total: u64,
}

/// Called often (every few files or megabytes); showing less is up to the receiver.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

/// What was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Bytes of the image.
    pub size: u64,
    /// Inodes in it.
    pub inodes: u64,
    /// Bytes of file data.
    pub data: u64,
    /// What was left out or changed, a sentence each.
    pub warnings: Vec<String>,
}
