//! Where trees come from: a directory or a tar archive.

mod dir;
mod scan;
mod tar;

pub use dir::build_from_dir;
pub(crate) use dir::{identity_of, pack, scan_dir};
pub(crate) use scan::Depth;
pub use tar::build_from_tar;
