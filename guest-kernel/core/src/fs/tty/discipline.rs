//! The line discipline: `drivers/tty/n_tty.c` as a state machine without locks, sleeping or tasks.
//!
//! Bytes typed go in by [`Discipline::receive`], which edits the line, echoes into the output and says which
//! signals to send. Programs take whole lines (canonical mode) or bytes by [`Discipline::read`], and put
//! their output through [`Discipline::write`]; what the terminal shows comes out of [`Discipline::take_output`].

use alloc::collections::VecDeque;

use smallvec::SmallVec;

use super::termios::{Input, Local, Output, Special, Termios};
use crate::signal::Signal;

/// `N_TTY_BUF_SIZE` less one: input bytes kept, but for the one that ends a line.
const INPUT_MAX: usize = 4095;
/// Output bytes kept before writers have to wait; echo may go beyond it, by as much again.
pub(super) const OUTPUT_MAX: usize = 32 * 1024;

/// Output that has come to the master: on Linux what its own buffer holds.
const SHOWN_MAX: usize = 4095;

/// Signals that input asked for.
pub(super) type Signals = SmallVec<[Signal; 2]>;

/// A line ready to be read.
#[derive(Clone, Copy)]
struct Line {
    /// Its bytes, with the character that ended it unless that was EOF.
    len: usize,
}

/// What erasing erases.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Erase {
    Character,
    Word,
    Line,
}

/// The state of one terminal.
pub(super) struct Discipline {
    termios: Termios,
    input: VecDeque<u8>,
    /// Complete lines at the front of `input`; what follows them is being edited. Empty in raw mode.
    lines: VecDeque<Line>,
    /// Sum of the lengths of `lines`.
    complete: usize,
    /// The next character is literal.
    literal: bool,
    /// With `ECHOPRT`: what is erased is being shown, after a backslash.
    erasing: bool,
    output: VecDeque<u8>,
    /// Output is held (Ctrl-S, `TCOOFF`).
    stopped: bool,
    /// Column of the cursor, as far as we know.
    column: usize,
    /// Output there was before the bytes that are being typed: what comes after it is echo not yet shown.
    settled: usize,
    /// Column where the line being edited began.
    line_column: usize,
}

fn is_control(c: u8) -> bool {
    c < 0x20 || c == 0x7f
}

impl Discipline {
    pub fn new(termios: Termios) -> Discipline {
        Discipline {
            termios,
            input: VecDeque::new(),
            lines: VecDeque::new(),
            complete: 0,
            literal: false,
            erasing: false,
            output: VecDeque::new(),
            stopped: false,
            column: 0,
            settled: 0,
            line_column: 0,
        }
    }

    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    fn canonical(&self) -> bool {
        self.termios.local(Local::ICANON) && !self.termios.local(Local::EXTPROC)
    }

    /// Changes the settings. Going canonical, what is there becomes a line; going raw, it becomes bytes.
    pub fn set_termios(&mut self, new: Termios) {
        let was = self.canonical();
        self.termios = new;
        if was != self.canonical() {
            self.lines.clear();
            self.complete = 0;
            self.literal = false;
            self.erasing = false;
            if self.canonical() && !self.input.is_empty() {
                self.complete = self.input.len();
                self.lines.push_back(Line { len: self.complete });
            }
        }
        if !self.termios.input(Input::IXON) {
            self.stopped = false;
        }
    }

    // --- input ---

    /// How many bytes [`Discipline::receive`] takes now. A full buffer without a complete line in it takes
    /// more, each replacing the last: else nobody could end the line.
    pub fn room(&self) -> usize {
        match INPUT_MAX.saturating_sub(self.input.len()) {
            0 if self.canonical() && self.lines.is_empty() => 1,
            n => n,
        }
    }

    /// Bytes are about to be typed together: what they echo is shown only after all of them.
    pub fn begin(&mut self) {
        self.settled = self.output.len();
    }

    /// A byte was typed.
    pub fn receive(&mut self, byte: u8, signals: &mut Signals) {
        let t = self.termios;
        let mut c = byte;
        if t.input(Input::ISTRIP) {
            c &= 0x7f;
        }
        if t.input(Input::IUCLC) && t.local(Local::IEXTEN) {
            c = c.to_ascii_lowercase();
        }
        if t.local(Local::EXTPROC) {
            return self.store(c); // the other end edits
        }
        if core::mem::take(&mut self.literal) {
            return self.ordinary(c);
        }
        if t.input(Input::IXON) {
            if t.is(c, Special::Start) {
                self.stopped = false;
                return;
            }
            if t.is(c, Special::Stop) {
                self.stopped = true;
                return;
            }
        }
        if t.local(Local::ISIG)
            && let Some(signal) = self.signal_of(c)
        {
            signals.push(signal);
            if t.input(Input::IXON) {
                self.stopped = false;
            }
            if !t.local(Local::NOFLSH) {
                self.flush_input();
                self.output.truncate(self.settled.min(SHOWN_MAX));
            }
            if t.local(Local::ECHO) {
                self.echo(c);
            }
            return;
        }
        if t.input(Input::IXANY) && t.input(Input::IXON) {
            self.stopped = false;
        }
        match c {
            b'\r' if t.input(Input::IGNCR) => return,
            b'\r' if t.input(Input::ICRNL) => {
                c = b'\n';
                if !self.canonical() {
                    if t.local(Local::ECHO) {
                        self.output_processed(c);
                    }
                    return self.store(c);
                }
            }
            b'\n' if t.input(Input::INLCR) => c = b'\r',
            _ => {}
        }
        if self.canonical() { self.canonical_character(c) } else { self.ordinary(c) }
    }

    fn signal_of(&self, c: u8) -> Option<Signal> {
        [(Special::Intr, Signal::INT), (Special::Quit, Signal::QUIT), (Special::Susp, Signal::TSTP)]
            .into_iter()
            .find(|(special, _)| self.termios.is(c, *special))
            .map(|(_, signal)| signal)
    }

    fn canonical_character(&mut self, c: u8) {
        let t = self.termios;
        let extended = t.local(Local::IEXTEN);
        if t.is(c, Special::Erase) {
            self.erase(Erase::Character, c);
        } else if t.is(c, Special::Kill) {
            self.erase(Erase::Line, c);
        } else if extended && t.is(c, Special::Werase) {
            self.erase(Erase::Word, c);
        } else if extended && t.is(c, Special::Lnext) {
            self.literal = true;
            self.end_erasing();
            if t.local(Local::ECHO) && t.local(Local::ECHOCTL) {
                self.output_raw(b'^');
                self.output_raw(8);
            }
        } else if extended && t.local(Local::ECHO) && t.is(c, Special::Reprint) {
            self.end_erasing();
            self.echo(c);
            self.output_processed(b'\n');
            let edited: SmallVec<[u8; 64]> = self.input.iter().skip(self.complete).copied().collect();
            edited.iter().for_each(|c| self.echo(*c));
        } else if c == b'\n' {
            if t.local(Local::ECHO) || t.local(Local::ECHONL) {
                self.output_processed(b'\n');
            }
            self.store(c);
            self.end_line();
        } else if t.is(c, Special::Eof) {
            self.end_line();
        } else if t.is(c, Special::Eol) || (extended && t.is(c, Special::Eol2)) {
            if t.local(Local::ECHO) {
                self.echo(c);
            }
            self.store(c);
            self.end_line();
        } else {
            self.ordinary(c);
        }
    }

    fn ordinary(&mut self, c: u8) {
        if self.termios.local(Local::ECHO) {
            self.end_erasing();
            if self.input.len() == self.complete {
                self.line_column = self.column;
            }
            self.echo(c);
        }
        self.store(c);
    }

    fn store(&mut self, c: u8) {
        if self.input.len() > INPUT_MAX {
            if !self.canonical() || self.input.len() == self.complete {
                return; // the caller asked for room(): does not happen
            }
            self.input.pop_back();
        }
        self.input.push_back(c);
    }

    fn end_line(&mut self) {
        self.lines.push_back(Line { len: self.input.len() - self.complete });
        self.complete = self.input.len();
    }

    fn is_continuation(&self, c: u8) -> bool {
        self.termios.input(Input::IUTF8) && c & 0xc0 == 0x80
    }

    fn edited(&self) -> usize {
        self.input.len() - self.complete
    }

    /// With `ECHOPRT`: what was erased has been shown.
    fn end_erasing(&mut self) {
        if self.termios.local(Local::ECHO) && core::mem::take(&mut self.erasing) {
            self.output_processed(b'/');
        }
    }

    fn erase(&mut self, what: Erase, c: u8) {
        let t = self.termios;
        let echo = t.local(Local::ECHO);
        if self.edited() == 0 {
            return;
        }
        let visually = [Local::ECHO, Local::ECHOE, Local::ECHOK, Local::ECHOKE].iter().all(|f| t.local(*f));
        if what == Erase::Line && !visually {
            self.input.truncate(self.complete);
            if echo {
                self.end_erasing();
                self.echo(c);
                if t.local(Local::ECHOK) {
                    self.output_processed(b'\n');
                }
            }
            return;
        }
        let mut word_seen = false;
        while let Some(len) = self.last_character() {
            let Some(&first) = self.input.get(self.input.len() - len) else { return };
            if what == Erase::Word {
                if first.is_ascii_alphanumeric() || first == b'_' || first >= 0xc0 {
                    word_seen = true;
                } else if word_seen {
                    break;
                }
            }
            let left = self.input.len() - len;
            if echo && t.local(Local::ECHOPRT) {
                self.print_erased(left);
            }
            self.input.truncate(left);
            if echo && !t.local(Local::ECHOPRT) {
                self.echo_erased(first, what, c);
            }
            if what == Erase::Character {
                break;
            }
        }
        if self.edited() == 0 {
            self.end_erasing();
        }
    }

    /// Length of the last character being edited; `None` if there is none, or only a part of one.
    fn last_character(&self) -> Option<usize> {
        let edited = self.input.iter().rev().take(self.edited());
        edited.enumerate().find(|(_, c)| !self.is_continuation(**c)).map(|(i, _)| i + 1)
    }

    /// With `ECHOPRT`: shows the last character, which begins at `at` of the input and is being erased.
    fn print_erased(&mut self, at: usize) {
        if !core::mem::replace(&mut self.erasing, true) {
            self.output_processed(b'\\');
        }
        let character: SmallVec<[u8; 8]> = self.input.iter().skip(at).copied().collect();
        let mut bytes = character.iter();
        bytes.next().into_iter().for_each(|first| self.echo(*first));
        bytes.for_each(|c| self.output_raw(*c));
    }

    fn echo_erased(&mut self, erased: u8, what: Erase, c: u8) {
        let ctl = self.termios.local(Local::ECHOCTL);
        if what == Erase::Character && !self.termios.local(Local::ECHOE) {
            return self.echo(c);
        }
        let back = match erased {
            b'\t' => return self.erase_tab(),
            c if is_control(c) => {
                if ctl {
                    2
                } else {
                    0
                }
            }
            _ => 1,
        };
        for _ in 0..back {
            for c in [8, b' ', 8] {
                self.output_raw(c);
            }
            self.column = self.column.saturating_sub(1);
        }
    }

    /// Moves back over a tab: as far as the text since the last tab, or since the line began, says.
    fn erase_tab(&mut self) {
        let mut width = 0;
        let mut after_tab = false;
        for c in self.input.iter().rev().take(self.edited()) {
            match *c {
                b'\t' => {
                    after_tab = true;
                    break;
                }
                c if is_control(c) => width += if self.termios.local(Local::ECHOCTL) { 2 } else { 0 },
                c if self.is_continuation(c) => {}
                _ => width += 1,
            }
        }
        if !after_tab {
            width += self.line_column;
        }
        for _ in 0..8 - (width & 7) {
            self.output_raw(8);
            self.column = self.column.saturating_sub(1);
        }
    }

    /// Forgets input not yet read (`TCIFLUSH`).
    pub fn flush_input(&mut self) {
        self.input.clear();
        self.lines.clear();
        self.complete = 0;
        self.literal = false;
        self.erasing = false;
    }

    /// Bytes a read would find (`FIONREAD`).
    pub fn readable(&self) -> usize {
        if self.canonical() { self.complete } else { self.input.len() }
    }

    /// Whether a read finds at least `min` bytes or a line (an empty one, after EOF, counts).
    pub fn is_ready(&self, min: usize) -> bool {
        if self.canonical() { !self.lines.is_empty() } else { self.input.len() >= min.max(1) }
    }

    /// Takes input: in canonical mode of one line. `None` if no line is there; the end of file is `Some(0)`.
    pub fn read(&mut self, out: &mut [u8]) -> Option<usize> {
        let available = match self.lines.front() {
            Some(line) => line.len,
            None if self.canonical() => return None,
            None => self.input.len(),
        };
        let n = available.min(out.len());
        for (to, from) in out.iter_mut().zip(self.input.drain(..n)) {
            *to = from;
        }
        if let Some(line) = self.lines.front_mut() {
            line.len -= n;
            self.complete -= n;
            if line.len == 0 {
                self.lines.pop_front();
            }
        }
        Some(n)
    }

    // --- output ---

    /// Whether output is held.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Holds output or lets it go (`TCXONC`).
    pub fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
    }

    /// As if new, but for output that can be shown: after a hang-up.
    pub fn reset(&mut self) {
        self.flush_input();
        self.stopped = false;
        self.termios = Termios::STANDARD;
    }

    /// How many bytes [`Discipline::write`] takes now.
    pub fn write_room(&self) -> usize {
        let free = OUTPUT_MAX.saturating_sub(self.output.len());
        if self.stopped { 0 } else { free.div_ceil(2) }
    }

    /// A program writes `bytes`, not more than [`Discipline::write_room`].
    pub fn write(&mut self, bytes: &[u8]) {
        if self.termios.output(Output::OPOST) {
            bytes.iter().for_each(|c| self.output_processed(*c));
        } else {
            self.output.extend(bytes);
        }
    }

    /// Bytes for the terminal to show.
    pub fn pending_output(&self) -> usize {
        self.output.len()
    }

    /// Takes what the terminal is to show.
    pub fn take_output(&mut self, out: &mut [u8]) -> usize {
        let n = out.len().min(self.output.len());
        for (to, from) in out.iter_mut().zip(self.output.drain(..n)) {
            *to = from;
        }
        n
    }

    /// Forgets output not yet shown (`TCOFLUSH`): what is on its way to the master (`at_master` false), or what
    /// has come there and nobody has read.
    pub fn flush_output(&mut self, at_master: bool) {
        self.output.truncate(if at_master { 0 } else { SHOWN_MAX });
    }

    fn output_raw(&mut self, c: u8) {
        if self.output.len() < 2 * OUTPUT_MAX {
            self.output.push_back(c);
        }
    }

    /// Echoes a character, control characters as `^X`.
    fn echo(&mut self, c: u8) {
        if self.termios.local(Local::ECHOCTL) && is_control(c) && c != b'\t' {
            self.output_raw(b'^');
            self.output_raw(c ^ 0o100);
            self.column += 2;
        } else {
            self.output_processed(c);
        }
    }

    fn output_processed(&mut self, c: u8) {
        let t = self.termios;
        if !t.output(Output::OPOST) {
            return self.output_raw(c);
        }
        match c {
            b'\n' => {
                if t.output(Output::ONLCR) {
                    self.output_raw(b'\r');
                }
                if t.output(Output::ONLCR) || t.output(Output::ONLRET) {
                    self.column = 0;
                    self.line_column = 0;
                }
                self.output_raw(b'\n');
            }
            b'\r' if t.output(Output::ONOCR) && self.column == 0 => {}
            b'\r' if t.output(Output::OCRNL) => {
                if t.output(Output::ONLRET) {
                    self.column = 0;
                }
                self.output_raw(b'\n');
            }
            b'\r' => {
                self.column = 0;
                self.line_column = 0;
                self.output_raw(b'\r');
            }
            b'\t' => {
                let spaces = 8 - (self.column & 7);
                self.column += spaces;
                if t.output(Output::XTABS) {
                    (0..spaces).for_each(|_| self.output_raw(b' '));
                } else {
                    self.output_raw(c);
                }
            }
            8 => {
                self.column = self.column.saturating_sub(1);
                self.output_raw(c);
            }
            c => {
                let shown = if t.output(Output::OLCUC) { c.to_ascii_uppercase() } else { c };
                if !is_control(c) && !self.is_continuation(c) {
                    self.column += 1;
                }
                self.output_raw(shown);
            }
        }
    }
}

#[cfg(test)]
mod tests;
