//! Against the transport and the queues of every device.

use alloc::format;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ringfence_hal::{cpu, time};

use super::MEMORY;
use crate::device::{
    self, ACKNOWLEDGE, DRIVER, DRIVER_OK, Device, ENTRIES, FEATURES_OK, NEEDS_RESET, NEXT, Random, Verdict,
    WRITE, poke, reg,
};
use crate::raw;

/// What the second CPU is to change: physical address of a descriptor; 0 is nothing.
static VICTIM: AtomicU64 = AtomicU64::new(0);
static CHANGES: AtomicUsize = AtomicUsize::new(0);

/// Changes a descriptor as fast as it can.
pub fn second_cpu() -> ! {
    let good = AtomicU64::new(0);
    loop {
        let victim = VICTIM.load(Ordering::SeqCst);
        if victim == 0 {
            good.store(0, Ordering::SeqCst);
            cpu::relax();
            continue;
        }
        let words = [device::pointer(victim).cast::<u64>(), device::pointer(victim + 8).cast::<u64>()];
        let kept = words.map(|word| raw::access(word.cast(), 8, None));
        while VICTIM.load(Ordering::SeqCst) == victim {
            for evil in [
                [u64::MAX - 7, kept[1]],
                [kept[0], kept[1] | 0xffff_ffff],
                [kept[0], u64::from(NEXT) << 32 | 16],
                [kept[0], kept[1] ^ u64::from(WRITE) << 32],
                kept,
            ] {
                raw::access(words[0].cast(), 8, Some(evil[0]));
                raw::access(words[1].cast(), 8, Some(evil[1]));
            }
            CHANGES.fetch_add(1, Ordering::SeqCst);
        }
    }
}

pub fn move_active_queues(devices: &mut [Device]) -> Verdict {
    for device in devices {
        device.set_up()?;
        for index in 0..device.queues.len() as u16 {
            let elsewhere = device.buffer.phys() + 0x4000;
            device.mmio.write32(reg::QUEUE_READY, 0);
            device.configure(index, [elsewhere, elsewhere + 0x1000, elsewhere + 0x2000]);
            device.mmio.write32(reg::QUEUE_NUM, 2);
            device.mmio.write32(reg::QUEUE_READY, 0);
        }
        device.request()?;
        let mut elsewhere = [0; 0x100];
        device.buffer.read(0x6000, &mut elsewhere);
        if elsewhere != [0; 0x100] {
            return Err(format!("{} uses the new ring", device.name()));
        }
    }
    Ok(())
}

pub fn misplace_rings(devices: &mut [Device]) -> Verdict {
    for device in devices {
        let (queue, _) = device.request_queue();
        let good = device.rings(queue);
        let image = 0xd000_0000;
        for which in 0..3 {
            let misaligned = good[which] + [8, 1, 2][which];
            for bad in [MEMORY, MEMORY - 16, image, u64::MAX - 15, 1 << 52, misaligned, 0xfee0_0000] {
                let mut rings = good;
                rings[which] = bad;
                device.negotiate()?;
                device.configure(queue, rings);
                device.drive();
                if device.status() & NEEDS_RESET == 0 {
                    return Err(format!("{} takes ring {which} at {bad:#x}", device.name()));
                }
            }
        }
    }
    Ok(())
}

pub fn disorder_status(devices: &mut [Device]) -> Verdict {
    for device in devices {
        for status in [DRIVER_OK, FEATURES_OK, ACKNOWLEDGE | DRIVER_OK, u32::MAX, 0x100, NEEDS_RESET] {
            device.reset();
            device.mmio.write32(reg::STATUS, status);
            device.configure(0, device.rings(0));
            device.mmio.write32(reg::STATUS, status | DRIVER_OK);
            device.kick(0);
            if device.status() & !128 == status | DRIVER_OK
                && status != 0x100
                && device.status() & DRIVER_OK != 0
            {
                return Err(format!("{} goes to status {status:#x}", device.name()));
            }
        }
        device.reset();
        device.mmio.write32(reg::STATUS, ACKNOWLEDGE);
        device.mmio.write32(reg::STATUS, ACKNOWLEDGE | DRIVER);
        for half in 0..4 {
            device.mmio.write32(reg::DRIVER_FEATURES_SEL, half);
            device.mmio.write32(reg::DRIVER_FEATURES, u32::MAX);
        }
        device.mmio.write32(reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if device.status() & FEATURES_OK != 0 {
            return Err(format!("{} accepts all features", device.name()));
        }
    }
    Ok(())
}

/// Rings that the noise makes up lie beyond memory: the upper halves of their addresses are never 0.
pub fn noise(devices: &mut [Device]) -> Verdict {
    let mut random = Random(0x1234_5678_9abc_def1);
    for device in devices {
        device.reset();
        for _ in 0..1000 {
            let offset = random.below(0x200) as usize;
            let width = 1 << random.below(4);
            let write = match random.below(3) {
                0 => None,
                1 => Some(random.next() | 1),
                _ => Some(1 << random.below(32)),
            };
            poke(device, offset, width, write);
            if (reg::DESC & !7..reg::USED + 8).contains(&(offset + width)) {
                for register in [reg::DESC, reg::AVAIL, reg::USED] {
                    device.mmio.write32(register + 4, 0x100);
                }
            }
        }
        poke(device, 0xfff, 1, Some(0xff));
        poke(device, 0xff8, 8, Some(u64::MAX));
    }
    Ok(())
}

/// Posts a chain whose descriptor has these flags and this next one.
pub fn chains(devices: &mut [Device], shape: fn(u16, u16) -> (u16, u16)) -> Verdict {
    for device in devices {
        device.set_up()?;
        let (queue, direction) = device.request_queue();
        let (flags, next) = shape(queue, direction);
        device.queues[usize::from(queue)].describe(0, device.buffer.phys(), 16, direction | flags, next);
        device.must_break(0)?;
    }
    Ok(())
}

pub fn head_outside(devices: &mut [Device]) -> Verdict {
    for device in devices {
        for head in [ENTRIES, u16::MAX] {
            device.set_up()?;
            device.must_break(head)?;
        }
    }
    Ok(())
}

pub fn index_jumps(devices: &mut [Device]) -> Verdict {
    for device in devices {
        let (queue, _) = device.request_queue();
        for index in [ENTRIES + 1, 0x8000, u16::MAX] {
            device.set_up()?;
            device.queues[usize::from(queue)].publish(index);
            device.must_need_reset(queue)?;
        }
    }
    Ok(())
}

pub fn buffers_outside(devices: &mut [Device]) -> Verdict {
    for device in devices {
        let image = 0xd000_0000;
        for (address, len) in [
            (MEMORY, 64),
            (MEMORY - 32, 64),
            (MEMORY - 0x1000, u32::MAX),
            (u64::MAX - 15, 64),
            (u64::MAX, 1),
            (image, 64),
            (0xfee0_0000, 64),
            (1 << 52, 64),
        ] {
            device.set_up()?;
            let (queue, direction) = device.request_queue();
            device.queues[usize::from(queue)].describe(0, address, len, direction, 0);
            device.must_break(0).map_err(|why| format!("{address:#x}+{len:#x}: {why}"))?;
        }
    }
    Ok(())
}

pub fn wrong_direction(devices: &mut [Device]) -> Verdict {
    for device in devices {
        device.set_up()?;
        let (queue, _) = device.request_queue();
        let buffer = device.buffer.phys();
        let queue = &device.queues[usize::from(queue)];
        queue.describe(0, buffer, 64, WRITE | NEXT, 1);
        queue.describe(1, buffer + 64, 64, 0, 0);
        device.must_break(0)?;
    }
    Ok(())
}

/// What a device makes of these is its own affair.
pub fn odd_lengths(devices: &mut [Device]) -> Verdict {
    for device in devices {
        let (index, direction) = device.request_queue();
        for lengths in [[0, 0], [0, 8], [8, 0], [1, 1], [u32::MAX, u32::MAX], [3, 0x4000]] {
            device.set_up()?;
            let buffer = device.buffer.phys();
            let queue = &mut device.queues[usize::from(index)];
            queue.describe(0, buffer, lengths[0], direction | NEXT, 1);
            queue.describe(1, buffer + 8, lengths[1], WRITE, 0);
            queue.post(0);
            device.kick(index);
        }
        // The longest chain there can be, all of it the same few bytes.
        device.set_up()?;
        let buffer = device.buffer.phys();
        let queue = &mut device.queues[usize::from(index)];
        for i in 0..ENTRIES {
            queue.describe(i, buffer, 4, direction | if i + 1 < ENTRIES { NEXT } else { 0 }, i + 1);
        }
        queue.post(0);
        device.kick(index);
    }
    Ok(())
}

pub fn descriptors_change(devices: &mut [Device]) -> Verdict {
    for device in devices {
        let (index, direction) = device.request_queue();
        let mut resets = 0;
        let changes = CHANGES.load(Ordering::SeqCst);
        for round in 0..80 {
            if round == 0 || device.status() & NEEDS_RESET != 0 {
                resets += 1;
                VICTIM.store(0, Ordering::SeqCst);
                device.set_up()?;
            }
            let buffer = device.buffer.phys();
            let queue = &mut device.queues[usize::from(index)];
            VICTIM.store(0, Ordering::SeqCst);
            queue.describe(0, buffer, 64, direction, 0);
            VICTIM.store(queue.memory.phys(), Ordering::SeqCst);
            queue.post(0);
            let before = queue.used();
            device.kick(index);
            let queue = &device.queues[usize::from(index)];
            let until = time::now() + 5_000_000;
            while queue.used() == before && time::now() < until {
                cpu::relax();
            }
        }
        VICTIM.store(0, Ordering::SeqCst);
        if CHANGES.load(Ordering::SeqCst) == changes || resets == 0 {
            return Err("the second CPU changed nothing".into());
        }
        device.reset();
    }
    Ok(())
}

pub fn kick_storm(devices: &mut [Device]) -> Verdict {
    for device in devices.iter_mut() {
        device.set_up()?;
    }
    for round in 0..300u32 {
        for device in devices.iter() {
            for queue in [0, 1, 2, 3, 16, 0xffff, 0x1_0000, u32::MAX] {
                // What is not an event of KVM's costs an exit each time.
                if queue < 3 || round < 30 {
                    device.mmio.write32(reg::QUEUE_NOTIFY, queue);
                }
            }
        }
    }
    Ok(())
}
