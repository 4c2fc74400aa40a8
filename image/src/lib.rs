//! Root images for sandboxes: packing, checking, and the cache of `--rootfs`.
//!
//! An image is an uncompressed EROFS file system in a file. Sandboxes map it read-only as a pmem device, and all
//! sandboxes of one image share its pages in the host's page cache. The on-disk format is in `ringfence-erofs`,
//! which is also what the guest reads images with.
//!
//! - [`build_from_dir`] and [`build_from_tar`] make an image without running any other program. A source is read
//!   into a tree of metadata; file data goes to the output as it comes;
//!   `layout` places the metadata behind it.
//! - [`inspect`] tells whether a file is an image that a sandbox can use, or what to do.
//! - [`cache::Cache`] keeps one image for each directory given to `--rootfs`.
//!
//! # Invariants
//!
//! - A source is hostile: nothing it contains makes us write anywhere but to the output, follow a symbolic link
//!   on the host, or keep more than a bounded amount in memory.
//! - An image appears under its name whole and synced, or not at all.
//! - The same source gives the same bytes: no time of the build, no order of `readdir`, no random number.
//! - Each regular file lies in one piece at a multiple of 4 KiB, the rest of its last page is zero.

pub mod cache;
mod error;
mod inspect;
mod layout;
mod options;
mod output;
mod source;
#[cfg(test)]
mod testing;
mod tree;
mod writer;

pub use cache::{Cache, cached_image};
pub use error::{Error, Result};
pub use inspect::{Info, inspect, inspect_file};
pub use options::{OnProgress, Options, Phase, Progress, Summary};
pub use source::{build_from_dir, build_from_tar};
