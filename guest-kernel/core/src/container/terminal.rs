//! A process that was asked for on a pseudo-terminal whose master is relayed to the host.
//!
//! Two kernel tasks, one a direction. What the program writes goes through the line discipline to the host;
//! what the user types comes back, Ctrl-C as the byte 3, which the line discipline turns into a signal.

use alloc::{boxed::Box, sync::Arc};

use crate::{
    TaskRef,
    drivers::vsock::Stream,
    errno::Result,
    fs::{FileRef, tty::Master},
    io::Sink,
    sync::{Interruptible, PollEvents, PollTable, wait_event_any},
    task::{ProcessGroup, spawn_kernel_task},
};
use core::sync::atomic::{AtomicBool, Ordering};

/// Bytes moved at a time.
const CHUNK: usize = 4096;

/// The terminal of a process.
pub struct Terminal {
    master: Arc<Master>,
    stream: Arc<Stream>,
    /// The output task has sent everything it took.
    idle: AtomicBool,
    /// The process has ended: the tasks that relay end, too.
    closed: AtomicBool,
}

impl Terminal {
    /// Makes the pair, of a container and owned by `uid`, and starts relaying; answers the slave, open for reading and writing.
    pub fn start(
        (container, uid): (u32, u32),
        stream: Arc<Stream>,
        rows: u16,
        cols: u16,
    ) -> Result<(Arc<Terminal>, FileRef)> {
        let (master, slave) = crate::fs::tty::open_pty_pair(container, uid, rows, cols)?;
        let terminal = Arc::new(Terminal {
            master,
            stream: stream.clone(),
            idle: AtomicBool::new(true),
            closed: AtomicBool::new(false),
        });
        let (out, to_host) = (terminal.clone(), stream.clone());
        spawn_kernel_task(b"tty-out", Box::new(move |task| out.relay_output(task, &to_host)))?;
        let input = terminal.clone();
        spawn_kernel_task(b"tty-in", Box::new(move |task| input.relay_input(task, &stream)))?;
        Ok((terminal, slave))
    }

    /// Makes it the controlling terminal of `group`'s session, with `group` in the foreground.
    pub fn attach(&self, group: &Arc<ProcessGroup>) {
        self.master.attach(group);
    }

    /// The user's window changed.
    pub fn resize(&self, rows: u16, cols: u16) {
        self.master.resize(rows, cols);
    }

    /// Waits until what was written has gone to the host.
    pub fn drain(&self, task: &TaskRef) {
        let empty = || self.idle.load(Ordering::Acquire) && !self.master.poll(None).contains(PollEvents::IN);
        let mut table = PollTable::new(task.clone(), PollEvents::empty());
        self.master.poll(Some(&mut table));
        while !empty() {
            let soon = ringfence_hal::time::now() + 1_000_000;
            let _ = wait_event_any(task, Interruptible::No, Some(soon), || empty().then_some(()));
        }
    }

    /// Hangs up: nobody is at the terminal any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.stream.close();
        self.master.hang_up();
    }

    fn relay_output(&self, task: &TaskRef, stream: &Stream) {
        let mut table = PollTable::new(task.clone(), PollEvents::IN);
        self.master.poll(Some(&mut table));
        let mut buf = [0u8; CHUNK];
        loop {
            let ready = || self.master.poll(None).intersects(PollEvents::IN | PollEvents::HUP).then_some(());
            let _ = wait_event_any(task, Interruptible::No, None, ready); // nothing else ends it
            self.idle.store(false, Ordering::Release);
            let n = self.master.read(&mut buf);
            let sent = stream.write_all(task, buf.get(..n).unwrap_or_default());
            self.idle.store(true, Ordering::Release);
            if sent.is_err() {
                self.master.hang_up(); // the user's terminal is gone
                return;
            }
            if self.closed.load(Ordering::Acquire) {
                return;
            }
            if n == 0 && self.master.poll(None).contains(PollEvents::HUP) {
                // Nobody has the slave open now; somebody may again.
                crate::sched::sleep_ns(task, 10_000_000);
            }
        }
    }

    fn relay_input(&self, task: &TaskRef, stream: &Stream) {
        let mut table = PollTable::new(task.clone(), PollEvents::OUT);
        self.master.poll(Some(&mut table));
        let mut buf = [0u8; CHUNK];
        loop {
            let n = match stream.read(task, false, &mut Sink::kernel(&mut buf)) {
                Ok(n) if n > 0 => n,
                _ => return self.master.hang_up(),
            };
            let mut rest = buf.get(..n).unwrap_or_default();
            while !rest.is_empty() {
                let took = self.master.write(rest);
                rest = rest.get(took..).unwrap_or_default();
                if took == 0 {
                    let room = || self.master.poll(None).contains(PollEvents::OUT).then_some(());
                    let _ = wait_event_any(task, Interruptible::No, None, room);
                }
            }
        }
    }
}
