//! Load averages: exponential means over 1, 5 and 15 minutes of how many tasks run or want to.
//!
//! Linux takes a sample every five seconds. There is no tick here to do that while all CPUs are idle, so samples are caught up
//! with: by the ticks of running tasks, which come often enough, and by whoever reads the averages. A sample that nobody
//! was there to take found nobody. Numbers are fixed-point with 11 bits, as in Linux.

use ringfence_hal as hal;

use super::runqueue;
use crate::sync::SpinLock;

/// From sample to sample.
const PERIOD_NS: u64 = 5_000_000_000;
/// Ticks of a busy CPU are not farther apart.
const TICKS_NS: u64 = 200_000_000;
const SHIFT: u32 = 11;
const ONE: u64 = 1 << SHIFT;
/// What a period leaves of an average: 1 / exp(5 s / 1 min), and for 5 and 15 minutes.
const DECAY: [u64; 3] = [1884, 2014, 2037];
/// After so many periods without load nothing is left.
const FORGOTTEN: u64 = 5000;

struct Averages {
    next: u64,
    loads: [u64; 3],
}

static AVERAGES: SpinLock<Averages> = SpinLock::new(Averages { next: PERIOD_NS, loads: [0; 3] });

impl Averages {
    /// Takes the samples up to `now`, of which the last one finds `active` tasks and the others none.
    fn catch_up(&mut self, now: u64, active: u64) {
        if now < self.next {
            return;
        }
        let missed = (now - self.next) / PERIOD_NS;
        self.next += (missed + 1) * PERIOD_NS;
        if missed > FORGOTTEN {
            self.loads = [0; 3];
        }
        for _ in 0..missed.min(FORGOTTEN) {
            self.sample(0);
        }
        self.sample(active);
    }

    fn sample(&mut self, active: u64) {
        let active = active << SHIFT;
        for (load, decay) in self.loads.iter_mut().zip(DECAY) {
            let mut sum = *load * decay + active * (ONE - decay);
            if active >= *load {
                sum += ONE - 1; // so that a steady load is reached
            }
            *load = sum / ONE;
        }
    }
}

/// A running task has its tick.
pub(super) fn tick(now: u64) {
    let due = AVERAGES.lock().next <= now;
    if due {
        let active = runqueue::runnable_tasks() as u64;
        AVERAGES.lock().catch_up(now, active);
    }
}

/// The three load averages, fixed-point with 11 bits.
pub fn load_averages() -> [u64; 3] {
    let now = hal::time::now();
    let others = runqueue::runnable_tasks().saturating_sub(1) as u64;
    let mut averages = AVERAGES.lock();
    let fresh = now.saturating_sub(averages.next) % PERIOD_NS < TICKS_NS;
    averages.catch_up(now, if fresh { others } else { 0 });
    averages.loads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_rise_and_fall_exponentially() {
        let mut a = Averages { next: PERIOD_NS, loads: [0; 3] };
        for second in 0..60 {
            a.catch_up(second * 1_000_000_000 + 1, 2);
        }
        // 11 samples: 2 * (1 - exp(-11 * 5 / 60)) = 1.2.
        assert!((2430..2480).contains(&a.loads[0]), "{:?}", a.loads);
        assert!(a.loads[0] > a.loads[1] && a.loads[1] > a.loads[2] && a.loads[2] > 0);
        let before = a.loads;
        a.catch_up(3600 * 1_000_000_000, 0);
        assert!(a.loads[0] == 0 && a.loads[2] < before[2] / 2);
        a.catch_up(u64::MAX / 2, 0);
        assert_eq!(a.loads, [0; 3]);
        for n in 1..1000 {
            a.catch_up(u64::MAX / 2 + n * PERIOD_NS, 3);
        }
        assert_eq!(a.loads[0] >> SHIFT, 3, "a steady load is reached");
    }
}
