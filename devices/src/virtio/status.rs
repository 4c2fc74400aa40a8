//! The device status register as a table (virtio 1.2, sections 2.1 and 3.1.1).
//!
//! A driver brings a device up in four steps, each one more bit; the first two, which mean nothing to the device,
//! may come in one write (many drivers do that). Anything else it writes is ignored, except 0, which resets, and
//! FAILED, which it may set at any time.

/// The guest has noticed the device.
pub const ACKNOWLEDGE: u32 = 1;
/// The guest has a driver for it.
pub const DRIVER: u32 = 2;
/// The driver is ready to drive the device; queues run from here.
pub const DRIVER_OK: u32 = 4;
/// Feature negotiation is complete.
pub const FEATURES_OK: u32 = 8;
/// The device has met an error it cannot recover from. Only the device sets it.
pub const DEVICE_NEEDS_RESET: u32 = 64;
/// The guest has given up on the device.
pub const FAILED: u32 = 128;

/// What a step of the table makes the transport do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing beyond keeping the new status.
    Keep,
    /// Check the driver's features; the new status is kept only if they are acceptable.
    CheckFeatures,
    /// Build the queues and hand them to the device.
    Activate,
}

/// Valid steps: from, to, what happens.
const STEPS: [(u32, u32, Action); 5] = [
    (0, ACKNOWLEDGE, Action::Keep),
    (0, ACKNOWLEDGE | DRIVER, Action::Keep),
    (ACKNOWLEDGE, ACKNOWLEDGE | DRIVER, Action::Keep),
    (ACKNOWLEDGE | DRIVER, ACKNOWLEDGE | DRIVER | FEATURES_OK, Action::CheckFeatures),
    (ACKNOWLEDGE | DRIVER | FEATURES_OK, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, Action::Activate),
];

/// The step from status `from` to what the driver wrote, or `None` if the protocol has no such step.
/// Neither argument carries FAILED or DEVICE_NEEDS_RESET.
pub fn step(from: u32, to: u32) -> Option<Action> {
    STEPS.iter().find(|s| s.0 == from && s.1 == to).map(|s| s.2)
}
