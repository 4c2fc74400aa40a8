//! The `futex` system call.

use super::{Key, Requeue, WaitFailed, pi, wake_key};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sync::WaitError,
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
    time::{Restart, TimeSpec, deadline_after, realtime_to_monotonic},
};

const WAIT: u32 = 0;
const WAKE: u32 = 1;
const REQUEUE: u32 = 3;
const CMP_REQUEUE: u32 = 4;
const WAKE_OP: u32 = 5;
const LOCK_PI: u32 = 6;
const UNLOCK_PI: u32 = 7;
const TRYLOCK_PI: u32 = 8;
const WAIT_REQUEUE_PI: u32 = 11;
const CMP_REQUEUE_PI: u32 = 12;
const LOCK_PI2: u32 = 13;
const WAIT_BITSET: u32 = 9;
const WAKE_BITSET: u32 = 10;
const PRIVATE_FLAG: u32 = 128;
const CLOCK_REALTIME_FLAG: u32 = 256;

fn futex(ctx: &mut Ctx<'_>, addr: u64, op: u32, val: u32, timeout: u64, addr2: u64, val3: u32) -> Result {
    let private = op & PRIVATE_FLAG != 0;
    let command = op & !(PRIVATE_FLAG | CLOCK_REALTIME_FLAG);
    let count = |n: u64| (n as i32).max(0) as usize;
    if op & CLOCK_REALTIME_FLAG != 0 && !matches!(command, WAIT_BITSET | WAIT_REQUEUE_PI | LOCK_PI2) {
        return Err(Errno::ENOSYS);
    }
    match command {
        WAIT | WAIT_BITSET => {
            let bitset = if command == WAIT { u32::MAX } else { val3 };
            if bitset == 0 {
                return Err(Errno::EINVAL);
            }
            let deadline = deadline(command, op & CLOCK_REALTIME_FLAG != 0, UserPtr::new(timeout))?;
            TimedWait { addr, private, val, bitset, deadline }.run(ctx.task)
        }
        WAKE | WAKE_BITSET => {
            let bitset = if command == WAKE { u32::MAX } else { val3 };
            if bitset == 0 {
                return Err(Errno::EINVAL);
            }
            let key = Key::new(ctx.task, addr, private)?;
            Ok(wake_key(&key, bitset, count(val.into()).max(1)))
        }
        REQUEUE | CMP_REQUEUE => {
            if (val as i32) < 0 || (timeout as i32) < 0 {
                return Err(Errno::EINVAL);
            }
            let request = Requeue {
                from: addr,
                to: addr2,
                private,
                wake: count(val.into()),
                requeue: count(timeout),
                expected: (command == CMP_REQUEUE).then_some(val3),
            };
            super::requeue(ctx.task, &request)
        }
        WAKE_OP => {
            let encoded = WakeOp::new(val3)?;
            let counts = (count(val.into()), count(timeout));
            super::wake_op(
                ctx.task,
                (addr, addr2),
                private,
                counts,
                |v| encoded.change(v),
                |v| encoded.test(v),
            )
        }
        LOCK_PI | LOCK_PI2 => {
            // LOCK_PI counts on the wall clock, LOCK_PI2 on that only if told so.
            let realtime = command == LOCK_PI || op & CLOCK_REALTIME_FLAG != 0;
            let deadline = deadline(WAIT_BITSET, realtime, UserPtr::new(timeout))?;
            pi::lock(ctx.task, addr, private, true, deadline).map(|()| 0)
        }
        TRYLOCK_PI => pi::lock(ctx.task, addr, private, false, None).map(|()| 0),
        UNLOCK_PI => pi::unlock(ctx.task, addr, private).map(|()| 0),
        WAIT_REQUEUE_PI => {
            let deadline = deadline(WAIT_BITSET, op & CLOCK_REALTIME_FLAG != 0, UserPtr::new(timeout))?;
            pi::wait_requeue(ctx.task, (addr, addr2), private, val, deadline).map(|()| 0)
        }
        CMP_REQUEUE_PI => {
            if val != 1 || (timeout as i32) < 0 {
                return Err(Errno::EINVAL);
            }
            let wake = 1usize.saturating_add(count(timeout));
            let request = Requeue { from: addr, to: addr2, private, wake, requeue: 0, expected: Some(val3) };
            super::requeue(ctx.task, &request)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// A wait, and what it takes to go on with it after a stop.
#[derive(Clone, Copy, Debug)]
pub struct TimedWait {
    addr: u64,
    private: bool,
    val: u32,
    bitset: u32,
    deadline: Option<u64>,
}

impl TimedWait {
    /// Waits. One with a time-out ends with a handler whatever `SA_RESTART` says, and goes on after a stop.
    pub fn run(self, task: &TaskRef) -> Result {
        match super::wait(task, self.addr, self.private, self.val, self.bitset, self.deadline) {
            Ok(()) => Ok(0),
            Err(WaitFailed::Errno(e)) => Err(e),
            Err(WaitFailed::Wait(WaitError::TimedOut)) => Err(Errno::ETIMEDOUT),
            Err(WaitFailed::Wait(WaitError::Interrupted)) if self.deadline.is_some() => {
                *task.restart.lock() = Some(Restart::Futex(self));
                Err(Errno::ERESTART_RESTARTBLOCK)
            }
            Err(WaitFailed::Wait(WaitError::Interrupted)) => Err(Errno::ERESTARTSYS),
        }
    }
}

/// `FUTEX_WAIT` has a relative time-out, `FUTEX_WAIT_BITSET` an absolute one.
fn deadline(command: u32, realtime: bool, timeout: UserPtr<TimeSpec>) -> Result<Option<u64>> {
    let Some(timeout) = timeout.non_null() else { return Ok(None) };
    let ns = timeout.read()?.to_ns()?;
    Ok(Some(match (command, realtime) {
        (WAIT, _) => deadline_after(ns),
        (_, true) => realtime_to_monotonic(ns),
        (_, false) => ns,
    }))
}

/// The operation and comparison packed into `val3` (futex(2), FUTEX_WAKE_OP).
struct WakeOp {
    op: u32,
    arg: u32,
    cmp: u32,
    cmparg: u32,
}

impl WakeOp {
    fn new(encoded: u32) -> Result<WakeOp> {
        let sign_extend = |v: u32| (((v & 0xfff) << 20) as i32 >> 20) as u32;
        let op = encoded >> 28;
        let arg = sign_extend(encoded >> 12);
        let arg = if op & 8 != 0 { 1u32.checked_shl(arg).ok_or(Errno::EINVAL)? } else { arg };
        let (op, cmp) = (op & 7, encoded >> 24 & 15);
        if op > 4 || cmp > 5 {
            return Err(Errno::ENOSYS);
        }
        Ok(WakeOp { op, arg, cmp, cmparg: sign_extend(encoded) })
    }

    fn change(&self, v: u32) -> u32 {
        match self.op {
            0 => self.arg,
            1 => v.wrapping_add(self.arg),
            2 => v | self.arg,
            3 => v & !self.arg,
            _ => v ^ self.arg,
        }
    }

    fn test(&self, v: u32) -> bool {
        let (v, c) = (v as i32, self.cmparg as i32);
        match self.cmp {
            0 => v == c,
            1 => v != c,
            2 => v < c,
            3 => v <= c,
            4 => v > c,
            _ => v >= c,
        }
    }
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    202 futex(uaddr: u64, op: u32, val: u32, timeout: u64, uaddr2: u64, val3: u32) Full "no priorities are inherited: the scheduler has none";
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wake_op_decodes_as_the_man_page_says() {
        // FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_GT, 1), which glibc used for pthread_cond_signal
        let op = WakeOp::new(4 << 24 | 1 << 28 | 1 << 12 | 1).unwrap();
        assert_eq!(op.change(1), 2);
        assert!(op.test(2) && !op.test(1));
        let shifted = WakeOp::new((8 | 2) << 28 | 4 << 12).unwrap();
        assert_eq!(shifted.change(1), 17);
        assert!(WakeOp::new(7 << 28).is_err());
    }
}
