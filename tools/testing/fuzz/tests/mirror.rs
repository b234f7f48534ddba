// SPDX-License-Identifier: GPL-2.0

//! Mirror descriptors and held frames that somebody else has written to.

use fuzz::driver::How;
use fuzz::input::Word;
use fuzz::mirror::Act::{self, *};
use fuzz::mirror::HELD;
use fuzz::traffic::Traffic;

use crate::seed::{seed, Seed};
use crate::seeds_of;

seeds_of!(mirror, 100);

/// Places: RX ring, TX ring, first held records, held frames, of the first queue.
const RX: u8 = 0;
const TX: u8 = 2;
const RECORD: u8 = 4;
const FRAMES: u8 = 6;

/// The first queue's driver has room for one frame.
const FEW: Act = SetUp {
    q: false,
    how: How::FEW,
};
const POLL: Act = Poll { budget: 64 };
const CLEAN: Act = Clean { q: false };

fn inject(len: u16) -> Act {
    Inject { q: false, len }
}

fn spoil(place: u8, slot: u8, word: u8, val: u32) -> Act {
    let val = Word(val);
    Spoil {
        place,
        slot,
        word,
        val,
    }
}

fn race(after: u8, place: u8, slot: u8, word: u8, val: u32) -> Act {
    let val = Word(val);
    Race {
        after,
        place,
        slot,
        word,
        val,
    }
}

fn complete(slots: u8, len: u32, ends: u8) -> Act {
    Complete {
        q: false,
        slots,
        len: Word(len),
        ends,
    }
}

#[test]
fn held_frames_are_where_they_are_looked_for() {
    let mut t = Traffic::new();
    t.drivers[0].up(&mut t.life.bench, How(How::FEW));
    t.capture();
    t.inject(0, 60);
    t.inject(0, 100);
    t.life.stop();
    let record = &t.life.bench.mirror.inner.bytes[HELD.0..HELD.0 + 4];
    assert_eq!(record, 100u32.to_le_bytes());
}

fn seeds() -> Vec<Seed> {
    vec![
        seed(
            "nobody_interferes",
            |r| r.received == 2 && r.sent == 1,
            &[
                inject(60),
                inject(9000),
                POLL,
                CLEAN,
                Send {
                    q: false,
                    len: 1500,
                    pieces: 2,
                },
                POLL,
                Transmit,
                POLL,
                CLEAN,
            ],
        ),
        seed(
            "lengths_beyond_the_buffers",
            |r| r.rx == 7,
            &[
                complete(3, 4000, 0xff),
                POLL,
                CLEAN,
                complete(4, 0xffff, 0x0f),
                POLL,
            ],
        ),
        seed(
            "no_end_of_packet",
            |r| r.dropped > 0 && r.rx == 1,
            &[complete(20, 2048, 0), POLL, complete(8, 100, 0x80), POLL],
        ),
        seed(
            "empty_frames",
            |r| r.dropped == 4,
            &[complete(4, 0, 0xff), POLL, CLEAN],
        ),
        seed(
            "length_grows_while_it_is_read",
            |r| r.races == 1 && r.rx == 2,
            &[
                inject(60),
                inject(61),
                race(1, RX, 0, 3, 0x7000),
                POLL,
                CLEAN,
            ],
        ),
        seed(
            "frame_shrinks_while_it_is_delivered",
            |r| r.races == 2,
            &[
                inject(9000),
                Busy { after: 40 },
                race(9, RX, 1, 2, 3),
                race(3, RX, 1, 3, 16),
                POLL,
                POLL,
                CLEAN,
            ],
        ),
        seed(
            "sent_before_it_was",
            |r| r.tx == 2,
            &[
                Send {
                    q: false,
                    len: 2000,
                    pieces: 4,
                },
                Send {
                    q: false,
                    len: 60,
                    pieces: 1,
                },
                POLL,
                spoil(TX, 3, 3, 1),
                POLL,
                CLEAN,
                spoil(TX, 4, 3, 1),
                POLL,
                CLEAN,
            ],
        ),
        seed(
            "sends_from_elsewhere",
            |r| r.tx == 1,
            &[
                Send {
                    q: false,
                    len: 600,
                    pieces: 1,
                },
                POLL,
                spoil(TX, 0, 1, 1),
                spoil(TX, 0, 2, 0x2930_ffff),
                Transmit,
                POLL,
            ],
        ),
        seed(
            "held_lengths",
            |r| r.held == 3 && r.dropped == 3,
            &[
                FEW,
                inject(60),
                inject(60),
                inject(2000),
                inject(9000),
                Stop,
                spoil(RECORD, 0, 0, u32::MAX),
                Save,
                Start,
                POLL,
            ],
        ),
        seed(
            "held_lengths_that_fit",
            |r| r.held == 3 && r.rx > 0,
            &[
                FEW,
                inject(60),
                inject(60),
                inject(2000),
                inject(9000),
                Stop,
                spoil(RECORD, 0, 0, 4000),
                Save,
                Start,
                POLL,
                CLEAN,
                POLL,
            ],
        ),
        seed(
            "held_types_and_status",
            |r| r.migrations == 1 && r.rx > 1,
            &[
                SetUp {
                    q: true,
                    how: How::SPLIT | How::FEW,
                },
                Inject { q: true, len: 60 },
                Inject { q: true, len: 900 },
                Inject { q: true, len: 61 },
                Stop,
                spoil(RECORD | 1, 1, 0, u32::MAX),
                spoil(RECORD | 1, 3, 0, u32::MAX),
                Save,
                Start,
                POLL,
                Inject { q: true, len: 62 },
                Stop,
                spoil(RECORD | 1, 1, 0, 1 << 30),
                Migrate,
                Start,
                POLL,
                Clean { q: true },
            ],
        ),
        seed(
            "held_changes_while_it_is_saved",
            |r| r.held == 2,
            &[
                FEW,
                inject(60),
                inject(3000),
                inject(3000),
                Stop,
                race(2, RECORD, 0, 0, 16_000),
                race(5, FRAMES, 2, 250, 0),
                Save,
                Migrate,
                Start,
                POLL,
                CLEAN,
            ],
        ),
        seed(
            "ring_registers_of_the_area",
            |r| r.rx > 0,
            &[
                Anywhere {
                    at: 0x1000,
                    val: Word(0),
                },
                Anywhere {
                    at: 0x1004,
                    val: Word(1),
                },
                spoil(RX, 0, 0, 0x3000),
                inject(60),
                spoil(RX, 0, 1, 1),
                POLL,
                Release,
                inject(60),
                POLL,
                CLEAN,
            ],
        ),
    ]
}
