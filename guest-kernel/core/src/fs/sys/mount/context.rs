//! fsopen, fspick, fsconfig, fsmount: a file system by way of a descriptor.
//!
//! The descriptor goes through phases, as on Linux:
//!
//! | phase | is left by | for |
//! |---|---|---|
//! | options of a new one | `FSCONFIG_CMD_CREATE` | to be mounted, or failed |
//! | to be mounted | `fsmount` | picked |
//! | options of one that is there | `FSCONFIG_CMD_RECONFIGURE` | picked, or failed |
//! | picked | the next `fsconfig` | options of one that is there |
//! | failed | | |
//!
//! What is asked for in another phase is `EBUSY`. Why something failed can be read from the descriptor, a message a
//! time.

use alloc::{collections::VecDeque, format, string::String, sync::Arc, vec::Vec};

use super::{
    ATTRIBUTES, Caller, access_times, check_may_make, check_may_mount, device_of, install_detached,
    plain_attributes, read_path, reconfigure,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{
        File, FileRef, FileSystem, Mount, MountNamespace, OpenFile, OpenFlags, WalkFlags, eventfd,
        filesystems::{self, Mounter, Parameter},
        inode::Superblock,
    },
    io::Sink,
    sync::Mutex,
    syscall::{Ctx, Fd, Syscall, UserStr},
    syscalls,
};

/// Bytes of a key, of a value, and of the name of a type.
const STRING_MAX: usize = 256;
const NAME_MAX: usize = 4096;
/// Bytes of all options.
const OPTIONS_MAX: usize = 4096;
/// Messages that are kept; older ones go.
const MESSAGES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    ToMount,
    Change,
    Picked,
    Failed,
}

struct State {
    phase: Phase,
    options: Vec<u8>,
    source: Option<Vec<u8>>,
    read_only: Option<bool>,
    superblock: Option<Arc<Superblock>>,
    messages: VecDeque<String>,
}

/// What is behind the descriptor.
struct FileSystemContext {
    kind: Vec<u8>,
    state: Mutex<State>,
}

impl State {
    fn complain(&mut self, message: String) -> Errno {
        if self.messages.len() == MESSAGES {
            self.messages.pop_front();
        }
        self.messages.push_back(format!("e {message}\n"));
        Errno::EINVAL
    }

    /// What it was is done: the next option begins anew. As on Linux, that one of the flags was given is not forgotten, but
    /// its value is.
    fn clean(&mut self) {
        self.phase = Phase::Picked;
        self.options = Vec::new();
        self.source = None;
        self.read_only = self.read_only.map(|_| false);
    }
}

impl File for FileSystemContext {
    fn read(&self, _file: &OpenFile, _task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        let mut state = self.state.lock();
        let message = state.messages.front().cloned().ok_or(Errno::ENODATA)?;
        if message.len() > sink.remaining() {
            return Err(Errno::EMSGSIZE);
        }
        state.messages.pop_front();
        sink.put(message.as_bytes())?;
        Ok(message.len())
    }
}

impl FileSystemContext {
    fn new(kind: &[u8], phase: Phase, superblock: Option<Arc<Superblock>>) -> FileSystemContext {
        let state = State {
            phase,
            options: Vec::new(),
            source: None,
            read_only: None,
            superblock,
            messages: VecDeque::new(),
        };
        FileSystemContext { kind: kind.to_vec(), state: Mutex::new(state) }
    }

    fn install(self, task: &TaskRef, close_on_exec: bool) -> Result {
        let flags = if close_on_exec { OpenFlags::CLOEXEC } else { OpenFlags::empty() };
        eventfd::install(task, Arc::new(self), "anon_inode:[fscontext]", OpenFlags::RDWR, flags)
    }

    fn of(task: &TaskRef, fd: Fd) -> Result<Arc<FileSystemContext>> {
        task.files()?.get(fd.0)?.downcast().ok_or(Errno::EINVAL)
    }

    /// One option. `EBUSY` in a phase that has none.
    fn set(&self, key: &[u8], value: &Value) -> Result<()> {
        let mut state = self.state.lock();
        if state.phase == Phase::Picked {
            state.phase = Phase::Change;
        }
        if !matches!(state.phase, Phase::New | Phase::Change) {
            return Err(Errno::EBUSY);
        }
        match key {
            b"ro" => state.read_only = Some(true),
            b"rw" => state.read_only = Some(false),
            // Nothing is written back here, and nobody locks mandatorily.
            b"sync" | b"async" | b"dirsync" | b"lazytime" | b"nolazytime" | b"mand" | b"nomand" => {}
            _ => return self.set_own(&mut state, key, value),
        }
        Ok(())
    }

    fn set_own(&self, state: &mut State, key: &[u8], value: &Value) -> Result<()> {
        let (kind, name) = (String::from_utf8_lossy(&self.kind), String::from_utf8_lossy(key));
        if key == b"source" {
            return match value {
                Value::String(_) if state.source.is_some() => Err(state.complain("Multiple sources".into())),
                Value::String(text) => {
                    state.source = Some(text.clone());
                    Ok(())
                }
                _ => Err(state.complain("Non-string source".into())),
            };
        }
        let text: Option<&[u8]> = match value {
            Value::Flag => None,
            Value::String(text) => Some(text),
            Value::Other => return Err(state.complain(format!("{kind}: Bad value for '{name}'"))),
        };
        match filesystems::check_parameter(&self.kind, key, text) {
            Parameter::Fine => {}
            Parameter::Ignored => return Ok(()),
            Parameter::Unknown => return Err(state.complain(format!("{kind}: Unknown parameter '{name}'"))),
            Parameter::Wrong => return Err(state.complain(format!("{kind}: Bad value for '{name}'"))),
        }
        let len = state.options.len() + key.len() + text.map_or(0, |text| text.len() + 1) + 1;
        if len > OPTIONS_MAX || key.contains(&b',') || text.is_some_and(|text| text.contains(&b',')) {
            return Err(state.complain(format!("VFS: Option '{name}' contained comma, or is too long")));
        }
        if !state.options.is_empty() {
            state.options.push(b',');
        }
        state.options.extend_from_slice(key);
        if let Some(text) = text {
            state.options.push(b'=');
            state.options.extend_from_slice(text);
        }
        Ok(())
    }

    fn make(&self, caller: &Caller<'_>, state: &State) -> Result<Arc<dyn FileSystem>> {
        if !filesystems::needs_device(&self.kind) {
            return filesystems::create(&self.kind, &state.options, &Mounter::of(caller.task));
        }
        let device = device_of(caller, state.source.as_deref().ok_or(Errno::EINVAL)?)?;
        filesystems::create_on(&device, &self.kind, &state.options, state.read_only == Some(true))
    }

    fn create(&self, caller: &Caller<'_>) -> Result<()> {
        let mut state = self.state.lock();
        if state.phase == Phase::Picked {
            state.phase = Phase::Change;
        }
        if state.phase != Phase::New {
            return Err(Errno::EBUSY);
        }
        check_may_make(caller, &self.kind)?;
        let made = self.make(caller, &state).and_then(|fs| {
            let superblock = Superblock::owned(fs, &caller.credentials.user_ns);
            state.read_only.map_or(Ok(()), |read_only| superblock.set_read_only(read_only))?;
            Ok(superblock)
        });
        state.phase = if made.is_ok() { Phase::ToMount } else { Phase::Failed };
        state.superblock = Some(made?);
        Ok(())
    }

    fn change(&self, caller: &Caller<'_>) -> Result<()> {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Change | Phase::Picked) {
            return Err(Errno::EBUSY);
        }
        let superblock = state.superblock.clone().ok_or(Errno::EINVAL)?;
        match reconfigure(caller, &superblock, &state.options, state.read_only) {
            Ok(()) => state.clean(),
            Err(e) => {
                state.phase = Phase::Failed;
                return Err(e);
            }
        }
        Ok(())
    }
}

const FSOPEN_CLOEXEC: u32 = 1;

fn fsopen(ctx: &mut Ctx<'_>, kind: UserStr, flags: u32) -> Result {
    let caller = Caller::new(ctx)?;
    check_may_mount(&caller)?;
    if flags & !FSOPEN_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let kind = kind.read(NAME_MAX, Errno::EINVAL)?;
    if !filesystems::exists(&kind) {
        return Err(Errno::ENODEV);
    }
    FileSystemContext::new(&kind, Phase::New, None).install(ctx.task, flags & FSOPEN_CLOEXEC != 0)
}

const FSPICK_CLOEXEC: u32 = 1;
const FSPICK_SYMLINK_NOFOLLOW: u32 = 2;
const FSPICK_NO_AUTOMOUNT: u32 = 4;
const FSPICK_EMPTY_PATH: u32 = 8;

fn fspick(ctx: &mut Ctx<'_>, dirfd: Fd, path: UserStr, flags: u32) -> Result {
    let caller = Caller::new(ctx)?;
    check_may_mount(&caller)?;
    if flags & !(FSPICK_CLOEXEC | FSPICK_SYMLINK_NOFOLLOW | FSPICK_NO_AUTOMOUNT | FSPICK_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut walk = WalkFlags::empty();
    walk.set(WalkFlags::FOLLOW, flags & FSPICK_SYMLINK_NOFOLLOW == 0);
    walk.set(WalkFlags::EMPTY, flags & FSPICK_EMPTY_PATH != 0);
    let place = caller.resolve(dirfd, &read_path(path)?, walk)?;
    if !place.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    let superblock = place.mount().superblock().clone();
    let kind = superblock.fs().name().as_bytes();
    let close_on_exec = flags & FSPICK_CLOEXEC != 0;
    FileSystemContext::new(kind, Phase::Change, Some(superblock)).install(ctx.task, close_on_exec)
}

/// The commands of `fsconfig`.
const SET_FLAG: u32 = 0;
const SET_STRING: u32 = 1;
const SET_BINARY: u32 = 2;
const SET_PATH: u32 = 3;
const SET_PATH_EMPTY: u32 = 4;
const SET_FD: u32 = 5;
const CMD_CREATE: u32 = 6;
const CMD_RECONFIGURE: u32 = 7;

const BINARY_MAX: i32 = 1 << 20;

/// The value of an option: no file system here takes bytes, paths or descriptors.
enum Value {
    Flag,
    String(Vec<u8>),
    Other,
}

fn fsconfig(ctx: &mut Ctx<'_>, fd: Fd, command: u32, key: UserStr, value: UserStr, aux: i32) -> Result {
    if fd.0 < 0 {
        return Err(Errno::EINVAL);
    }
    let (key_given, value_given) = (!key.is_null(), !value.is_null());
    let well_formed = match command {
        SET_FLAG => key_given && !value_given && aux == 0,
        SET_STRING => key_given && value_given && aux == 0,
        SET_BINARY => key_given && value_given && (1..=BINARY_MAX).contains(&aux),
        SET_PATH | SET_PATH_EMPTY => key_given && value_given && (aux == Fd::CWD.0 || aux >= 0),
        SET_FD => key_given && !value_given && aux >= 0,
        CMD_CREATE | CMD_RECONFIGURE => !key_given && !value_given && aux == 0,
        _ => return Err(Errno::EOPNOTSUPP),
    };
    if !well_formed {
        return Err(Errno::EINVAL);
    }
    let caller = Caller::new(ctx)?;
    let context = FileSystemContext::of(ctx.task, fd)?;
    if matches!(command, SET_BINARY | SET_PATH | SET_PATH_EMPTY | SET_FD)
        && filesystems::is_legacy(&context.kind)
    {
        return Err(Errno::EOPNOTSUPP);
    }
    let key = if key_given { key.read(STRING_MAX, Errno::EINVAL)? } else { Vec::new() };
    let value = match command {
        CMD_CREATE => return context.create(&caller).map(|()| 0),
        CMD_RECONFIGURE => return context.change(&caller).map(|()| 0),
        SET_FLAG => Value::Flag,
        SET_STRING => Value::String(value.read(STRING_MAX, Errno::EINVAL)?),
        SET_BINARY => {
            let mut bytes = [0u8; 256];
            let mut at = 0;
            while at < aux as u64 {
                let n = (aux as u64 - at).min(bytes.len() as u64) as usize;
                let part = bytes.get_mut(..n).unwrap_or_default();
                ringfence_hal::user::copy_in(part, value.0.wrapping_add(at))?;
                at += n as u64;
            }
            Value::Other
        }
        SET_FD => {
            let _open: FileRef = ctx.task.files()?.get(aux)?;
            Value::Other
        }
        _ => {
            let path = read_path(value)?;
            if path.is_empty() && command == SET_PATH {
                return Err(Errno::ENOENT);
            }
            Value::Other
        }
    };
    context.set(&key, &value).map(|()| 0)
}

const FSMOUNT_CLOEXEC: u32 = 1;

fn fsmount(ctx: &mut Ctx<'_>, fd: Fd, flags: u32, attributes: u32) -> Result {
    let caller = Caller::new(ctx)?;
    check_may_mount(&caller)?;
    let attributes = u64::from(attributes);
    if flags & !FSMOUNT_CLOEXEC != 0 || attributes & !ATTRIBUTES != 0 {
        return Err(Errno::EINVAL);
    }
    let mount_flags = plain_attributes(attributes) | access_times(attributes)?;
    let context = FileSystemContext::of(ctx.task, fd)?;
    let mut state = context.state.lock();
    let superblock = state.superblock.clone().ok_or(Errno::EINVAL)?;
    if state.phase != Phase::ToMount {
        return Err(Errno::EBUSY);
    }
    let root = superblock.root().clone();
    let source = state.source.as_deref().unwrap_or(b"none");
    let mount = Mount::new(superblock, root, mount_flags, source);
    let namespace = MountNamespace::detached(alloc::vec![mount], caller.fs.namespace().owner());
    state.clean();
    drop(state);
    install_detached(&caller, namespace, flags & FSMOUNT_CLOEXEC != 0)
}

pub(in crate::fs::sys) const SYSCALLS: &[Syscall] = syscalls! {
    430 fsopen(kind: UserStr, flags: u32) Full "";
    431 fsconfig(fd: Fd, command: u32, key: UserStr, value: UserStr, aux: i32) Full "";
    432 fsmount(fd: Fd, flags: u32, attributes: u32) Full "";
    433 fspick(dirfd: Fd, path: UserStr, flags: u32) Full "";
};
