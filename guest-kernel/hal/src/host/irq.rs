//! Interrupt routing.

use super::context;
use super::world::world;

/// Routes a global system interrupt to this CPU, edge triggered.
/// Models raise it by [`World::raise`](super::World::raise).
pub fn enable(gsi: u32) {
    world().machine().routes.insert(gsi, context::cpu());
}
