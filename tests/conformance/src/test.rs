//! What a test gets, and the macros it is written with.
//!
//! | macro | makes the call and | gives |
//! |---|---|---|
//! | `show!(t, openat, AT_FDCWD, c"x", 0, 0)` | says `openat(AT_FDCWD, c"x", 0, 0) = ENOENT` or the value | the result |
//! | `ok!(t, mmap, …)` | the same, but says `ok` instead of a value that differs (addresses, ids) | the result |
//! | `call!(read, fd, out(&mut b), 1)` | says nothing | the result |
//! | `must!(openat, …)` | says nothing, and the test is broken if it fails | the result |
//! | `say!(t, "{x}")` | | |
//!
//! A result is an `i64`; an error is its negated number.

use std::fmt;

/// One test.
pub struct Test {
    /// The subject: the name of its module.
    pub area: &'static str,
    /// Unique in its area.
    pub short: &'static str,
    /// The system calls it is about.
    pub calls: &'static [&'static str],
    /// Whether it is a race: worth doing again and again on several CPUs, and saying the same each time.
    pub race: bool,
    /// Whether it may take minutes where the machine is slow.
    pub long: bool,
    /// It.
    pub run: fn(&mut T),
}

impl Test {
    /// `area.name`.
    pub fn name(&self) -> String {
        let area = self.area.rsplit("::").next().unwrap_or(self.area);
        format!("{area}.{}", self.short)
    }
}

/// What a test gets: its transcript. Every line is written at once, so that lines of its children come in order.
#[derive(Default)]
pub struct T {}

/// How a test that was skipped ends: that is not a pass.
pub const SKIPPED: i32 = 77;

impl T {
    /// Adds a line to the transcript.
    pub fn line(&mut self, text: fmt::Arguments) {
        let text = format!("{text}\n");
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let count =
                crate::sys::call(crate::nr::write, [1, crate::sys::p(rest), rest.len() as u64, 0, 0, 0]);
            if count <= 0 {
                return;
            }
            rest = &rest[count as usize..];
        }
    }

    /// Ends the test: it cannot be run here. That is not a pass.
    #[allow(dead_code)] // no test has to at present
    pub fn skip(&mut self, why: &str) -> ! {
        self.line(format_args!("skipped: {why}"));
        std::process::exit(SKIPPED)
    }
}

/// A result as transcripts have it: the number, or the name of the error.
pub fn result(value: i64) -> String {
    if (-4095..0).contains(&value) { crate::errno::name(-value) } else { value.to_string() }
}

/// A result whose value says nothing: `ok`, or the name of the error.
pub fn ok_or_error(value: i64) -> String {
    if (-4095..0).contains(&value) { crate::errno::name(-value) } else { "ok".to_owned() }
}

/// Registers for a call's arguments; those not given are zero.
pub fn six(given: &[u64]) -> [u64; 6] {
    let mut arguments = [0; 6];
    arguments[..given.len()].copy_from_slice(given);
    arguments
}

/// The tests of an area: `tests![name: call call, …]`; `#[race]` before the name of one that is a race, `#[long]` of
/// one that takes long.
macro_rules! tests {
    ($($(#[$mark:ident])? $name:ident: $($call:ident)+),* $(,)?) => {
        &[$($crate::test::Test {
            area: module_path!(),
            short: stringify!($name),
            calls: &[$({ let _ = $crate::nr::$call; stringify!($call) }),+],
            race: false $(|| matches!(stringify!($mark).as_bytes(), b"race"))?,
            long: false $(|| matches!(stringify!($mark).as_bytes(), b"long"))?,
            run: $name,
        }),*]
    };
}

/// Makes a system call and says nothing.
macro_rules! call {
    ($name:ident $(, $argument:expr)* $(,)?) => {
        // One expression, so that what the arguments borrow lives until the call is over.
        $crate::sys::call($crate::nr::$name, $crate::test::six(&[$($crate::sys::Argument::raw($argument)),*]))
    };
}

/// Makes a system call that has to succeed, and says nothing.
macro_rules! must {
    ($name:ident $(, $argument:expr)* $(,)?) => {{
        let result = call!($name $(, $argument)*);
        assert!(!(-4095..0).contains(&result), "{} failed: {}", stringify!($name), $crate::test::result(result));
        result
    }};
}

/// Makes a system call and says what it gave.
macro_rules! show {
    ($t:expr, $name:ident $(, $argument:expr)* $(,)?) => {{
        let result = call!($name $(, $argument)*);
        let arguments: &[&str] = &[$(stringify!($argument)),*];
        $t.line(format_args!("{}({}) = {}", stringify!($name), arguments.join(", "), $crate::test::result(result)));
        result
    }};
}

/// Makes a system call and says whether it succeeded or which error it gave.
macro_rules! ok {
    ($t:expr, $name:ident $(, $argument:expr)* $(,)?) => {{
        let result = call!($name $(, $argument)*);
        let arguments: &[&str] = &[$(stringify!($argument)),*];
        $t.line(format_args!("{}({}) = {}", stringify!($name), arguments.join(", "), $crate::test::ok_or_error(result)));
        result
    }};
}

/// Adds a line to the transcript.
macro_rules! say {
    ($t:expr, $($format:tt)+) => { $t.line(format_args!($($format)+)) };
}
