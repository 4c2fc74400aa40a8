//! The settings of a terminal, as user space has them (termios(3), `asm/termbits.h`).

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags! {
    /// `c_iflag`. Bits without an effect here are kept.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[allow(missing_docs)] // named in termios(3)
    pub struct Input: u32 {
        const ISTRIP = 0o40;
        const INLCR = 0o100;
        const IGNCR = 0o200;
        const ICRNL = 0o400;
        const IUCLC = 0o1000;
        const IXON = 0o2000;
        const IXANY = 0o4000;
        const IUTF8 = 0o40000;
        const _ = !0;
    }

    /// `c_oflag`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[allow(missing_docs)] // named in termios(3)
    pub struct Output: u32 {
        const OPOST = 0o1;
        const OLCUC = 0o2;
        const ONLCR = 0o4;
        const OCRNL = 0o10;
        const ONOCR = 0o20;
        const ONLRET = 0o40;
        const XTABS = 0o14000;
        const _ = !0;
    }

    /// `c_lflag`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[allow(missing_docs)] // named in termios(3)
    pub struct Local: u32 {
        const ISIG = 0o1;
        const ICANON = 0o2;
        const ECHO = 0o10;
        const ECHOE = 0o20;
        const ECHOK = 0o40;
        const ECHONL = 0o100;
        const NOFLSH = 0o200;
        const TOSTOP = 0o400;
        const ECHOCTL = 0o1000;
        const ECHOPRT = 0o2000;
        const ECHOKE = 0o4000;
        const EXTPROC = 0o200000;
        const IEXTEN = 0o100000;
        const _ = !0;
    }
}

/// An index into `c_cc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs)] // named in termios(3)
pub enum Special {
    Intr = 0,
    Quit = 1,
    Erase = 2,
    Kill = 3,
    Eof = 4,
    Time = 5,
    Min = 6,
    Start = 8,
    Stop = 9,
    Susp = 10,
    Eol = 11,
    Reprint = 12,
    Werase = 14,
    Lnext = 15,
    Eol2 = 16,
}

/// `struct termios2`, which begins with `struct termios`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios {
    /// `c_iflag`.
    pub iflag: u32,
    /// `c_oflag`.
    pub oflag: u32,
    /// `c_cflag`.
    pub cflag: u32,
    /// `c_lflag`.
    pub lflag: u32,
    /// `c_line`.
    pub line: u8,
    /// `c_cc`.
    pub cc: [u8; 19],
    /// `c_ispeed`.
    pub ispeed: u32,
    /// `c_ospeed`.
    pub ospeed: u32,
}

const CS8: u32 = 0o60;
const CREAD: u32 = 0o200;
const PARENB: u32 = 0o400;
/// `CBAUD`, and how far up the same bits are for input (`IBSHIFT`).
const SPEED_MASK: u32 = 0o10017;
const INPUT_SPEED: u32 = 16;
/// `BOTHER`: the number itself says.
const OTHER_SPEED: u32 = 0o10000;

/// The baud rate of `code`, the bits of `CBAUD`; `given` is the one of `struct termios2`.
fn speed(code: u32, given: u32) -> u32 {
    const LOW: [u32; 16] =
        [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19_200, 38_400];
    const HIGH: [u32; 16] = [
        0, 57_600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000,
        2_000_000, 2_500_000, 3_000_000, 3_500_000, 4_000_000,
    ];
    let table = if code & OTHER_SPEED != 0 { HIGH } else { LOW };
    if code == OTHER_SPEED { given } else { table.get((code & 15) as usize).copied().unwrap_or(0) }
}

/// Bytes of `struct termios`: all but the speeds.
pub const TERMIOS_SIZE: usize = 36;

impl Termios {
    /// What a new terminal has: `tty_std_termios`, 38400 baud.
    pub const STANDARD: Termios = Termios {
        iflag: 0o2400,
        oflag: 0o5,
        cflag: 0o277,
        lflag: 0o105073,
        line: 0,
        cc: [3, 0o34, 0o177, 0o25, 4, 0, 1, 0, 0o21, 0o23, 0o32, 0, 0o22, 0o17, 0o27, 0o26, 0, 0, 0],
        ispeed: 38400,
        ospeed: 38400,
    };

    /// As a pseudo-terminal has it: eight bits a character, without parity, and the speeds that `c_cflag` asks for.
    pub fn of_pty(mut self) -> Termios {
        self.cflag = self.cflag & !PARENB | CS8 | CREAD;
        let input = self.cflag >> INPUT_SPEED & SPEED_MASK;
        self.ospeed = speed(self.cflag & SPEED_MASK, self.ospeed);
        self.ispeed = if input == 0 { self.ospeed } else { speed(input, self.ispeed) };
        self
    }

    /// Whether the usual keys hold and resume output: what `TIOCPKT_DOSTOP` tells.
    pub fn usual_flow_keys(&self) -> bool {
        let keys = (self.special(Special::Start), self.special(Special::Stop));
        self.input(Input::IXON) && keys == (0o21, 0o23)
    }

    /// Whether an input flag is set.
    pub fn input(&self, flag: Input) -> bool {
        self.iflag & flag.bits() != 0
    }

    /// Whether an output flag is set.
    pub fn output(&self, flag: Output) -> bool {
        self.oflag & flag.bits() == flag.bits()
    }

    /// Whether a local flag is set.
    pub fn local(&self, flag: Local) -> bool {
        self.lflag & flag.bits() != 0
    }

    /// A special character or parameter.
    pub fn special(&self, which: Special) -> u8 {
        self.cc.get(which as usize).copied().unwrap_or(0)
    }

    /// Whether `c` is that special character; a NUL setting is none (`_POSIX_VDISABLE`).
    pub fn is(&self, c: u8, which: Special) -> bool {
        c != 0 && c == self.special(which)
    }
}

/// `struct winsize`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WindowSize {
    /// Rows of characters.
    pub rows: u16,
    /// Columns of characters.
    pub cols: u16,
    /// Unused.
    pub xpixel: u16,
    /// Unused.
    pub ypixel: u16,
}
