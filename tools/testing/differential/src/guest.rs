// SPDX-License-Identifier: GPL-2.0

//! A guest's driver that uses both sides alike: its rings, and what it knows of them.

use crate::frame::{Kind, L4};
use crate::host::GUEST;
use crate::sequence::{Packet, Report, SetUp};
use crate::side::Side;

pub const ENABLE: u32 = 1 << 25;
/// Registers of queue 0; those of queue 1 are `STRIDE` further on.
pub const RX: u32 = 0x2800;
pub const TX: u32 = 0x3800;
pub const STRIDE: u32 = 0x100;
pub const HEAD: u32 = 0x10;
pub const TAIL: u32 = 0x18;
pub const DCTL: u32 = 0x28;

/// Bytes that are set aside for each ring.
const RING_BYTES: u64 = 0x4000;
const HEADS: u64 = GUEST + 0x1_0000;
const RX_BUFFERS: u64 = GUEST + 0x2_0000;
/// Bytes of a packet buffer and its header buffer.
const RX_BUFFER_BYTES: u64 = 0x3000;
const HEADER: u64 = 0x2c00;
/// RX buffers of a queue.
pub const BUFFERS: u32 = 32;
pub const TX_DATA: u64 = GUEST + 0xe_0000;
pub const TX_DATA_BYTES: u64 = 0x2_0000;

/// Context slots that the model looks back for, and a bit less.
const CONTEXT_AGE: u32 = 200;

/// A ring that was set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    pub base: u64,
    pub len: u32,
    pub tail: u32,
    /// The device's head when all was last at rest.
    pub head: u32,
    pub on: bool,
}

impl Ring {
    pub fn step(&self, from: u32, n: u32) -> u32 {
        (from + n) % self.len
    }

    /// Slots that the device owns.
    pub fn pending(&self) -> u32 {
        (self.tail + self.len - self.head) % self.len
    }

    pub fn free(&self) -> u32 {
        self.len - 1 - self.pending()
    }

    pub fn slot(&self, index: u32) -> u64 {
        self.base + u64::from(index) * 16
    }
}

#[derive(Debug, Default)]
pub struct TxQueue {
    pub ring: Option<Ring>,
    pub head_wb: bool,
    /// Descriptors since each context was given.
    ages: [Option<u32>; 2],
}

#[derive(Debug, Default)]
pub struct RxQueue {
    pub ring: Option<Ring>,
    pub srrctl: u32,
    /// The first slot that the guest has not looked at.
    pub seen: u32,
}

/// Both sides of the comparison.
pub struct Sides {
    pub direct: Side,
    pub ours: Side,
}

impl Sides {
    pub fn store(&mut self, at: u32, val: u32) {
        self.direct.store(at, val);
        self.ours.store(at, val);
    }

    pub fn load(&mut self, at: u32) -> (u32, u32) {
        (self.direct.load(at), self.ours.load(at))
    }

    pub fn set_memory(&mut self, at: u64, bytes: &[u8]) {
        self.direct.host.borrow_mut().set_memory(at, bytes);
        self.ours.host.borrow_mut().set_memory(at, bytes);
    }

    pub fn set_desc(&mut self, at: u64, desc: [u32; 4]) {
        let bytes: Vec<u8> = desc.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.set_memory(at, &bytes);
    }
}

#[derive(Debug, Default)]
pub struct Guest {
    pub tx: [TxQueue; 2],
    pub rx: [RxQueue; 2],
    /// TX data since all was last at rest.
    data: u64,
}

/// A register of queue `q`.
pub fn at(group: u32, q: u32, reg: u32) -> u32 {
    group + q * STRIDE + reg
}

impl Guest {
    /// All that is pending is done.
    pub fn at_rest(&mut self) {
        self.data = 0;
    }

    /// The device was reset: no ring is any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    fn place(s: &SetUp, tx: bool) -> (u64, u32, u32) {
        let area = u64::from(s.q + if tx { 0 } else { 2 }) * RING_BYTES;
        let len = 1 << s.slots;
        (GUEST + area + u64::from(s.place) * 128, len, s.start % len)
    }

    pub fn set_up_tx(&mut self, sides: &mut Sides, s: &SetUp) {
        let (base, len, start) = Self::place(s, true);
        let at = |reg| at(TX, s.q, reg);
        sides.store(at(DCTL), s.thresholds);
        sides.store(at(0), base as u32 | s.low);
        sides.store(at(4), (base >> 32) as u32);
        sides.store(at(8), len * 16);
        let head = HEADS + u64::from(s.q) * 64;
        sides.store(at(0x38), head as u32 | u32::from(s.head_wb));
        sides.store(at(0x3c), (head >> 32) as u32);
        sides.store(at(0x14), 0x2200);
        sides.store(at(HEAD), start);
        sides.store(at(TAIL), start);
        sides.store(at(DCTL), s.thresholds | ENABLE);
        self.tx[s.q as usize] = TxQueue {
            ring: Some(Ring {
                base,
                len,
                tail: start,
                head: start,
                on: true,
            }),
            head_wb: s.head_wb,
            ages: [None; 2],
        };
    }

    pub fn set_up_rx(&mut self, sides: &mut Sides, s: &SetUp) {
        let (base, len, start) = Self::place(s, false);
        let at = |reg| at(RX, s.q, reg);
        sides.store(at(DCTL), s.thresholds);
        sides.store(at(0), base as u32 | s.low);
        sides.store(at(4), (base >> 32) as u32);
        sides.store(at(8), len * 16);
        sides.store(at(0x0c), s.srrctl);
        sides.store(at(HEAD), start);
        sides.store(at(TAIL), start);
        sides.store(at(DCTL), s.thresholds | ENABLE);
        if s.head_late {
            sides.store(at(HEAD), start);
        }
        self.rx[s.q as usize] = RxQueue {
            ring: Some(Ring {
                base,
                len,
                tail: start,
                head: start,
                on: true,
            }),
            srrctl: s.srrctl,
            seen: start,
        };
        self.refill(sides, s.q, s.posted, 1);
    }

    /// Where slot `slot` of RX queue `q` has its packet buffer and its header buffer.
    pub fn buffers(q: u32, slot: u32) -> (u64, u64) {
        let n = slot % BUFFERS;
        let base = RX_BUFFERS + u64::from(q * BUFFERS + n) * RX_BUFFER_BYTES;
        // Any even address will do.
        let odd = u64::from(slot * 6 % 64);
        (base + odd, base + HEADER + odd)
    }

    /// Looks at all frames that were there when all was last at rest.
    pub fn look(&mut self, q: u32) {
        let queue = &mut self.rx[q as usize];
        if let Some(ring) = &queue.ring {
            queue.seen = ring.head;
        }
    }

    /// Posts buffers until `want` are posted, and moves the tail in `tails` steps.
    pub fn refill(&mut self, sides: &mut Sides, q: u32, want: u32, tails: u32) {
        let queue = &mut self.rx[q as usize];
        let Some(ring) = queue.ring.as_mut().filter(|ring| ring.on) else {
            return;
        };
        // A slot that the guest has not looked at has a buffer.
        let used = (ring.tail + ring.len - queue.seen) % ring.len;
        let want = want.min(ring.len - 1).min(BUFFERS - 1);
        let n = want.saturating_sub(used);
        for i in 0..n {
            let slot = ring.step(ring.tail, i);
            let (packet, header) = Self::buffers(q, slot);
            let desc = [
                packet as u32,
                (packet >> 32) as u32,
                header as u32,
                (header >> 32) as u32,
            ];
            sides.set_desc(ring.slot(slot), desc);
        }
        for i in 1..=tails.min(n) {
            let tail = ring.step(ring.tail, n * i / tails.min(n));
            sides.store(at(RX, q, TAIL), tail);
        }
        ring.tail = ring.step(ring.tail, n);
    }

    /// Writes packets to the ring as far as there is room, and moves the tail in `tails` steps: how many.
    pub fn send(&mut self, sides: &mut Sides, q: u32, packets: &[Packet], tails: u32) -> usize {
        let start = self.tx[q as usize].ring;
        let Some(start) = start.filter(|ring| ring.on) else {
            return 0;
        };
        let mut ends = Vec::new();
        for packet in packets {
            if !self.queue(sides, q, packet) {
                break;
            }
            ends.push(self.tx[q as usize].ring.unwrap_or(start).tail);
        }
        let steps = (tails as usize).min(ends.len());
        for i in 1..=steps {
            // The device never sees a part of a packet.
            sides.store(at(TX, q, TAIL), ends[ends.len() * i / steps - 1]);
        }
        ends.len()
    }

    /// Writes a packet to the ring; false if there is no room.
    fn queue(&mut self, sides: &mut Sides, q: u32, p: &Packet) -> bool {
        let bytes = p.frame.bytes();
        let queue = &mut self.tx[q as usize];
        let Some(ring) = &mut queue.ring else {
            return false;
        };
        let offloads = p.tag.is_some() || p.sums || p.mss.is_some();
        let age = &mut queue.ages[p.context as usize];
        let limit = CONTEXT_AGE.min(ring.len - 1).saturating_sub(6);
        let needs_context = offloads && (p.resend || age.is_none_or(|age| age >= limit));
        let most = p.pieces + u32::from(needs_context);
        if ring.free() < most || self.data + bytes.len() as u64 + 64 > TX_DATA_BYTES {
            return false;
        }
        let mut descs = Vec::new();
        // With head write-back the head is that of the last packet that reports.
        let report = match p.report {
            Report::Data if queue.head_wb => Report::End,
            report => report,
        };
        if needs_context {
            descs.push(context(p, report == Report::All));
            *age = Some(0);
        }
        let at = TX_DATA + self.data;
        self.data += (bytes.len() as u64).next_multiple_of(16) + u64::from(p.frame.number % 16);
        sides.set_memory(at, &bytes);
        let piece = bytes.len().div_ceil(p.pieces as usize);
        let mut from = 0;
        for part in bytes.chunks(piece) {
            let at = at + from as u64;
            from += part.len();
            let end = from == bytes.len();
            descs.push(data(p, at, part.len(), bytes.len(), end, report));
        }
        let used = descs.len() as u32;
        for desc in descs {
            sides.set_desc(ring.slot(ring.tail), desc);
            ring.tail = ring.step(ring.tail, 1);
        }
        for age in queue.ages.iter_mut().flatten() {
            *age += used;
        }
        true
    }
}

/// The context descriptor of a packet.
fn context(p: &Packet, rs: bool) -> [u32; 4] {
    let f = &p.frame;
    let mac = if f.vlan.is_some() { 18 } else { 14 };
    let ip = f.l3_len() as u32 - mac;
    let l4 = f.header_len() as u32 - f.l3_len() as u32;
    let tucmd = match f.kind {
        Kind::Ip4(L4::Tcp) => 1 << 10 | 1 << 11,
        Kind::Ip6(L4::Tcp) => 1 << 11,
        Kind::Ip4(_) => 1 << 10,
        _ => 0,
    };
    let rs = if rs { 1 << 27 } else { 0 };
    [
        u32::from(p.tag.unwrap_or(0)) << 16 | mac << 9 | ip,
        0,
        2 << 20 | 1 << 29 | tucmd | rs,
        p.mss.unwrap_or(0) << 16 | l4 << 8 | p.context << 4,
    ]
}

/// A data descriptor of a packet.
fn data(p: &Packet, at: u64, len: usize, total: usize, end: bool, report: Report) -> [u32; 4] {
    let rs = match report {
        Report::None => false,
        Report::End => end,
        Report::Data | Report::All => true,
    };
    let mut cmd = len as u32 | 3 << 20 | 1 << 25 | 1 << 29;
    for (is, bit) in [
        (end, 24),
        (rs, 27),
        (p.tag.is_some(), 30),
        (p.mss.is_some(), 31),
    ] {
        cmd |= u32::from(is) << bit;
    }
    let payload = if p.mss.is_some() {
        total - p.frame.header_len()
    } else {
        total
    };
    let sums = if p.sums { 3 << 8 } else { 0 };
    [
        at as u32,
        (at >> 32) as u32,
        cmd,
        (payload as u32) << 14 | sums | p.context << 4,
    ]
}
