//! What of the devices can be changed while the sandbox runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_devices::balloon::{Balloon, PAGE_SIZE};
use ringfence_devices::block::Block;
use ringfence_devices::rng::Rng;
use serde::{Deserialize, Serialize};

/// Memory that the host wants for itself.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonSize {
    /// Bytes it was asked for.
    pub target: u64,
    /// Bytes it says it has given up.
    pub actual: u64,
}

/// The devices.
pub struct Controls {
    /// Of the guest's memory.
    pub balloon: Arc<Mutex<Balloon>>,
    /// The random device.
    pub rng: Arc<Mutex<Rng>>,
    /// In the order the guest sees them.
    pub disks: Vec<Arc<Mutex<Block>>>,
}

impl Controls {
    pub(super) fn balloon(&self) -> BalloonSize {
        let balloon = lock(&self.balloon);
        let bytes = |pages: u32| u64::from(pages) * PAGE_SIZE;
        BalloonSize { target: bytes(balloon.target()), actual: bytes(balloon.actual()) }
    }

    pub(super) fn set_balloon(&self, bytes: u64) {
        lock(&self.balloon).set_target(u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX));
    }

    /// False: there is no such disk.
    pub(super) fn set_disk(&self, disk: usize, bandwidth: Option<u64>, ops: Option<u64>) -> bool {
        // 0 would never let anything through, and the supervisor does not ask for it.
        let limit = |limit: Option<u64>| limit.filter(|limit| *limit > 0);
        self.disks.get(disk).map(|disk| lock(disk).set_limits(limit(bandwidth), limit(ops))).is_some()
    }

    pub(super) fn set_random(&self, bandwidth: u64) {
        lock(&self.rng).set_bandwidth(bandwidth.max(1));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
