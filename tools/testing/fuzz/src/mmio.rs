// SPDX-License-Identifier: GPL-2.0

//! Any access to any register at any moment of a life, captured or not.
//!
//! The register table says where most of them are; the rest of the trapped page and what is beyond the BAR have
//! their turn as well. Frames move in between, the PF is reset, the hardware lies, and the whole is saved, loaded
//! and migrated.

use std::collections::BTreeSet;

use conformance::act::{self, Piece, Place};
use conformance::bench::{Bench, Mind, Mode};
use conformance::{GUEST, GUEST_BYTES};
use model::io::Registers;
use model::mock::Random;

use crate::acts;
use crate::driver::How;
use crate::input::{self, Word};
use crate::life::Reached;
use crate::traffic::Traffic;

/// Most migrations of one life: each makes a VF.
const MAX_MIGRATIONS: u32 = 3;

acts! {
    /// What happens.
    pub enum Act {
        /// The guest reads a register.
        Load { kind: u8, at: u16 },
        /// The guest writes a register.
        Store { kind: u8, at: u16, val: Word },
        /// The guest writes an address to two registers.
        Address { kind: u8, at: u16, val: u64 },
        /// The guest reads and writes any offset.
        Any { at: u32, val: Word },
        /// A register of the hardware changes.
        Hardware { kind: u8, at: u16, val: Word },
        /// The hardware answers the same to everything, or at random, or comes to its senses.
        Mind { kind: u8, val: Word },
        /// A queue pair is set up, whatever it was before.
        SetUp { q: bool, how: u8 },
        /// The guest sends a frame.
        Send { q: bool, len: u16, pieces: u8 },
        /// A frame comes from the wire.
        Inject { q: bool, len: u16 },
        /// The device sends.
        Transmit,
        /// The device writes to pieces in a row that the model wrote.
        Complete { first: u8, last: bool, n: u8, seed: u16 },
        /// The guest looks at its rings.
        Clean { q: bool },
        /// A turn.
        Poll { budget: u8 },
        /// The VF is captured.
        Capture,
        /// The guest gets it back.
        Release,
        /// The mirror stops.
        Stop,
        /// It starts.
        Start,
        /// A frame is sent for the switches.
        Announce,
        /// The function is reset.
        Reset,
        /// The guest makes itself known to its PF.
        Handshake,
        /// The PF is reset, or pings.
        Pf { reset: bool },
        /// What is saved is loaded again.
        Reload,
        /// Another VF takes over.
        Migrate,
        /// Guest memory is busy after so many accesses, once or always.
        Busy { after: u8, always: bool },
        /// A page of guest memory is unmapped.
        Hole { page: u8 },
        /// All of it is mapped and not busy.
        NoHoles,
        /// Guest memory is written.
        Memory { at: u32, val: u64 },
    }
}

/// Runs one input.
pub fn mmio(data: &[u8]) -> Reached {
    let mut traffic = Traffic::new();
    traffic.is_orderly = false;
    for act in input::acts(data) {
        run(&mut traffic, &act);
    }
    finish(&mut traffic)
}

fn place(kind: u8, at: u16) -> Place {
    match kind & 3 {
        0 => Place::Ring(at.into()),
        1 => Place::At(at.into()),
        _ => Place::Named(at.into()),
    }
}

fn run(t: &mut Traffic, act: &Act) {
    match *act {
        Act::SetUp { q, how } => t.set_up(q.into(), How(how)),
        Act::Send { q, len, pieces } => t.send(q.into(), len.into(), pieces.into(), None),
        // A device whose registers make no sense is left alone.
        Act::Inject { q, len } => t.inject(q.into(), len.into()),
        Act::Transmit => t.transmit(),
        Act::Clean { q } => t.clean(q.into()),
        Act::Poll { budget } => t.poll(budget.into()),
        Act::Capture => t.capture(),
        Act::Release => t.release(),
        Act::Stop => t.life.stop(),
        Act::Start => t.life.start(),
        Act::Reset => {
            t.life.reset();
            t.forget();
        }
        Act::Handshake => t.handshake(),
        Act::Pf { reset } => {
            let mut world = t.life.world.borrow_mut();
            if reset {
                world.pf_reset();
            } else {
                world.ping();
            }
        }
        Act::Announce if t.life.is_captured() => {
            t.life.bench.call(|model, io| model.announce(io));
        }
        Act::Reload if t.life.is_captured() => reload(t),
        Act::Migrate if t.life.is_captured() => {
            t.life.bench.hw.mind = Mind::Sane;
            t.life.stop();
            let is_known = t.life.bench.model.check_migratable(&mut Nothing).is_ok();
            if is_known && t.life.reached.migrations < MAX_MIGRATIONS {
                // The PF may refuse what the guest asked of a PF that lied.
                let _ = t.life.migrate(|_| {});
            }
            t.life.start();
        }
        Act::Announce | Act::Reload | Act::Migrate => {}
        _ => interfere(t, act),
    }
    t.judge();
}

/// A register file without a queue: only the control record decides.
struct Nothing;

impl Registers for Nothing {
    fn read32(&mut self, _at: u32) -> u32 {
        0
    }

    fn write32(&mut self, _at: u32, _val: u32) {}
}

/// What conformance does as well.
fn interfere(t: &mut Traffic, act: &Act) {
    let act = match *act {
        Act::Load { kind, at } => act::Act::Load(place(kind, at)),
        Act::Store { kind, at, val } => act::Act::Store(place(kind, at), val.0),
        Act::Address { kind, at, val } => act::Act::Address(place(kind, at), val),
        Act::Any { at, val } => {
            t.life.bench.write32(at, val.0);
            act::Act::Load(Place::At(at))
        }
        Act::Hardware { kind, at, val } => {
            lie(t);
            act::Act::Hardware(place(kind, at), val.0)
        }
        Act::Mind { kind, val } => {
            lie(t);
            act::Act::Mind(match kind & 3 {
                0 => Mind::Random(Random(u64::from(val.0) | 1 << 32)),
                1 => Mind::Constant(val.0),
                _ => Mind::Sane,
            })
        }
        Act::Complete {
            first,
            last,
            n,
            seed,
        } => {
            t.life.rings.spoiled = true;
            let first = if last {
                Piece::Last(first.into())
            } else {
                Piece::First(first.into())
            };
            act::Act::Complete(first, n.into(), seed.into())
        }
        Act::Busy { after, always } => act::Act::Busy(after.into(), always),
        Act::Hole { page } => act::Act::Hole(u32::from(page) % (GUEST_BYTES >> 12) as u32),
        Act::NoHoles => act::Act::NoHoles,
        Act::Memory { at, val } => act::Act::Memory(at % (GUEST_BYTES as u32 - 8), val),
        _ => return,
    };
    t.life.bench.act(&act);
}

/// The hardware is not what the model has made it any more.
fn lie(t: &mut Traffic) {
    (t.life.rings.spoiled, t.life.rings.is_lying) = (true, true);
}

/// What is saved can be loaded, and is saved the same.
fn reload(t: &mut Traffic) {
    let bench = &mut t.life.bench;
    bench.hw.mind = Mind::Sane;
    t.life.stop();
    let bench = &mut t.life.bench;
    if bench.mode != Mode::Stopped || bench.model.check_migratable(&mut Nothing).is_err() {
        return;
    }
    let image = bench.save();
    let mut all = true;
    for (tag, payload) in &image {
        all &= bench.load(*tag, payload).is_ok();
    }
    if all && !t.life.rings.spoiled {
        assert!(bench.save() == image, "loaded, and saved in another way");
        t.life.reached.accepted += 1;
    }
    t.life.start();
}

/// In the end, what the model changes in guest memory is dirty, and a model that is stopped is still.
fn finish(t: &mut Traffic) -> Reached {
    let bench = &mut t.life.bench;
    bench.hw.mind = Mind::Sane;
    bench.mem.inner.busy_after = None;
    t.capture();
    let bench = &mut t.life.bench;
    bench.mem.inner.dirty.clear();
    let before = bench.mem.inner.clone();
    t.life.start();
    for budget in [1, 64] {
        t.life.poll(budget);
        t.life.transmit();
    }
    t.life.stop();
    t.life.still();
    let bench = &mut t.life.bench;
    let touched = touched(bench);
    let dirty = &bench.mem.inner.dirty;
    assert!(
        bench.changed_pages(&before).is_subset(dirty) && *dirty == touched,
        "{touched:x?} were written, and {dirty:x?} are dirty"
    );
    t.judge();
    t.life.end()
}

/// The pages that the model has written to.
fn touched(bench: &Bench) -> BTreeSet<u64> {
    let log = bench.mem.inner.log.iter().flatten();
    log.filter(|(_, bytes)| !bytes.is_empty())
        .flat_map(|(at, bytes)| at >> 12..=(at + bytes.len() as u64 - 1) >> 12)
        .inspect(|page| assert!((GUEST..GUEST + GUEST_BYTES as u64).contains(&(page << 12))))
        .collect()
}
