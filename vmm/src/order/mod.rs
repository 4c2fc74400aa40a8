//! A sandbox from its description to its end, in this process or in the jail.
//!
//! The supervisor (`cli::run`) opens everything a sandbox needs and writes an [`Order`]: plain data, and open
//! descriptors. [`carry_out`] builds the sandbox from it, runs it, and tells [`News`] of three moments. It opens
//! nothing by a path, so it is the same code in the jail, where nothing has one:
//!
//! ```text
//!   ringfence run ── Order ──▶ carry_out ── News ──▶ ringfence run                       (--no-jail)
//!
//!   ringfence run ══ fd 3: Order as JSON ══▶ ringfence vmm: process ── Order ──▶ carry_out
//!         ▲                                                                        │
//!         ╚═══════════════════════════ fd 3: News as JSON ═════════════════════════╝
//! ```
//!
//! In the jail descriptor 3 is a unix stream socket; both sides send JSON documents, one a line. The descriptors of an
//! order are numbers there. The VMM's words are those of a process that its guest may have taken over: the supervisor
//! bounds their length and keeps them from driving the terminal, and does nothing else by them than print and exit.

pub mod carry_out;
pub mod process;

use std::os::fd::OwnedFd;
use std::time::Duration;

use ringfence_devices::net::{Mac, Policy};
use ringfence_jailer::{Companion, Helper};
use ringfence_protocol::{Container, Network};
use serde::{Deserialize, Serialize};

use crate::cli::Failure;
use crate::stats::Report;
use crate::timeline::Timeline;

/// What is to be run. `F` is a descriptor: open, or its number in the process that gets the order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order<F> {
    /// vCPUs.
    pub cpus: u8,
    /// RAM in bytes.
    pub memory: u64,
    /// What the image is called in messages.
    pub image_name: String,
    /// The first container, whose streams are among the files.
    pub container: Container,
    /// Rows and columns of the terminal, if the program gets one.
    pub terminal: Option<(u16, u16)>,
    /// The guest kernel's log is from this level on.
    pub log_level: Option<u8>,
    /// End the sandbox after this time.
    pub timeout: Option<Duration>,
    /// Gather counters.
    pub stats: bool,
    /// Began with the command.
    pub timeline: Timeline,
    /// Everything that is open.
    pub files: Files<F>,
    /// What the guest is told of its networks, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// The gofer that is to be started with it, if there are volumes.
    #[serde(skip)]
    pub companion: Option<Companion>,
    /// The program that has its network, if that is to be started.
    #[serde(skip)]
    pub helper: Option<Helper>,
}

/// A network interface the sandbox gets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface<F> {
    /// The TAP interface, or the socket.
    pub file: F,
    /// It is a socket.
    pub stream: bool,
    /// The guest's address.
    pub mac: Mac,
    /// The largest packet in bytes.
    pub mtu: u16,
    /// Where the guest may send; everywhere without one.
    pub egress: Option<Policy>,
    /// Most bytes a second to the guest.
    pub rx_bandwidth: Option<u64>,
    /// Most bytes a second from it.
    pub tx_bandwidth: Option<u64>,
}

impl<F> Interface<F> {
    fn map<G>(self, f: impl FnOnce(F) -> G) -> Interface<G> {
        let Interface { file, stream, mac, mtu, egress, rx_bandwidth, tx_bandwidth } = self;
        Interface { file: f(file), stream, mac, mtu, egress, rx_bandwidth, tx_bandwidth }
    }
}

/// A disk the sandbox gets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk<F> {
    /// The open file, locked, and open for no more than is needed.
    pub file: F,
    /// What it is called in messages.
    pub name: String,
    /// It is not to be written.
    pub read_only: bool,
    /// What the guest is told it is.
    pub id: String,
    /// Most bytes a second.
    pub bandwidth: Option<u64>,
    /// Most requests a second.
    pub ops: Option<u64>,
    /// Where its file system is mounted.
    pub mount: Option<String>,
}

impl<F> Disk<F> {
    fn map<G>(self, f: impl FnOnce(F) -> G) -> Disk<G> {
        let Disk { file, name, read_only, id, bandwidth, ops, mount } = self;
        Disk { file: f(file), name, read_only, id, bandwidth, ops, mount }
    }
}

/// The descriptors of an order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files<F> {
    /// `/dev/kvm`.
    pub kvm: F,
    /// The root image, unless the root is a volume.
    pub image: Option<F>,
    /// Our own executable, of which the guest kernel is a part.
    pub executable: Option<F>,
    /// Another guest kernel.
    pub guest: Option<F>,
    /// Standard input, or what is typed on the terminal.
    pub input: F,
    /// Standard output, or what the terminal shows.
    pub output: F,
    /// Standard error; a terminal has none.
    pub error: Option<F>,
    /// Where system calls are printed.
    pub trace: Option<F>,
    /// The link to the supervisor's API, if it has one ([`crate::door`]).
    pub link: Option<F>,
    /// Where the guest kernel's log goes; standard error if there is none and a level was given.
    pub log: Option<F>,
    /// The supervisor's job ([`ringfence_devices::host_stream::Job`]), when standard input is its terminal.
    pub job: Option<F>,
    /// Disks, in the order the guest sees them.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk<F>>,
    /// Network interfaces, likewise.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface<F>>,
    /// To the gofer.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub gofer: Option<F>,
}

fn none<F>() -> Option<F> {
    None
}

impl<F> Files<F> {
    /// The same with every descriptor as `f` says.
    fn map<G>(self, mut f: impl FnMut(F) -> G) -> Files<G> {
        Files {
            kvm: f(self.kvm),
            image: self.image.map(&mut f),
            executable: self.executable.map(&mut f),
            guest: self.guest.map(&mut f),
            input: f(self.input),
            output: f(self.output),
            error: self.error.map(&mut f),
            trace: self.trace.map(&mut f),
            link: self.link.map(&mut f),
            log: self.log.map(&mut f),
            job: self.job.map(&mut f),
            disks: self.disks.into_iter().map(|disk| disk.map(&mut f)).collect(),
            interfaces: self.interfaces.into_iter().map(|interface| interface.map(&mut f)).collect(),
            gofer: self.gofer.map(&mut f),
        }
    }
}

impl<F> Order<F> {
    fn map<G>(self, f: impl FnMut(F) -> G) -> Order<G> {
        let Order { cpus, memory, image_name, container, terminal, log_level, timeout, stats, .. } = self;
        let Order { timeline, files, network, companion, helper, .. } = self;
        let files = files.map(f);
        Order {
            cpus,
            memory,
            image_name,
            container,
            terminal,
            log_level,
            timeout,
            stats,
            timeline,
            files,
            network,
            companion,
            helper,
        }
    }
}

impl Order<OwnedFd> {
    /// The order for a process that gets the descriptors as `first`, `first + 1`, …
    pub fn number(self, first: i32) -> (Order<i32>, Vec<OwnedFd>) {
        let mut files = Vec::new();
        let order = self.map(|file| {
            files.push(file);
            first + files.len() as i32 - 1
        });
        (order, files)
    }
}

/// What is told while an order is carried out, in this order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum News {
    /// From now on signals to the process are signals to the program.
    Ready,
    /// The vCPUs have stopped and output is being delivered: a signal may end everything at once.
    Stopped,
    /// All is done. The process and its memory are still as they were, to be measured.
    Over(Box<Conclusion>),
}

/// How it ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conclusion {
    /// The command's exit code.
    pub code: u8,
    /// What went wrong besides, a sentence each.
    pub notes: Vec<String>,
    /// Counters, if they were asked for.
    pub report: Option<Report>,
    /// Address and length of the image in the process.
    pub image: Option<(u64, u64)>,
    /// What a broken guest kernel printed last.
    pub last_words: String,
    /// Why the code is not the program's.
    pub message: Option<String>,
}

impl Conclusion {
    /// Nothing but a code.
    pub fn of_code(code: u8) -> Self {
        Self { code, notes: Vec::new(), report: None, image: None, last_words: String::new(), message: None }
    }
}

impl From<Failure> for Conclusion {
    fn from(failure: Failure) -> Self {
        Self { message: Some(failure.message), ..Self::of_code(failure.code) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn an_order_keeps_its_descriptors_apart() {
        let open = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let order = Order {
            cpus: 1,
            memory: 1 << 28,
            image_name: "x".into(),
            container: serde_json::from_str(r#"{"process": {"args": ["true"]}}"#).unwrap(),
            terminal: None,
            log_level: None,
            timeout: Some(Duration::from_millis(1500)),
            stats: false,
            timeline: Timeline::start(),
            files: Files {
                kvm: open(),
                image: Some(open()),
                executable: Some(open()),
                guest: None,
                input: open(),
                output: open(),
                error: Some(open()),
                trace: None,
                link: Some(open()),
                log: None,
                job: None,
                disks: vec![Disk {
                    file: open(),
                    name: "d".into(),
                    read_only: true,
                    id: String::new(),
                    bandwidth: None,
                    ops: Some(7),
                    mount: None,
                }],
                interfaces: vec![Interface {
                    file: open(),
                    stream: true,
                    mac: Mac([2, 0, 0, 0, 0, 1]),
                    mtu: 1500,
                    egress: Some(Policy::public(&[], &[])),
                    rx_bandwidth: None,
                    tx_bandwidth: Some(1),
                }],
                gofer: None,
            },
            network: Some(Network::default()),
            companion: None,
            helper: None,
        };
        let raw: Vec<_> =
            [&order.files.kvm, order.files.link.as_ref().unwrap()].map(|f| f.as_raw_fd()).into();
        let (numbered, files) = order.number(4);
        let text = serde_json::to_string(&numbered).unwrap();
        let read: Order<i32> = serde_json::from_str(&text).unwrap();
        assert_eq!((read.files.kvm, read.files.link, read.files.trace), (4, Some(10), None));
        assert_eq!((read.files.disks[0].file, read.files.disks[0].ops), (11, Some(7)));
        assert_eq!((read.files.interfaces[0].file, read.files.interfaces[0].mtu), (12, 1500));
        assert_eq!(
            (read.files.interfaces[0].egress.is_some(), read.network),
            (true, Some(Network::default()))
        );
        assert_eq!(read.timeout, Some(Duration::from_millis(1500)));
        assert_eq!([files[0].as_raw_fd(), files[6].as_raw_fd()].as_slice(), raw);
    }

    #[test]
    fn news_are_one_line() {
        let text = serde_json::to_string(&News::Over(Box::new(Conclusion {
            last_words: "a\nb".into(),
            ..Conclusion::of_code(7)
        })));
        assert!(!text.unwrap().contains('\n'));
    }
}
