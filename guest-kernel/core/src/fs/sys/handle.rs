//! name_to_handle_at, open_by_handle_at: names of files that are numbers.
//!
//! A handle is the inode number, in the form tmpfs has on Linux (three words: a generation, then the number).
//! Numbers are not used twice, so the generation is constant. Opening one looks at the dentries that handles
//! were made of lately, and else searches the tree of the file system: slow, but nothing has to be kept.

use alloc::{collections::BTreeMap, sync::Weak, vec, vec::Vec};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, Caller, open_files_limit, read_path};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{Dentry, FileType, Mount, OpenFlags, Path, WalkFlags, access::cap, open::open_place},
    sched,
    sync::SpinLock,
    syscall::{Ctx, Fd, Syscall, UserPtr, UserStr},
    syscalls,
};

/// The head of `struct file_handle`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Head {
    bytes: u32,
    kind: i32,
}

/// `struct file_handle` with the handle of a tmpfs.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Handle {
    head: Head,
    generation: u32,
    ino_low: u32,
    ino_high: u32,
}

const BYTES: u32 = 12;
/// What `shmem_encode_fh` calls its form.
const KIND: i32 = 1;
const GENERATION: u32 = 1;
/// `MAX_HANDLE_SZ`.
const MAX_BYTES: u32 = 128;
/// Dentries remembered.
const KNOWN_MAX: usize = 1024;

/// Where handles were made lately, by device and number.
static KNOWN: SpinLock<BTreeMap<(u64, u64), Weak<Dentry>>> = SpinLock::new(BTreeMap::new());

fn has_handles(mount: &Mount) -> bool {
    matches!(mount.superblock().fs().name(), "tmpfs" | "devtmpfs" | "overlay" | "erofs")
}

fn name_to_handle_at(
    ctx: &mut Ctx<'_>,
    dirfd: Fd,
    path: UserStr,
    handle: UserPtr<Head>,
    mount_id: UserPtr<i32>,
    flags: u32,
) -> Result {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut walk = WalkFlags::empty();
    walk.set(WalkFlags::FOLLOW, flags & AT_SYMLINK_FOLLOW != 0);
    walk.set(WalkFlags::EMPTY, flags & AT_EMPTY_PATH != 0);
    let place = Caller::new(ctx)?.resolve(dirfd, &read_path(path)?, walk)?;
    if !has_handles(place.mount()) {
        return Err(Errno::EOPNOTSUPP);
    }
    let given = handle.read()?;
    if given.bytes > MAX_BYTES {
        return Err(Errno::EINVAL);
    }
    mount_id.write(&(place.mount().id() as i32))?;
    if given.bytes < BYTES {
        handle.write(&Head { bytes: BYTES, kind: given.kind })?;
        return Err(Errno::EOVERFLOW);
    }
    let ino = place.inode()?.ino();
    remember((place.mount().superblock().dev(), ino), &place);
    let head = Head { bytes: BYTES, kind: KIND };
    let (ino_low, ino_high) = (ino as u32, (ino >> 32) as u32);
    handle.cast::<Handle>().write(&Handle { head, generation: GENERATION, ino_low, ino_high })?;
    Ok(0)
}

fn remember(key: (u64, u64), place: &Path) {
    let mut known = KNOWN.lock();
    if known.len() >= KNOWN_MAX {
        known.retain(|_, dentry| dentry.strong_count() > 0);
    }
    if known.len() < KNOWN_MAX {
        known.insert(key, alloc::sync::Arc::downgrade(place.dentry()));
    }
}

fn open_by_handle_at(ctx: &mut Ctx<'_>, mount_fd: Fd, handle: UserPtr<Head>, flags: u32) -> Result {
    let caller = Caller::new(ctx)?;
    if !caller.subject().capable(cap::DAC_READ_SEARCH) {
        return Err(Errno::EPERM);
    }
    let head = handle.read()?;
    if head.bytes > MAX_BYTES || head.bytes == 0 {
        return Err(Errno::EINVAL);
    }
    let start = caller.start(mount_fd, b"")?;
    if !has_handles(start.mount()) || head.bytes < BYTES {
        return Err(Errno::ESTALE);
    }
    let handle = handle.cast::<Handle>().read()?;
    let ino = u64::from(handle.ino_low) | u64::from(handle.ino_high) << 32;
    if handle.generation != GENERATION {
        return Err(Errno::ESTALE);
    }
    let dentry = find(ctx.task, start.mount(), ino)?;
    let flags = OpenFlags::from_bits_truncate(flags);
    let file = open_place(&caller.subject(), start.with(dentry), flags, Some(ctx.task))?;
    let cloexec = flags.contains(OpenFlags::CLOEXEC);
    Ok(ctx.task.files()?.install(file, cloexec, open_files_limit(ctx.task))? as usize)
}

/// The dentry of inode `ino`. `ESTALE`.
fn find(task: &TaskRef, mount: &Mount, ino: u64) -> Result<alloc::sync::Arc<Dentry>> {
    let superblock = mount.superblock();
    let known = KNOWN.lock().get(&(superblock.dev(), ino)).and_then(Weak::upgrade);
    if let Some(dentry) = known {
        return Ok(dentry);
    }
    let mut pending = vec![superblock.root().clone()];
    if superblock.root().positive()?.ino() == ino {
        return Ok(superblock.root().clone());
    }
    while let Some(dir) = pending.pop() {
        let mut found: Option<Vec<u8>> = None;
        let mut below: Vec<Vec<u8>> = Vec::new();
        dir.positive()?.readdir(0, &mut |entry| {
            if entry.ino == ino {
                found = Some(entry.name.to_vec());
            } else if entry.kind == FileType::Directory {
                below.push(entry.name.to_vec());
            }
            found.is_none()
        })?;
        if let Some(name) = found {
            return dir.lookup(&name);
        }
        for name in below {
            pending.extend(dir.lookup(&name).ok().filter(|d| d.inode().is_some()));
        }
        if task.killed() {
            return Err(Errno::EINTR);
        }
        sched::preempt_point(task);
    }
    Err(Errno::ESTALE)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    303 name_to_handle_at(dirfd: Fd, path: UserStr, handle: UserPtr<Head>, mount_id: UserPtr<i32>, flags: u32) Full "";
    304 open_by_handle_at(mount_fd: Fd, handle: UserPtr<Head>, flags: u32) Full "";
};
