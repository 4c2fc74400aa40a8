//! A QEMU plugin: counts every instruction the lab executes between two marks, by call path.
//!
//! Nothing is sampled. QEMU calls [`executed`] for every block of instructions that runs, and tells us of the stores of
//! `call` and the loads of `ret`, whose addresses are the stack pointer. From these a shadow of each kernel stack is
//! kept: a call at stack address A is made by the innermost call whose return address lies above A. That holds across
//! switches of stacks, since a stack is known by its address; and a frame left without `ret` goes with the next call or
//! return above it. User code is counted without its callers.
//!
//! Programs say what shall be counted: `nopl 0x01504652(%rax)` begins, and with 0x00 in the highest byte it ends and writes
//! `out=PATH`. Lines `n ID PARENT PC` are call paths (PC is the call instruction, 0 the root), `c ID PC COUNT` the
//! instructions executed in the blocks at PC under that path. `cargo xtask profile` reads it.
//!
//! The lab has one CPU and QEMU runs it on one thread, so the one lock is never waited for.
mod qemu;

use std::collections::HashMap;
use std::ffi::{c_uint, c_void};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use qemu::Tb;

/// Bytes of the marking instructions, before the last.
const MARK: [u8; 6] = [0x0f, 0x1f, 0x80, b'R', b'F', b'P'];

/// Whether instructions are counted now.
static ACTIVE: AtomicBool = AtomicBool::new(false);
static STATE: Mutex<Option<State>> = Mutex::new(None);

/// Whose code an address is, by where kernels are linked.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Domain {
    User,
    /// The kernel of the lab.
    Host,
    /// Ours.
    Guest,
}

impl Domain {
    fn of(pc: u64) -> Domain {
        match pc {
            0..0x8000_0000_0000 => Domain::User,
            0xffff_ffff_8000_0000..0xffff_ffff_8100_0000 => Domain::Guest,
            _ => Domain::Host,
        }
    }
}

/// A block, given to the callbacks.
struct Block {
    pc: u64,
    instructions: u64,
    domain: Domain,
    /// Its last instruction, where a call ends it.
    last: u64,
}

/// A call that has not returned: where its return address is, and its path.
struct Frame {
    at: u64,
    path: u32,
}

/// Number of the empty path.
const ROOT: u32 = 0;

#[derive(Default)]
struct State {
    out: String,
    /// Parent and call instruction of each path but the root, which is the first.
    paths: Vec<(u32, u64)>,
    known: HashMap<(u32, u64), u32>,
    counts: HashMap<(u32, u64), u64>,
    stacks: HashMap<(Domain, u64), Vec<Frame>>,
    /// The path each kernel is in.
    host: u32,
    guest: u32,
}

impl State {
    fn current(&mut self, domain: Domain) -> &mut u32 {
        if domain == Domain::Guest { &mut self.guest } else { &mut self.host }
    }

    /// The shadow of the stack with `at`, without calls that are over.
    fn stack(&mut self, domain: Domain, at: u64) -> &mut Vec<Frame> {
        // The guest's stacks have 64 KiB of addresses each, Linux's are 16 KiB.
        let key = if domain == Domain::Guest { at >> 16 } else { at >> 14 };
        let stack = self.stacks.entry((domain, key)).or_default();
        while stack.last().is_some_and(|frame| frame.at <= at) {
            stack.pop();
        }
        stack
    }

    fn call(&mut self, domain: Domain, from: u64, at: u64) {
        let parent = self.stack(domain, at).last().map_or(ROOT, |frame| frame.path);
        let fresh = self.paths.len() as u32;
        let path = *self.known.entry((parent, from)).or_insert(fresh);
        if path == fresh {
            self.paths.push((parent, from));
        }
        self.stack(domain, at).push(Frame { at, path });
        *self.current(domain) = path;
    }

    fn ret(&mut self, domain: Domain, at: u64) {
        *self.current(domain) = self.stack(domain, at).last().map_or(ROOT, |frame| frame.path);
    }

    fn write(&self) -> std::io::Result<()> {
        let mut text = String::new();
        for (id, (parent, pc)) in self.paths.iter().enumerate() {
            let _ = writeln!(text, "n {id} {parent} {pc:x}");
        }
        for ((path, pc), count) in &self.counts {
            let _ = writeln!(text, "c {path} {pc:x} {count}");
        }
        let temporary = format!("{}.new", self.out);
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, &self.out)
    }
}

fn state() -> MutexGuard<'static, Option<State>> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn install(out: &str) {
    *state() = Some(State { out: out.to_owned(), paths: vec![(ROOT, 0)], ..State::default() });
}

/// A block is translated: ask for callbacks.
unsafe extern "C" fn translated(_id: u64, tb: *mut Tb) {
    // SAFETY: `tb` and its instructions are valid during this callback, which is all they are used for. The data
    // given to the callbacks is never freed.
    unsafe {
        let count = qemu::qemu_plugin_tb_n_insns(tb);
        let pc = qemu::qemu_plugin_tb_vaddr(tb);
        let domain = Domain::of(pc);
        let last = qemu::qemu_plugin_tb_get_insn(tb, count.saturating_sub(1));
        let instructions = count as u64;
        let block = Block { pc, instructions, domain, last: qemu::qemu_plugin_insn_vaddr(last) };
        let block: *mut Block = Box::leak(Box::new(block));
        qemu::qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, qemu::NO_REGS, block.cast());
        let bytes = |insn| {
            std::slice::from_raw_parts(qemu::qemu_plugin_insn_data(insn), qemu::qemu_plugin_insn_size(insn))
        };
        if domain == Domain::User {
            for index in 0..count {
                let insn = qemu::qemu_plugin_tb_get_insn(tb, index);
                let callback = match bytes(insn).strip_prefix(&MARK) {
                    Some([1]) => begin,
                    Some([0]) => end as qemu::Executed,
                    _ => continue,
                };
                qemu::qemu_plugin_register_vcpu_insn_exec_cb(
                    insn,
                    callback,
                    qemu::NO_REGS,
                    std::ptr::null_mut(),
                );
            }
        } else if is_call(bytes(last)) {
            qemu::qemu_plugin_register_vcpu_mem_cb(last, called, qemu::NO_REGS, qemu::WRITE, block.cast());
        } else if is_ret(bytes(last)) {
            qemu::qemu_plugin_register_vcpu_mem_cb(last, returned, qemu::NO_REGS, qemu::READ, block.cast());
        }
    }
}

/// The instruction without prefixes that say nothing here (segments, `bnd`, `rex`).
fn plain(mut bytes: &[u8]) -> &[u8] {
    while let [0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf2 | 0xf3 | 0x40..=0x4f, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn is_call(bytes: &[u8]) -> bool {
    matches!(plain(bytes), [0xe8, ..]) || matches!(plain(bytes), [0xff, modrm, ..] if modrm >> 3 & 7 == 2)
}

fn is_ret(bytes: &[u8]) -> bool {
    matches!(plain(bytes), [0xc2 | 0xc3, ..])
}

/// The block behind a callback's data.
///
/// # Safety
/// `data` is what [`translated`] gave.
unsafe fn block(data: *mut c_void) -> &'static Block {
    // SAFETY: as the caller says; it is never freed.
    unsafe { &*data.cast::<Block>() }
}

unsafe extern "C" fn executed(_cpu: c_uint, data: *mut c_void) {
    if !ACTIVE.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: registered with a block.
    let block = unsafe { block(data) };
    let mut guard = state();
    let Some(state) = guard.as_mut() else { return };
    if block.domain == Domain::User {
        (state.host, state.guest) = (ROOT, ROOT);
    }
    let path = *state.current(block.domain);
    *state.counts.entry((path, block.pc)).or_default() += block.instructions;
}

unsafe extern "C" fn called(_cpu: c_uint, _info: u32, address: u64, data: *mut c_void) {
    // A call through memory loads as well; only its store comes here.
    // SAFETY: registered with a block.
    let block = unsafe { block(data) };
    if ACTIVE.load(Ordering::Relaxed)
        && let Some(state) = state().as_mut()
    {
        state.call(block.domain, block.last, address);
    }
}

unsafe extern "C" fn returned(_cpu: c_uint, _info: u32, address: u64, data: *mut c_void) {
    // SAFETY: registered with a block.
    let block = unsafe { block(data) };
    if ACTIVE.load(Ordering::Relaxed)
        && let Some(state) = state().as_mut()
    {
        state.ret(block.domain, address);
    }
}

unsafe extern "C" fn begin(_cpu: c_uint, _data: *mut c_void) {
    if let Some(state) = state().as_mut() {
        state.counts.clear();
    }
    ACTIVE.store(true, Ordering::Relaxed);
}

unsafe extern "C" fn end(_cpu: c_uint, _data: *mut c_void) {
    ACTIVE.store(false, Ordering::Relaxed);
    if let Some(Err(error)) = state().as_ref().map(State::write) {
        eprintln!("the profile cannot be written: {error}");
    }
}
