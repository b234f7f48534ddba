// SPDX-License-Identifier: GPL-2.0
//! Where the worker's time goes: to reach guest memory while it relays, and to go to sleep while it does not.

use std::time::Duration;

use anyhow::Result;

use super::emulated::{begin, cancel, frames, guest, note_idle, Workers};
use super::{Record, LOAD_TIME};
use crate::host::GUEST_IP;
use crate::l2::L2;
use crate::load::{self, Load};
use crate::scenario::bed::Bed;
use crate::status::Status;
use crate::trace;

/// What it calls for each access to guest memory, one inside the other.
const RELAY: [&str; 2] = ["vfio_dma_rw", "kthread_use_mm"];
/// What it calls once in each turn, and what that calls to set a timer.
const SLEEP: [&str; 2] = ["schedule_hrtimeout_range_clock", "lapic_next_event"];
const IDLE: Duration = Duration::from_secs(2);

pub fn profile(bed: &Bed) -> Result<()> {
    let mut record = Record::begin("profile")?;
    let (mut guest, _) = guest(bed)?;
    for round in 0..record.rounds {
        println!("@progress profile, round {}", round + 1);
        begin(&mut guest)?;
        let workers = Workers::of_all_vfs()?;
        for (name, load) in [
            ("TCP in", Load::TcpIn),
            ("64 bytes in", Load::SmallIn),
            ("round trips", Load::RoundTrips),
        ] {
            note_relay(&mut record, &guest, &workers, name, load)?;
        }
        note_idle(&mut record, &workers)?;
        for function in SLEEP {
            let calls = trace::durations(function, &workers.pids, || {
                std::thread::sleep(IDLE);
                Ok(())
            })?;
            note_calls(
                &mut record,
                function,
                "idle",
                "a second",
                &calls,
                IDLE.as_secs_f64(),
            );
        }
        cancel(&mut guest)?;
        record.save()?;
    }
    Ok(())
}

/// Traced apart: that takes time of its own.
fn note_relay(
    record: &mut Record,
    guest: &L2,
    workers: &Workers,
    name: &str,
    load: Load,
) -> Result<()> {
    let relayed = || frames(&Status::read(&guest.vf)?);
    let run = || load::measure(GUEST_IP, load, LOAD_TIME).map(drop);
    let (before, spent) = (relayed()?, workers.spent_ns()?);
    run()?;
    let us = (workers.spent_ns()? - spent) as f64 / 1e3;
    record.note(
        "CPU of the worker",
        "us a frame",
        name,
        us / (relayed()? - before) as f64,
    );
    for function in RELAY {
        let before = relayed()?;
        let calls = trace::durations(function, &workers.pids, run)?;
        let frames = (relayed()? - before) as f64;
        note_calls(record, function, name, "a frame", &calls, frames);
    }
    Ok(())
}

/// `calls` are by `count` things.
fn note_calls(
    record: &mut Record,
    function: &str,
    subject: &str,
    each: &str,
    calls: &[f64],
    count: f64,
) {
    let what = |of: &str| format!("{function}, {of}");
    record.note(&what("calls"), each, subject, calls.len() as f64 / count);
    let mean = calls.iter().sum::<f64>() / calls.len().max(1) as f64;
    record.note(&what("time"), "us a call", subject, mean);
}
