//! Who a task is: user and group ids, supplementary groups, capabilities (credentials(7), capabilities(7)).

use alloc::{sync::Arc, vec::Vec};

use crate::ns::{UserNamespace, user::IdKind};

pub use capabilities::Capabilities;

mod capabilities {
    #![allow(missing_docs)] // the names of the manual page
    bitflags::bitflags! {
        /// A set of capabilities, by the bit numbers of `linux/capability.h`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
        pub struct Capabilities: u64 {
            const CHOWN = 1 << 0;
            const DAC_OVERRIDE = 1 << 1;
            const DAC_READ_SEARCH = 1 << 2;
            const FOWNER = 1 << 3;
            const FSETID = 1 << 4;
            const KILL = 1 << 5;
            const SETGID = 1 << 6;
            const SETUID = 1 << 7;
            const SETPCAP = 1 << 8;
            const LINUX_IMMUTABLE = 1 << 9;
            const NET_BIND_SERVICE = 1 << 10;
            const NET_BROADCAST = 1 << 11;
            const NET_ADMIN = 1 << 12;
            const NET_RAW = 1 << 13;
            const IPC_LOCK = 1 << 14;
            const IPC_OWNER = 1 << 15;
            const SYS_MODULE = 1 << 16;
            const SYS_RAWIO = 1 << 17;
            const SYS_CHROOT = 1 << 18;
            const SYS_PTRACE = 1 << 19;
            const SYS_PACCT = 1 << 20;
            const SYS_ADMIN = 1 << 21;
            const SYS_BOOT = 1 << 22;
            const SYS_NICE = 1 << 23;
            const SYS_RESOURCE = 1 << 24;
            const SYS_TIME = 1 << 25;
            const SYS_TTY_CONFIG = 1 << 26;
            const MKNOD = 1 << 27;
            const LEASE = 1 << 28;
            const AUDIT_WRITE = 1 << 29;
            const AUDIT_CONTROL = 1 << 30;
            const SETFCAP = 1 << 31;
            const MAC_OVERRIDE = 1 << 32;
            const MAC_ADMIN = 1 << 33;
            const SYSLOG = 1 << 34;
            const WAKE_ALARM = 1 << 35;
            const BLOCK_SUSPEND = 1 << 36;
            const AUDIT_READ = 1 << 37;
            const PERFMON = 1 << 38;
            const BPF = 1 << 39;
            const CHECKPOINT_RESTORE = 1 << 40;
        }
    }
}

/// The last capability's number (`/proc/sys/kernel/cap_last_cap`).
pub const LAST_CAPABILITY: u32 = 40;

/// The bits of `securebits` (capabilities(7)); each is followed by the one that locks it.
pub mod securebits {
    /// User 0 is not special.
    pub const NOROOT: u32 = 1 << 0;
    /// Changes of user ids leave capabilities alone.
    pub const NO_SETUID_FIXUP: u32 = 1 << 2;
    /// The permitted set survives the loss of user 0; cleared by execve.
    pub const KEEP_CAPS: u32 = 1 << 4;
    /// Nothing is added to the ambient set.
    pub const NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
    /// All that lock.
    pub const LOCKS: u32 = 0xaa;
    /// All.
    pub const ALL: u32 = 0xff;
}

use securebits::{KEEP_CAPS, NO_SETUID_FIXUP};

/// Who a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names of credentials(7)
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub euid: u32,
    pub egid: u32,
    pub suid: u32,
    pub sgid: u32,
    pub fsuid: u32,
    pub fsgid: u32,
    pub groups: Vec<u32>,
    pub permitted: Capabilities,
    pub effective: Capabilities,
    pub inheritable: Capabilities,
    pub bounding: Capabilities,
    pub ambient: Capabilities,
    pub securebits: u32,
    /// Where its capabilities count, and whose numbers its system calls speak of. The ids above are the kernel's.
    pub user_ns: Arc<UserNamespace>,
}

impl Credentials {
    /// User 0 with every capability.
    pub fn root() -> Self {
        Credentials {
            permitted: Capabilities::all(),
            effective: Capabilities::all(),
            ..Self::user(0, 0, Vec::new())
        }
    }

    /// An ordinary user without capabilities.
    pub fn user(uid: u32, gid: u32, groups: Vec<u32>) -> Self {
        Credentials {
            uid,
            gid,
            euid: uid,
            egid: gid,
            suid: uid,
            sgid: gid,
            fsuid: uid,
            fsgid: gid,
            groups,
            permitted: Capabilities::empty(),
            effective: Capabilities::empty(),
            inheritable: Capabilities::empty(),
            bounding: Capabilities::all(),
            ambient: Capabilities::empty(),
            securebits: 0,
            user_ns: UserNamespace::initial().clone(),
        }
    }

    /// Whether it holds an effective capability over the machine: in the first user namespace.
    #[inline]
    pub fn capable(&self, c: Capabilities) -> bool {
        self.effective.contains(c) && self.user_ns.is_initial()
    }

    /// Whether it has a capability over what `ns` owns.
    pub fn capable_in(&self, ns: &UserNamespace, c: Capabilities) -> bool {
        ns.grants(self, c)
    }

    /// Whether it has a capability over what its own user namespace owns.
    #[inline]
    pub fn capable_here(&self, c: Capabilities) -> bool {
        self.effective.contains(c)
    }

    /// The same identity in `ns`, with every capability there (`set_cred_user_ns`).
    pub fn in_user_namespace(&self, ns: Arc<UserNamespace>) -> Credentials {
        Credentials {
            securebits: 0,
            inheritable: Capabilities::empty(),
            permitted: Capabilities::all(),
            effective: Capabilities::all(),
            bounding: Capabilities::all(),
            ambient: Capabilities::empty(),
            user_ns: ns,
            ..self.clone()
        }
    }

    /// The kernel's id of user 0 of its user namespace, if that is mapped.
    pub fn root_uid(&self) -> Option<u32> {
        self.user_ns.to_kernel(IdKind::User, 0)
    }

    /// Whether `gid` is its effective group or one of the supplementary ones.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// The capability changes a change of the file system's user id brings: those that matter to files.
    pub fn fix_capabilities_after_setfsuid(&mut self, old: &Credentials) {
        const OF_FILES: Capabilities = Capabilities::CHOWN
            .union(Capabilities::MKNOD)
            .union(Capabilities::DAC_OVERRIDE)
            .union(Capabilities::DAC_READ_SEARCH)
            .union(Capabilities::FOWNER)
            .union(Capabilities::FSETID)
            .union(Capabilities::LINUX_IMMUTABLE)
            .union(Capabilities::MAC_OVERRIDE);
        if self.securebits & NO_SETUID_FIXUP != 0 {
            return;
        }
        let Some(root) = self.root_uid() else { return };
        if old.fsuid == root && self.fsuid != root {
            self.effective -= OF_FILES;
        }
        if old.fsuid != root && self.fsuid == root {
            self.effective |= self.permitted & OF_FILES;
        }
    }

    /// The capability changes a change of user ids brings (capabilities(7), "Effect of user ID changes").
    pub fn fix_capabilities_after_setuid(&mut self, old: &Credentials) {
        if self.securebits & NO_SETUID_FIXUP != 0 {
            return;
        }
        let Some(root) = self.root_uid() else { return };
        let had_root = old.uid == root || old.euid == root || old.suid == root;
        let has_root = self.uid == root || self.euid == root || self.suid == root;
        if had_root && !has_root {
            if self.securebits & KEEP_CAPS == 0 {
                self.permitted = Capabilities::empty();
            }
            self.effective = Capabilities::empty();
            self.ambient = Capabilities::empty();
        }
        if old.euid == root && self.euid != root {
            self.effective = Capabilities::empty();
        }
        if old.euid != root && self.euid == root {
            self.effective = self.permitted;
        }
    }
}
