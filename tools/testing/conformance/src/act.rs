// SPDX-License-Identifier: GPL-2.0

//! What may happen to a VF, at random and with a bias to what nearly makes sense.

use model::io::Registers;
use model::mock::Random;
use proptest::prelude::*;

use crate::bench::{Bench, Mind, Mode};
use crate::rules::registers;
use crate::{GUEST, GUEST_BYTES};

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Act {
    /// The guest reads a register.
    Load(Place),
    /// The guest writes a register.
    Store(Place, u32),
    /// A register of the hardware changes.
    Hardware(Place, u32),
    /// The hardware loses its mind, or comes back to its senses.
    Mind(Mind),
    /// The guest writes an address to two registers.
    Address(Place, u64),
    /// The guest writes to its memory.
    Memory(u32, u64),
    /// A page of guest memory is unmapped.
    Hole(u32),
    /// All of guest memory is mapped, and not busy.
    NoHoles,
    /// Guest memory is busy after so many accesses, and maybe stays so.
    Busy(u32, bool),
    /// The device, or a peer, writes anywhere to the mirror area.
    Mirror(u32, u32),
    /// It writes to so many pieces in a row that the model wrote, such as descriptors.
    Complete(Piece, u32, u64),
    /// Frames move.
    Poll(u32),
    /// Everything stops and starts again.
    Restart,
    /// The guest gets the hardware back, for a moment.
    Release,
    /// A frame is sent for the switches.
    Announce,
    /// The function is reset.
    Reset,
    /// The guest sets its rings up, whatever they are now.
    SetUp,
}

/// What the model wrote to the mirror area since the last start, a few bytes at a time.
#[derive(Clone, Copy, Debug)]
pub enum Piece {
    /// Counted from the first.
    First(u32),
    /// Counted back from the last.
    Last(u32),
}

/// Where a register is.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// In the table of the adapter, among those of the substituted pages.
    Ring(u32),
    /// In the table of the adapter.
    Named(u32),
    /// Anywhere.
    At(u32),
}

impl Place {
    fn resolve(self, bench: &Bench) -> u32 {
        let (start, end) = bench.layout.substituted;
        let (n, range) = match self {
            Self::At(at) => return at,
            Self::Named(n) => (n, 0..u32::MAX),
            Self::Ring(n) => (n, start..end),
        };
        let all = || registers(bench.model.registers()).filter(|(_, at)| range.contains(at));
        let n = (n as usize).checked_rem(all().count()).unwrap_or(0);
        all().nth(n).map_or(0, |(_, at)| at)
    }
}

/// A number of the kind that registers and descriptors hold.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        2 => any::<u32>(),
        3 => 0..8u32,
        1 => 0..64u32,
        2 => 0..4096u32,
        1 => (0..0x1001u32).prop_map(|n| n * 128),
        2 => (0..32u32).prop_map(|n| 1 << n),
        1 => (0..32u32, any::<u16>()).prop_map(|(n, low)| 1 << n | u32::from(low)),
        2 => (0..GUEST_BYTES as u32).prop_map(|n| n & !0xf),
        1 => Just((GUEST >> 32) as u32),
        1 => Just(u32::MAX),
    ]
}

/// Where something may be, such as at the very end of memory or of the address space.
fn address() -> impl Strategy<Value = u64> {
    let end = GUEST + GUEST_BYTES as u64;
    prop_oneof![
        2 => GUEST..end,
        1 => end - 64..end + 64,
        2 => (0..64u64).prop_map(|n| u64::MAX - n),
        1 => (0..8u64).prop_map(|n| u64::MAX << 7 << n),
        1 => any::<u64>(),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        4 => any::<u32>().prop_map(Place::Ring),
        4 => any::<u32>().prop_map(Place::Named),
        1 => (0..0x4000u32).prop_map(Place::At),
        1 => any::<u32>().prop_map(Place::At),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let piece = prop_oneof![
        4 => Just(Piece::First(0)),
        1 => (0..64u32).prop_map(Piece::First),
        2 => (0..64u32).prop_map(Piece::Last),
    ];
    prop_oneof![
        2 => place().prop_map(Act::Load),
        4 => (place(), word()).prop_map(|(at, val)| Act::Store(at, val)),
        1 => (place(), word()).prop_map(|(at, val)| Act::Hardware(at, val)),
        1 => prop_oneof![
            3 => Just(Mind::Sane),
            1 => any::<u64>().prop_map(|seed| Mind::Random(Random(seed | 1))),
            1 => word().prop_map(Mind::Constant),
        ]
        .prop_map(Act::Mind),
        2 => (place(), address()).prop_map(|(at, val)| Act::Address(at, val)),
        2 => (0..GUEST_BYTES as u32 - 8, address()).prop_map(|(at, val)| Act::Memory(at, val)),
        1 => (0..(GUEST_BYTES >> 12) as u32).prop_map(Act::Hole),
        1 => Just(Act::NoHoles),
        2 => (0..20u32, prop::bool::weighted(0.2)).prop_map(|(n, always)| Act::Busy(n, always)),
        1 => (any::<u32>(), word()).prop_map(|(at, val)| Act::Mirror(at, val)),
        8 => (piece, 1..32u32, any::<u64>()).prop_map(|(at, n, seed)| Act::Complete(at, n, seed)),
        8 => (0..70u32).prop_map(Act::Poll),
        1 => Just(Act::Restart),
        1 => Just(Act::Release),
        1 => Just(Act::Announce),
        2 => Just(Act::SetUp),
        1 => prop_oneof![3 => Just(Act::Poll(64)), 1 => Just(Act::Reset)],
    ]
}

/// A life: what is in guest memory, and what happens.
pub fn life() -> impl Strategy<Value = (u64, Vec<Act>)> {
    (any::<u64>(), prop::collection::vec(act(), 1..60))
}

impl Bench {
    /// Lets `act` happen.
    pub fn act(&mut self, act: &Act) {
        match *act {
            Act::Load(at) => {
                let at = at.resolve(self);
                self.read32(at);
            }
            Act::Store(at, val) => {
                let at = at.resolve(self);
                self.write32(at, val);
            }
            Act::Hardware(at, val) => {
                let at = at.resolve(self);
                self.hw.write32(at, val);
            }
            Act::Mind(ref mind) => self.hw.mind = mind.clone(),
            Act::Address(at, val) => {
                let at = at.resolve(self);
                self.write32(at, val as u32);
                self.write32(at.wrapping_add(4), (val >> 32) as u32);
            }
            Act::Memory(at, val) => self
                .mem
                .inner
                .set(GUEST + u64::from(at), &val.to_le_bytes()),
            Act::Hole(n) => {
                self.mem.inner.holes.insert((GUEST >> 12) + u64::from(n));
            }
            Act::NoHoles => {
                self.mem.inner.holes.clear();
                self.mem.inner.busy_after = None;
            }
            Act::Busy(after, always) => {
                self.mem.inner.busy_after = Some(after);
                self.mem.inner.busy_always = always;
            }
            Act::Mirror(at, val) => self.set_mirror(at as usize, val),
            Act::Complete(piece, n, seed) => self.complete(piece, n, &mut Random(seed | 1)),
            Act::Poll(budget) => self.poll(budget),
            Act::Restart => {
                self.stop();
                self.start();
            }
            Act::Release => {
                self.release();
                if self.mode == Mode::Assigned {
                    self.capture();
                }
            }
            Act::Announce => {
                self.call(|model, io| model.announce(io));
            }
            Act::Reset => self.reset(),
            Act::SetUp => (self.set_up)(self),
        }
    }

    fn set_mirror(&mut self, at: usize, val: u32) {
        if let Some(at) = at.checked_rem(self.mirror.inner.bytes.len()) {
            for (byte, new) in self.mirror.inner.bytes[at..]
                .iter_mut()
                .zip(val.to_le_bytes())
            {
                *byte = new;
            }
        }
    }

    fn complete(&mut self, piece: Piece, n: u32, random: &mut Random) {
        let len = self.mirror.pieces.len();
        let first = match piece {
            Piece::First(n) => n as usize,
            Piece::Last(n) => len.saturating_sub(n as usize + 1),
        };
        for index in first..len.min(first + n as usize) {
            let at = self.mirror.pieces[index];
            for word in 0..4 {
                // "Done, and the end" of many a device, other flags, a length, or anything.
                let val = match random.below(4) {
                    0 => 3,
                    1 => random.below(8),
                    2 => random.below(4096),
                    _ => random.next(),
                };
                self.set_mirror(at + 4 * word, val);
            }
        }
    }
}
