//! Can this host run sandboxes?
//!
//! `/dev/kvm` that opens proves little: there are implementations that interpret ring 0 in software and never
//! complete a SYSCALL from ring 3. So the proof is a round trip: a throw-away VM of 2 MiB whose hand-assembled
//! guest goes ring 0 → SYSRET → ring 3 → SYSCALL → ring 0 → SYSRET → ring 3 → SYSCALL → ring 0 and then writes
//! what it counted to a port. It takes under a millisecond where it works, and a time-out ends it where not.
//!
//! `run` pays for the proof only on hosts whose CPU shows neither VMX nor SVM ([`quick`]).

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VcpuExit};
use rustix::io::Errno;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const TIME_LIMIT: Duration = Duration::from_millis(500);

const RAM: usize = 2 << 20;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const KERNEL_ENTRY: u64 = 0x1_0000;
const USER_CODE: u64 = 0x1_1000;
const SYSCALL_ENTRY: u64 = 0x1_2000;
const PORT: u16 = 0x600;
/// What the guest starts to count from, and what it has after two system calls.
const FIRST: u32 = 42;
const COUNTED: u32 = FIRST + 2;

/// `sysretq`, with rcx and r11 set from outside.
const KERNEL: &[u8] = &[0x48, 0x0f, 0x07];
/// `mov eax, 42; 1: syscall; jmp 1b`
const USER: &[u8] = &[0xb8, FIRST as u8, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xfc];
/// `inc eax; cmp eax, 44; je 1f; sysretq; 1: mov dx, 0x600; out dx, eax; hlt`
const HANDLER: &[u8] = &[
    0xff,
    0xc0,
    0x83,
    0xf8,
    COUNTED as u8,
    0x74,
    0x03,
    0x48,
    0x0f,
    0x07,
    0x66,
    0xba,
    0x00,
    0x06,
    0xef,
    0xf4,
];

/// Why the host cannot run sandboxes; each message says what to do.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message is the documentation")]
pub enum ProbeError {
    #[error("there is no /dev/kvm: {}", advice_missing())]
    Missing,
    #[error(
        "no permission to open /dev/kvm: add this user to the group that owns it (`sudo usermod -aG kvm $USER`, \
         then log in again), or run as root"
    )]
    Permission,
    #[error("/dev/kvm is there but cannot be opened ({0}): {advice}", advice = advice_missing())]
    Open(std::io::Error),
    #[error("this host's KVM lacks `{0}`; it needs Linux 5.10 or newer on x86-64")]
    Capability(&'static str),
    #[error("KVM refused to {0} ({1}): its module may be blocked by another hypervisor on this host")]
    Refused(&'static str, kvm_ioctls::Error),
    #[error(
        "this host's KVM does not virtualize ring 0 by hardware: a SYSCALL from ring 3 did not arrive ({0}). \
         Use a host with Intel VT-x or AMD-V enabled, or enable nested virtualization for this virtual machine \
         on its host; `cargo xtask lab shell` gives an emulated one for development"
    )]
    NoRingZero(String),
}

fn advice_missing() -> &'static str {
    if raw_cpuid(1).2 & 1 << 31 != 0 {
        "this is a virtual machine; enable nested virtualization for it on its host, then load kvm_intel or kvm_amd"
    } else {
        "enable virtualization (VT-x or AMD-V) in the firmware setup, then load kvm_intel or kvm_amd"
    }
}

fn raw_cpuid(leaf: u32) -> (u32, u32, u32, u32) {
    let r = std::arch::x86_64::__cpuid(leaf);
    (r.eax, r.ebx, r.ecx, r.edx)
}

/// Whether the CPU shows VMX or SVM.
pub fn has_hardware_virtualization() -> bool {
    let vmx = raw_cpuid(1).2 & 1 << 5 != 0;
    let svm = raw_cpuid(0x8000_0000).0 >= 0x8000_0001 && raw_cpuid(0x8000_0001).2 & 1 << 2 != 0;
    vmx || svm
}

/// The check every `run` makes: nothing where the CPU virtualizes, the whole proof elsewhere.
pub fn quick() -> Option<String> {
    if has_hardware_virtualization() {
        return None;
    }
    open().and_then(|_| round_trip()).err().map(|e| e.to_string())
}

/// Opens `/dev/kvm`.
pub fn open() -> Result<Kvm, ProbeError> {
    open_device().map(wrap)
}

/// Opens `/dev/kvm`, to be used by this or another process.
pub fn open_device() -> Result<OwnedFd, ProbeError> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open("/dev/kvm", flags, rustix::fs::Mode::empty()).map_err(explain)
}

/// KVM by the open `/dev/kvm`.
pub fn wrap(device: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is open, and is given away here.
    unsafe { Kvm::from_raw_fd(device.into_raw_fd()) }
}

/// What an error of opening `/dev/kvm` means.
fn explain(e: Errno) -> ProbeError {
    match e {
        Errno::NOENT => ProbeError::Missing,
        Errno::ACCESS | Errno::PERM => ProbeError::Permission,
        e => ProbeError::Open(e.into()),
    }
}

/// Checks the API version and the capabilities the machine is built on.
pub fn capabilities(kvm: &Kvm) -> Result<(), ProbeError> {
    if kvm.get_api_version() != 12 {
        return Err(ProbeError::Capability("API version 12"));
    }
    let needed = [
        (Cap::Irqchip, "in-kernel interrupt controller"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::Irqfd, "irqfd"),
        (Cap::UserMemory, "user memory"),
        (Cap::ReadonlyMem, "read-only memory"),
        (Cap::ImmediateExit, "immediate exit"),
        (Cap::TscDeadlineTimer, "TSC deadline timer"),
        (Cap::ExtCpuid, "CPUID"),
        (Cap::Xcrs, "XCR0"),
    ];
    match needed.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, name)) => Err(ProbeError::Capability(name)),
        None => Ok(()),
    }
}

/// The proof. Takes at most half a second.
pub fn round_trip() -> Result<(), ProbeError> {
    let (done, result) = mpsc::channel();
    // Not joined after a time-out: a KVM that does not come back from KVM_RUN ends with the process.
    let thread = std::thread::Builder::new()
        .name("probe".into())
        .spawn(move || done.send(guest()))
        .map_err(|e| ProbeError::NoRingZero(format!("no thread: {e}")))?;
    match result.recv_timeout(TIME_LIMIT) {
        // A caller that forks (for the jail) must be alone again.
        Ok(result) => {
            let _ = thread.join();
            result
        }
        Err(_) => Err(ProbeError::NoRingZero(format!("no answer within {} ms", TIME_LIMIT.as_millis()))),
    }
}

fn guest() -> Result<(), ProbeError> {
    let refused = |what| move |e| ProbeError::Refused(what, e);
    let kvm = open()?;
    let memory = memory().map_err(|e| ProbeError::NoRingZero(format!("no memory: {e}")))?;
    let host = memory.get_host_address(GuestAddress(0)).map_or(0, |p| p as u64);
    let vm = kvm.create_vm().map_err(refused("create a virtual machine"))?;
    let region =
        kvm_userspace_memory_region { memory_size: RAM as u64, userspace_addr: host, ..Default::default() };
    // SAFETY: the range is the mapping in `memory`, which is dropped after `vm` (declared before it).
    unsafe { vm.set_user_memory_region(region) }.map_err(refused("take memory"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(refused("create a vCPU"))?;
    let cpuid =
        kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES).map_err(refused("tell its CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(refused("set CPUID"))?;
    let mut sregs = vcpu.get_sregs().map_err(refused("read registers"))?;
    let flat = kvm_segment {
        limit: 0xffff_ffff,
        selector: 0x18,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    (sregs.ds, sregs.es, sregs.ss) = (flat, flat, flat);
    sregs.cs = kvm_segment { selector: 0x10, type_: 0xb, db: 0, l: 1, ..flat };
    sregs.cr3 = PML4;
    sregs.cr4 = 1 << 5;
    sregs.cr0 = 1 << 31 | 1 << 4 | 1;
    sregs.efer = 1 << 10 | 1 << 8 | 1;
    vcpu.set_sregs(&sregs).map_err(refused("enter long mode"))?;
    let msr = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let msrs =
        [msr(0xc000_0081, 0x18 << 48 | 0x10 << 32), msr(0xc000_0082, SYSCALL_ENTRY), msr(0xc000_0084, 0)];
    let msrs = Msrs::from_entries(&msrs).map_err(|_| ProbeError::NoRingZero("MSR list".into()))?;
    vcpu.set_msrs(&msrs).map_err(refused("set the SYSCALL registers"))?;
    let regs = kvm_regs { rip: KERNEL_ENTRY, rcx: USER_CODE, r11: 2, rflags: 2, ..Default::default() };
    vcpu.set_regs(&regs).map_err(refused("set registers"))?;
    match vcpu.run() {
        Ok(VcpuExit::IoOut(PORT, data)) if *data == COUNTED.to_le_bytes() => Ok(()),
        Ok(exit) => Err(ProbeError::NoRingZero(format!("the vCPU stopped with {exit:?}"))),
        Err(e) => Err(ProbeError::NoRingZero(format!("KVM_RUN failed: {e}"))),
    }
}

/// 2 MiB of RAM, identity mapped by one large page that ring 3 may use, with the code in it.
fn memory() -> Result<GuestMemoryMmap, Box<dyn std::error::Error>> {
    const PRESENT_WRITE_USER: u64 = 7;
    const LARGE: u64 = 1 << 7;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)])?;
    memory.write_obj(PDPT | PRESENT_WRITE_USER, GuestAddress(PML4))?;
    memory.write_obj(PD | PRESENT_WRITE_USER, GuestAddress(PDPT))?;
    memory.write_obj(PRESENT_WRITE_USER | LARGE, GuestAddress(PD))?;
    for (code, at) in [(KERNEL, KERNEL_ENTRY), (USER, USER_CODE), (HANDLER, SYSCALL_ENTRY)] {
        memory.write_slice(code, GuestAddress(at))?;
    }
    Ok(memory)
}
