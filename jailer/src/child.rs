//! The steps of the VMM's process from its birth to its exec.
//!
//! [`STEPS`] is the order; `docs/jailer.md` describes each under its name, and a test compares. The process is
//! born by `clone3(2)` in all its new namespaces and in its cgroup. What a step needs from the host is opened
//! before the first, so that nothing is opened by a path afterwards.
//!
//! The VMM's id is mapped to itself and is the only one in its user namespace: there is no id 0 in it to become.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use crate::companion::{self, Share};
use crate::config::{JailConfig, is_root};
use crate::monitor::Program;
use crate::sys;

/// Namespaces the VMM is born in.
pub const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// A directory that every host has; the new root is mounted there, seen by the VMM's mount namespace only.
const MOUNT_POINT: &str = "/proc";

/// What the steps work on.
pub struct Birth<'a> {
    /// The jail.
    pub config: &'a JailConfig,
    /// The VMM's user and group.
    pub ids: (u32, u32),
    /// Whether supplementary groups can be dropped (not without privilege: user_namespaces(7)).
    pub may_drop_groups: bool,
    /// To the monitor.
    pub link: &'a UnixStream,
    /// What to exec.
    pub program: &'a Program,
    /// It is the companion: what it serves.
    pub shares: Option<&'a [Share]>,
    /// Those of them that are mounts of their own already, and what step "shared directories" adds.
    pub mounts: RefCell<Vec<OwnedFd>>,
}

impl Birth<'_> {
    /// The capabilities it keeps.
    fn kept(&self) -> CapabilitySet {
        if self.shares.is_some() { companion::capabilities() } else { CapabilitySet::empty() }
    }
}

type Action = fn(&Birth<'_>) -> io::Result<()>;

/// The steps, in order.
pub const STEPS: &[(&str, Action)] = &[
    ("identity map", identity_map),
    ("credentials", credentials),
    ("session", session),
    ("host name", host_name),
    ("no more namespaces", no_more_namespaces),
    ("shared directories", shared_directories),
    ("empty root", empty_root),
    ("resource limits", resource_limits),
    ("capabilities", capabilities),
    ("no new privileges", no_new_privileges),
    ("parent-death signal", parent_death_signal),
    ("descriptors", descriptors),
    ("exec", exec),
];

/// Takes every step; returns the number of the one that failed, and why.
pub fn live(birth: &Birth<'_>) -> Result<Infallible, (usize, io::Error)> {
    for (number, (_, step)) in STEPS.iter().enumerate() {
        step(birth).map_err(|e| (number, e))?;
    }
    Err((STEPS.len() - 1, io::Error::from_raw_os_error(libc::ENOEXEC)))
}

/// What to do about a step that failed.
pub fn advice(step: &str, error: &io::Error) -> &'static str {
    match (step, error.raw_os_error()) {
        ("namespaces", Some(libc::EPERM | libc::EACCES)) => {
            "; this host lets no ordinary user make namespaces: run as root, or allow it \
             (sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
        }
        ("namespaces", Some(libc::ENOSPC)) => {
            "; the host's limit of namespaces is reached (sysctl user.max_user_namespaces and its neighbours)"
        }
        ("namespaces", Some(libc::EAGAIN)) => "; a limit of processes is reached (ulimit -u, pids.max)",
        ("namespaces", Some(libc::ENOSYS | libc::EINVAL)) => "; the jail needs Linux 5.7 or newer",
        ("exec", Some(libc::ENOENT)) => "; the jailed program must be linked statically: its root is empty",
        _ => "",
    }
}

/// Waits until the monitor, which has the right to, has written the maps of the user namespace.
fn identity_map(birth: &Birth<'_>) -> io::Result<()> {
    let mut go = [0];
    let mut link = birth.link;
    link.read_exact(&mut go)
}

/// Becomes the VMM's id. The process keeps the capabilities its birth in the user namespace gave it, because
/// it never was that namespace's id 0.
fn credentials(birth: &Birth<'_>) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(birth.ids.0), Gid::from_raw(birth.ids.1));
    if birth.may_drop_groups {
        rustix::thread::set_thread_groups(&[])?;
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Leaves the caller's session and terminal: the VMM gets its signals from the monitor alone.
fn session(_: &Birth<'_>) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    sys::block_signals(false);
    Ok(())
}

/// The host's name is not the VMM's business.
fn host_name(_: &Birth<'_>) -> io::Result<()> {
    Ok(rustix::system::sethostname(b"ringfence")?)
}

/// Sets the number of user namespaces that can be made in this one to none (namespaces(7)), so that the kernel code
/// behind namespaces is out of reach: those of other kinds need a capability, which a new user namespace would be the
/// only way to. A host whose `/proc/sys` is read-only keeps its limit; the VMM's system-call filter refuses to make
/// namespaces in any case.
fn no_more_namespaces(_: &Birth<'_>) -> io::Result<()> {
    match std::fs::write("/proc/sys/user/max_user_namespaces", "0") {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EROFS | libc::EACCES)) => Ok(()),
        result => result,
    }
}

/// What the companion serves becomes mounts of their own, before everything else is out of reach; and its own
/// `/proc/self/fd`. As root the monitor has made the mounts, who may go where only the owner of a directory may.
fn shared_directories(birth: &Birth<'_>) -> io::Result<()> {
    let Some(shares) = birth.shares else { return Ok(()) };
    let mut mounts = birth.mounts.borrow_mut();
    if !is_root() {
        *mounts = shares.iter().map(Share::detach_by_path).collect::<io::Result<_>>()?;
    }
    mounts.insert(0, companion::own_descriptors()?);
    Ok(())
}

/// Makes an empty, read-only tmpfs the root, and lets go of everything that was mounted before.
fn empty_root(_: &Birth<'_>) -> io::Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("ringfence", MOUNT_POINT, "tmpfs", flags, c"size=4k,nr_inodes=1,mode=0555")?;
    rustix::process::chdir(MOUNT_POINT)?;
    // The old root is put on top of the new one (pivot_root(2)), and unmounted from there.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

fn resource_limits(birth: &Birth<'_>) -> io::Result<()> {
    let limits = &birth.config.limits;
    let open_files = if birth.shares.is_some() { companion::OPEN_FILES } else { limits.open_files };
    let mut fixed = vec![
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Nofile, open_files),
    ];
    fixed.extend(limits.file_size.map(|bytes| (Resource::Fsize, bytes)));
    for (resource, most) in fixed {
        // Without privilege a hard limit cannot be raised; lower than asked for is safe.
        let hard = rustix::process::getrlimit(resource).maximum;
        let most = Some(hard.map_or(most, |hard| most.min(hard)));
        rustix::process::setrlimit(resource, Rlimit { current: most, maximum: most })?;
    }
    Ok(())
}

/// Gives every capability up, and the ways to get one: the bounding set, and that id 0 or a file has any. The companion
/// keeps some, which get through its exec as ambient ones.
fn capabilities(birth: &Birth<'_>) -> io::Result<()> {
    let kept = birth.kept();
    for capability in (CapabilitySet::all() - kept).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not have yet.
            Err(rustix::io::Errno::INVAL) => {}
            result => result?,
        }
    }
    let locked = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    rustix::thread::clear_ambient_capability_set()?;
    if !kept.is_empty() {
        let all = rustix::thread::capabilities(None)?;
        rustix::thread::set_capabilities(None, CapabilitySets { inheritable: kept, ..all })?;
        for capability in kept.iter() {
            rustix::thread::configure_capability_in_ambient_set(capability, true)?;
        }
    }
    rustix::thread::set_capabilities_secure_bits(locked)?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: kept },
    )?;
    Ok(())
}

fn no_new_privileges(_: &Birth<'_>) -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Dies with the monitor. One that has died before is noticed by the end of the link.
fn parent_death_signal(birth: &Birth<'_>) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    birth.link.set_nonblocking(true)?;
    let mut link = birth.link;
    match link.read(&mut [0]) {
        Ok(_) => Err(io::ErrorKind::ConnectionAborted.into()),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(e) => Err(e),
    }
}

/// Leaves open, across the exec, nothing but standard error and the descriptors handed over.
fn descriptors(birth: &Birth<'_>) -> io::Result<()> {
    let program = birth.program;
    let null = program.null.as_fd();
    let mut all = vec![null, null, rustix::stdio::stderr()];
    all.extend(program.descriptors.iter().map(AsFd::as_fd));
    let mounts = birth.mounts.borrow();
    all.extend(mounts.iter().map(AsFd::as_fd));
    sys::place(&all)
}

/// Starts the VMM with an empty environment.
fn exec(birth: &Birth<'_>) -> io::Result<()> {
    Err(sys::exec(birth.program.file.as_fd(), &birth.program.args))
}

#[cfg(test)]
mod tests {
    use super::STEPS;

    #[test]
    fn the_page_has_the_steps_in_their_order() {
        let page = include_str!("../../docs/jailer.md");
        let told: Vec<_> = page.lines().filter_map(|l| l.strip_prefix("### ")).collect();
        let taken: Vec<_> =
            STEPS.iter().enumerate().map(|(n, (name, _))| format!("{}. {name}", n + 1)).collect();
        assert_eq!(told, taken);
    }
}
