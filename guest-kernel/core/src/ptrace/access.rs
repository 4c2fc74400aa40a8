//! Who may look into whom (ptrace(2), "Ptrace access mode checking"). Debian has no Yama by default; neither have we.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::{
    TaskRef,
    errno::{Errno, Result},
    task::{Capabilities, Credentials},
};

/// Whose ids of the caller count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    /// The real ones and the permitted capabilities: ptrace, `process_vm_readv`.
    Real,
    /// Those for files, and the effective capabilities: /proc.
    Filesystem,
}

/// Whether `me` may look into a process with credentials `it`.
fn allowed(me: &Credentials, it: &Credentials, mode: AccessMode, dumpable: bool) -> bool {
    if me.capable_in(&it.user_ns, Capabilities::SYS_PTRACE) {
        return true;
    }
    let (uid, gid, capabilities) = match mode {
        AccessMode::Real => (me.uid, me.gid, me.permitted),
        AccessMode::Filesystem => (me.fsuid, me.fsgid, me.effective),
    };
    let same = [it.uid, it.euid, it.suid] == [uid; 3] && [it.gid, it.egid, it.sgid] == [gid; 3];
    same && dumpable && Arc::ptr_eq(&me.user_ns, &it.user_ns) && capabilities.contains(it.permitted)
}

/// Whether `viewer` may look into (and so change) `target`.
///
/// # Errors
/// EPERM.
pub fn check_access(viewer: &TaskRef, target: &TaskRef, mode: AccessMode) -> Result<()> {
    if Arc::ptr_eq(viewer.process(), target.process()) {
        return Ok(());
    }
    let dumpable = target.process().dumpable.load(Ordering::Relaxed);
    let ok = allowed(&viewer.credentials(), &target.credentials(), mode, dumpable);
    if ok { Ok(()) } else { Err(Errno::EPERM) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn the_same_user_without_more_rights_or_the_capability() {
        let user = Credentials::user(1000, 1000, Vec::new());
        let root = Credentials::root();
        let ok = |me: &Credentials, it: &Credentials| allowed(me, it, AccessMode::Real, true);
        assert!(ok(&user, &user) && ok(&root, &user) && ok(&root, &root));
        assert!(!ok(&user, &root));
        assert!(!allowed(&user, &user, AccessMode::Real, false), "not dumpable");
        assert!(allowed(&root, &user, AccessMode::Real, false));
        let setuid = Credentials { euid: 0, suid: 0, fsuid: 0, ..user.clone() };
        assert!(!ok(&user, &setuid), "a set-user-ID program");
        assert!(!ok(&user, &Credentials::user(1000, 5, Vec::new())), "another group");
        let stronger = Credentials { permitted: Capabilities::NET_RAW, ..user.clone() };
        assert!(!ok(&user, &stronger), "a capability the caller lacks");
        assert!(ok(&stronger, &user));
        // The effective ids do not count for ptrace, those for files do for /proc.
        let effective = Credentials { euid: 7, fsuid: 1000, ..user.clone() };
        assert!(ok(&effective, &user));
        let fs = Credentials { fsuid: 7, ..user.clone() };
        assert!(ok(&fs, &user) && !allowed(&fs, &user, AccessMode::Filesystem, true));
    }
}
