//! What `execve` does to credentials: set-user-ID, set-group-ID and capabilities (capabilities(7),
//! "Transformation of capabilities during execve()").

use crate::task::{Capabilities, Credentials};

/// `SECBIT_NOROOT`: user 0 is not special.
const NOROOT: u32 = 1 << 0;
/// `SECBIT_KEEP_CAPS`: cleared by execve.
const KEEP_CAPS: u32 = 1 << 4;

/// What of a program's file matters for credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOwner {
    /// Permission bits, with `S_ISUID` and `S_ISGID`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The credentials of the new program, and whether it runs with more rights than its caller (`AT_SECURE`).
/// `privileged` is false on `nosuid` mounts and with `no_new_privs`.
pub fn after_exec(old: &Credentials, file: FileOwner, privileged: bool) -> (Credentials, bool) {
    let mut new = old.clone();
    // Ids that mean nothing in the caller's user namespace are not taken on.
    let privileged = privileged && old.user_ns.maps_both(file.uid, file.gid);
    let root_uid = new.root_uid();
    let is_root = |uid: u32| Some(uid) == root_uid;
    if privileged && file.mode & 0o4000 != 0 {
        new.euid = file.uid;
    }
    // Without the group's execute bit, S_ISGID means mandatory locking.
    if privileged && file.mode & 0o2010 == 0o2010 {
        new.egid = file.gid;
    }
    let changed = new.euid != old.euid || new.egid != old.egid;
    let root = new.securebits & NOROOT == 0;
    if changed {
        new.ambient = Capabilities::empty();
    }
    if root && (is_root(new.uid) || is_root(new.euid)) {
        new.permitted = new.inheritable | new.bounding;
        new.effective = if is_root(new.euid) { new.permitted } else { new.ambient };
    } else {
        new.permitted = new.ambient;
        new.effective = new.ambient;
    }
    new.suid = new.euid;
    new.sgid = new.egid;
    new.fsuid = new.euid;
    new.fsgid = new.egid;
    new.securebits &= !KEEP_CAPS;
    let gained = !is_root(new.uid) && new.permitted != new.ambient;
    let secure = new.uid != new.euid || new.gid != new.egid || gained;
    (new, secure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn file(mode: u32, uid: u32, gid: u32) -> FileOwner {
        FileOwner { mode, uid, gid }
    }

    #[test]
    fn set_user_id_gives_the_owner_and_its_capabilities() {
        let user = Credentials::user(1000, 1000, Vec::new());
        let (new, secure) = after_exec(&user, file(0o4755, 0, 0), true);
        assert!(secure);
        assert_eq!((new.uid, new.euid, new.suid, new.fsuid), (1000, 0, 0, 0));
        assert_eq!(new.effective, Capabilities::all());
        // Not with no_new_privs or on a nosuid mount.
        let (new, secure) = after_exec(&user, file(0o4755, 0, 0), false);
        assert!(!secure && new == user);
    }

    #[test]
    fn set_group_id_needs_the_execute_bit() {
        let user = Credentials::user(1000, 1000, Vec::new());
        assert_eq!(after_exec(&user, file(0o2755, 0, 5), true).0.egid, 5);
        assert_eq!(after_exec(&user, file(0o2745, 0, 5), true).0.egid, 1000);
    }

    #[test]
    fn root_keeps_everything_and_others_keep_only_ambient() {
        let root = Credentials::root();
        let (new, secure) = after_exec(&root, file(0o755, 0, 0), true);
        assert!(!secure && new == root);
        let mut user = Credentials::user(1000, 1000, Vec::new());
        user.permitted = Capabilities::NET_RAW | Capabilities::CHOWN;
        user.ambient = Capabilities::CHOWN;
        let (new, secure) = after_exec(&user, file(0o755, 0, 0), true);
        assert_eq!(new.effective, Capabilities::CHOWN);
        assert!(!secure);
    }
}
