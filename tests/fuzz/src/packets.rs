//! Frames that arrive at the guest's network interface.

/// Takes `data` as frames, one after the other.
pub fn run(data: &[u8]) {
    ringfence_sentry::net::exercise(data);
}
