//! Writes an image: file data as it comes, then the metadata, the superblock last.
//!
//! Block 0 holds the superblock. Data starts at block 1, each file at a block of its own and in one piece, so
//! that the guest can map its pages straight from the image. The metadata area follows the data, because a
//! stream tells the sizes of files only while it passes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use ringfence_erofs::format::{
    BLOCK_BITS, BLOCK_SIZE, COMPAT_MTIME, COMPAT_SB_CHECKSUM, MAGIC, RawSuperblock, SUPER_OFFSET, crc32c,
};
use rustix::fs::copy_file_range;
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::layout::{Layout, ROOT_NID};
use crate::options::{OnProgress, Phase};
use crate::output::Output;
use crate::tree::Tree;
use crate::{Error, Options, Progress, Result, Summary};

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 20;
/// Bytes the kernel copies at a time, between two reports of progress.
const COPY_STEP: u64 = 8 << 20;

/// Why [`Writer::fill`] or [`Writer::copy`] stopped.
pub enum Fault {
    /// The source could not be read.
    Source(io::Error),
    /// The output could not be written, or is too big.
    Output(Error),
}

/// An image being written.
pub struct Writer<'a> {
    output: Output,
    /// What is to be written at `buffer_at`.
    buffer: Vec<u8>,
    buffer_at: u64,
    progress: OnProgress<'a>,
    state: Progress,
}

impl<'a> Writer<'a> {
    /// Starts an image at `path`; `totals` are files and bytes of data to come, for the progress.
    pub fn new(path: &Path, progress: OnProgress<'a>, totals: (u64, u64)) -> Result<Self> {
        let output = Output::create(path)?;
        let state =
            Progress { phase: Phase::Data, files: 0, files_total: totals.0, bytes: 0, bytes_total: totals.1 };
        let buffer = Vec::with_capacity(BUFFER + BLOCK_SIZE as usize);
        Ok(Self { output, buffer, buffer_at: BLOCK_SIZE, progress, state })
    }

    /// Starts the data of a file; returns its first block.
    pub fn start_file(&mut self) -> Result<u32> {
        let rest = (self.position().next_multiple_of(BLOCK_SIZE) - self.position()) as usize;
        self.buffer.resize(self.buffer.len() + rest, 0);
        self.state.files += 1;
        if self.state.files.is_multiple_of(64) {
            (self.progress)(self.state);
        }
        u32::try_from(self.position() / BLOCK_SIZE).map_err(|_| Error::TooBig("an image may have 16 TiB"))
    }

    /// Appends `len` bytes of a reader; returns how many there were.
    pub fn fill(&mut self, source: &mut dyn Read, len: u64) -> Result<u64, Fault> {
        let mut left = len;
        while left > 0 {
            if self.buffer.len() >= BUFFER {
                self.flush().map_err(Fault::Output)?;
            }
            let old = self.buffer.len();
            let room = ((BUFFER - old) as u64).min(left) as usize;
            self.buffer.resize(old + room, 0);
            let got = loop {
                match source.read(&mut self.buffer[old..]) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    done => break done,
                }
            };
            self.buffer.truncate(old + *got.as_ref().unwrap_or(&0));
            match got.map_err(Fault::Source)? {
                0 => break,
                n => left -= n as u64,
            }
        }
        self.state.bytes += len - left;
        Ok(len - left)
    }

    /// Appends the first `len` bytes of a file; returns how many there were. The kernel copies big ones.
    pub fn copy(&mut self, mut source: &File, len: u64) -> Result<u64, Fault> {
        if len < (BUFFER / 4) as u64 {
            return self.fill(&mut source, len);
        }
        self.flush().map_err(Fault::Output)?;
        let mut done = 0;
        while done < len {
            let (mut from, mut to) = (done, self.buffer_at);
            let step = (len - done).min(COPY_STEP) as usize;
            match copy_file_range(source, Some(&mut from), self.output.file(), Some(&mut to), step) {
                Ok(0) => break,
                Ok(n) => {
                    done += n as u64;
                    self.buffer_at += n as u64;
                    self.state.bytes += n as u64;
                    (self.progress)(self.state);
                }
                Err(Errno::INTR) => {}
                Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                    return Err(Fault::Output(Error::output(self.output.path(), e)));
                }
                Err(_) => break,
            }
        }
        if done == len {
            return Ok(len);
        }
        // Another file system or kind of file, or the end: reading tells.
        io::Seek::seek(&mut source, io::SeekFrom::Start(done)).map_err(Fault::Source)?;
        Ok(done + self.fill(&mut source, len - done)?)
    }

    /// Appends zeroes.
    pub fn zeroes(&mut self, len: u64) -> Result<()> {
        // The file is not written there: it reads as zeroes.
        self.flush()?;
        self.buffer_at += len;
        self.state.bytes += len;
        Ok(())
    }

    /// Bytes of the image so far.
    fn position(&self) -> u64 {
        self.buffer_at + self.buffer.len() as u64
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.output.file().write_all_at(&self.buffer, self.buffer_at);
        written.map_err(|e| Error::output(self.output.path(), e))?;
        self.buffer_at += self.buffer.len() as u64;
        self.buffer.clear();
        (self.progress)(self.state);
        Ok(())
    }

    /// Writes the metadata and puts the image at its place. `tree` refers to the data by block.
    pub fn finish(mut self, tree: &mut Tree, options: &Options, warnings: Vec<String>) -> Result<Summary> {
        tree.apply(options);
        let meta_block = self.start_file()?;
        self.state.files -= 1;
        self.state.phase = Phase::Finish;
        let layout = Layout::new(tree)?;
        let blocks =
            meta_block.checked_add(layout.blocks()?).ok_or(Error::TooBig("an image may have 16 TiB"))?;
        let mut hash = Sha256::new();
        layout.write(tree, meta_block, |bytes| {
            hash.update(bytes);
            self.buffer.extend_from_slice(bytes);
            if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
        })?;
        self.flush()?;
        let size = u64::from(blocks) * BLOCK_SIZE;
        debug_assert_eq!(self.buffer_at, size);
        let superblock = superblock(RawSuperblock {
            magic: MAGIC,
            feature_compat: COMPAT_SB_CHECKSUM | COMPAT_MTIME,
            block_bits: BLOCK_BITS,
            root_nid: ROOT_NID,
            inodes: layout.inodes(),
            epoch: options.clamp_mtime.unwrap_or(0),
            blocks,
            meta_block,
            uuid: options.uuid.unwrap_or_else(|| uuid_of(&hash.finalize())),
            ..RawSuperblock::default()
        });
        let file = self.output.file();
        let done = file.write_all_at(&superblock, 0).and_then(|()| file.set_len(size));
        done.map_err(|e| Error::output(self.output.path(), e))?;
        (self.progress)(self.state);
        let data = self.state.bytes;
        self.output.commit()?;
        Ok(Summary { size, inodes: layout.inodes(), data, warnings })
    }
}

/// Block 0 with its checksum.
fn superblock(mut raw: RawSuperblock) -> Vec<u8> {
    let mut block = vec![0; BLOCK_SIZE as usize];
    let (_, area) = block.split_at_mut(SUPER_OFFSET as usize);
    area[..128].copy_from_slice(&raw.encode());
    raw.checksum = crc32c(!0, area);
    area[..128].copy_from_slice(&raw.encode());
    block
}

/// A UUID of version 8 (RFC 9562: made as one likes) from a hash.
fn uuid_of(hash: &[u8]) -> [u8; 16] {
    let mut uuid: [u8; 16] = std::array::from_fn(|n| hash[n]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
