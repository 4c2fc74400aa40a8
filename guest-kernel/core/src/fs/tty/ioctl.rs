//! The ioctls of terminals (tty_ioctl(4)).

use alloc::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use super::{
    pair::{Packet, Pair},
    slave::Slave,
    termios::{TERMIOS_SIZE, Termios, WindowSize},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{OpenFile, OpenFlags},
    signal::Signal,
    sync::{Interruptible, wait_event},
    syscall::UserPtr,
    task::limits::Resource,
};

#[allow(missing_docs)]
mod command {
    pub const TCGETS: u32 = 0x5401;
    pub const TCSETS: u32 = 0x5402;
    pub const TCSETSW: u32 = 0x5403;
    pub const TCSETSF: u32 = 0x5404;
    pub const TCSBRK: u32 = 0x5409;
    pub const TCXONC: u32 = 0x540a;
    pub const TCFLSH: u32 = 0x540b;
    pub const TIOCEXCL: u32 = 0x540c;
    pub const TIOCNXCL: u32 = 0x540d;
    pub const TIOCSCTTY: u32 = 0x540e;
    pub const TIOCGPGRP: u32 = 0x540f;
    pub const TIOCSPGRP: u32 = 0x5410;
    pub const TIOCOUTQ: u32 = 0x5411;
    pub const TIOCSTI: u32 = 0x5412;
    pub const TIOCGWINSZ: u32 = 0x5413;
    pub const TIOCSWINSZ: u32 = 0x5414;
    pub const FIONREAD: u32 = 0x541b;
    pub const TIOCPKT: u32 = 0x5420;
    pub const TIOCNOTTY: u32 = 0x5422;
    pub const TIOCSETD: u32 = 0x5423;
    pub const TIOCGETD: u32 = 0x5424;
    pub const TCSBRKP: u32 = 0x5425;
    pub const TIOCGSID: u32 = 0x5429;
    pub const TCGETS2: u32 = 0x802c_542a;
    pub const TCSETS2: u32 = 0x402c_542b;
    pub const TCSETSW2: u32 = 0x402c_542c;
    pub const TCSETSF2: u32 = 0x402c_542d;
    pub const TIOCGPTN: u32 = 0x8004_5430;
    pub const TIOCSPTLCK: u32 = 0x4004_5431;
    pub const TIOCGDEV: u32 = 0x8004_5432;
    pub const TIOCSIG: u32 = 0x4004_5436;
    pub const TIOCGPKT: u32 = 0x8004_5438;
    pub const TIOCGPTLCK: u32 = 0x8004_5439;
    pub const TIOCGEXCL: u32 = 0x8004_5440;
    pub const TIOCGPTPEER: u32 = 0x5441;
}
use command::*;

/// What both sides answer in the same way: all of it is about the slave.
fn common(pair: &Arc<Pair>, task: &TaskRef, command: u32, arg: u64) -> Result {
    let int = UserPtr::<i32>::new(arg);
    match command {
        TCGETS => {
            let t = pair.with(|s| *s.discipline.termios());
            let bytes = t.as_bytes().get(..TERMIOS_SIZE).unwrap_or_default();
            ringfence_hal::user::copy_out(arg, bytes)?;
        }
        TCGETS2 => UserPtr::new(arg).write(&pair.with(|s| *s.discipline.termios()))?,
        TCSETS | TCSETSW | TCSETSF => set_termios(pair, task, command - TCSETS, arg, TERMIOS_SIZE)?,
        TCSETS2 | TCSETSW2 | TCSETSF2 => {
            set_termios(pair, task, command - TCSETS2, arg, size_of::<Termios>())?;
        }
        TIOCGWINSZ => UserPtr::new(arg).write(&pair.with(|s| s.window))?,
        TIOCSWINSZ => pair.resize(UserPtr::<WindowSize>::new(arg).read()?),
        TIOCGETD => int.write(&0)?,
        TIOCSETD if int.read()? == 0 => {}
        TIOCSETD => return Err(Errno::EINVAL),
        TIOCEXCL => pair.with(|s| s.exclusive = true),
        TIOCNXCL => pair.with(|s| s.exclusive = false),
        TIOCGEXCL => int.write(&pair.with(|s| s.exclusive).into())?,
        TIOCGDEV => UserPtr::new(arg).write(&(pair.inode.device().encode() as u32))?,
        TIOCSPGRP => pair.set_foreground(task, int)?,
        // Typing for others: refused, as Linux does since 6.2 unless told otherwise.
        TIOCSTI => return Err(Errno::EIO),
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

/// `how`: 0 at once, 1 after output was shown, 2 that, and forgetting input.
fn set_termios(pair: &Arc<Pair>, task: &TaskRef, how: u32, arg: u64, size: usize) -> Result<()> {
    pair.check_foreground(task, Signal::TTOU)?;
    let mut new = pair.with(|s| *s.discipline.termios());
    let mut bytes = [0u8; size_of::<Termios>()];
    bytes.copy_from_slice(new.as_bytes());
    ringfence_hal::user::copy_in(bytes.get_mut(..size).unwrap_or_default(), arg)?;
    if let Ok(t) = Termios::read_from_bytes(&bytes) {
        new = t;
    }
    if how >= 1 {
        drain(pair, task)?;
    }
    pair.with(|s| {
        if how == 2 {
            s.discipline.flush_input();
            s.tell(Packet::FLUSH_READ, Packet::empty());
        }
        s.set_termios(new);
    });
    pair.wake_both();
    Ok(())
}

/// Waits until the terminal has shown all output. As Linux's pseudo-terminals do, this counts as shown what the
/// master can read; held output is waited for.
fn drain(pair: &Arc<Pair>, task: &TaskRef) -> Result<()> {
    let free = || pair.with(|s| s.hung_up || !s.discipline.is_stopped()).then_some(());
    Ok(wait_event(task, &pair.slave_queue, Interruptible::Yes, None, free)?)
}

pub(super) fn slave(slave: &Slave, task: &TaskRef, command: u32, arg: u64) -> Result {
    let pair = &slave.pair;
    if pair.with(|s| s.is_hung_up(slave.hangups)) {
        return Err(if command == TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
    }
    let int = UserPtr::<i32>::new(arg);
    match command {
        TIOCSCTTY => pair.make_controlling(task, arg == 1)?,
        TIOCNOTTY => pair.give_up(task)?,
        TIOCGPGRP | TIOCGSID if !pair.controls(task) => return Err(Errno::ENOTTY),
        TIOCGPGRP => int.write(&task.pids().show(pair.foreground_pgid()))?,
        TIOCGSID => int.write(&task.pids().show(task.process().group().session.sid))?,
        FIONREAD => int.write(&(pair.with(|s| s.discipline.readable()) as i32))?,
        TIOCOUTQ => int.write(&0)?,
        TCSBRK | TCSBRKP => {
            pair.check_foreground(task, Signal::TTOU)?;
            drain(pair, task)?;
        }
        TCXONC => {
            pair.check_foreground(task, Signal::TTOU)?;
            match arg {
                0 => pair.with(|s| s.stop(true)),
                1 => pair.with(|s| s.stop(false)),
                2 | 3 => {} // asks the other side to stop typing: nobody there understands
                _ => return Err(Errno::EINVAL),
            }
            pair.wake_both();
        }
        TCFLSH => {
            pair.check_foreground(task, Signal::TTOU)?;
            flush(pair, arg)?;
        }
        TIOCGPTPEER => return Err(Errno::EIO),
        _ => return common(pair, task, command, arg),
    }
    Ok(0)
}

/// `TCFLSH` of a slave: what was typed (0), what is on its way to the master (1), both (2).
fn flush(pair: &Arc<Pair>, what: u64) -> Result<()> {
    if what > 2 {
        return Err(Errno::EINVAL);
    }
    pair.with(|s| {
        if what != 1 {
            s.discipline.flush_input();
            s.tell(Packet::FLUSH_READ, Packet::empty());
        }
        if what != 0 {
            s.discipline.flush_output(false);
            s.tell(Packet::FLUSH_WRITE, Packet::empty());
        }
    });
    pair.wake_both();
    Ok(())
}

pub(super) fn master(pair: &Arc<Pair>, file: &OpenFile, task: &TaskRef, command: u32, arg: u64) -> Result {
    let int = UserPtr::<i32>::new(arg);
    match command {
        TIOCGPTN => int.write(&(pair.index as i32))?,
        TIOCSPTLCK => {
            let lock = int.read()? != 0;
            pair.with(|s| s.locked = lock);
        }
        TIOCGPTLCK => int.write(&pair.with(|s| s.locked).into())?,
        TIOCGPTPEER => return peer(pair, file, task, arg as u32),
        TIOCGPGRP => int.write(&task.pids().show(pair.foreground_pgid()))?,
        TIOCGSID => {
            let session = pair.with(|s| s.session.upgrade()).ok_or(Errno::ENOTTY)?;
            int.write(&task.pids().show(session.sid))?;
        }
        TIOCSIG => {
            let signal = Signal::new(arg as i32).ok_or(Errno::EINVAL)?;
            if ![Signal::INT, Signal::QUIT, Signal::TSTP].contains(&signal) {
                return Err(Errno::EINVAL);
            }
            pair.signal_foreground(signal);
        }
        FIONREAD => int.write(&(pair.with(|s| s.discipline.pending_output()) as i32))?,
        TIOCOUTQ => int.write(&0)?,
        TIOCPKT => {
            let on = int.read()? != 0;
            pair.with(|s| s.packet = on.then(|| s.packet.unwrap_or_default()));
        }
        TIOCGPKT => int.write(&pair.with(|s| s.packet.is_some()).into())?,
        // What was typed has come to the slave already: only output is there to forget.
        TCFLSH if arg > 2 => return Err(Errno::EINVAL),
        TCFLSH => {
            pair.with(|s| {
                if arg != 1 {
                    s.discipline.flush_output(true)
                }
            });
            pair.wake_both();
        }
        TCSBRK | TCSBRKP | TIOCNOTTY | TIOCSCTTY => {}
        _ => return common(pair, task, command, arg),
    }
    Ok(0)
}

/// Opens the slave of a master, whatever path devpts is mounted on.
fn peer(pair: &Arc<Pair>, _file: &OpenFile, task: &TaskRef, flags: u32) -> Result {
    let flags = OpenFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let slave = Slave::new(pair.clone(), Some(task))?;
    let path =
        crate::fs::anon::anonymous_path(pair.inode.clone(), &alloc::format!("/dev/pts/{}", pair.index));
    let kept = flags & !(OpenFlags::CLOEXEC | OpenFlags::NOCTTY);
    let open = OpenFile::new(pair.inode.clone(), Some(slave), path, kept);
    let limit = task.process().limits.soft(Resource::OpenFiles);
    Ok(task.files()?.install(open, flags.contains(OpenFlags::CLOEXEC), limit)? as usize)
}
