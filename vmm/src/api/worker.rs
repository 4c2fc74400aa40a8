//! The server of a sandbox without a jail: a thread, because the main one runs the devices.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::server::{Server, Wanted};
use super::state::Event;
use crate::cli::Failure;
use crate::exit;

enum Notice {
    Event(Event),
    Over(u8, Option<String>),
}

/// The thread.
pub struct Worker {
    notices: Sender<Notice>,
    bell: OwnedFd,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts it.
    pub fn start(server: Server) -> Result<Worker, Failure> {
        let unable = |e: std::io::Error| Failure::setup(format!("cannot start a thread for the API: {e}"));
        let (notices, heard) = channel();
        let bell =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| unable(e.into()))?;
        let rings = bell.try_clone().map_err(unable)?;
        let main = move || serve(server, &heard, &rings);
        let thread = std::thread::Builder::new().name("api".into()).stack_size(256 << 10).spawn(main);
        Ok(Worker { notices, bell, thread: thread.map_err(unable)? })
    }

    /// Something has happened to the sandbox.
    pub fn event(&self, event: Event) {
        self.tell(Notice::Event(event));
    }

    /// It is over: waits until those who wait have been told.
    pub fn over(self, code: u8, message: Option<String>) {
        self.tell(Notice::Over(code, message));
        let _ = self.thread.join();
    }

    fn tell(&self, notice: Notice) {
        let _ = self.notices.send(notice);
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

fn serve(mut server: Server, heard: &Receiver<Notice>, bell: &OwnedFd) {
    loop {
        let timeout = server.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds =
            [PollFd::from_borrowed_fd(server.as_fd(), PollFlags::IN), PollFd::new(bell, PollFlags::IN)];
        let _ = poll(&mut fds, timeout.as_ref()); // an interruption is only another look
        let _ = rustix::io::read(bell, &mut [0u8; 8]);
        for notice in heard.try_iter() {
            match notice {
                Notice::Event(event) => server.event(event),
                Notice::Over(code, message) => return server.over(code, message),
            }
        }
        if let Some(Wanted::Kill) = server.process() {
            // SAFETY: takes no pointers. The kernel ends the machine, which is in this process.
            unsafe { libc::_exit(i32::from(exit::of_status(ringfence_protocol::ExitStatus::Signal(9)))) }
        }
    }
}
