//! The frame a handler runs from: `struct rt_sigframe` of x86-64 Linux, byte for byte, because programs and
//! unwinders read and change it.
//!
//! From low to high addresses: return address (the restorer), `ucontext` (flags, link, stack, registers,
//! mask), `siginfo`, and, 64-byte aligned above, the XSAVE image that the registers' `fpstate` points to.
//! `rt_sigreturn` believes nothing of what it finds: the HAL keeps segment selectors and privileged flags out
//! of a user context whatever it is given, and checks the XSAVE image before it is loaded.

use core::sync::atomic::Ordering;

use ringfence_hal as hal;
use ringfence_hal::UserRegs;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    state::AltStack,
    types::{SaFlags, SigAction, SigInfo, SigSet, Signal},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    syscall::{Ctx, Syscall, UserPtr},
    syscalls,
};

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;

const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Where `struct _fpx_sw_bytes` lies in the legacy area.
const SW_BYTES: usize = 464;
/// The FXSAVE area and the XSAVE header.
const LEGACY: usize = 512;
const HEADER_END: usize = 576;
/// Bytes below the stack pointer that the x86-64 ABI leaves to the function.
const RED_ZONE: u64 = 128;
/// `SS_ONSTACK`, `SS_DISABLE`, `SS_AUTODISARM` of sigaltstack(2).
pub(super) const SS_ONSTACK: u32 = 1;
pub(super) const SS_DISABLE: u32 = 2;
pub(super) const SS_AUTODISARM: u32 = 1 << 31;

/// `stack_t`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct UserStack {
    pub base: u64,
    pub flags: u32,
    pub _pad: u32,
    pub size: u64,
}

/// `struct sigcontext`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SigContext {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    rflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    err: u64,
    trapno: u64,
    oldmask: u64,
    cr2: u64,
    fpstate: u64,
    reserved: [u64; 8],
}

/// `struct rt_sigframe`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Frame {
    restorer: u64,
    uc_flags: u64,
    uc_link: u64,
    stack: UserStack,
    context: SigContext,
    mask: SigSet,
    info: [u8; 128],
}

/// `struct _fpx_sw_bytes`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SwBytes {
    magic1: u32,
    extended_size: u32,
    xfeatures: u64,
    xstate_size: u32,
    padding: [u32; 7],
}

fn user_stack(s: &AltStack, sp: u64) -> UserStack {
    let state = if s.size == 0 {
        SS_DISABLE
    } else if s.contains(sp) {
        SS_ONSTACK
    } else {
        0
    };
    UserStack { base: s.base, flags: s.flags | state, _pad: 0, size: s.size }
}

/// What `sigaltstack` tells about the present stack.
pub(super) fn current_stack(task: &TaskRef, sp: u64) -> UserStack {
    user_stack(&task.signals.altstack.lock(), sp)
}

/// Builds the frame and points the registers at the handler.
pub(super) fn push(
    task: &TaskRef,
    regs: &mut UserRegs,
    info: &SigInfo,
    action: &SigAction,
    restore_mask: SigSet,
) -> Result<()> {
    let flags = action.flags();
    if !flags.contains(SaFlags::RESTORER) {
        return Err(Errno::EFAULT); // x86-64 has no other way back
    }
    let altstack = *task.signals.altstack.lock();
    let on_altstack = flags.contains(SaFlags::ONSTACK) && altstack.size != 0 && !altstack.contains(regs.rsp);
    let top =
        if on_altstack { altstack.base.wrapping_add(altstack.size) } else { regs.rsp.wrapping_sub(RED_ZONE) };

    let size = hal::fpu::size();
    let fpstate = top.wrapping_sub((size + 4) as u64) & !63;
    let frame_addr = (fpstate.wrapping_sub(size_of::<Frame>() as u64) & !15).wrapping_sub(8);
    if on_altstack && frame_addr < altstack.base {
        return Err(Errno::EFAULT);
    }
    write_fpstate(fpstate, size)?;

    let trap = task.signals.last_trap.load(Ordering::Relaxed);
    let frame = Frame {
        restorer: action.restorer,
        uc_flags: UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
        uc_link: 0,
        stack: user_stack(&altstack, regs.rsp),
        context: SigContext {
            r8: regs.r8,
            r9: regs.r9,
            r10: regs.r10,
            r11: regs.r11,
            r12: regs.r12,
            r13: regs.r13,
            r14: regs.r14,
            r15: regs.r15,
            rdi: regs.rdi,
            rsi: regs.rsi,
            rbp: regs.rbp,
            rbx: regs.rbx,
            rdx: regs.rdx,
            rax: regs.rax,
            rcx: regs.rcx,
            rsp: regs.rsp,
            rip: regs.rip,
            rflags: regs.rflags,
            cs: 0x33,
            gs: 0,
            fs: 0,
            ss: 0x2b,
            err: trap & 0xffff_ffff,
            trapno: trap >> 32,
            oldmask: restore_mask.0,
            cr2: task.signals.last_fault.load(Ordering::Relaxed),
            fpstate,
            reserved: [0; 8],
        },
        mask: restore_mask,
        info: info.to_bytes(),
    };
    UserPtr::<Frame>::new(frame_addr).write(&frame)?;

    if altstack.flags & SS_AUTODISARM != 0 {
        *task.signals.altstack.lock() = AltStack::default();
    }
    regs.rdi = info.signal.number().into();
    regs.rsi = frame_addr + core::mem::offset_of!(Frame, info) as u64;
    regs.rdx = frame_addr + core::mem::offset_of!(Frame, uc_flags) as u64;
    regs.rax = 0;
    regs.rip = action.handler;
    regs.rsp = frame_addr;
    regs.set_user_rflags(regs.rflags & !(1 << 8 | 1 << 10 | 1 << 16)); // TF, DF, RF
    Ok(())
}

fn write_fpstate(at: u64, size: usize) -> Result<()> {
    let mut image = alloc::vec::Vec::new();
    image.try_reserve_exact(size + 4).map_err(|_| Errno::ENOMEM)?;
    image.resize(size + 4, 0);
    let (area, magic2) = image.split_at_mut(size);
    hal::fpu::save(area);
    let sw = SwBytes {
        magic1: FP_XSTATE_MAGIC1,
        extended_size: (size + 4) as u32,
        xfeatures: hal::fpu::features(),
        xstate_size: size as u32,
        padding: [0; 7],
    };
    area.get_mut(SW_BYTES..LEGACY).ok_or(Errno::EFAULT)?.copy_from_slice(sw.as_bytes());
    magic2.copy_from_slice(&FP_XSTATE_MAGIC2.to_ne_bytes());
    Ok(hal::user::copy_out(at, &image)?)
}

fn read_fpstate(at: u64) -> Result<()> {
    if at == 0 {
        hal::fpu::reset();
        return Ok(());
    }
    let size = hal::fpu::size();
    let mut image = alloc::vec::Vec::new();
    image.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    image.resize(size, 0);
    let legacy = image.get_mut(..LEGACY).ok_or(Errno::EFAULT)?;
    hal::user::copy_in(legacy, at)?;
    let sw =
        SwBytes::read_from_bytes(legacy.get(SW_BYTES..).unwrap_or_default()).map_err(|_| Errno::EFAULT)?;
    let extended = sw.magic1 == FP_XSTATE_MAGIC1 && sw.xstate_size as usize == size;
    if extended {
        hal::user::copy_in(image.get_mut(LEGACY..).ok_or(Errno::EFAULT)?, at.wrapping_add(LEGACY as u64))?;
    } else if let Some(header) = image.get_mut(LEGACY..HEADER_END) {
        header.fill(0);
        if let Some(xstate_bv) = header.first_mut() {
            *xstate_bv = 3; // x87 and SSE
        }
    }
    hal::fpu::restore(&image).map_err(|_| Errno::EFAULT)
}

/// Ends a handler. Whatever is wrong with the frame is a SIGSEGV.
fn rt_sigreturn(ctx: &mut Ctx<'_>) -> Result {
    let addr = ctx.regs.rsp.wrapping_sub(8);
    if restore(ctx, addr).is_err() {
        super::force(ctx.task, SigInfo::kernel(Signal::SEGV));
        return Ok(0);
    }
    ctx.regs.orig_rax = u64::MAX; // rax is the program's, not an error to restart
    Ok(ctx.regs.rax as usize)
}

fn restore(ctx: &mut Ctx<'_>, addr: u64) -> Result<()> {
    let frame = UserPtr::<Frame>::new(addr).read()?;
    let c = &frame.context;
    read_fpstate(c.fpstate)?;
    let r = &mut *ctx.regs;
    (r.r8, r.r9, r.r10, r.r11) = (c.r8, c.r9, c.r10, c.r11);
    (r.r12, r.r13, r.r14, r.r15) = (c.r12, c.r13, c.r14, c.r15);
    (r.rdi, r.rsi, r.rbp, r.rbx) = (c.rdi, c.rsi, c.rbp, c.rbx);
    (r.rdx, r.rax, r.rcx, r.rsp, r.rip) = (c.rdx, c.rax, c.rcx, c.rsp, c.rip);
    r.set_user_rflags(c.rflags);
    super::set_mask(ctx.task, frame.mask);
    let stack = frame.stack;
    *ctx.task.signals.altstack.lock() = if stack.flags & SS_DISABLE != 0 {
        AltStack::default()
    } else {
        AltStack { base: stack.base, size: stack.size, flags: stack.flags & SS_AUTODISARM }
    };
    Ok(())
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    15 rt_sigreturn() Full "";
};
