//! stat, fstat, lstat, newfstatat, statx.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, Caller, at_flags, read_path};
use crate::{
    errno::{Errno, Result},
    fs::{
        Metadata, OpenFile, WalkFlags,
        types::{DeviceId, Timestamp},
    },
    ns::UserNamespace,
    syscall::{Ctx, Fd, Syscall, UserPtr, UserStr},
    syscalls,
};

/// `struct stat` of x86-64.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Stat {
    dev: u64,
    ino: u64,
    nlink: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    pad: u32,
    rdev: u64,
    size: i64,
    blksize: i64,
    blocks: i64,
    atime: [i64; 2],
    mtime: [i64; 2],
    ctime: [i64; 2],
    reserved: [i64; 3],
}

fn pair(t: Timestamp) -> [i64; 2] {
    [t.sec, i64::from(t.nsec)]
}

impl From<&Metadata> for Stat {
    fn from(m: &Metadata) -> Stat {
        Stat {
            dev: m.dev,
            ino: m.ino,
            nlink: u64::from(m.nlink),
            mode: m.full_mode(),
            uid: m.uid,
            gid: m.gid,
            pad: 0,
            rdev: m.rdev.encode(),
            size: m.size as i64,
            blksize: i64::from(m.block_size),
            blocks: m.blocks as i64,
            atime: pair(m.atime),
            mtime: pair(m.mtime),
            ctime: pair(m.ctime),
            reserved: [0; 3],
        }
    }
}

/// `AT_NO_AUTOMOUNT`: nothing to do here.
const AT_NO_AUTOMOUNT: u32 = 0x800;
/// `AT_STATX_SYNC_TYPE`: local file systems are always in sync.
const AT_STATX_SYNC_TYPE: u32 = 0x6000;

/// The attributes of an open file, with its owners as the caller's user namespace shows them.
fn metadata_of(ctx: &Ctx<'_>, file: &OpenFile) -> Metadata {
    let mut m = file.metadata();
    if UserNamespace::any() {
        let c = ctx.task.credentials();
        (m.uid, m.gid) = (c.user_ns.show_uid(m.uid), c.user_ns.show_gid(m.gid));
    }
    m
}

fn metadata_at(ctx: &Ctx<'_>, dirfd: Fd, path: UserStr, walk: WalkFlags) -> Result<(Metadata, u32)> {
    let text =
        if path.is_null() && walk.contains(WalkFlags::EMPTY) { Default::default() } else { read_path(path)? };
    if text.is_empty() && walk.contains(WalkFlags::EMPTY) && dirfd != Fd::CWD {
        let file = ctx.task.files()?.get_any(dirfd.0)?;
        return Ok((metadata_of(ctx, &file), file.path().mount().id()));
    }
    let caller = Caller::new(ctx)?;
    let place = caller.resolve(dirfd, &text, walk)?;
    let mut m = place.inode()?.metadata();
    (m.uid, m.gid) = caller.subject().shown(m.uid, m.gid);
    Ok((m, place.mount().id()))
}

fn stat(ctx: &mut Ctx<'_>, path: UserStr, out: UserPtr<Stat>) -> Result {
    out.write(&(&metadata_at(ctx, Fd::CWD, path, WalkFlags::FOLLOW)?.0).into())?;
    Ok(0)
}

fn lstat(ctx: &mut Ctx<'_>, path: UserStr, out: UserPtr<Stat>) -> Result {
    out.write(&(&metadata_at(ctx, Fd::CWD, path, WalkFlags::empty())?.0).into())?;
    Ok(0)
}

fn fstat(ctx: &mut Ctx<'_>, fd: Fd, out: UserPtr<Stat>) -> Result {
    let file = ctx.task.files()?.get_any(fd.0)?;
    out.write(&(&metadata_of(ctx, &file)).into())?;
    Ok(0)
}

fn newfstatat(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, out: UserPtr<Stat>, flags: u32) -> Result {
    let walk = at_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT)?;
    out.write(&(&metadata_at(ctx, dirfd, path, walk)?.0).into())?;
    Ok(0)
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct StatxTime {
    sec: i64,
    nsec: u32,
    reserved: i32,
}

impl From<Timestamp> for StatxTime {
    fn from(t: Timestamp) -> StatxTime {
        StatxTime { sec: t.sec, nsec: t.nsec, reserved: 0 }
    }
}

/// `struct statx`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Statx {
    mask: u32,
    blksize: u32,
    attributes: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    spare0: u16,
    ino: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    atime: StatxTime,
    btime: StatxTime,
    ctime: StatxTime,
    mtime: StatxTime,
    rdev: [u32; 2],
    dev: [u32; 2],
    mnt_id: u64,
    spare: [u64; 13],
}

/// `STATX_BASIC_STATS`.
const BASIC_STATS: u32 = 0x7ff;
/// `STATX_BTIME`.
const BTIME: u32 = 0x800;
/// `STATX_MNT_ID`.
const MNT_ID: u32 = 0x1000;

fn statx(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, flags: u32, mask: u32, out: UserPtr<Statx>) -> Result {
    if mask & (1 << 31) != 0 || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE {
        return Err(Errno::EINVAL);
    }
    let walk = at_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_SYNC_TYPE)?;
    let (m, mount) = metadata_at(ctx, dirfd, path, walk)?;
    let dev = DeviceId::decode(m.dev);
    out.write(&Statx {
        mask: BASIC_STATS | MNT_ID | if m.btime.is_some() { BTIME } else { 0 },
        blksize: m.block_size,
        attributes: 0,
        nlink: m.nlink,
        uid: m.uid,
        gid: m.gid,
        mode: m.full_mode() as u16,
        spare0: 0,
        ino: m.ino,
        size: m.size,
        blocks: m.blocks,
        attributes_mask: 0,
        atime: m.atime.into(),
        btime: m.btime.unwrap_or_default().into(),
        ctime: m.ctime.into(),
        mtime: m.mtime.into(),
        rdev: [m.rdev.major, m.rdev.minor],
        dev: [dev.major, dev.minor],
        mnt_id: u64::from(mount),
        spare: [0; 13],
    })?;
    Ok(0)
}

const _: () = assert!(size_of::<Stat>() == 144 && size_of::<Statx>() == 256);

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    4 stat(path: UserStr, out: UserPtr<Stat>) Full "";
    5 fstat(fd: Fd, out: UserPtr<Stat>) Full "";
    6 lstat(path: UserStr, out: UserPtr<Stat>) Full "";
    262 newfstatat(dirfd: Fd, path: UserStr, out: UserPtr<Stat>, flags: u32) Full "";
    332 statx(dirfd: Fd, path: UserStr, flags: u32, mask: u32, out: UserPtr<Statx>) Full "no attribute flags";
};
