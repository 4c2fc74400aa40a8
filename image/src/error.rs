//! What can go wrong. The texts are what the user reads, so they name the file and the way out.

use std::io;
use std::path::{Path, PathBuf};

/// Short for a result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image could not be made, found or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a source file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Source {
        /// What was tried, such as "read".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No permission to read a source file.
    #[error(
        "no permission to {action} {}: pack as the owner of the tree or as root, or make the file readable",
        path.display()
    )]
    Unreadable {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The source is not a directory.
    #[error("{} is not a directory: give the directory that holds the root tree, or a tar archive of it", .0.display())]
    NotDirectory(PathBuf),
    /// A file was exchanged while the tree was being packed.
    #[error("{} was replaced or removed while packing: try again when nothing changes the tree", .0.display())]
    Changed(PathBuf),
    /// Something of the source that an image cannot hold.
    #[error("{} cannot be packed: {reason}", path.display())]
    Unfit {
        /// The file, inside of the tree.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The image or its metadata would be too big.
    #[error("the tree is too big for an image: {0}")]
    TooBig(&'static str),
    /// The archive is no tar archive, is damaged or has hostile content.
    #[error("bad tar archive: {0}")]
    Tar(String),
    /// The archive is compressed in a way that is not supported.
    #[error(
        "the archive is compressed with {0}, which is not supported: decompress it first, or give a .tar or .tar.gz"
    )]
    Compressed(&'static str),
    /// Reading the archive failed.
    #[error("cannot read the archive: {0}")]
    ReadTar(io::Error),
    /// The disk of the output is full.
    #[error(
        "no space left on the disk of {}: free some, or write the image elsewhere (for cached images set XDG_CACHE_HOME)",
        .0.display()
    )]
    DiskFull(PathBuf),
    /// Writing the output failed.
    #[error("cannot write {}: {source}", path.display())]
    Output {
        /// The output.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The output exists and is not something that may be replaced.
    #[error("{} exists and is not a regular file: give another name for the image", .0.display())]
    OutputNotFile(PathBuf),
    /// There is no such image.
    #[error(
        "no image at {}: check the name, or make one with `ringfence image build DIR -o {}`",
        .0.display(),
        .0.display()
    )]
    NoImage(PathBuf),
    /// The path of an image leads to something else.
    #[error("{} is {what}, not an image file{}", path.display(), if *.what == "a directory" { ": for a directory use --rootfs" } else { "" })]
    NotFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// The image could not be opened or read.
    #[error("cannot read the image {}: {source}", path.display())]
    ReadImage {
        /// The image.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Not an EROFS image.
    #[error(
        "{} is not an EROFS image{hint}: make one with `ringfence image build DIR|TAR -o F.erofs`",
        path.display()
    )]
    NotErofs {
        /// The file.
        path: PathBuf,
        /// What it seems to be, as " (it looks like …)", or nothing.
        hint: &'static str,
    },
    /// The image is shorter than it says.
    #[error(
        "the image {} is cut short ({have} bytes of {need}): copy it again, or make it again with `ringfence image build`",
        path.display()
    )]
    Truncated {
        /// The image.
        path: PathBuf,
        /// Bytes there are.
        have: u64,
        /// Bytes there should be.
        need: u64,
    },
    /// The image is damaged or uses features that are not supported.
    #[error(
        "{}: {source}; make the image again with `ringfence image build DIR|TAR -o F.erofs` (or mkfs.erofs without compression)",
        path.display()
    )]
    BadImage {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        source: ringfence_erofs::Error,
    },
    /// There is no directory for cached images.
    #[error("no place for cached images: set HOME or XDG_CACHE_HOME to an absolute path")]
    NoCache,
    /// A file of the cache could not be used.
    #[error("cannot {action} {}: {source} (the image cache; `ringfence image rm --all` empties it)", path.display())]
    Cache {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No cached image has that key.
    #[error("no cached image {0:?}: see `ringfence image ls`")]
    NoSuchKey(String),
    /// Several cached images have keys that start so.
    #[error("{0:?} fits {1} cached images: give more of the key, see `ringfence image ls`")]
    AmbiguousKey(String, usize),
}

impl Error {
    /// For a failed call on a source file.
    pub(crate) fn source(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Unreadable { action, path: path.into() },
            _ => Self::Source { action, path: path.into(), source },
        }
    }

    /// For a failed call on the output.
    pub(crate) fn output(path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(path.into()),
            _ => Self::Output { path: path.into(), source },
        }
    }

    /// For something that does not fit into an image.
    pub(crate) fn unfit(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unfit { path: path.into(), reason: reason.into() }
    }
}
