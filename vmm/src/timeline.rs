//! When what happened between the command's first instruction and its end.
//!
//! The clock is CLOCK_MONOTONIC, which every process of the host shares: the VMM's process goes on with the timeline
//! that the command began.

use std::borrow::Cow;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// One named point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mark {
    /// What had just happened.
    pub name: Cow<'static, str>,
    /// Microseconds since the command was entered.
    pub at_us: u64,
}

/// The points of one start, in order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Timeline {
    begin_ns: u64,
    marks: Vec<Mark>,
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Timeline {
    /// Begins now.
    pub fn start() -> Self {
        Self { begin_ns: now_ns(), marks: Vec::with_capacity(12) }
    }

    /// Notes that `name` has just happened.
    pub fn mark(&mut self, name: &'static str) {
        let at_us = now_ns().saturating_sub(self.begin_ns) / 1000;
        self.marks.push(Mark { name: name.into(), at_us });
    }

    /// The points so far.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }
}
