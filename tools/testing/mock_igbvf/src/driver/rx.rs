// SPDX-License-Identifier: GPL-2.0

//! A driver's side of a receive ring.

use super::ring::Ring;
use super::{at, Manner, Space, ENABLE};
use crate::machine::Machine;

const DD: u32 = 1 << 0;
const EOP: u32 = 1 << 1;
const RXE: u32 = 1 << 31;
/// Bytes of the packet buffers of a ring, and of its header buffers.
const BUFFERS_BYTES: usize = 128 * 1024;
/// Bytes from one header buffer to the next.
const HEADER_BYTES: usize = 1024;

/// How frames are laid out in buffers. Headers are given in units of 64 bytes, at most 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// All of a frame in packet buffers of so many KiB.
    OneBuffer { kib: u32 },
    /// Headers that the device knows in buffers of their own.
    Split { header: u32, kib: u32 },
    /// The beginning of each frame in a header buffer.
    SplitAlways { header: u32, kib: u32 },
}

impl Format {
    /// SRRCTL, with DROP_EN.
    fn srrctl(self) -> u32 {
        let (kind, header, kib) = match self {
            Self::OneBuffer { kib } => (1, 0, kib),
            Self::Split { header, kib } => (2, header, kib),
            Self::SplitAlways { header, kib } => (5, header, kib),
        };
        1 << 31 | kind << 25 | header << 8 | kib
    }

    /// Bytes of a packet buffer, and of a header buffer.
    fn sizes(self) -> (usize, usize) {
        let (header, kib) = match self {
            Self::OneBuffer { kib } => (0, kib),
            Self::Split { header, kib } | Self::SplitAlways { header, kib } => (header, kib),
        };
        // 0 is what the PF says.
        let kib = if kib == 0 { 2 } else { kib };
        (kib as usize * 1024, header as usize * 64)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct RxSetup {
    /// A multiple of 8.
    pub slots: u32,
    pub format: Format,
}

impl RxSetup {
    /// Whether a ring of this kind can take a frame of `len` bytes at all.
    pub fn fits(&self, len: usize) -> bool {
        let (buffer, header) = self.format.sizes();
        let header = match self.format {
            Format::SplitAlways { .. } => header,
            _ => 0,
        };
        len.saturating_sub(header).div_ceil(buffer) < self.slots as usize
    }
}

pub struct Rx {
    q: u32,
    setup: RxSetup,
    ring: Ring,
    /// Packet buffers, header buffers, and how many there are of each.
    buffers: u64,
    headers: u64,
    count: u64,
    /// The slot to look at next.
    next: u64,
    /// The first slot that was not filled.
    filled: u64,
    /// The tail.
    rung: u64,
    /// The beginning of a frame.
    frame: Vec<u8>,
}

impl Rx {
    /// Sets the ring up, switches it on and fills it.
    pub fn open(
        m: &mut Machine,
        q: u32,
        setup: RxSetup,
        manner: Manner,
        space: &mut Space,
    ) -> Self {
        let ring = Ring::new(m, space.take(setup.slots as usize * 16, 128), setup.slots);
        let (buffer, _) = setup.format.sizes();
        let count = (BUFFERS_BYTES / buffer).min(setup.slots as usize - 1);
        let mut new = Self {
            q,
            setup,
            ring,
            buffers: space.take(count * buffer, 2),
            headers: space.take(count * HEADER_BYTES, 2),
            count: count as u64,
            next: 0,
            filled: 0,
            rung: 0,
            frame: Vec::new(),
        };
        let dctl = m.load(at(0x2828, q)) & !ENABLE;
        m.store(at(0x2828, q), dctl);
        m.store(at(0x2808, q), setup.slots * 16);
        m.store(at(0x2804, q), (new.ring.at >> 32) as u32);
        m.store(at(0x2800, q), new.ring.at as u32);
        m.store(at(0x280c, q), setup.format.srrctl());
        if manner == Manner::Linux {
            m.store(at(0x2810, q), 0);
            m.store(at(0x2818, q), 0);
        }
        m.store(at(0x2828, q), 0x0001_0810 | ENABLE);
        if manner == Manner::Dpdk {
            // After a reset the tail is 0, and the head can be written until the tail was.
            m.store(at(0x2810, q), 0);
        }
        new.refill(m, u32::MAX);
        new.ring(m, u64::MAX);
        new
    }

    /// The packet buffer and the header buffer of a slot.
    fn buffers_of(&self, slot: u64) -> (u64, u64) {
        let (buffer, _) = self.setup.format.sizes();
        let n = slot % self.count;
        (
            self.buffers + n * buffer as u64,
            self.headers + n * HEADER_BYTES as u64,
        )
    }

    /// Fills at most `most` slots with buffers: how many.
    pub fn refill(&mut self, m: &Machine, most: u32) -> u64 {
        let full = self.next + self.count;
        let first = self.filled;
        self.filled = full.min(first.saturating_add(most.into()));
        for slot in first..self.filled {
            let (packet, mut header) = self.buffers_of(slot);
            if let Format::OneBuffer { .. } = self.setup.format {
                header = 0;
            }
            let dw = [packet, packet >> 32, header, header >> 32].map(|word| word as u32);
            self.ring.set(m, slot, dw);
        }
        self.filled - first
    }

    /// Shows the device `descs` descriptors more.
    pub fn ring(&mut self, m: &mut Machine, descs: u64) {
        self.rung = self.filled.min(self.rung.saturating_add(descs));
        m.store(at(0x2818, self.q), self.ring.index(self.rung) as u32);
    }

    /// Whether there is a whole frame.
    pub fn has_frame(&self, m: &Machine) -> bool {
        for slot in self.next..self.rung {
            let status = self.ring.get(m, slot)[2];
            if status & DD == 0 {
                return false;
            }
            if status & EOP != 0 {
                return true;
            }
        }
        false
    }

    /// Whole frames that are there.
    pub fn frames(&self, m: &Machine) -> usize {
        let slots = (self.next..self.rung).map(|slot| self.ring.get(m, slot)[2]);
        let done = slots.take_while(|status| status & DD != 0);
        done.filter(|status| status & EOP != 0).count()
    }

    /// The next frame, or `None` if its end is not there.
    pub fn take(&mut self, m: &Machine) -> Option<Vec<u8>> {
        while self.next < self.rung {
            let [types, hash, status, tail] = self.ring.get(m, self.next);
            if status & DD == 0 {
                return None;
            }
            let (header, len) = ((types >> 21 & 0x3ff) as usize, (tail & 0xffff) as usize);
            let eop = status & EOP != 0;
            let (buffer, header_buffer) = self.setup.format.sizes();
            assert!(header <= header_buffer && len <= buffer);
            assert!(eop || len == buffer, "a gap in the frame");
            assert!(
                header == 0 || self.frame.is_empty(),
                "a header in the middle"
            );
            let w = m.world.borrow();
            let (packet_at, header_at) = self.buffers_of(self.next);
            self.frame
                .extend_from_slice(w.memory.get(header_at, header));
            self.frame.extend_from_slice(w.memory.get(packet_at, len));
            drop(w);
            self.ring.learn(m, self.next);
            self.next += 1;
            if eop {
                assert_eq!(status & RXE, 0, "a frame with an error");
                // What the device says of every frame; see `World::receive`.
                assert_eq!((types & 0x1ffff, hash, tail >> 16), (0x11, 0x1234_5678, 77));
                return Some(std::mem::take(&mut self.frame));
            }
        }
        None
    }

    /// Panics if the device wrote to a slot that is not its own.
    pub fn assert_untouched(&self, m: &Machine) {
        let end = self.next + u64::from(self.setup.slots);
        self.ring.assert_untouched(m, self.rung, end);
    }
}
