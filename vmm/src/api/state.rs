//! Where a sandbox is in its life, and what may be asked of it there.
//!
//! ```text
//!   configuring ──start──▶ starting ──ready──▶ running ◀──resume/pause──▶ paused
//!        ▲                    │                   │                          │
//!        └──── not started ───┘                   ▼                          │
//!                                              stopping ◀────────────────────┘
//!                                                 │
//!                                                 ▼
//!                                              stopped     (the process ends when all who wait have been told)
//! ```

use serde::{Deserialize, Serialize};

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is being described; nothing runs yet.
    Configuring,
    /// The machine is being made.
    Starting,
    /// The vCPUs run.
    Running,
    /// The vCPUs stand still, and so do the devices.
    Paused,
    /// The program has ended, or something ends the sandbox; output is being delivered.
    Stopping,
    /// It is over.
    Stopped,
}

use State::{Configuring, Paused, Running, Starting, Stopped, Stopping};

impl State {
    /// As the API names it.
    pub fn name(self) -> &'static str {
        match self {
            Configuring => "configuring",
            Starting => "starting",
            Running => "running",
            Paused => "paused",
            Stopping => "stopping",
            Stopped => "stopped",
        }
    }

    /// What cannot be asked for in this state, said to who has asked for it.
    pub fn refusal(self) -> &'static str {
        match self {
            Configuring => "the sandbox was not started yet",
            Starting => "the sandbox is being started",
            Running => "the sandbox is running",
            Paused => "the sandbox is paused; resume it first",
            Stopping | Stopped => "the sandbox is over",
        }
    }
}

/// What can happen to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants it to start.
    Start,
    /// It could not be started.
    NotStarted,
    /// The vCPUs run.
    Ready,
    /// They stand still.
    Paused,
    /// They run again.
    Resumed,
    /// They have ended.
    Stopped,
    /// All is told.
    Over,
}

/// Every change of state there is.
pub const TRANSITIONS: &[(State, Event, State)] = &[
    (Configuring, Event::Start, Starting),
    (Starting, Event::NotStarted, Configuring),
    (Starting, Event::Ready, Running),
    (Running, Event::Paused, Paused),
    (Paused, Event::Resumed, Running),
    (Running, Event::Stopped, Stopping),
    (Paused, Event::Stopped, Stopping),
    (Starting, Event::Over, Stopped),
    (Running, Event::Over, Stopped),
    (Paused, Event::Over, Stopped),
    (Stopping, Event::Over, Stopped),
];

impl State {
    /// The state after `event`; `None`: that cannot happen here, or changes nothing.
    pub fn after(self, event: Event) -> Option<State> {
        TRANSITIONS.iter().find(|(from, what, _)| (*from, *what) == (self, event)).map(|(_, _, to)| *to)
    }
}

/// Sets of states, as the table of routes has them.
pub mod when {
    use super::State::{self, *};

    /// Always.
    pub const ALWAYS: &[State] = &[Configuring, Starting, Running, Paused, Stopping, Stopped];
    /// Before it is started.
    pub const BEFORE: &[State] = &[Configuring];
    /// While programs run.
    pub const RUNNING: &[State] = &[Running];
    /// While there is a machine.
    pub const ALIVE: &[State] = &[Running, Paused];
    /// While programs stand still.
    pub const PAUSED: &[State] = &[Paused];
    /// From the start on.
    pub const STARTED: &[State] = &[Starting, Running, Paused, Stopping, Stopped];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_sandbox() {
        let life =
            [Event::Start, Event::NotStarted, Event::Start, Event::Ready, Event::Paused, Event::Resumed];
        let mut state = Configuring;
        for event in life.into_iter().chain([Event::Stopped, Event::Over]) {
            state = state.after(event).unwrap_or_else(|| panic!("{event:?} in {state:?}"));
        }
        assert_eq!(state, Stopped);
    }

    #[test]
    fn every_state_but_the_first_can_end_and_none_comes_back_from_the_end() {
        for state in when::STARTED {
            assert_eq!(state.after(Event::Over).unwrap_or(Stopped), Stopped);
        }
        let events =
            [Event::Start, Event::Ready, Event::Paused, Event::Resumed, Event::Stopped, Event::NotStarted];
        assert!(events.iter().all(|event| Stopped.after(*event).is_none()));
    }

    #[test]
    fn no_event_leads_two_ways() {
        for (n, (from, event, _)) in TRANSITIONS.iter().enumerate() {
            let again = TRANSITIONS.iter().skip(n + 1).any(|(f, e, _)| (f, e) == (from, event));
            assert!(!again, "{from:?} {event:?}");
        }
    }
}
