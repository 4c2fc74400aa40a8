//! Loading and starting programs.
//!
//! What Linux does: `execve` opens a file, finds out what it is (an ELF image, or a script that names its
//! interpreter), and replaces the memory, registers and some attributes of the process. Until the old memory is
//! gone the call can fail; after that point of no return, a failure can only kill the process.
//!
//! What we do: [`prepare`] builds the complete new image beside the old one, so everything that depends on
//! files, strings or memory has succeeded before anything is given up. The only wait after the decision is that
//! for the other threads of the process to end. `syscalls` then commits, which cannot fail.
//!
//! | file | idea |
//! |---|---|
//! | `script`, `elf` | parsers: of the `#!` line, of ELF headers. Pure; any bytes are an image or an error |
//! | `arguments` | the strings, their limits, and the layout of the initial stack |
//! | `load` | segments, interpreter, stack, auxiliary vector: bytes to address space |
//! | `credentials` | set-user-ID and capabilities |
//! | `vdso` | the shared object with the clock that every program gets |
//! | `syscalls` | `execve`, `execveat`, and the commit |
//!
//! Deviation: a program whose file is being written is not refused (ETXTBSY).

pub mod arguments;
pub mod credentials;
pub mod elf;
pub mod load;
pub mod script;
mod syscalls;
pub mod vdso;

use alloc::vec::Vec;

use arguments::Arguments;
use credentials::ProgramFile;
pub use credentials::Restraint;
use load::{Ids, LoadRequest, Loaded};
use script::{HEAD_LEN, Script};

use crate::{
    errno::{Errno, Result},
    fs::{
        Access, FileRef, FileType, MountFlags, OpenFile, OpenFlags, Path, Walk, WalkFlags,
        file_caps::FileCapabilities,
    },
    mm::{FileMapping, Limits},
    syscall::{self, Syscall},
    task::Credentials,
};

/// The system calls of this module.
pub const SYSCALLS: &[&[Syscall]] = &[syscalls::SYSCALLS];

/// Scripts whose interpreter is a script, and so on (Linux allows five rounds, then ELOOP).
const MAX_SCRIPTS: usize = 5;

/// What to run, and for whom.
pub struct Request<'a> {
    /// Resolves paths.
    pub walk: &'a Walk<'a>,
    /// Where relative paths of interpreters begin: the working directory.
    pub cwd: &'a Path,
    /// The program, opened by [`open`].
    pub program: FileRef,
    /// The path it was called by.
    pub path: &'a [u8],
    /// Its strings.
    pub arguments: Arguments,
    /// Who calls.
    pub credentials: &'a Credentials,
    /// What keeps it from more rights.
    pub restraint: Restraint,
    /// Resource limits.
    pub limits: Limits,
    /// Whether addresses are randomised.
    pub randomize: bool,
}

/// A program that is ready to run.
pub struct Program {
    /// Memory, entry and stack.
    pub image: Loaded,
    /// What the credentials become.
    pub credentials: Credentials,
    /// Whether it runs with more rights than its caller.
    pub secure: bool,
    /// The name for `/proc/PID/comm`: the last component of the path.
    pub name: Vec<u8>,
}

/// Opens a file to run it: `path` from `start`; with `empty`, an empty path is `start` itself.
///
/// # Errors
/// EACCES (no regular file, no execute permission, `noexec` mount), ETXTBSY (being written), and those of path resolution.
pub fn open(walk: &Walk<'_>, start: &Path, path: &[u8], flags: WalkFlags) -> Result<FileRef> {
    let place = walk.resolve(start, path, flags)?;
    let inode = place.inode()?.clone();
    match inode.kind() {
        FileType::Regular => {}
        FileType::Symlink => return Err(Errno::ELOOP),
        _ => return Err(Errno::EACCES),
    }
    if place.mount().flags().contains(MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    inode.permission(&walk.subject, Access::EXEC)?;
    let ops = inode.open(OpenFlags::empty(), walk.task)?;
    let file = OpenFile::new(inode, ops, place, OpenFlags::LARGEFILE);
    file.may_run()?;
    Ok(file)
}

/// Builds the image of a program, following `#!` lines.
///
/// # Errors
/// ENOEXEC (neither an image for this machine nor a script), ELOOP (too many scripts), ELIBBAD, E2BIG, ENOMEM, and
/// those of [`open`] for interpreters.
pub fn prepare(mut request: Request<'_>) -> Result<Program> {
    let mut program = request.program.clone();
    let mut name: Vec<u8> = request.path.to_vec();
    for _ in 0..=MAX_SCRIPTS {
        let mapping = mapping_of(&program)?;
        let mut head = [0; HEAD_LEN];
        let n = load::read_head(mapping.object.as_ref(), &mut head)?;
        let Some(script) = Script::parse(head.get(..n).unwrap_or_default())? else {
            return load_image(&request, &program, mapping);
        };
        let argv = [Some(script.interpreter), script.argument, Some(name.as_slice())];
        let argv: Vec<&[u8]> = argv.into_iter().flatten().collect();
        request.arguments.replace_first(&argv)?;
        program = open(request.walk, request.cwd, script.interpreter, WalkFlags::FOLLOW)?;
        name = script.interpreter.to_vec();
    }
    Err(Errno::ELOOP)
}

fn load_image(request: &Request<'_>, program: &FileRef, mapping: FileMapping) -> Result<Program> {
    program.run()?;
    let metadata = program.metadata();
    let nosuid = program.path().mount().flags().contains(MountFlags::NOSUID);
    let capabilities = match nosuid {
        true => None,
        false => FileCapabilities::of(&**program.inode(), &request.credentials.user_ns)?,
    };
    let (uid, gid) = (metadata.uid, metadata.gid);
    let file = ProgramFile { mode: metadata.full_mode(), uid, gid, capabilities, nosuid };
    let (credentials, secure) = credentials::after_exec(request.credentials, &file, request.restraint)?;
    let image = load::load(LoadRequest {
        program: mapping,
        open_interpreter: &mut |path| mapping_of(&open(request.walk, request.cwd, path, WalkFlags::FOLLOW)?),
        arguments: &request.arguments,
        path: request.path,
        ids: Ids {
            uid: credentials.user_ns.show_uid(credentials.uid),
            euid: credentials.user_ns.show_uid(credentials.euid),
            gid: credentials.user_ns.show_gid(credentials.gid),
            egid: credentials.user_ns.show_gid(credentials.egid),
            secure,
        },
        limits: request.limits,
        randomize: request.randomize,
        extra_auxv: rseq_auxv(),
    })?;
    let name = request.path.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec();
    Ok(Program { image, credentials, secure, name })
}

/// The pages of a program's file. What cannot be mapped cannot be run.
fn mapping_of(file: &FileRef) -> Result<FileMapping> {
    let object = file.mappable().map_err(|_| Errno::EACCES)?;
    Ok(FileMapping { object, file: Some(file.clone()), may_write: false, may_exec: true })
}

/// Size and alignment of the area of restartable sequences, where the system call exists.
fn rseq_auxv() -> &'static [(u64, u64)] {
    const RSEQ: usize = 334;
    const ENTRIES: [(u64, u64); 2] =
        [(arguments::at::RSEQ_FEATURE_SIZE, 28), (arguments::at::RSEQ_ALIGN, 32)];
    if syscall::table::TABLE.get(RSEQ).is_some_and(|entry| entry.is_some()) { &ENTRIES } else { &[] }
}

#[cfg(test)]
mod tests;
