// SPDX-License-Identifier: GPL-2.0

//! Messages of the guest and its PF.

use fuzz::input::Word;
use fuzz::mailbox::Act::{self, *};

use crate::seed::{seed, Seed};
use crate::seeds_of;

seeds_of!(mailbox, 120);

/// Kinds of messages.
const RESET: u8 = 0;
const MAC: u8 = 1;
const NO_MAC: u8 = 2;
const MULTICAST: u8 = 3;
const VLAN: u8 = 4;
const NO_VLAN: u8 = 5;
const LPE: u8 = 6;
const PROMISC: u8 = 7;
const CLEAR: u8 = 8;
const UNICAST: u8 = 9;
const UNKNOWN: u8 = 10;

fn message(kind: u8) -> Act {
    Message { kind, arg: 7 }
}

/// What a driver says at first.
fn probe() -> Vec<Act> {
    vec![Rst, message(RESET), message(MAC), Up]
}

/// And when its interface comes up.
fn open() -> Vec<Act> {
    let kinds = [
        MULTICAST, CLEAR, UNICAST, VLAN, NO_VLAN, VLAN, LPE, PROMISC, NO_MAC, UNKNOWN,
    ];
    [probe(), kinds.map(message).to_vec()].concat()
}

fn seeds() -> Vec<Seed> {
    vec![
        seed(
            "assigned",
            |r| r.answered == 8 && r.accepted == 1,
            &[open(), vec![Count { n: 9 }, Watchdog]].concat(),
        ),
        seed(
            "captured",
            |r| r.answered == 8 && r.accepted == 1,
            &[vec![Capture], open(), vec![Watchdog, Release, Watchdog]].concat(),
        ),
        seed(
            "migrated",
            |r| r.migrations == 2 && r.accepted == 3 && r.answered == 9,
            &[
                open(),
                vec![
                    Capture,
                    Migrate { how: 0 },
                    Watchdog,
                    message(VLAN),
                    Migrate { how: 0 },
                    Watchdog,
                ],
            ]
            .concat(),
        ),
        seed(
            "refused_elsewhere",
            |r| r.refused == 2 && r.accepted == 2 && r.migrations == 1,
            &[
                open(),
                vec![
                    Capture,
                    Migrate { how: 1 },
                    Watchdog,
                    Migrate { how: 2 },
                    Watchdog,
                    Migrate { how: 0 },
                ],
            ]
            .concat(),
        ),
        // It is asked when it is back, and refuses then or not.
        seed(
            "refused_while_the_pf_is_down",
            |r| r.repaired == 1 && r.accepted == 1,
            &[
                message(RESET),
                Capture,
                Refuse { on: true },
                PfDown,
                Message {
                    kind: MULTICAST,
                    arg: 45,
                },
            ],
        ),
        // The reset was hidden, and the PF has forgotten the address when it is greeted.
        seed(
            "reset_while_the_pf_is_down",
            |r| r.repaired == 1 && r.accepted == 1,
            &[
                message(RESET),
                message(MAC),
                Capture,
                PfDown,
                message(RESET),
            ],
        ),
        seed(
            "the_model_looks_first",
            |r| r.accepted == 1,
            &[
                probe(),
                vec![
                    Capture,
                    Write {
                        index: 0,
                        val: Word(5),
                    },
                    Ping,
                    Restart,
                    Look,
                    Silent { on: true },
                    message(LPE),
                    Answer,
                    Restart,
                    Look,
                    Watchdog,
                    Silent { on: false },
                ],
            ]
            .concat(),
        ),
        seed(
            "pf_reset_hidden",
            |r| r.repaired == 2 && r.answered == 9 && r.accepted == 1,
            &[
                open(),
                vec![
                    Capture,
                    Count { n: 1000 },
                    Watchdog,
                    PfReset,
                    Watchdog,
                    Turns { n: 40 },
                    Watchdog,
                    PfReset,
                    message(LPE),
                    Turns { n: 40 },
                ],
            ]
            .concat(),
        ),
        seed(
            "pf_down_for_long",
            |r| r.repaired == 1 && r.accepted == 1,
            &[
                open(),
                vec![
                    Capture,
                    PfDown,
                    Watchdog,
                    Turns { n: 200 },
                    message(VLAN),
                    Restart,
                    PfUp,
                ],
            ]
            .concat(),
        ),
        seed(
            "pf_reset_seen",
            |r| r.answered == 3 && r.accepted == 1,
            &[
                probe(),
                vec![PfReset, Count { n: 5 }, Watchdog],
                probe(),
                vec![Count { n: 5 }, Watchdog, Flr, Look],
                probe(),
            ]
            .concat()[..],
        ),
        seed(
            "given_up_and_reset",
            |r| r.answered == 2,
            &[
                probe(),
                vec![Silent { on: true }, message(VLAN), Silent { on: false }],
                probe(),
                vec![Refuse { on: true }, message(LPE), Refuse { on: false }],
            ]
            .concat(),
        ),
        seed(
            "no_protocol",
            |r| r.captures == 1,
            &[
                Control { val: 7 },
                Look,
                Control { val: 1 },
                Write {
                    index: 0,
                    val: Word(1),
                },
                Control { val: 1 },
                Read { at: 0x800 },
                Look,
                Capture,
                Control { val: 3 },
                Read { at: 0x804 },
                Read { at: 0xf10 },
                Control { val: 4 },
                Migrate { how: 0 },
                Look,
            ],
        ),
        seed(
            "more_vlans_than_are_recorded",
            |r| r.answered == 41 && r.migrations == 0 && r.accepted == 0,
            &[
                probe(),
                (0..40).map(|arg| Message { kind: VLAN, arg }).collect(),
                vec![Capture, Migrate { how: 0 }],
            ]
            .concat(),
        ),
        seed(
            "buffer_held_across_a_migration",
            |r| r.migrations == 1 && r.answered == 2,
            &[
                probe(),
                vec![
                    Capture,
                    Control { val: 4 },
                    Write {
                        index: 1,
                        val: Word(9),
                    },
                    Migrate { how: 0 },
                    Look,
                    message(LPE),
                ],
            ]
            .concat(),
        ),
    ]
}
