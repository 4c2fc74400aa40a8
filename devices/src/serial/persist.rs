//! Saved state: the port's registers. The tail of the output is not part of it.

use serde::{Deserialize, Serialize};

use super::Serial;

/// The port as one plain struct.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialState {
    /// [`SerialState::VERSION`].
    pub version: u32,
    /// DLL, DLM, IER, IIR, LCR, LSR, MCR, MSR, SCR.
    pub registers: [u8; 9],
    /// The receive FIFO.
    pub fifo: Vec<u8>,
}

impl SerialState {
    /// Version of this struct.
    pub const VERSION: u32 = 1;

    /// The model's own form of it; `None` for another version.
    pub(super) fn registers(&self) -> Option<vm_superio::SerialState> {
        let [dll, dlm, ier, iir, lcr, lsr, mcr, msr, scr] = self.registers;
        (self.version == Self::VERSION).then(|| vm_superio::SerialState {
            baud_divisor_low: dll,
            baud_divisor_high: dlm,
            interrupt_enable: ier,
            interrupt_identification: iir,
            line_control: lcr,
            line_status: lsr,
            modem_control: mcr,
            modem_status: msr,
            scratch: scr,
            in_buffer: self.fifo.clone(),
        })
    }
}

impl Serial {
    /// The port as one plain struct.
    pub fn save(&self) -> SerialState {
        let s = self.port.state();
        SerialState {
            version: SerialState::VERSION,
            registers: [
                s.baud_divisor_low,
                s.baud_divisor_high,
                s.interrupt_enable,
                s.interrupt_identification,
                s.line_control,
                s.line_status,
                s.modem_control,
                s.modem_status,
                s.scratch,
            ],
            fifo: s.in_buffer,
        }
    }
}
