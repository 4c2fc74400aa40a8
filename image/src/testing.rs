//! Help for unit tests.

use std::path::{Path, PathBuf};
use std::{env, fs, ops, process};

/// A directory that is removed in the end.
pub struct Dir(PathBuf);

/// A new empty directory; `name` is different in each test.
pub fn dir(name: &str) -> Dir {
    let path = env::temp_dir().join(format!("ringfence-image-{}-{name}", process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    Dir(path)
}

impl ops::Deref for Dir {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl AsRef<Path> for Dir {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}
