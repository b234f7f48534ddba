// SPDX-License-Identifier: GPL-2.0
//! Guests that migrate at the same time, as when a host is emptied: one, two, four and seven, which is all that a PF has VFs for.

use anyhow::{Context, Result};

use super::guest::Guest;
use super::Record;
use crate::clock;
use crate::host;
use crate::l2::RAM_MIB;
use crate::migration;
use crate::ping::Pinger;
use crate::scenario::bed::{Bed, SOON};

const NUMBERS: [usize; 4] = [1, 2, 4, 7];

pub fn together(bed: &Bed) -> Result<()> {
    let mut record = Record::begin_long("together")?;
    host::load_semiassign()?;
    let most = NUMBERS.iter().copied().max().unwrap_or_default();
    bed.host.create_vfs(most)?;
    let mut guests: Vec<Guest> = Vec::new();
    for (times, number) in NUMBERS.into_iter().enumerate() {
        // The others have gone over in each of the rounds so far.
        let side = times * record.rounds as usize % 2;
        while guests.len() < number {
            guests.push(Guest::boot(bed, guests.len(), side, RAM_MIB)?);
        }
        for round in 0..record.rounds {
            println!("@progress {number} at a time, round {}", round + 1);
            migrate(bed, &mut record, &mut guests)
                .with_context(|| format!("{number} at a time, round {}", round + 1))?;
            record.save()?;
        }
    }
    guests
        .into_iter()
        .try_for_each(|guest| guest.machine.quit())
}

/// All of them to the other PF.
fn migrate(bed: &Bed, record: &mut Record, guests: &mut [Guest]) -> Result<()> {
    let subject = match guests.len() {
        1 => "1 guest".to_owned(),
        number => format!("{number} guests"),
    };
    let destinations = guests.iter().map(|guest| guest.destination(bed));
    let mut destinations = destinations.collect::<Result<Vec<_>>>()?;
    let pingers = guests.iter().map(|guest| {
        let pinger = Pinger::start(&guest.ip())?;
        pinger.require_answers(20, SOON).map(|()| pinger)
    });
    let pingers = pingers.collect::<Result<Vec<_>>>()?;
    let begun = clock::now_ns();
    let mut uris = Vec::new();
    for (guest, to) in guests.iter_mut().zip(&mut destinations) {
        uris.push(migration::connect(&mut guest.machine, to)?);
    }
    for (guest, uri) in guests.iter_mut().zip(&uris) {
        migration::start(&mut guest.machine, uri)?;
    }
    for ((guest, to), pinger) in guests.iter_mut().zip(destinations).zip(&pingers) {
        guest.arrive(record, &subject, to)?;
        pinger.require_sound(SOON)?;
        let gap = pinger.summary_since(begun)?.longest_gap;
        record.note(
            "longest gap between answers to pings",
            "ms",
            &subject,
            gap.as_secs_f64() * 1e3,
        );
    }
    Ok(())
}
