//! What the host asks of containers, and the answers.
//!
//! One request is dealt with at a time, in the order of arrival; none waits for a program. A request to wait leaves its
//! number with the process and is answered when that has ended.

use alloc::{boxed::Box, sync::Arc};

use ringfence_protocol::{Reply, Request, Streams, ToHost};

use super::channel::Channel;
use crate::{
    TaskRef,
    container::{self, Connected, Failed},
    drivers::vsock::Vsock,
    errno::Errno,
};

/// Who answers.
pub struct Server {
    pub channel: Arc<Channel>,
    pub vsock: Arc<Vsock>,
}

/// Connects the streams of a process to the host.
pub fn connect(vsock: &Arc<Vsock>, streams: &Streams) -> Connected {
    match *streams {
        Streams::Pipes { stdin, stdout, stderr } => Connected::Pipes([
            stdin.map(|port| vsock.connect_on_demand(port)),
            stdout.map(|port| vsock.connect(port)),
            stderr.map(|port| vsock.connect(port)),
        ]),
        Streams::Tty { port, rows, cols } => Connected::Tty { stream: vsock.connect(port), rows, cols },
    }
}

impl Server {
    /// Does what is asked and answers.
    pub fn answer(&self, task: &TaskRef, id: u64, request: Request) {
        let reply = match request {
            Request::Wait { container, process } => match self.wait(task, id, &container, process) {
                Ok(()) => return,
                Err(e) => Err(e),
            },
            request => self.perform(request),
        };
        let reply = reply.unwrap_or_else(|(errno, message)| failed(errno, message));
        send(task, &self.channel, id, reply);
    }

    fn perform(&self, request: Request) -> Result<Reply, Failed> {
        match request {
            Request::Create { container, spec } => {
                let streams = || connect(&self.vsock, &spec.process.streams);
                container::create(&container, &spec, false, streams)?;
            }
            Request::Start { container } => {
                let process = container::find(&container)?.start(true)?;
                return Ok(started(ringfence_protocol::INIT_PROCESS, process.pid));
            }
            Request::Exec { container, process } => {
                let streams = || connect(&self.vsock, &process.streams);
                let (number, process) = container::find(&container)?.exec(&process, streams)?;
                return Ok(started(number, process.pid));
            }
            Request::Signal { container, process, signal } => {
                let target = container::find(&container)?.process(process)?;
                target.signal(signal).map_err(|e| match e {
                    Errno::ESRCH => (e, alloc::format!("process {process} of `{container}` has ended")),
                    e => (e, alloc::format!("there is no signal {signal}")),
                })?;
            }
            Request::Resize { container, process, rows, cols } => {
                let target = container::find(&container)?.process(process)?;
                target
                    .resize(rows, cols)
                    .map_err(|e| (e, alloc::format!("process {process} of `{container}` has no terminal")))?;
            }
            Request::List => return Ok(Reply::Containers { containers: container::list() }),
            Request::Remove { container } => container::find(&container)?.remove()?,
            Request::Wait { .. } => {} // dealt with before
        }
        Ok(Reply::Done)
    }

    fn wait(&self, task: &TaskRef, id: u64, container: &str, process: u32) -> Result<(), Failed> {
        let channel = self.channel.clone();
        let tell = move |task: &TaskRef, status| {
            send(task, &channel, id, Reply::Ended { status: container::for_host(status) });
        };
        container::find(container)?.process(process)?.on_end(task, Box::new(tell));
        Ok(())
    }
}

fn started(process: u32, pid: i32) -> Reply {
    Reply::Started { process, pid: pid.unsigned_abs() }
}

fn failed(errno: Errno, message: alloc::string::String) -> Reply {
    Reply::Failed { errno: errno.raw().into(), message }
}

fn send(task: &TaskRef, channel: &Channel, id: u64, reply: Reply) {
    if id != 0 {
        let _ = channel.send(task, &ToHost::Reply { id, reply }); // a host that is gone ends the machine
    }
}
