//! chmod, chown, utime and their kin.

use super::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, Caller, at_flags, read_path};
use crate::{
    errno::{Errno, Result},
    fs::{
        Access, FileType, Path, SetAttributes, WalkFlags, access::cap, file_caps, inotify, types::Timestamp,
    },
    ns::user::IdKind,
    syscall::{Ctx, Fd, Syscall, UserPtr, UserStr, args::Mode},
    syscalls,
    time::{TimeSpec, TimeVal},
};

fn place_of(ctx: &Ctx<'_>, fd: Fd) -> Result<Path> {
    Ok(ctx.task.files()?.get(fd.0)?.path().clone())
}

fn change(place: &Path, change: &SetAttributes) -> Result {
    place.inode()?.set_attributes(change)?;
    inotify::attributes_changed(place.dentry(), change);
    Ok(0)
}

fn do_chmod(caller: &Caller<'_>, place: &Path, mode: u32) -> Result {
    let (inode, subject) = (place.inode()?, caller.subject());
    if inode.kind() == FileType::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    place.mount().check_writable()?;
    let m = inode.metadata();
    if !subject.owns(m.uid) {
        return Err(Errno::EPERM);
    }
    let mut mode = mode & 0o7777;
    if !subject.in_group(m.gid) && !subject.capable_over(cap::FSETID, m.uid, m.gid) {
        mode &= !0o2000;
    }
    change(place, &SetAttributes { mode: Some(mode), ..SetAttributes::default() })
}

fn chmod(ctx: &mut Ctx<'_>, path: UserStr, mode: Mode) -> Result {
    fchmodat(ctx, Fd::CWD, path, mode)
}

fn fchmod(ctx: &mut Ctx<'_>, fd: Fd, mode: Mode) -> Result {
    do_chmod(&Caller::new(ctx)?, &place_of(ctx, fd)?, mode.0)
}

fn fchmodat(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, mode: Mode) -> Result {
    let caller = Caller::new(ctx)?;
    do_chmod(&caller, &caller.resolve_user(dirfd, path, WalkFlags::FOLLOW)?, mode.0)
}

fn fchmodat2(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, mode: Mode, flags: u32) -> Result {
    let walk = at_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let caller = Caller::new(ctx)?;
    do_chmod(&caller, &caller.resolve_user(dirfd, path, walk)?, mode.0)
}

/// The kernel's id for an owner to be; `None` if it is to stay. `EINVAL` if the caller's user namespace does not
/// know it.
fn new_owner(caller: &Caller<'_>, kind: IdKind, id: u32) -> Result<Option<u32>> {
    match id {
        u32::MAX => Ok(None),
        id => caller.credentials.user_ns.to_kernel(kind, id).map(Some).ok_or(Errno::EINVAL),
    }
}

fn do_chown(caller: &Caller<'_>, place: &Path, uid: u32, gid: u32) -> Result {
    let (inode, subject) = (place.inode()?, caller.subject());
    place.mount().check_writable()?;
    let m = inode.metadata();
    let (uid, gid) = (new_owner(caller, IdKind::User, uid)?, new_owner(caller, IdKind::Group, gid)?);
    let may_uid = uid.is_none_or(|uid| subject.uid == m.uid && uid == m.uid);
    let may_gid = gid.is_none_or(|gid| subject.uid == m.uid && (gid == m.gid || subject.in_group(gid)));
    let may = (may_uid && may_gid) || subject.capable_over(cap::CHOWN, m.uid, m.gid);
    if !may {
        return Err(Errno::EPERM);
    }
    let mut change = SetAttributes { uid, gid, ..SetAttributes::default() };
    if m.kind == FileType::Regular && m.mode & 0o6000 != 0 {
        let group = if m.mode & 0o010 != 0 { 0o2000 } else { 0 };
        change.mode = Some(m.mode & !(0o4000 | group));
    }
    if m.kind == FileType::Regular && inode.get_xattr(file_caps::NAME).is_ok() {
        inode.remove_xattr(file_caps::NAME)?;
    }
    self::change(place, &change)
}

fn chown(ctx: &mut Ctx<'_>, path: UserStr, uid: u32, gid: u32) -> Result {
    fchownat(ctx, Fd::CWD, path, uid, gid, 0)
}

fn lchown(ctx: &mut Ctx<'_>, path: UserStr, uid: u32, gid: u32) -> Result {
    fchownat(ctx, Fd::CWD, path, uid, gid, AT_SYMLINK_NOFOLLOW)
}

fn fchown(ctx: &mut Ctx<'_>, fd: Fd, uid: u32, gid: u32) -> Result {
    do_chown(&Caller::new(ctx)?, &place_of(ctx, fd)?, uid, gid)
}

fn fchownat(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, uid: u32, gid: u32, flags: u32) -> Result {
    let walk = at_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let caller = Caller::new(ctx)?;
    do_chown(&caller, &caller.resolve_user(dirfd, path, walk)?, uid, gid)
}

/// One of the two times of a utimes call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    Now,
    Omit,
    At(Timestamp),
}

impl Time {
    fn from_timespec(t: TimeSpec) -> Result<Time> {
        const UTIME_NOW: i64 = 0x3fff_ffff;
        const UTIME_OMIT: i64 = 0x3fff_fffe;
        match t.nsec {
            UTIME_NOW => Ok(Time::Now),
            UTIME_OMIT => Ok(Time::Omit),
            0..=999_999_999 => Ok(Time::At(Timestamp { sec: t.sec, nsec: t.nsec as u32 })),
            _ => Err(Errno::EINVAL),
        }
    }

    fn from_timeval(t: TimeVal) -> Result<Time> {
        match t.usec {
            0..=999_999 => Ok(Time::At(Timestamp { sec: t.sec, nsec: t.usec as u32 * 1000 })),
            _ => Err(Errno::EINVAL),
        }
    }

    fn resolve(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Time::Now => Some(now),
            Time::Omit => None,
            Time::At(t) => Some(t),
        }
    }
}

fn set_times(caller: &Caller<'_>, place: &Path, times: [Time; 2]) -> Result {
    let [atime, mtime] = times;
    if times == [Time::Omit; 2] {
        return Ok(0);
    }
    place.mount().check_writable()?;
    let (inode, subject) = (place.inode()?, caller.subject());
    if !subject.owns(inode.metadata().uid) {
        if times != [Time::Now; 2] {
            return Err(Errno::EPERM);
        }
        inode.permission(&subject, Access::WRITE)?;
    }
    let now = Timestamp::now();
    let (atime, mtime) = (atime.resolve(now), mtime.resolve(now));
    change(place, &SetAttributes { atime, mtime, ctime: Some(now), ..SetAttributes::default() })
}

fn utimensat(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, times: UserPtr<TimeSpec>, flags: u32) -> Result {
    let walk = at_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let times = match times.non_null() {
        None => [Time::Now; 2],
        Some(t) => [Time::from_timespec(t.read()?)?, Time::from_timespec(t.index(1).read()?)?],
    };
    if times == [Time::Omit; 2] {
        return Ok(0); // not even the path is looked at
    }
    let caller = Caller::new(ctx)?;
    if path.is_null() && dirfd != Fd::CWD {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        return set_times(&caller, &place_of(ctx, dirfd)?, times);
    }
    set_times(&caller, &caller.resolve(dirfd, &read_path(path)?, walk)?, times)
}

fn futimesat(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, times: UserPtr<TimeVal>) -> Result {
    let times = match times.non_null() {
        None => [Time::Now; 2],
        Some(t) => [Time::from_timeval(t.read()?)?, Time::from_timeval(t.index(1).read()?)?],
    };
    let caller = Caller::new(ctx)?;
    if path.is_null() && dirfd != Fd::CWD {
        return set_times(&caller, &place_of(ctx, dirfd)?, times);
    }
    set_times(&caller, &caller.resolve_user(dirfd, path, WalkFlags::FOLLOW)?, times)
}

fn utimes(ctx: &mut Ctx<'_>, path: UserStr, times: UserPtr<TimeVal>) -> Result {
    futimesat(ctx, Fd::CWD, path, times)
}

fn utime(ctx: &mut Ctx<'_>, path: UserStr, times: UserPtr<[i64; 2]>) -> Result {
    let at = |sec| Time::At(Timestamp { sec, nsec: 0 });
    let times = match times.non_null() {
        None => [Time::Now; 2],
        Some(t) => t.read()?.map(at),
    };
    let caller = Caller::new(ctx)?;
    set_times(&caller, &caller.resolve_user(Fd::CWD, path, WalkFlags::FOLLOW)?, times)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    90 chmod(path: UserStr, mode: Mode) Full "";
    91 fchmod(fd: Fd, mode: Mode) Full "";
    92 chown(path: UserStr, uid: u32, gid: u32) Full "";
    93 fchown(fd: Fd, uid: u32, gid: u32) Full "";
    94 lchown(path: UserStr, uid: u32, gid: u32) Full "";
    132 utime(path: UserStr, times: UserPtr<[i64; 2]>) Full "";
    235 utimes(path: UserStr, times: UserPtr<TimeVal>) Full "";
    260 fchownat(dirfd: Fd, path: UserStr, uid: u32, gid: u32, flags: u32) Full "";
    261 futimesat(dirfd: Fd, path: UserStr, times: UserPtr<TimeVal>) Full "";
    268 fchmodat(dirfd: Fd, path: UserStr, mode: Mode) Full "";
    280 utimensat(dirfd: Fd, path: UserStr, times: UserPtr<TimeSpec>, flags: u32) Full "";
    452 fchmodat2(dirfd: Fd, path: UserStr, mode: Mode, flags: u32) Full "";
};
