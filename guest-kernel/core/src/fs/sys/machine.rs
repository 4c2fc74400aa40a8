//! Old calls about the machine's file systems and devices: sysfs, ustat, vhangup, swapon, swapoff.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Caller, read_path};
use crate::{
    errno::{Errno, Result},
    fs::{WalkFlags, filesystems},
    io::Sink,
    syscall::{Ctx, Fd, Syscall, UserAddr, UserPtr, UserStr},
    syscalls,
    task::Capabilities,
};

/// sysfs(2), which has nothing to do with the file system of that name: file system types by number.
fn sysfs(ctx: &mut Ctx<'_>, option: i32, arg1: u64, arg2: UserAddr) -> Result {
    let _ = ctx;
    let names = filesystems::names();
    match option {
        1 => {
            let name = UserStr(arg1).read(4096, Errno::ENAMETOOLONG)?;
            names.iter().position(|n| n.as_bytes() == name).ok_or(Errno::EINVAL)
        }
        2 => {
            let name = usize::try_from(arg1).ok().and_then(|i| names.get(i)).ok_or(Errno::EINVAL)?;
            let mut sink = Sink::user(arg2.0, name.len() + 1);
            sink.put(name.as_bytes())?;
            sink.put(&[0])?;
            Ok(0)
        }
        3 => Ok(names.len()),
        _ => Err(Errno::EINVAL),
    }
}

/// `struct ustat`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct UStat {
    free_blocks: i32,
    pad: i32,
    free_inodes: u64,
    names: [u8; 12],
    pad_end: u32,
}

fn ustat(ctx: &mut Ctx<'_>, dev: u64, out: UserPtr<UStat>) -> Result {
    let mounts = ctx.task.fs()?.namespace().mounts();
    let mount = mounts.iter().find(|m| m.superblock().dev() == dev & 0xffff_ffff).ok_or(Errno::EINVAL)?;
    let s = mount.superblock().fs().statfs();
    let (free_blocks, free_inodes) = (s.free as i32, s.files_free);
    out.write(&UStat { free_blocks, pad: 0, free_inodes, names: [0; 12], pad_end: 0 })?;
    Ok(0)
}

fn vhangup(ctx: &mut Ctx<'_>) -> Result {
    if !ctx.task.credentials().capable(Capabilities::SYS_TTY_CONFIG) {
        return Err(Errno::EPERM);
    }
    let session = ctx.task.process().group().session.clone();
    let terminal = session.terminal.lock().clone();
    if let Some(terminal) = terminal {
        terminal.hang_up();
    }
    Ok(0)
}

/// What both check first.
fn swap_file(ctx: &Ctx<'_>, path: UserStr) -> Result {
    let caller = Caller::new(ctx)?;
    if !caller.credentials.capable(Capabilities::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    caller.resolve(Fd::CWD, &read_path(path)?, WalkFlags::FOLLOW)?;
    // No file system here can hold a swap area, and so none is in use.
    Err(Errno::EINVAL)
}

fn swapon(ctx: &mut Ctx<'_>, path: UserStr, flags: u32) -> Result {
    const FLAGS: u32 = 0x7_ffff;
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    swap_file(ctx, path)
}

fn swapoff(ctx: &mut Ctx<'_>, path: UserStr) -> Result {
    swap_file(ctx, path)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    136 ustat(dev: u64, buf: UserPtr<UStat>) Full "";
    139 sysfs(option: i32, arg1: u64, arg2: UserAddr) Full "";
    153 vhangup() Full "";
    167 swapon(path: UserStr, flags: u32) Full "no file can hold a swap area: EINVAL";
    168 swapoff(path: UserStr) Full "no file holds a swap area: EINVAL";
};
