// SPDX-License-Identifier: GPL-2.0

//! What must hold for every adapter, holds for this one: with nothing behind it, and with a PF and a guest.

use conformance::bench::Bench;
use igbvf::Igbvf;
use model::io::{Hardware, Registers};
use model::mock::Memory;

use crate::guest::{ONE_BUFFER, SPLIT};
use crate::vf::{Vf, World, GUEST};

conformance::conformance!(Igbvf::new());

mod at_work {
    use super::*;

    conformance::conformance!(Igbvf::new(), hardware: |_| vf(), set_up: set_up);
}

/// A VF with a PF that answers, and a link that does not send. What it does by DMA is seen by nobody.
fn vf() -> Box<dyn Hardware> {
    let world = World::new(Memory::new(GUEST, 0));
    world.borrow_mut().stalled = true;
    Box::new(Vf(world))
}

/// A guest that is known to its PF and has both of its queue pairs running: frames to be sent on both, and room
/// for a few frames.
fn set_up(bar: &mut Bench) {
    for words in [
        &[1][..],
        &[2, 0x0100_5452, 0x0302],
        &[4 | 1 << 16, 100],
        &[3 | 1 << 16, 0x1234],
        &[5, 9000],
    ] {
        bar.write32(0xc40, 4);
        for (i, word) in words.iter().enumerate() {
            bar.write32(0x800 + 4 * i as u32, *word);
        }
        bar.write32(0xc40, 1);
        bar.read32(0xc40);
        bar.write32(0xc40, 2);
    }
    for (q, srrctl, room) in [(0, SPLIT, 4), (1, ONE_BUFFER, 40)] {
        let o = q * 0x100;
        let (rx, tx) = (0xa000 + q * 0x1000, 0xe000 + q * 0x1000);
        for (at, ring, tail, dctl) in [(0x2800, rx, room, 0x0201_0810), (0x3800, tx, 40, 1 << 25)] {
            bar.write32(at + o, ring);
            bar.write32(at + o + 4, (GUEST >> 32) as u32);
            bar.write32(at + o + 8, 64 * 16);
            bar.write32(at + o + 0x28, dctl);
            bar.write32(at + o + 0x18, tail);
        }
        bar.write32(0x280c + o, srrctl);
        for slot in 0..64 {
            // A context, a frame in two pieces, a frame in one.
            let dw = match slot % 4 {
                0 => [slot, 0, 2 << 20 | 1 << 29, (slot / 4 % 2) << 4],
                1 => [0x2_0000, 1, 60 | 3 << 20 | 1 << 29, 2060 << 14],
                n => [0x2_0000 + n, 1, 2000 | 3 << 20 | 0x29 << 24, 2060 << 14],
            };
            let bytes: Vec<u8> = dw.iter().flat_map(|w: &u32| w.to_le_bytes()).collect();
            let at = GUEST + u64::from(tx + slot * 16);
            bar.mem.inner.set(at, &bytes);
        }
    }
    bar.write32(0x1700, 0x8081_8081);
    bar.write32(0x1740, 0x82);
    bar.write32(0x1524, 7);
}
