//! NUMA policies on a machine with one node (numa(7), set_mempolicy(2), mbind(2)).
//!
//! All memory is on node 0, so a policy decides nothing; but programs set policies, ask for them, and expect the errors of
//! a Linux that has one node: a policy that names only nodes that are not there is refused. A task has a policy
//! (inherited by its children), a mapping may have another ([`Vma::policy`](super::Vma)).

use alloc::vec::Vec;
use core::{ops::Range, sync::atomic::Ordering};

use super::{
    Backing, Mm, PAGE_SIZE, USER_END, fault::zero_frame, page_align_down, page_align_up, process_vm,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    sched,
    syscall::{Ctx, Syscall, UserAddr, UserPtr},
    syscalls,
    task::Capabilities,
};

const DEFAULT: u32 = 0;
const PREFERRED: u32 = 1;
const BIND: u32 = 2;
const LOCAL: u32 = 4;
const PREFERRED_MANY: u32 = 5;
/// `MPOL_F_STATIC_NODES`, `MPOL_F_RELATIVE_NODES`.
const STATIC_NODES: u32 = 1 << 15;
const RELATIVE_NODES: u32 = 1 << 14;
const NUMA_BALANCING: u32 = 1 << 13;
const MODE_FLAGS: u32 = STATIC_NODES | RELATIVE_NODES | NUMA_BALANCING;

/// `MPOL_MF_STRICT`, `MPOL_MF_MOVE`, `MPOL_MF_MOVE_ALL`.
const STRICT: u32 = 1;
const MOVE: u32 = 2;
const MOVE_ALL: u32 = 4;

/// Nodes there are.
const ONLINE_NODES: u64 = 1;
/// Bits of a node mask that a kernel with `NODES_SHIFT` 10 knows.
const MAX_NODES: u64 = 1024;

/// A policy: the mode with its flags, and whether node 0 is named. The default is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy(u32);

impl Policy {
    const NODE_0: u32 = 1 << 16;

    /// From what [`Policy::to_bits`] gave.
    pub fn from_bits(bits: u32) -> Policy {
        Policy(bits)
    }

    /// As a number, for an atomic.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// Checks a mode and a node mask as `mpol_new` and `mpol_set_nodemask` do.
    fn new(mode: u32, nodes: Nodes) -> Result<Policy> {
        let (mode, flags) = (mode & !MODE_FLAGS, mode & MODE_FLAGS);
        if mode > PREFERRED_MANY
            || flags & (STATIC_NODES | RELATIVE_NODES) == STATIC_NODES | RELATIVE_NODES
            || (flags & NUMA_BALANCING != 0 && mode != BIND)
        {
            return Err(Errno::EINVAL);
        }
        match mode {
            DEFAULT if !nodes.any => Ok(Policy(DEFAULT)),
            LOCAL | PREFERRED if !nodes.any && flags == 0 => Ok(Policy(LOCAL)),
            DEFAULT | LOCAL => Err(Errno::EINVAL),
            _ if nodes.zero => Ok(Policy(mode | flags | Policy::NODE_0)),
            _ => Err(Errno::EINVAL),
        }
    }

    fn mode(self) -> u32 {
        self.0 & 0xffff
    }
}

/// What a node mask says.
#[derive(Clone, Copy, Default)]
struct Nodes {
    any: bool,
    zero: bool,
}

/// Reads a node mask of `max` bits (less one, as by Linux's oversight).
fn read_nodes(mask: UserPtr<u64>, max: u64) -> Result<Nodes> {
    let bits = max.wrapping_sub(1);
    if max == 0 || bits == 0 || mask.is_null() {
        return Ok(Nodes::default());
    }
    if bits > PAGE_SIZE * 8 {
        return Err(Errno::EINVAL);
    }
    let words: Vec<u64> = mask.read_vec(bits.div_ceil(64) as usize)?;
    let mut nodes = Nodes::default();
    for (i, word) in words.iter().enumerate() {
        let first = i as u64 * 64;
        let word = if bits - first < 64 { word & ((1 << (bits - first)) - 1) } else { *word };
        if word != 0 && first >= MAX_NODES {
            return Err(Errno::EINVAL);
        }
        nodes.any |= word != 0;
        nodes.zero |= i == 0 && word & 1 != 0;
    }
    Ok(nodes)
}

/// Writes a node mask of `max` bits with node 0 or nothing in it.
fn write_nodes(mask: UserPtr<u64>, max: u64, zero: bool) -> Result<()> {
    if mask.is_null() {
        return Ok(());
    }
    let words = max.wrapping_sub(1).div_ceil(64);
    if words > PAGE_SIZE / 8 {
        return Err(Errno::EINVAL);
    }
    for i in 0..words.max(1) {
        mask.index(i as usize).write(&u64::from(zero && i == 0))?;
    }
    Ok(())
}

fn set_mempolicy(ctx: &mut Ctx<'_>, mode: u32, mask: UserPtr<u64>, max: u64) -> Result {
    let nodes = read_nodes(mask, max)?;
    let policy = Policy::new(mode, nodes)?;
    ctx.task.mempolicy.store(policy.to_bits(), Ordering::Relaxed);
    Ok(0)
}

fn get_mempolicy(
    ctx: &mut Ctx<'_>,
    mode: UserPtr<u32>,
    mask: UserPtr<u64>,
    max: u64,
    addr: UserAddr,
    flags: u32,
) -> Result {
    const NODE: u32 = 1;
    const ADDR: u32 = 2;
    const ALLOWED: u32 = 4;
    if !mask.is_null() && max < ONLINE_NODES || flags & !(NODE | ADDR | ALLOWED) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & ALLOWED != 0 {
        if flags & (NODE | ADDR) != 0 {
            return Err(Errno::EINVAL);
        }
        mode.write_opt(&0)?;
        write_nodes(mask, max, true)?;
        return Ok(0);
    }
    let own = Policy::from_bits(ctx.task.mempolicy.load(Ordering::Relaxed));
    let policy = if flags & ADDR != 0 {
        let mm = ctx.task.mm()?;
        let layout = mm.layout.read();
        let vma = layout.vmas.find(addr.0).ok_or(Errno::EFAULT)?;
        if vma.policy == Policy::default() { own } else { vma.policy }
    } else if addr.is_null() {
        own
    } else {
        return Err(Errno::EINVAL);
    };
    let value = match (flags & NODE != 0, flags & ADDR != 0) {
        // Of the node itself, which is where every page is.
        (true, true) => {
            ctx.task.mm()?.populate(page_align_down(addr.0)..addr.0 + 1, Some(false), &mut || true)?;
            0
        }
        // The next node to be used: only interleaving has one.
        (true, false) if policy.mode() == 3 => 0,
        (true, false) => return Err(Errno::EINVAL),
        _ => policy.mode(),
    };
    mode.write_opt(&value)?;
    write_nodes(mask, max, policy.0 & Policy::NODE_0 != 0)?;
    Ok(0)
}

/// The range of a call about policies; None if it is empty.
fn range_of(addr: u64, len: u64) -> Result<Option<Range<u64>>> {
    if !addr.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let len = page_align_up(len).ok_or(Errno::EINVAL)?;
    let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
    if end > USER_END && len > 0 {
        return Err(Errno::EFAULT);
    }
    Ok((len > 0).then_some(addr..end))
}

fn mbind(
    ctx: &mut Ctx<'_>,
    addr: UserAddr,
    len: u64,
    mode: u32,
    mask: UserPtr<u64>,
    max: u64,
    flags: u32,
) -> Result {
    let nodes = read_nodes(mask, max)?;
    if flags & !(STRICT | MOVE | MOVE_ALL) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MOVE_ALL != 0 && !ctx.task.credentials().capable(Capabilities::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let Some(range) = range_of(addr.0, len)? else { return Ok(0) };
    let policy = Policy::new(mode, nodes)?;
    let mm = ctx.task.mm()?;
    let mut layout = mm.layout.write();
    if !layout.vmas.covers(range.clone()) {
        return Err(Errno::EFAULT);
    }
    layout.check_split(&range)?;
    layout.vmas.update(range, |vma| vma.policy = policy);
    Ok(0)
}

fn set_mempolicy_home_node(ctx: &mut Ctx<'_>, addr: UserAddr, len: u64, node: u64, flags: u64) -> Result {
    if flags != 0 || node != 0 {
        return Err(Errno::EINVAL);
    }
    let Some(range) = range_of(addr.0, len)? else { return Ok(0) };
    let mm = ctx.task.mm()?;
    let layout = mm.layout.read();
    let mut result = Err(Errno::ENOENT);
    for vma in layout.vmas.overlapping(range) {
        match vma.policy.mode() {
            DEFAULT => {}
            BIND | PREFERRED_MANY => result = Ok(0),
            _ => return Err(Errno::EOPNOTSUPP),
        }
    }
    result
}

/// The memory of `pid` (0: the caller's own), for moving its pages.
fn memory_of(task: &TaskRef, pid: i32) -> Result<alloc::sync::Arc<Mm>> {
    if pid == 0 { task.mm() } else { process_vm::target(task, pid) }
}

fn migrate_pages(ctx: &mut Ctx<'_>, pid: i32, max: u64, old: UserPtr<u64>, new: UserPtr<u64>) -> Result {
    read_nodes(old, max)?;
    let to = read_nodes(new, max)?;
    memory_of(ctx.task, pid)?;
    // Nodes that are not there are left out; pages cannot leave the only node.
    let elsewhere = to.any && !to.zero;
    if elsewhere && !ctx.task.credentials().capable(Capabilities::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    Ok(0)
}

fn move_pages(
    ctx: &mut Ctx<'_>,
    pid: i32,
    count: u64,
    pages: UserPtr<u64>,
    nodes: UserPtr<i32>,
    status: UserPtr<i32>,
    flags: u32,
) -> Result {
    if flags & !(MOVE | MOVE_ALL) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MOVE_ALL != 0 && !ctx.task.credentials().capable(Capabilities::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let mm = memory_of(ctx.task, pid)?;
    for i in 0..usize::try_from(count).map_err(|_| Errno::EINVAL)? {
        let addr = pages.index(i).read()?;
        if !nodes.is_null() && nodes.index(i).read()? != 0 {
            return Err(Errno::ENODEV);
        }
        status.index(i).write(&node_of(&mm, page_align_down(addr)))?;
        sched::preempt_point(ctx.task);
        if ctx.task.killed() {
            return Err(Errno::EINTR);
        }
    }
    Ok(0)
}

/// The node of a page, or a negative error number: EFAULT for no mapping, anonymous memory that was not touched and the
/// zero page, ENOENT for other pages that are not there.
fn node_of(mm: &Mm, page: u64) -> i32 {
    let error = |e: Errno| -(i32::from(e.raw()));
    let layout = mm.layout.read();
    let Some(vma) = layout.vmas.find(page) else { return error(Errno::EFAULT) };
    match mm.space.get(page) {
        None if vma.is_anonymous() => error(Errno::EFAULT),
        None => error(Errno::ENOENT),
        Some(m) if matches!(vma.backing, Backing::Anonymous) => {
            let zero = zero_frame().is_some_and(|zero| zero.pfn() == m.frame.pfn());
            if zero { error(Errno::EFAULT) } else { 0 }
        }
        Some(_) => 0,
    }
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    237 mbind(addr: UserAddr, len: u64, mode: u32, nodemask: UserPtr<u64>, maxnode: u64, flags: u32) Full "one node";
    238 set_mempolicy(mode: u32, nodemask: UserPtr<u64>, maxnode: u64) Full "one node";
    239 get_mempolicy(mode: UserPtr<u32>, nodemask: UserPtr<u64>, maxnode: u64, addr: UserAddr, flags: u32) Full "one node";
    256 migrate_pages(pid: i32, maxnode: u64, old_nodes: UserPtr<u64>, new_nodes: UserPtr<u64>) Full "one node";
    279 move_pages(pid: i32, count: u64, pages: UserPtr<u64>, nodes: UserPtr<i32>, status: UserPtr<i32>, flags: u32) Full "one node";
    450 set_mempolicy_home_node(addr: UserAddr, len: u64, home_node: u64, flags: u64) Full "one node";
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_need_the_node_there_is() {
        let none = Nodes::default();
        let zero = Nodes { any: true, zero: true };
        let other = Nodes { any: true, zero: false };
        assert_eq!(Policy::new(DEFAULT, none), Ok(Policy::default()));
        assert_eq!(Policy::new(DEFAULT, zero), Err(Errno::EINVAL));
        assert_eq!(Policy::new(BIND, none), Err(Errno::EINVAL));
        assert_eq!(Policy::new(BIND, other), Err(Errno::EINVAL));
        assert_eq!(Policy::new(BIND | STATIC_NODES, zero).map(Policy::mode), Ok(BIND | STATIC_NODES));
        assert_eq!(Policy::new(PREFERRED, none).map(Policy::mode), Ok(LOCAL));
        assert_eq!(Policy::new(PREFERRED | NUMA_BALANCING, zero), Err(Errno::EINVAL));
        assert_eq!(Policy::new(6, zero), Err(Errno::EINVAL));
    }
}
