//! Devices by number: what an open of a device node finds.

use alloc::{sync::Arc, vec::Vec};
use core::ops::RangeInclusive;

use super::{
    file::File,
    inode::InodeRef,
    types::{DeviceId, OpenFlags},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sync::SpinLock,
};

/// Opens a device. `inode` is the node, `task` who opens (`None`: the kernel itself).
pub type Opener = fn(DeviceId, &InodeRef, OpenFlags, Option<&TaskRef>) -> Result<Arc<dyn File>>;

struct Registration {
    major: u32,
    minors: RangeInclusive<u32>,
    opener: Opener,
}

static CHAR_DEVICES: SpinLock<Vec<Registration>> = SpinLock::new(Vec::new());

/// Registers the driver of character devices `major`:`minors`. The later registration wins.
pub fn register_char(major: u32, minors: RangeInclusive<u32>, opener: Opener) {
    CHAR_DEVICES.lock().push(Registration { major, minors, opener });
}

/// Opens the character device of `inode`. `ENXIO` if there is no driver.
pub fn open_char(inode: &InodeRef, flags: OpenFlags, task: Option<&TaskRef>) -> Result<Arc<dyn File>> {
    let id = inode.metadata().rdev;
    let opener = {
        let all = CHAR_DEVICES.lock();
        all.iter().rev().find(|r| r.major == id.major && r.minors.contains(&id.minor)).map(|r| r.opener)
    };
    opener.ok_or(Errno::ENXIO)?(id, inode, flags, task)
}
