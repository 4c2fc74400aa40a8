//! ACPI tables for stock Linux.
//!
//! Debian's cloud kernel is built without MP-table and without `virtio_mmio.device=` support, so ACPI is the
//! one way to tell it about CPUs and devices. The platform is "hardware-reduced": no PIC, no PIT, no power
//! management timer, everything through the IOAPIC. Our own guest kernel needs none of this and gets none.
//!
//! Sources: ACPI 6.5 sections 5.2 (tables) and 19 (AML); `Documentation/firmware-guide/acpi`; the device id
//! `LNRO0005` is the one Linux's virtio_mmio driver binds to.

use acpi_tables::{
    Aml, AmlSink,
    aml::{self, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Path, ResourceTemplate, Scope},
    fadt::{FADTBuilder, Flags},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};

use crate::machine::layout;

const OEM: [u8; 6] = *b"RNGFNC";
const OEM_TABLE: [u8; 8] = *b"RINGFENC";

/// `IAPC_BOOT_ARCH` flags (ACPI 6.5, table 5.11): Linux does not look for what is not there.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;

struct Sink(Vec<u8>);

impl AmlSink for Sink {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut sink = Sink(Vec::new());
    table.to_aml_bytes(&mut sink);
    sink.0
}

/// Tables to be copied to `base`, the RSDP first.
///
/// `virtio_slots` virtio-mmio devices are described, and `cpus` processors with APIC ids from 0.
pub fn tables(base: u64, cpus: u8, virtio_slots: usize) -> Vec<u8> {
    let mut out = bytes(&Rsdp::new(OEM, 0));
    let mut place = |table: Vec<u8>| {
        out.resize(out.len().next_multiple_of(16), 0);
        let at = base + out.len() as u64;
        out.extend_from_slice(&table);
        at
    };
    let dsdt = place(dsdt(virtio_slots));
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, 1).dsdt_64(dsdt).flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    let fadt = place(bytes(&fadt.finalize()));
    let madt = place(madt(cpus));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    out[..rsdp.len()].copy_from_slice(&rsdp);
    out
}

fn madt(cpus: u8) -> Vec<u8> {
    let mut madt = MADT::new(OEM, OEM_TABLE, 1, LocalInterruptController::Address(layout::LAPIC));
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    bytes(&madt)
}

fn dsdt(virtio_slots: usize) -> Vec<u8> {
    let mut body = Sink(Vec::new());
    let com1 = EISAName::new("PNP0501");
    let io = IO::new(0x3f8, 0x3f8, 1, 8);
    let irq = Interrupt::new(true, true, false, false, 4);
    let crs = ResourceTemplate::new(vec![&io, &irq]);
    let hid = Name::new("_HID".into(), &com1);
    let uid = Name::new("_UID".into(), &aml::ZERO);
    let crs = Name::new("_CRS".into(), &crs);
    Scope::new("_SB_".into(), vec![&Device::new("COM1".into(), vec![&hid, &uid, &crs])])
        .to_aml_bytes(&mut body);
    for slot in 0..virtio_slots {
        let mmio = Memory32Fixed::new(true, layout::virtio_slot(slot) as u32, layout::VIRTIO_SIZE as u32);
        let irq = Interrupt::new(true, true, false, false, layout::VIRTIO_GSI + slot as u32);
        let crs = ResourceTemplate::new(vec![&mmio, &irq]);
        let hid = Name::new("_HID".into(), &"LNRO0005");
        let number = slot as u64;
        let uid = Name::new("_UID".into(), &number);
        let cca = Name::new("_CCA".into(), &aml::ONE);
        let crs = Name::new("_CRS".into(), &crs);
        let name = Path::new(&format!("V{slot:03}"));
        let device = Device::new(name, vec![&hid, &uid, &cca, &crs]);
        Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(&mut body);
    }
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, 1);
    dsdt.append_slice(&body.0);
    dsdt.as_slice().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(b: &[u8]) -> u8 {
        b.iter().fold(0, |a, &x| a.wrapping_add(x))
    }

    #[test]
    fn tables_are_linked_and_summed() {
        let base = 0xe_0000;
        let t = tables(base, 3, 4);
        assert_eq!(&t[..8], b"RSD PTR ");
        assert_eq!(sum(&t[..20]), 0);
        let xsdt = u64::from_le_bytes(t[24..32].try_into().unwrap()) - base;
        let xsdt = &t[xsdt as usize..];
        assert_eq!(&xsdt[..4], b"XSDT");
        for entry in xsdt[36..52].chunks(8) {
            let at = (u64::from_le_bytes(entry.try_into().unwrap()) - base) as usize;
            let len = u32::from_le_bytes(t[at + 4..at + 8].try_into().unwrap()) as usize;
            assert_eq!(sum(&t[at..at + len]), 0);
        }
        assert!(t.len() < 0x2_0000);
    }
}
