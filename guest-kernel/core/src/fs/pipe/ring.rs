//! The buffer of a pipe: a queue of page slots.

use alloc::collections::VecDeque;

use ringfence_hal::{Frame, PAGE_SIZE};

use crate::{
    errno::{Errno, Result},
    io::{Sink, Source},
    mm::charge::{self, Kind},
};

/// A part of one page with bytes in it.
struct Slot {
    frame: Frame,
    start: usize,
    len: usize,
    /// Written by one `write` of a packet pipe: read by one `read`, and nothing is added.
    packet: bool,
}

/// Bytes on their way, in at most `capacity` slots of a page each.
pub(super) struct Ring {
    slots: VecDeque<Slot>,
    capacity: usize,
    /// Pages that were read empty, kept for the next write.
    spare: [Option<Frame>; 2],
}

impl Ring {
    pub fn new(capacity: usize) -> Ring {
        Ring { slots: VecDeque::new(), capacity, spare: [None, None] }
    }

    /// Slots in use.
    pub fn used(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Slots that are free.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.slots.len())
    }

    pub fn is_full(&self) -> bool {
        self.slots.len() >= self.capacity
    }

    /// Changes the number of slots. `EBUSY` if more are in use.
    pub fn set_capacity(&mut self, slots: usize) -> Result<()> {
        if slots < self.slots.len() {
            return Err(Errno::EBUSY);
        }
        self.capacity = slots;
        Ok(())
    }

    /// Bytes in it (`FIONREAD`).
    pub fn bytes(&self) -> usize {
        self.slots.iter().map(|s| s.len).sum()
    }

    /// Moves bytes into `sink` until that is full, the ring is empty or (packets) one packet is read. The
    /// error only if nothing was moved.
    pub fn read(&mut self, sink: &mut Sink<'_>) -> Result {
        let mut done = 0;
        while let Some(slot) = self.slots.front_mut() {
            let n = slot.len.min(sink.remaining());
            if n == 0 {
                break;
            }
            if let Err(e) = sink.put_frame(&slot.frame, slot.start, n) {
                return if done > 0 { Ok(done) } else { Err(e) };
            }
            slot.start += n;
            slot.len -= n;
            done += n;
            let packet = slot.packet;
            if slot.len == 0 || packet {
                self.pop();
            }
            if packet {
                break;
            }
        }
        Ok(done)
    }

    /// Moves bytes of `source` into the ring until it is full. The error only if nothing was moved.
    ///
    /// At most `PIPE_BUF` (a page of) bytes are moved wholly or not at all: they fit behind the last page's
    /// bytes, or take a new slot.
    pub fn write(&mut self, source: &mut Source<'_>, packet: bool) -> Result {
        let mut done = self.merge(source, packet)?;
        while source.remaining() > 0 && !self.is_full() {
            let n = source.remaining().min(PAGE_SIZE);
            match self.push(source, n, packet) {
                Ok(()) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Puts what exceeds whole pages behind the bytes of the last slot, if it fits there.
    fn merge(&mut self, source: &mut Source<'_>, packet: bool) -> Result {
        let odd = source.remaining() % PAGE_SIZE;
        let Some(last) = self.slots.back_mut().filter(|s| !s.packet) else { return Ok(0) };
        let end = last.start + last.len;
        if odd == 0 || packet || end + odd > PAGE_SIZE || last.frame.ref_count() != 1 {
            return Ok(0);
        }
        source.take_into_frame(&last.frame, end, odd)?;
        last.len += odd;
        Ok(odd)
    }

    /// Takes the first slot's bytes out as a kernel buffer of at most `max`, for whoever writes them elsewhere.
    pub fn take(&mut self, max: usize) -> Result<alloc::vec::Vec<u8>> {
        let Some(slot) = self.slots.front() else { return Ok(alloc::vec::Vec::new()) };
        let mut bytes = alloc::vec![0; slot.len.min(max)];
        let packet = slot.packet;
        // A packet is read once: what does not fit is lost, as by `read`.
        let n = self.read(&mut Sink::kernel(&mut bytes))?;
        debug_assert!(packet || n == bytes.len());
        Ok(bytes)
    }

    /// Puts bytes back to the front that [`Ring::take`] took; may exceed the capacity by one slot.
    pub fn put_back(&mut self, bytes: &[u8]) -> Result<()> {
        let frame = Frame::alloc_zeroed()?;
        frame.write(0, bytes);
        self.slots.push_front(Slot { frame, start: 0, len: bytes.len(), packet: false });
        Ok(())
    }

    /// Moves up to `max` bytes into `to` without copying: whole slots change the owner, of a partial one both
    /// keep the page. With `keep`, nothing leaves (`tee`). The count.
    pub fn hand_over(&mut self, to: &mut Ring, max: usize, keep: bool) -> Result {
        let mut done = 0;
        let mut index = 0;
        while done < max && !to.is_full() {
            let Some(slot) = self.slots.get_mut(index) else { break };
            let n = slot.len.min(max - done);
            to.slots.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            to.slots.push_back(Slot {
                frame: slot.frame.clone(),
                start: slot.start,
                len: n,
                packet: slot.packet,
            });
            done += n;
            if keep {
                index += 1;
            } else {
                slot.start += n;
                slot.len -= n;
                if slot.len == 0 {
                    self.slots.pop_front();
                }
            }
        }
        Ok(done)
    }

    fn push(&mut self, source: &mut Source<'_>, len: usize, packet: bool) -> Result<()> {
        let spare = self.spare.iter_mut().find_map(Option::take);
        let frame = match spare {
            Some(frame) => frame,
            None => charge::zeroed(Kind::Kernel)?,
        };
        if let Err(e) = source.take_into_frame(&frame, 0, len) {
            self.keep(frame);
            return Err(e);
        }
        self.slots.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.slots.push_back(Slot { frame, start: 0, len, packet });
        Ok(())
    }

    fn pop(&mut self) {
        if let Some(slot) = self.slots.pop_front() {
            self.keep(slot.frame);
        }
    }

    fn keep(&mut self, frame: Frame) {
        if frame.ref_count() == 1
            && let Some(free) = self.spare.iter_mut().find(|s| s.is_none())
        {
            *free = Some(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use ringfence_hal::host::World;

    use super::*;

    fn put(ring: &mut Ring, bytes: &[u8]) -> usize {
        ring.write(&mut Source::kernel(bytes), false).unwrap()
    }

    fn get(ring: &mut Ring, max: usize) -> Vec<u8> {
        let mut buf = vec![0; max];
        let n = ring.read(&mut Sink::kernel(&mut buf)).unwrap();
        buf.truncate(n);
        buf
    }

    #[test]
    fn small_writes_share_pages_and_large_ones_fill_the_ring() {
        World::new(64).enter(|| {
            let mut ring = Ring::new(4);
            for i in 0..100u8 {
                assert_eq!(put(&mut ring, &[i; 10]), 10);
            }
            assert_eq!((ring.used(), ring.bytes()), (1, 1000));
            assert_eq!(put(&mut ring, &[7; 20_000]), 3 * PAGE_SIZE);
            assert!(ring.is_full());
            assert_eq!(get(&mut ring, 15), [&[0u8; 10][..], &[1; 5]].concat());
            assert_eq!(get(&mut ring, 100_000).len(), 1000 - 15 + 3 * PAGE_SIZE);
            assert!(ring.is_empty());
        });
    }

    #[test]
    fn a_write_of_pipe_buf_is_all_or_nothing() {
        World::new(64).enter(|| {
            let mut ring = Ring::new(2);
            assert_eq!(put(&mut ring, &[1; 4000]), 4000);
            assert_eq!(put(&mut ring, &[2; 4000]), 4000);
            assert_eq!(put(&mut ring, &[3; 97]), 0, "does not fit behind, and there is no slot");
            assert_eq!(put(&mut ring, &[3; 96]), 96);
            assert_eq!(get(&mut ring, 1 << 20).len(), 8096);
        });
    }

    #[test]
    fn packets_keep_their_borders() {
        World::new(64).enter(|| {
            let mut ring = Ring::new(8);
            ring.write(&mut Source::kernel(b"first"), true).unwrap();
            ring.write(&mut Source::kernel(b"second"), true).unwrap();
            assert_eq!(get(&mut ring, 3), b"fir");
            assert_eq!(get(&mut ring, 100), b"second");
        });
    }

    #[test]
    fn pages_are_handed_over_and_shared() {
        World::new(64).enter(|| {
            let (mut a, mut b) = (Ring::new(4), Ring::new(2));
            put(&mut a, b"hello world");
            assert_eq!(a.hand_over(&mut b, 5, true), Ok(5));
            assert_eq!((a.bytes(), get(&mut b, 100)), (11, b"hello".to_vec()));
            assert_eq!(a.hand_over(&mut b, 5, false), Ok(5));
            assert_eq!(put(&mut b, b"!"), 1, "a shared page is not written");
            assert_eq!((get(&mut a, 100), get(&mut b, 100)), (b" world".to_vec(), b"hello!".to_vec()));
            put(&mut a, b"abc");
            let taken = a.take(2).unwrap();
            a.put_back(&taken).unwrap();
            assert_eq!(get(&mut a, 9), b"abc");
        });
    }

    #[test]
    fn pages_go_back_when_the_ring_is_dropped() {
        let world = World::new(64);
        world.enter(|| {
            let mut ring = Ring::new(16);
            put(&mut ring, &[0; 50_000]);
            get(&mut ring, 30_000);
        });
        assert_eq!(world.frames_in_use(), 0);
    }
}
