//! statfs, fstatfs.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Caller, read_path};
use crate::{
    errno::Result,
    fs::{Mount, MountFlags, WalkFlags},
    syscall::{Ctx, Fd, Syscall, UserPtr, UserStr},
    syscalls,
};

/// `struct statfs` of x86-64.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawStatFs {
    kind: i64,
    bsize: i64,
    blocks: u64,
    bfree: u64,
    bavail: u64,
    files: u64,
    ffree: u64,
    fsid: [i32; 2],
    namelen: i64,
    frsize: i64,
    flags: i64,
    spare: [i64; 4],
}

fn fill(mount: &Mount) -> RawStatFs {
    /// `ST_VALID`: the flags mean something.
    const ST_VALID: i64 = 0x20;
    /// `ST_RDONLY`.
    const ST_RDONLY: i64 = 1;
    /// `ST_NOSYMFOLLOW`, `ST_NOATIME`, `ST_NODIRATIME`, `ST_RELATIME`.
    const OTHERS: &[(MountFlags, i64)] = &[
        (MountFlags::NOSYMFOLLOW, 0x2000),
        (MountFlags::NOATIME, 0x400),
        (MountFlags::NODIRATIME, 0x800),
        (MountFlags::RELATIME, 0x1000),
    ];
    let s = mount.superblock().fs().statfs();
    let dev = mount.superblock().dev();
    // ST_NOSUID, ST_NODEV and ST_NOEXEC are the bits of MS_*.
    let mut flags = ST_VALID | i64::from(mount.flags().bits() & 0xe);
    for (_, bit) in OTHERS.iter().filter(|(flag, _)| mount.flags().contains(*flag)) {
        flags |= bit;
    }
    if mount.check_writable().is_err() {
        flags |= ST_RDONLY;
    }
    RawStatFs {
        kind: s.magic as i64,
        bsize: s.block_size as i64,
        blocks: s.blocks,
        bfree: s.free,
        bavail: s.free,
        files: s.files,
        ffree: s.files_free,
        fsid: [dev as i32, (dev >> 32) as i32],
        namelen: s.name_max as i64,
        frsize: s.block_size as i64,
        flags,
        spare: [0; 4],
    }
}

fn statfs(ctx: &mut Ctx<'_>, path: UserStr, out: UserPtr<RawStatFs>) -> Result {
    let place = Caller::new(ctx)?.resolve(Fd::CWD, &read_path(path)?, WalkFlags::FOLLOW)?;
    out.write(&fill(place.mount()))?;
    Ok(0)
}

fn fstatfs(ctx: &mut Ctx<'_>, fd: Fd, out: UserPtr<RawStatFs>) -> Result {
    let file = ctx.task.files()?.get_any(fd.0)?;
    out.write(&fill(file.path().mount()))?;
    Ok(0)
}

const _: () = assert!(size_of::<RawStatFs>() == 120);

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    137 statfs(path: UserStr, out: UserPtr<RawStatFs>) Full "";
    138 fstatfs(fd: Fd, out: UserPtr<RawStatFs>) Full "";
};
