//! Images of directories given to `--rootfs`, kept for the next run.
//!
//! The cache is a directory, `$XDG_CACHE_HOME/ringfence/images` (or under `~/.cache`; without a home, root uses
//! `/var/cache/ringfence/images`). An image is `KEY.erofs`, what is known about it `KEY.json`; the times of that
//! file say when the image was last used. KEY is a hash over the metadata of the tree, with the times of change:
//! the tree cannot change without another key, and a look-up costs one `statx` for each file.
//!
//! # Concurrency
//!
//! `lock-XX`, by the first two digits of the key, is locked (`flock`) while an image is looked up and made, so that
//! two runs make one image. Images come and go by rename and unlink, both whole: an image that a sandbox has open
//! stays valid for it when it is removed or replaced.
//!
//! An image of a directory whose content has changed since is never used again, so making a new one removes it.

mod entry;
mod place;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};

pub use entry::Entry;
use entry::Record;

use crate::inspect::inspect_file;
use crate::options::OnProgress;
use crate::source::{Depth, identity_of, pack, scan_dir};
use crate::{Error, Options, Result, Summary};

/// A change later than this before the end of packing may have the same time of change as the one before: file
/// systems count in ticks of the kernel, 10 ms at most.
const TICK: Duration = Duration::from_millis(20);

/// A directory of cached images.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

/// An image of the cache, ready to use.
#[derive(Debug)]
pub struct Cached {
    /// Where it is.
    pub path: PathBuf,
    /// Open for reading: it stays valid if somebody removes the image now.
    pub file: File,
    /// What was done, if it had to be made.
    pub made: Option<Summary>,
}

impl Cache {
    /// The user's cache. Nothing is created until an image is made.
    pub fn of_user() -> Result<Self> {
        Ok(Self { dir: place::of_user()? })
    }

    /// A cache at a place of one's own.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image of a directory, made now if there is none or the directory has changed.
    pub fn image_of(&self, dir: &Path, progress: OnProgress<'_>) -> Result<Cached> {
        let options = Options::default();
        let source = fs::canonicalize(dir).map_err(|e| Error::source("open", dir, e))?;
        create_private(&self.dir)?;
        // The cache may be inside of the tree (`--rootfs /`).
        let own = fs::metadata(&self.dir).map_err(|e| cache_error("open", &self.dir, e))?;
        let exclude = [identity_of(&own)];
        let mut scan = scan_dir(dir, Depth::Key, &options, &exclude, progress)?;
        loop {
            let key = hex(&scan.key);
            let _lock = self.lock(&key)?;
            if let Some(cached) = self.find(&key)? {
                return Ok(cached);
            }
            let wanted = scan.key;
            scan = scan_dir(dir, Depth::Full, &options, &exclude, progress)?;
            if scan.key != wanted {
                // Changed since the first look: begin again with what it is now.
                continue;
            }
            let newest_change = scan.newest_change;
            let path = self.image_path(&key);
            let made = pack(dir, scan, &path, &options, progress)?;
            wait_for_tick(newest_change);
            Record::new(&key, &source, made.size).write(&self.record_path(&key))?;
            self.remove_older(&key, &source);
            let file = File::open(&path).map_err(|e| cache_error("open", &path, e))?;
            return Ok(Cached { path, file, made: Some(made) });
        }
    }

    /// All images, the last used first.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let names = match fs::read_dir(&self.dir) {
            Ok(names) => names,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(cache_error("list", &self.dir, e)),
        };
        let mut entries = Vec::new();
        for name in names {
            let name = name.map_err(|e| cache_error("list", &self.dir, e))?.file_name();
            let key = name.to_str().and_then(|name| name.strip_suffix(".erofs")).filter(|key| is_key(key));
            if let Some(key) = key
                && let Some(entry) = Entry::read(key, &self.image_path(key), &self.record_path(key))
            {
                entries.push(entry);
            }
        }
        entries.sort_by(|a, b| b.last_used.cmp(&a.last_used).then_with(|| a.key.cmp(&b.key)));
        Ok(entries)
    }

    /// Removes the image whose key starts with `prefix`; returns it. Running sandboxes keep it until they end.
    pub fn remove(&self, prefix: &str) -> Result<Entry> {
        let fitting: Vec<Entry> =
            self.list()?.into_iter().filter(|entry| entry.key.starts_with(prefix)).collect();
        match <[Entry; 1]>::try_from(fitting) {
            Ok([entry]) if !prefix.is_empty() => {
                self.unlink(&entry.key)?;
                Ok(entry)
            }
            Ok(_) => Err(Error::NoSuchKey(prefix.into())),
            Err(none) if none.is_empty() => Err(Error::NoSuchKey(prefix.into())),
            Err(several) => Err(Error::AmbiguousKey(prefix.into(), several.len())),
        }
    }

    /// Removes all images; returns them.
    pub fn remove_all(&self) -> Result<Vec<Entry>> {
        let entries = self.list()?;
        for entry in &entries {
            self.unlink(&entry.key)?;
        }
        Ok(entries)
    }

    fn image_path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.erofs"))
    }

    fn record_path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.json"))
    }

    /// Waits for the lock of a key; it is held until the file is closed.
    fn lock(&self, key: &str) -> Result<File> {
        let path = self.dir.join(format!("lock-{}", &key[..2]));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| cache_error("open", &path, e))?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(cache_error("lock", &path, e.into())),
            }
        }
    }

    /// The image of a key if it is there and whole; notes the use.
    fn find(&self, key: &str) -> Result<Option<Cached>> {
        let path = self.image_path(key);
        // A record is written last: without it, packing may not have come to an end.
        let record = self.record_path(key);
        let Ok(record) = File::options().write(true).open(&record) else { return Ok(None) };
        let Ok(file) = File::open(&path) else { return Ok(None) };
        if inspect_file(&file, &path).is_err() {
            return Ok(None);
        }
        // A cache on a read-only disk is still good to use.
        let _ = record.set_modified(SystemTime::now());
        Ok(Some(Cached { path, file, made: None }))
    }

    /// Removes images that the same directory had before.
    fn remove_older(&self, key: &str, source: &Path) {
        for entry in self.list().unwrap_or_default() {
            if entry.key != key && entry.source.as_deref() == Some(source) {
                // It is only space, and the next run tries again.
                let _ = self.unlink(&entry.key);
            }
        }
    }

    fn unlink(&self, key: &str) -> Result<()> {
        for path in [self.record_path(key), self.image_path(key)] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(cache_error("remove", &path, e)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The image of a directory in the user's cache: [`Cache::image_of`].
pub fn cached_image(dir: &Path, progress: OnProgress<'_>) -> Result<PathBuf> {
    Ok(Cache::of_user()?.image_of(dir, progress)?.path)
}

fn cache_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull(path.into()),
        _ => Error::Cache { action, path: path.into(), source },
    }
}

/// Images hold what only their owner may read, so the cache is for its owner only.
fn create_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| cache_error("create", dir, e))
}

/// Waits until a change to the tree is sure to have a later time than any the key has seen.
fn wait_for_tick(newest_change: i128) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
    let passed = now - newest_change;
    if (0..TICK.as_nanos() as i128).contains(&passed) {
        std::thread::sleep(TICK);
    }
}

fn is_key(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
