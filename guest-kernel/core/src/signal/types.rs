//! Signal numbers, sets, actions and `siginfo` (signal(7), sigaction(2)).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A signal number, 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident = $n:literal;)*) => {
        #[allow(missing_docs)] // named in signal(7)
        impl Signal {
            $(pub const $name: Signal = Signal($n);)*

            /// `SIGTERM` and so on; real-time signals are `SIGRT_n`.
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($n => concat!("SIG", stringify!($name)),)*
                    _ => "SIGRT",
                }
            }
        }
    };
}

signals! {
    HUP = 1; INT = 2; QUIT = 3; ILL = 4; TRAP = 5; ABRT = 6; BUS = 7; FPE = 8; KILL = 9; USR1 = 10; SEGV = 11;
    USR2 = 12; PIPE = 13; ALRM = 14; TERM = 15; STKFLT = 16; CHLD = 17; CONT = 18; STOP = 19; TSTP = 20;
    TTIN = 21; TTOU = 22; URG = 23; XCPU = 24; XFSZ = 25; VTALRM = 26; PROF = 27; WINCH = 28; IO = 29;
    PWR = 30; SYS = 31;
}

/// Number of signals.
pub const COUNT: usize = 64;

/// What happens without a handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Default {
    /// The process ends.
    Terminate,
    /// The process ends, and would leave a core.
    Core,
    /// Nothing.
    Ignore,
    /// The process stops.
    Stop,
    /// The process continues, which sending it has already done.
    Continue,
}

impl Signal {
    /// Checks a number from a program.
    pub fn new(n: i32) -> Option<Signal> {
        u8::try_from(n).ok().filter(|n| (1..=COUNT as u8).contains(n)).map(Signal)
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The index into tables.
    pub const fn index(self) -> usize {
        self.0 as usize - 1
    }

    /// Whether several instances queue.
    pub const fn is_realtime(self) -> bool {
        self.0 >= 32
    }

    /// Whether it can be neither caught, blocked nor ignored.
    pub fn is_unblockable(self) -> bool {
        self == Signal::KILL || self == Signal::STOP
    }

    /// One of the four that stop a process by default.
    pub fn is_stop(self) -> bool {
        matches!(self, Signal::STOP | Signal::TSTP | Signal::TTIN | Signal::TTOU)
    }

    /// What happens without a handler.
    pub fn default_action(self) -> Default {
        match self {
            Signal::CHLD | Signal::URG | Signal::WINCH => Default::Ignore,
            Signal::CONT => Default::Continue,
            s if s.is_stop() => Default::Stop,
            Signal::QUIT
            | Signal::ILL
            | Signal::TRAP
            | Signal::ABRT
            | Signal::BUS
            | Signal::FPE
            | Signal::SEGV
            | Signal::SYS
            | Signal::XCPU
            | Signal::XFSZ => Default::Core,
            _ => Default::Terminate,
        }
    }
}

/// A set of signals: bit n is signal n + 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct SigSet(pub u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: SigSet = SigSet(0);
    /// What no mask can hold.
    pub const UNBLOCKABLE: SigSet = SigSet(1 << 8 | 1 << 18);
    /// The four stop signals.
    pub const STOPS: SigSet = SigSet(1 << 18 | 1 << 19 | 1 << 20 | 1 << 21);
    /// Those a fault of the program raises; they are delivered first.
    pub const SYNCHRONOUS: SigSet = SigSet(1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30);

    /// Just `s`.
    pub const fn of(s: Signal) -> SigSet {
        SigSet(1 << s.index())
    }

    /// Whether `s` is in it.
    pub const fn has(self, s: Signal) -> bool {
        self.0 & (1 << s.index()) != 0
    }

    /// With `s`.
    pub const fn with(self, s: Signal) -> SigSet {
        SigSet(self.0 | 1 << s.index())
    }

    /// All of both.
    pub const fn union(self, o: SigSet) -> SigSet {
        SigSet(self.0 | o.0)
    }

    /// Those not in `o`.
    pub const fn without(self, o: SigSet) -> SigSet {
        SigSet(self.0 & !o.0)
    }

    /// Those in both.
    pub const fn and(self, o: SigSet) -> SigSet {
        SigSet(self.0 & o.0)
    }

    /// Whether it has none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The one to deliver first: synchronous ones, then by number.
    pub fn first(self) -> Option<Signal> {
        let urgent = self.and(Self::SYNCHRONOUS);
        let set = if urgent.is_empty() { self } else { urgent };
        (!set.is_empty()).then(|| Signal(set.0.trailing_zeros() as u8 + 1))
    }
}

pub use saflags::SaFlags;

mod saflags {
    #![allow(missing_docs)] // the names of the manual page
    bitflags::bitflags! {
        /// `sa_flags`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
        pub struct SaFlags: u64 {
            const NOCLDSTOP = 1;
            const NOCLDWAIT = 2;
            const SIGINFO = 4;
            const RESTORER = 0x0400_0000;
            const ONSTACK = 0x0800_0000;
            const RESTART = 0x1000_0000;
            const NODEFER = 0x4000_0000;
            const RESETHAND = 0x8000_0000;
        }
    }
}

/// `SIG_DFL`.
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN`.
pub const SIG_IGN: u64 = 1;

/// The kernel's `struct sigaction` on x86-64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigAction {
    /// Handler address, [`SIG_DFL`] or [`SIG_IGN`].
    pub handler: u64,
    /// [`SaFlags`]; unknown bits are kept out when it is set.
    pub flags: u64,
    /// Where the handler returns to; calls `rt_sigreturn`.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: SigSet,
}

impl SigAction {
    /// The flags, known bits only.
    pub fn flags(&self) -> SaFlags {
        SaFlags::from_bits_truncate(self.flags)
    }

    /// Whether `signal` has no effect under this action.
    pub fn ignores(&self, signal: Signal) -> bool {
        self.handler == SIG_IGN || (self.handler == SIG_DFL && signal.default_action() == Default::Ignore)
    }
}

/// `si_code` values (sigaction(2)).
pub mod code {
    #![allow(missing_docs)] // named in sigaction(2)
    pub const SI_USER: i32 = 0;
    pub const SI_KERNEL: i32 = 0x80;
    pub const SI_QUEUE: i32 = -1;
    pub const SI_TIMER: i32 = -2;
    pub const SI_MESGQ: i32 = -3;
    pub const SI_ASYNCIO: i32 = -4;
    pub const SI_SIGIO: i32 = -5;
    pub const SI_TKILL: i32 = -6;
    pub const ILL_ILLOPN: i32 = 2;
    pub const FPE_INTDIV: i32 = 1;
    pub const FPE_FLTINV: i32 = 7;
    pub const SEGV_MAPERR: i32 = 1;
    pub const SEGV_ACCERR: i32 = 2;
    pub const BUS_ADRALN: i32 = 1;
    pub const BUS_ADRERR: i32 = 2;
    pub const SYS_SECCOMP: i32 = 1;
    pub const TRAP_BRKPT: i32 = 1;
    pub const TRAP_TRACE: i32 = 2;
    pub const TRAP_HWBKPT: i32 = 4;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
    pub const CLD_DUMPED: i32 = 3;
    pub const CLD_TRAPPED: i32 = 4;
    pub const CLD_STOPPED: i32 = 5;
    pub const CLD_CONTINUED: i32 = 6;
}

/// What came with a signal; one arm for each layout of the union in `siginfo_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the fields of siginfo_t
pub enum Fields {
    /// Nothing.
    None,
    /// `kill`, `tgkill`.
    Sender { pid: i32, uid: u32 },
    /// `sigqueue`.
    Queued { pid: i32, uid: u32, value: u64 },
    /// SIGCHLD.
    Child { pid: i32, uid: u32, status: i32, utime: i64, stime: i64 },
    /// SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP.
    Fault { addr: u64 },
    /// SIGSYS.
    Syscall { addr: u64, number: i32, arch: u32, errno: i32 },
    /// POSIX timers.
    Timer { id: i32, overrun: i32, value: u64 },
    /// As `rt_sigqueueinfo` was given it: bytes 16 to 127.
    Raw([u8; 112]),
}

/// A signal with what came with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SigInfo {
    /// Which.
    pub signal: Signal,
    /// Why ([`code`]).
    pub code: i32,
    /// The rest.
    pub fields: Fields,
}

impl SigInfo {
    /// Sent by the kernel without more to say.
    pub fn kernel(signal: Signal) -> SigInfo {
        SigInfo { signal, code: code::SI_KERNEL, fields: Fields::None }
    }

    /// Raised by a fault at `addr`.
    pub fn fault(signal: Signal, code: i32, addr: u64) -> SigInfo {
        SigInfo { signal, code, fields: Fields::Fault { addr } }
    }

    /// Sent by `kill` (or `tgkill`, by `code`) from this process.
    pub fn user(signal: Signal, code: i32, pid: i32, uid: u32) -> SigInfo {
        SigInfo { signal, code, fields: Fields::Sender { pid, uid } }
    }

    /// The 128 bytes of `siginfo_t`.
    pub fn to_bytes(&self) -> [u8; 128] {
        let mut out = [0u8; 128];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(to) = out.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
        };
        put(0, &i32::from(self.signal.number()).to_ne_bytes());
        put(8, &self.code.to_ne_bytes());
        match self.fields {
            Fields::None => {}
            Fields::Sender { pid, uid } => {
                put(16, &pid.to_ne_bytes());
                put(20, &uid.to_ne_bytes());
            }
            Fields::Queued { pid, uid, value } => {
                put(16, &pid.to_ne_bytes());
                put(20, &uid.to_ne_bytes());
                put(24, &value.to_ne_bytes());
            }
            Fields::Child { pid, uid, status, utime, stime } => {
                put(16, &pid.to_ne_bytes());
                put(20, &uid.to_ne_bytes());
                put(24, &status.to_ne_bytes());
                put(32, &utime.to_ne_bytes());
                put(40, &stime.to_ne_bytes());
            }
            Fields::Fault { addr } => put(16, &addr.to_ne_bytes()),
            Fields::Syscall { addr, number, arch, errno } => {
                put(4, &errno.to_ne_bytes());
                put(16, &addr.to_ne_bytes());
                put(24, &number.to_ne_bytes());
                put(28, &arch.to_ne_bytes());
            }
            Fields::Timer { id, overrun, value } => {
                put(16, &id.to_ne_bytes());
                put(20, &overrun.to_ne_bytes());
                put(24, &value.to_ne_bytes());
            }
            Fields::Raw(bytes) => put(16, &bytes),
        }
        out
    }

    /// What a program hands to `rt_sigqueueinfo`.
    pub fn from_bytes(signal: Signal, bytes: &[u8; 128]) -> SigInfo {
        let (head, rest) = bytes.split_at(16);
        let mut fields = [0; 112];
        fields.copy_from_slice(rest);
        let mut code = [0; 4];
        code.copy_from_slice(head.get(8..12).unwrap_or(&[0; 4]));
        SigInfo { signal, code: i32::from_ne_bytes(code), fields: Fields::Raw(fields) }
    }
}
