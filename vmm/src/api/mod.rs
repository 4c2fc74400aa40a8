//! The API of a sandbox: HTTP/1.1 and JSON on a unix socket, in the supervisor.
//!
//! ```text
//!   client ══ HTTP ══▶ supervisor: Server ══ Question, descriptors ══▶ VMM: door ── Request ──▶ guest kernel
//!      ringfence exec, ps, …     │ routes, states, limits                │ devices' counters
//!      curl, Python              ▼                                       ▼
//!                          log, waits, Prometheus                streams become vsock ports
//! ```
//!
//! The server is the supervisor's, outside of the jail: the VMM, which its guest may take over, makes no sockets, accepts
//! no connections and parses nothing of what strangers send; all it has is one socket to its supervisor
//! ([`crate::door`]). What comes from there is a hostile guest's as far as the supervisor knows: bounded, checked, and put
//! into documents that we make.
//!
//! There is a socket only if somebody has asked for it, with `--api-sock` or by giving the sandbox a name; without
//! there is no thread, no descriptor and no page for it. That is also why this is not hyper and tokio but `httparse` and a loop
//! on one epoll: a runtime would be a tenth of the binary and of an idle sandbox's memory, a thread in a supervisor that
//! must have one to fork the jail's monitor from, and a place for limits that are each a line here: length of head and body,
//! time for a request, connections, questions to the guest, bytes that wait for who does not read.
//!
//! | file | holds |
//! |---|---|
//! | `server.rs` | the loop: connections, the link, the log, time |
//! | `calls.rs` | what each call does |
//! | `routes.rs`, `state.rs` | tables: what can be called, and when |
//! | `config.rs`, `reports.rs` | documents: what a sandbox is, what it tells |
//! | `network.rs` | documents: networks |
//! | `settings.rs` | documents: what can be set while it runs |
//! | `http.rs`, `connection.rs` | requests and responses; a client's connection |
//! | `streams.rs` | a connection that has become the streams of a process |
//! | `link.rs` | the link to the VMM |
//! | `log.rs` | the ring of what was said |
//! | `listen.rs` | the socket's name |
//! | `worker.rs` | the thread of a sandbox without a jail |
//! | `client.rs` | the command line's side |
//!
//! `docs/api.md` is for users, `resources/openapi.yaml` for programs; `schema_tests.rs` holds the latter to the code.

mod calls;
pub mod client;
pub mod config;
mod connection;
pub mod http;
mod link;
pub mod listen;
mod log;
pub mod network;
pub mod reports;
pub mod routes;
#[cfg(test)]
mod schema_tests;
pub mod server;
pub mod settings;
pub mod state;
mod streams;
pub mod worker;

use std::path::{Path, PathBuf};

pub use calls::{Resize, SCHEMA, Shutdown, Signal, Started, read_config};
use ringfence_jailer::{SandboxId, runtime};
pub use streams::{HEADER as FRAME_HEADER, parse as parse_frame};

/// Name of the socket in the directory of a sandbox with a name.
const SOCKET: &str = "api.sock";

/// Where the socket of the sandbox with this name is.
pub fn socket_of(id: &SandboxId) -> PathBuf {
    runtime::base().join(id.as_str()).join(SOCKET)
}

/// The socket that a word of the command line means: a path if there is a slash in it, otherwise a name.
pub fn socket_named(word: &str) -> Result<PathBuf, String> {
    if word.contains('/') {
        return Ok(Path::new(word).into());
    }
    SandboxId::new(word).map(|id| socket_of(&id)).map_err(|e| e.to_string())
}
