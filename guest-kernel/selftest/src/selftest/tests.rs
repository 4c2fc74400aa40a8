//! The tests, in the order in which they run.

use crate::kernel::{
    CODE, DATA, FAULT, ONLY_CPU, RESCHEDULES, TIMER, Task, TaskRef, enqueue, run_one, run_to_end,
};
use crate::programs;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Debug;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use ringfence_hal::sync::SpinLock;
use ringfence_hal::{
    AddressSpace, BootInfo, Exception, ForkMode, FpuInit, Frame, Prot, Thread, USER_END, UserRegs, console,
    cpu, dma, entropy, fpu, frames, power, time, user,
};

/// Threads the programs have forked.
pub static CHILDREN: SpinLock<Vec<TaskRef>> = SpinLock::new(Vec::new());
static PASSED: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicUsize = AtomicUsize::new(0);

const RW: Prot = Prot::READ.union(Prot::WRITE);

fn check(what: &str, ok: bool) {
    if ok {
        PASSED.fetch_add(1, SeqCst);
    } else {
        FAILED.fetch_add(1, SeqCst);
        console::write(&format!("FAILED: {what}\n"));
    }
}

fn equal<T: PartialEq + Debug>(what: &str, got: T, want: T) {
    let ok = got == want;
    check(what, ok);
    if !ok {
        console::write(&format!("    got  {got:x?}\n    want {want:x?}\n"));
    }
}

pub fn run(boot: &'static BootInfo) -> ! {
    check("the command line gives the CPUs", boot.cmdline.contains(&format!("ringfence.cpus={}", boot.cpus)));
    let tests: &[(&str, fn())] = &[
        ("memory functions", memory_functions),
        ("frames", frames_),
        ("heap", heap),
        ("clock and timer", clock),
        ("entropy", entropy_),
        ("spaces", spaces),
        ("user copies", user_copies),
        ("system calls", system_calls),
        ("exceptions", exceptions),
        ("hostile returns", hostile),
        ("fork", fork),
        ("registers over switches", keep),
        ("FPU images", fpu_images),
        ("all CPUs", all_cpus),
        ("TLB shootdown", shootdown),
        ("nothing is lost", leaks),
    ];
    for (name, test) in tests {
        console::write(&format!("test {name}\n"));
        test();
    }
    console::write(&format!("{} passed, {} failed\n", PASSED.load(SeqCst), FAILED.load(SeqCst)));
    power::off()
}

/// A user thread that will run `program` with rdi = `arg`.
fn user_thread(program: unsafe extern "C" fn(), arg: u64, space: Option<Arc<AddressSpace>>) -> TaskRef {
    let space = space.unwrap_or_else(|| space_with(program));
    // Each thread of a space has its own stack page.
    let stack = DATA.end - (arg & 15) * 0x1000;
    let mut regs = UserRegs::new(CODE, stack);
    regs.rdi = arg;
    match Thread::new_user(Task::default(), &regs, FpuInit::Fresh, 0, 0, space) {
        Ok(t) => t,
        Err(e) => panic!("{e}"),
    }
}

fn space_with(program: unsafe extern "C" fn()) -> Arc<AddressSpace> {
    let (Ok(space), Ok(page)) = (AddressSpace::new(), Frame::alloc_zeroed()) else { panic!("no memory") };
    page.write(0, programs::bytes(program));
    check("map the program", space.map_new(CODE, page, Prot::READ | Prot::EXEC).is_ok());
    space
}

/// Runs one program to its end; the thread.
fn run_program(program: unsafe extern "C" fn()) -> TaskRef {
    let t = user_thread(program, 0, None);
    check("the program ends", run_to_end(core::slice::from_ref(&t)));
    t
}

fn log_of(t: &TaskRef) -> Vec<u64> {
    t.log.lock().clone()
}

fn memory_functions() {
    let mut ok = true;
    for n in (0..150).chain([4095, 4096, 5000]) {
        for (so, d) in [(0, 0), (1, 0), (3, 7), (8, 1)] {
            let src: Vec<u8> = (0..n + 16).map(|i| (i * 7 + 3) as u8).collect();
            let mut dst = vec![0xee; n + 32];
            dst[d..d + n].copy_from_slice(&src[so..so + n]);
            ok &= dst[d..d + n] == src[so..so + n];
            ok &= dst[..d].iter().chain(&dst[d + n..]).all(|b| *b == 0xee);
            // both directions of overlap
            let mut a = src.clone();
            a.copy_within(so..so + n, d);
            ok &= a[d..d + n] == src[so..so + n];
            let mut z = src.clone();
            z[so..so + n].fill(0x5a);
            ok &= z[so..so + n].iter().all(|b| *b == 0x5a)
                && z[so + n..] == src[so + n..]
                && z[..so] == src[..so];
        }
    }
    check("copy, move, fill, compare", ok);
    check("order of bytes", b"abcdefgh1"[..] < b"abcdefgh2"[..] && b"aXXXXXXXX"[..] > b"AYYYYYYYY"[..]);
    check("high bytes are unsigned", [0xff_u8, 0, 0, 0, 0, 0, 0, 0] > [1, 0, 0, 0, 0, 0, 0, 0]);
}

fn frames_() {
    let before = frames::stats();
    check("no user frames at first", before.user == 0);
    let Ok(f) = Frame::alloc_zeroed() else { return check("allocate", false) };
    let mut buf = [1; 4096];
    f.read(0, &mut buf);
    check("zeroed", buf.iter().all(|b| *b == 0));
    f.write(100, &[7; 50]);
    let g = f.clone();
    equal("two references", f.ref_count(), 2);
    equal("one user frame", frames::stats().user, 1);
    let h = Frame::alloc_copy(&g).map(|h| {
        let mut b = [0; 52];
        h.read(99, &mut b);
        b[0] == 0 && b[1..51] == [7; 50] && b[51] == 0
    });
    equal("copied", h, Ok(true));
    drop((f, g));
    equal("given back", frames::stats().user, 0);
    // More than the caches hold; dirty ones must come back clean.
    for _ in 0..2 {
        let many: Vec<Frame> = (0..500).filter_map(|_| Frame::alloc_zeroed().ok()).collect();
        equal("many", many.len(), 500);
        let mut ok = true;
        let mut pfns = BTreeMap::new();
        for f in &many {
            f.read(0, &mut buf);
            ok &= buf.iter().all(|b| *b == 0);
            f.write(0, &[0xff; 4096]);
            pfns.insert(f.pfn(), ());
        }
        check("all zeroed", ok);
        equal("all different", pfns.len(), 500);
    }
    equal("all given back", frames::stats().user, 0);
    check("free again", frames::stats().free + 20 >= before.free);
    let mut told = 0;
    let n = frames::report_free(6, 8, |phys, len| {
        told += len;
        phys.is_multiple_of(4096) && len >= 4096 << 6
    });
    check("free blocks are reported", n > 0 && told > 0);
    // Until there is no more: user frames leave a reserve.
    let mut all = Vec::with_capacity(before.total);
    while let Ok(f) = Frame::alloc_zeroed() {
        all.push(f);
    }
    let left = frames::stats().free;
    check("a reserve is left", left >= 200 && left < before.total / 8);
    drop(all);
    check("all of memory comes back", frames::stats().free + 100 >= before.free);
}

fn heap() {
    let mut live: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut x = 12345u64;
    let mut ok = true;
    for i in 0..20_000 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if live.len() > 300 {
            let (tag, v) = live.swap_remove((x >> 33) as usize % live.len());
            ok &= v.iter().all(|b| *b == tag);
        }
        let n = match (x >> 60) as usize {
            0 => (x >> 20) as usize % 20_000,
            _ => (x >> 20) as usize % 400,
        };
        live.push((i as u8, vec![i as u8; n]));
    }
    ok &= live.iter().all(|(tag, v)| v.iter().all(|b| b == tag));
    check("objects do not overlap", ok);
    drop(live);
    #[repr(align(256))]
    struct Aligned(#[allow(dead_code)] u8);
    let a: Vec<Box<Aligned>> = (0..50).map(|i| Box::new(Aligned(i))).collect();
    check("alignment", a.iter().all(|b| (&raw const **b).addr().is_multiple_of(256)));
    let mut grow = Vec::new();
    for i in 0..200_000u32 {
        grow.push(i);
    }
    check("growing", grow.iter().enumerate().all(|(i, v)| i as u32 == *v));
    check("zeroed", vec![0u8; 100_000].iter().all(|b| *b == 0));
    let Ok(d) = dma::DmaBuffer::alloc(3 * 4096) else { return check("DMA", false) };
    d.store_u32(8196, 0x1234_5678);
    let mut b = [0; 2];
    d.read(8196, &mut b);
    equal("DMA memory", b, [0x78, 0x56]);
}

fn clock() {
    let a = time::now();
    let mut ok = true;
    let mut last = a;
    for _ in 0..10_000 {
        let now = time::now();
        ok &= now >= last;
        last = now;
    }
    check("time does not go back", ok && last > a);
    for wait in [200_000, 5_000_000] {
        let fired = TIMER.load(SeqCst);
        let want = time::now() + wait;
        time::set_deadline(Some(want));
        while TIMER.load(SeqCst) == fired {
            cpu::wait_for_interrupt();
        }
        let late = time::now().saturating_sub(want);
        check("not early", time::now() >= want);
        check(&format!("not late: {late} ns"), late < 50_000_000);
    }
    let fired = TIMER.load(SeqCst);
    time::set_deadline(Some(time::now() + 1_000_000));
    time::set_deadline(None);
    let end = time::now() + 3_000_000;
    while time::now() < end {
        cpu::poll_interrupts();
    }
    equal("a deadline taken back does not fire", TIMER.load(SeqCst), fired);
    time::set_deadline(Some(1));
    while TIMER.load(SeqCst) == fired {
        cpu::wait_for_interrupt();
    }
    check("a deadline in the past fires", true);
    let p = time::vdso_params();
    check("vDSO parameters", p.tsc_mult != 0 && p.tsc_shift <= 64);
}

fn entropy_() {
    let (mut a, mut b) = ([0; 37], [0; 37]);
    entropy::seed(&mut a);
    entropy::seed(&mut b);
    check("two seeds differ", a != b && a.iter().any(|x| *x != 0));
}

fn spaces() {
    let (Ok(s), Ok(f), Ok(t)) = (AddressSpace::new(), Frame::alloc_zeroed(), AddressSpace::new()) else {
        return check("memory", false);
    };
    let pfn = f.pfn();
    check("map", s.map_new(0x1000, f.clone(), RW).is_ok());
    check("map twice", s.map_new(0x1000, f.clone(), RW).is_err());
    let last = USER_END - 0x1000;
    check("map the last page", s.map_new(last, f.clone(), Prot::READ).is_ok());
    equal("references", f.ref_count(), 3);
    equal("resident", s.resident(), 2);
    let m = s.get(0x1000);
    check("found", m.is_some_and(|m| m.frame.pfn() == pfn && m.prot == RW));
    check("not found", s.get(0x2000).is_none());
    s.protect(0..USER_END, Prot::READ);
    check("write removed", s.get(0x1000).is_some_and(|m| m.prot == Prot::READ));
    s.protect(0x1000..0x2000, Prot::empty());
    check(
        "no access keeps the page",
        s.get(0x1000).is_some_and(|m| m.prot.is_empty() && m.frame.pfn() == pfn),
    );
    s.protect(0x1000..0x2000, Prot::READ);
    check("access again", s.get(0x1000).is_some_and(|m| m.prot == Prot::READ));
    check("move", s.move_range(0x1000, 0x4000_0000, 0x1000).is_ok());
    check("moved", s.get(0x1000).is_none() && s.get(0x4000_0000).is_some());
    check("fork", s.fork_range(&t, 0..USER_END, ForkMode::CopyOnWrite).is_ok());
    equal("the child's pages", t.resident(), 2);
    equal("references after fork", f.ref_count(), 5);
    let Ok(g) = Frame::alloc_copy(&f) else { return check("memory", false) };
    check("replace what is not there", !s.replace(0x4000_0000, pfn + 1, g.clone(), RW));
    check("replace", s.replace(0x4000_0000, pfn, g.clone(), RW));
    equal("the replaced one is released", f.ref_count(), 4);
    equal("unmap", s.unmap(0..USER_END), 2);
    equal("unmap nothing", s.unmap(0..USER_END), 0);
    drop(t);
    equal("a space that goes releases", f.ref_count(), 1);
    // Many pages, across table boundaries.
    let n = 1500;
    let base = 0x7f_ffff_0000_u64;
    for i in 0..n {
        let ok = Frame::alloc_zeroed().is_ok_and(|p| s.map_new(base + i * 0x1000, p, RW).is_ok());
        if !ok {
            check("map many", false);
        }
    }
    equal("unmap some", s.unmap(base + 0x10_0000..base + 0x20_0000), 256);
    equal("unmap the rest", s.unmap(0..USER_END), n as usize - 256);
    drop((f, g, s));
    equal("no frame is left", frames::stats().user, 0);
}

fn user_copies() {
    check("no address space", user::load_u32(DATA.start).is_err());
    // This idle thread becomes a thread with memory for a while.
    let Ok(s) = AddressSpace::new() else { return check("memory", false) };
    Thread::<crate::kernel::SelfTest>::with_current(|t| t.map(|t| t.set_address_space(s.clone())));
    let at = DATA.start + 0x1ff0;
    let data: Vec<u8> = (0..100).collect();
    equal("out, across two new pages", user::copy_out(at, &data), Ok(()));
    let mut back = vec![0; 100];
    equal("in", user::copy_in(&mut back, at), Ok(()));
    equal("the same bytes", &back, &data);
    equal("zero", user::zero(at + 10, 20), Ok(()));
    let _ = user::copy_in(&mut back, at);
    check("zeroed", back[10..30].iter().all(|b| *b == 0) && back[30] == 30 && back[9] == 9);
    // The end of the data area faults for good.
    let end = DATA.end - 13;
    equal("a copy that ends short", user::copy_out(end, &[5; 64]).map_err(|e| e.copied), Err(13));
    equal("also in", user::copy_in(&mut back, end).map_err(|e| e.copied), Err(13));
    equal("also zero", user::zero(end, 20).map_err(|e| e.copied), Err(13));
    for bad in
        [0, 0xffff_8880_0010_0000, 0xffff_ffff_8010_0000, USER_END, USER_END - 1, u64::MAX, 1 << 63, 1 << 47]
    {
        equal("bad address out", user::copy_out(bad, &[0; 8]).map_err(|e| e.copied), Err(0));
        equal("bad address in", user::copy_in(&mut [0; 8], bad).map_err(|e| e.copied), Err(0));
        check("bad word", user::load_u32(bad).is_err() && user::try_load_u32(bad).is_err());
        check("bad string", user::copy_in_str(&mut [0; 8], bad).is_err());
    }
    equal("empty copies", (user::copy_out(0, &[]), user::copy_in(&mut [], 0)), (Ok(()), Ok(())));
    let s1 = DATA.start + 0x2ffd;
    let _ = user::copy_out(s1, b"hello\0");
    let mut b = [0xff; 10];
    equal("a string across pages", user::copy_in_str(&mut b, s1), Ok(5));
    check("and no more", &b[..6] == b"hello\xff");
    equal("a string that is too long", user::copy_in_str(&mut b[..3], s1), Ok(3));
    let _ = user::copy_out(DATA.end - 4, b"abcd");
    equal("a string that runs off", user::copy_in_str(&mut b, DATA.end - 4).map_err(|e| e.copied), Err(4));
    let w = DATA.start + 0x4000;
    check("a quiet access does not fault in", user::try_load_u32(w).is_err());
    equal("store", user::store_u32(w, 5), Ok(()));
    equal("now it is there", user::try_load_u32(w), Ok(5));
    equal("exchange", user::cmpxchg_u32(w, 5, 6), Ok(Ok(5)));
    equal("exchange refused", user::try_cmpxchg_u32(w, 5, 7), Ok(Err(6)));
    check("unaligned exchange", user::cmpxchg_u32(w + 62, 0, 0).is_err());
    equal(
        "double words",
        user::store_u64(w + 8, u64::MAX - 1).and_then(|()| user::load_u64(w + 8)),
        Ok(u64::MAX - 1),
    );
    // Read-only: the fault is not resolved.
    if let Ok(f) = Frame::alloc_zeroed() {
        let _ = s.map_new(CODE, f.clone(), Prot::READ);
        check("a write to a read-only page", user::copy_out(CODE, &[1]).is_err());
        equal("read of it", user::load_u32(CODE), Ok(0));
        f.write(0, &[1, 2, 3, 4]);
        equal("frame to user", f.copy_to_user(0, w, 4), Ok(()));
        equal("came over", user::load_u32(w), Ok(0x0403_0201));
        equal("user to frame", f.copy_from_user(8, w, 4), Ok(()));
        equal("came back", f.load_u32(8), 0x0403_0201);
    }
    if let Ok(empty) = AddressSpace::new() {
        Thread::<crate::kernel::SelfTest>::with_current(|t| t.map(|t| t.set_address_space(empty)));
    }
    equal("the old space is gone", Arc::strong_count(&s), 1);
}

fn system_calls() {
    equal("registers", log_of(&run_program(programs::registers)), vec![1]);
    equal("demand paging", log_of(&run_program(programs::demand)), vec![77, 0, 99]);
    let t = user_thread(programs::registers, 0, None);
    t.work().store(1, SeqCst);
    check("ends", run_to_end(core::slice::from_ref(&t)));
    equal("user work runs once", t.user_work.load(SeqCst), 1);
    equal("and does no harm", log_of(&t), vec![1]);
    let ticks = log_of(&run_program(programs::timing)).first().copied().unwrap_or(0);
    console::write(&format!("    an empty system call takes {} TSC ticks\n", ticks / 1000));
}

fn exceptions() {
    let t = run_program(programs::exceptions);
    let names: Vec<&str> = t
        .exceptions
        .lock()
        .iter()
        .map(|e| match e {
            Exception::InvalidOpcode => "#UD",
            Exception::DivideError => "#DE",
            Exception::Breakpoint => "#BP",
            Exception::GeneralProtection { .. } => "#GP",
            Exception::PageFault(_) => "#PF",
            Exception::Debug { .. } => "#DB",
            Exception::AlignmentCheck => "#AC",
            _ => "?",
        })
        .collect();
    let names = names.join(" ");
    // QEMU 7.2 does not check alignment.
    let names = names.strip_suffix(" #AC").unwrap_or(&names);
    equal("each exception arrives", names, "#UD #DE #BP #GP #GP #GP #GP #GP #GP #PF #PF #PF #PF #GP #GP #DB");
    equal("and the program goes on", log_of(&t), vec![123]);
}

fn hostile() {
    let t = run_program(programs::hostile);
    let log = log_of(&t);
    // CF PF AF ZF SF DF OF AC and the forced bits
    equal("all flags set", log.first().copied(), Some(0x4_0ed7));
    equal("all flags clear", log.get(1).copied(), Some(0x202));
    equal("it went on", log.get(2).copied(), Some(7));
    let e = t.exceptions.lock().clone();
    check(
        "bad addresses are the program's fault",
        e.len() == 3
            && e.iter().all(|e| matches!(e, Exception::GeneralProtection { .. } | Exception::PageFault(_))),
    );
}

fn fork() {
    let parent = run_program(programs::fork);
    let children = core::mem::take(&mut *CHILDREN.lock());
    equal("one child", children.len(), 1);
    check("the child ends", run_to_end(&[]) && wait(&children));
    equal("the parent's memory and FPU", log_of(&parent), vec![11, 0x1234_5678_90ab_cdef]);
    for c in &children {
        equal("the child's memory and FPU", log_of(c), vec![21, 0x1234_5678_90ab_cdef]);
    }
}

/// Works until all have exited, without queueing them.
fn wait(tasks: &[TaskRef]) -> bool {
    let deadline = time::now() + 10_000_000_000;
    while !tasks.iter().all(|t| t.done.load(SeqCst)) {
        if !run_one() {
            cpu::poll_interrupts();
        }
        if time::now() > deadline {
            return false;
        }
    }
    true
}

fn keep() {
    let tasks: Vec<TaskRef> = (1..=4).map(|i| user_thread(programs::keep, i, None)).collect();
    check("they end", run_to_end(&tasks));
    for t in &tasks {
        equal("nothing got lost", log_of(t), vec![0]);
        equal("they switched", t.yields.load(SeqCst), 200);
    }
}

fn fpu_images() {
    let (size, features) = (fpu::size(), fpu::features());
    check("size and features", size >= 576 && features & 3 == 3);
    check("a short image", fpu::restore(&[0; 100]).is_err());
    equal("the program has what the kernel loaded", log_of(&run_program(programs::images)), vec![0x78]);
}

/// In a system call of `programs::images`: what a bad sigreturn could try.
pub fn fpu_images_of_current() {
    let mut image = vec![0; fpu::size()];
    fpu::save(&mut image);
    const XMM7: usize = 160 + 7 * 16;
    equal("the program's register is in the image", image.get(XMM7), Some(&0x77));
    // offset, value, why it must be refused
    for (at, value, why) in [
        (24 + 3, 0xff, "reserved MXCSR bits"),
        (512 + 7, 0x80, "compaction in XSTATE_BV"),
        (512 + 2, 0x02, "a component that is not enabled"),
        (520 + 7, 0x80, "a compacted image"),
        (520, 0x01, "XCOMP_BV"),
        (540, 0x01, "reserved header bytes"),
        (575, 0x01, "the last header byte"),
    ] {
        let mut bad = image.clone();
        bad[at] = value;
        check(why, fpu::restore(&bad).is_err());
    }
    let mut after = vec![0; fpu::size()];
    fpu::save(&mut after);
    check("a refused image changes nothing", after[..512] == image[..512]);
    // Whatever the other bytes are, the processor takes them.
    let mut wild = image.clone();
    wild[..24].fill(0xff);
    check("any x87 state is taken", fpu::restore(&wild).is_ok());
    fpu::reset();
    fpu::save(&mut after);
    check("reset", after[512] & 2 == 0 || after[XMM7..XMM7 + 16] == [0; 16]);
    image[XMM7] = 0x78;
    equal("a good image", fpu::restore(&image), Ok(()));
}

/// Eight threads count in shared memory; answers which CPUs they ran on, a bit each.
fn count_together() -> u64 {
    let space = space_with(programs::count);
    let tasks: Vec<TaskRef> =
        (0..8).map(|i| user_thread(programs::count, 20_000 + i, Some(space.clone()))).collect();
    check("they end", run_to_end(&tasks));
    let sum: u64 = (0..8).map(|i| 20_000 + i).sum();
    let mut b = [0; 8];
    if let Some(m) = space.get(0x50_2000) {
        m.frame.read(0, &mut b);
    }
    equal("no increment is lost", u64::from_le_bytes(b), sum);
    tasks.iter().fold(0, |m, t| m | t.cpus_seen.load(SeqCst))
}

fn all_cpus() {
    cpu::start_secondaries();
    let end = time::now() + 5_000_000_000;
    while cpu::online() < cpu::count() && time::now() < end {
        cpu::relax();
    }
    equal("all CPUs are up", cpu::online(), cpu::count());
    ONLY_CPU.store(usize::MAX, SeqCst);

    // An emulator that runs its CPUs in turn may let one do all the work of a round: then there is another round.
    let mut seen = 0u64;
    for _ in 0..50 {
        seen |= count_together();
        if cpu::count() == 1 || seen.count_ones() > 1 {
            break;
        }
    }
    check(&format!("several CPUs took part: {seen:b}"), cpu::count() == 1 || seen.count_ones() > 1);

    let tasks: Vec<TaskRef> = (1..=12).map(|i| user_thread(programs::keep, i, None)).collect();
    check("they end", run_to_end(&tasks));
    check("registers over CPUs", tasks.iter().all(|t| log_of(t) == [0]));
    if cpu::count() > 1 {
        check("reschedule interrupts came", RESCHEDULES.load(SeqCst) > 0);
    }
}

fn shootdown() {
    if cpu::count() == 1 {
        return;
    }
    // A program on another CPU writes to a page without pause, while the page is made read-only, copied and replaced
    // under it. If its CPU kept an old translation, a write would go to the old page and be missed.
    ONLY_CPU.store(1, SeqCst);
    let space = space_with(programs::writer);
    let t = user_thread(programs::writer, 0, Some(space.clone()));
    enqueue(t.clone());
    let page = 0x50_3000;
    while space.get(page).is_none() {
        cpu::relax();
    }
    let mut rounds = 0;
    let mut old = Vec::new();
    for _ in 0..400 {
        let _guard = FAULT.lock();
        space.protect(page..page + 0x1000, Prot::READ);
        let Some(m) = space.get(page) else { break };
        if !m.prot.contains(Prot::WRITE) {
            let (pfn, Ok(copy)) = (m.frame.pfn(), Frame::alloc_copy(&m.frame)) else { break };
            if space.replace(page, pfn, copy, RW) {
                rounds += 1;
                // Keep a few, poisoned: a late write would be seen, and a late read would end the program.
                m.frame.write(0, &[0xff; 8]);
                old.push(m.frame);
                if old.len() > 20 {
                    let f = old.remove(0);
                    let mut b = [0; 8];
                    f.read(0, &mut b);
                    if b != [0xff; 8] {
                        check("a write to a page that was gone", false);
                    }
                }
            }
        }
    }
    check(&format!("pages were replaced: {rounds}"), rounds > 20);
    // Unmapping, too: the program gets a new zero page, which it notices by itself; so stop it before.
    if let Ok(f) = Frame::alloc_zeroed() {
        f.write(0, &[1]);
        let _ = space.map_new(0x50_4000, f.clone(), RW).or_else(|_| {
            space.get(0x50_4000).map(|m| m.frame.write(0, &[1])).ok_or(ringfence_hal::MapError::OutOfMemory)
        });
    }
    check("the program ends", wait(core::slice::from_ref(&t)));
    check("and never saw another's page", log_of(&t).first().is_some_and(|v| *v != u64::MAX));
    ONLY_CPU.store(usize::MAX, SeqCst);

    // Every CPU unmaps in a space that others run, at the same time.
    let space = space_with(programs::count);
    let tasks: Vec<TaskRef> =
        (0..6).map(|i| user_thread(programs::count, 1_000 + i, Some(space.clone()))).collect();
    for t in &tasks {
        enqueue(t.clone());
    }
    let mut n = 0;
    while !tasks.iter().all(|t| t.done.load(SeqCst)) && n < 1_000_000 {
        for i in 0..4 {
            if let Ok(f) = Frame::alloc_zeroed() {
                let _ = space.map_new(0x58_0000 + i * 0x1000, f, RW);
            }
        }
        space.unmap(0x58_0000..0x58_4000);
        n += 1;
        run_one();
        cpu::poll_interrupts();
    }
    check("flushing under load", tasks.iter().all(|t| t.done.load(SeqCst)));
}

fn leaks() {
    // Let the other CPUs get to their idle threads.
    let end = time::now() + 20_000_000;
    while time::now() < end {
        cpu::poll_interrupts();
    }
    if let Ok(empty) = AddressSpace::new() {
        Thread::<crate::kernel::SelfTest>::with_current(|t| t.map(|t| t.set_address_space(empty)));
    }
    equal("no user frame is left", frames::stats().user, 0);
    let s = frames::stats();
    console::write(&format!("    {s:?}\n"));
}
