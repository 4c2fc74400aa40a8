//! What `mount -t tmpfs -o` can set: tmpfs(5).

use ringfence_hal as hal;

use crate::{
    errno::{Errno, Result},
    fs::filesystems::Parameter,
};

/// No limit: what `size=0` and `nr_inodes=0` mean.
pub const UNLIMITED: u64 = u64::MAX;

/// How a tmpfs is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmpfsOptions {
    /// Bytes of file content, or [`UNLIMITED`].
    pub size: u64,
    /// Inodes, or [`UNLIMITED`].
    pub inodes: u64,
    /// Permission bits of the root.
    pub mode: u32,
    /// Owner of the root.
    pub uid: u32,
    /// Group of the root.
    pub gid: u32,
}

fn memory_pages() -> u64 {
    hal::frames::stats().total as u64
}

impl Default for TmpfsOptions {
    /// Half of the memory, as Linux; twice as many inodes as there, because sandboxes have little memory.
    fn default() -> Self {
        let pages = memory_pages();
        let size = (pages / 2).max(1) * hal::PAGE_SIZE as u64;
        TmpfsOptions { size, inodes: pages.max(1024), mode: 0o1777, uid: 0, gid: 0 }
    }
}

/// Options as they were given: those that were not stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// `size=`, `nr_blocks=`.
    pub size: Option<u64>,
    /// `nr_inodes=`.
    pub inodes: Option<u64>,
    /// `mode=`.
    pub mode: Option<u32>,
    /// `uid=`.
    pub uid: Option<u32>,
    /// `gid=`.
    pub gid: Option<u32>,
}

impl Given {
    /// From the text `mount` is given. `EINVAL`.
    pub fn parse(options: &[u8]) -> Result<Given> {
        let mut given = Given::default();
        for option in options.split(|b| *b == b',').filter(|o| !o.is_empty()) {
            let option = core::str::from_utf8(option).map_err(|_| Errno::EINVAL)?;
            let (key, value) = option.split_once('=').map_or((option, None), |(k, v)| (k, Some(v)));
            given.add(key, value)?;
        }
        Ok(given)
    }

    /// One more option. `EINVAL` for one that is not known, or for a value it cannot have.
    fn add(&mut self, key: &str, value: Option<&str>) -> Result<()> {
        let needed = value.filter(|text| !text.is_empty()).ok_or(Errno::EINVAL);
        let limited = |n: u64| if n == 0 { UNLIMITED } else { n };
        let id = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX).ok_or(Errno::EINVAL);
        match key {
            "size" => self.size = Some(limited(size(needed?)?)),
            "nr_blocks" => {
                let bytes = memory_size(needed?)?.checked_mul(hal::PAGE_SIZE as u64);
                self.size = Some(limited(bytes.ok_or(Errno::EINVAL)?));
            }
            "nr_inodes" => self.inodes = Some(limited(memory_size(needed?)?)),
            "mode" => {
                let mode = u32::from_str_radix(needed?, 8).map_err(|_| Errno::EINVAL)?;
                self.mode = Some(mode & 0o7777);
            }
            "uid" => self.uid = Some(id(needed?)?),
            "gid" => self.gid = Some(id(needed?)?),
            // Where memory comes from is not ours to decide; inode numbers are 64 bits in any case.
            "huge" if matches!(needed?, "never" | "always" | "within_size" | "advise") => {}
            "mpol" => needed.map(|_| ())?,
            "inode64" | "inode32" if value.is_none() => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// What to say of one option by itself.
    pub fn check(key: &[u8], value: Option<&[u8]>) -> Parameter {
        let known =
            ["size", "nr_blocks", "nr_inodes", "mode", "uid", "gid", "huge", "mpol", "inode64", "inode32"];
        if !known.iter().any(|name| name.as_bytes() == key) {
            return Parameter::Unknown;
        }
        let text = |bytes| core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL);
        let checked = text(key).and_then(|key| Given::default().add(key, value.map(text).transpose()?));
        if checked.is_ok() { Parameter::Fine } else { Parameter::Wrong }
    }

    /// Over what is the rule.
    pub fn over(self, rule: TmpfsOptions) -> TmpfsOptions {
        TmpfsOptions {
            size: self.size.unwrap_or(rule.size),
            inodes: self.inodes.unwrap_or(rule.inodes),
            mode: self.mode.unwrap_or(rule.mode),
            uid: self.uid.unwrap_or(rule.uid),
            gid: self.gid.unwrap_or(rule.gid),
        }
    }
}

/// Bytes, or with `%` of the memory.
fn size(text: &str) -> Result<u64> {
    match text.strip_suffix('%') {
        Some(part) => {
            let memory = memory_pages().saturating_mul(hal::PAGE_SIZE as u64);
            Ok((memory / 100).saturating_mul(memory_size(part)?))
        }
        None => memory_size(text),
    }
}

/// A number with `k`, `m`, `g`, `t`; decimal, or as in C hexadecimal or octal.
fn memory_size(text: &str) -> Result<u64> {
    let unit = match text.bytes().last() {
        Some(b'k' | b'K') => 1 << 10,
        Some(b'm' | b'M') => 1 << 20,
        Some(b'g' | b'G') => 1 << 30,
        Some(b't' | b'T') => 1 << 40,
        _ => 1,
    };
    let digits = if unit == 1 { text } else { text.get(..text.len() - 1).unwrap_or_default() };
    let n = match (digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")), digits) {
        (Some(hex), _) => u64::from_str_radix(hex, 16),
        (None, "" | "0") => Ok(0), // as memparse
        (None, _) if digits.starts_with('0') => u64::from_str_radix(digits, 8),
        _ => digits.parse(),
    };
    n.ok().and_then(|n| n.checked_mul(unit)).ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parsed() {
        let given = Given::parse(b"size=64m,,mode=700,uid=5").unwrap();
        assert_eq!(
            given,
            Given { size: Some(64 << 20), mode: Some(0o700), uid: Some(5), ..Given::default() }
        );
        let rule = TmpfsOptions { size: 1, inodes: 2, mode: 3, uid: 4, gid: 5 };
        let all = TmpfsOptions { size: 64 << 20, inodes: 2, mode: 0o700, uid: 5, gid: 5 };
        assert_eq!(given.over(rule), all);
        for wrong in
            ["size=x", "what=1", "size", "uid=-1", "huge=some", "size=1m1", "inode64=1", "nr_inodes=1%"]
        {
            assert_eq!(Given::parse(wrong.as_bytes()), Err(Errno::EINVAL), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("0", 0), ("010", 8), ("0x10k", 16 << 10), ("3G", 3 << 30), ("7", 7)] {
            assert_eq!(memory_size(text), Ok(bytes), "{text}");
        }
        assert_eq!(Given::parse(b"size=0,nr_inodes=0").unwrap().size, Some(UNLIMITED));
        assert_eq!(size("50%").unwrap(), memory_pages() * 4096 / 100 * 50);
    }
}
