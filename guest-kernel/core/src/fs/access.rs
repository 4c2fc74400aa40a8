//! Who asks, and whether they may: the classic owner/group/other rules with the capabilities that override
//! them (`path_resolution(7)`, `capabilities(7)`).

use bitflags::bitflags;

use super::types::{FileType, Metadata};
use crate::{
    errno::{Errno, Result},
    ns::UserNamespace,
    task::Credentials,
};

bitflags! {
    /// What is asked for: the bits of `access(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u32 {
        /// Execute a file, or search a directory.
        const EXEC = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
    }
}

/// Capability numbers that matter to files (`linux/capability.h`).
pub mod cap {
    /// Change owners.
    pub const CHOWN: u32 = 0;
    /// Ignore file permissions.
    pub const DAC_OVERRIDE: u32 = 1;
    /// Ignore read and search permissions.
    pub const DAC_READ_SEARCH: u32 = 2;
    /// Act as the owner.
    pub const FOWNER: u32 = 3;
    /// Keep set-id bits.
    pub const FSETID: u32 = 4;
    /// `chroot`.
    pub const SYS_CHROOT: u32 = 18;
    /// `mount` and much more.
    pub const SYS_ADMIN: u32 = 21;
    /// Exceed resource limits.
    pub const SYS_RESOURCE: u32 = 24;
    /// Make device nodes.
    pub const MKNOD: u32 = 27;
    /// Take leases on others' files.
    pub const LEASE: u32 = 28;
    /// Give files capabilities.
    pub const SETFCAP: u32 = 31;
}

/// The file-system identity of a caller, borrowed from its credentials.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// `fsuid`.
    pub uid: u32,
    /// `fsgid`.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
    /// Effective capabilities, one bit each.
    pub capabilities: u64,
    /// Where they count; `None` is the first user namespace.
    pub user_ns: Option<&'a UserNamespace>,
}

impl Subject<'static> {
    /// The kernel itself, and root with everything.
    pub const ROOT: Subject<'static> =
        Subject { uid: 0, gid: 0, groups: &[], capabilities: u64::MAX, user_ns: None };
}

impl<'a> Subject<'a> {
    /// Who `credentials` make a caller to the file system.
    pub fn of(credentials: &'a Credentials) -> Subject<'a> {
        Subject {
            uid: credentials.fsuid,
            gid: credentials.fsgid,
            groups: &credentials.groups,
            capabilities: credentials.effective.bits(),
            user_ns: (!credentials.user_ns.is_initial()).then_some(&credentials.user_ns),
        }
    }
}

impl Subject<'_> {
    /// Whether the caller has capability number `cap` over the machine.
    pub fn capable(&self, cap: u32) -> bool {
        self.capable_here(cap) && self.user_ns.is_none()
    }

    /// Whether it has it over what its own user namespace owns.
    pub fn capable_here(&self, cap: u32) -> bool {
        self.capabilities & (1u64 << (cap & 63)) != 0
    }

    /// Whether it has it over a file of these ids, which both have to mean something in its user namespace.
    pub fn capable_over(&self, cap: u32, uid: u32, gid: u32) -> bool {
        self.capable_here(cap) && self.user_ns.is_none_or(|ns| ns.maps_both(uid, gid))
    }

    /// The ids as the caller's user namespace shows them.
    pub fn shown(&self, uid: u32, gid: u32) -> (u32, u32) {
        self.user_ns.map_or((uid, gid), |ns| (ns.show_uid(uid), ns.show_gid(gid)))
    }

    /// Whether the caller is in `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether the caller may act as the owner of a file of `uid`.
    pub fn owns(&self, uid: u32) -> bool {
        self.uid == uid || self.capable_over(cap::FOWNER, uid, self.gid)
    }
}

/// The generic permission check. `EACCES` if `want` is not granted.
pub fn check(subject: &Subject<'_>, m: &Metadata, want: Access) -> Result<()> {
    check_mode(subject, m.kind, m.mode, m.uid, m.gid, want)
}

/// As [`check`], from the parts.
pub fn check_mode(
    subject: &Subject<'_>,
    kind: FileType,
    mode: u32,
    uid: u32,
    gid: u32,
    want: Access,
) -> Result<()> {
    let granted = if subject.uid == uid {
        mode >> 6
    } else if subject.in_group(gid) {
        mode >> 3
    } else {
        mode
    };
    if want.bits() & !granted & 7 == 0 {
        return Ok(());
    }
    let directory = kind == FileType::Directory;
    if subject.capable_over(cap::DAC_OVERRIDE, uid, gid)
        && (directory || !want.contains(Access::EXEC) || mode & 0o111 != 0)
    {
        return Ok(());
    }
    let read_only = want == Access::READ || (directory && !want.contains(Access::WRITE));
    if read_only && subject.capable_over(cap::DAC_READ_SEARCH, uid, gid) {
        return Ok(());
    }
    Err(Errno::EACCES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32, gid: u32) -> Subject<'static> {
        Subject { uid, gid, groups: &[], capabilities: 0, user_ns: None }
    }

    fn ask(s: Subject<'_>, kind: FileType, mode: u32, want: Access) -> bool {
        check_mode(&s, kind, mode, 1000, 100, want).is_ok()
    }

    #[test]
    fn the_first_matching_class_decides() {
        let f = FileType::Regular;
        assert!(ask(user(1000, 5), f, 0o600, Access::READ | Access::WRITE));
        assert!(!ask(user(1000, 100), f, 0o077, Access::READ), "the owner does not get the group's bits");
        assert!(ask(user(5, 100), f, 0o040, Access::READ));
        assert!(!ask(user(5, 5), f, 0o660, Access::READ));
    }

    #[test]
    fn root_reads_all_but_executes_only_what_someone_may() {
        let f = FileType::Regular;
        assert!(ask(Subject::ROOT, f, 0, Access::READ | Access::WRITE));
        assert!(!ask(Subject::ROOT, f, 0o600, Access::EXEC));
        assert!(ask(Subject::ROOT, f, 0o001, Access::EXEC));
        assert!(ask(Subject::ROOT, FileType::Directory, 0, Access::EXEC));
    }
}
