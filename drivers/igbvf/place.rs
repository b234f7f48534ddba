// SPDX-License-Identifier: GPL-2.0

//! Where packets go in a TX mirror: slots of the ring and pieces of the pool, both given out in a circle.

use model::io::Area;
use model::ring::step;

use crate::desc::Desc;
use crate::mirror::{self, TX_SLOTS};

/// Bytes that the pool is given out in.
const GRAIN_BYTES: usize = 64;
/// What the pool has.
const GRAINS: u16 = (mirror::POOL_BYTES / GRAIN_BYTES) as u16;
/// Where the next packet goes in the mirror, until it is committed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    /// Next slot of the mirror ring.
    pub(crate) next: u32,
    /// Slots used so far.
    pub(crate) slots: u32,
    /// Next grain of the pool.
    pub(crate) grain: u16,
    /// Grains used so far.
    pub(crate) grains: u16,
}

impl Place {
    /// Nothing is used.
    pub(crate) const fn new() -> Self {
        Self {
            next: 0,
            slots: 0,
            grain: 0,
            grains: 0,
        }
    }

    /// Writes `desc` to the next slot of the mirror: which one, if there is one.
    pub(crate) fn add(&mut self, q: usize, area: &mut dyn Area, desc: Desc) -> Option<u8> {
        // One slot stays free: a full ring would look empty.
        if self.slots >= TX_SLOTS - 1 {
            return None;
        }
        let slot = self.next;
        area.write(mirror::tx_slot(q, slot), &desc.to_bytes());
        self.next = step(TX_SLOTS, slot, 1);
        self.slots = self.slots.saturating_add(1);
        Some(slot as u8)
    }

    /// Takes `len` bytes in one piece from the pool: where.
    pub(crate) fn claim(&mut self, len: usize) -> Option<usize> {
        let want = u16::try_from(len.div_ceil(GRAIN_BYTES)).ok()?;
        let to_end = GRAINS.saturating_sub(self.grain);
        let (start, total) = if want <= to_end {
            (self.grain, want)
        } else {
            (0, to_end.saturating_add(want))
        };
        if total > GRAINS.saturating_sub(self.grains) {
            return None;
        }
        self.grains = self.grains.saturating_add(total);
        let next = start.saturating_add(want);
        self.grain = if next == GRAINS { 0 } else { next };
        Some(usize::from(start).saturating_mul(GRAIN_BYTES))
    }

    /// Gives back the oldest `slots` and `grains`.
    pub(crate) fn free(&mut self, slots: u32, grains: u16) {
        self.slots = self.slots.saturating_sub(slots);
        self.grains = self.grains.saturating_sub(grains);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::mock::Mirror;

    #[test]
    fn pieces_of_the_pool_are_contiguous_and_never_overlap() {
        let mut place = Place::new();
        let mut taken: [(usize, usize, u16); 64] = [(0, 0, 0); 64];
        let (mut oldest, mut newest) = (0, 0);
        for i in 0..5000usize {
            let len = 1 + i * 7919 % 0xffff;
            let before = place.grains;
            if newest - oldest < 64 {
                if let Some(at) = place.claim(len) {
                    assert!(at + len <= mirror::POOL_BYTES);
                    for n in oldest..newest {
                        let (other, bytes, _) = taken[n % 64];
                        assert!(at + len <= other || other + bytes <= at);
                    }
                    taken[newest % 64] = (at, len, place.grains - before);
                    newest += 1;
                    continue;
                }
            }
            assert!(oldest < newest, "nothing is used and nothing is free");
            place.free(0, taken[oldest % 64].2);
            oldest += 1;
        }
        assert!(newest > 2000);
    }

    #[test]
    fn a_slot_of_the_ring_stays_free() {
        let mut area = Mirror::new(0, mirror::BYTES);
        let mut place = Place::new();
        let n = (0..1000)
            .take_while(|_| place.add(0, &mut area, Desc::default()).is_some())
            .count();
        assert_eq!(n, 255);
        place.free(1, 0);
        assert_eq!(place.add(0, &mut area, Desc::default()), Some(255));
        assert_eq!(place.next, 0);
    }
}
