// SPDX-License-Identifier: GPL-2.0

//! How much a run has done, for whoever wonders whether it does anything.

#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub sequences: u64,
    pub steps: u64,
    /// Comparisons.
    pub rests: u64,
    /// Frames.
    pub sent: u64,
    pub received: [u64; 2],
    /// Of which their bytes were in other places.
    pub split: u64,
    pub interrupts: u64,
    pub captures: u64,
    pub migrations: u64,
    pub registers: u64,
}

impl Done {
    pub fn add(&mut self, other: &Self) {
        let Self {
            sequences,
            steps,
            rests,
            sent,
            received: [first, second],
            split,
            interrupts,
            captures,
            migrations,
            registers,
        } = self;
        for (sum, n) in [
            (sequences, other.sequences),
            (steps, other.steps),
            (rests, other.rests),
            (sent, other.sent),
            (first, other.received[0]),
            (second, other.received[1]),
            (split, other.split),
            (interrupts, other.interrupts),
            (captures, other.captures),
            (migrations, other.migrations),
            (registers, other.registers),
        ] {
            *sum += n;
        }
    }
}
