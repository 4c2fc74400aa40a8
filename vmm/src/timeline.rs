//! When what happened between the command's first instruction and its end.

use std::time::Instant;

use serde::Serialize;

/// One named point.
#[derive(Debug, Clone, Serialize)]
pub struct Mark {
    /// What had just happened.
    pub name: &'static str,
    /// Microseconds since the command was entered.
    pub at_us: u64,
}

/// The points of one start, in order.
#[derive(Debug)]
pub struct Timeline {
    begin: Instant,
    marks: Vec<Mark>,
}

impl Timeline {
    /// Begins now.
    pub fn start() -> Self {
        Self { begin: Instant::now(), marks: Vec::with_capacity(12) }
    }

    /// Notes that `name` has just happened.
    pub fn mark(&mut self, name: &'static str) {
        let at_us = self.begin.elapsed().as_micros() as u64;
        self.marks.push(Mark { name, at_us });
    }

    /// The points so far.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }
}
