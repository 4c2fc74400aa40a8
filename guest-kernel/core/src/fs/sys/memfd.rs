//! memfd_create: files without a name, on a tmpfs of their own.

use alloc::sync::Arc;

use super::{Caller, open_files_limit};
use crate::{
    errno::{Errno, Result},
    fs::{
        Dentry, Mount, OpenFile, OpenFlags, Path, Superblock,
        inode::InodeRef,
        tmpfs::{Tmpfs, TmpfsOptions, UNLIMITED},
    },
    sync::Mutex,
    syscall::{Ctx, Syscall, UserStr},
    syscalls,
};

const MFD_CLOEXEC: u32 = 1;
const MFD_ALLOW_SEALING: u32 = 2;
const MFD_HUGETLB: u32 = 4;
const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 16;

/// `MFD_NAME_MAX_LEN`, with the NUL: a file name less `memfd:`.
const NAME_MAX: usize = 250;

/// The tmpfs of memfds and its mount, which nobody can walk to.
struct Home {
    fs: Arc<Tmpfs>,
    mount: Arc<Mount>,
}

static HOME: Mutex<Option<Home>> = Mutex::new(None);

fn home() -> Result<(Arc<Tmpfs>, Arc<Mount>)> {
    let mut home = HOME.lock();
    if home.is_none() {
        let fs = Tmpfs::new(&TmpfsOptions { size: UNLIMITED, inodes: UNLIMITED, ..TmpfsOptions::default() })?;
        let mount = Mount::internal(Superblock::new(fs.clone()));
        *home = Some(Home { fs, mount });
    }
    home.as_ref().map(|h| (h.fs.clone(), h.mount.clone())).ok_or(Errno::ENOMEM)
}

fn memfd_create(ctx: &mut Ctx<'_>, name: UserStr, flags: u32) -> Result {
    if flags & MFD_HUGETLB != 0 {
        // As a Linux without hugetlbfs.
        return Err(Errno::ENOSYS);
    }
    if flags & !(MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC) != 0
        || flags & (MFD_EXEC | MFD_NOEXEC_SEAL) == MFD_EXEC | MFD_NOEXEC_SEAL
    {
        return Err(Errno::EINVAL);
    }
    let mut label = b"/memfd:".to_vec();
    label.extend(name.read(NAME_MAX, Errno::EINVAL)?);
    let caller = Caller::new(ctx)?;
    let subject = caller.subject();
    let (fs, mount) = home()?;
    let sealing = flags & (MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL) != 0;
    let mode = if flags & MFD_NOEXEC_SEAL != 0 { 0o666 } else { 0o777 };
    let file = fs.unnamed_file(mode, subject.uid, subject.gid, sealing)?;
    if flags & MFD_NOEXEC_SEAL != 0 {
        file.seal_mode();
    }
    let inode: InodeRef = file;
    inode.open(OpenFlags::RDWR, Some(ctx.task))?;
    let dentry = Dentry::detached(&label, inode.clone());
    dentry.mark_deleted();
    let flags_of_file = OpenFlags::RDWR | OpenFlags::LARGEFILE;
    let file = OpenFile::new(inode, None, Path::new(mount, dentry), flags_of_file);
    let fd = ctx.task.files()?.install(file, flags & MFD_CLOEXEC != 0, open_files_limit(ctx.task))?;
    Ok(fd as usize)
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    319 memfd_create(name: UserStr, flags: u32) Partial "no huge pages: MFD_HUGETLB is ENOSYS, as without hugetlbfs";
};
