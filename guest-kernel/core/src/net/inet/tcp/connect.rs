//! Names and connections: bind, listen, connect, accept.

use alloc::sync::{Arc, Weak};
use core::{net::IpAddr, sync::atomic::Ordering::Relaxed};

use ringfence_hal as hal;

use super::{
    super::{
        address::{AF_UNSPEC, Endpoint, decode, decode_for_bind, family_of, lacks_scope},
        options::Opt,
        packet::Way,
        ports::Bound,
        route::{Route, meant},
    },
    link::Link,
    socket::{Backlog, Phase, TcpSocket},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    net::socket::wait_error,
    random,
    sync::{Interruptible, PollEvents, WaitError, wait_event},
    time::deadline_after,
};

/// `net.core.somaxconn`.
const BACKLOG_MAX: usize = 4096;

/// How long Linux asks for a connection before it gives up, with `tcp_syn_retries` at 6: 1 + 2 + .. + 64 seconds.
const CONNECT_NS: u64 = 127_000_000_000;

/// What came of an attempt to connect.
enum Attempt {
    Connected,
    /// It waits at the listener.
    Full,
    Refused,
}

/// What a `connect` finds.
enum Found {
    Nothing,
    Waiting,
    Outcome(Result<()>),
}

impl TcpSocket {
    fn arc(&self) -> Result<Arc<TcpSocket>> {
        self.me.upgrade().ok_or(Errno::EBADF)
    }

    pub(super) fn bound(&self, ip: IpAddr) -> Bound {
        Bound { ip, only6: self.options.is_on(Opt::V6Only), remote: None }
    }

    /// bind(2).
    pub(super) fn bind_to(&self, task: &TaskRef, name: &[u8]) -> Result<()> {
        let at = decode_for_bind(self.version, self.options.is_on(Opt::V6Only), name)?;
        if matches!(at.ip, IpAddr::V6(ip) if ip.is_multicast()) {
            return Err(Errno::EINVAL);
        }
        self.stack().may_bind(task, self.net.owner(), &self.options, at)?;
        let taken = self
            .with(|s| s.ticket.is_some() || s.chosen.0 || !matches!(s.phase, Phase::Idle) || s.connecting);
        if taken {
            return Err(Errno::EINVAL);
        }
        let later = at.port == 0 && self.options.is_on(Opt::BindAddressNoPort);
        let ticket = if later { None } else { Some(self.take_port(at)?) };
        self.with(|s| {
            s.local = Endpoint { ip: at.ip, port: ticket.map_or(0, |t| t.port) };
            s.ticket = ticket;
            s.chosen = (!at.ip.is_unspecified(), at.port != 0);
            // A port that was asked for with 0 is kept like any other.
            s.chosen.1 |= ticket.is_some();
        });
        Ok(())
    }

    /// Takes the port of `at`, or any.
    pub(super) fn take_port(&self, at: Endpoint) -> Result<super::super::ports::Ticket> {
        let (stack, bound, me) = (self.stack(), self.bound(at.ip), self.arc()?);
        stack.tcp.lock().take(at.port, stack.local_ports(), bound, &me)
    }

    /// listen(2).
    pub(super) fn start_listening(&self, backlog: i32) -> Result<()> {
        let limit = usize::try_from(backlog).unwrap_or(BACKLOG_MAX).min(BACKLOG_MAX);
        let (fit, local, ticket) = self.with(|s| {
            if let Phase::Listening(backlog) = &mut s.phase {
                backlog.limit = limit;
                return (None, s.local, s.ticket);
            }
            (Some(matches!(s.phase, Phase::Idle) && !s.connecting), s.local, s.ticket)
        });
        match fit {
            None => return Ok(()),
            Some(false) => return Err(Errno::EINVAL),
            Some(true) => {}
        }
        let ticket = match ticket {
            Some(ticket) => ticket,
            None => self.take_port(Endpoint { port: 0, ..local })?,
        };
        let me = self.arc()?;
        {
            // The answer and the claim to it are one.
            let ports = self.stack().tcp.lock();
            ports.may_listen(ticket, &me)?;
            self.listens.store(true, Relaxed);
        }
        self.with(|s| {
            (s.ticket, s.local.port, s.chosen.1) = (Some(ticket), ticket.port, true);
            (s.read_shut, s.write_shut, s.error) = (false, false, None);
            s.phase = Phase::Listening(Backlog { limit, ..Backlog::default() });
        });
        Ok(())
    }

    /// connect(2).
    pub(super) fn connect_to(&self, task: &TaskRef, name: &[u8], nonblocking: bool) -> Result<()> {
        if family_of(name)? == AF_UNSPEC {
            self.disconnect();
            return Ok(());
        }
        match self.how_far() {
            Found::Outcome(outcome) => return outcome,
            Found::Waiting if nonblocking => return Err(Errno::EALREADY),
            Found::Waiting => return self.wait_for_connection(task, Errno::EALREADY),
            Found::Nothing => {}
        }
        let to = decode(self.version, name)?;
        let to = Endpoint { ip: meant(to.ip), ..to };
        if to.ip.is_ipv4() && self.options.is_on(Opt::V6Only) {
            return Err(Errno::ENETUNREACH);
        }
        if !to.ip.is_multicast() && lacks_scope(to.ip, name) {
            return Err(Errno::EINVAL);
        }
        let route = match self.stack().route(to.ip)? {
            Route::Broadcast { .. } => return Err(Errno::ENETUNREACH),
            Route::Out { .. } if to.ip.is_multicast() => return Err(Errno::ENETUNREACH),
            route => route,
        };
        let from = self.source_for(route.source(), to)?;
        self.with(|s| {
            s.local = from;
            s.phase = Phase::Waiting(to);
            (s.read_shut, s.write_shut, s.error, s.connecting) = (false, false, None, true);
        });
        match route {
            Route::Out { nic, next, .. } => {
                let neighbor = nic.neighbor(next);
                let (hops, class) = match to.ip.is_ipv4() {
                    true => (self.options.get(Opt::Ttl), self.options.get(Opt::Tos)),
                    false => (self.options.get(Opt::UnicastHops), self.options.get(Opt::TClass)),
                };
                let way =
                    Way { nic, neighbor, from: from.ip, to: to.ip, hops: hops as u8, class: class as u8 };
                self.ask(way, (from, to));
            }
            _ => match self.attempt(from, to) {
                Attempt::Refused => self.refuse(Errno::ECONNREFUSED),
                Attempt::Connected | Attempt::Full => {}
            },
        }
        if nonblocking {
            // Also if it is there already, as the answer would come after this call.
            self.wake();
            return Err(Errno::EINPROGRESS);
        }
        self.wait_for_connection(task, Errno::EINPROGRESS)
    }

    /// What has become of earlier calls.
    fn how_far(&self) -> Found {
        self.with(|s| {
            let told = core::mem::take(&mut s.connecting);
            match &s.phase {
                Phase::Waiting(_) => {
                    s.connecting = true;
                    Found::Waiting
                }
                Phase::Connected(handle) if told => Found::Outcome(handle.with(|mine, _| match mine.over {
                    true => Err(mine.error.take().unwrap_or(Errno::ECONNABORTED)),
                    false => Ok(()),
                })),
                Phase::Connected(_) | Phase::Listening(_) => Found::Outcome(Err(Errno::EISCONN)),
                Phase::Idle if told => {
                    (s.read_shut, s.write_shut) = (false, false);
                    Found::Outcome(Err(s.error.take().unwrap_or(Errno::ECONNABORTED)))
                }
                Phase::Idle => Found::Nothing,
            }
        })
    }

    /// Waits for the outcome; `still` if it waits no longer (`SO_SNDTIMEO`).
    fn wait_for_connection(&self, task: &TaskRef, still: Errno) -> Result<()> {
        let given = self.common.send_deadline();
        let last = deadline_after(CONNECT_NS);
        let deadline = given.unwrap_or(u64::MAX).min(last);
        let decided = || self.with(|s| (!matches!(s.phase, Phase::Waiting(_))).then_some(()));
        match wait_event(task, &self.queue, Interruptible::Yes, Some(deadline), decided) {
            Ok(()) => {}
            Err(WaitError::TimedOut) if given.is_some() && hal::time::now() < last => {
                return Err(still);
            }
            Err(WaitError::TimedOut) => {
                self.disconnect();
                return Err(Errno::ETIMEDOUT);
            }
            Err(e) => return Err(wait_error(given)(e)),
        }
        match self.how_far() {
            Found::Outcome(outcome) => outcome,
            Found::Nothing | Found::Waiting => Err(Errno::ECONNABORTED),
        }
    }

    /// The own name for a connection to `to`, noted in the namespace.
    fn source_for(&self, source: IpAddr, to: Endpoint) -> Result<Endpoint> {
        let (local, chosen, ticket) = self.with(|s| (s.local, s.chosen, s.ticket));
        let ip = if chosen.0 { local.ip } else { source };
        if ip.is_ipv4() != to.ip.is_ipv4() {
            return Err(Errno::ENETUNREACH);
        }
        let (stack, bound, me) = (self.stack(), self.bound(ip), self.arc()?);
        let ticket = match ticket {
            Some(ticket) => {
                stack.tcp.lock().rebind(ticket, bound);
                ticket
            }
            None => {
                let free = |port| stack.is_free(Endpoint { ip, port }, to);
                let mut ports = stack.tcp.lock();
                ports.claim_for_connection(stack.local_ports(), random::next_u64(), bound, &me, free)?
            }
        };
        self.with(|s| s.ticket = Some(ticket));
        let from = Endpoint { ip, port: ticket.port };
        if stack.connect(from, to) {
            return Ok(from);
        }
        self.give_back();
        Err(Errno::EADDRNOTAVAIL)
    }

    /// Asks for a connection. The names are noted, and its phase is `Waiting`.
    fn attempt(&self, from: Endpoint, to: Endpoint) -> Attempt {
        let candidates = {
            let ports = self.stack().tcp.lock();
            ports.best(to.port, |bound, s| if s.listens.load(Relaxed) { bound.fits(to.ip) } else { None })
        };
        // Those that share the port share the connections: all of one client's port go to the same one.
        let spread =
            (u64::from(from.port) << 16 | u64::from(to.port)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let at = (spread as usize).checked_rem(candidates.len()).unwrap_or(0);
        match candidates.get(at) {
            Some(listener) => self.attempt_at(listener, from, to),
            None => Attempt::Refused,
        }
    }

    fn attempt_at(&self, listener: &Arc<TcpSocket>, from: Endpoint, to: Endpoint) -> Attempt {
        let full = |b: &Backlog| b.ready.len() > b.limit;
        let early = listener.with(|s| match &mut s.phase {
            Phase::Listening(b) if full(b) => {
                b.waiting.retain(|w| w.strong_count() > 0 && !w.ptr_eq(&self.me));
                b.waiting.push_back(self.me.clone());
                Some(Attempt::Full)
            }
            Phase::Listening(_) => None,
            _ => Some(Attempt::Refused),
        });
        if let Some(outcome) = early {
            return outcome;
        }
        let server = listener.offspring();
        let (mine, theirs) = Link::pair(
            self.net.clone(),
            (from, to),
            (self.queue.clone(), server.queue.clone()),
            (self.side(), server.side()),
        );
        let ticket = self.stack().tcp.lock().inherit(to.port, server.bound(to.ip), &server);
        server.with(|s| {
            (s.local, s.ticket) = (to, Some(ticket));
            s.phase = Phase::Connected(theirs);
        });
        // From here on it can be used.
        let connected = self.with(|s| {
            let wanted = !s.closed && matches!(s.phase, Phase::Waiting(_));
            if wanted {
                s.phase = Phase::Connected(mine.clone());
            }
            wanted
        });
        let queued = connected
            && listener.with(|s| match &mut s.phase {
                // One more than there is room for may come of a race; no harm is done.
                Phase::Listening(b) => {
                    b.ready.push_back(server.clone());
                    true
                }
                _ => false,
            });
        if queued {
            self.wake();
            listener.queue.wake_all(PollEvents::READABLE);
        } else {
            server.end(true);
            if !connected {
                mine.close(true);
            }
        }
        Attempt::Connected
    }

    /// There is no connection: nobody listens, or not any more.
    pub(super) fn refuse(&self, why: Errno) {
        let names = self.with(|s| match s.phase {
            Phase::Waiting(to) => {
                s.phase = Phase::Idle;
                s.error = Some(why);
                (s.read_shut, s.write_shut) = (true, true);
                Some((s.local, to))
            }
            _ => None,
        });
        if let Some((from, to)) = names {
            self.stack().disconnect(from, to);
            self.give_back();
            self.wake();
        }
    }

    /// Ends whatever it does; it can be used again (`tcp_disconnect`).
    fn disconnect(&self) {
        let phase = self.with(|s| {
            (s.read_shut, s.write_shut, s.error, s.connecting) = (false, false, None, false);
            core::mem::replace(&mut s.phase, Phase::Idle)
        });
        self.listens.store(false, Relaxed);
        let connected = matches!(&phase, Phase::Connected(handle) if !handle.with(|mine, _| mine.over));
        self.leave(phase, true);
        let port = self.with(|s| s.local.port);
        self.give_back();
        self.with(|s| {
            // Its name goes on to have the port, although it is free.
            s.local.port = port;
            s.error = connected.then_some(Errno::ECONNRESET);
        });
        self.wake();
    }

    /// accept(2).
    pub(super) fn accept_next(&self, task: &TaskRef, nonblocking: bool) -> Result<Arc<TcpSocket>> {
        let take = || {
            self.with(|s| match &mut s.phase {
                Phase::Listening(backlog) => backlog.ready.pop_front().map(Ok),
                _ => Some(Err(Errno::EINVAL)),
            })
        };
        let socket = match take() {
            Some(outcome) => outcome?,
            None if nonblocking => return Err(Errno::EAGAIN),
            None => {
                let deadline = self.common.receive_deadline();
                wait_event(task, &self.queue, Interruptible::Yes, deadline, take)
                    .map_err(wait_error(deadline))??
            }
        };
        self.admit_one();
        Ok(socket)
    }

    /// There is room for one of those that wait.
    fn admit_one(&self) {
        let next = || {
            self.with(|s| match &mut s.phase {
                Phase::Listening(backlog) => backlog.waiting.pop_front(),
                _ => None,
            })
        };
        let Ok(me) = self.arc() else { return };
        while let Some(client) = next() {
            let Some(client) = Weak::upgrade(&client) else { continue };
            let names = client.with(|s| match s.phase {
                Phase::Waiting(to) if !s.closed => Some((s.local, to)),
                _ => None,
            });
            if let Some((from, to)) = names {
                if matches!(client.attempt_at(&me, from, to), Attempt::Refused) {
                    client.refuse(Errno::ECONNREFUSED);
                }
                return;
            }
        }
    }
}
