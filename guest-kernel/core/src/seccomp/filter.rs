//! The pile of filters of a task.

use alloc::sync::Arc;

use super::{
    bpf::{Data, Program},
    notify::Listener,
};
use crate::{
    errno::{Errno, Result},
    syscall::MAX_SYSCALL,
};

/// `SECCOMP_RET_*`: the action is in the upper half.
pub mod ret {
    #![allow(missing_docs)] // named in seccomp(2)
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    pub const KILL_THREAD: u32 = 0;
    pub const TRAP: u32 = 0x0003_0000;
    pub const ERRNO: u32 = 0x0005_0000;
    pub const USER_NOTIF: u32 = 0x7fc0_0000;
    pub const TRACE: u32 = 0x7ff0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
    pub const ACTION: u32 = 0xffff_0000;
    pub const DATA: u32 = 0x0000_ffff;
}

/// `AUDIT_ARCH_X86_64`.
pub const ARCH: u32 = 0xc000_003e;
/// Instructions of all filters of a task, each with a little on top (`MAX_INSNS_PER_PATH`).
const MAX_TOTAL: usize = (1 << 18) / 8;
const PENALTY: usize = 4;
const WORDS: usize = MAX_SYSCALL / 64;

/// One filter, on top of others.
pub struct Filter {
    previous: Option<Arc<Filter>>,
    program: Program,
    /// Numbers that this filter and all below it allow whatever the arguments are.
    allowed: [u64; WORDS],
    /// Instructions here and below.
    total: usize,
    /// Filters here and below.
    pub depth: u32,
    /// Who decides on `USER_NOTIF`.
    pub listener: Option<Arc<Listener>>,
}

impl Filter {
    /// Puts a program on top of `previous`.
    ///
    /// # Errors
    /// ENOMEM: too many instructions.
    pub fn new(
        previous: Option<Arc<Filter>>,
        program: Program,
        listener: Option<Arc<Listener>>,
    ) -> Result<Filter> {
        let below = previous.as_ref().map_or(0, |p| p.total + PENALTY);
        let total = below + program.len();
        if total > MAX_TOTAL {
            return Err(Errno::ENOMEM);
        }
        let mut allowed = previous.as_ref().map_or([u64::MAX; WORDS], |p| p.allowed);
        for (word, bits) in allowed.iter_mut().enumerate() {
            for bit in 0..64 {
                let nr = (word * 64 + bit) as i32;
                if *bits & 1 << bit != 0 && program.run_for_number(nr, ARCH) != Some(ret::ALLOW) {
                    *bits &= !(1 << bit);
                }
            }
        }
        let depth = previous.as_ref().map_or(0, |p| p.depth) + 1;
        Ok(Filter { previous, program, allowed, total, depth, listener })
    }

    /// Whether a number is allowed whatever the arguments are.
    pub fn always_allows(&self, nr: usize) -> bool {
        self.allowed.get(nr / 64).is_some_and(|bits| bits & 1 << (nr % 64) != 0)
    }

    /// This filter and those below it.
    fn chain(&self) -> impl Iterator<Item = &Filter> {
        core::iter::successors(Some(self), |f| f.previous.as_deref())
    }

    /// The most severe answer, and who gave it. Of equal ones the newest counts.
    pub fn answer(&self, data: &Data) -> (u32, &Filter) {
        let severity = |answer: u32| (answer & ret::ACTION) as i32;
        let mut chosen = (ret::ALLOW, self);
        for filter in self.chain() {
            let answer = filter.program.run(data);
            if severity(answer) < severity(chosen.0) {
                chosen = (answer, filter);
            }
        }
        chosen
    }

    /// Whether one of them has a listener.
    pub fn has_listener(&self) -> bool {
        self.chain().any(|f| f.listener.is_some())
    }

    /// Whether `ancestor` is this filter or below it.
    pub fn is_above(&self, ancestor: &Filter) -> bool {
        self.chain().any(|f| core::ptr::eq(f, ancestor))
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.nobody_left();
        }
        // A pile can be thousands deep: not by recursion.
        let mut next = self.previous.take();
        while let Some(filter) = next {
            next = match Arc::try_unwrap(filter) {
                Ok(mut last) => last.previous.take(),
                Err(_) => None,
            };
        }
    }
}

/// Actions there are, the most severe first.
const ACTIONS: [u32; 8] = [
    ret::KILL_PROCESS,
    ret::KILL_THREAD,
    ret::TRAP,
    ret::ERRNO,
    ret::USER_NOTIF,
    ret::TRACE,
    ret::LOG,
    ret::ALLOW,
];

/// Whether there is such an action, for `SECCOMP_GET_ACTION_AVAIL`.
pub fn is_action(action: u32) -> bool {
    ACTIONS.contains(&action)
}

#[cfg(test)]
mod tests {
    use super::{super::bpf::Instruction, *};
    use alloc::vec;

    const LD_NR: Instruction = Instruction { code: 0x20, jt: 0, jf: 0, k: 0 };
    const LD_ARG: Instruction = Instruction { code: 0x20, jt: 0, jf: 0, k: 16 };

    fn give(k: u32) -> Instruction {
        Instruction { code: 0x06, jt: 0, jf: 0, k }
    }

    fn if_equal(k: u32) -> Instruction {
        Instruction { code: 0x15, jt: 0, jf: 1, k }
    }

    fn pile(programs: &[&[Instruction]]) -> Arc<Filter> {
        let mut top = None;
        for program in programs {
            top = Some(Arc::new(Filter::new(top, Program::new(program.to_vec()).unwrap(), None).unwrap()));
        }
        top.unwrap()
    }

    #[test]
    fn the_most_severe_answer_counts_and_of_equal_ones_the_newest() {
        for pair in ACTIONS[..7].windows(2) {
            for (a, b) in [(pair[0], pair[1]), (pair[1], pair[0])] {
                let f = pile(&[&[give(a)], &[give(b)]]);
                assert_eq!(f.answer(&Data::default()).0, pair[0], "{a:#x} {b:#x}");
            }
        }
        let f = pile(&[&[give(ret::ERRNO | 1)], &[give(ret::ERRNO | 2)]]);
        assert_eq!(f.answer(&Data::default()).0, ret::ERRNO | 2);
        assert_eq!(pile(&[&[give(ret::ALLOW)]]).answer(&Data::default()).0, ret::ALLOW);
    }

    #[test]
    fn what_is_always_allowed_is_known() {
        let f = pile(&[
            &[LD_NR, if_equal(39), give(ret::ERRNO), give(ret::ALLOW)],
            &[LD_NR, if_equal(1), LD_ARG, give(ret::ALLOW)],
        ]);
        assert!(f.always_allows(2) && f.always_allows(511));
        assert!(!f.always_allows(39), "an older filter");
        assert!(!f.always_allows(1), "depends on an argument");
        assert!(!f.always_allows(512) && !f.always_allows(usize::MAX));
    }

    #[test]
    fn a_pile_is_limited_and_falls_without_recursion() {
        let mut top: Option<Arc<Filter>> = None;
        let mut count = 0;
        loop {
            let program = Program::new(vec![give(ret::ALLOW)]).unwrap();
            match Filter::new(top.clone(), program, None) {
                Ok(f) => top = Some(Arc::new(f)),
                Err(e) => {
                    assert_eq!(e, Errno::ENOMEM);
                    break;
                }
            }
            count += 1;
        }
        assert_eq!(count, MAX_TOTAL.div_ceil(1 + PENALTY));
        let top = top.unwrap();
        assert!(top.is_above(&top) && top.depth as usize == count);
        drop(top);
    }
}
