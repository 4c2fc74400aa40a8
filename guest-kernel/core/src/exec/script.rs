//! Parsing of `#!` lines (execve(2), "Interpreter scripts").

use crate::errno::{Errno, Result};

/// Bytes of a file that are looked at to find out what it is (Linux: `BINPRM_BUF_SIZE`).
pub const HEAD_LEN: usize = 256;

/// The first line of a script.
#[derive(Debug, PartialEq, Eq)]
pub struct Script<'a> {
    /// Path of the interpreter.
    pub interpreter: &'a [u8],
    /// The rest of the line as one argument.
    pub argument: Option<&'a [u8]>,
}

impl<'a> Script<'a> {
    /// Parses the first bytes of a file (up to [`HEAD_LEN`]). None if it is no script.
    ///
    /// # Errors
    /// ENOEXEC if the line names no interpreter, or its path does not end within the bytes.
    pub fn parse(head: &'a [u8]) -> Result<Option<Script<'a>>> {
        let Some(rest) = head.strip_prefix(b"#!") else { return Ok(None) };
        let line_end = rest.iter().position(|b| *b == b'\n' || *b == 0);
        let complete = line_end.is_some() || head.len() < HEAD_LEN;
        let line = rest.get(..line_end.unwrap_or(rest.len())).unwrap_or_default().trim_ascii_start_blank();
        let name_end = line.iter().position(|b| is_blank(*b));
        if name_end.is_none() && !complete {
            return Err(Errno::ENOEXEC); // The path may go on beyond what we read.
        }
        let (interpreter, argument) = line.split_at(name_end.unwrap_or(line.len()));
        if interpreter.is_empty() {
            return Err(Errno::ENOEXEC);
        }
        let argument = argument.trim_ascii_start_blank().trim_ascii_end_blank();
        Ok(Some(Script { interpreter, argument: (!argument.is_empty()).then_some(argument) }))
    }
}

fn is_blank(b: u8) -> bool {
    b == b' ' || b == b'\t'
}

/// Trimming of spaces and tabs only.
trait TrimBlank {
    fn trim_ascii_start_blank(&self) -> &Self;
    fn trim_ascii_end_blank(&self) -> &Self;
}

impl TrimBlank for [u8] {
    fn trim_ascii_start_blank(&self) -> &[u8] {
        let n = self.iter().take_while(|b| is_blank(**b)).count();
        self.get(n..).unwrap_or_default()
    }

    fn trim_ascii_end_blank(&self) -> &[u8] {
        let n = self.iter().rev().take_while(|b| is_blank(**b)).count();
        self.get(..self.len() - n).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Line<'a> = (&'a [u8], Option<&'a [u8]>);

    fn parse(head: &[u8]) -> Result<Option<Line<'_>>> {
        Script::parse(head).map(|s| s.map(|s| (s.interpreter, s.argument)))
    }

    #[test]
    fn splits_interpreter_and_one_argument() {
        assert_eq!(parse(b"echo"), Ok(None));
        assert_eq!(parse(b"#!/bin/sh\nexit"), Ok(Some((&b"/bin/sh"[..], None))));
        assert_eq!(parse(b"#! \t/bin/sh  -e -x \t\n"), Ok(Some((&b"/bin/sh"[..], Some(&b"-e -x"[..])))));
        assert_eq!(parse(b"#!/bin/sh"), Ok(Some((&b"/bin/sh"[..], None))));
        assert_eq!(parse(b"#!\n/bin/sh"), Err(Errno::ENOEXEC));
        assert_eq!(parse(b"#!   \n"), Err(Errno::ENOEXEC));
        assert_eq!(parse(b"#!"), Err(Errno::ENOEXEC));
    }

    #[test]
    fn a_path_that_is_cut_off_is_refused_but_an_argument_is_not() {
        let mut long = b"#!/".to_vec();
        long.resize(HEAD_LEN, b'x');
        assert_eq!(parse(&long), Err(Errno::ENOEXEC));
        long[20] = b' ';
        let parsed = parse(&long).unwrap().unwrap();
        assert_eq!((parsed.0.len(), parsed.1.map(<[u8]>::len)), (18, Some(HEAD_LEN - 21)));
    }
}
