//! Sizes and times as people write them.

use std::time::Duration;

use crate::api::config::{MAX_MEMORY, MIN_MEMORY};

const PAGE: u64 = 4096;

/// Parses `256M`, `1G`, `1.5G` is refused; a bare number is bytes. Suffixes K, M, G, T (powers of 1024), with
/// an optional `B` or `iB`.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at(digits);
    let wrong = || format!("`{text}` is not a size; write for example 256M or 2G");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let suffix = suffix.to_ascii_lowercase();
    let unit = suffix.strip_suffix("ib").or(suffix.strip_suffix('b')).unwrap_or(&suffix);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is more than a machine can have"))
}

/// Parses `--memory`: a size the VMM accepts, rounded up to whole pages.
pub fn memory(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if bytes < MIN_MEMORY {
        return Err(format!("`{text}` is too little to boot; the least is 16M"));
    }
    if bytes > MAX_MEMORY {
        return Err(format!("`{text}` is more than a sandbox can have; the most is 16T"));
    }
    Ok(bytes.next_multiple_of(PAGE))
}

/// Parses `10s`, `5m`, `2h`, `500ms`; a bare number is seconds, as in timeout(1).
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is not a time; write for example 10s or 5m");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let millis = number.checked_mul(millis).ok_or_else(|| format!("`{text}` is too long"))?;
    if millis == 0 {
        return Err("a time-out of zero would end the sandbox before it starts".into());
    }
    Ok(Duration::from_millis(millis))
}

/// Parses `2`, `0.5`, `1.25` CPUs, to thousandths.
pub fn cpus(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is not a number of CPUs; write for example 2 or 0.5");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(part) || whole.len() > 6 || part.len() > 3 {
        return Err(wrong());
    }
    let thousandths = format!("{whole}{part:0<3}").parse().map_err(|_| wrong())?;
    if thousandths < 10 { Err(format!("`{text}` is too little; the least is 0.01")) } else { Ok(thousandths) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_cpus() {
        assert_eq!(
            (cpus("2"), cpus("0.5"), cpus("1.25"), cpus("0.01")),
            (Ok(2000), Ok(500), Ok(1250), Ok(10))
        );
        for bad in ["", "0", "0.001", ".5", "1.", "-1", "1e3", "1.2345", "9999999"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("1G"), Ok(1 << 30));
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert_eq!(size("4096"), Ok(4096));
        for bad in ["", "G", "1.5G", "-1", "1X", "99999999999999999999", "99999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(memory("16777217"), Ok((16 << 20) + 4096));
        assert!(memory("1K").is_err() && memory("17T").is_err() && memory("0").is_err());
    }

    #[test]
    fn times() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "s", "0", "1y", "18446744073709551615d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
