// SPDX-License-Identifier: GPL-2.0

//! What the device is told: a witness at the doorbells of the real VF.
//!
//! Whatever the guest does, the device must learn of no address outside the mirror area, no buffer must be in two
//! hands at once, and nothing must be sent that was not written for that frame.

use std::cell::RefCell;
use std::mem::take;
use std::ops::Range;
use std::rc::Rc;

use mock_igbvf::vf::{Vf, World, MIRROR};
use model::io::{Hardware, Registers};

const ENABLE: u32 = 1 << 25;
const DD: u32 = 1;
/// Bytes of a unit that has one owner: RX buffers and rings are multiples of it.
const UNIT: usize = 1024;
/// The owner of a unit that belongs to a ring; RX slots come after it, and 0 is nobody.
const RING: u16 = 1;

/// A write to a head or tail register, and the ring as the device had it then.
#[derive(Clone, Copy, Debug)]
struct Rung {
    at: u32,
    val: u32,
    base: u64,
    bytes: u32,
    on: bool,
}

/// A VF whose doorbells are heard.
pub struct Bell {
    vf: Vf,
    rung: Rc<RefCell<Vec<Rung>>>,
}

impl Registers for Bell {
    fn read32(&mut self, at: u32) -> u32 {
        self.vf.read32(at)
    }

    fn write32(&mut self, at: u32, val: u32) {
        if matches!(at & !0x100, 0x2810 | 0x2818 | 0x3810 | 0x3818) {
            let mut world = self.vf.0.borrow_mut();
            let ring = at & 0x3f00;
            let base = u64::from(*world.reg(ring + 4)) << 32 | u64::from(*world.reg(ring));
            let (bytes, dctl) = (*world.reg(ring + 8), *world.reg(ring + 0x28));
            self.rung.borrow_mut().push(Rung {
                at,
                val,
                base,
                bytes,
                on: dctl & ENABLE != 0 && bytes != 0,
            });
        }
        self.vf.write32(at, val);
    }
}

impl Hardware for Bell {
    fn pause(&mut self, us: u32) {
        self.vf.pause(us);
    }
}

/// The mirror rings as the device knows them.
pub struct Rings {
    rung: Rc<RefCell<Vec<Rung>>>,
    /// Tails, of RX and of TX.
    tails: [[u32; 2]; 2],
    /// Who owns each unit of the mirror area.
    owners: Vec<u16>,
    /// What the device is to send: slot and bytes.
    in_flight: [Vec<(u32, Range<usize>)>; 2],
    /// Somebody else has been writing to the rings: what is in them need not be the model's.
    pub spoiled: bool,
    /// The device's registers are not what the model has written to them: nothing can be told.
    pub is_lying: bool,
}

impl Rings {
    /// Those of a VF that is not captured yet, and its hardware.
    pub fn new(world: &Rc<RefCell<World>>) -> (Self, Bell) {
        let rung = Rc::new(RefCell::new(Vec::new()));
        let units = world.borrow().mirror.bytes.len() / UNIT;
        let new = Self {
            rung: rung.clone(),
            tails: [[0; 2]; 2],
            owners: vec![0; units],
            in_flight: [Vec::new(), Vec::new()],
            spoiled: false,
            is_lying: false,
        };
        let vf = Vf(world.clone());
        (new, Bell { vf, rung })
    }

    /// Forgets doorbells that are the guest's own.
    pub fn clear(&mut self) {
        self.rung.borrow_mut().clear();
    }

    /// Judges the doorbells since the last time. `log` is what the model wrote to the area since then.
    pub fn judge(&mut self, world: &World, mirror: &[u8], log: &mut [Range<usize>]) {
        if self.is_lying {
            self.clear();
        }
        log.sort_by_key(|range| range.start);
        let all = take(&mut *self.rung.borrow_mut());
        for rung in all {
            let (at, q) = (rung.at & !0x100, (rung.at >> 8 & 1) as usize);
            let is_tx = at >= 0x3000;
            if at & 0xff == 0x18 && rung.on {
                let ring = inside(rung.base & !0x1f, rung.bytes as usize, mirror);
                let slots = rung.bytes / 16;
                assert!(rung.val < slots, "{rung:x?}: a tail outside of its ring");
                for unit in units(&ring) {
                    assert!(self.owners[unit] <= RING, "{ring:x?} is a buffer as well");
                    self.owners[unit] = RING;
                }
                let mut slot = self.tails[usize::from(is_tx)][q];
                while slot != rung.val && !self.spoiled {
                    let at = ring.start + slot as usize * 16;
                    let dw = std::array::from_fn(|i| word(mirror, at + i * 4));
                    if is_tx {
                        self.judge_tx(world, q, (slot, slots), dw, mirror, log);
                    } else {
                        self.judge_rx(world, q, slot, dw, mirror);
                    }
                    slot = (slot + 1) % slots;
                }
            } else if at & 0xff == 0x10 && is_tx {
                self.in_flight[q].clear();
            }
            self.tails[usize::from(is_tx)][q] = rung.val;
        }
    }

    /// A descriptor to receive into.
    fn judge_rx(&mut self, world: &World, q: usize, slot: u32, dw: [u32; 4], mirror: &[u8]) {
        let srrctl = world.regs[(0x280c + q * 0x100) / 4];
        assert_eq!(srrctl >> 25 & 7, 1, "one buffer each");
        assert_eq!(dw[2] & DD, 0, "RX {q}.{slot} is done before it has begun");
        let buffer = inside(address(dw), (srrctl & 0x7f) as usize * 1024, mirror);
        let owner = RING + 1 + (q as u16) * 0x1000 + slot as u16;
        for unit in units(&buffer) {
            let before = std::mem::replace(&mut self.owners[unit], owner);
            assert!(
                before == 0 || before == owner,
                "RX {q}.{slot}: {buffer:x?} is somebody else's"
            );
        }
    }

    /// A descriptor to send by.
    fn judge_tx(
        &mut self,
        world: &World,
        q: usize,
        (slot, slots): (u32, u32),
        dw: [u32; 4],
        mirror: &[u8],
        log: &[Range<usize>],
    ) {
        let (len, kind) = ((dw[2] & 0xffff) as usize, dw[2] >> 20 & 0xf);
        assert_eq!(dw[3] & 0xf, 0, "TX {q}.{slot} is done before it has begun");
        assert!(dw[2] & 1 << 29 != 0, "TX {q}.{slot}: a legacy descriptor");
        if kind == 2 || len == 0 {
            return;
        }
        assert_eq!(kind, 3, "TX {q}.{slot}: neither data nor a context");
        let bytes = inside(address(dw), len, mirror);
        assert!(
            units(&bytes).all(|unit| self.owners[unit] == 0),
            "TX {q}.{slot}: {bytes:x?} is a ring or an RX buffer"
        );
        assert!(
            is_covered(&bytes, log),
            "TX {q}.{slot}: {bytes:x?} has bytes that were not written for it"
        );
        // The device has read what is before its head.
        let head = world.regs[(0x3810 + q * 0x100) / 4] % slots;
        let after_head = |slot: u32| (slot + slots - head) % slots;
        self.in_flight[q].retain(|(other, _)| after_head(*other) < after_head(slot));
        for (other, theirs) in self.in_flight.iter().flatten() {
            assert!(
                bytes.end <= theirs.start || theirs.end <= bytes.start,
                "TX {q}.{slot}: {bytes:x?} is still to be sent by slot {other}"
            );
        }
        self.in_flight[q].push((slot, bytes));
    }
}

fn word(mirror: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| mirror[at + i]))
}

fn address(dw: [u32; 4]) -> u64 {
    u64::from(dw[1]) << 32 | u64::from(dw[0])
}

fn units(range: &Range<usize>) -> Range<usize> {
    range.start / UNIT..range.end.div_ceil(UNIT)
}

/// Where in the mirror area this is, all of it.
fn inside(at: u64, len: usize, mirror: &[u8]) -> Range<usize> {
    let start = at.checked_sub(MIRROR).map(|start| start as usize);
    match start.and_then(|start| Some(start..start.checked_add(len)?)) {
        Some(range) if range.end <= mirror.len() => range,
        _ => panic!("the device was told of {len:#x} bytes at {at:#x}, outside of the mirror area"),
    }
}

/// Whether every byte of `range` is in one of `log`, which is sorted.
fn is_covered(range: &Range<usize>, log: &[Range<usize>]) -> bool {
    let mut at = range.start;
    for written in log {
        if written.start <= at && at < written.end {
            at = written.end;
        }
    }
    at >= range.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::mock::Memory;

    /// A device whose TX ring 0, at the start of the area, has `dw` in its first slot, and rings for it.
    fn ring_for(dw: [u32; 4], base: u64, tail: u32, mut written: Vec<Range<usize>>) {
        let world = World::new(Memory::new(0, 0));
        world.borrow_mut().stalled = true;
        let (mut rings, mut bell) = Rings::new(&world);
        bell.write32(0x3800, base as u32);
        bell.write32(0x3804, (base >> 32) as u32);
        bell.write32(0x3808, 4096);
        bell.write32(0x3828, ENABLE);
        let mut mirror = world.borrow().mirror.bytes.clone();
        for (i, word) in dw.iter().enumerate() {
            mirror[i * 4..i * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        bell.write32(0x3818, tail);
        rings.judge(&world.borrow(), &mirror, &mut written);
    }

    fn data(at: u64, len: u32) -> [u32; 4] {
        [at as u32, (at >> 32) as u32, len | 3 << 20 | 1 << 29, 0]
    }

    #[test]
    fn a_frame_that_was_written_goes_out() {
        ring_for(
            data(MIRROR + 0x2000, 60),
            MIRROR,
            1,
            vec![0x2020..0x203c, 0x2000..0x2020],
        );
    }

    #[test]
    #[should_panic(expected = "not written for it")]
    fn a_frame_with_stale_bytes_is_found() {
        ring_for(
            data(MIRROR + 0x2000, 61),
            MIRROR,
            1,
            vec![0x2000..0x2020, 0x2020..0x203c],
        );
    }

    #[test]
    #[should_panic(expected = "outside of the mirror area")]
    fn an_address_outside_is_found() {
        ring_for(data(0x1_0000_0000, 60), MIRROR, 1, vec![]);
    }

    #[test]
    #[should_panic(expected = "outside of the mirror area")]
    fn a_ring_outside_is_found() {
        ring_for(data(MIRROR, 60), 0x1_0000_0000, 1, vec![]);
    }

    #[test]
    #[should_panic(expected = "is a ring")]
    fn a_frame_in_a_ring_is_found() {
        ring_for(
            data(MIRROR + 0x100, 60),
            MIRROR,
            1,
            vec![0..0x800, 0x800..0x1000],
        );
    }

    #[test]
    #[should_panic(expected = "a tail outside")]
    fn a_tail_outside_is_found() {
        ring_for(data(MIRROR, 60), MIRROR, 256, vec![]);
    }
}
