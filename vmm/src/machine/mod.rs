//! The virtual machine: memory, vCPUs, interrupt controller and devices on KVM.
//!
//! A [`Machine`] is built in one go from a [`MachineConfig`] and does not change afterwards. Its threads are
//! the vCPU threads; everything else (queues, streams, signals, time-outs) happens on the thread of the
//! caller, in one `event-manager` loop the machine's devices are registered with.
//!
//! ```text
//!   caller's thread: event loop ──► device queues, control channel, standard streams, signals
//!        ▲ eventfds (ioeventfd kicks, machine stopped)      │ irqfds
//!        │                                                  ▼
//!   vCPU threads: KVM_RUN ─► [`bus`] ─► register files    KVM: IOAPIC, LAPICs, timers
//! ```
//!
//! Lock order: a transport's lock, then its device's lock (see `ringfence-devices`); the serial port's lock is
//! taken alone.
//!
//! The interrupt controller is wholly in the kernel and there is no PIT: the guest's clock is kvmclock and
//! the TSC, its timer the TSC deadline.

pub mod bus;
pub mod cpuid;
pub mod gate;
pub mod layout;
pub mod memory;
pub mod registers;
pub mod vcpu;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use event_manager::MutEventSubscriber;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use ringfence_devices::pmem::{Backing, Pmem, PmemMetrics};
use ringfence_devices::serial::{COM1_GSI, Serial};
use ringfence_devices::virtio::{MmioTransport, VirtioDevice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::boot::loader::{self, LoadError, Placement};
use crate::boot::{acpi, embedded, zero_page};
use crate::kvm_stats;
use crate::stats::KvmStats;
use crate::timeline::Timeline;
use bus::Bus;
use memory::{MemoryError, Ram};
use vcpu::{Shared, Vcpus};

/// Most vCPUs a machine can have: APIC ids fit the 8 bits every table has.
pub const MAX_CPUS: u8 = 64;

/// What can go wrong building a machine.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message is the documentation")]
pub enum MachineError {
    #[error("KVM could not {0}: {1}; run `ringfence doctor`")]
    Kvm(&'static str, kvm_ioctls::Error),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("cannot write guest memory: {0}")]
    GuestMemory(#[from] vm_memory::GuestMemoryError),
    #[error("cannot create an eventfd: {0}; raise the limit of open files (ulimit -n)")]
    EventFd(std::io::Error),
    #[error("cannot start a vCPU thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(std::io::Error),
    #[error("the command line is {0} bytes, the limit is {1}")]
    CommandLine(usize, usize),
    #[error("internal error: {0}")]
    Internal(&'static str),
}

/// The kernel to boot.
pub enum Kernel {
    /// An ELF image in our own binary.
    Embedded {
        /// It.
        image: &'static [u8],
        /// The binary's file, to map it from.
        executable: Option<File>,
    },
    /// vmlinux or bzImage.
    File(File),
}

/// Which conventions beyond the boot protocol the kernel follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Our guest kernel: devices and CPUs on the command line.
    Ringfence,
    /// Stock Linux: ACPI tables.
    Linux,
}

/// A device for the virtio bus, seen from the transport and from the event loop.
pub struct VirtioSlot {
    device: Arc<Mutex<dyn VirtioDevice>>,
    subscriber: Box<dyn MutEventSubscriber>,
}

impl VirtioSlot {
    /// Shares `device` between the two.
    pub fn new<D: VirtioDevice + MutEventSubscriber + 'static>(device: Arc<Mutex<D>>) -> Self {
        Self { device: device.clone(), subscriber: Box::new(device) }
    }
}

/// Everything a machine is made of.
pub struct MachineConfig {
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// RAM in bytes, a multiple of the page size.
    pub memory: u64,
    /// What to boot.
    pub kernel: Kernel,
    /// How.
    pub flavor: Flavor,
    /// Command line; for [`Flavor::Ringfence`] the device entries are added.
    pub cmdline: String,
    /// Contents of the ramdisk slot.
    pub ramdisk: Vec<u8>,
    /// The root image.
    pub image: Option<Backing>,
    /// Devices after the image, in slot order.
    pub devices: Vec<VirtioSlot>,
    /// What the serial port prints is copied to this writer as it comes.
    pub serial_copy: Option<Box<dyn Write + Send>>,
    /// What the serial port reads (Linux only).
    pub serial_input: Option<OwnedFd>,
}

/// A built machine. Field order matters: vCPUs stop before anything goes. Their threads keep the VM; it goes with the
/// process.
pub struct Machine {
    vcpus: Option<Vcpus>,
    pending: Vec<VcpuFd>,
    shared: Arc<Shared>,
    subscribers: Vec<Box<dyn MutEventSubscriber>>,
    vm: VmFd,
    ram: Ram,
    image: Option<Backing>,
    pmem: Option<Arc<PmemMetrics>>,
}

impl Machine {
    /// Builds a machine, ready to be started.
    pub fn new(config: MachineConfig, timeline: &mut Timeline) -> Result<Self, MachineError> {
        let kvm = config.kvm;
        let vm = kvm.create_vm().map_err(|e| MachineError::Kvm("create a virtual machine", e))?;
        vm.set_tss_address(layout::KVM_TSS as usize)
            .map_err(|e| MachineError::Kvm("set the TSS address", e))?;
        vm.create_irq_chip().map_err(|e| MachineError::Kvm("create the interrupt controller", e))?;
        timeline.mark("vm_created");

        let ram = Ram::new(config.memory)?;
        let mut slot = 0;
        for region in ram.map.iter() {
            let host = ram.map.get_host_address(region.start_addr())? as u64;
            add_memory(&vm, &mut slot, region.start_addr().0, region.len(), host, 0)?;
        }
        timeline.mark("memory");

        let mut slots = Vec::with_capacity(config.devices.len() + 1);
        let mut read_only = 0..0;
        let mut pmem_metrics = None;
        if let Some(image) = &config.image {
            let (start, len) = layout::pmem_range(config.memory, image.file_size());
            if len != image.region_size() {
                return Err(MachineError::Internal("pmem region size"));
            }
            add_memory(&vm, &mut slot, start, len, image.host_address(), KVM_MEM_READONLY)?;
            read_only = start..start + len;
            let pmem = Pmem::new(start, len).map_err(MachineError::EventFd)?;
            pmem_metrics = Some(pmem.metrics());
            slots.push(VirtioSlot::new(Arc::new(Mutex::new(pmem))));
        }
        slots.extend(config.devices);
        let (virtio, mut subscribers) = attach(&vm, &ram, slots)?;
        let debug = config.serial_copy.is_some();
        let serial = serial(&vm, config.flavor, config.serial_copy, config.serial_input)?;
        subscribers.push(Box::new(serial.clone()));
        timeline.mark("devices");

        let vcpus = (0..config.cpus)
            .map(|id| vm.create_vcpu(id.into()).map_err(|e| MachineError::Kvm("create a vCPU", e)))
            .collect::<Result<Vec<_>, _>>()?;
        let features = set_cpuid(&kvm, &vcpus)?;
        timeline.mark("vcpus");

        let entry = load(
            &ram,
            config.kernel,
            config.flavor,
            &config.cmdline,
            &config.ramdisk,
            config.cpus,
            virtio.len(),
        )?;
        registers::write_tables(&ram.map, features)?;
        let boot_cpu = vcpus.first().ok_or(MachineError::Internal("no vCPU"))?;
        registers::enter(boot_cpu, entry, features)?;
        for vcpu in &vcpus {
            registers::allow_xsave(vcpu, features)?;
        }
        if config.flavor == Flavor::Linux {
            registers::write_back_memory(boot_cpu)?;
        }
        timeline.mark("loaded");

        let shared =
            Arc::new(Shared::new(Bus { serial, memory: ram.map.clone(), virtio, read_only }, debug)?);
        Ok(Self {
            vcpus: None,
            pending: vcpus,
            shared,
            subscribers,
            vm,
            ram,
            image: config.image,
            pmem: pmem_metrics,
        })
    }

    /// The devices' sides of the event loop; taken once.
    pub fn take_subscribers(&mut self) -> Vec<Box<dyn MutEventSubscriber>> {
        std::mem::take(&mut self.subscribers)
    }

    /// Opens KVM's statistics; before [`Machine::start`]. A KVM without them gives none.
    pub fn open_stats(&self) -> KvmStats {
        KvmStats {
            vm: kvm_stats::open(&self.vm).ok(),
            vcpus: self.pending.iter().filter_map(|v| kvm_stats::open(v).ok()).collect(),
        }
    }

    /// Starts the vCPUs; `confined` as in [`Vcpus::start`].
    pub fn start(&mut self, confined: bool) -> Result<(), MachineError> {
        let fds = std::mem::take(&mut self.pending);
        self.vcpus = Some(Vcpus::start(fds, self.shared.clone(), confined)?);
        Ok(())
    }

    /// Makes the vCPUs stand still; false if they do not.
    pub fn pause(&self) -> bool {
        self.vcpus.as_ref().is_some_and(Vcpus::pause)
    }

    /// Lets them go on.
    pub fn resume(&self) {
        if let Some(vcpus) = &self.vcpus {
            vcpus.resume();
        }
    }

    /// Stops the vCPUs and waits until they have left the guest.
    pub fn stop(&mut self) {
        if let Some(vcpus) = &mut self.vcpus {
            vcpus.stop();
        }
    }

    /// Bus, counters and the reason to stop.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Guest RAM.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// What the root image's device has counted.
    pub fn pmem(&self) -> Option<Arc<PmemMetrics>> {
        self.pmem.clone()
    }

    /// The root image.
    pub fn image(&self) -> Option<&Backing> {
        self.image.as_ref()
    }
}

fn add_memory(
    vm: &VmFd,
    slot: &mut u32,
    gpa: u64,
    len: u64,
    host: u64,
    flags: u32,
) -> Result<(), MachineError> {
    let region = kvm_userspace_memory_region {
        slot: *slot,
        flags,
        guest_phys_addr: gpa,
        memory_size: len,
        userspace_addr: host,
    };
    *slot += 1;
    // SAFETY: the host range is a mapping of `len` bytes owned by the machine (its RAM or its image), which
    // outlives the VM by the order of Machine's fields.
    unsafe { vm.set_user_memory_region(region) }.map_err(|e| MachineError::Kvm("take the guest's memory", e))
}

/// Our guest polls the port and never reads from it, so only Linux gets its interrupt.
fn serial(
    vm: &VmFd,
    flavor: Flavor,
    copy: Option<Box<dyn Write + Send>>,
    input: Option<OwnedFd>,
) -> Result<Arc<Mutex<Serial>>, MachineError> {
    let irq = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(MachineError::EventFd)?;
    if flavor == Flavor::Linux {
        vm.register_irqfd(&irq, COM1_GSI).map_err(|e| MachineError::Kvm("connect an interrupt", e))?;
    }
    let mut serial = Serial::new(irq, copy).map_err(MachineError::EventFd)?;
    if let Some(fd) = input {
        serial.set_input(fd);
    }
    Ok(Arc::new(Mutex::new(serial)))
}

type Attached = (Vec<Mutex<MmioTransport>>, Vec<Box<dyn MutEventSubscriber>>);

fn attach(vm: &VmFd, ram: &Ram, slots: Vec<VirtioSlot>) -> Result<Attached, MachineError> {
    let mut transports = Vec::with_capacity(slots.len());
    let mut subscribers = Vec::with_capacity(slots.len());
    for (n, slot) in slots.into_iter().enumerate() {
        let irq = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(MachineError::EventFd)?;
        vm.register_irqfd(&irq, layout::VIRTIO_GSI + n as u32)
            .map_err(|e| MachineError::Kvm("connect an interrupt", e))?;
        let transport =
            MmioTransport::new(ram.map.clone(), slot.device, irq).map_err(MachineError::EventFd)?;
        let notify = layout::virtio_slot(n) + ringfence_devices::virtio::mmio::QUEUE_NOTIFY;
        for (queue, fd) in transport.queue_eventfds() {
            vm.register_ioevent(fd, &IoEventAddress::Mmio(notify), u32::from(queue))
                .map_err(|e| MachineError::Kvm("connect a queue notification", e))?;
        }
        transports.push(Mutex::new(transport));
        subscribers.push(slot.subscriber);
    }
    Ok((transports, subscribers))
}

fn set_cpuid(kvm: &Kvm, vcpus: &[VcpuFd]) -> Result<registers::Features, MachineError> {
    let mut template = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(|e| MachineError::Kvm("tell the host's CPUID", e))?;
    let tsc_khz = vcpus.first().and_then(|v| v.get_tsc_khz().ok()).unwrap_or(0);
    let features = cpuid::template(&mut template, vcpus.len() as u8, tsc_khz);
    for (id, vcpu) in vcpus.iter().enumerate() {
        cpuid::for_vcpu(&mut template, id as u8);
        vcpu.set_cpuid2(&template).map_err(|e| MachineError::Kvm("set a vCPU's CPUID", e))?;
    }
    Ok(features)
}

fn load(
    ram: &Ram,
    kernel: Kernel,
    flavor: Flavor,
    cmdline: &str,
    ramdisk: &[u8],
    cpus: u8,
    slots: usize,
) -> Result<u64, MachineError> {
    let mem = &*ram.map;
    let loaded = match kernel {
        Kernel::Embedded { image, executable } => embedded::kernel(mem, image, executable.as_ref())?,
        Kernel::File(mut file) => loader::kernel(mem, &mut file)?,
    };
    let (placement, rsdp, cmdline) = match flavor {
        Flavor::Ringfence => (Placement::BehindKernel, 0, guest_cmdline(cmdline, cpus, slots)),
        Flavor::Linux => {
            mem.write_slice(&acpi::tables(layout::ACPI, cpus, slots), GuestAddress(layout::ACPI))?;
            (Placement::High, layout::ACPI, cmdline.to_owned())
        }
    };
    if cmdline.len() >= layout::CMDLINE_MAX {
        return Err(MachineError::CommandLine(cmdline.len(), layout::CMDLINE_MAX - 1));
    }
    loader::command_line(mem, &cmdline)?;
    let ramdisk_at = if ramdisk.is_empty() { 0 } else { loader::ramdisk(mem, &loaded, placement, ramdisk)? };
    zero_page::write(
        mem,
        &zero_page::Contents {
            header: loaded.header,
            ramdisk: (ramdisk_at, ramdisk.len() as u64),
            cmdline_len: cmdline.len(),
            rsdp,
            ram: ram.size(),
        },
    )?;
    Ok(loaded.entry)
}

/// `ringfence.cpus=N virtio_mmio.device=4K@BASE:GSI …`, the syntax of Linux's virtio_mmio module.
fn guest_cmdline(extra: &str, cpus: u8, slots: usize) -> String {
    use std::fmt::Write;
    let mut line = format!("ringfence.cpus={cpus}");
    for n in 0..slots {
        let (base, gsi) = (layout::virtio_slot(n), layout::VIRTIO_GSI + n as u32);
        // Writing to a String cannot fail.
        let _ = write!(line, " virtio_mmio.device=4K@{base:#x}:{gsi}");
    }
    if !extra.is_empty() {
        line.push(' ');
        line.push_str(extra);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_finds_its_devices_on_the_command_line() {
        assert_eq!(
            guest_cmdline("ringfence.loglevel=info", 2, 2),
            "ringfence.cpus=2 virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6 \
             ringfence.loglevel=info"
        );
    }
}
