//! The name of a listening socket.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The name of a listening socket; it is removed with this.
#[derive(Debug)]
pub struct Name(PathBuf);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message is the documentation")]
pub enum ListenError {
    #[error("cannot listen on {0}: a sandbox listens there already")]
    InUse(PathBuf),
    #[error("cannot listen on {0}: there is a file with that name; choose another or remove it")]
    Exists(PathBuf),
    #[error("cannot listen on {0}: {1}")]
    Io(PathBuf, io::Error),
}

impl Name {
    /// Makes a socket at `path`, in place of one that a killed sandbox has left. Only its owner can connect.
    pub fn bind(path: &Path) -> Result<(Name, UnixListener), ListenError> {
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(ListenError::Exists(path.into()));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(ListenError::InUse(path.into()));
            }
            let _ = std::fs::remove_file(path); // if it is still there, binding says so
        }
        let io = |e| ListenError::Io(path.into(), e);
        // The mode of the name decides who may connect; it must never have been a wider one.
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let socket = UnixListener::bind(path);
        rustix::process::umask(mask);
        let socket = socket.map_err(io)?;
        socket.set_nonblocking(true).map_err(io)?;
        Ok((Name(path.into()), socket))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0); // somebody may have been faster
    }
}
