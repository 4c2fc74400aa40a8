//! The uts namespace: host and domain name (uts_namespaces(7)).

use alloc::{string::String, sync::Arc};

use ringfence_hal as hal;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{UserNamespace, next_id};
use crate::{
    errno::{Errno, Result},
    sync::SpinLock,
    syscall::{Ctx, Syscall, UserAddr, UserPtr},
    syscalls,
    task::{Capabilities, RELEASE, VERSION},
};

/// `__NEW_UTS_LEN`: bytes of a name.
const NAME_MAX: usize = 64;

/// Names of one world.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    /// `uname -n`.
    pub host: String,
    /// `uname`'s `domainname`: the NIS domain.
    pub domain: String,
}

/// A uts namespace.
pub struct UtsNamespace {
    id: u64,
    owner: Arc<UserNamespace>,
    names: SpinLock<Names>,
}

impl UtsNamespace {
    pub(super) fn initial(owner: &Arc<UserNamespace>) -> Arc<UtsNamespace> {
        let names = Names { host: String::from("ringfence"), domain: String::from("(none)") };
        Arc::new(UtsNamespace { id: 0xefff_fffe, owner: owner.clone(), names: SpinLock::new(names) })
    }

    /// A new one with the same names, owned by `owner`.
    pub fn duplicate(&self, owner: &Arc<UserNamespace>) -> Arc<UtsNamespace> {
        Arc::new(UtsNamespace { id: next_id(), owner: owner.clone(), names: SpinLock::new(self.names()) })
    }

    /// Inode number in `/proc/PID/ns`.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whose capabilities count.
    pub fn owner(&self) -> &Arc<UserNamespace> {
        &self.owner
    }

    /// The names now.
    pub fn names(&self) -> Names {
        self.names.lock().clone()
    }

    /// Sets the host name.
    pub fn set_host(&self, name: String) {
        let old = core::mem::replace(&mut self.names.lock().host, name);
        drop(old); // outside the lock
    }

    /// Sets the domain name.
    pub fn set_domain(&self, name: String) {
        let old = core::mem::replace(&mut self.names.lock().domain, name);
        drop(old); // outside the lock
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct UtsName {
    fields: [[u8; 65]; 6],
}

fn uname(ctx: &mut Ctx<'_>, out: UserPtr<UtsName>) -> Result {
    let names = ctx.task.namespaces().uts.names();
    let texts = ["Linux", &names.host, RELEASE, VERSION, "x86_64", &names.domain];
    let mut uts = UtsName { fields: [[0; 65]; 6] };
    for (field, text) in uts.fields.iter_mut().zip(texts) {
        for (to, from) in field.iter_mut().take(NAME_MAX).zip(text.bytes()) {
            *to = from;
        }
    }
    out.write(&uts)?;
    Ok(0)
}

/// The name a caller that may set it wants. `EPERM`, `EINVAL`.
fn new_name(ctx: &Ctx<'_>, name: UserAddr, len: usize) -> Result<String> {
    let uts = &ctx.task.namespaces().uts;
    if !ctx.task.credentials().capable_in(uts.owner(), Capabilities::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let mut buf = [0u8; NAME_MAX];
    let buf = buf.get_mut(..len).ok_or(Errno::EINVAL)?;
    hal::user::copy_in(buf, name.0)?;
    Ok(String::from_utf8_lossy(buf).into_owned())
}

fn sethostname(ctx: &mut Ctx<'_>, name: UserAddr, len: usize) -> Result {
    let name = new_name(ctx, name, len)?;
    ctx.task.namespaces().uts.set_host(name);
    Ok(0)
}

fn setdomainname(ctx: &mut Ctx<'_>, name: UserAddr, len: usize) -> Result {
    let name = new_name(ctx, name, len)?;
    ctx.task.namespaces().uts.set_domain(name);
    Ok(0)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    63 uname(buf: UserPtr<UtsName>) Full "";
    170 sethostname(name: UserAddr, len: usize) Full "";
    171 setdomainname(name: UserAddr, len: usize) Full "";
};
