//! procfs: the kernel's state as files (proc(5)).
//!
//! The tree is tables of [`Entry`]s: one for the machine, one for each process and thread, with the functions
//! that write their text. Nothing is stored: an inode is made at each lookup and only says whom it is about.
//! A file's text is made when it is read from the beginning (which is what a program does that keeps
//! `/proc/stat` open and rewinds it), and kept by the open file, so that short reads fit together.
//!
//! | module | holds |
//! |---|---|
//! | `inode` | inodes of entries, process lists, descriptor lists |
//! | `file` | the open file with its snapshot |
//! | `who` | whom an inode is about, and who may look |
//! | `process` | `/proc/PID` and its tables; `status`, `maps`, `mounts` write the larger ones |
//! | `namespaces` | `/proc/PID/ns` and id maps |
//! | `mem` | `/proc/PID/mem` |
//! | `machine`, `sysctl` | `/proc`, `/proc/sys` |
//! | `sysfs` | the little of sysfs there is: a table, too |
//!
//! Formats are those of Linux 6.1.

#[cfg(test)]
mod doc_tests;
mod file;
mod inode;
mod machine;
mod maps;
mod mem;
mod mounts;
mod namespaces;
mod process;
mod status;
mod sysctl;
mod sysfs;
#[macro_use]
mod text;
mod who;

use alloc::sync::Arc;

pub use inode::process_of_directory;
use text::Text;
use who::{Scope, Who};

use super::{FileSystem, InodeRef, Path, StatFs, inode::alloc_anonymous_dev};
use crate::{TaskRef, errno::Result, ns::PidNamespace};

/// Writes a file's text.
type Show = fn(&Scope<'_>, &mut Text) -> Result<()>;
/// Takes what is written to a file.
type Store = fn(&Scope<'_>, &[u8]) -> Result<()>;

/// Where a link leads.
enum Destination {
    Text(Text),
    Place(Path),
}

/// What an entry is.
enum Node {
    Dir(&'static [Entry]),
    File(Show, Option<Store>),
    Link(fn(&Scope<'_>) -> Result<Destination>),
    /// `mem`: the memory of a process.
    Memory,
    /// `task`: the threads of a process.
    Threads,
    /// `fd`: descriptors as links.
    Descriptors,
    /// `fdinfo`: descriptors as files.
    DescriptorInfos,
    /// Disks by name: as directories, or as links to those, from so deep.
    Disks(Option<&'static str>),
    /// The same by number.
    DiskNumbers(&'static str),
}

/// A name in a directory.
struct Entry {
    name: &'static str,
    mode: u32,
    /// Only for those who could trace the process.
    private: bool,
    node: Node,
}

const fn dir(name: &'static str, entries: &'static [Entry]) -> Entry {
    Entry { name, mode: 0o555, private: false, node: Node::Dir(entries) }
}

const fn file(name: &'static str, show: Show) -> Entry {
    Entry { name, mode: 0o444, private: false, node: Node::File(show, None) }
}

const fn writable(name: &'static str, show: Show, store: Store) -> Entry {
    Entry { name, mode: 0o644, private: false, node: Node::File(show, Some(store)) }
}

/// A file of a process that tells more than others should know.
const fn private(name: &'static str, mode: u32, show: Show) -> Entry {
    Entry { name, mode, private: true, node: Node::File(show, None) }
}

const fn link(name: &'static str, to: fn(&Scope<'_>) -> Result<Destination>) -> Entry {
    Entry { name, mode: 0o777, private: false, node: Node::Link(to) }
}

const fn private_link(name: &'static str, to: fn(&Scope<'_>) -> Result<Destination>) -> Entry {
    Entry { name, mode: 0o777, private: true, node: Node::Link(to) }
}

/// One mounted tree: its device number, and whose numbers it shows.
struct Instance {
    dev: u64,
    ns: Arc<PidNamespace>,
}

/// The file system: an instance for each mount, which shows the processes of the pid namespace it was mounted in.
pub struct Procfs(Arc<Instance>);

/// Makes the types known: proc, and sysfs.
pub fn register() {
    super::filesystems::register("proc", |_options, mounter| {
        let ns = mounter.pid_ns.clone();
        Ok(Arc::new(Procfs(Arc::new(Instance { dev: alloc_anonymous_dev(), ns }))))
    });
    sysfs::register();
}

/// Whether `viewer` could trace `target` (`ptrace_may_access` for reading). `EACCES`.
pub fn check_access(viewer: &TaskRef, target: &TaskRef) -> Result<()> {
    let target = who::Target { process: target.process().clone(), task: Some(target.clone()), thread: true };
    target.check_access(viewer)
}

impl FileSystem for Procfs {
    fn name(&self) -> &'static str {
        "proc"
    }

    fn dev(&self) -> u64 {
        self.0.dev
    }

    fn root(&self) -> InodeRef {
        inode::root(self.0.clone())
    }

    fn statfs(&self) -> StatFs {
        StatFs { magic: 0x9fa0, block_size: 4096, name_max: 255, ..StatFs::default() }
    }
}
