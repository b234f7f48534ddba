// SPDX-License-Identifier: GPL-2.0

//! A guest's driver, in the order of Linux's igbvf.

use std::collections::VecDeque;

use crate::machine::Machine;
use crate::vf::GUEST;

const ENABLE: u32 = 1 << 25;
/// Slots of each ring.
pub const SLOTS: u32 = 32;
const TX_RING: u64 = GUEST + 0x1000;
const RX_RING: u64 = GUEST + 0x3000;
const TX_BUFFERS: u64 = GUEST + 0x10_0000;
const RX_BUFFERS: u64 = GUEST + 0x20_0000;
const RX_HEADERS: u64 = GUEST + 0x30_0000;
const BUFFER: u64 = 0x1000;

/// The address of every guest.
pub const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
/// 2 KiB, one buffer.
pub const ONE_BUFFER: u32 = 0x8200_0002;
/// Split always: 128 B and 2 KiB.
pub const SPLIT: u32 = 0x8a00_0202;

/// How packets are cut into descriptors.
#[derive(Clone, Copy)]
pub struct Cut {
    pub pieces: usize,
    pub context: Option<u32>,
    pub tso: bool,
}

impl Default for Cut {
    fn default() -> Self {
        Self {
            pieces: 1,
            context: None,
            tso: false,
        }
    }
}

pub struct Guest {
    q: u32,
    srrctl: u32,
    tx_tail: u32,
    tx_clean: u32,
    /// Ends of the packets in flight.
    tx_ends: VecDeque<u32>,
    rx_next: u32,
    rx_frame: Vec<u8>,
    /// Frames that were received.
    pub received: Vec<Vec<u8>>,
    /// Frames that were received with an error.
    pub errors: u32,
    /// V2PMAILBOX bits that were read and not used yet.
    v2p: u32,
}

impl Guest {
    pub fn new(q: u32, srrctl: u32) -> Self {
        Self {
            q,
            srrctl,
            tx_tail: 0,
            tx_clean: 0,
            tx_ends: VecDeque::new(),
            rx_next: 0,
            rx_frame: Vec::new(),
            received: Vec::new(),
            errors: 0,
            v2p: 0,
        }
    }

    fn at(&self, reg: u32) -> u32 {
        reg + self.q * 0x100
    }

    fn here(&self, at: u64) -> u64 {
        at + u64::from(self.q) * 0x8000
    }

    fn buffer(&self, base: u64, slot: u32) -> u64 {
        base + (u64::from(self.q) * u64::from(SLOTS) + u64::from(slot)) * BUFFER
    }

    fn desc(&self, m: &Machine, ring: u64, slot: u32) -> [u32; 4] {
        let w = m.world.borrow();
        let bytes = w.memory.get(self.here(ring) + u64::from(slot) * 16, 16);
        std::array::from_fn(|i| u32::from_le_bytes(bytes[i * 4..i * 4 + 4].try_into().unwrap()))
    }

    fn set_desc(&self, m: &Machine, ring: u64, slot: u32, dw: [u32; 4]) {
        let bytes: Vec<u8> = dw.iter().flat_map(|w| w.to_le_bytes()).collect();
        m.world
            .borrow_mut()
            .memory
            .set(self.here(ring) + u64::from(slot) * 16, &bytes);
    }

    fn v2p(&mut self, m: &mut Machine) -> u32 {
        let val = m.load(0xc40);
        self.v2p |= val & 0xb0;
        val | self.v2p
    }

    /// Sends a message to the PF: word 0 of the reply.
    pub fn message(&mut self, m: &mut Machine, words: &[u32]) -> Option<u32> {
        self.post(m, words);
        self.reply(m)
    }

    /// The first half: up to REQ.
    pub fn post(&mut self, m: &mut Machine, words: &[u32]) {
        m.store(0xc40, 4);
        assert_ne!(self.v2p(m) & 4, 0);
        self.v2p(m);
        self.v2p &= !0x30;
        for (i, word) in words.iter().enumerate() {
            m.store(0x800 + 4 * i as u32, *word);
        }
        m.store(0xc40, 1);
    }

    /// The second half: from PFACK to the reply.
    pub fn reply(&mut self, m: &mut Machine) -> Option<u32> {
        (0..100).find(|_| self.v2p(m) & 0x20 != 0)?;
        self.v2p &= !0x20;
        (0..100).find(|_| self.v2p(m) & 0x10 != 0)?;
        self.v2p &= !0x10;
        m.store(0xc40, 4);
        self.v2p(m);
        let word = m.load(0x800);
        m.store(0xc40, 2);
        Some(word)
    }

    /// The mailbox as igbvf's link check sees it: a word with CTS means that all is well.
    pub fn link_check(&mut self, m: &mut Machine) -> bool {
        let val = self.v2p(m);
        m.store(0xc40, 4);
        self.v2p(m);
        let word = m.load(0x800);
        m.store(0xc40, 2);
        val & 0xc0 == 0 && word & 1 << 29 != 0 && m.load(0x8) & 2 != 0
    }

    /// Resets the VF and makes itself known.
    pub fn probe(&mut self, m: &mut Machine) {
        m.store(0, 1 << 26);
        while self.v2p(m) & 0xc0 != 0 {
            self.v2p &= !0x80;
        }
        let reply = self.message(m, &[1]).unwrap();
        assert_eq!(reply & 0xffff, 1);
        let (lo, hi) = mac_words(MAC);
        self.message(m, &[2, lo, hi]).unwrap();
    }

    /// Brings the interface up.
    pub fn up(&mut self, m: &mut Machine) {
        for at in [0x3828, 0x2828] {
            let val = m.load(self.at(at));
            m.store(self.at(at), val & !ENABLE);
        }
        let ring = self.here(TX_RING);
        m.store(self.at(0x3808), SLOTS * 16);
        m.store(self.at(0x3800), ring as u32);
        m.store(self.at(0x3804), (ring >> 32) as u32);
        m.store(self.at(0x3810), 0);
        m.store(self.at(0x3818), 0);
        m.store(self.at(0x3828), ENABLE);
        m.store(self.at(0x280c), self.srrctl);
        let ring = self.here(RX_RING);
        m.store(self.at(0x2800), ring as u32);
        m.store(self.at(0x2804), (ring >> 32) as u32);
        m.store(self.at(0x2808), SLOTS * 16);
        m.store(self.at(0x2810), 0);
        m.store(self.at(0x2818), 0);
        (self.tx_tail, self.tx_clean, self.rx_next) = (0, 0, 0);
        self.tx_ends.clear();
        self.rx_frame.clear();
        for slot in 0..SLOTS {
            self.refill(m, slot);
        }
        self.message(m, &[5, 9000]).unwrap();
        m.store(self.at(0x2828), 0x0201_0810);
        m.store(self.at(0x2818), SLOTS - 2);
        m.store(0x1700, 0x8081_8081);
        m.store(0x1740, 0x82);
        for at in [0x152c, 0x1530, 0x1524] {
            m.store(at, 7);
        }
    }

    /// Takes the interface down.
    pub fn down(&mut self, m: &mut Machine) {
        for at in [0x2828, 0x3828] {
            let val = m.load(self.at(at));
            m.store(self.at(at), val & !ENABLE);
        }
        m.turns(1);
        self.probe(m);
        for at in [0x3810, 0x3818, 0x2810, 0x2818] {
            m.store(self.at(at), 0);
        }
    }

    fn refill(&self, m: &Machine, slot: u32) {
        let (packet, header) = (self.buffer(RX_BUFFERS, slot), self.buffer(RX_HEADERS, slot));
        let header = if self.srrctl == SPLIT { header } else { 0 };
        let dw = [
            packet as u32,
            (packet >> 32) as u32,
            header as u32,
            (header >> 32) as u32,
        ];
        self.set_desc(m, RX_RING, slot, dw);
    }

    /// Free TX slots.
    pub fn room(&self) -> u32 {
        SLOTS - 1 - (self.tx_tail + SLOTS - self.tx_clean) % SLOTS
    }

    /// Writes a packet into the ring, without the doorbell.
    pub fn queue(&mut self, m: &mut Machine, frame: &[u8], cut: Cut) {
        let first = self.tx_tail;
        if let Some(context) = cut.context {
            self.set_desc(m, TX_RING, self.tx_tail, [context, 0, 2 << 20 | 1 << 29, 0]);
            self.tx_tail = (self.tx_tail + 1) % SLOTS;
        }
        let size = frame.len().div_ceil(cut.pieces);
        let mut slot = first;
        for (i, part) in frame.chunks(size).enumerate() {
            slot = self.tx_tail;
            let at = self.buffer(TX_BUFFERS, slot);
            m.world.borrow_mut().memory.set(at, part);
            let mut cmd = part.len() as u32 | 3 << 20 | 1 << 25 | 1 << 29;
            cmd |= if cut.tso { 1 << 31 } else { 0 };
            if (i + 1) * size >= frame.len() {
                cmd |= 1 << 24 | 1 << 27;
            }
            let dw = [
                at as u32,
                (at >> 32) as u32,
                cmd,
                (frame.len() as u32) << 14,
            ];
            self.set_desc(m, TX_RING, slot, dw);
            self.tx_tail = (self.tx_tail + 1) % SLOTS;
        }
        self.tx_ends.push_back(slot);
    }

    pub fn doorbell(&self, m: &mut Machine) {
        m.store(self.at(0x3818), self.tx_tail);
    }

    pub fn send(&mut self, m: &mut Machine, frame: &[u8], cut: Cut) {
        self.queue(m, frame, cut);
        self.doorbell(m);
    }

    /// Cleans the TX ring by DD; igbvf clears the status of what it has cleaned.
    pub fn clean(&mut self, m: &mut Machine) {
        while let Some(&end) = self.tx_ends.front() {
            if self.desc(m, TX_RING, end)[3] & 1 == 0 {
                return;
            }
            self.tx_ends.pop_front();
            while self.tx_clean != (end + 1) % SLOTS {
                let mut dw = self.desc(m, TX_RING, self.tx_clean);
                dw[3] = 0;
                self.set_desc(m, TX_RING, self.tx_clean, dw);
                self.tx_clean = (self.tx_clean + 1) % SLOTS;
            }
        }
    }

    pub fn in_flight(&self) -> usize {
        self.tx_ends.len()
    }

    /// Takes frames from the RX ring, refills it and moves the tail, unless `lazy`.
    pub fn receive(&mut self, m: &mut Machine, lazy: bool) {
        let mut moved = false;
        loop {
            let dw = self.desc(m, RX_RING, self.rx_next);
            if lazy || dw[2] & 1 == 0 {
                break;
            }
            let header = (dw[0] >> 21 & 0x3ff) as usize;
            let len = (dw[3] & 0xffff) as usize;
            let w = m.world.borrow();
            let part = w.memory.get(self.buffer(RX_HEADERS, self.rx_next), header);
            self.rx_frame.extend_from_slice(part);
            let part = w.memory.get(self.buffer(RX_BUFFERS, self.rx_next), len);
            self.rx_frame.extend_from_slice(part);
            drop(w);
            if dw[2] & 2 != 0 {
                let frame = std::mem::take(&mut self.rx_frame);
                if dw[2] >> 31 != 0 {
                    self.errors += 1;
                } else {
                    assert_eq!(
                        (dw[0] & 0x1ffff, dw[1], dw[3] >> 16),
                        (0x11, 0x1234_5678, 77)
                    );
                    self.received.push(frame);
                }
            }
            self.refill(m, self.rx_next);
            self.rx_next = (self.rx_next + 1) % SLOTS;
            moved = true;
        }
        if moved {
            m.store(self.at(0x2818), (self.rx_next + SLOTS - 1) % SLOTS);
        }
    }
}

pub fn mac_words(mac: [u8; 6]) -> (u32, u32) {
    let [a, b, c, d, e, f] = mac;
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, 0, 0]),
    )
}
