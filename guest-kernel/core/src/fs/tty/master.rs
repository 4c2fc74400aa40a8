//! The master: a program's, or the kernel's own that it relays to the host.

use alloc::{sync::Arc, vec::Vec};

use super::{
    devpts, ioctl,
    pair::Pair,
    slave::Slave,
    termios::{Termios, WindowSize},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{File, FileRef, OpenFile, OpenFlags, anon::anonymous_path},
    io::{Sink, Source},
    sync::{Interruptible, PollEvents, PollTable, Queue, wait_event},
    task::ProcessGroup,
};

/// Bytes moved at a time.
const CHUNK: usize = 1024;

/// The master side. Dropping it hangs the slave up.
pub struct Master {
    pub(super) pair: Arc<Pair>,
}

/// Makes a pair of a container for the kernel, owned by `uid`: its master, and the slave open for reading and writing. The slave shows as
/// `/dev/pts/N`, where devpts has it.
pub fn open_pty_pair(container: u32, uid: u32, rows: u16, cols: u16) -> Result<(Arc<Master>, FileRef)> {
    let window = WindowSize { rows, cols, ..WindowSize::default() };
    let pair = devpts::allocate(container, Pair::termios_of_host(), window, uid)?;
    let master = Arc::new(Master { pair: pair.clone() });
    let slave = Slave::new(pair.clone(), None)?;
    let path = anonymous_path(pair.inode.clone(), &alloc::format!("/dev/pts/{}", pair.index));
    let flags = OpenFlags::RDWR | OpenFlags::LARGEFILE;
    Ok((master, OpenFile::new(pair.inode.clone(), Some(slave), path, flags)))
}

impl Master {
    /// A master for a program, with its slave locked until it says otherwise.
    pub(super) fn open(container: u32, uid: u32) -> Result<Arc<Master>> {
        let pair = devpts::allocate(container, Termios::STANDARD, WindowSize::default(), uid)?;
        pair.with(|s| s.locked = true);
        Ok(Arc::new(Master { pair }))
    }

    /// Takes what the terminal is to show; does not wait.
    pub fn read(&self, out: &mut [u8]) -> usize {
        self.pair.take_output(out)
    }

    /// Types `bytes`; says how many there was room for.
    pub fn write(&self, bytes: &[u8]) -> usize {
        self.pair.type_in(bytes)
    }

    /// IN: there is output to show; OUT: there is room to type; HUP: no slave is open any more.
    pub fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        self.pair.poll_master(table)
    }

    /// The window has another size now: the foreground gets SIGWINCH.
    pub fn resize(&self, rows: u16, cols: u16) {
        self.pair.resize(WindowSize { rows, cols, ..WindowSize::default() });
    }

    /// Nobody is at the terminal any more: SIGHUP, and the end for writers, and for readers after what was typed.
    pub fn hang_up(&self) {
        self.pair.hang_up(true);
    }

    /// Makes it the controlling terminal of `group`'s session, with `group` in the foreground.
    pub fn attach(&self, group: &Arc<ProcessGroup>) {
        self.pair.attach(group);
    }

    /// The slave's number in `/dev/pts`.
    pub fn index(&self) -> u32 {
        self.pair.index
    }

    /// Whether every slave was closed after one had been open.
    fn other_side_closed(&self) -> bool {
        self.pair.with(|s| s.slave_seen && s.slaves == 0)
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.pair.hang_up(false);
        devpts::release(&self.pair);
    }
}

impl File for Master {
    fn read(&self, file: &OpenFile, task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        let mut buf = [0u8; CHUNK];
        let mut done = 0;
        while sink.remaining() > 0 {
            let mut want = sink.remaining().min(CHUNK);
            let closed = self.other_side_closed();
            if done == 0
                && let Some(first) = self.pair.take_packet()
            {
                sink.put(&[first.bits()])?;
                done = 1;
                if !first.is_empty() || want == 1 {
                    break;
                }
                want -= 1;
            }
            let n = self.pair.take_output(buf.get_mut(..want).unwrap_or_default());
            sink.put(buf.get(..n).unwrap_or_default())?;
            done += n;
            if n > 0 {
                continue;
            }
            if done > 0 {
                break;
            }
            if closed {
                return Err(Errno::EIO);
            }
            if file.nonblocking() {
                return Err(Errno::EAGAIN);
            }
            let ready =
                || self.pair.poll_master(None).intersects(PollEvents::IN | PollEvents::HUP).then_some(());
            wait_event(task, &self.pair.master_queue, Interruptible::Yes, None, ready)?;
        }
        Ok(done)
    }

    fn write(&self, file: &OpenFile, task: &TaskRef, source: &mut Source<'_>) -> Result {
        let mut buf = [0u8; CHUNK];
        let mut done = 0;
        while source.remaining() > 0 {
            // Only the master's writers fill the room; if another one was faster, the rest is typed below.
            let room = self.pair.type_room();
            if room == 0 {
                if file.nonblocking() {
                    return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
                }
                if let Err(e) = self.wait_for_room(task) {
                    return if done > 0 { Ok(done) } else { Err(e) };
                }
                continue;
            }
            let n = source.remaining().min(CHUNK).min(room);
            let chunk = buf.get_mut(..n).unwrap_or_default();
            if let Err(e) = source.take(chunk) {
                return if done > 0 { Ok(done) } else { Err(e) };
            }
            let mut rest: &[u8] = chunk;
            loop {
                let taken = self.pair.type_in(rest);
                done += taken;
                rest = rest.get(taken..).unwrap_or_default();
                if rest.is_empty() {
                    break;
                }
                match self.wait_for_room(task) {
                    Err(_) if done > 0 => return Ok(done),
                    outcome => outcome?,
                }
            }
        }
        Ok(done)
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        self.pair.poll_master(table)
    }

    fn async_queues(&self) -> Option<Vec<(Queue, PollEvents)>> {
        Some(alloc::vec![(self.pair.master_queue.clone(), PollEvents::READABLE)])
    }

    fn ioctl(&self, file: &OpenFile, task: &TaskRef, command: u32, arg: u64) -> Result {
        ioctl::master(&self.pair, file, task, command, arg)
    }
}

impl Master {
    fn wait_for_room(&self, task: &TaskRef) -> Result<()> {
        let room = || (self.pair.type_room() > 0).then_some(());
        Ok(wait_event(task, &self.pair.master_queue, Interruptible::Yes, None, room)?)
    }
}
