// SPDX-License-Identifier: GPL-2.0

//! What is measured, by name.

use std::hint::black_box;

use crate::rig::{Rig, Setup, FRAMES};

/// Frames in an image that has some.
const HELD: usize = 64;
/// Bytes of each of them.
const HELD_FRAME_BYTES: u32 = 1500;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub enum Case {
    /// Frames through the model.
    Relay(Setup),
    /// What [`Case::Relay`] costs without the model.
    Harness(Setup),
    /// An image is saved, with so many held frames.
    Save(usize),
    /// The same image is loaded.
    Load(usize),
}

/// All of them, in the order of the table.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for sends in [true, false] {
        for frame_bytes in [64, 1500] {
            for split in [false, true] {
                for tracked in [false, true] {
                    cases.push(Case::Relay(Setup {
                        sends,
                        frame_bytes,
                        split,
                        tracked,
                    }));
                }
            }
        }
    }
    for sends in [true, false] {
        cases.push(Case::Harness(Setup {
            sends,
            frame_bytes: 64,
            split: false,
            tracked: false,
        }));
    }
    cases.extend([0, HELD].map(Case::Save));
    cases.extend([0, HELD].map(Case::Load));
    cases
}

impl Case {
    /// Its name, which is also a file's.
    pub fn name(self) -> String {
        let way = |sends| if sends { "tx" } else { "rx" };
        match self {
            Self::Relay(Setup {
                sends,
                frame_bytes,
                split,
                tracked,
            }) => format!(
                "{}-{frame_bytes}-{}-{}",
                way(sends),
                if split { "split" } else { "one" },
                if tracked { "tracked" } else { "untracked" }
            ),
            Self::Harness(setup) => format!("{}-harness", way(setup.sends)),
            Self::Save(held) => format!("save-{held}"),
            Self::Load(held) => format!("load-{held}"),
        }
    }

    /// Frames, or images, of one step.
    pub fn units(self) -> u32 {
        match self {
            Self::Relay(_) | Self::Harness(_) => FRAMES,
            Self::Save(_) | Self::Load(_) => 1,
        }
    }

    /// Calls `run` with a function that is one step of it, then checks that the steps did what they are named for.
    pub fn measure(self, run: impl FnOnce(&mut dyn FnMut())) {
        let held = |frames| {
            let mut rig = Rig::new(Setup {
                sends: false,
                frame_bytes: HELD_FRAME_BYTES,
                split: false,
                tracked: false,
            });
            rig.hold(frames);
            let mut image = vec![0; Rig::image_bytes(frames)];
            let len = rig.save(&mut image);
            (rig, image, len)
        };
        match self {
            Self::Relay(setup) => {
                let mut rig = Rig::new(setup);
                if !setup.sends {
                    rig.receive_on();
                }
                let mut turns = 0;
                run(&mut || {
                    rig.turn();
                    turns += 1;
                });
                rig.check(turns);
            }
            Self::Harness(setup) => {
                let mut rig = Rig::new(setup);
                run(&mut || black_box(&mut rig).hand_over());
            }
            Self::Save(frames) => {
                let (mut rig, mut image, len) = held(frames);
                run(&mut || assert_eq!(rig.save(&mut image), len));
            }
            Self::Load(frames) => {
                let (mut rig, image, len) = held(frames);
                run(&mut || rig.load(&image[..len]));
                let mut again = vec![0; image.len()];
                assert_eq!(rig.save(&mut again), len);
                assert!(again == image);
            }
        }
    }
}
