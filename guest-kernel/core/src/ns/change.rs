//! Changing namespaces: what `clone` gives a child, `unshare(2)`, `setns(2)`.
//!
//! A new user namespace comes first, and owns the others made by the same call; the caller (or the child) has
//! all capabilities in it, so that an ordinary user may make the others with it. Everything that can fail is
//! made before anything of the task changes.

use alloc::sync::Arc;

use super::{CgroupNamespace, IpcNamespace, Namespaces, NetNamespace, PidNamespace, UserNamespace};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{
        FsContext,
        nsfs::{AnyNamespace, NsFile},
    },
    syscall::{Ctx, Fd, Syscall},
    syscalls,
    task::{Capabilities, Credentials, clone::CloneFlags},
};

/// The kinds `clone` and `unshare` can make.
pub const KINDS: CloneFlags = CloneFlags::NEWNS
    .union(CloneFlags::NEWCGROUP)
    .union(CloneFlags::NEWUTS)
    .union(CloneFlags::NEWIPC)
    .union(CloneFlags::NEWUSER)
    .union(CloneFlags::NEWPID)
    .union(CloneFlags::NEWNET);

/// The kinds that are in [`Namespaces`].
const IN_NAMESPACES: CloneFlags = KINDS.difference(CloneFlags::NEWNS).difference(CloneFlags::NEWUSER);

/// What one call makes anew; `None` stays as it is.
pub struct Fresh {
    /// With a new user namespace: the caller's identity in it.
    pub credentials: Option<Credentials>,
    /// The namespaces.
    pub namespaces: Option<Arc<Namespaces>>,
}

/// Makes the namespaces `flags` ask for, except the mount namespace, which [`FsContext`] makes (its rights are
/// checked here). `EPERM` without `CAP_SYS_ADMIN` in the user namespace that will own them.
pub fn make(task: &TaskRef, flags: CloneFlags) -> Result<Fresh> {
    let mut fresh = Fresh { credentials: None, namespaces: None };
    if !flags.intersects(KINDS) {
        return Ok(fresh);
    }
    let old = task.credentials();
    if flags.contains(CloneFlags::NEWUSER) {
        fresh.credentials = Some(enter_new_user_namespace(task, &old)?);
    }
    if !flags.intersects(KINDS.difference(CloneFlags::NEWUSER)) {
        return Ok(fresh);
    }
    let credentials = fresh.credentials.as_ref().unwrap_or(&old);
    let owner = &credentials.user_ns;
    if !credentials.capable_in(owner, Capabilities::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    if flags.intersects(IN_NAMESPACES) {
        let mut new = (*task.namespaces()).clone();
        if flags.contains(CloneFlags::NEWUTS) {
            new.uts = new.uts.duplicate(owner);
        }
        if flags.contains(CloneFlags::NEWIPC) {
            new.ipc = IpcNamespace::new(owner);
        }
        if flags.contains(CloneFlags::NEWNET) {
            new.net = NetNamespace::new(owner);
        }
        if flags.contains(CloneFlags::NEWCGROUP) {
            new.cgroup = CgroupNamespace::new(owner, task.process().cgroup.group());
        }
        if flags.contains(CloneFlags::NEWPID) {
            // Only whose children are in its own namespace can make another below it.
            if !Arc::ptr_eq(&new.pid_for_children, &task.process().pid_ns) {
                return Err(Errno::EINVAL);
            }
            new.pid_for_children = PidNamespace::create(&new.pid_for_children, owner)?;
        }
        fresh.namespaces = Some(Arc::new(new));
    }
    Ok(fresh)
}

/// `EPERM` in a chroot: its maker could leave it otherwise.
fn enter_new_user_namespace(task: &TaskRef, old: &Credentials) -> Result<Credentials> {
    let fs = task.fs()?;
    let top = fs.namespace().root().ok_or(Errno::EPERM)?;
    if !fs.root().same(&top) {
        return Err(Errno::EPERM);
    }
    let ns = UserNamespace::create(old)?;
    Ok(old.in_user_namespace(ns))
}

fn unshare(ctx: &mut Ctx<'_>, flags: u64) -> Result {
    use CloneFlags as F;
    let mut flags = F::from_bits(flags).ok_or(Errno::EINVAL)?;
    let known = KINDS | F::FILES | F::FS | F::SYSVSEM | F::THREAD | F::SIGHAND | F::VM;
    if !known.contains(flags) {
        return Err(Errno::EINVAL);
    }
    if flags.contains(F::NEWUSER) {
        flags |= F::THREAD | F::FS;
    }
    if flags.contains(F::NEWNS) {
        flags |= F::FS;
    }
    let task = ctx.task;
    if flags.intersects(F::THREAD | F::SIGHAND | F::VM) && task.process().threads().len() > 1 {
        return Err(Errno::EINVAL);
    }
    let fresh = make(task, flags)?;
    let fs = match flags.contains(F::FS) {
        true => Some(task.fs()?.fork()),
        false => None,
    };
    if let Some(fs) = &fs
        && flags.contains(F::NEWNS)
    {
        let credentials = task.credentials();
        let owner = &fresh.credentials.as_ref().unwrap_or(&credentials).user_ns;
        fs.unshare_namespace(owner)?;
    }
    if flags.contains(F::FILES) {
        let own = task.files()?.fork();
        drop(task.replace_files(Some(own)));
    }
    if let Some(fs) = fs {
        drop(task.replace_fs(Some(fs)));
    }
    if let Some(namespaces) = fresh.namespaces {
        drop(task.replace_namespaces(namespaces));
    }
    if let Some(credentials) = fresh.credentials {
        task.set_credentials(credentials);
    }
    Ok(0)
}

/// What `setns` is about to change; nothing is until all of it is known to be allowed.
struct Joining {
    credentials: Option<Credentials>,
    namespaces: Namespaces,
    fs: Option<Arc<FsContext>>,
}

impl Joining {
    fn join(&mut self, task: &TaskRef, target: AnyNamespace) -> Result<()> {
        let me = task.credentials();
        let me = self.credentials.as_ref().unwrap_or(&me);
        let admin = |ns: &UserNamespace| {
            if me.capable_in(ns, Capabilities::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
        };
        if let AnyNamespace::User(ns) = target {
            return self.join_user(task, ns);
        }
        if let Some(owner) = target.owner() {
            admin(&owner)?;
        }
        admin(&me.user_ns)?;
        match target {
            AnyNamespace::Uts(ns) => self.namespaces.uts = ns,
            AnyNamespace::Ipc(ns) => self.namespaces.ipc = ns,
            AnyNamespace::Net(ns) => self.namespaces.net = ns,
            AnyNamespace::Cgroup(ns) => self.namespaces.cgroup = ns,
            AnyNamespace::Pid(ns) if ns.is_within(&task.process().pid_ns) => {
                self.namespaces.pid_for_children = ns;
            }
            AnyNamespace::Pid(_) => return Err(Errno::EINVAL),
            AnyNamespace::Mount(ns) => {
                if !me.capable_in(&me.user_ns, Capabilities::SYS_CHROOT) {
                    return Err(Errno::EPERM);
                }
                let old = task.fs()?;
                if old.is_shared() {
                    return Err(Errno::EINVAL);
                }
                let fs = FsContext::new(ns)?;
                fs.set_umask(old.umask());
                self.fs = Some(fs);
            }
            AnyNamespace::User(_) => {} // above
        }
        Ok(())
    }

    fn join_user(&mut self, task: &TaskRef, ns: Arc<UserNamespace>) -> Result<()> {
        let me = task.credentials();
        let alone = task.process().threads().len() <= 1 && !task.fs()?.is_shared();
        if *ns == *me.user_ns || !alone {
            return Err(Errno::EINVAL);
        }
        if !me.capable_in(&ns, Capabilities::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        self.credentials = Some(me.in_user_namespace(ns));
        Ok(())
    }
}

/// The namespaces of the process behind a pidfd, of the kinds in `flags`: the user namespace first.
fn namespaces_of(task: &TaskRef, fd: i32, flags: CloneFlags) -> Result<alloc::vec::Vec<AnyNamespace>> {
    let (process, _) = crate::fs::pidfd::process_of(task, fd).map_err(|_| Errno::EINVAL)?;
    if flags.is_empty() || !KINDS.contains(flags) {
        return Err(Errno::EINVAL);
    }
    let target = process.threads().into_iter().next().ok_or(Errno::ESRCH)?;
    crate::fs::proc::check_access(task, &target).map_err(|_| Errno::EPERM)?;
    let all = target.namespaces();
    let candidates = [
        AnyNamespace::User(target.credentials().user_ns.clone()),
        AnyNamespace::Mount(target.fs()?.namespace()),
        AnyNamespace::Uts(all.uts.clone()),
        AnyNamespace::Ipc(all.ipc.clone()),
        AnyNamespace::Pid(process.pid_ns.clone()),
        AnyNamespace::Cgroup(all.cgroup.clone()),
        AnyNamespace::Net(all.net.clone()),
    ];
    Ok(candidates.into_iter().filter(|ns| flags.contains(ns.flag())).collect())
}

fn setns(ctx: &mut Ctx<'_>, fd: Fd, kind: u32) -> Result {
    let task = ctx.task;
    let flags = CloneFlags::from_bits(kind.into()).ok_or(Errno::EINVAL)?;
    let file = task.files()?.get(fd.0)?;
    let targets = match file.downcast::<NsFile>() {
        Some(file) if flags.is_empty() || flags == file.0.flag() => alloc::vec![file.0.clone()],
        Some(_) => return Err(Errno::EINVAL),
        None => namespaces_of(task, fd.0, flags)?,
    };
    let mut joining = Joining { credentials: None, namespaces: (*task.namespaces()).clone(), fs: None };
    for target in targets {
        joining.join(task, target)?;
    }
    if let Some(fs) = joining.fs {
        drop(task.replace_fs(Some(fs)));
    }
    drop(task.replace_namespaces(Arc::new(joining.namespaces)));
    if let Some(credentials) = joining.credentials {
        task.set_credentials(credentials);
    }
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    272 unshare(flags: u64) Partial "no time namespaces";
    308 setns(fd: Fd, nstype: u32) Partial "no time namespaces";
};
