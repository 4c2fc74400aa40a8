//! Why reading failed.

use core::fmt;

/// Short for a result with [`Error`].
pub type Result<T> = core::result::Result<T, Error>;

/// Why an image could not be read; the text is for a log or strace, [`Error::errno`] for the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes could not be had: a read beyond the image, or the device failed.
    Io,
    /// The image contradicts itself.
    Corrupt(&'static str),
    /// The image uses a feature this reader does not have.
    Unsupported(&'static str),
    /// A directory operation on something else.
    NotDirectory,
    /// The operation does not fit the type of the file.
    Invalid,
}

impl Error {
    /// The Linux errno a system call gives for it: the same as Linux's EROFS (`EFSCORRUPTED` is `EUCLEAN`).
    pub fn errno(self) -> i32 {
        match self {
            Error::Io => 5,
            Error::Corrupt(_) => 117,
            Error::Unsupported(_) => 95,
            Error::NotDirectory => 20,
            Error::Invalid => 22,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io => f.write_str("the image could not be read"),
            Error::Corrupt(what) => write!(f, "the image is damaged: {what}"),
            Error::Unsupported(what) => write!(f, "the image uses what is not supported: {what}"),
            Error::NotDirectory => f.write_str("not a directory"),
            Error::Invalid => f.write_str("not possible for a file of this type"),
        }
    }
}

impl core::error::Error for Error {}
