//! Against what each device does.

use alloc::format;
use core::sync::atomic::Ordering;

use ringfence_hal::time;

use super::{MEMORY, PORT, of};
use crate::device::{
    self, BALLOON, BLOCK, Device, ENTRIES, NEEDS_RESET, NEXT, PMEM, Packet, RNG, VSOCK, Verdict, WRITE,
    pause, reg,
};
use crate::raw;

pub fn write_image(devices: &mut [Device]) -> Verdict {
    let (start, len) = of(devices, PMEM)?.region();
    if len == 0 {
        return Err("there is no image".into());
    }
    for at in [0, 0x400, 0x1000, (len / 2) & !0xfff, len - 0x1000] {
        let page = device::map(start + at, 0x1000);
        let word = page.cast::<u8>();
        let before = raw::access(word, 8, None);
        raw::write_all_ways(word, !(before as u8));
        if raw::access(word, 8, None) != before {
            return Err(format!("byte {at:#x} of the image was changed"));
        }
    }
    Ok(())
}

pub fn have_image_written(devices: &mut [Device]) -> Verdict {
    let (start, len) = of(devices, PMEM)?.region();
    for device in devices {
        for at in [0, len - 64] {
            device.set_up()?;
            let (queue, _) = device.request_queue();
            // A device that only reads its request is given the image to write to behind it.
            let memory = &device.queues[usize::from(queue)];
            memory.describe(0, start + at, 64, WRITE, 0);
            device.must_break(0)?;
        }
    }
    Ok(())
}

pub fn rng_gigabytes(devices: &mut [Device]) -> Verdict {
    let rng = of(devices, RNG)?;
    rng.set_up()?;
    let buffer = rng.buffer.phys();
    // Each of the 64 descriptors is all the memory behind the buffer; what the device fills is the buffer.
    let len = (MEMORY - buffer) as u32;
    for i in 0..ENTRIES {
        rng.queues[0].describe(i, buffer, len, WRITE | if i + 1 < ENTRIES { NEXT } else { 0 }, i + 1);
    }
    rng.submit(0, 0)?;
    match rng.queues[0].last_written() {
        1..=0x1_0000 => Ok(()),
        written => Err(format!("{written} bytes at once")),
    }
}

pub fn rng_flood(devices: &mut [Device]) -> Verdict {
    let rng = of(devices, RNG)?;
    rng.set_up()?;
    let buffer = rng.buffer.phys();
    rng.queues[0].describe(0, buffer, 4096, WRITE, 0);
    let until = time::now() + 500_000_000;
    let mut posted: u16 = 0;
    while time::now() < until {
        if posted.wrapping_sub(rng.queues[0].used()) < ENTRIES {
            rng.queues[0].post(0);
            posted = posted.wrapping_add(1);
        }
        rng.kick(0);
    }
    Ok(())
}

pub fn balloon_reports_nonsense(devices: &mut [Device]) -> Verdict {
    let balloon = of(devices, BALLOON)?;
    for (address, len) in
        [(MEMORY, 0x1000), (MEMORY - 0x1000, 0x2000), (0xd000_0000, 0x1000), (!0xfff, 0x1000)]
    {
        balloon.set_up()?;
        balloon.queues[2].describe(0, address, len, WRITE, 0);
        balloon.must_break(0)?;
    }
    Ok(())
}

pub fn balloon_inflates_nonsense(devices: &mut [Device]) -> Verdict {
    let balloon = of(devices, BALLOON)?;
    for page in [u32::MAX, (MEMORY >> 12) as u32, 0xd0000, 0x8000_0000] {
        balloon.set_up()?;
        for queue in 0..2 {
            for i in 0..256 {
                balloon.buffer.store_u32(i * 4, page);
            }
            balloon.queues[queue].describe(0, balloon.buffer.phys(), 1024, 0, 0);
            balloon.submit(queue as u16, 0)?;
        }
    }
    Ok(())
}

pub fn balloon_circles(devices: &mut [Device]) -> Verdict {
    let balloon = of(devices, BALLOON)?;
    balloon.set_up()?;
    for _ in 0..200 {
        balloon.buffer.write(0x3000, &[0x55; 0x1000]);
        balloon.queues[2].describe(0, balloon.buffer.phys(), 0x1_0000, WRITE, 0);
        balloon.submit(2, 0)?;
        let mut page = [1; 0x1000];
        balloon.buffer.read(0x3000, &mut page);
        if page != [0; 0x1000] {
            return Err("memory that was given back is not zero".into());
        }
    }
    Ok(())
}

pub fn disks(devices: &mut [Device]) -> impl Iterator<Item = &mut Device> {
    devices.iter_mut().filter(|device| device.id == BLOCK)
}

/// A request that must not succeed. Nothing may be moved.
pub fn refused(disk: &mut Device, kind: u32, sector: u64, len: u32) -> Verdict {
    const READ: u32 = 0;
    disk.set_up()?;
    disk.buffer.write(0x1000, &[0x77; 0x2000]);
    let direction = if kind == READ { WRITE } else { 0 };
    let status = disk.block_request(kind, sector, len, direction)?;
    let mut data = [0; 0x200];
    disk.buffer.read(0x1000, &mut data);
    match status {
        1 | 2 if data == [0x77; 0x200] => Ok(()),
        _ => Err(format!("request {kind} of sector {sector:#x}, {len} bytes: status {status}")),
    }
}

pub fn block_outside(devices: &mut [Device]) -> Verdict {
    for disk in disks(devices) {
        let sectors =
            u64::from(disk.mmio.read32(reg::CONFIG)) | u64::from(disk.mmio.read32(reg::CONFIG + 4)) << 32;
        for kind in [0, 1] {
            for sector in [
                sectors,
                sectors + 1,
                sectors - 1,
                1 << 55,
                (1 << 55) - 1,
                u64::MAX,
                u64::MAX - 1,
                u64::MAX / 512,
            ] {
                refused(disk, kind, sector, 1024)?;
            }
            for len in [1, 511, 513] {
                refused(disk, kind, 0, len)?;
            }
        }
    }
    Ok(())
}

pub fn block_unknown(devices: &mut [Device]) -> Verdict {
    for disk in disks(devices) {
        for kind in [2, 3, 5, 7, 9, 10, 12, 14, 24, 0x8000_0000, u32::MAX] {
            refused(disk, kind, 0, 512)?;
        }
    }
    Ok(())
}

/// The harness compares the file afterwards.
pub fn block_read_only(devices: &mut [Device]) -> Verdict {
    let mut found = false;
    for disk in disks(devices) {
        disk.reset();
        let read_only = disk.mmio.read32(0x10) & 1 << 5 != 0;
        if read_only {
            found = true;
            for (kind, len) in [(1, 512), (1, 0x1000), (11, 16), (13, 16)] {
                refused(disk, kind, 0, len)?;
            }
        }
    }
    if found { Ok(()) } else { Err("there is no read-only disk".into()) }
}

pub fn vsock_length(devices: &mut [Device]) -> Verdict {
    let vsock = of(devices, VSOCK)?;
    for (len, described) in
        [(1, 44), (0x1_0000, 44 + 0xffff), (u32::MAX, 44), (0x1_0001, 0xffff), (0, 43), (0, 1)]
    {
        vsock.set_up()?;
        let packet = Packet { op: Packet::RW, dst_port: 1024, len, ..Packet::default() };
        let payload = (described as u32).wrapping_sub(Packet::LEN as u32);
        match vsock.send(&packet, payload) {
            Err(_) if vsock.status() & NEEDS_RESET != 0 => {}
            _ => return Err(format!("takes {len} bytes in {described}")),
        }
    }
    Ok(())
}

pub fn vsock_nonsense(devices: &mut [Device]) -> Verdict {
    let vsock = of(devices, VSOCK)?;
    vsock.set_up()?;
    let packets = [
        Packet { op: 0, ..Packet::default() },
        Packet { op: 8, ..Packet::default() },
        Packet { op: u16::MAX, ..Packet::default() },
        Packet { op: Packet::RW, kind: 2, ..Packet::default() },
        Packet { op: Packet::REQUEST, kind: u16::MAX, ..Packet::default() },
        Packet { op: Packet::REQUEST, src_cid: 99, ..Packet::default() },
        Packet { op: Packet::REQUEST, src_cid: u64::MAX, ..Packet::default() },
        Packet { op: Packet::REQUEST, dst_cid: 3, ..Packet::default() },
        Packet { op: Packet::REQUEST, dst_cid: 1 << 32 | 2, ..Packet::default() },
        Packet { op: Packet::RST, ..Packet::default() },
        Packet { op: Packet::RESPONSE, dst_port: 9, ..Packet::default() },
        Packet { op: Packet::SHUTDOWN, flags: u32::MAX, dst_port: 9, ..Packet::default() },
        Packet { op: Packet::CREDIT_UPDATE, dst_port: 9, ..Packet::default() },
        Packet { op: Packet::CREDIT_REQUEST, dst_port: 9, ..Packet::default() },
        Packet { op: Packet::RW, dst_port: 9, len: 64, ..Packet::default() },
    ];
    for packet in packets {
        vsock.send(&packet, packet.len)?;
    }
    Ok(())
}

pub fn vsock_ports(devices: &mut [Device]) -> Verdict {
    let vsock = of(devices, VSOCK)?;
    vsock.set_up()?;
    // Those the host listens on are for the attack by the control channel, and standard streams.
    let ports = (0..64).chain(1000..1024).chain(1026..1040).chain(4000..4010).chain([u32::MAX, u32::MAX - 1]);
    for port in ports {
        let answer = vsock.converse(&Packet { op: Packet::REQUEST, dst_port: port, ..Packet::default() })?;
        if (answer.op, answer.dst_port, answer.src_port) != (Packet::RST, 5000, port) {
            return Err(format!("port {port} answers {}", answer.op));
        }
    }
    Ok(())
}

/// The host may stop to take packets when it has too many answers, but not for good.
pub fn vsock_untaken(devices: &mut [Device]) -> Verdict {
    let vsock = of(devices, VSOCK)?;
    vsock.set_up()?;
    let packet = Packet { op: Packet::REQUEST, dst_port: 9, ..Packet::default() };
    let mut sent = 0;
    while vsock.send_without_waiting(&packet) {
        sent += 1;
        if sent > 4000 {
            return Err("keeps thousands of answers".into());
        }
        // It has some time to take the packet.
        pause(2_000_000);
    }
    for _ in 0..20 {
        vsock.receive()?;
    }
    Ok(())
}

pub fn vsock_counters(devices: &mut [Device]) -> Verdict {
    let port = PORT.load(Ordering::SeqCst);
    let vsock = of(devices, VSOCK)?;
    vsock.set_up()?;
    let request = Packet { op: Packet::REQUEST, dst_port: port, ..Packet::default() };
    if vsock.converse(&request)?.op != Packet::RESPONSE {
        return Err(format!("nobody listens on port {port}"));
    }
    for (buf_alloc, fwd_cnt) in [(0, u32::MAX), (u32::MAX, 0), (u32::MAX, u32::MAX), (1, 1 << 31)] {
        for op in [Packet::CREDIT_UPDATE, Packet::RW, Packet::CREDIT_REQUEST, Packet::REQUEST] {
            vsock.send(&Packet { op, dst_port: port, buf_alloc, fwd_cnt, ..Packet::default() }, 0)?;
        }
    }
    Ok(())
}

impl Device {
    /// Posts a packet; whether there was room for it.
    fn send_without_waiting(&mut self, packet: &Packet) -> bool {
        self.buffer.write(0, &packet.encode());
        let address = self.buffer.phys();
        let queue = &mut self.queues[1];
        queue.describe(0, address, Packet::LEN as u32, 0, 0);
        let room = queue.waiting() < ENTRIES;
        if room {
            queue.post(0);
            self.kick(1);
        }
        room
    }
}
