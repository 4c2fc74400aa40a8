//! What is known about a cached image.

use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::cache_error;
use crate::Result;
use crate::output::Output;

/// The file beside an image.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// Version of this record.
    version: u32,
    /// Key of the image.
    key: String,
    /// The directory, for people; bytes that are not UTF-8 are replaced.
    source: String,
    /// The bytes of it, if the text is not the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source_bytes: Option<Vec<u8>>,
    /// Bytes of the image.
    size: u64,
    /// Seconds since 1970.
    created: u64,
}

impl Record {
    /// For an image made now.
    pub fn new(key: &str, source: &Path, size: u64) -> Self {
        let bytes = source.as_os_str().as_bytes();
        let text = String::from_utf8_lossy(bytes).into_owned();
        Self {
            version: 1,
            key: key.into(),
            source_bytes: (text.as_bytes() != bytes).then(|| bytes.to_vec()),
            source: text,
            size,
            created: seconds(SystemTime::now()),
        }
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| cache_error("write", path, e.into()))?;
        let output = Output::create(path)?;
        std::io::Write::write_all(&mut output.file(), &text).map_err(|e| cache_error("write", path, e))?;
        output.commit()?;
        Ok(())
    }

    fn source(&self) -> PathBuf {
        let bytes = self.source_bytes.clone().unwrap_or_else(|| self.source.clone().into_bytes());
        std::ffi::OsString::from_vec(bytes).into()
    }
}

/// A cached image, as `ringfence image ls` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The key: 64 hexadecimal digits.
    pub key: String,
    /// The directory it is of; `None` if its record is damaged.
    #[serde(serialize_with = "lossy")]
    pub source: Option<PathBuf>,
    /// Bytes of the image.
    pub size: u64,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// When it was last used, seconds since 1970.
    pub last_used: u64,
    /// The image.
    pub path: PathBuf,
}

/// A path as text; JSON has no other.
fn lossy<S: serde::Serializer>(path: &Option<PathBuf>, to: S) -> std::result::Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(to)
}

impl Entry {
    /// What is known about the image; `None` if it has gone.
    pub fn read(key: &str, image: &Path, record_path: &Path) -> Option<Self> {
        let image_stat = fs::metadata(image).ok()?;
        let record_stat = fs::metadata(record_path).ok();
        let record = fs::read(record_path).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let modified = |stat: &fs::Metadata| stat.modified().map_or(0, seconds);
        Some(Self {
            key: key.into(),
            source: record.as_ref().map(Record::source),
            size: image_stat.len(),
            created: record.map_or_else(|| modified(&image_stat), |record| record.created),
            last_used: modified(record_stat.as_ref().unwrap_or(&image_stat)),
            path: image.into(),
        })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
