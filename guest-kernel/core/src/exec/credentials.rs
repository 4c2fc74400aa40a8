//! What `execve` does to credentials: set-user-ID, set-group-ID, file capabilities and user 0 (capabilities(7),
//! "Transformation of capabilities during execve()").
//!
//! The order is Linux's (`cap_bprm_creds_from_file`): the ids, what the file permits, what root is given, then the
//! restraints (`no_new_privs`, a tracer), and the ambient set last, which only a program that brings nothing keeps.

use crate::{
    errno::{Errno, Result},
    fs::file_caps::FileCapabilities,
    task::{
        Capabilities, Credentials,
        credentials::securebits::{KEEP_CAPS, NOROOT},
    },
};

/// What of a program's file matters for credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramFile {
    /// Permission bits, with `S_ISUID` and `S_ISGID`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `security.capability`. None on a `nosuid` mount.
    pub capabilities: Option<FileCapabilities>,
    /// It is on a `nosuid` mount.
    pub nosuid: bool,
}

/// What keeps a program from more rights than its caller has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Restraint {
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// It is traced by somebody who may not trace what it would become.
    pub traced: bool,
}

/// The credentials of the new program, and whether it runs with more rights than its caller (`AT_SECURE`).
/// `EPERM` if the file wants capabilities at once that the bounding set denies.
pub fn after_exec(
    old: &Credentials,
    file: &ProgramFile,
    restraint: Restraint,
) -> Result<(Credentials, bool)> {
    let mut new = old.clone();
    // Ids that mean nothing in the caller's user namespace are not taken on.
    let set_ids = !file.nosuid && !restraint.no_new_privs && old.user_ns.maps_both(file.uid, file.gid);
    let root_uid = new.root_uid();
    let is_root = |uid: u32| Some(uid) == root_uid;
    if set_ids && file.mode & 0o4000 != 0 {
        new.euid = file.uid;
    }
    // Without the group's execute bit, S_ISGID means mandatory locking.
    if set_ids && file.mode & 0o2010 == 0o2010 {
        new.egid = file.gid;
    }

    new.permitted = Capabilities::empty();
    let mut effective = false;
    if let Some(given) = &file.capabilities {
        new.permitted = (given.permitted & old.bounding) | (given.inheritable & old.inheritable);
        effective = given.effective;
        if effective && !new.permitted.contains(given.permitted) {
            return Err(Errno::EPERM);
        }
    }
    // A set-user-ID-root program with capabilities of its own gets those alone.
    let own = file.capabilities.is_some() && !is_root(new.uid) && is_root(new.euid);
    if new.securebits & NOROOT == 0 && !own {
        if is_root(new.uid) || is_root(new.euid) {
            new.permitted = old.inheritable | old.bounding;
        }
        effective |= is_root(new.euid);
    }

    let changed = new.euid != old.uid || new.egid != old.gid;
    let gained = !old.permitted.contains(new.permitted);
    if (changed || gained) && (restraint.no_new_privs || restraint.traced) {
        if restraint.no_new_privs || !old.capable_here(Capabilities::SETUID) {
            (new.euid, new.egid) = (new.uid, new.gid);
        }
        new.permitted &= old.permitted;
    }
    (new.suid, new.fsuid) = (new.euid, new.euid);
    (new.sgid, new.fsgid) = (new.egid, new.egid);

    if file.capabilities.is_some() || changed {
        new.ambient = Capabilities::empty();
    }
    new.permitted |= new.ambient;
    new.effective = if effective { new.permitted } else { new.ambient };
    new.securebits &= !KEEP_CAPS;
    let grew = effective || !new.ambient.contains(new.permitted);
    let secure = changed || (!is_root(new.uid) && grew);
    Ok((new, secure))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const FREE: Restraint = Restraint { no_new_privs: false, traced: false };

    fn file(mode: u32, uid: u32, gid: u32) -> ProgramFile {
        ProgramFile { mode, uid, gid, capabilities: None, nosuid: false }
    }

    #[test]
    fn set_user_id_gives_the_owner_and_its_capabilities() {
        let user = Credentials::user(1000, 1000, Vec::new());
        let (new, secure) = after_exec(&user, &file(0o4755, 0, 0), FREE).unwrap();
        assert!(secure);
        assert_eq!((new.uid, new.euid, new.suid, new.fsuid), (1000, 0, 0, 0));
        assert_eq!(new.effective, Capabilities::all());
        // Not with no_new_privs or on a nosuid mount, and not under a tracer.
        let nosuid = ProgramFile { nosuid: true, ..file(0o4755, 0, 0) };
        assert_eq!(after_exec(&user, &nosuid, FREE), Ok((user.clone(), false)));
        for (no_new_privs, traced) in [(true, false), (false, true)] {
            let restraint = Restraint { no_new_privs, traced };
            let (new, secure) = after_exec(&user, &file(0o4755, 0, 0), restraint).unwrap();
            assert_eq!((new.euid, new.permitted, secure), (1000, Capabilities::empty(), traced));
        }
    }

    #[test]
    fn set_group_id_needs_the_execute_bit() {
        let user = Credentials::user(1000, 1000, Vec::new());
        assert_eq!(after_exec(&user, &file(0o2755, 0, 5), FREE).unwrap().0.egid, 5);
        assert_eq!(after_exec(&user, &file(0o2745, 0, 5), FREE).unwrap().0.egid, 1000);
    }

    #[test]
    fn root_keeps_everything_and_others_keep_only_ambient() {
        let root = Credentials::root();
        let (new, secure) = after_exec(&root, &file(0o755, 0, 0), FREE).unwrap();
        assert!(!secure && new == root);
        let mut user = Credentials::user(1000, 1000, Vec::new());
        user.permitted = Capabilities::NET_RAW | Capabilities::CHOWN;
        user.ambient = Capabilities::CHOWN;
        let (new, secure) = after_exec(&user, &file(0o755, 0, 0), FREE).unwrap();
        assert_eq!(new.effective, Capabilities::CHOWN);
        assert!(!secure);
    }

    #[test]
    fn root_that_gave_up_rights_gets_none_back_with_no_new_privs() {
        let mut root = Credentials::root();
        root.permitted = Capabilities::CHOWN;
        let strict = Restraint { no_new_privs: true, traced: false };
        assert_eq!(after_exec(&root, &file(0o755, 0, 0), strict).unwrap().0.permitted, Capabilities::CHOWN);
        assert_eq!(after_exec(&root, &file(0o755, 0, 0), FREE).unwrap().0.permitted, Capabilities::all());
    }
}
