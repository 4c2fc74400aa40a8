//! Sizes as the files have them: bytes, rounded down to frames, with a suffix when written.

use alloc::string::String;

use crate::{
    cgroup::MAX,
    errno::{Errno, Result},
    mm::PAGE_SIZE,
};

/// Frames from `max`, `4096`, `64K`, `0x1000`. `EINVAL`.
pub(in crate::cgroup) fn parse(text: &str) -> Result<u64> {
    if text == "max" {
        return Ok(MAX);
    }
    Ok(bytes(text)? / PAGE_SIZE)
}

/// Bytes with a suffix of `memparse`; nothing is 0. `EINVAL`.
pub(in crate::cgroup) fn bytes(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| "kKmMgGtTpPeE".contains(c));
    let suffix = text.get(digits.len()..).unwrap_or_default();
    let number = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    if text.is_empty() {
        return Ok(0);
    }
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return Err(Errno::EINVAL),
    };
    number.map_err(|_| Errno::EINVAL)?.checked_mul(1 << shift).ok_or(Errno::EINVAL)
}

/// Frames in bytes, or `max`.
pub(in crate::cgroup) fn show(frames: u64) -> String {
    if frames == MAX { String::from("max") } else { alloc::format!("{}", frames.saturating_mul(PAGE_SIZE)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed() {
        for (text, frames) in [
            ("max", MAX),
            ("0", 0),
            ("", 0),
            ("4095", 0),
            ("8192", 2),
            ("64K", 16),
            ("1m", 256),
            ("1G", 1 << 18),
        ] {
            assert_eq!(parse(text), Ok(frames), "{text}");
        }
        for bad in ["x", "-1", "1x", "1KK", "99999999999999999999", "K"] {
            assert_eq!(parse(bad), Err(Errno::EINVAL), "{bad}");
        }
    }
}
