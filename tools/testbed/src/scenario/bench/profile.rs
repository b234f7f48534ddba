// SPDX-License-Identifier: GPL-2.0
//! Where the worker's time goes: to reach guest memory while it relays, and to go to sleep while it does not; and how much of a
//! capture is waiting.

use std::time::Duration;

use anyhow::{Context, Result};

use super::emulated::{begin, cancel, frames, guest, note_idle, under_load, Workers};
use super::{ms, Record, LOAD_TIME, SEMIASSIGN};
use crate::host::GUEST_IP;
use crate::l2::L2;
use crate::load::{self, Load};
use crate::scenario::bed::Bed;
use crate::status::Status;
use crate::trace::{Stopwatch, Time};

/// What it calls for each access to guest memory, one inside the other.
const RELAY: [&str; 2] = ["vfio_dma_rw", "kthread_use_mm"];
/// What it calls once in each turn, and what that calls to set a timer.
const SLEEP: [&str; 2] = ["schedule_hrtimeout_range_clock", "lapic_next_event"];
const IDLE: Duration = Duration::from_secs(2);
/// What QEMU asks for PRE_COPY by. It asks for other things too, none of which takes as long on a processor.
const REQUEST: &str = "vfio_device_fops_unl_ioctl";
const CAPTURES: u32 = 30;
const LOADS: [(&str, Load); 3] = [
    ("TCP in", Load::TcpIn),
    ("64 bytes in", Load::SmallIn),
    ("round trips", Load::RoundTrips),
];

pub fn profile(bed: &Bed) -> Result<()> {
    let mut record = Record::begin("profile")?;
    let (mut guest, _) = guest(bed)?;
    begin(&mut guest)?;
    let workers = Workers::of_all_vfs()?;
    // Described, not compared: one round, whatever was asked for.
    for (name, load) in LOADS {
        println!("@progress profile: {name}");
        note_relay(&mut record, &guest, &workers, name, load)?;
    }
    note_idle(&mut record, &workers)?;
    record.save()?;
    for function in RELAY {
        println!("@progress profile: {function}");
        let watch = Stopwatch::of(function, &workers.pids, Time::All)?;
        for (name, load) in LOADS {
            let before = relayed(&guest)?;
            let calls = watch.during(|| run(load))?;
            let frames = relayed(&guest)? - before;
            note_calls(
                &mut record,
                function,
                name,
                "a frame",
                &calls,
                frames as f64,
            );
        }
        record.save()?;
    }
    for function in SLEEP {
        println!("@progress profile: {function}");
        let watch = Stopwatch::of(function, &workers.pids, Time::All)?;
        let calls = watch.during(|| {
            std::thread::sleep(IDLE);
            Ok(())
        })?;
        let seconds = IDLE.as_secs_f64();
        note_calls(&mut record, function, "idle", "a second", &calls, seconds);
    }
    cancel(&mut guest)?;
    note_requests(&mut record, &mut guest)?;
    record.save()
}

fn relayed(guest: &L2) -> Result<u64> {
    frames(&Status::read(&guest.vf)?)
}

fn run(load: Load) -> Result<()> {
    load::measure(GUEST_IP, load, LOAD_TIME).map(drop)
}

/// Not traced: that takes time of its own.
fn note_relay(
    record: &mut Record,
    guest: &L2,
    workers: &Workers,
    name: &str,
    load: Load,
) -> Result<()> {
    let (before, spent) = (relayed(guest)?, workers.spent_ns()?);
    run(load)?;
    let us = (workers.spent_ns()? - spent) as f64 / 1e3;
    let frames = (relayed(guest)? - before) as f64;
    record.note("CPU of the worker", "us a frame", name, us / frames);
    Ok(())
}

/// What captures take under load, each with all of the request that it belongs to, and how much of that on a processor; soft
/// interrupts that come meanwhile are part of either.
fn note_requests(record: &mut Record, guest: &mut L2) -> Result<()> {
    println!("@progress profile: captures");
    let watch = Stopwatch::of(REQUEST, &[], Time::OnProcessor)?;
    under_load(|traffic| {
        for _ in 0..CAPTURES {
            traffic.require()?;
            let requests = watch.during(|| begin(guest))?;
            cancel(guest)?;
            let longest = requests.into_iter().reduce(f64::max);
            let worked = longest.context("QEMU has asked for nothing")? / 1e3;
            let all = ms(Status::read(&guest.vf)?.number("precopy_ns")?);
            for (what, time) in [
                ("request for PRE_COPY under load", all),
                ("of that on a processor", worked),
            ] {
                record.note(what, "ms", SEMIASSIGN, time);
            }
        }
        Ok(())
    })
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
