// SPDX-License-Identifier: GPL-2.0

//! From a sequence that fails to a short one.

use crate::play::Player;
use crate::sequence::{Sequence, Step};

/// Replays until the rest is taken as it is.
const REPLAYS: u32 = 400;

/// Leaves out of `sequence`, which fails, what is not needed for that: the rest, and what it says.
pub fn shrink(player: &mut Player, sequence: &Sequence) -> (Sequence, String) {
    let mut best = (sequence.clone(), String::from("it does not fail again"));
    let mut replays = REPLAYS;
    let mut fails = |best: &mut (Sequence, String), steps: Vec<Step>| {
        let shorter = Sequence {
            steps,
            ..best.0.clone()
        };
        replays = replays.saturating_sub(1);
        if replays == 0 {
            return false;
        }
        match player.play(&shorter) {
            Ok(()) => false,
            Err(why) => {
                *best = (shorter, why);
                true
            }
        }
    };
    if !fails(&mut best, sequence.steps.clone()) {
        return best;
    }
    // Whole steps, in pieces of half the length each time.
    let mut size = best.0.steps.len().div_ceil(2);
    loop {
        let mut from = 0;
        while from < best.0.steps.len() {
            let mut steps = best.0.steps.clone();
            let end = (from + size).min(steps.len());
            steps.drain(from..end);
            if !fails(&mut best, steps) {
                from += size;
            }
        }
        if size == 1 {
            break;
        }
        size = size.div_ceil(2);
    }
    // Then what is in them.
    for n in 0..best.0.steps.len() {
        let mut item = 0;
        while let Some(step) = without(&best.0.steps[n], item) {
            let mut steps = best.0.steps.clone();
            steps[n] = step;
            if !fails(&mut best, steps) {
                item += 1;
            }
        }
    }
    best
}

/// The step without its packet or frame number `item`; none if it has no such.
fn without(step: &Step, item: usize) -> Option<Step> {
    let mut step = step.clone();
    match &mut step {
        Step::Send { packets, .. } if item < packets.len() => {
            packets.remove(item);
        }
        Step::Receive { frames, .. }
        | Step::ReceiveEarly { frames, .. }
        | Step::CaptureUnder { frames }
            if item < frames.len() =>
        {
            frames.remove(item);
        }
        _ => return None,
    }
    Some(step)
}
