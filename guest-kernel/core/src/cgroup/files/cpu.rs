//! Files of the cpu controller.

use alloc::string::String;
use core::sync::atomic::Ordering;

use super::file::{Change, Entry, Place, View, emit};
use crate::{
    cgroup::Controllers,
    errno::{Errno, Result},
    sched,
};

/// There with and without the controller.
pub(super) const STAT: &[Entry] = &[Entry::read("cpu.stat", Place::All, stat)];

pub(super) const ENTRIES: &[Entry] = &[
    Entry::write("cpu.weight", Place::NotRoot, weight, set_weight),
    Entry::write("cpu.weight.nice", Place::NotRoot, nice, set_nice),
    Entry::write("cpu.idle", Place::NotRoot, idle, set_idle),
    Entry::write("cpu.max", Place::NotRoot, max, set_max),
    Entry::write("cpu.max.burst", Place::NotRoot, burst, set_burst),
];

/// The weight of each nice value from -20 to 19 among tasks (`sched_prio_to_weight`): a step is about 25%.
const NICE_WEIGHTS: [u64; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906, 3121,
    2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29,
    23, 18, 15,
];
/// That of nice 0.
const NICE_0: u64 = 1024;
/// `cpu.weight` of a group with `cpu.idle`: 3 of 1024, rounded.
const IDLE_SHOWN: u64 = 0;

const US: u64 = 1000;
/// Bounds of quota and period, in microseconds.
const QUOTA_MIN: u64 = 1000;
const PERIOD: core::ops::RangeInclusive<u64> = 1000..=1_000_000;
const QUOTA_MAX: u64 = (1 << 44) / US;

fn stat(v: &View<'_>, out: &mut String) -> Result<()> {
    let usage = if v.group.is_root() {
        let now = ringfence_hal::time::now();
        sched::idle_times().into_iter().map(|idle| now.saturating_sub(idle)).sum()
    } else {
        v.group.cpu_usage()
    } / US;
    emit!(out, "usage_usec {usage}\nuser_usec {usage}\nsystem_usec 0\n");
    if !v.group.is_root() && v.group.controllers().contains(Controllers::CPU) {
        let b = v.group.cpu.bandwidth.lock();
        emit!(out, "nr_periods {}\nnr_throttled {}\n", b.periods, b.throttled);
        emit!(out, "throttled_usec {}\n", b.throttled_time / US);
        emit!(out, "nr_bursts {}\nburst_usec {}\n", b.bursts, b.burst_time / US);
    }
    Ok(())
}

fn is_idle(v: &View<'_>) -> bool {
    v.group.cpu.idle.load(Ordering::Relaxed)
}

fn shown_weight(v: &View<'_>) -> u64 {
    if is_idle(v) { IDLE_SHOWN } else { v.group.cpu.weight.load(Ordering::Relaxed).into() }
}

fn weight(v: &View<'_>, out: &mut String) -> Result<()> {
    emit!(out, "{}\n", shown_weight(v));
    Ok(())
}

fn store_weight(c: &Change<'_>, weight: u64) -> Result<()> {
    if c.group.cpu.idle.load(Ordering::Relaxed) {
        return Err(Errno::EINVAL);
    }
    c.group.cpu.weight.store(weight as u32, Ordering::Relaxed);
    Ok(())
}

fn set_weight(c: &Change<'_>, text: &str) -> Result<()> {
    let weight: u64 = text.parse().map_err(|_| Errno::EINVAL)?;
    if !(1..=10_000).contains(&weight) {
        return Err(Errno::ERANGE);
    }
    store_weight(c, weight)
}

/// The nice value whose weight is nearest to a group's.
fn nearest_nice(weight: u64) -> i32 {
    let wanted = weight * NICE_0 / 100;
    let distance = |w: u64| w.abs_diff(wanted);
    let nearest = NICE_WEIGHTS.iter().enumerate().min_by_key(|(_, w)| distance(**w));
    nearest.map_or(0, |(i, _)| i as i32 - 20)
}

fn nice(v: &View<'_>, out: &mut String) -> Result<()> {
    emit!(out, "{}\n", nearest_nice(shown_weight(v)));
    Ok(())
}

fn set_nice(c: &Change<'_>, text: &str) -> Result<()> {
    let nice: i32 = text.parse().map_err(|_| Errno::EINVAL)?;
    let index = usize::try_from(nice + 20).map_err(|_| Errno::ERANGE)?;
    let weight = NICE_WEIGHTS.get(index).ok_or(Errno::ERANGE)?;
    store_weight(c, ((weight * 100 + NICE_0 / 2) / NICE_0).max(1))
}

fn idle(v: &View<'_>, out: &mut String) -> Result<()> {
    emit!(out, "{}\n", u8::from(is_idle(v)));
    Ok(())
}

fn set_idle(c: &Change<'_>, text: &str) -> Result<()> {
    let idle: i64 = text.parse().map_err(|_| Errno::EINVAL)?;
    if !(0..=1).contains(&idle) {
        return Err(Errno::EINVAL);
    }
    c.group.cpu.idle.store(idle == 1, Ordering::Relaxed);
    if idle == 0 {
        c.group.cpu.weight.store(crate::cgroup::cpu::WEIGHT_DEFAULT, Ordering::Relaxed);
    }
    Ok(())
}

fn max(v: &View<'_>, out: &mut String) -> Result<()> {
    let b = v.group.cpu.bandwidth.lock();
    match b.quota {
        Some(quota) => emit!(out, "{} {}\n", quota / US, b.period / US),
        None => emit!(out, "max {}\n", b.period / US),
    }
    Ok(())
}

/// Quota and, if given, period, in nanoseconds.
fn parse_max(text: &str) -> Result<(Option<u64>, Option<u64>)> {
    let mut words = text.split_ascii_whitespace();
    let quota = match words.next().ok_or(Errno::EINVAL)? {
        "max" => None,
        number => Some(number.parse::<u64>().map_err(|_| Errno::EINVAL)?),
    };
    let period = words.next().map(|w| w.parse::<u64>().map_err(|_| Errno::EINVAL)).transpose()?;
    if quota.is_some_and(|q| !(QUOTA_MIN..=QUOTA_MAX).contains(&q))
        || period.is_some_and(|p| !PERIOD.contains(&p))
    {
        return Err(Errno::EINVAL);
    }
    Ok((quota.map(|q| q * US), period.map(|p| p * US)))
}

fn set_max(c: &Change<'_>, text: &str) -> Result<()> {
    let (quota, period) = parse_max(text)?;
    let (old_period, burst) = {
        let b = c.group.cpu.bandwidth.lock();
        (b.period, b.burst)
    };
    if quota.is_some_and(|quota| burst > quota) {
        return Err(Errno::EINVAL);
    }
    c.group.set_bandwidth(quota, period.unwrap_or(old_period), burst);
    Ok(())
}

fn burst(v: &View<'_>, out: &mut String) -> Result<()> {
    emit!(out, "{}\n", v.group.cpu.bandwidth.lock().burst / US);
    Ok(())
}

fn set_burst(c: &Change<'_>, text: &str) -> Result<()> {
    let burst: u64 = text.parse().map_err(|_| Errno::EINVAL)?;
    let burst = burst.checked_mul(US).ok_or(Errno::EINVAL)?;
    let (quota, period) = {
        let b = c.group.cpu.bandwidth.lock();
        (b.quota, b.period)
    };
    if quota.is_some_and(|quota| burst > quota) {
        return Err(Errno::EINVAL);
    }
    c.group.set_bandwidth(quota, period, burst);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_parsed() {
        assert_eq!(parse_max("max"), Ok((None, None)));
        assert_eq!(parse_max("20000"), Ok((Some(20_000_000), None)));
        assert_eq!(parse_max("20000 50000"), Ok((Some(20_000_000), Some(50_000_000))));
        for bad in ["", "999", "x", "-1", "max x", "1000 999", "1000 1000001"] {
            assert_eq!(parse_max(bad), Err(Errno::EINVAL), "{bad}");
        }
    }

    #[test]
    fn weights_have_nice_values() {
        assert_eq!([100, 9, 10_000, 80, 125].map(nearest_nice), [0, 11, -20, 1, -1]);
    }
}
