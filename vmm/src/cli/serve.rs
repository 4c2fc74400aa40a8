//! `ringfence serve`: a sandbox that is described over the API, started when somebody says so, and then as `ringfence run`'s.
//!
//! Until it is started this process has nothing but the socket: no thread, because it forks the jail's monitor, and nothing of
//! KVM. A description that cannot be started is answered, and can be changed.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Failure;
use super::run::jailed::{self, NotStarted};
use super::run::launch::{self, Counters};
use crate::api::config::Config;
use crate::api::listen::Name;
use crate::api::server::{Server, Wanted};
use crate::api::state::State;
use crate::cli::Format;
use crate::order::Conclusion;
use crate::signals::Signals;
use crate::timeline::Timeline;

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The API's unix socket
    #[arg(long, value_name = "PATH")]
    api_sock: PathBuf,
}

/// Runs `ringfence serve`.
pub fn main(args: Args, timeline: Timeline) -> Result<u8, Failure> {
    let name: (Name, UnixListener) = Name::bind(&args.api_sock).map_err(Failure::setup)?;
    let mut signals = launch::block_signals(true)?;
    let mut server = launch::server(name, State::Configuring, Config::default())?;
    let mut timeline = Some(timeline);
    loop {
        let config = match wait(&mut server, &mut signals)? {
            Next::Start(config) => *config,
            Next::End(signal) => return Ok(128 + signal as u8),
        };
        server.set_name(config.jail.name.clone());
        let counters = config.boot.stats.then_some(Counters { format: Format::Text, file: None });
        let timeline = timeline.take().unwrap_or_else(Timeline::start);
        match start(&config, server, signals, timeline) {
            Ok(conclusion) => return launch::conclude(conclusion?, counters.as_ref()),
            Err(not_started) => {
                let NotStarted { failure, server: Some(again), signals: unused } = *not_started else {
                    return Err(Failure::setup("the server is gone"));
                };
                (server, signals) = (again, unused);
                server.not_started(&failure);
            }
        }
    }
}

enum Next {
    Start(Box<Config>),
    End(libc::c_int),
}

/// Serves until the sandbox is to be started, or a signal ends us.
fn wait(server: &mut Server, signals: &mut Signals) -> Result<Next, Failure> {
    loop {
        if let Some(Wanted::Start(config)) = server.process() {
            return Ok(Next::Start(config));
        }
        let due = server.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let due = due.and_then(|due| Timespec::try_from(due).ok());
        let called = {
            let mut fds = [PollFd::new(&*server, PollFlags::IN), PollFd::new(&*signals, PollFlags::IN)];
            match poll(&mut fds, due.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Failure::setup(format!("poll: {e}"))),
            }
            !fds[1].revents().is_empty()
        };
        while let Some(signal) = signals.take().filter(|_| called) {
            match signal {
                libc::SIGTSTP => Signals::stop_as_asked(),
                libc::SIGCONT | libc::SIGWINCH => {}
                signal => return Ok(Next::End(signal)),
            }
        }
    }
}

/// Starts the sandbox and sees it through to its end. An error: nothing was started.
fn start(
    config: &Config,
    server: Server,
    signals: Signals,
    timeline: Timeline,
) -> Result<Result<Conclusion, Failure>, Box<NotStarted>> {
    let prepared = launch::check_memory(config.machine.memory).and_then(|()| {
        let image = launch::open_image(config)?;
        let jail = launch::jail_config(config)?;
        let mut order = launch::order(config, image, timeline)?;
        let ends = launch::connect(&mut order, None)?;
        Ok((order, jail, ends))
    });
    let (order, jail, ends) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return Err(Box::new(NotStarted { failure, server: Some(server), signals })),
    };
    let terminal = order.terminal.is_some();
    match jail {
        Some(jail) => {
            let api = jailed::Api { server: Some(server), ends: Some(ends), named: None };
            let begun = jailed::begin(order, jail, signals, api)?;
            Ok(launch::release_streams(terminal).and_then(|()| begun.run()))
        }
        None => Ok(launch::release_streams(terminal)
            .and_then(|()| launch::here(order, signals, Some((server, ends))))),
    }
}
