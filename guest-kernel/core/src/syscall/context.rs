//! What a handler is given.

use ringfence_hal::UserRegs;

use crate::TaskRef;

/// The calling task and its registers. Passed down explicitly; nothing below asks "who is running?".
pub struct Ctx<'a> {
    /// The calling task.
    pub task: &'a TaskRef,
    /// Its user registers; the result goes to `rax` after the handler has returned.
    pub regs: &'a mut UserRegs,
}
