// SPDX-License-Identifier: GPL-2.0

//! Accesses to registers.

use fuzz::driver::How;
use fuzz::input::Word;
use fuzz::mmio::Act::{self, *};

use crate::seed::{seed, Seed};
use crate::seeds_of;

seeds_of!(mmio, 100);

/// What `at` means: a ring register, any offset, a register of the table.
const RING: u8 = 0;
const AT: u8 = 1;
const NAMED: u8 = 2;

const POLL: Act = Poll { budget: 64 };
const UP: Act = SetUp { q: false, how: 0 };
const SEND: Act = Send {
    q: false,
    len: 700,
    pieces: 2,
};
const INJECT: Act = Inject {
    q: false,
    len: 3000,
};

fn load(at: u16) -> Act {
    Load { kind: AT, at }
}

fn store(at: u16, val: u32) -> Act {
    let val = Word(val);
    Store { kind: AT, at, val }
}

/// Every register of the table is read and written.
fn sweep(val: u32) -> Vec<Act> {
    let val = Word(val);
    let registers = igbvf::regs::TABLE.iter().map(|r| r.count as u16).sum();
    (0..registers)
        .flat_map(|at| {
            [
                Store {
                    kind: NAMED,
                    at,
                    val,
                },
                Load { kind: NAMED, at },
            ]
        })
        .collect()
}

fn seeds() -> Vec<Seed> {
    vec![
        seed("registers_assigned", |r| r.captures == 1, &sweep(u32::MAX)),
        seed(
            "registers_captured",
            |r| r.bad_rings > 0,
            &[&[Handshake, Capture][..], &sweep(u32::MAX), &[POLL]].concat(),
        ),
        seed(
            "registers_with_traffic",
            |r| r.tx > 0,
            &[
                &[Handshake, UP, Capture, SEND, POLL, Transmit][..],
                &sweep(1 << 25),
                &[POLL, Transmit, POLL],
            ]
            .concat(),
        ),
        seed(
            "a_life",
            |r| r.releases == 2 && r.migrations == 1 && r.tx >= 3 && r.rx > 0 && r.held > 0,
            &[
                Handshake,
                UP,
                Capture,
                SEND,
                INJECT,
                POLL,
                Transmit,
                POLL,
                Clean { q: false },
                Release,
                Capture,
                SetUp {
                    q: false,
                    how: How::FEW,
                },
                SEND,
                INJECT,
                Stop,
                Start,
                POLL,
                Transmit,
                POLL,
                Clean { q: false },
                INJECT,
                Migrate,
                SEND,
                POLL,
                Transmit,
                POLL,
                Clean { q: false },
                Release,
            ],
        ),
        seed(
            "saved_and_loaded",
            |r| r.accepted == 2,
            &[
                Handshake,
                UP,
                store(0xf0c, 0x1234),
                Capture,
                SEND,
                INJECT,
                Reload,
                POLL,
                Reload,
            ],
        ),
        seed(
            "reset_by_everybody",
            |r| r.repaired == 1 && r.captures == 1,
            &[
                Handshake,
                UP,
                Capture,
                SEND,
                Pf { reset: true },
                load(0xc40),
                POLL,
                POLL,
                Pf { reset: false },
                load(0x800),
                store(0, 1 << 26),
                POLL,
                Handshake,
                UP,
                SEND,
                POLL,
                Transmit,
                Reset,
                POLL,
                load(0x2828),
            ],
        ),
        seed(
            "beyond_the_bar",
            |r| r.captures == 1,
            &[
                Any {
                    at: 0x4000,
                    val: Word(1),
                },
                Capture,
                Any {
                    at: 0x4000,
                    val: Word(1),
                },
                Any {
                    at: u32::MAX,
                    val: Word(1),
                },
                Any {
                    at: 0x801,
                    val: Word(1),
                },
                Any {
                    at: 0x3ffc,
                    val: Word(1),
                },
                POLL,
            ],
        ),
        seed(
            "addresses_at_the_end",
            |r| r.dropped > 0 || r.bad_rings > 0 || r.tx > 0,
            &[
                Handshake,
                UP,
                Capture,
                Address {
                    kind: AT,
                    at: 0x2800,
                    val: u64::MAX,
                },
                Address {
                    kind: AT,
                    at: 0x3800,
                    val: 0x1_0003_ff80,
                },
                store(0x3818, 31),
                INJECT,
                POLL,
                Transmit,
                POLL,
            ],
        ),
        seed(
            "hardware_that_lies",
            |r| r.captures > 0,
            &[
                Handshake,
                UP,
                Capture,
                Mind {
                    kind: 1,
                    val: Word(0),
                },
                POLL,
                Stop,
                Start,
                Mind {
                    kind: 0,
                    val: Word(7),
                },
                SEND,
                POLL,
                Release,
                Mind {
                    kind: 2,
                    val: Word(0),
                },
                Hardware {
                    kind: RING,
                    at: 3,
                    val: Word(77),
                },
                POLL,
            ],
        ),
        seed(
            "device_that_writes_anywhere",
            |r| r.rx > 0,
            &[
                Handshake,
                UP,
                Capture,
                SEND,
                POLL,
                Complete {
                    first: 0,
                    last: false,
                    n: 64,
                    seed: 1000,
                },
                POLL,
                Complete {
                    first: 0,
                    last: false,
                    n: 64,
                    seed: 4321,
                },
                POLL,
                Complete {
                    first: 5,
                    last: true,
                    n: 5,
                    seed: 9,
                },
                POLL,
                Announce,
                Migrate,
            ],
        ),
        seed(
            "busy_for_ever",
            |r| r.releases == 0 && r.held > 0,
            &[
                Handshake,
                SetUp {
                    q: true,
                    how: How::SPLIT,
                },
                Capture,
                SEND,
                Inject { q: true, len: 5000 },
                Busy {
                    after: 7,
                    always: true,
                },
                POLL,
                Stop,
                Start,
                Migrate,
                POLL,
            ],
        ),
        seed(
            "holes_and_memory",
            |r| r.dropped > 0,
            &[
                Handshake,
                UP,
                Capture,
                Hole { page: 0x20 },
                INJECT,
                SEND,
                POLL,
                Memory {
                    at: 0x1000,
                    val: u64::MAX,
                },
                NoHoles,
                POLL,
                Transmit,
                POLL,
            ],
        ),
    ]
}
