//! What each call does: at once, or when the VMM has answered.

use std::time::{Duration, Instant};

use ringfence_protocol::{
    Container, FIRST_CONTAINER, INIT_PROCESS, Process, Reply, Request as GuestRequest, Streams,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::config::{self, Config, LogLevel, check_container, check_process};
use super::connection::Phase;
use super::http::{self, Fault, Request, Response};
use super::reports::{self, Instance, Stats};
use super::routes::{self, Call, Parameters, Section};
use super::server::{Form, Server, Then};
use super::settings::{BalloonTarget, DiskLimits, LogLevels, RandomLimits, Setting, disk_limits};
use super::state::{Event, State};
use super::streams::Relay;
use crate::cli::run::detach;
use crate::door::{Ask, Told};

/// How long the guest has to tell its counters.
const GUEST_PATIENCE: Duration = Duration::from_secs(2);

/// `resources/openapi.yaml`.
pub const SCHEMA: &str = include_str!("../../../resources/openapi.yaml");

/// What `POST /shutdown` takes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// Sent to the first process.
    pub signal: u32,
    /// What it has to end by itself.
    pub timeout_ms: u32,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { signal: libc::SIGTERM as u32, timeout_ms: 10_000 }
    }
}

/// What `signal` takes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// Number.
    pub signal: u32,
}

/// What `resize` takes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// What `exec` and the start of a container answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// The process's number in its container.
    pub process: u32,
    /// Its pid, as the container sees it.
    pub pid: u32,
}

type Answer = Result<Option<Response>, Response>;

impl Server {
    /// Does what a request asks for.
    pub(super) fn perform(&mut self, id: u64, request: &Request) {
        if self.settings.logs(LogLevel::Debug) {
            self.note(&format!("{} {}", request.method, request.path));
        }
        let result = routes::find(&request.method, &request.path).and_then(|(route, parameters)| {
            if !route.states.contains(&self.state) {
                let status = if self.state == State::Stopped { 410 } else { 409 };
                return Err(Response::fault(status, self.state.refusal()));
            }
            self.call(id, route.call, parameters, request)
        });
        match result {
            Ok(None) => {}
            Ok(Some(response)) | Err(response) => self.answer(id, &response),
        }
    }

    fn call(&mut self, id: u64, call: Call, parameters: Parameters, request: &Request) -> Answer {
        let Parameters { container, process, disk } = parameters;
        if call != Call::Logs && !request.query.is_empty() {
            return Err(Response::fault(400, "this call takes no query"));
        }
        if request.upgrade && call != Call::Exec {
            return Err(Response::fault(400, "only exec has streams"));
        }
        let takes_body = matches!(
            call,
            Call::PutConfig
                | Call::Put(_)
                | Call::Shutdown
                | Call::Create
                | Call::Exec
                | Call::Signal
                | Call::Resize
                | Call::PutBalloon
                | Call::PutDiskLimits
                | Call::PutRandomLimits
                | Call::PutLogLevels
        );
        if !takes_body && !request.body.is_empty() {
            return Err(Response::fault(400, "this call takes no body"));
        }
        match call {
            Call::Instance => Ok(Some(Response::json(200, &Instance::of(self)))),
            Call::Schema => Ok(Some(Response::text("application/yaml", SCHEMA))),
            Call::GetConfig => Ok(Some(Response::json(200, &self.config))),
            Call::PutConfig => {
                let config: Config = body(request)?;
                self.configure(config)
            }
            Call::Get(section) => self.section(section).map(Some),
            Call::Put(section) => {
                let mut config = self.config.clone();
                match section {
                    Section::Machine => config.machine = body(request)?,
                    Section::Boot => config.boot = body(request)?,
                    Section::Image => config.image = Some(body(request)?),
                    Section::Container => config.container = Some(body(request)?),
                    Section::Jail => config.jail = body(request)?,
                }
                self.configure(config)
            }
            Call::Start => {
                if self.config.image.is_none() || self.config.container.is_none() {
                    return Err(Response::fault(
                        409,
                        "the sandbox has no image, or no container: PUT /config/… first",
                    ));
                }
                self.want_start(id);
                Ok(None)
            }
            Call::Pause => {
                self.ask(Ask::Pause, Vec::new(), Then::Change(id, Event::Paused));
                Ok(None)
            }
            Call::Resume => {
                self.ask(Ask::Resume, Vec::new(), Then::Change(id, Event::Resumed));
                Ok(None)
            }
            Call::Shutdown => {
                let Shutdown { signal, timeout_ms } =
                    if request.body.is_empty() { Shutdown::default() } else { body(request)? };
                if !(1..=64).contains(&signal) {
                    return Err(Response::fault(400, "a signal is a number from 1 to 64"));
                }
                if self.state == State::Running {
                    let container = FIRST_CONTAINER.to_owned();
                    let ask = GuestRequest::Signal { container, process: INIT_PROCESS, signal };
                    self.ask(Ask::Guest(Box::new(ask)), Vec::new(), Then::Nothing);
                }
                // A paused program hears nothing.
                let wait = if self.state == State::Paused { 0 } else { timeout_ms };
                let at = Instant::now() + Duration::from_millis(wait.into());
                self.end_at = Some(self.end_at.map_or(at, |earlier| earlier.min(at)));
                Ok(Some(Response::empty(204)))
            }
            Call::Wait => {
                match &self.ended {
                    Some(ended) => return Ok(Some(Response::json(200, ended))),
                    None => self.waiting.push(id),
                }
                Ok(None)
            }
            Call::Stats => self.count(id, Form::Json),
            Call::Metrics => self.count(id, Form::Prometheus),
            Call::Logs => self.logs(id, request),
            Call::GetBalloon => {
                self.ask(Ask::Balloon, Vec::new(), Then::Answer(id));
                Ok(None)
            }
            Call::PutBalloon => {
                let wanted: BalloonTarget = body(request)?;
                wanted.check(&self.config).map_err(|why| Response::fault(400, why))?;
                self.set(id, Ask::SetBalloon(wanted.target), Setting::Balloon)
            }
            Call::GetDiskLimits => Ok(Some(Response::json(200, &disk_limits(&self.config, disk)?))),
            Call::PutDiskLimits => {
                let limits: DiskLimits = body(request)?;
                limits.check().map_err(|why| Response::fault(400, why))?;
                disk_limits(&self.config, disk)?;
                let DiskLimits { bandwidth, ops } = limits;
                let disk = disk as usize;
                self.set(id, Ask::SetDisk { disk, bandwidth, ops }, Setting::Disk(disk, limits))
            }
            Call::GetRandomLimits => Ok(Some(Response::json(200, &self.settings.random))),
            Call::PutRandomLimits => {
                let limits: RandomLimits = body(request)?;
                limits.check().map_err(|why| Response::fault(400, why))?;
                self.set(id, Ask::SetRandom(limits.bandwidth), Setting::Random(limits))
            }
            Call::GetLogLevels => Ok(Some(Response::json(200, &self.settings.levels(&self.config)))),
            Call::PutLogLevels => {
                let LogLevels { guest, vmm } = body(request)?;
                self.settings.vmm_log = vmm.unwrap_or(self.settings.vmm_log);
                match guest {
                    Some(level) => self.set(id, Ask::LogLevel(level.number()), Setting::GuestLog(level)),
                    None => Ok(Some(Response::empty(204))),
                }
            }
            Call::Containers => self.guest(id, GuestRequest::List),
            Call::Create => {
                let spec: Container = body(request)?;
                check_container(&spec).map_err(|why| Response::fault(400, why))?;
                self.with_streams(id, GuestRequest::Create { container, spec })
            }
            Call::Remove => self.guest(id, GuestRequest::Remove { container }),
            Call::StartContainer => self.guest(id, GuestRequest::Start { container }),
            Call::Exec => {
                let process: Process = body(request)?;
                check_process(&process).map_err(|why| Response::fault(400, why))?;
                if request.upgrade {
                    return self.exec_here(id, container, process);
                }
                self.with_streams(id, GuestRequest::Exec { container, process })
            }
            Call::Signal => {
                let Signal { signal } = body(request)?;
                self.guest(id, GuestRequest::Signal { container, process, signal })
            }
            Call::Resize => {
                let Resize { rows, cols } = body(request)?;
                self.guest(id, GuestRequest::Resize { container, process, rows, cols })
            }
            Call::WaitProcess => self.guest(id, GuestRequest::Wait { container, process }),
        }
    }

    fn configure(&mut self, config: Config) -> Answer {
        config.check().map_err(|why| Response::fault(400, why))?;
        self.config = config;
        Ok(Some(Response::empty(204)))
    }

    fn section(&self, section: Section) -> Result<Response, Response> {
        let nothing = || Response::fault(404, "this was not described yet");
        Ok(match section {
            Section::Machine => Response::json(200, &self.config.machine),
            Section::Boot => Response::json(200, &self.config.boot),
            Section::Image => Response::json(200, self.config.image.as_ref().ok_or_else(nothing)?),
            Section::Container => Response::json(200, self.config.container.as_ref().ok_or_else(nothing)?),
            Section::Jail => Response::json(200, &self.config.jail),
        })
    }

    /// Has the VMM do it, and remembers it then.
    fn set(&mut self, id: u64, ask: Ask, setting: Setting) -> Answer {
        self.ask(ask, Vec::new(), Then::Set(id, setting));
        Ok(None)
    }

    /// Asks the guest.
    fn guest(&mut self, id: u64, request: GuestRequest) -> Answer {
        self.ask(Ask::Guest(Box::new(request)), Vec::new(), Then::Answer(id));
        Ok(None)
    }

    /// The same, for a process that gets the descriptors which have come with the request.
    fn with_streams(&mut self, id: u64, request: GuestRequest) -> Answer {
        let descriptors =
            self.connection(id).map_or_else(Vec::new, |connection| connection.take_descriptors());
        self.ask(Ask::Guest(Box::new(request)), descriptors, Then::Answer(id));
        Ok(None)
    }

    /// A process whose streams are the rest of the connection.
    fn exec_here(&mut self, id: u64, container: String, process: Process) -> Answer {
        let terminal = matches!(process.streams, Streams::Tty { .. });
        let (relay, theirs) = Relay::new(container.clone(), terminal)
            .map_err(|e| Response::fault(500, format!("cannot make a pipe: {e}")))?;
        let request = GuestRequest::Exec { container, process };
        self.ask(Ask::Guest(Box::new(request)), theirs, Then::Attach(id, Box::new(relay)));
        Ok(None)
    }

    fn logs(&mut self, id: u64, request: &Request) -> Answer {
        let follow = match request.query.as_str() {
            "" | "follow=false" => false,
            "follow=true" => true,
            _ => return Err(Response::fault(400, "the query is follow=true or follow=false")),
        };
        if !follow || self.ended.is_some() {
            let (text, _) = self.log.since(0, usize::MAX);
            return Ok(Some(Response::text("text/plain; charset=utf-8", text)));
        }
        if let Some(connection) = self.connection(id) {
            connection.send(&http::chunked_head("text/plain; charset=utf-8"));
            connection.phase = Phase::Following(0);
        }
        self.feed_followers();
        Ok(None)
    }

    fn count(&mut self, id: u64, form: Form) -> Answer {
        self.counting.insert(id, (form, None));
        self.ask(Ask::Counters, Vec::new(), Then::Counters(id));
        Ok(None)
    }

    /// The VMM has answered, or never will.
    pub(super) fn told(&mut self, then: Then, told: Option<Told>) {
        match (then, told) {
            (Then::Nothing, _) => {}
            (Then::Announce, Some(Told::Guest(Reply::Containers { .. }))) => detach::started(),
            (Then::Counters(id), Some(Told::Counters(counters))) => {
                if let Some((_, have)) = self.counting.get_mut(&id) {
                    *have = Some(counters);
                }
                if self.state != State::Running {
                    return self.tell_counters(id, None);
                }
                if let Some(connection) = self.connection(id) {
                    connection.deadline = Some(Instant::now() + GUEST_PATIENCE);
                }
                self.ask(Ask::Stats, Vec::new(), Then::GuestStats(id));
            }
            (Then::GuestStats(id), Some(Told::Stats(stats))) => self.tell_counters(id, Some(*stats)),
            (Then::GuestStats(id), _) => self.tell_counters(id, None),
            (Then::Attach(id, relay), Some(Told::Guest(Reply::Started { process, .. }))) => {
                self.attach(id, relay, process);
            }
            (Then::StreamsEnd(id), told) => {
                let status = match told {
                    Some(Told::Guest(Reply::Ended { status })) => status,
                    // As if killed with the sandbox.
                    _ => ringfence_protocol::ExitStatus::Signal(libc::SIGKILL as u8),
                };
                self.streams_end(id, status);
            }
            (Then::Change(id, event), Some(Told::Done)) => {
                self.event(event);
                self.answer(id, &Response::empty(204));
            }
            (Then::Set(id, setting), Some(Told::Done)) => {
                self.settings.apply(setting, &mut self.config);
                self.answer(id, &Response::empty(204));
            }
            (Then::Answer(id), Some(Told::Balloon(size))) => self.answer(id, &Response::json(200, &size)),
            (then, told) => {
                let Some(id) = then.waiting() else { return };
                let response = match told {
                    Some(Told::Guest(reply)) if !matches!(then, Then::Counters(_)) => of_reply(reply),
                    Some(_) => Response::fault(502, "the VMM answered something else"),
                    // It is over, or will be in a moment.
                    None => Response::fault(410, State::Stopped.refusal()),
                };
                self.answer(id, &response);
            }
        }
    }

    /// Answers who has asked for counters.
    pub(super) fn tell_counters(&mut self, id: u64, guest: Option<ringfence_protocol::GuestStats>) {
        let Some((form, Some(counters))) = self.counting.remove(&id) else { return };
        let stats = Stats::gather(self, counters, guest);
        let response = match form {
            Form::Json => Response::json(200, &stats),
            Form::Prometheus => Response::text(reports::PROMETHEUS, reports::prometheus(&stats)),
        };
        if let Some(connection) = self.connection(id) {
            connection.deadline = None;
        }
        self.answer(id, &response);
    }
}

fn of_reply(reply: Reply) -> Response {
    match reply {
        Reply::Done => Response::empty(204),
        Reply::Started { process, pid } => Response::json(201, &Started { process, pid }),
        Reply::Ended { status } => Response::json(200, &status),
        Reply::Containers { containers } => Response::json(200, &containers),
        Reply::Failed { errno, message } => {
            let status = match errno as i32 {
                libc::ESRCH => 404,
                libc::EEXIST | libc::EBUSY => 409,
                libc::EAGAIN | libc::ENOMEM | libc::ENOSPC => 503,
                libc::EINVAL => 400,
                // Of executing a program.
                _ => 422,
            };
            Response::json(status, &Fault { fault_message: message, errno: Some(errno) })
        }
    }
}

/// The document in a request.
fn body<T: DeserializeOwned + Serialize>(request: &Request) -> Result<T, Response> {
    let kind = request.content_type.as_deref().unwrap_or("application/json");
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Response::fault(415, "a body is application/json"));
    }
    config::read(&request.body).map_err(|e| Response::fault(400, format!("the body makes no sense: {e}")))
}

/// Says what is wrong with a configuration file's text.
pub fn read_config(text: &str) -> Result<Config, String> {
    let config: Config = config::read(text.as_bytes())?;
    config.check()?;
    if config.image.is_none() || config.container.is_none() {
        return Err("it has no `image`, or no `container`".into());
    }
    Ok(config)
}
