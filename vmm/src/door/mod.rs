//! The control socket: how others than the user of `ringfence run` ask for containers.
//!
//! A unix stream socket that only its owner can open. Either side sends JSON documents, one a line, at most
//! [`MAX_FRAME`] bytes long. A client sends [`Question`]s, a [`Request`] of the protocol with a number of the client's choice;
//! each gets one [`Answer`] with that number, in any order: that to `wait` comes when the process has ended. What is not a
//! question ends the connection, after an answer with number 0 that says what is wrong. Requests that take descriptors
//! are not to be sent before the last such one was answered.
//!
//! Standard streams are descriptors, sent as SCM_RIGHTS with the line (or before it): three for input, output and error, two
//! for what a terminal is typed on and shown on (`streams` is `{"tty": {"rows": …, "cols": …}}` then), none for
//! `/dev/null`. They are connected to the process byte for byte as those of `run` are, and closed when it has ended. A client
//! that goes away ends nothing.
//!
//! Nothing here is trusted more than it has to be: clients can only ask, and the guest's answers go only to who has asked.
//! Each list is bounded: [`MAX_CLIENTS`], [`MAX_QUESTIONS`] a client, [`MAX_FRAME`] bytes a line each way.
//!
//! | file | holds |
//! |---|---|
//! | here | the listening socket, what clients and guest say to each other |
//! | `client.rs` | a connection: lines and descriptors |
//! | `streams.rs` | descriptors become vsock ports |

mod client;
mod streams;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSet, Events};
use ringfence_devices::vsock::Vsock;
use ringfence_protocol::{INIT_PROCESS, MAX_FRAME, Process, Reply, Request, ToGuest};
use serde::{Deserialize, Serialize};

use crate::control::{Control, ControlError};
use client::Client;
use streams::Ports;

/// Connections at a time.
const MAX_CLIENTS: usize = 64;
/// Questions of a client that are not answered yet.
const MAX_QUESTIONS: usize = 64;

/// The same of all clients, those included that are gone.
const MAX_PENDING: usize = MAX_CLIENTS * MAX_QUESTIONS;

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Given back in the answer.
    pub id: u64,
    /// What is asked for.
    pub request: Request,
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The question's.
    pub id: u64,
    /// The answer.
    pub reply: Reply,
}

/// The name of a listening socket; it is removed with this.
pub struct Name(PathBuf);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message is the documentation")]
pub enum ListenError {
    #[error("cannot listen on {0}: a sandbox listens there already")]
    InUse(PathBuf),
    #[error("cannot listen on {0}: there is a file with that name; choose another or remove it")]
    Exists(PathBuf),
    #[error("cannot listen on {0}: {1}")]
    Io(PathBuf, io::Error),
}

impl Name {
    /// Makes a socket at `path`, in place of one that a killed sandbox has left. It may be another process that
    /// serves it.
    pub fn bind(path: &Path) -> Result<(Name, UnixListener), ListenError> {
        use std::os::unix::fs::FileTypeExt;
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(ListenError::Exists(path.into()));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(ListenError::InUse(path.into()));
            }
            let _ = std::fs::remove_file(path); // if it is still there, binding says so
        }
        let io = |e| ListenError::Io(path.into(), e);
        // The mode of the name decides who may connect; it must never have been a wider one.
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let socket = UnixListener::bind(path);
        rustix::process::umask(mask);
        let socket = socket.map_err(io)?;
        socket.set_nonblocking(true).map_err(io)?;
        Ok((Name(path.into()), socket))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0); // somebody may have been faster
    }
}

/// Who waits for the guest's answer, and what has to be done with it.
struct Pending {
    /// The client and its number for the question; `None`: we have asked ourselves.
    asked: Option<(u64, u64)>,
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
    listener: UnixListener,
    vsock: Arc<Mutex<Vsock>>,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
    pending: BTreeMap<u64, Pending>,
    next_request: u64,
    next_port: u32,
    /// Ports of processes that live, by container and number.
    ports: BTreeMap<(String, u32), Ports>,
}

impl Door {
    /// A server on `listener` for the sandbox with this device.
    pub fn new(listener: UnixListener, vsock: Arc<Mutex<Vsock>>) -> Door {
        Door {
            listener,
            vsock,
            clients: BTreeMap::new(),
            next_client: 1,
            pending: BTreeMap::new(),
            next_request: 1,
            next_port: crate::sandbox::FIRST_FREE_PORT,
            ports: BTreeMap::new(),
        }
    }

    /// Begins to wait for clients.
    pub fn watch(&self, ops: &mut EventOps) {
        let events = Events::new(&self.listener, EventSet::IN);
        ops.add(events).expect("a listening socket can be polled");
    }

    /// An event on one of our descriptors.
    pub fn process(
        &mut self,
        events: Events,
        ops: &mut EventOps,
        control: &mut Control,
    ) -> Result<(), ControlError> {
        if events.fd() == self.listener.as_raw_fd() {
            self.accept(ops);
            return Ok(());
        }
        let Some(id) = self.client_of(events.fd()) else { return Ok(()) };
        let questions = match self.clients.get_mut(&id) {
            Some(client) => client.process(events.event_set()),
            None => return Ok(()),
        };
        for question in questions {
            self.ask(id, question, control)?;
        }
        Ok(())
    }

    /// After events: waits for what there is to wait for, and drops connections that are over.
    pub fn update(&mut self, ops: &mut EventOps) {
        self.clients.retain(|_, client| {
            if client.is_over() {
                let _ = ops.remove(Events::new(client, EventSet::IN));
                return false;
            }
            if let Some(set) = client.interest() {
                let _ = ops.modify(Events::new(client, set));
            }
            true
        });
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
        if let Some((client, question)) = pending.asked
            && let Some(client) = self.clients.get_mut(&client)
        {
            client.answer(&Answer { id: question, reply: printable(reply) });
            client.waits_for -= 1;
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

    fn accept(&mut self, ops: &mut EventOps) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() >= MAX_CLIENTS || stream.set_nonblocking(true).is_err() {
                continue; // closed
            }
            let client = Client::new(stream);
            if ops.add(Events::new(&client, EventSet::IN)).is_ok() {
                self.clients.insert(self.next_client, client);
                self.next_client += 1;
            }
        }
    }

    fn client_of(&self, fd: RawFd) -> Option<u64> {
        self.clients.iter().find(|(_, client)| client.as_raw_fd() == fd).map(|(id, _)| *id)
    }

    /// Passes a question on to the guest.
    fn ask(
        &mut self,
        client: u64,
        question: client::Asked,
        control: &mut Control,
    ) -> Result<(), ControlError> {
        let client::Asked { question: Question { id, mut request }, descriptors } = question;
        let waiting = self.clients.get(&client).map_or(0, |client| client.waits_for);
        if waiting >= MAX_QUESTIONS || self.pending.len() >= MAX_PENDING {
            self.refuse(client, id, format!("at most {MAX_QUESTIONS} questions can wait for an answer"));
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
                        self.refuse(client, id, why.into());
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
        if let Some(client) = self.clients.get_mut(&client) {
            client.waits_for += 1;
        }
        self.send(Pending { asked: Some((client, id)), then }, request, control)
    }

    fn refuse(&mut self, client: u64, id: u64, message: String) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.answer(&Answer { id, reply: Reply::Failed { errno: libc::EINVAL as u32, message } });
        }
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
    matches!(question.request, Request::Create { .. } | Request::Exec { .. })
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
