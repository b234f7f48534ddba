// SPDX-License-Identifier: GPL-2.0
//! Guests of different size: what more memory to be looked through means for the migration, and for who relays meanwhile.

use std::time::Duration;

use anyhow::{Context, Result};

use super::emulated::{begin, cancel};
use super::guest::Guest;
use super::{Record, LOAD_TIME};
use crate::bench::percentile;
use crate::clock::wait_for;
use crate::command;
use crate::host;
use crate::load::{self, Load};
use crate::migration;
use crate::scenario::bed::Bed;
use crate::trace::{Stopwatch, Time};

const SIZES: [(&str, u64); 2] = [("256 MiB", 256), ("2 GiB", 2048)];

/// 2 GiB take some 6 s.
const PASS: Duration = Duration::from_secs(120);

pub fn memory(bed: &Bed) -> Result<()> {
    let mut record = Record::begin_long("memory")?;
    host::load_semiassign()?;
    bed.host.create_vfs(SIZES.len())?;
    let mut guests = Vec::new();
    for (number, (subject, ram_mib)) in SIZES.into_iter().enumerate() {
        guests.push((subject, Guest::boot(bed, number, 0, ram_mib)?));
    }
    // Nobody else calls it than who relays. That it is patched in makes the migrations longer, those of either guest.
    let accesses = Stopwatch::of("vfio_dma_rw", &[], Time::All)?;
    for round in 0..record.rounds {
        for (subject, guest) in &mut guests {
            println!("@progress {subject}, round {}", round + 1);
            note_stalls(&mut record, &accesses, subject, guest)?;
            let mut next = guest.destination(bed)?;
            migration::speed_up(&mut guest.machine)?;
            let uri = migration::connect(&mut guest.machine, &mut next)?;
            migration::start(&mut guest.machine, &uri)?;
            guest.arrive(&mut record, subject, next)?;
        }
        record.save()?;
    }
    Ok(())
}

/// How long the relay waits for guest memory while QEMU asks again and again for what is dirty, which takes the lock of the
/// container.
fn note_stalls(
    record: &mut Record,
    accesses: &Stopwatch,
    subject: &str,
    guest: &mut Guest,
) -> Result<()> {
    begin(&mut guest.machine)?;
    note_accesses(record, accesses, &format!("{subject}, no sync"), guest)?;
    // No downtime is short enough, so that it goes on for ever.
    migration::limit(&mut guest.machine, 1 << 30, 0)?;
    let first = syncs(guest)?;
    wait_for("the first pass over the guest's memory", PASS, || {
        Ok((syncs(guest)? > first + 1).then_some(()))
    })?;
    let before = syncs(guest)?;
    note_accesses(record, accesses, subject, guest)?;
    let during = syncs(guest)? - before;
    cancel(&mut guest.machine)?;
    record.note("dirty syncs meanwhile", "", subject, during as f64);
    Ok(())
}

fn note_accesses(
    record: &mut Record,
    accesses: &Stopwatch,
    subject: &str,
    guest: &Guest,
) -> Result<()> {
    let mut calls =
        accesses.during(|| load::measure(&guest.ip(), Load::TcpIn, LOAD_TIME).map(drop))?;
    calls.sort_unstable_by(f64::total_cmp);
    for (which, percent) in [("p50", 50), ("p99", 99), ("longest", 100)] {
        let us = percentile(&calls, percent).context("the relay has touched no guest memory")?;
        record.note(
            &format!("access to guest memory, {which}"),
            "us",
            subject,
            us,
        );
    }
    Ok(())
}

fn syncs(guest: &Guest) -> Result<usize> {
    let trace = command::read(guest.machine.file("trace.log"))?;
    Ok(trace.matches("migration_bitmap_sync_end").count())
}
