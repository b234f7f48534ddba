// SPDX-License-Identifier: GPL-2.0

//! A descriptor ring in guest memory, and what its driver knows to be in it.

use crate::machine::Machine;

/// Bytes of a descriptor.
const DESC_BYTES: usize = 16;

/// A ring. Slots are counted from the start of its life, and never wrap.
pub struct Ring {
    pub at: u64,
    pub slots: u32,
    /// What the driver wrote, or read back from the device.
    known: Vec<u8>,
}

impl Ring {
    /// An empty one.
    pub fn new(m: &Machine, at: u64, slots: u32) -> Self {
        let known = vec![0; slots as usize * DESC_BYTES];
        m.world.borrow_mut().store(at, &known);
        Self { at, slots, known }
    }

    /// Where slot `n` is in the ring.
    pub fn index(&self, n: u64) -> usize {
        (n % u64::from(self.slots)) as usize
    }

    pub fn get(&self, m: &Machine, n: u64) -> [u32; 4] {
        let w = m.world.borrow();
        let bytes = w
            .memory
            .get(self.at + self.index(n) as u64 * 16, DESC_BYTES);
        std::array::from_fn(|i| u32::from_le_bytes(bytes[i * 4..i * 4 + 4].try_into().unwrap()))
    }

    pub fn set(&mut self, m: &Machine, n: u64, dw: [u32; 4]) {
        let start = self.index(n) * DESC_BYTES;
        let bytes = &mut self.known[start..start + DESC_BYTES];
        for (bytes, dw) in bytes.chunks_exact_mut(4).zip(dw) {
            bytes.copy_from_slice(&dw.to_le_bytes());
        }
        let mut w = m.world.borrow_mut();
        w.store(self.at + start as u64, bytes);
    }

    /// Takes what the device wrote to slot `n` for known.
    pub fn learn(&mut self, m: &Machine, n: u64) {
        let start = self.index(n) * DESC_BYTES;
        let w = m.world.borrow();
        let bytes = w.memory.get(self.at + start as u64, DESC_BYTES);
        self.known[start..start + DESC_BYTES].copy_from_slice(bytes);
    }

    /// Panics unless slot `n` is as it is known to be, but for the last dword: the device may write its status there,
    /// and leaves what it wants of the rest.
    pub fn assert_reported(&self, m: &Machine, n: u64) {
        let start = self.index(n) * DESC_BYTES;
        let w = m.world.borrow();
        let bytes = w.memory.get(self.at + start as u64, 12);
        assert_eq!(bytes, &self.known[start..start + 12], "slot {n}");
    }

    /// Panics unless the slots in `[from, to)` are as they are known to be.
    pub fn assert_untouched(&self, m: &Machine, from: u64, to: u64) {
        let w = m.world.borrow();
        let memory = w.memory.get(self.at, self.known.len());
        let (from, end) = (self.index(from), self.index(from) + (to - from) as usize);
        let slots = self.slots as usize;
        for part in [from..end.min(slots), 0..end.saturating_sub(slots)] {
            let bytes = part.start * DESC_BYTES..part.end * DESC_BYTES;
            let same = self.known[bytes.clone()] == memory[bytes];
            assert!(
                same,
                "the device wrote to slots {part:?}, which it does not own"
            );
        }
    }
}
