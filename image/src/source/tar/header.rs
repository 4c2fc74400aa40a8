//! Tar headers: the 512-byte block (POSIX ustar, GNU and old Unix) and the records of PAX.
//!
//! See pax(1p) of POSIX and `tar(5)` of libarchive. Everything here is hostile input.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// Bytes in a block.
pub const BLOCK: usize = 512;

/// A header block, decoded. Names are raw bytes as they stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Prefix and name, joined.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Bytes of data that follow.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// What kind of entry.
    pub type_flag: u8,
    /// Device numbers.
    pub device: (u64, u64),
}

impl Header {
    /// Decodes a block; `None` for a block of zeroes, which ends an archive.
    pub fn decode(block: &[u8; BLOCK]) -> Result<Option<Self>> {
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let field = |at: usize, len: usize| &block[at..at + len];
        let sum = number(field(148, 8)).unwrap_or(-1);
        let others = || block[..148].iter().chain(&block[156..]);
        let unsigned = others().map(|&byte| i64::from(byte)).sum::<i64>() + 8 * 32;
        let signed = others().map(|&byte| i64::from(byte as i8)).sum::<i64>() + 8 * 32;
        if sum != unsigned && sum != signed {
            return Err(Error::Tar(
                "a header has a wrong checksum: this is not a tar archive, or it is damaged".into(),
            ));
        }
        let magic = field(257, 8);
        let posix = magic.starts_with(b"ustar\0");
        let name = text(field(0, 100));
        let prefix = if posix { text(field(345, 155)) } else { b"" };
        let path = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
        let shown = || String::from_utf8_lossy(&path).into_owned();
        let need = |what: &str, value: Option<i64>| {
            value.ok_or_else(|| Error::Tar(format!("{}: the {what} is not a number", shown())))
        };
        let positive = |what: &str, value: Option<i64>| {
            u64::try_from(need(what, value)?)
                .map_err(|_| Error::Tar(format!("{}: the {what} is negative", shown())))
        };
        let device = if magic.starts_with(b"ustar") {
            (number(field(329, 8)).unwrap_or(0), number(field(337, 8)).unwrap_or(0))
        } else {
            (0, 0)
        };
        Ok(Some(Self {
            mode: (need("mode", number(field(100, 8)))? & 0o7777) as u16,
            uid: positive("user id", number(field(108, 8)))?,
            gid: positive("group id", number(field(116, 8)))?,
            size: positive("size", number(field(124, 12)))?,
            mtime: need("time", number(field(136, 12)))?,
            type_flag: block[156],
            link: text(field(157, 100)).to_vec(),
            device: (device.0 as u64, device.1 as u64),
            path,
        }))
    }
}

/// Up to the first NUL.
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number: octal digits between blanks and NULs (nothing is 0), or GNU's base 256 with the highest bit set.
fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement of all bits after the first one.
        let start = if first & 0x40 != 0 { i128::from(first as i8) } else { i128::from(first & 0x3f) };
        let value = rest
            .iter()
            .try_fold(start, |value, &byte| value.checked_mul(256).map(|value| value + i128::from(byte)))?;
        return i64::try_from(value).ok();
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// The records of a PAX header, by key; the last of each key counts.
pub type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Decodes PAX records: "LENGTH KEY=VALUE\n" each, where the value may have any bytes.
pub fn records(mut data: &[u8], into: &mut Records) -> Result<()> {
    let bad = || Error::Tar("a PAX header is damaged".into());
    while !text(data).is_empty() {
        let space = data.iter().take(20).position(|&byte| byte == b' ').ok_or_else(bad)?;
        let len: usize =
            std::str::from_utf8(&data[..space]).ok().and_then(|n| n.parse().ok()).ok_or_else(bad)?;
        let record = data.get(space + 1..len).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(bad)?;
        into.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        data = &data[len..];
    }
    Ok(())
}

/// A whole number in a PAX record.
pub fn decimal(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A time in a PAX record: seconds, maybe negative, maybe with a fraction. Returns seconds and nanoseconds.
pub fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (seconds, nanos): (i64, u32) = (whole.parse().ok()?, digits.parse().ok()?);
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_all_forms() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777"), Some(0o7777_7777));
        assert_eq!(number(b"9"), None);
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x01\0\0\0\0"), Some(1 << 32));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
    }

    #[test]
    fn pax_records_with_any_bytes() {
        let mut found = Records::new();
        records(b"11 a=b\nc=d\n6 k=v\n", &mut found).unwrap();
        assert_eq!(found[&b"a"[..]], b"b\nc=d");
        assert_eq!(found[&b"k"[..]], b"v");
        for bad in [&b"5 a=b\n"[..], b"99 a=b\n", b"6 a=bb", b"6 abcd\n", b"0 a=b\n", b"x", b"1 "] {
            assert!(records(bad, &mut found).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_with_fractions() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"1.x"), None);
    }
}
