//! The output: appears whole under its name, or not at all.
//!
//! The image is written into a file without a name (`O_TMPFILE`), which the kernel removes if we die. Where the
//! file system or a missing `/proc` does not allow that, it has a name starting with a dot and a lock; an
//! [`Output`] for the same name removes what a dead process left there.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, linkat, openat};

use crate::{Error, Result};

const TEMPORARY: &[u8] = b".ringfence-tmp";

/// A file being written.
#[derive(Debug)]
pub struct Output {
    file: File,
    path: PathBuf,
    /// The name it has meanwhile.
    temporary: Option<PathBuf>,
}

impl Output {
    /// Starts a file that [`Output::commit`] will put at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let fail = |e: io::Error| Error::output(path, e);
        match fs::symlink_metadata(path) {
            Ok(found) if !found.is_file() => return Err(Error::OutputNotFile(path.into())),
            _ => {}
        }
        let name = path.file_name().ok_or_else(|| fail(io::ErrorKind::InvalidFilename.into()))?;
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        remove_leftovers(dir, name.as_bytes());
        let temporary = temporary_name(dir, name.as_bytes());
        if fs::exists("/proc/self/fd").unwrap_or(false)
            && let Ok(fd) = openat(CWD, dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, MODE)
        {
            return Ok(Self { file: fd.into(), path: path.into(), temporary: None });
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file: File = openat(CWD, &temporary, flags, MODE).map_err(|e| fail(e.into()))?.into();
        let output = Self { file, path: path.into(), temporary: Some(temporary) };
        flock(&output.file, FlockOperation::NonBlockingLockExclusive).map_err(|e| fail(e.into()))?;
        Ok(output)
    }

    /// The file, to write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the disk has it, then gives it its name, replacing what had it.
    pub fn commit(mut self) -> Result<File> {
        let fail = |e: io::Error| Error::output(&self.path, e);
        self.file.sync_all().map_err(fail)?;
        if self.temporary.is_none() {
            let dir = self.path.parent().unwrap_or(Path::new(""));
            let name = temporary_name(dir, self.path.file_name().unwrap_or_default().as_bytes());
            let this = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            flock(&self.file, FlockOperation::NonBlockingLockExclusive).map_err(|e| fail(e.into()))?;
            linkat(CWD, this, CWD, &name, AtFlags::SYMLINK_FOLLOW).map_err(|e| fail(e.into()))?;
            self.temporary = Some(name);
        }
        if let Some(name) = &self.temporary {
            fs::rename(name, &self.path).map_err(fail)?;
        }
        self.temporary = None;
        flock(&self.file, FlockOperation::Unlock).map_err(|e| fail(e.into()))?;
        self.file.try_clone().map_err(fail)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // Nothing can be done about a failure here; the next run tries again.
            let _ = fs::remove_file(name);
        }
    }
}

const MODE: Mode = Mode::from_raw_mode(0o644);

/// `.NAME.PID-N.ringfence-tmp`, different for each call.
fn temporary_name(dir: &Path, name: &[u8]) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = format!(".{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    // A name may have 255 bytes; ours adds up to 40.
    let name = &name[..name.len().min(200)];
    dir.join(OsString::from_vec([b".", name, number.as_bytes(), TEMPORARY].concat()))
}

/// Removes temporary files for `name` that no living process has locked.
fn remove_leftovers(dir: &Path, name: &[u8]) {
    let start = [b".", &name[..name.len().min(200)], b"."].concat();
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let found = found.as_bytes();
        if found.starts_with(&start) && found.ends_with(TEMPORARY) {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            if let Ok(file) = openat(CWD, entry.path(), flags, Mode::empty())
                && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn appears_only_when_committed_and_leaves_nothing() {
        let dir = crate::testing::dir("output");
        let path = dir.join("out");
        fs::write(&path, "old").unwrap();
        fs::write(dir.join(".out.1-1.ringfence-tmp"), "of a dead process").unwrap();
        fs::write(dir.join(".other.1-1.ringfence-tmp"), "not ours").unwrap();
        let output = Output::create(&path).unwrap();
        output.file().write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let output = Output::create(&path).unwrap();
        output.file().write_all(b"new").unwrap();
        output.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".other.1-1.ringfence-tmp", "out"]);
    }

    #[test]
    fn refuses_what_is_not_a_file() {
        let dir = crate::testing::dir("output-dir");
        assert!(matches!(Output::create(&dir), Err(Error::OutputNotFile(_))));
        assert!(matches!(Output::create(&dir.join("no/such")), Err(Error::Output { .. })));
        assert!(matches!(Output::create(Path::new("/dev/null")), Err(Error::OutputNotFile(_))));
    }
}
