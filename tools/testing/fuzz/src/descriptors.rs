// SPDX-License-Identifier: GPL-2.0

//! Guests whose descriptors, buffers and ring registers make no sense, or change while the model looks at them.
//!
//! The guest begins as one whose rings work, and as long as nothing but that happens all of its frames have to
//! arrive. From the first act that interferes on, what has to hold is less: the device learns of nothing outside
//! of the mirror area and sends nothing that was not written for that frame, every turn ends, heads stay in their
//! rings, and DD comes last.

use model::io::Registers;

use crate::acts;
use crate::driver::{How, SLOTS};
use crate::input::{self, Word};
use crate::life::Reached;
use crate::traffic::Traffic;
use conformance::{GUEST, GUEST_BYTES};

/// Registers of a ring, by their offsets, that a guest may write while it runs.
const RING: [u32; 9] = [0, 4, 8, 0xc, 0x10, 0x18, 0x28, 0x38, 0x3c];
/// Most migrations of one life: each makes a VF.
const MAX_MIGRATIONS: u32 = 3;

acts! {
    /// What happens.
    pub enum Act {
        /// A queue pair is set up, whatever it was before.
        SetUp { q: bool, how: u8 },
        /// The guest sends a frame.
        Send { q: bool, len: u16, pieces: u8, context: bool },
        /// A frame comes from the wire.
        Inject { q: bool, len: u16 },
        /// The device sends.
        Transmit,
        /// The guest looks at its rings.
        Clean { q: bool },
        /// A turn.
        Poll { budget: u8 },
        /// The VF is captured.
        Capture,
        /// The guest gets it back.
        Release,
        /// The mirror stops and starts.
        Restart,
        /// Another VF takes over.
        Migrate,
        /// Guest memory is busy after so many accesses, for once.
        Busy { after: u8 },
        /// A descriptor is written.
        Describe { ring: u8, slot: u8, dw: [Word; 4] },
        /// A ring register is written.
        Register { ring: u8, register: u8, val: Word },
        /// Guest memory is written.
        Memory { at: u32, val: u64 },
        /// A page of it is unmapped.
        Hole { page: u8 },
        /// All of it is mapped.
        NoHoles,
        /// Part of a descriptor changes while the model looks at guest memory.
        RaceDescriptor { after: u8, ring: u8, slot: u8, word: u8, val: Word },
        /// A ring register changes while the model looks at those.
        RaceRegister { after: u8, ring: u8, register: u8, val: Word },
        /// Anything in guest memory changes.
        RaceMemory { after: u8, at: u32, val: u64 },
    }
}

/// The register of a ring: bit 0 of `ring` is the queue, bit 1 says TX.
fn register(ring: u8, register: u8) -> u32 {
    let base = if ring & 2 == 0 { 0x2800 } else { 0x3800 };
    base + u32::from(ring & 1) * 0x100 + RING[usize::from(register) % RING.len()]
}

fn within(at: u32) -> u64 {
    GUEST + u64::from(at) % (GUEST_BYTES as u64 - 8)
}

/// Where a descriptor is.
fn slot_at(traffic: &Traffic, ring: u8, slot: u8) -> u64 {
    let driver = &traffic.drivers[usize::from(ring & 1)];
    let base = if ring & 2 == 0 {
        driver.rx_ring()
    } else {
        driver.tx_ring()
    };
    base + u64::from(slot) % u64::from(SLOTS) * 16
}

/// Runs one input.
pub fn descriptors(data: &[u8]) -> Reached {
    let mut traffic = Traffic::new();
    traffic.drivers[0].up(&mut traffic.life.bench, How(0));
    traffic.capture();
    for act in input::acts(data) {
        run(&mut traffic, &act);
    }
    traffic.finish()
}

fn run(t: &mut Traffic, act: &Act) {
    match *act {
        Act::SetUp { q, how } => t.set_up(q.into(), How(how)),
        Act::Send {
            q,
            len,
            pieces,
            context,
        } => t.send(
            q.into(),
            len.into(),
            pieces.into(),
            context.then_some(len.into()),
        ),
        Act::Inject { q, len } => t.inject(q.into(), len.into()),
        Act::Transmit => t.transmit(),
        Act::Clean { q } => t.clean(q.into()),
        Act::Poll { budget } => t.poll(budget.into()),
        Act::Capture => t.capture(),
        Act::Release => t.release(),
        Act::Restart => t.restart(),
        Act::Migrate if t.life.reached.migrations < MAX_MIGRATIONS => t.migrate(),
        Act::Migrate => {}
        Act::Busy { after } => t.life.bench.mem.inner.busy_after = Some(after.into()),
        _ => interfere(t, act),
    }
}

/// What a driver does not do.
fn interfere(t: &mut Traffic, act: &Act) {
    t.is_orderly = false;
    let bench = &mut t.life.bench;
    match *act {
        Act::Describe { ring, slot, dw } => {
            let bytes: Vec<u8> = dw.iter().flat_map(|word| word.0.to_le_bytes()).collect();
            let at = slot_at(t, ring, slot);
            t.life.bench.mem.inner.set(at, &bytes);
        }
        Act::Register {
            ring,
            register: n,
            val,
        } => bench.write32(register(ring, n), val.0),
        Act::Memory { at, val } => bench.mem.inner.set(within(at), &val.to_le_bytes()),
        Act::Hole { page } => {
            bench
                .mem
                .inner
                .holes
                .insert((GUEST >> 12) + u64::from(page) % (GUEST_BYTES as u64 >> 12));
        }
        Act::NoHoles => bench.mem.inner.holes.clear(),
        Act::RaceDescriptor {
            after,
            ring,
            slot,
            word,
            val,
        } => {
            // The other half stays as it is.
            let at = slot_at(t, ring, slot) + u64::from(word & 2) * 4;
            let mem = &mut t.life.bench.mem;
            let mut bytes: [u8; 8] = std::array::from_fn(|i| mem.inner.get(at, 8)[i]);
            let half = usize::from(word & 1) * 4;
            bytes[half..half + 4].copy_from_slice(&val.0.to_le_bytes());
            mem.meanwhile
                .add(after.into(), at, u64::from_le_bytes(bytes));
        }
        Act::RaceRegister {
            after,
            ring,
            register: n,
            val,
        } => bench
            .page
            .meanwhile
            .add(after.into(), register(ring, n).into(), val.0.into()),
        Act::RaceMemory { after, at, val } => {
            bench.mem.meanwhile.add(after.into(), within(at), val);
        }
        _ => {}
    }
    t.judge();
}
