// SPDX-License-Identifier: GPL-2.0
//! Rings of different length in the guest: the shortest that its driver takes, its own choice, and the longest.

use anyhow::Result;

use super::emulated::{begin, cancel, guest};
use super::{in_turn, ms, Record, LOAD_TIME};
use crate::host::GUEST_IP;
use crate::load::{self, Load};
use crate::scenario::bed::{require_ping, Bed};
use crate::status::Status;

const LENGTHS: [(&str, u32); 3] = [
    ("80 descriptors", 80),
    ("256 descriptors", 256),
    ("4096 descriptors", 4096),
];
/// Captures and releases of each, a round.
const CAPTURES: u32 = 5;

pub fn rings(bed: &Bed) -> Result<()> {
    let mut record = Record::begin_long("rings")?;
    let (mut guest, _) = guest(bed)?;
    for round in 0..record.rounds {
        for (subject, length) in in_turn(&LENGTHS, round).into_iter().copied() {
            println!("@progress {subject}, round {}", round + 1);
            guest.agent.sh(&format!("@rings eth0 {length}"))?;
            require_ping(GUEST_IP, 56)?;
            begin(&mut guest)?;
            for load in [Load::TcpIn, Load::TcpOut, Load::SmallIn, Load::RoundTrips] {
                for (what, unit, value) in load::measure(GUEST_IP, load, LOAD_TIME)? {
                    record.note(what, unit, subject, value);
                }
            }
            cancel(&mut guest)?;
            for _ in 0..CAPTURES {
                begin(&mut guest)?;
                cancel(&mut guest)?;
                let status = Status::read(&guest.vf)?;
                for (what, key) in [("capture", "capture_ns"), ("release", "release_ns")] {
                    record.note(what, "ms", subject, ms(status.number(key)?));
                }
            }
        }
        record.save()?;
    }
    Ok(())
}
