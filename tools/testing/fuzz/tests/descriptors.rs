// SPDX-License-Identifier: GPL-2.0

//! Descriptors, buffers and ring registers.

use fuzz::descriptors::Act::{self, *};
use fuzz::driver::How;
use fuzz::input::Word;

use crate::seed::{seed, Seed};
use crate::seeds_of;

seeds_of!(descriptors, 100);

/// A ring: RX or TX of a queue.
const RX0: u8 = 0;
const TX0: u8 = 2;
/// Of the registers of a ring: base, length, head, tail, control, write-back address.
const LEN: u8 = 2;
const HEAD: u8 = 4;
const TAIL: u8 = 5;
const CONTROL: u8 = 6;

const POLL: Act = Poll { budget: 64 };
const CLEAN: Act = Clean { q: false };

fn send(len: u16, pieces: u8) -> Act {
    Send {
        q: false,
        len,
        pieces,
        context: false,
    }
}

fn inject(len: u16) -> Act {
    Inject { q: false, len }
}

/// A data descriptor of a whole frame in guest memory.
fn data(offset: u32, len: u32) -> [Word; 4] {
    let cmd = 3 << 20 | 1 << 29 | 0x9 << 24;
    [offset, 1, cmd | len, len << 14].map(Word)
}

fn register(ring: u8, register: u8, val: u32) -> Act {
    let val = Word(val);
    Register {
        ring,
        register,
        val,
    }
}

fn seeds() -> Vec<Seed> {
    vec![
        seed(
            "both_ways",
            |r| r.sent == 3 && r.received == 3,
            &[
                send(60, 1),
                send(1500, 3),
                POLL,
                Transmit,
                POLL,
                CLEAN,
                inject(60),
                inject(1500),
                inject(9000),
                POLL,
                CLEAN,
                send(8000, 8),
                POLL,
                Transmit,
                CLEAN,
            ],
        ),
        seed(
            "split_and_second_queue",
            |r| r.sent == 1 && r.received == 2,
            &[
                SetUp {
                    q: true,
                    how: How::SPLIT,
                },
                Send {
                    q: true,
                    len: 300,
                    pieces: 2,
                    context: true,
                },
                POLL,
                Transmit,
                Inject { q: true, len: 100 },
                Inject { q: true, len: 5000 },
                POLL,
                Clean { q: true },
            ],
        ),
        seed(
            "head_write_back",
            |r| r.sent == 2,
            &[
                SetUp {
                    q: false,
                    how: How::HEAD_WB,
                },
                send(60, 1),
                POLL,
                Transmit,
                POLL,
                CLEAN,
                send(700, 2),
                POLL,
                Transmit,
                POLL,
                CLEAN,
            ],
        ),
        seed(
            "held_over_a_migration",
            |r| r.migrations == 2 && r.held == 2 && r.received == 3 && r.sent == 1,
            &[
                SetUp {
                    q: false,
                    how: How::FEW,
                },
                inject(60),
                inject(2000),
                inject(9000),
                send(600, 2),
                Migrate,
                Migrate,
                POLL,
                CLEAN,
            ],
        ),
        seed(
            "given_back_and_captured",
            |r| r.releases == 1 && r.captures == 2 && r.sent == 3,
            &[
                send(60, 1),
                POLL,
                Transmit,
                POLL,
                Release,
                send(61, 1),
                inject(70),
                Transmit,
                CLEAN,
                Capture,
                send(62, 1),
                POLL,
                Transmit,
                CLEAN,
            ],
        ),
        seed(
            "busy_everywhere",
            |r| r.sent == 2 && r.received == 2,
            &[
                inject(9000),
                Busy { after: 37 },
                POLL,
                Busy { after: 3 },
                POLL,
                send(1500, 3),
                Busy { after: 1 },
                POLL,
                Busy { after: 0 },
                Transmit,
                POLL,
                inject(60),
                Busy { after: 2 },
                Restart,
                send(60, 1),
                POLL,
                CLEAN,
            ],
        ),
        seed(
            "descriptors_that_lie",
            |r| r.dropped > 1 && r.tx > 0,
            &[
                Describe {
                    ring: TX0,
                    slot: 0,
                    dw: data(0x1_0000, 0xffff),
                },
                Describe {
                    ring: TX0,
                    slot: 1,
                    dw: [u32::MAX; 4].map(Word),
                },
                Describe {
                    ring: TX0,
                    slot: 2,
                    dw: data(0x3_ffff, 9),
                },
                Describe {
                    ring: TX0,
                    slot: 3,
                    dw: data(0x1_0000, 64),
                },
                register(TX0, TAIL, 4),
                POLL,
                Transmit,
                POLL,
            ],
        ),
        seed(
            "length_grows_while_it_is_read",
            |r| r.races == 1 && r.tx == 2,
            &[
                send(60, 1),
                send(70, 1),
                RaceDescriptor {
                    after: 1,
                    ring: TX0,
                    slot: 0,
                    word: 2,
                    val: Word(3 << 20 | 1 << 29 | 0x9 << 24 | 4000),
                },
                POLL,
                Transmit,
                POLL,
            ],
        ),
        seed(
            "buffer_moves_while_it_is_filled",
            |r| r.races == 1 && r.rx == 1,
            &[
                inject(2000),
                RaceDescriptor {
                    after: 3,
                    ring: RX0,
                    slot: 0,
                    word: 0,
                    val: Word(0x3_f000),
                },
                POLL,
            ],
        ),
        seed(
            "rings_that_are_none",
            |r| r.bad_rings == 3,
            &[
                register(TX0, LEN, 16),
                POLL,
                register(TX0, LEN, 0x10_0000),
                POLL,
                register(TX0, LEN, 0x200),
                register(TX0, HEAD, 0x20),
                POLL,
                register(RX0, HEAD, 0xffff),
                inject(60),
                POLL,
                register(TX0, HEAD, 0),
                register(TX0, TAIL, 0xffff),
                POLL,
            ],
        ),
        seed(
            "ring_shrinks_in_a_turn",
            |r| r.races == 2 && r.tx > 0,
            &[
                send(60, 1),
                send(60, 1),
                inject(3000),
                RaceRegister {
                    after: 9,
                    ring: TX0,
                    register: LEN,
                    val: Word(128),
                },
                RaceRegister {
                    after: 4,
                    ring: RX0,
                    register: CONTROL,
                    val: Word(0),
                },
                POLL,
                Transmit,
                POLL,
            ],
        ),
        seed(
            "holes",
            |r| r.dropped > 1,
            &[
                send(600, 2),
                inject(600),
                inject(2000),
                Hole { page: 0x10 },
                Hole { page: 0x20 },
                POLL,
                Hole { page: 0x3 },
                inject(60),
                POLL,
                NoHoles,
                POLL,
            ],
        ),
        seed(
            "ring_in_its_own_buffer",
            |r| r.rx > 0,
            &[
                Describe {
                    ring: RX0,
                    slot: 0,
                    dw: [0x3000, 1, 0, 0].map(Word),
                },
                Describe {
                    ring: RX0,
                    slot: 1,
                    dw: [0x1000, 1, 0, 0].map(Word),
                },
                inject(1000),
                inject(1000),
                POLL,
                register(TX0, TAIL, 9),
                POLL,
                Transmit,
                POLL,
            ],
        ),
        seed(
            "no_end_of_packet",
            |r| r.dropped > 0,
            &[
                register(TX0, LEN, 0x1000),
                register(TX0, TAIL, 0xfe),
                POLL,
                POLL,
                POLL,
            ],
        ),
    ]
}
