//! `/proc/PID/ns`, and the maps of its user namespace.

use alloc::sync::Arc;

use super::{Destination, Entry, Scope, Text, private_link, text::emit};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::nsfs::AnyNamespace,
    ns::{
        UserNamespace,
        user::{IdKind, parse_map},
    },
};

pub(super) const ENTRIES: &[Entry] = &[
    private_link("cgroup", |s| place(s, |t| Ok(AnyNamespace::Cgroup(t.namespaces().cgroup.clone())))),
    private_link("ipc", |s| place(s, |t| Ok(AnyNamespace::Ipc(t.namespaces().ipc.clone())))),
    private_link("mnt", |s| place(s, |t| Ok(AnyNamespace::Mount(t.fs()?.namespace())))),
    private_link("net", |s| place(s, |t| Ok(AnyNamespace::Net(t.namespaces().net.clone())))),
    private_link("pid", |s| place(s, |t| Ok(AnyNamespace::Pid(t.process().pid_ns.clone())))),
    private_link("pid_for_children", |s| {
        place(s, |t| Ok(AnyNamespace::Pid(t.namespaces().pid_for_children.clone())))
    }),
    private_link("user", |s| place(s, |t| Ok(AnyNamespace::User(t.credentials().user_ns.clone())))),
    private_link("uts", |s| place(s, |t| Ok(AnyNamespace::Uts(t.namespaces().uts.clone())))),
];

fn place(s: &Scope<'_>, of: fn(&TaskRef) -> Result<AnyNamespace>) -> Result<Destination> {
    Ok(Destination::Place(of(s.target()?.task()?)?.place()))
}

/// The user namespace of the process, dead or alive.
fn user_namespace(s: &Scope<'_>) -> Result<Arc<UserNamespace>> {
    let target = s.target()?;
    match (&target.task, &*target.process.remains.lock()) {
        (Some(task), _) => Ok(task.credentials().user_ns.clone()),
        (None, Some(remains)) => Ok(remains.credentials.user_ns.clone()),
        (None, None) => Err(Errno::ESRCH),
    }
}

fn show_map(s: &Scope<'_>, kind: IdKind, out: &mut Text) -> Result<()> {
    let viewer = s.viewer.credentials();
    for e in user_namespace(s)?.shown_map(kind, &viewer.user_ns) {
        emit!(out, "{:>10} {:>10} {:>10}\n", e.first, e.lower, e.count);
    }
    Ok(())
}

pub(super) fn uid_map(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    show_map(s, IdKind::User, out)
}

pub(super) fn gid_map(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    show_map(s, IdKind::Group, out)
}

/// Project ids are for quotas, which do not exist: only the first namespace has them.
pub(super) fn projid_map(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    if user_namespace(s)?.is_initial() {
        emit!(out, "{:>10} {:>10} {:>10}\n", 0, 0, u32::MAX);
    }
    Ok(())
}

pub(super) fn write_uid_map(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    user_namespace(s)?.write_map(IdKind::User, &parse_map(bytes)?, &s.viewer.credentials())
}

pub(super) fn write_gid_map(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    user_namespace(s)?.write_map(IdKind::Group, &parse_map(bytes)?, &s.viewer.credentials())
}

pub(super) fn setgroups(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    emit!(out, "{}\n", if user_namespace(s)?.setgroups_allowed() { "allow" } else { "deny" });
    Ok(())
}

pub(super) fn write_setgroups(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    let ns = user_namespace(s)?;
    if !s.viewer.credentials().capable_in(&ns, crate::task::Capabilities::SYS_ADMIN) {
        return Err(Errno::EACCES);
    }
    match bytes.trim_ascii_end() {
        b"allow" => ns.set_setgroups(true),
        b"deny" => ns.set_setgroups(false),
        _ => Err(Errno::EINVAL),
    }
}
