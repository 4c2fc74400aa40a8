//! An open block device node (`block/fops.c`, `block/ioctl.c`).

use alloc::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{BlockDevice, Erase, SECTOR, start_flusher};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{
        DeviceId, OpenFlags,
        file::{File, OpenFile},
        inode::InodeRef,
    },
    io::{Sink, Source},
    mm::Mappable,
    syscall::UserPtr,
    task::Capabilities,
};

const HDIO_GETGEO: u32 = 0x301;
const BLKROSET: u32 = 0x125d;
const BLKROGET: u32 = 0x125e;
const BLKRRPART: u32 = 0x125f;
const BLKGETSIZE: u32 = 0x1260;
const BLKFLSBUF: u32 = 0x1261;
const BLKRASET: u32 = 0x1262;
const BLKRAGET: u32 = 0x1263;
const BLKSECTGET: u32 = 0x1267;
const BLKSSZGET: u32 = 0x1268;
const BLKDISCARD: u32 = 0x1277;
const BLKIOMIN: u32 = 0x1278;
const BLKIOOPT: u32 = 0x1279;
const BLKALIGNOFF: u32 = 0x127a;
const BLKPBSZGET: u32 = 0x127b;
const BLKDISCARDZEROES: u32 = 0x127c;
const BLKROTATIONAL: u32 = 0x127e;
const BLKZEROOUT: u32 = 0x127f;
const BLKBSZGET: u32 = 0x8008_1270;
const BLKBSZSET: u32 = 0x4008_1271;
const BLKGETSIZE64: u32 = 0x8008_1272;
/// The default of Linux: 128 KiB, in sectors.
const READ_AHEAD: u64 = 256;

/// `struct hd_geometry`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Geometry {
    heads: u8,
    sectors: u8,
    cylinders: u16,
    padding: u32,
    start: u64,
}

struct BlockFile(Arc<BlockDevice>);

/// Opens a block device node. `ENXIO` if there is no such device.
pub fn open(id: DeviceId, flags: OpenFlags, task: Option<&TaskRef>) -> Result<Arc<dyn File>> {
    let device = super::find(id, task)?;
    if flags.writable() && !device.cache.read_only() {
        start_flusher();
    }
    Ok(Arc::new(BlockFile(device)))
}

impl BlockFile {
    /// What `O_DIRECT` asks of a transfer: whole sectors.
    fn check_aligned(&self, file: &OpenFile, offset: u64, len: usize) -> Result<()> {
        let direct = file.flags().contains(OpenFlags::DIRECT);
        if direct && !(offset | len as u64).is_multiple_of(SECTOR) { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// A range of bytes that a user gives as two numbers.
    fn range(arg: u64) -> Result<(u64, u64)> {
        let [start, len] = UserPtr::<[u64; 2]>::new(arg).read()?;
        if !(start | len).is_multiple_of(SECTOR) {
            return Err(Errno::EINVAL);
        }
        Ok((start, len))
    }
}

impl File for BlockFile {
    fn seekable(&self) -> bool {
        true
    }

    fn size(&self, _file: &OpenFile) -> u64 {
        self.0.cache.bytes()
    }

    fn pollable(&self) -> bool {
        false
    }

    fn read_at(&self, file: &OpenFile, task: &TaskRef, offset: u64, sink: &mut Sink<'_>) -> Result {
        self.check_aligned(file, offset, sink.remaining())?;
        self.0.cache.read(task, offset, sink)
    }

    fn write_at(&self, file: &OpenFile, task: &TaskRef, offset: u64, source: &mut Source<'_>) -> Result {
        self.check_aligned(file, offset, source.remaining())?;
        let n = self.0.cache.write(task, offset, source)?;
        let flags = file.flags();
        if flags.intersects(OpenFlags::DSYNC) {
            self.0.cache.sync_bytes(task, offset, offset + n as u64)?;
        } else if flags.contains(OpenFlags::DIRECT) {
            let pages = offset / 4096..(offset + n as u64).div_ceil(4096);
            self.0.cache.write_back(task, pages, true)?;
        }
        Ok(n)
    }

    fn fsync(&self, _file: &OpenFile, task: &TaskRef, _data_only: bool) -> Result<()> {
        self.0.cache.sync(task, 0..u64::MAX)
    }

    fn mappable(&self) -> Option<Arc<dyn Mappable>> {
        Some(self.0.cache.clone())
    }

    fn ioctl(&self, file: &OpenFile, task: &TaskRef, command: u32, arg: u64) -> Result {
        let cache = &self.0.cache;
        let privileged = || {
            if task.credentials().capable(Capabilities::SYS_ADMIN) { Ok(()) } else { Err(Errno::EACCES) }
        };
        let int = |value: u32| UserPtr::<u32>::new(arg).write(&value).map(|()| 0);
        let long = |value: u64| UserPtr::<u64>::new(arg).write(&value).map(|()| 0);
        match command {
            BLKGETSIZE64 => long(cache.bytes()),
            BLKGETSIZE => long(cache.bytes() / SECTOR),
            BLKSSZGET | BLKPBSZGET | BLKIOMIN => int(SECTOR as u32),
            BLKBSZGET => int(4096),
            BLKIOOPT | BLKALIGNOFF | BLKDISCARDZEROES => int(0),
            BLKROGET => int(cache.read_only().into()),
            BLKRAGET => long(READ_AHEAD),
            BLKROTATIONAL | BLKSECTGET => {
                let value: u16 = if command == BLKSECTGET { READ_AHEAD as u16 } else { 1 };
                UserPtr::<u16>::new(arg).write(&value)?;
                Ok(0)
            }
            BLKROSET => {
                privileged()?;
                cache.set_read_only(UserPtr::<i32>::new(arg).read()? != 0).map(|()| 0)
            }
            BLKFLSBUF => {
                privileged()?;
                cache.sync(task, 0..u64::MAX)?;
                cache.invalidate();
                Ok(0)
            }
            BLKRASET => privileged().map(|()| 0),
            BLKBSZSET => {
                privileged()?;
                let size = UserPtr::<i32>::new(arg).read()?;
                if [512, 1024, 2048, 4096].contains(&size) { Ok(0) } else { Err(Errno::EINVAL) }
            }
            // There are no partitions.
            BLKRRPART => privileged().and(Err(Errno::EINVAL)),
            BLKDISCARD | BLKZEROOUT => {
                if !file.flags().writable() {
                    return Err(Errno::EBADF);
                }
                let (start, len) = Self::range(arg)?;
                let how = if command == BLKDISCARD { Erase::Discard } else { Erase::Zero };
                cache.erase(task, how, start, len).map(|()| 0)
            }
            HDIO_GETGEO => {
                let cylinders = (cache.bytes() / SECTOR / 2048).min(u16::MAX.into()) as u16;
                let geometry = Geometry { heads: 64, sectors: 32, cylinders, padding: 0, start: 0 };
                UserPtr::<Geometry>::new(arg).write(&geometry)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }
}

/// The opener of the node of `inode`, for `fs::device`.
pub fn open_node(inode: &InodeRef, flags: OpenFlags, task: Option<&TaskRef>) -> Result<Arc<dyn File>> {
    open(inode.metadata().rdev, flags, task)
}
