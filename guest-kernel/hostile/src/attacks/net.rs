//! Against networks. The host sends without end meanwhile (tests/lab/hostile-kernel.sh).

use alloc::format;

use super::of;
use crate::device::{Device, ENTRIES, NET, NEXT, Verdict, WRITE, pause, wait};

/// Frames to the guest, and from it.
const RX: u16 = 0;
const TX: u16 = 1;

/// Each is taken and given back, whatever it is.
pub fn nonsense(devices: &mut [Device]) -> Verdict {
    let net = of(devices, NET)?;
    net.set_up()?;
    for length in [1, 13, 14, 1500, 9000, 65_000] {
        net.frame(length)?;
    }
    // In front of a whole frame: every flag, every kind of segments, offsets beyond the frame; nothing of it was negotiated.
    for header in [
        [1, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        [0, 1, 54, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0xff, 0xff, 0, 0, 34, 0, 16, 0, 0, 0],
        [1, 4, 54, 0, 1, 0, 34, 0, 16, 0, 0, 0],
        [1, 0x81, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0],
        [0xff; 12],
    ] {
        net.buffer.write(0, &header);
        net.queues[1].describe(0, net.buffer.phys(), 12 + 600, 0, 0);
        net.submit(TX, 0)?;
    }
    // Less than a header, and more than any frame: the same buffer many times.
    let address = net.buffer.phys();
    net.queues[1].describe(0, address, 5, 0, 0);
    net.submit(TX, 0)?;
    for i in 0..8 {
        net.queues[1].describe(i, address, 0xf000, if i < 7 { NEXT } else { 0 }, i + 1);
    }
    net.submit(TX, 0)?;
    // One that it would have to write.
    net.queues[1].describe(0, address, 2048, WRITE, 0);
    net.submit(TX, 0)
}

pub fn small_buffers(devices: &mut [Device]) -> Verdict {
    let net = of(devices, NET)?;
    net.set_up()?;
    for length in [1, 11, 12, 13, 25] {
        net.queues[0].describe(0, net.buffer.phys(), length, WRITE, 0);
        net.submit(RX, 0).map_err(|why| format!("a buffer of {length}: {why}"))?;
        if net.queues[0].last_written() > length {
            return Err(format!("writes {} into {length}", net.queues[0].last_written()));
        }
    }
    Ok(())
}

/// There is no buffer for what comes, and more to send than is taken. When there are buffers again, both go on.
pub fn freeze(devices: &mut [Device]) -> Verdict {
    let net = of(devices, NET)?;
    net.set_up()?;
    for round in 0..3 {
        net.frame(60)?;
        let sent = net.queues[1].used();
        for _ in 0..ENTRIES {
            net.queues[1].post(0);
        }
        // The TAP interface's own queue is full by then.
        pause(300_000_000);
        net.kick(TX);
        let queue = &net.queues[1];
        wait(|| (queue.used() == sent.wrapping_add(ENTRIES)).then_some(()))
            .ok_or_else(|| format!("round {round}: it sends no more"))?;
        let got = net.queues[0].used();
        let address = net.buffer.phys() + 0x1000;
        for i in 0..16 {
            net.queues[0].describe(i, address, 4096, WRITE, 0);
            net.queues[0].post(i);
        }
        net.kick(RX);
        let queue = &net.queues[0];
        wait(|| (queue.used() == got.wrapping_add(16)).then_some(()))
            .ok_or_else(|| format!("round {round}: it receives no more"))?;
    }
    Ok(())
}
