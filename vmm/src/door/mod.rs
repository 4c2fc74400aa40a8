//! The VMM's end of the link to its supervisor, on which the supervisor passes on what clients of the API ask for.
//!
//! A unix stream socket that comes with the order. Either side sends JSON documents, one a line: the supervisor
//! [`Question`]s with a number of its choice, the VMM one [`Answer`] to each with that number, in any order: that to a guest's
//! `wait` comes when the process has ended. Most questions are the guest's to answer ([`Ask::Guest`]).
//!
//! Standard streams are descriptors, sent as SCM_RIGHTS with the line that needs them: three for input, output and error, two
//! for what a terminal is typed on and shown on (`streams` is `{"tty": {"rows": …, "cols": …}}` then), none for
//! `/dev/null`. They are connected to the process byte for byte as those of `run` are, and closed when it has ended.
//!
//! The VMM makes no sockets and accepts no connections: who may ask, and how much at a time, is the supervisor's to decide
//! (`api`). It trusts nothing it hears here more than it has to: the guest can have taken the VMM over.
//!
//! | file | holds |
//! |---|---|
//! | here | what supervisor and guest say to each other |
//! | `client.rs` | the connection: lines and descriptors |
//! | `streams.rs` | descriptors become vsock ports |
//! | `counters.rs` | what the devices have counted |
//! | `controls.rs` | what of them can be changed |

mod client;
mod controls;
mod counters;
mod streams;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSet, Events};
use ringfence_devices::vsock::Vsock;
use ringfence_protocol::{GuestStats, INIT_PROCESS, MAX_FRAME, Process, Reply, Request, ToGuest};
use rustix::event::PollFlags;
use serde::{Deserialize, Serialize};

use crate::control::{Control, ControlError};
use client::{Client, Interest};
pub use controls::{BalloonSize, Controls};
pub use counters::{Counters, Devices};
use streams::Ports;

/// Questions that are not answered yet.
pub const MAX_PENDING: usize = 4096;
/// Longest line, either way: a frame of the guest and what is around it.
pub const MAX_LINE: usize = MAX_FRAME + 4096;

/// What the supervisor sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Given back in the answer.
    pub id: u64,
    /// What is asked for.
    pub ask: Ask,
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Something about a container. Answered by [`Told::Guest`].
    Guest(Box<Request>),
    /// The guest kernel's counters. Answered by [`Told::Stats`].
    Stats,
    /// The VMM's counters. Answered by [`Told::Counters`].
    Counters,
    /// End the sandbox, whatever its programs are at. There is no answer but the end.
    End,
    /// Let vCPUs and devices stand still. Answered by [`Told::Done`] when they do.
    Pause,
    /// Let them go on. Answered by [`Told::Done`].
    Resume,
    /// How large is the balloon? Answered by [`Told::Balloon`].
    Balloon,
    /// The host wants so many bytes of the guest's memory. Answered by [`Told::Done`] when the guest knows, or is going to.
    SetBalloon(u64),
    /// Limits of a disk, the first being 0. Answered by [`Told::Done`].
    SetDisk {
        /// Which.
        disk: usize,
        /// Most bytes a second.
        bandwidth: Option<u64>,
        /// Most requests a second.
        ops: Option<u64>,
    },
    /// Most bytes a second from the random device. Answered by [`Told::Done`].
    SetRandom(u64),
    /// The guest kernel's log is from this level on. Answered by [`Told::Done`].
    LogLevel(u8),
}

/// What it gets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The question's.
    pub id: u64,
    /// The answer.
    pub told: Told,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Told {
    /// The guest's.
    Guest(Reply),
    /// The guest kernel's counters.
    Stats(Box<GuestStats>),
    /// The VMM's.
    Counters(Counters),
    /// Of the balloon.
    Balloon(BalloonSize),
    /// It is done.
    Done,
}

impl Told {
    /// It cannot be done.
    pub fn failed(errno: libc::c_int, message: impl Into<String>) -> Told {
        Told::Guest(Reply::Failed { errno: errno as u32, message: message.into() })
    }
}

/// What has to be done with the guest's answer.
struct Pending {
    /// The supervisor's number for the question; `None`: we have asked ourselves.
    asked: Option<u64>,
    then: Then,
}

enum Then {
    Nothing,
    /// These belong to the first process of the container, if it could be made.
    Created(String, Ports),
    /// The first process of the container began; the end of it is waited for.
    Started(String),
    /// These belong to the new process, if it could be started.
    Executed(String, Ports),
    /// The process has ended: its ports are closed.
    Ended(String, u32),
    /// The container's first process will never run.
    Removed(String),
}

/// The server.
pub struct Door {
    client: Client,
    vsock: Arc<Mutex<Vsock>>,
    devices: Devices,
    controls: Controls,
    pending: BTreeMap<u64, Pending>,
    next_request: u64,
    next_port: u32,
    /// Ports of processes that live, by container and number.
    ports: BTreeMap<(String, u32), Ports>,
    /// Who waits for the guest's counters.
    stats: VecDeque<u64>,
    /// The sandbox is to be ended.
    pub ends: bool,
    /// It is to stand still, or to go on: the number of the question.
    pub wish: Option<(Wish, u64)>,
}

/// What only who has the machine can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
}

impl Door {
    /// A server of `link` for the sandbox with these devices.
    pub fn new(
        link: UnixStream,
        vsock: Arc<Mutex<Vsock>>,
        devices: Devices,
        controls: Controls,
    ) -> io::Result<Door> {
        link.set_nonblocking(true)?;
        Ok(Door {
            client: Client::new(link),
            vsock,
            devices,
            controls,
            pending: BTreeMap::new(),
            next_request: 1,
            next_port: crate::sandbox::FIRST_FREE_PORT,
            ports: BTreeMap::new(),
            stats: VecDeque::new(),
            ends: false,
            wish: None,
        })
    }

    /// Begins to listen.
    pub fn watch(&self, ops: &mut EventOps) {
        ops.add(Events::new(&self.client, EventSet::IN)).expect("a socket can be polled");
    }

    /// An event on our descriptor.
    pub fn process(&mut self, events: Events, control: &mut Control) -> Result<(), ControlError> {
        for client::Asked { question, descriptors } in self.client.process(events.event_set()) {
            match question.ask {
                Ask::Guest(request) => self.ask(question.id, *request, descriptors, control)?,
                Ask::Counters => {
                    let balloon = self.controls.balloon();
                    self.answer(question.id, Told::Counters(self.devices.counters(balloon)));
                }
                Ask::Balloon => self.answer(question.id, Told::Balloon(self.controls.balloon())),
                Ask::SetBalloon(bytes) => {
                    self.controls.set_balloon(bytes);
                    self.tell(question.id, &ToGuest::Balloon, control)?;
                }
                Ask::SetDisk { disk, bandwidth, ops } => {
                    let told = match self.controls.set_disk(disk, bandwidth, ops) {
                        true => Told::Done,
                        false => Told::failed(libc::ESRCH, "there is no such disk"),
                    };
                    self.answer(question.id, told);
                }
                Ask::SetRandom(bandwidth) => {
                    self.controls.set_random(bandwidth);
                    self.answer(question.id, Told::Done);
                }
                Ask::LogLevel(level) => self.tell(question.id, &ToGuest::LogLevel { level }, control)?,
                Ask::End => self.ends = true,
                // One at a time: the supervisor waits for the answer.
                Ask::Pause => self.wish = Some((Wish::Pause, question.id)),
                Ask::Resume => self.wish = Some((Wish::Resume, question.id)),
                Ask::Stats if self.stats.len() >= MAX_PENDING => {
                    self.answer(question.id, Told::failed(libc::EAGAIN, "too many wait for counters"));
                }
                Ask::Stats if control.send(&ToGuest::Stats)? => self.stats.push_back(question.id),
                Ask::Stats => {
                    self.answer(question.id, Told::failed(libc::EAGAIN, "the sandbox takes no question"));
                }
            }
        }
        Ok(())
    }

    /// Tells the guest something that it does not answer.
    fn tell(&mut self, id: u64, message: &ToGuest, control: &mut Control) -> Result<(), ControlError> {
        let told = match control.send(message)? {
            true => Told::Done,
            false => Told::failed(libc::EAGAIN, "the sandbox does not listen"),
        };
        self.answer(id, told);
        Ok(())
    }

    /// After events: waits for what there is to wait for.
    pub fn update(&mut self, ops: &mut EventOps) {
        match self.client.interest() {
            Some(Interest::In(set)) => drop(ops.modify(Events::new(&self.client, set))),
            Some(Interest::Nothing) => drop(ops.remove(Events::new(&self.client, EventSet::IN))),
            None => {}
        }
    }

    /// Counters of the guest have come.
    pub fn stats(&mut self, stats: &GuestStats) {
        for id in std::mem::take(&mut self.stats) {
            self.answer(id, Told::Stats(Box::new(stats.clone())));
        }
    }

    /// What is waited for, for poll(2).
    pub fn waits_for(&self) -> PollFlags {
        if self.client.has_output() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    }

    /// Whether the supervisor is gone.
    pub fn is_over(&self) -> bool {
        self.client.is_over()
    }

    /// Answers a question.
    pub fn answer(&mut self, id: u64, told: Told) {
        self.client.answer(&Answer { id, told });
    }

    /// An answer of the guest.
    pub fn reply(&mut self, id: u64, reply: Reply, control: &mut Control) -> Result<(), ControlError> {
        // A guest that makes numbers up talks to nobody.
        let Some(pending) = self.pending.remove(&id) else { return Ok(()) };
        let mut watch = None;
        match (pending.then, &reply) {
            (Then::Created(name, ports), Reply::Done) => {
                self.ports.insert((name, INIT_PROCESS), ports);
            }
            (Then::Executed(name, ports), Reply::Started { process, .. }) => {
                self.ports.insert((name.clone(), *process), ports);
                watch = Some((name, *process));
            }
            (Then::Created(_, ports) | Then::Executed(_, ports), _) => self.close(&ports),
            (Then::Started(name), Reply::Started { process, .. }) => watch = Some((name, *process)),
            (Then::Ended(name, process), _) => self.forget(name, process),
            (Then::Removed(name), Reply::Done) => self.forget(name, INIT_PROCESS),
            (Then::Nothing | Then::Started(_) | Then::Removed(_), _) => {}
        }
        if let Some((name, process)) = watch {
            let request = Request::Wait { container: name.clone(), process };
            self.send(Pending { asked: None, then: Then::Ended(name, process) }, request, control)?;
        }
        if let Some(question) = pending.asked {
            self.answer(question, Told::Guest(printable(reply)));
        }
        Ok(())
    }

    fn forget(&mut self, container: String, process: u32) {
        if let Some(ports) = self.ports.remove(&(container, process)) {
            self.close(&ports);
        }
    }

    fn close(&self, ports: &Ports) {
        ports.close(&mut streams::lock(&self.vsock));
    }

    /// Passes a question on to the guest.
    fn ask(
        &mut self,
        id: u64,
        mut request: Request,
        descriptors: Vec<OwnedFd>,
        control: &mut Control,
    ) -> Result<(), ControlError> {
        if self.pending.len() >= MAX_PENDING {
            let message = format!("at most {MAX_PENDING} questions can wait for an answer");
            self.answer(id, Told::failed(libc::EAGAIN, message));
            return Ok(());
        }
        let ports = match process_of(&mut request) {
            None => Ports::default(),
            Some(process) => {
                let mut vsock = streams::lock(&self.vsock);
                match streams::listen(&mut vsock, &mut self.next_port, &mut process.streams, descriptors) {
                    Ok(ports) => ports,
                    Err(why) => {
                        drop(vsock);
                        self.answer(id, Told::failed(libc::EINVAL, why));
                        return Ok(());
                    }
                }
            }
        };
        let then = match &request {
            Request::Create { container, .. } => Then::Created(container.clone(), ports),
            Request::Exec { container, .. } => Then::Executed(container.clone(), ports),
            Request::Start { container } => Then::Started(container.clone()),
            Request::Remove { container } => Then::Removed(container.clone()),
            _ => Then::Nothing,
        };
        self.send(Pending { asked: Some(id), then }, request, control)
    }

    fn send(
        &mut self,
        pending: Pending,
        request: Request,
        control: &mut Control,
    ) -> Result<(), ControlError> {
        let id = self.next_request;
        self.next_request += 1;
        self.pending.insert(id, pending);
        if control.send(&ToGuest::Request { id, request: Box::new(request) })? {
            return Ok(());
        }
        let message =
            format!("the request is longer than {MAX_FRAME} bytes, or the sandbox does not take any");
        self.reply(id, Reply::Failed { errno: libc::EAGAIN as u32, message }, control)
    }
}

/// The process in a request that starts one or prepares to.
fn process_of(request: &mut Request) -> Option<&mut Process> {
    match request {
        Request::Create { spec, .. } => Some(&mut spec.process),
        Request::Exec { process, .. } => Some(process),
        _ => None,
    }
}

/// Whether descriptors go with it.
fn takes_streams(question: &Question) -> bool {
    let Ask::Guest(request) = &question.ask else { return false };
    matches!(**request, Request::Create { .. } | Request::Exec { .. })
}

/// The guest's words must not drive anybody's terminal.
fn printable(reply: Reply) -> Reply {
    let clean =
        |text: String| text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(4096).collect();
    match reply {
        Reply::Failed { errno, message } => Reply::Failed { errno, message: clean(message) },
        Reply::Containers { mut containers } => {
            for container in &mut containers {
                container.container = clean(std::mem::take(&mut container.container));
            }
            Reply::Containers { containers }
        }
        other => other,
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}

impl AsRawFd for Door {
    fn as_raw_fd(&self) -> RawFd {
        self.client.as_raw_fd()
    }
}
