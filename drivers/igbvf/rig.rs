// SPDX-License-Identifier: GPL-2.0

//! The model between registers, memory and a mirror area that keep what is written to them, for tests.

extern crate std;

use std::vec::Vec;

use model::adapter::{Adapter, Io};
use model::io::{Area, Registers};
use model::mock::{Memory, Mirror, Page, Script};

use crate::desc::{Desc, DESC_BYTES};
use crate::mirror;
use crate::regs::{self, nth, QUEUES};
use crate::Igbvf;

/// Where guest memory starts.
pub(crate) const GUEST: u64 = 0x1_0000_0000;
/// Bytes of guest memory.
pub(crate) const BYTES: usize = 1 << 20;
/// Where a buffer of the guest is that is large enough for anything.
pub(crate) const BUFFER: u64 = GUEST + 0x4_0000;
/// TX: data, DEXT.
pub(crate) const DATA: u32 = 3 << 20 | 1 << 29;
/// TX: EOP and RS.
pub(crate) const LAST: u32 = 1 << 24 | 1 << 27;
/// TX: cut into segments.
pub(crate) const SEGMENTED: u32 = 1 << 31;
/// RX: 2 KiB, one buffer.
pub(crate) const ONE_BUFFER: u32 = 0x8200_0002;
/// RX: split always, 128 B and 2 KiB.
pub(crate) const SPLIT: u32 = 0x8a00_0202;

pub(crate) struct Rig {
    pub(crate) model: Igbvf,
    pub(crate) hw: Script,
    pub(crate) page: Page,
    pub(crate) mem: Memory,
    pub(crate) mirror: Mirror,
}

impl Rig {
    /// Captured, and not started.
    pub(crate) fn new() -> Self {
        let mut new = Self {
            model: Igbvf::new(),
            hw: Script::new(0, 0x4000),
            page: Page::new(0x2000, 0x4000),
            mem: Memory::new(GUEST, BYTES),
            mirror: Mirror::new(0x7f_0010_0000, mirror::BYTES),
        };
        new.model.reset(&mut new.hw, None);
        new.model.quiesce(&mut new.hw, &mut new.page).unwrap();
        // RX 0, TX 0, RX 1, TX 1: vectors 0, 1, 2, 2.
        new.hw.write32(regs::IVAR0, 0x8282_8180);
        new.hw.writes.clear();
        new
    }

    pub(crate) fn with<R>(&mut self, f: impl FnOnce(&mut Igbvf, &mut Io<'_>) -> R) -> R {
        let mut io = Io {
            hw: &mut self.hw,
            page: &mut self.page,
            mem: &mut self.mem,
            mirror: &mut self.mirror,
        };
        f(&mut self.model, &mut io)
    }

    pub(crate) fn start(&mut self) {
        self.with(|model, io| model.start(io));
        self.hw.writes.clear();
    }

    /// The guest has a TX ring of `len` slots on queue `q`.
    pub(crate) fn enable_tx(&mut self, q: usize, len: u32) {
        let base = tx_ring(q);
        for (at, val) in [
            (regs::TDBAL, base as u32),
            (regs::TDBAH, (base >> 32) as u32),
            (regs::TDLEN, len * 16),
            (regs::TXDCTL, regs::ENABLE),
        ] {
            self.page.write32(nth(at, q), val);
        }
    }

    /// The guest has an RX ring of `len` slots on queue `q`, of which `free` are handed over. Each slot has a
    /// packet buffer of 2 KiB and a header buffer.
    pub(crate) fn enable_rx(&mut self, q: usize, len: u32, free: u32, srrctl: u32) {
        let base = rx_ring(q);
        for (at, val) in [
            (regs::RDBAL, base as u32),
            (regs::RDBAH, (base >> 32) as u32),
            (regs::RDLEN, len * 16),
            (regs::SRRCTL, srrctl),
            (regs::RDT, free),
            (regs::RXDCTL, regs::ENABLE),
        ] {
            self.page.write32(nth(at, q), val);
        }
        for slot in 0..len {
            let (packet, header) = (rx_buffer(slot), rx_header(slot));
            let dw = [
                packet as u32,
                (packet >> 32) as u32,
                header as u32,
                (header >> 32) as u32,
            ];
            let at = base + u64::from(slot) * 16;
            self.mem.set(at, &Desc(dw).to_bytes());
        }
    }

    /// The guest writes TX descriptors of queue `q` from `slot` on, and the tail after them.
    pub(crate) fn queue(&mut self, q: usize, slot: u32, descs: &[[u32; 4]]) {
        let mut at = tx_ring(q) + u64::from(slot) * 16;
        for dw in descs {
            self.mem.set(at, &Desc(*dw).to_bytes());
            at += 16;
        }
        let tail = slot + descs.len() as u32;
        self.page.write32(nth(regs::TDT, q), tail);
    }

    /// A TX descriptor of the mirror ring.
    pub(crate) fn mirrored(&mut self, q: usize, slot: u32) -> Desc {
        let mut bytes = [0; DESC_BYTES];
        self.mirror.read(mirror::tx_slot(q, slot), &mut bytes);
        Desc::from_bytes(bytes)
    }

    /// The device has sent what is in slot `slot` of the TX mirror ring.
    pub(crate) fn sent(&mut self, q: usize, slot: u32) {
        let Desc([a, b, c, d]) = self.mirrored(q, slot);
        let done = Desc([a, b, c, d | 1]).to_bytes();
        self.mirror.write(mirror::tx_slot(q, slot), &done);
    }

    /// The device has received a frame of `len` bytes `fill` from `slot` of the RX mirror ring on.
    pub(crate) fn received(&mut self, q: usize, slot: u32, len: usize, fill: u8) {
        let buffers = len.div_ceil(mirror::RX_BUFFER_BYTES).max(1);
        let mut left = len;
        for n in 0..buffers {
            let slot = (slot + n as u32) % mirror::RX_SLOTS;
            let bytes = left.min(mirror::RX_BUFFER_BYTES);
            left -= bytes;
            let fill: Vec<u8> = std::vec![fill; bytes];
            self.mirror.write(mirror::rx_buffer(q, slot), &fill);
            let status = if left == 0 { 3 } else { 1 };
            let desc = Desc([0x11, 0x1234, status, bytes as u32]);
            self.mirror
                .write(mirror::rx_slot(q, slot), &desc.to_bytes());
        }
    }

    /// The third or fourth dword of a descriptor of the guest.
    pub(crate) fn status(&self, ring: u64, slot: u32, dw: u64) -> u32 {
        let bytes = self.mem.get(ring + u64::from(slot) * 16 + 4 * dw, 4);
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// Vectors that were raised since the last call.
    pub(crate) fn raised(&mut self) -> u32 {
        let writes = self.hw.take_writes();
        let raised = writes.iter().filter(|(at, _)| *at == regs::EICS);
        raised.fold(0, |bits, (_, val)| bits | val)
    }
}

pub(crate) fn tx_ring(q: usize) -> u64 {
    GUEST + 0x1000 + q as u64 * 0x4000
}

pub(crate) fn rx_ring(q: usize) -> u64 {
    GUEST + 0x9000 + q as u64 * 0x4000
}

pub(crate) fn rx_buffer(slot: u32) -> u64 {
    BUFFER + u64::from(slot) * 2048
}

pub(crate) fn rx_header(slot: u32) -> u64 {
    GUEST + 0x2_0000 + u64::from(slot) * 128
}

/// A TX descriptor with data at `at`.
pub(crate) fn data(at: u64, len: u32, flags: u32) -> [u32; 4] {
    [at as u32, (at >> 32) as u32, len | DATA | flags, 0]
}

/// A frame of 60 bytes in one descriptor.
pub(crate) fn small() -> [u32; 4] {
    data(BUFFER, 60, LAST)
}

/// A TX context of either kind.
pub(crate) fn context(index: u32, first: u32) -> [u32; 4] {
    [first, 0, 2 << 20 | 1 << 29, index << 4]
}

const _: () = assert!(QUEUES == 2);
