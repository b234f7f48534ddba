// SPDX-License-Identifier: GPL-2.0

//! A device, or a peer that reaches it, that writes anything to the mirror area.
//!
//! The guest is one whose rings work. Whatever is in mirror descriptors and held frames, the model writes to the
//! buffers that the guest gave it and nowhere else, and a frame has no more bytes than the buffers it came in.

use conformance::bench::Mode;

use crate::acts;
use crate::driver::How;
use crate::input::{self, Word};
use crate::life::Reached;
use crate::traffic::Traffic;

/// Where the held frames of the first queue are in the mirror area, and their bytes.
pub const HELD: (usize, usize) = (0x18_3000, 256 * 1024);
/// Bytes of an RX buffer of the mirror.
const RX_BUFFER: u64 = 2048;
/// Most bytes of a held frame.
const MAX_HELD: u64 = 16 * 1024;
/// Most migrations of one life: each makes a VF.
const MAX_MIGRATIONS: u32 = 3;

acts! {
    /// What happens.
    pub enum Act {
        /// A queue pair is set up, whatever it was before.
        SetUp { q: bool, how: u8 },
        /// The guest sends a frame.
        Send { q: bool, len: u16, pieces: u8 },
        /// A frame comes from the wire.
        Inject { q: bool, len: u16 },
        /// The device sends.
        Transmit,
        /// The guest looks at its rings.
        Clean { q: bool },
        /// A turn.
        Poll { budget: u8 },
        /// The guest gets the VF back for a moment.
        Release,
        /// The mirror stops: what was received is held.
        Stop,
        /// It starts again.
        Start,
        /// What is held is written into an image.
        Save,
        /// Another VF takes over.
        Migrate,
        /// Guest memory is busy after so many accesses, for once.
        Busy { after: u8 },
        /// A word of a descriptor that the model looks at next, or soon, is written.
        Spoil { place: u8, slot: u8, word: u8, val: Word },
        /// Several RX descriptors in a row say that they are done, and where their frames end.
        Complete { q: bool, slots: u8, len: Word, ends: u8 },
        /// Anything in the area is written.
        Anywhere { at: u32, val: Word },
        /// A word of a descriptor or of a held frame changes while the model looks.
        Race { after: u8, place: u8, slot: u8, word: u8, val: Word },
    }
}

/// A place in the area: RX ring, TX ring or held frames of a queue, counted from where the model is.
fn place_at(t: &mut Traffic, place: u8, slot: u8, word: u8) -> usize {
    let (q, slot, word) = (u32::from(place & 1), u32::from(slot), u32::from(word));
    let half = t.life.bench.mirror.inner.bytes.len() / 2;
    let start = q as usize * half;
    let mut world = t.life.world.borrow_mut();
    let mut reg = |at: u32| *world.reg(at + q * 0x100);
    let offset = match place >> 1 & 3 {
        0 => 0x1000 + (reg(0x2818) + 1 + slot) % 512 * 16 + word % 4 * 4,
        1 => (reg(0x3810) + slot) % 256 * 16 + word % 4 * 4,
        // The first records, and what is in them.
        2 => HELD.0 as u32 + slot % 8 * 4,
        _ => HELD.0 as u32 + (slot << 8 | word) * 4 % HELD.1 as u32,
    };
    (start + offset as usize).min(2 * half - 8)
}

/// Runs one input.
pub fn mirror(data: &[u8]) -> Reached {
    let mut traffic = Traffic::new();
    for (driver, how) in traffic.drivers.iter_mut().zip([0, How::SPLIT]) {
        driver.up(&mut traffic.life.bench, How(how));
    }
    traffic.capture();
    for act in input::acts(data) {
        run(&mut traffic, &act);
    }
    traffic.finish()
}

fn run(t: &mut Traffic, act: &Act) {
    match *act {
        Act::SetUp { q, how } => t.set_up(q.into(), How(how)),
        Act::Send { q, len, pieces } => t.send(q.into(), len.into(), pieces.into(), None),
        Act::Inject { q, len } => t.inject(q.into(), len.into()),
        Act::Transmit => t.transmit(),
        Act::Clean { q } => t.clean(q.into()),
        Act::Poll { budget } => poll(t, budget.into()),
        Act::Release => {
            t.release();
            t.capture();
        }
        Act::Stop => {
            t.life.stop();
            t.judge();
        }
        Act::Start => {
            t.life.start();
            t.judge();
        }
        Act::Save if t.life.bench.mode == Mode::Stopped => {
            t.life.bench.save();
        }
        Act::Save => {}
        Act::Migrate if t.life.reached.migrations < MAX_MIGRATIONS => t.migrate(),
        Act::Migrate => {}
        Act::Busy { after } => t.life.bench.mem.inner.busy_after = Some(after.into()),
        _ => spoil(t, act),
    }
}

/// What a device does not do.
fn spoil(t: &mut Traffic, act: &Act) {
    t.life.rings.spoiled = true;
    match *act {
        Act::Spoil {
            place,
            slot,
            word,
            val,
        } => {
            let at = place_at(t, place, slot, word);
            set(t, at, val.0);
        }
        Act::Complete {
            q,
            slots,
            len,
            ends,
        } => {
            for slot in 0..slots {
                let end = u32::from(ends >> (slot & 7) & 1) << 1;
                for (word, val) in [(2, 1 | end), (3, len.0)] {
                    let at = place_at(t, q.into(), slot, word);
                    set(t, at, val);
                }
            }
        }
        Act::Anywhere { at, val } => {
            let len = t.life.bench.mirror.inner.bytes.len();
            set(t, at as usize % (len - 4), val.0);
        }
        Act::Race {
            after,
            place,
            slot,
            word,
            val,
        } => {
            let at = place_at(t, place, slot, word);
            let mirror = &mut t.life.bench.mirror;
            let next = &mirror.inner.bytes[at + 4..at + 8];
            let high = u32::from_le_bytes(std::array::from_fn(|i| next[i]));
            let val = u64::from(high) << 32 | u64::from(val.0);
            mirror.meanwhile.add(after.into(), at as u64, val);
        }
        _ => {}
    }
}

fn set(t: &mut Traffic, at: usize, val: u32) {
    let bytes = &mut t.life.bench.mirror.inner.bytes;
    bytes[at..at + 4].copy_from_slice(&val.to_le_bytes());
}

/// A turn, after which the guest has got no more bytes than there were.
fn poll(t: &mut Traffic, budget: u32) {
    let (tails, held) = (tails(t), u64::from(t.life.bench.model.held()));
    t.take_delivered_bytes();
    t.poll(budget);
    let slots: u64 = self::tails(t)
        .into_iter()
        .zip(tails)
        .map(|(is, was)| u64::from((is + 512 - was) % 512))
        .sum();
    let (bytes, most) = (
        t.take_delivered_bytes(),
        slots * RX_BUFFER + held * MAX_HELD,
    );
    assert!(
        bytes <= most,
        "frames of {bytes} bytes in buffers of {most}"
    );
}

/// RDT of the mirror rings.
fn tails(t: &Traffic) -> [u32; 2] {
    let world = t.life.world.borrow();
    [0x2818, 0x2918].map(|at| world.regs[at / 4])
}
