//! The server: one epoll for everything, no thread of its own and nothing that waits.
//!
//! Whoever has it polls its descriptor ([`Server`] is [`AsFd`]) until [`Server::deadline`] and calls [`Server::process`],
//! which does what can be done now: accept, read, answer, relay. The supervisor of a jail has it in its own loop; without a jail a
//! thread has nothing else to do ([`super::worker`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::config::{Config, LogLevel};
use super::connection::{Connection, Phase};
use super::http::{self, Response};
use super::link::Link;
use super::listen::Name;
use super::log::Log;
use super::reports::Ended;
use super::settings::{Setting, Settings};
use super::state::{Event, State};
use super::streams::{self, Frame, Relay};
use crate::cli::Failure;
use crate::cli::run::detach;
use crate::door::{Ask, Counters};
use ringfence_protocol::{ExitStatus, Request as GuestRequest};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// Events taken at a time.
const BATCH: usize = 32;
/// After the end, what those who wait have to take their answers.
const FAREWELL: Duration = Duration::from_secs(1);
/// After it was asked to end at once, what the VMM has for that before it is killed.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

const LISTENER: u64 = 0;
const LINK: u64 = 1;
const LOG: u64 = 2;
/// Connection `n` has four tokens from `FIRST * n` on: its socket, and standard streams of a process.
const FIRST: u64 = 4;

/// What the server wants of whoever has it.
#[derive(Debug)]
pub enum Wanted {
    /// Start this, and say [`Server::started`] or [`Server::not_started`].
    Start(Box<Config>),
    /// Kill the VMM.
    Kill,
}

/// What the API tells of a sandbox besides what the VMM says.
#[derive(Debug, Default)]
pub struct About {
    /// Its name, if somebody gave it one.
    pub name: Option<String>,
    /// Processes it consists of besides this one; the last is the VMM's.
    pub processes: Vec<i32>,
}

/// What is to be done with an answer of the VMM. Numbers are those of connections.
pub(super) enum Then {
    Nothing,
    Answer(u64),
    /// It stands still, or goes on.
    Change(u64, Event),
    /// It is set, and remembered.
    Set(u64, Setting),
    /// The guest answers, so its program runs.
    Announce,
    Attach(u64, Box<Relay>),
    StreamsEnd(u64),
    Counters(u64),
    GuestStats(u64),
}

impl Then {
    /// Who waits for an answer that is one.
    pub(super) fn waiting(&self) -> Option<u64> {
        match self {
            Then::Answer(id)
            | Then::Change(id, _)
            | Then::Set(id, _)
            | Then::Attach(id, _)
            | Then::Counters(id) => Some(*id),
            Then::Nothing | Then::Announce | Then::StreamsEnd(_) | Then::GuestStats(_) => None,
        }
    }
}

/// In which form counters were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Prometheus,
}

/// The server.
pub struct Server {
    epoll: OwnedFd,
    listener: UnixListener,
    _name: Name,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    pub(super) link: Option<Link<Then>>,
    link_watched: EventFlags,
    pub(super) log: Log,
    log_pipe: Option<File>,
    /// What comes through the pipe is shown on standard error; on a terminal in raw mode, if so.
    log_copy: Option<bool>,
    pub(super) state: State,
    pub(super) config: Config,
    pub(super) about: About,
    pub(super) settings: Settings,
    pub(super) since: Option<Instant>,
    /// Who has asked for the start.
    starter: Option<u64>,
    /// Who waits for the end.
    pub(super) waiting: Vec<u64>,
    pub(super) ended: Option<Ended>,
    /// Who waits for counters, and what there is already.
    pub(super) counting: BTreeMap<u64, (Form, Option<Counters>)>,
    wanted: Option<Wanted>,
    /// When the sandbox is ended, and when it is killed.
    pub(super) end_at: Option<Instant>,
    kill_at: Option<Instant>,
}

impl Server {
    /// A server of a sandbox that is described already (it is about to start), or is going to be over the API.
    pub fn new(
        (name, listener): (Name, UnixListener),
        state: State,
        config: Config,
        about: About,
    ) -> std::io::Result<Server> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Server {
            epoll,
            listener,
            _name: name,
            connections: BTreeMap::new(),
            next: 1,
            link: None,
            link_watched: EventFlags::empty(),
            log: Log::default(),
            log_pipe: None,
            log_copy: None,
            state,
            config,
            about,
            settings: Settings::default(),
            since: None,
            starter: None,
            waiting: Vec::new(),
            ended: None,
            counting: BTreeMap::new(),
            wanted: None,
            end_at: None,
            kill_at: None,
        })
    }

    /// What there is to say about the sandbox in the log.
    pub fn note(&mut self, text: &str) {
        self.log.line(text);
        self.feed_followers();
    }

    /// The VMM has been started: its link, and the reading end of the pipe that the guest's log comes through.
    /// `copy`: the log is shown on standard error, which is a terminal in raw mode or not.
    pub fn connect(&mut self, link: UnixStream, log: OwnedFd, copy: Option<bool>) -> std::io::Result<()> {
        let link = Link::new(link)?;
        rustix::io::ioctl_fionbio(&log, true)?;
        epoll::add(&self.epoll, &log, EventData::new_u64(LOG), EventFlags::IN)?;
        if let Some(socket) = link.socket() {
            self.link_watched = EventFlags::IN;
            epoll::add(&self.epoll, socket, EventData::new_u64(LINK), EventFlags::IN)?;
        }
        self.link = Some(link);
        self.log_pipe = Some(log.into());
        self.log_copy = copy;
        Ok(())
    }

    /// The name it is to be started under.
    pub fn set_name(&mut self, name: Option<String>) {
        self.about.name = name;
    }

    /// The processes that were started for the sandbox.
    pub fn set_processes(&mut self, processes: Vec<i32>) {
        self.about.processes = processes;
    }

    /// The sandbox could not be started.
    pub fn not_started(&mut self, failure: &Failure) {
        self.link = None;
        self.log_pipe = None;
        self.about.processes.clear();
        self.event(Event::NotStarted);
        self.note(&failure.message);
        if let Some(id) = self.starter.take() {
            let status = if failure.code == crate::exit::HOST_UNABLE { 503 } else { 422 };
            self.answer(id, &Response::fault(status, &failure.message));
        }
        self.tidy();
    }

    /// Something has happened to the sandbox.
    pub fn event(&mut self, event: Event) {
        let Some(state) = self.state.after(event) else { return };
        self.state = state;
        if event == Event::Ready {
            self.since = Some(Instant::now());
            if let Some(id) = self.starter.take() {
                self.answer(id, &Response::empty(204));
            }
            if detach::is_detached() {
                self.ask(Ask::Guest(Box::new(GuestRequest::List)), Vec::new(), Then::Announce);
            }
        }
        if self.settings.logs(LogLevel::Info) {
            self.log.line(&format!("the sandbox is {}", state.name()));
        }
        self.feed_followers();
        self.tidy();
    }

    /// The sandbox is over. Those who wait are told, and have a moment to hear it.
    pub fn over(mut self, code: u8, message: Option<String>) {
        self.on_link();
        self.on_log();
        if let Some(message) = &message {
            self.log.line(message);
        }
        if let Some(id) = self.starter.take() {
            let why =
                message.clone().unwrap_or_else(|| format!("the sandbox ended at once with code {code}"));
            self.answer(id, &Response::fault(422, why));
        }
        self.event(Event::Over);
        let ended = Ended { code, message };
        for id in std::mem::take(&mut self.waiting) {
            self.answer(id, &Response::json(200, &ended));
        }
        self.ended = Some(ended);
        self.link = None;
        let gone = Response::fault(410, State::Stopped.refusal());
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in &ids {
            self.counting.remove(id);
            match self.connections.get(id).map(|c| &c.phase) {
                Some(Phase::Waiting) => self.answer(*id, &gone),
                Some(Phase::Following(_)) => self.end_following(*id),
                _ => {}
            }
        }
        let deadline = Instant::now() + FAREWELL;
        let _ = epoll::delete(&self.epoll, &self.listener);
        loop {
            self.tidy();
            let busy = |c: &Connection| !c.is_flushed() || matches!(c.phase, Phase::Streams(_));
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.connections.values().any(busy) {
                return;
            }
            self.wait_and_handle(left.min(Duration::from_millis(100)));
        }
    }

    /// When [`Server::process`] has something to do even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        let own = [self.end_at, self.kill_at];
        self.connections.values().map(|c| c.deadline).chain(own).flatten().min()
    }

    /// Does what can be done now.
    pub fn process(&mut self) -> Option<Wanted> {
        self.wait_and_handle(Duration::ZERO);
        self.on_deadlines();
        self.tidy();
        self.wanted.take()
    }

    fn wait_and_handle(&mut self, at_most: Duration) {
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; BATCH];
        let at_most = Timespec::try_from(at_most).ok();
        let count = epoll::wait(&self.epoll, &mut events[..], at_most.as_ref()).unwrap_or(0);
        for event in events.iter().take(count) {
            let (token, flags) = (event.data.u64(), event.flags);
            match token {
                LISTENER => self.accept(),
                LINK => self.on_link(),
                LOG => self.on_log(),
                token if token % FIRST == 0 => self.on_connection(token / FIRST, flags),
                token => self.on_stream(token / FIRST, token % FIRST),
            }
        }
        // Requests that came with one that is answered now: epoll says nothing more of them.
        let unseen = self.connections.iter().filter(|(_, c)| c.has_unseen());
        for id in unseen.map(|(id, _)| *id).collect::<Vec<u64>>() {
            self.serve(id);
        }
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            if socket.set_nonblocking(true).is_err() {
                continue;
            }
            let mut connection = Connection::new(socket);
            if self.connections.len() >= MAX_CONNECTIONS {
                let why = format!("at most {MAX_CONNECTIONS} clients can be connected");
                connection.refuse(&Response::fault(503, why));
                continue; // what fits in the socket is there to be read
            }
            let id = self.next;
            self.next += 1;
            let data = EventData::new_u64(id * FIRST);
            if epoll::add(&self.epoll, &connection, data, EventFlags::IN).is_ok() {
                self.connections.insert(id, connection);
            }
        }
    }

    fn on_connection(&mut self, id: u64, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.flush();
        if flags.contains(EventFlags::IN) {
            connection.receive();
        }
        self.serve(id);
        if flags.intersects(EventFlags::HUP | EventFlags::ERR)
            && let Some(connection) = self.connections.get_mut(&id)
        {
            connection.hung_up();
        }
    }

    /// Does what a connection's input asks for.
    fn serve(&mut self, id: u64) {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            match &connection.phase {
                Phase::Streams(_) => return self.take_frames(id),
                Phase::Request if connection.has_room() => {}
                _ => return,
            }
            let Some(request) = connection.next_request() else { return };
            self.perform(id, &request);
        }
    }

    /// Answers a request, if who has asked is still there.
    pub(super) fn answer(&mut self, id: u64, response: &Response) {
        if let Some(connection) = self.connections.get_mut(&id)
            && matches!(connection.phase, Phase::Waiting)
        {
            connection.answer(response);
        }
    }

    /// The connection with this number.
    pub(super) fn connection(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// Asks whoever has the server to start the sandbox.
    pub(super) fn want_start(&mut self, id: u64) {
        self.starter = Some(id);
        self.event(Event::Start);
        self.wanted = Some(Wanted::Start(Box::new(self.config.clone())));
    }

    /// Asks the VMM.
    pub(super) fn ask(&mut self, ask: Ask, descriptors: Vec<OwnedFd>, then: Then) {
        let refused = match &mut self.link {
            Some(link) => link.ask(ask, descriptors, then).err(),
            None => Some(then),
        };
        match refused {
            Some(Then::GuestStats(id)) => self.tell_counters(id, None),
            Some(Then::StreamsEnd(id)) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.close();
                }
            }
            Some(then) => {
                if let Some(id) = then.waiting() {
                    self.answer(id, &Response::fault(503, "the sandbox takes no more questions now"));
                }
            }
            None => {}
        }
    }

    fn on_link(&mut self) {
        let Some(link) = &mut self.link else { return };
        link.flush();
        for (then, told) in link.receive() {
            self.told(then, told);
        }
    }

    fn on_log(&mut self) {
        let mut buffer = [0u8; 4096];
        while let Some(pipe) = &mut self.log_pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.log_pipe = None,
                Ok(n) => {
                    let text = buffer.get(..n).unwrap_or_default();
                    self.log.write(text);
                    if let Some(raw) = self.log_copy {
                        copy(text, raw);
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => self.log_pipe = None,
            }
        }
        self.feed_followers();
    }

    /// Gives those who follow the log what is new and what they have room for.
    pub(super) fn feed_followers(&mut self) {
        for connection in self.connections.values_mut() {
            while let Phase::Following(position) = connection.phase {
                let (text, behind) = self.log.since(position, 16 << 10);
                if text.is_empty() || !connection.has_room() {
                    break;
                }
                connection.phase = Phase::Following(behind);
                connection.send(&http::chunk(&text));
            }
        }
    }

    fn end_following(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.send(&http::chunk(b""));
            connection.close();
        }
    }

    /// A connection becomes the streams of a process.
    pub(super) fn attach(&mut self, id: u64, mut relay: Box<Relay>, process: u32) {
        relay.process = process;
        let request = GuestRequest::Wait { container: relay.container.clone(), process };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let fds = [relay.stdin.as_ref(), relay.outputs[0].as_ref(), relay.outputs[1].as_ref()];
        for (n, fd) in fds.into_iter().enumerate() {
            // Nothing is waited for yet: `tidy` says for what.
            let data = EventData::new_u64(id * FIRST + n as u64 + 1);
            let added = fd.map_or(Ok(()), |fd| epoll::add(&self.epoll, fd, data, EventFlags::ET));
            if added.is_err() {
                return connection.answer(&Response::fault(500, "too many files are open"));
            }
        }
        connection.send(&http::switching());
        connection.phase = Phase::Streams(relay);
        self.ask(Ask::Guest(Box::new(request)), Vec::new(), Then::StreamsEnd(id));
        self.take_frames(id);
    }

    /// The process of a connection has ended.
    pub(super) fn streams_end(&mut self, id: u64, status: ExitStatus) {
        if let Some(connection) = self.connections.get_mut(&id)
            && let Phase::Streams(relay) = &mut connection.phase
        {
            connection.deadline = Some(relay.set_ended(status));
            self.conclude_streams(id, false);
        }
    }

    fn take_frames(&mut self, id: u64) {
        let mut asks = Vec::new();
        if let Some(connection) = self.connections.get_mut(&id)
            && let Phase::Streams(relay) = &mut connection.phase
        {
            let mut taken = 0;
            let mut wrong = false;
            while relay.takes_input() {
                match streams::parse(connection.input.get(taken..).unwrap_or_default()) {
                    Ok(None) => break,
                    Ok(Some((frame, length))) => {
                        taken += length;
                        match frame {
                            Frame::Input(bytes) => relay.input.extend_from_slice(&bytes),
                            Frame::InputEnd => relay.input_ended = true,
                            Frame::Ask(ask) => asks.push((relay.container.clone(), relay.process, ask)),
                        }
                    }
                    Err(_) => {
                        wrong = true;
                        break;
                    }
                }
            }
            connection.input.drain(..taken);
            relay.feed();
            if wrong {
                connection.close();
            }
        }
        for (container, process, ask) in asks {
            let request = match ask {
                streams::Ask::Signal(signal) => GuestRequest::Signal { container, process, signal },
                streams::Ask::Resize { rows, cols } => {
                    GuestRequest::Resize { container, process, rows, cols }
                }
            };
            self.ask(Ask::Guest(Box::new(request)), Vec::new(), Then::Nothing);
        }
    }

    /// A pipe is ready: 1 is standard input.
    fn on_stream(&mut self, id: u64, which: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Phase::Streams(relay) = &mut connection.phase else { return };
        match which {
            1 => {
                relay.feed();
                return self.take_frames(id);
            }
            n => {
                let n = n as usize - 2;
                if let Some(bytes) = relay.read(n) {
                    let kind = if n == 0 { streams::STDOUT } else { streams::STDERR };
                    connection.send(&streams::frame(kind, &bytes));
                }
            }
        }
        self.conclude_streams(id, false);
    }

    /// Says how a process has ended, if all its output is there.
    fn conclude_streams(&mut self, id: u64, late: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Phase::Streams(relay) = &mut connection.phase else { return };
        if let Some(status) = relay.conclusion(late) {
            let text = serde_json::to_vec(&status).unwrap_or_default();
            connection.send(&streams::frame(streams::ENDED, &text));
            connection.close();
        }
    }

    fn on_deadlines(&mut self) {
        let now = Instant::now();
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<u64> =
            self.connections.iter().filter(|(_, c)| passed(c.deadline)).map(|(id, _)| *id).collect();
        for id in late {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.deadline = None;
            match connection.phase {
                Phase::Streams(_) => self.conclude_streams(id, true),
                Phase::Waiting => self.tell_counters(id, None),
                _ => connection.give_up(),
            }
        }
        if passed(self.end_at) {
            self.end_at = None;
            self.kill_at = Some(now + LAST_PATIENCE);
            self.ask(Ask::End, Vec::new(), Then::Nothing);
        }
        if passed(self.kill_at) {
            self.kill_at = None;
            self.wanted = Some(Wanted::Kill);
        }
    }

    /// Drops connections that are over, and waits for what there is to wait for.
    fn tidy(&mut self) {
        self.feed_followers();
        let gone: Vec<u64> =
            self.connections.iter().filter(|(_, c)| c.is_over()).map(|(id, _)| *id).collect();
        for id in gone {
            self.connections.remove(&id); // epoll forgets what is closed
            self.waiting.retain(|waits| *waits != id);
            self.counting.remove(&id);
        }
        for (id, connection) in &mut self.connections {
            let interest = connection.interest();
            if interest != connection.watched {
                connection.watched = interest;
                let _ = epoll::modify(&self.epoll, &*connection, EventData::new_u64(id * FIRST), interest);
            }
            let has_room = connection.has_room();
            if let Phase::Streams(relay) = &mut connection.phase {
                relay.watch(has_room, |fd, n, flags| {
                    let _ = epoll::modify(&self.epoll, fd, EventData::new_u64(id * FIRST + n), flags);
                });
            }
        }
        if let Some(link) = &self.link {
            let wants = if link.is_waiting() { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            if let Some(socket) = link.socket().filter(|_| wants != self.link_watched) {
                self.link_watched = wants;
                let _ = epoll::modify(&self.epoll, socket, EventData::new_u64(LINK), wants);
            }
        }
    }
}

/// Shows the guest's log on standard error. A raw terminal needs carriage returns.
fn copy(text: &[u8], raw: bool) {
    let text = String::from_utf8_lossy(text);
    let clean: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    let text = if raw { clean.replace('\n', "\r\n") } else { clean };
    // A closed stderr cannot be told about.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
