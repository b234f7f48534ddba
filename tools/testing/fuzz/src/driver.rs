// SPDX-License-Identifier: GPL-2.0

//! A guest's driver for one queue pair, with rings that work, and what it may expect of them.
//!
//! Every byte of its frames is even, so that a DD among them would be seen.

use std::collections::VecDeque;

use conformance::bench::Bench;
use mock_igbvf::guest::{ONE_BUFFER, SPLIT};
use mock_igbvf::vf::GUEST;
use model::io::Registers;

/// Slots of each ring.
pub const SLOTS: u32 = 32;
const ENABLE: u32 = 1 << 25;
const TX_BUFFER: u64 = 1024;
const RX_BUFFER: u64 = 2048;
const RX_HEADER: u64 = 128;
/// Longest frame from the wire: what the hardware takes.
pub const MAX_RX: usize = 16_128;

/// How a queue pair is set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How(pub u8);

impl How {
    /// Headers into buffers of their own.
    pub const SPLIT: u8 = 1;
    /// The head is written to memory instead of DD.
    pub const HEAD_WB: u8 = 2;
    /// One RX descriptor is handed over at a time.
    pub const FEW: u8 = 4;

    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// A frame that was handed to the device.
struct Sent {
    frame: Vec<u8>,
    /// The ring that it was in was given up: it may go out or not.
    optional: bool,
}

/// What an RX descriptor says that the guest does not look at yet.
#[derive(Clone, Copy)]
struct Described {
    bytes: u64,
    is_end: bool,
    /// Descriptors behind it that were written together with it, and that its DD hands over too.
    followers: usize,
}

/// One queue pair of the guest.
pub struct Driver {
    q: u32,
    how: How,
    up: bool,
    tail: u32,
    clean: u32,
    rx_next: u32,
    /// Last slots of the packets in flight.
    ends: VecDeque<u32>,
    sent: VecDeque<Sent>,
    next: u32,
    /// Frames that came from the wire and that the guest has not got.
    pub injected: VecDeque<Vec<u8>>,
    frame: Vec<u8>,
    /// Bytes of the frame that the model is delivering, as far as they were published in this turn.
    partial_bytes: u64,
    /// Bytes of frames that were published to their end in this turn.
    delivered_bytes: u64,
    described: [Option<Described>; SLOTS as usize],
    published: [bool; SLOTS as usize],
}

/// Frame number `n` of queue `q`.
fn frame(q: u32, n: u32, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| (i as u32 * 6 + n * 2) as u8).collect();
    for (byte, val) in frame.iter_mut().zip([q, n & 0x7f, n >> 7 & 0x7f]) {
        *byte = (val * 2) as u8;
    }
    frame
}

impl Driver {
    /// A queue pair that is down.
    pub fn new(q: u32) -> Self {
        Self {
            q,
            how: How::default(),
            up: false,
            tail: 0,
            clean: 0,
            rx_next: 0,
            ends: VecDeque::new(),
            sent: VecDeque::new(),
            next: 0,
            injected: VecDeque::new(),
            frame: Vec::new(),
            partial_bytes: 0,
            delivered_bytes: 0,
            described: [None; SLOTS as usize],
            published: [false; SLOTS as usize],
        }
    }

    fn at(&self, reg: u32) -> u32 {
        reg + self.q * 0x100
    }

    /// Where its TX ring is.
    pub fn tx_ring(&self) -> u64 {
        GUEST + 0x1000 + u64::from(self.q) * 0x1000
    }

    /// Where its RX ring is.
    pub fn rx_ring(&self) -> u64 {
        GUEST + 0x3000 + u64::from(self.q) * 0x1000
    }

    fn head_wb(&self) -> u64 {
        GUEST + 0x5000 + u64::from(self.q) * 4
    }

    fn slot_of(&self, base: u64, size: u64, slot: u32) -> u64 {
        GUEST + base + (u64::from(self.q) * u64::from(SLOTS) + u64::from(slot)) * size
    }

    fn tx_buffer(&self, slot: u32) -> u64 {
        self.slot_of(0x1_0000, TX_BUFFER, slot)
    }

    fn rx_buffer(&self, slot: u32) -> u64 {
        self.slot_of(0x2_0000, RX_BUFFER, slot)
    }

    fn rx_header(&self, slot: u32) -> u64 {
        self.slot_of(0x8000, RX_HEADER, slot)
    }

    fn desc(bench: &Bench, at: u64) -> [u32; 4] {
        let bytes = bench.mem.inner.get(at, 16);
        std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|n| bytes[i * 4 + n])))
    }

    fn set_desc(bench: &mut Bench, at: u64, dw: [u32; 4]) {
        let bytes: Vec<u8> = dw.iter().flat_map(|word| word.to_le_bytes()).collect();
        bench.mem.inner.set(at, &bytes);
    }

    /// Switches both queues off. What is in them is anybody's guess from here on.
    pub fn down(&mut self, bench: &mut Bench) {
        for dctl in [0x2828, 0x3828] {
            bench.write32(self.at(dctl), 0);
        }
        self.up = false;
        self.forget();
    }

    /// Whether it has rings.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Its rings were reset.
    pub fn forget(&mut self) {
        self.up = false;
        self.ends.clear();
        self.frame.clear();
        for sent in &mut self.sent {
            sent.optional = true;
        }
    }

    /// Sets both rings up, empty, and switches them on.
    pub fn up(&mut self, bench: &mut Bench, how: How) {
        (self.how, self.up) = (how, true);
        (self.tail, self.clean, self.rx_next) = (0, 0, 0);
        let wb = if how.has(How::HEAD_WB) {
            self.head_wb() | 1
        } else {
            0
        };
        bench.mem.inner.set(self.head_wb(), &[0; 4]);
        for slot in 0..SLOTS {
            Self::set_desc(bench, self.tx_ring() + u64::from(slot) * 16, [0; 4]);
            self.refill(bench, slot);
        }
        let srrctl = if how.has(How::SPLIT) {
            SPLIT
        } else {
            ONE_BUFFER
        };
        for (at, ring) in [(0x3800, self.tx_ring()), (0x2800, self.rx_ring())] {
            for (at, val) in [
                (at, ring as u32),
                (at + 4, (ring >> 32) as u32),
                (at + 8, SLOTS * 16),
                (at + 0x10, 0),
                (at + 0x18, 0),
            ] {
                bench.write32(self.at(at), val);
            }
        }
        for (at, val) in [
            (0x3838, wb as u32),
            (0x383c, (wb >> 32) as u32),
            (0x3828, ENABLE),
            (0x280c, srrctl),
            (0x2828, 0x0201_0810),
            (0x2818, self.rx_tail()),
        ] {
            bench.write32(self.at(at), val);
        }
    }

    fn refill(&mut self, bench: &mut Bench, slot: u32) {
        let (packet, header) = (self.rx_buffer(slot), self.rx_header(slot));
        let header = if self.how.has(How::SPLIT) { header } else { 0 };
        let dw = [
            packet as u32,
            (packet >> 32) as u32,
            header as u32,
            (header >> 32) as u32,
        ];
        Self::set_desc(bench, self.rx_ring() + u64::from(slot) * 16, dw);
        self.described[slot as usize] = None;
        self.published[slot as usize] = false;
    }

    fn rx_tail(&self) -> u32 {
        let few = self.how.has(How::FEW);
        (self.rx_next + if few { 1 } else { SLOTS - 2 }) % SLOTS
    }

    /// Hands all RX descriptors over.
    pub fn make_room(&mut self, bench: &mut Bench) {
        self.how.0 &= !How::FEW;
        if self.up {
            bench.write32(self.at(0x2818), self.rx_tail());
        }
    }

    fn room(&self) -> u32 {
        SLOTS - 1 - (self.tail + SLOTS - self.clean) % SLOTS
    }

    /// Sends a frame in so many pieces, after a context if there is one: whether there was room.
    pub fn send(
        &mut self,
        bench: &mut Bench,
        len: usize,
        pieces: usize,
        context: Option<u32>,
    ) -> bool {
        let len = len.clamp(60, 8 * TX_BUFFER as usize);
        let size = len.div_ceil(pieces.clamp(1, 16)).min(TX_BUFFER as usize);
        let slots = len.div_ceil(size) as u32 + u32::from(context.is_some());
        if !self.up || self.room() < slots {
            return false;
        }
        let frame = frame(self.q, self.next, len);
        self.next += 1;
        let ring = self.tx_ring();
        if let Some(context) = context {
            let dw = [context, 0, 2 << 20 | 1 << 29, context & 1 << 4];
            Self::set_desc(bench, ring + u64::from(self.tail) * 16, dw);
            self.tail = (self.tail + 1) % SLOTS;
        }
        for (i, part) in frame.chunks(size).enumerate() {
            let at = self.tx_buffer(self.tail);
            bench.mem.inner.set(at, part);
            let end = if (i + 1) * size >= len { 0x9 << 24 } else { 0 };
            let cmd = part.len() as u32 | 3 << 20 | 1 << 25 | 1 << 29 | end;
            let dw = [at as u32, (at >> 32) as u32, cmd, (len as u32) << 14];
            Self::set_desc(bench, ring + u64::from(self.tail) * 16, dw);
            if end != 0 {
                self.ends.push_back(self.tail);
            }
            self.tail = (self.tail + 1) % SLOTS;
        }
        self.sent.push_back(Sent {
            frame,
            optional: false,
        });
        bench.write32(self.at(0x3818), self.tail);
        true
    }

    /// The next frame that comes from the wire.
    pub fn from_wire(&mut self, len: usize) -> Vec<u8> {
        self.next += 1;
        frame(self.q, self.next - 1, len.clamp(60, MAX_RX))
    }

    /// A frame of this queue is on the wire: whether it is the next one.
    pub fn is_next(&mut self, frame: &[u8]) -> bool {
        while let Some(sent) = self.sent.pop_front() {
            if sent.frame == frame {
                return true;
            }
            if !sent.optional {
                return false;
            }
        }
        false
    }

    /// Cleans what was sent.
    pub fn clean(&mut self, bench: &mut Bench) {
        let head = u32::from_le_bytes(std::array::from_fn(|i| {
            bench.mem.inner.get(self.head_wb(), 4)[i]
        }));
        while let Some(&end) = self.ends.front() {
            let at = self.tx_ring() + u64::from(end) * 16;
            let from_clean = |slot: u32| (slot + SLOTS - self.clean) % SLOTS;
            let done = if self.how.has(How::HEAD_WB) {
                head < SLOTS && from_clean(head) > from_clean(end)
            } else {
                Self::desc(bench, at)[3] & 1 != 0
            };
            if !done {
                return;
            }
            self.ends.pop_front();
            while self.clean != (end + 1) % SLOTS {
                let at = self.tx_ring() + u64::from(self.clean) * 16;
                let mut dw = Self::desc(bench, at);
                dw[3] = 0;
                Self::set_desc(bench, at, dw);
                self.clean = (self.clean + 1) % SLOTS;
            }
        }
    }

    /// Takes what was received and gives the buffers back: the frames. Those with an error are left out.
    pub fn receive(&mut self, bench: &mut Bench) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut moved = false;
        for _ in 0..SLOTS {
            let slot = self.rx_next;
            let dw = Self::desc(bench, self.rx_ring() + u64::from(slot) * 16);
            if !self.up || dw[2] & 1 == 0 {
                break;
            }
            let (header, len) = ((dw[0] >> 21 & 0x3ff) as usize, (dw[3] & 0xffff) as usize);
            // What lies may lie about its length; then there is no frame to be had.
            let fits = header <= RX_HEADER as usize && len <= RX_BUFFER as usize;
            if fits {
                let mem = &bench.mem.inner;
                self.frame
                    .extend_from_slice(mem.get(self.rx_header(slot), header));
                self.frame
                    .extend_from_slice(mem.get(self.rx_buffer(slot), len));
            }
            if dw[2] & 2 != 0 || !fits {
                let frame = std::mem::take(&mut self.frame);
                if dw[2] >> 31 == 0 && fits {
                    frames.push(frame);
                }
            }
            self.refill(bench, slot);
            self.rx_next = (slot + 1) % SLOTS;
            moved = true;
        }
        if moved {
            bench.write32(self.at(0x2818), self.rx_tail());
        }
        frames
    }

    /// Whether the frames are those from the wire, in order; some may be missing.
    pub fn are_expected(&mut self, frames: &[Vec<u8>]) -> bool {
        frames.iter().all(|frame| {
            let found = self.injected.iter().position(|other| other == frame);
            found.map(|n| self.injected.drain(..=n)).is_some()
        })
    }

    /// Starts to count bytes for a turn: those of the turn before.
    pub fn take_delivered_bytes(&mut self) -> u64 {
        self.partial_bytes = 0;
        std::mem::take(&mut self.delivered_bytes)
    }

    /// Whether everything has arrived that was sent either way.
    pub fn is_done(&self) -> bool {
        let is_sent = self.sent.iter().all(|sent| sent.optional);
        self.ends.is_empty() && is_sent && self.injected.is_empty()
    }

    /// The model has written `bytes` to `at`: whether that is a place of this queue. Panics if it may not write
    /// there, or not now.
    pub fn judge(&mut self, at: u64, bytes: &[u8]) -> bool {
        let end = at + bytes.len() as u64;
        let within = |base: u64, len: u64| at >= base && end <= base + len;
        let (rx, tx) = (self.rx_ring(), self.tx_ring());
        let ring = u64::from(SLOTS) * 16;
        if within(rx, ring) {
            let (slot, byte) = ((at - rx) as usize / 16, (at - rx) % 16);
            match (byte, bytes.len()) {
                (0, len) if len % 16 == 0 => self.describe(slot, bytes),
                (8, 1) => self.publish(slot, bytes[0]),
                (_, len) => panic!("RX slot {slot}: {len} bytes at {byte}"),
            }
            return true;
        }
        if within(tx, ring) {
            let (slot, byte) = ((at - tx) as u32 / 16, (at - tx) % 16);
            assert_eq!((byte, bytes), (12, &[1u8][..]), "TX slot {slot}");
            assert!(
                self.ends.contains(&slot),
                "TX slot {slot} was not asked about"
            );
            return true;
        }
        if within(self.head_wb(), 4) {
            let head = bytes.try_into().map(u32::from_le_bytes);
            assert!(self.how.has(How::HEAD_WB) && head.is_ok_and(|head| head < SLOTS));
            return true;
        }
        for (base, size, on) in [
            (self.rx_buffer(0), RX_BUFFER, true),
            (self.rx_header(0), RX_HEADER, self.how.has(How::SPLIT)),
        ] {
            if within(base, u64::from(SLOTS) * size) {
                let slot = ((at - base) / size) as usize;
                assert!(
                    on && (end - 1 - base) / size == slot as u64,
                    "RX slot {slot}: past the end of its buffer"
                );
                assert!(
                    !self.published[slot],
                    "RX slot {slot}: a buffer of the guest's"
                );
                return true;
            }
        }
        false
    }

    /// Descriptors were written from `first` on: the guest does not look at the others before that one has DD.
    fn describe(&mut self, first: usize, bytes: &[u8]) {
        for (n, desc) in bytes.chunks(16).enumerate() {
            let slot = first + n;
            let word = |at| u32::from_le_bytes(std::array::from_fn(|i| desc[at + i]));
            let (types, status, len) = (word(0), word(8), word(12) & 0xffff);
            let header = types >> 21 & 0x3ff;
            assert!(
                !self.published[slot],
                "RX slot {slot} is the guest's already"
            );
            assert_eq!(status & 1 != 0, n > 0, "RX slot {slot}: DD not last");
            assert!(
                n == 0 || slot != self.rx_next as usize,
                "RX slot {slot}: DD where the guest looks"
            );
            assert!(
                u64::from(header) <= RX_HEADER && u64::from(len) <= RX_BUFFER,
                "RX slot {slot}: {header} and {len} bytes are more than it has"
            );
            self.described[slot] = Some(Described {
                bytes: (header + len).into(),
                is_end: status & 2 != 0,
                followers: if n == 0 { bytes.len() / 16 - 1 } else { 0 },
            });
        }
    }

    /// A descriptor got its DD, and hands those over that were written with it.
    fn publish(&mut self, first: usize, status: u8) {
        let Some(Described { followers, .. }) = self.described[first] else {
            panic!("RX slot {first}: DD too early");
        };
        assert!(status & 1 != 0, "RX slot {first}: DD too early");
        for slot in first..=first + followers {
            assert!(
                !self.published[slot],
                "RX slot {slot} is the guest's already"
            );
            let Some(Described { bytes, is_end, .. }) = self.described[slot] else {
                panic!("RX slot {slot}: DD too early");
            };
            self.published[slot] = true;
            self.partial_bytes += bytes;
            if is_end {
                self.delivered_bytes += std::mem::take(&mut self.partial_bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DD: u32 = 1;

    /// The model writes descriptors of frames of 60 bytes with these bits of status from `slot` on.
    fn write(driver: &mut Driver, slot: u32, status: &[u32]) {
        let bytes: Vec<u8> = status
            .iter()
            .flat_map(|status| [0, 0, 2 | status, 60])
            .flat_map(u32::to_le_bytes)
            .collect();
        assert!(driver.judge(driver.rx_ring() + u64::from(slot) * 16, &bytes));
    }

    fn publish(driver: &mut Driver, slot: u32) {
        assert!(driver.judge(driver.rx_ring() + u64::from(slot) * 16 + 8, &[3]));
    }

    #[test]
    fn a_burst_is_the_guests_when_its_first_descriptor_has_dd() {
        let mut driver = Driver::new(0);
        write(&mut driver, 0, &[0, DD, DD]);
        assert_eq!(driver.take_delivered_bytes(), 0);
        publish(&mut driver, 0);
        assert_eq!(driver.take_delivered_bytes(), 180);
        write(&mut driver, 3, &[0]);
    }

    #[test]
    #[should_panic(expected = "RX slot 0: DD not last")]
    fn a_burst_whose_first_descriptor_comes_with_dd_is_found() {
        write(&mut Driver::new(0), 0, &[DD, DD]);
    }

    #[test]
    #[should_panic(expected = "RX slot 1: DD not last")]
    fn a_burst_of_which_one_frame_has_no_dd_is_found() {
        write(&mut Driver::new(0), 0, &[0, 0]);
    }

    #[test]
    #[should_panic(expected = "RX slot 2: DD where the guest looks")]
    fn a_burst_that_begins_before_where_the_guest_looks_is_found() {
        let mut driver = Driver::new(0);
        driver.rx_next = 2;
        write(&mut driver, 1, &[0, DD]);
    }

    #[test]
    #[should_panic(expected = "RX slot 1 is the guest's already")]
    fn a_burst_that_is_written_again_is_found() {
        let mut driver = Driver::new(0);
        write(&mut driver, 0, &[0, DD]);
        publish(&mut driver, 0);
        write(&mut driver, 1, &[0]);
    }
}
