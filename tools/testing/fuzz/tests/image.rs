// SPDX-License-Identifier: GPL-2.0

//! Images from an enemy.

use fuzz::image::images;
use fuzz::image::Act::{self, *};
use model::image::Tag;

use crate::seed::{seed, Seed};
use crate::seeds_of;

seeds_of!(image, 100);

/// Sections of an image.
const CONTROL: u8 = 0;
const STATE: u8 = 1;
const HELD: u8 = 2;

const KIND: Act = Pf {
    refuses: false,
    pins: false,
    is_silent: false,
};

#[test]
fn images_hold_frames_and_a_delivery_that_was_cut_off() {
    let held = |n: usize| {
        let (image, _) = &images()[n];
        image.iter().filter(|(tag, _)| *tag == Tag::Held).count()
    };
    assert_eq!([held(0), held(1), held(2), held(3)], [0, 0, 3, 3]);
}

fn seeds() -> Vec<Seed> {
    vec![
        seed(
            "never_used",
            |r| r.accepted == 2 && r.releases == 1,
            &[Begin { which: 0 }],
        ),
        seed(
            "at_work",
            |r| r.accepted == 2 && r.tx > 0 && r.rx > 0 && r.releases == 1,
            &[Begin { which: 1 }],
        ),
        seed(
            "with_held_frames",
            |r| r.accepted == 5 && r.rx > 3,
            &[Begin { which: 2 }, Read { bytes: 1000 }],
        ),
        seed(
            "byte_by_byte",
            |r| r.accepted == 5 && r.releases == 1,
            &[Begin { which: 3 }, Used, Read { bytes: 1 }],
        ),
        seed(
            "control_twice",
            |r| r.accepted == 3,
            &[
                Begin { which: 1 },
                Twice { section: CONTROL },
                Read { bytes: 7 },
                Read { bytes: 500 },
            ],
        ),
        seed(
            "damaged",
            |r| r.accepted == 1 && r.refused == 0,
            &[Damage { at: 200, bits: 4 }],
        ),
        seed("cut_off", |r| r.accepted == 2, &[Cut { bytes: 1 }]),
        seed(
            "out_of_order",
            |r| r.accepted == 0,
            &[Swap {
                section: CONTROL,
                other: STATE,
            }],
        ),
        seed(
            "control_altered",
            |r| r.refused == 1,
            &[Set {
                section: CONTROL,
                at: 3,
                val: 1,
            }],
        ),
        seed(
            "vlans_without_end",
            |r| r.refused == 1,
            &[Set {
                section: CONTROL,
                at: 11,
                val: 200,
            }],
        ),
        seed(
            "state_too_long",
            |r| r.refused == 1 && r.accepted == 1,
            &[Resize {
                section: STATE,
                len: 2000,
            }],
        ),
        seed(
            "rings_altered",
            |r| r.accepted == 2,
            &[
                Word {
                    section: STATE,
                    at: 2,
                    val: u32::MAX,
                },
                Word {
                    section: STATE,
                    at: 18,
                    val: 31,
                },
                Word {
                    section: STATE,
                    at: 42,
                    val: 0x8_0000,
                },
            ],
        ),
        seed(
            "held_frames_of_others",
            |r| r.accepted == 3 && r.refused == 1,
            &[
                Frame { q: 0, len: 9000 },
                Frame { q: 7, len: 60 },
                Read { bytes: 65_535 },
            ],
        ),
        seed(
            "held_frame_altered",
            |r| r.accepted == 5,
            &[
                Begin { which: 2 },
                Word {
                    section: HELD,
                    at: 1,
                    val: u32::MAX,
                },
                Word {
                    section: HELD,
                    at: 9,
                    val: u32::MAX,
                },
            ],
        ),
        seed(
            "pf_has_another_address",
            |r| r.refused == 1,
            &[Pf {
                refuses: false,
                pins: true,
                is_silent: false,
            }],
        ),
        seed(
            "pf_refuses",
            |r| r.refused == 1,
            &[
                Pf {
                    refuses: true,
                    pins: false,
                    is_silent: false,
                },
                Begin { which: 1 },
            ],
        ),
        seed(
            "sections_of_ones",
            |r| r.accepted + r.refused > 0,
            &[
                KIND,
                Section {
                    tag: 2,
                    payload: vec![1; 60],
                },
                Drop { section: STATE },
            ],
        ),
        seed(
            "garbage",
            |r| r.accepted == 0,
            &[
                Raw {
                    bytes: b"SEMIASGN\x01\0\0\0\xca\x10\x86\x80\0\x40\0\0????".to_vec(),
                },
                Read { bytes: 3 },
            ],
        ),
    ]
}
