//! Facts about the machine: `sysinfo`, `getrandom`.

use ringfence_hal as hal;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    errno::{Errno, Result},
    io::Sink,
    sched,
    syscall::{Ctx, Syscall, UserAddr, UserPtr},
    syscalls,
};

/// The Linux release whose interface we speak: programs compare it with what they need.
pub const RELEASE: &str = "6.1.0-ringfence";
/// `uname -v`.
pub const VERSION: &str = concat!("#1 SMP Ringfence ", env!("CARGO_PKG_VERSION"));

/// `struct sysinfo`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SysInfo {
    uptime: i64,
    loads: [u64; 3],
    totalram: u64,
    freeram: u64,
    sharedram: u64,
    bufferram: u64,
    totalswap: u64,
    freeswap: u64,
    procs: u16,
    _pad: [u16; 3],
    totalhigh: u64,
    freehigh: u64,
    mem_unit: u32,
    _pad2: u32,
}

fn sysinfo(ctx: &mut Ctx<'_>, out: UserPtr<SysInfo>) -> Result {
    let frames = hal::frames::stats();
    let page = hal::PAGE_SIZE as u64;
    out.write(&SysInfo {
        uptime: (hal::time::now() / 1_000_000_000) as i64,
        loads: sched::load_averages().map(|load| load << 5), // 16 bits of fraction
        totalram: frames.total as u64 * page,
        freeram: frames.free as u64 * page,
        sharedram: 0,
        bufferram: 0,
        totalswap: 0,
        freeswap: 0,
        procs: ctx.task.kernel().pids.task_count().min(usize::from(u16::MAX)) as u16,
        _pad: [0; 3],
        totalhigh: 0,
        freehigh: 0,
        mem_unit: 1,
        _pad2: 0,
    })?;
    Ok(0)
}

const GRND_KNOWN: u32 = 7;

fn getrandom(ctx: &mut Ctx<'_>, buf: UserAddr, len: usize, flags: u32) -> Result {
    if flags & !GRND_KNOWN != 0 || flags & 6 == 6 {
        return Err(Errno::EINVAL);
    }
    let mut sink = Sink::user(buf.0, len.min(crate::io::MAX_RW_COUNT));
    let mut chunk = [0u8; 256];
    while sink.remaining() > 0 {
        let n = sink.remaining().min(chunk.len());
        let bytes = chunk.get_mut(..n).unwrap_or_default();
        crate::random::fill(bytes);
        if let Err(e) = sink.put_some(bytes) {
            return if sink.done() > 0 { Ok(sink.done()) } else { Err(e) };
        }
        if sink.done().is_multiple_of(1 << 16) {
            sched::preempt_point(ctx.task);
            if ctx.task.interrupted() && sink.remaining() > 0 {
                break;
            }
        }
    }
    Ok(sink.done())
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    99 sysinfo(info: UserPtr<SysInfo>) Full "";
    318 getrandom(buf: UserAddr, buflen: usize, flags: u32) Full "";
};
