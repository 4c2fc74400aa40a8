//! Packs a tar archive: POSIX ustar and PAX, GNU, and old Unix ones; plain or gzip.
//!
//! The archive is read once, from start to end. Data goes to the image as it passes; names go into the tree in
//! memory by the rules of extraction into an empty directory: see [`place`]. What a later entry replaces stays
//! in the image as unused space.
//!
//! A header may be preceded by others that belong to it: PAX records (`x`; `g` for all that follow) and GNU's long
//! names (`L`, `K`).

mod header;
mod place;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use self::header::{BLOCK, Header, Records, decimal, records, text, time};
use self::place::Placer;
use crate::options::OnProgress;
use crate::tree::{Inode, Kind, Meta, SYMLINK_MAX, to_path, xattr_fits};
use crate::writer::{Fault, Writer};
use crate::{Error, Options, Result, Summary};

/// Bytes of a PAX header or a long name that are accepted: xattrs of 64 KiB each fit.
const EXTRA_MAX: u64 = 1 << 20;

/// Bytes behind the end of an archive that are read.
const TRAILER_MAX: u64 = 1 << 20;

/// Packs a tar archive into an image at `out`, which is replaced if it exists.
pub fn build_from_tar(
    reader: impl Read,
    out: &Path,
    options: &Options,
    progress: OnProgress<'_>,
) -> Result<Summary> {
    let mut reader = BufReader::with_capacity(256 << 10, reader);
    let start = peek(&mut reader)?;
    if let Some(name) = compression(start) {
        return Err(Error::Compressed(name));
    }
    let gzip = start.starts_with(b"\x1f\x8b");
    let mut input: Box<dyn Read + '_> = if gzip {
        Box::new(BufReader::with_capacity(256 << 10, MultiGzDecoder::new(reader)))
    } else {
        Box::new(reader)
    };
    let writer = Writer::new(out, progress, (0, 0))?;
    let mut unpacker =
        Unpacker { writer, placer: Placer::new(), globals: Records::new(), warnings: Vec::new() };
    let entries = unpacker.run(&mut *input)?;
    if entries == 0 {
        return Err(Error::Tar("it has no entry".into()));
    }
    // What is behind the end of the archive is padding, but the checksum of gzip comes after it.
    io::copy(&mut Read::take(&mut *input, TRAILER_MAX), &mut io::sink()).map_err(read_error)?;
    let Unpacker { writer, placer, warnings, .. } = unpacker;
    writer.finish(&mut placer.into_tree(), options, warnings)
}

fn peek(reader: &mut impl BufRead) -> Result<&[u8]> {
    reader.fill_buf().map_err(Error::ReadTar)
}

/// What the first bytes of a file compressed in another way look like.
fn compression(start: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], _); 4] =
        [(b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"PK\x03\x04", "zip")];
    known.iter().find(|(magic, _)| start.starts_with(magic)).map(|&(_, name)| name)
}

/// What goes before the header it belongs to.
#[derive(Default)]
struct Extra {
    records: Records,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

struct Unpacker<'a> {
    writer: Writer<'a>,
    placer: Placer,
    globals: Records,
    warnings: Vec<String>,
}

impl Unpacker<'_> {
    /// Reads the archive; returns how many entries it has.
    fn run(&mut self, input: &mut dyn Read) -> Result<u64> {
        let mut entries = 0;
        let mut extra = Extra::default();
        while let Some(header) = next_header(input)? {
            match header.type_flag {
                b'x' | b'X' => records(&read_extra(input, &header)?, &mut extra.records)?,
                b'g' => records(&read_extra(input, &header)?, &mut self.globals)?,
                b'L' => extra.path = Some(text(&read_extra(input, &header)?).to_vec()),
                b'K' => extra.link = Some(text(&read_extra(input, &header)?).to_vec()),
                // A volume label.
                b'V' => skip(input, padded(header.size)?)?,
                _ => {
                    self.entry(input, header, std::mem::take(&mut extra))?;
                    entries += 1;
                }
            }
        }
        Ok(entries)
    }

    fn entry(&mut self, input: &mut dyn Read, mut header: Header, extra: Extra) -> Result<()> {
        let pax = !extra.records.is_empty();
        let mut all = self.globals.clone();
        all.extend(extra.records);
        let mut meta = Meta::default();
        if let Some(path) = extra.path {
            header.path = path;
        }
        if let Some(link) = extra.link {
            header.link = link;
        }
        self.apply_records(all, &mut header, &mut meta)?;
        let path = header.path.clone();
        let shown = || to_path(&path).display().to_string();
        let id = |what: &str, value: u64| {
            u32::try_from(value)
                .map_err(|_| Error::Tar(format!("{}: the {what} {value} is too big", shown())))
        };
        (meta.uid, meta.gid) = (id("user id", header.uid)?, id("group id", header.gid)?);
        meta.mode = header.mode;
        let link = || -> Result<Box<[u8]>> {
            match header.link.len() {
                0 => Err(Error::Tar(format!("{}: a symbolic link to nothing", shown()))),
                1..=SYMLINK_MAX => Ok(header.link.clone().into()),
                _ => {
                    Err(Error::Tar(format!("{}: a symbolic link to more than {SYMLINK_MAX} bytes", shown())))
                }
            }
        };
        // Only files (and PAX's hard links) are followed by data, whatever the size says.
        let kind = match header.type_flag {
            // Before POSIX a directory was a file with a slash at the end.
            b'0' | b'\0' if path.ends_with(b"/") => Kind::Directory(BTreeMap::new()),
            b'0' | b'\0' | b'7' => {
                let start = self.data(input, header.size, &shown)?;
                Kind::Regular { size: header.size, start }
            }
            b'1' => {
                // Only PAX lets data follow a hard link; others repeat the size of the file for information.
                skip(input, if pax { padded(header.size)? } else { 0 })?;
                return self.placer.hard_link(&path, &header.link);
            }
            b'2' => Kind::Symlink(link()?),
            b'3' | b'4' => {
                let (major, minor) = header.device;
                if major > 0xfff || minor > 0xf_ffff {
                    return Err(Error::Tar(format!(
                        "{}: the device number {major}:{minor} is too big",
                        shown()
                    )));
                }
                Kind::Device { block: header.type_flag == b'4', major: major as u32, minor: minor as u32 }
            }
            b'5' => Kind::Directory(BTreeMap::new()),
            b'6' => Kind::Fifo,
            b'S' => return Err(Error::Tar(format!("{}: {SPARSE}", shown()))),
            b'M' | b'D' | b'N' => {
                let flag = header.type_flag as char;
                return Err(Error::Tar(format!(
                    "{}: an entry of type {flag} (incremental or multi-volume archive) is not supported",
                    shown()
                )));
            }
            other => {
                let other = other.escape_ascii();
                return Err(Error::Tar(format!("{}: an entry of unknown type '{other}'", shown())));
            }
        };
        self.placer.put(&path, Inode { meta, kind })
    }

    /// Lets PAX records override what the header says.
    fn apply_records(&mut self, records: Records, header: &mut Header, meta: &mut Meta) -> Result<()> {
        (meta.mtime, meta.mtime_nsec) = (header.mtime, 0);
        for (key, value) in records {
            let bad = || {
                let key = String::from_utf8_lossy(&key).into_owned();
                Error::Tar(format!("{}: the PAX record {key} is damaged", to_path(&header.path).display()))
            };
            match &key[..] {
                b"path" => header.path = value,
                b"linkpath" => header.link = value,
                b"size" => header.size = decimal(&value).ok_or_else(bad)?,
                b"uid" => header.uid = decimal(&value).ok_or_else(bad)?,
                b"gid" => header.gid = decimal(&value).ok_or_else(bad)?,
                b"mtime" => (meta.mtime, meta.mtime_nsec) = time(&value).ok_or_else(bad)?,
                other => {
                    if other.starts_with(b"GNU.sparse.") {
                        return Err(Error::Tar(format!("{}: {SPARSE}", to_path(&header.path).display())));
                    }
                    if let Some(name) = other.strip_prefix(b"SCHILY.xattr.") {
                        if xattr_fits(name) && value.len() <= usize::from(u16::MAX) {
                            meta.xattrs.insert(name.to_vec(), value);
                        } else {
                            self.warn_xattr(name);
                        }
                    } else if other.starts_with(b"SCHILY.acl.") {
                        self.warn("ACLs in text form were left out: make the archive with --xattrs".into());
                    }
                }
            }
        }
        Ok(())
    }

    fn warn_xattr(&mut self, name: &[u8]) {
        let name = String::from_utf8_lossy(name).into_owned();
        self.warn(format!("the extended attribute {name} was left out: EROFS cannot hold it"));
    }

    /// Each warning once, and not endlessly many.
    fn warn(&mut self, text: String) {
        if self.warnings.len() < 100 && !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// Puts the data of a file into the image; returns its first block.
    fn data(&mut self, input: &mut dyn Read, size: u64, shown: &dyn Fn() -> String) -> Result<u32> {
        let all = padded(size)?;
        let start = self.writer.start_file()?;
        let got = self.writer.fill(input, size).map_err(|fault| match fault {
            Fault::Source(e) => read_error(e),
            Fault::Output(e) => e,
        })?;
        if got < size {
            return Err(Error::Tar(format!(
                "it is cut short: {} has {got} bytes instead of {size}",
                shown()
            )));
        }
        skip(input, all - size)?;
        Ok(start)
    }
}

const SPARSE: &str = "sparse files in archives are not supported: make the archive without --sparse";

/// Bytes with the padding to whole blocks.
fn padded(size: u64) -> Result<u64> {
    match size.checked_next_multiple_of(BLOCK as u64) {
        Some(all) if size <= i64::MAX as u64 => Ok(all),
        _ => Err(Error::Tar(format!("an entry of {size} bytes is impossible"))),
    }
}

fn read_error(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::Tar("it is cut short".into()),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            Error::Tar(format!("the gzip data is damaged: {e}"))
        }
        _ => Error::ReadTar(e),
    }
}

/// The next header, or `None` at the end: a block of zeroes, or the end of the file between two entries.
fn next_header(input: &mut dyn Read) -> Result<Option<Header>> {
    let mut block = [0; BLOCK];
    let mut filled = 0;
    while filled < BLOCK {
        match input.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(Error::Tar("it is cut short within a header, or not a tar archive".into())),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(read_error(e)),
        }
    }
    Header::decode(&block)
}

/// Data of a header that only describes the next one.
fn read_extra(input: &mut dyn Read, header: &Header) -> Result<Vec<u8>> {
    if header.size > EXTRA_MAX {
        return Err(Error::Tar(format!("a PAX header or long name of {} bytes is too long", header.size)));
    }
    let mut data = vec![0; padded(header.size)? as usize];
    input.read_exact(&mut data).map_err(read_error)?;
    data.truncate(header.size as usize);
    Ok(data)
}

fn skip(input: &mut dyn Read, bytes: u64) -> Result<()> {
    match io::copy(&mut Read::take(input, bytes), &mut io::sink()) {
        Ok(n) if n == bytes => Ok(()),
        Ok(_) => Err(Error::Tar("it is cut short".into())),
        Err(e) => Err(read_error(e)),
    }
}
