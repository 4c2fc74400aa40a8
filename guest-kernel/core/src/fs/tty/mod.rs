//! Terminals.
//!
//! What Linux does: a tty couples a driver with a line discipline (`n_tty`), which edits lines, echoes and
//! turns control characters into signals; sessions have one as their controlling terminal, which knows the
//! process group in the foreground. A pseudo-terminal is a pair: what is written to the master is typed into
//! the line discipline of the slave, what programs write to the slave comes out of the master.
//!
//! What we do: the only terminals are pseudo-terminals. A [`Pair`] holds everything of one: the discipline,
//! the window size, session and foreground group. Programs open the slave in devpts (or `/dev/tty`), and the
//! master by `/dev/ptmx`; the kernel itself makes a pair by [`open_pty_pair`] and relays its [`Master`] to
//! the host (`--tty`).
//!
//! | module | holds |
//! |---|---|
//! | `termios` | the settings, as user space has them |
//! | `discipline` | the line discipline: pure state |
//! | `pair` | the pair: moving bytes, waiting, hang-up |
//! | `job` | controlling terminal, foreground group, SIGTTIN and SIGTTOU |
//! | `ioctl` | the ioctls of both sides |
//! | `master`, `slave` | the two kinds of open files |
//! | `devpts` | the file system of slaves; `/dev/ptmx` and `/dev/tty` |
//!
//! Lock order: the pid tree lock and sessions' spin locks are never taken with a pair's state locked; wait
//! queues are woken after it is released.

mod devpts;
mod discipline;
mod ioctl;
mod job;
mod master;
mod pair;
mod slave;
mod termios;

pub use devpts::{forget, register};
pub use master::{Master, open_pty_pair};
