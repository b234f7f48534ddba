// SPDX-License-Identifier: GPL-2.0
//! A guest that is being migrated, and cancelled in the end: what it costs to emulate its VF, and to come and go.
//!
//! Nobody receives these migrations: pre-copy writes to a pipe, slowly.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::{in_turn, ms, run_load, run_loads, tap, vf, Record, Subject, SEMIASSIGN, VHOST};
use crate::host::{self, GUEST_IP};
use crate::kernel;
use crate::l2::{Options, L2};
use crate::load::{self, Load};
use crate::migration;
use crate::scenario::bed::{require_assigned, wait_precopy, Bed, GUEST_MAC, OTHER_MAC};
use crate::status::Status;

const NOWHERE: &str = "exec:cat > /dev/null";
/// The figures are of captures and of releases, so few would say nothing of the 99th percentile.
const CAPTURES: u32 = 200;
const IDLE: Duration = Duration::from_secs(4);

pub fn emulated(bed: &Bed) -> Result<()> {
    let mut record = Record::begin("emulated")?;
    let (mut guest, others) = guest(bed)?;
    let ours = |name| Subject { name, network: 0 };
    for round in 0..record.rounds {
        // Two rounds each begin as the one before has ended.
        for captured in *in_turn(&[[false, true], [true, false]], round)[0] {
            let mode = if captured { "emulated" } else { "assigned" };
            println!("@progress {mode}, round {}", round + 1);
            if captured {
                begin(&mut guest)?;
                emulate(
                    &mut record,
                    round,
                    &guest,
                    &[ours(mode), others("vhost, tracked")],
                )?;
                cancel(&mut guest)?;
            } else {
                run_loads(&mut record, round, &[ours(mode), others("vhost")])?;
            }
        }
    }
    record.save()
}

/// The loads of a round on a VF that is captured, the first of the subjects, with what the worker has to do for each.
fn emulate(record: &mut Record, round: u32, guest: &L2, subjects: &[Subject; 2]) -> Result<()> {
    let workers = Workers::of_all_vfs()?;
    for load in Load::ALL {
        for subject in in_turn(subjects, round) {
            let (before, spent) = (frames(&Status::read(&guest.vf)?)?, workers.spent_ns()?);
            run_load(record, subject, load)?;
            if subject.name == subjects[0].name {
                let relayed = frames(&Status::read(&guest.vf)?)? - before;
                let us = (workers.spent_ns()? - spent) as f64 / 1e3;
                let what = format!("CPU of the worker, {load:?}");
                record.note(&what, "us a frame", subject.name, us / relayed as f64);
            }
        }
    }
    note_idle(record, &workers)
}

/// Nothing is sent for a while: what a VF costs that idles.
pub(super) fn note_idle(record: &mut Record, workers: &Workers) -> Result<()> {
    let (spent, since) = (workers.spent_ns()?, Instant::now());
    std::thread::sleep(IDLE);
    let share = (workers.spent_ns()? - spent) as f64 / since.elapsed().as_nanos() as f64;
    record.note(
        "idle: CPU of the worker",
        "% of a core",
        "emulated",
        share * 100.0,
    );
    Ok(())
}

pub fn captures(bed: &Bed) -> Result<()> {
    let mut record = Record::begin("captures")?;
    let (mut guest, _) = guest(bed)?;
    under_load(|traffic| {
        for number in 0..CAPTURES {
            println!("@progress capture and release {}", number + 1);
            traffic.require()?;
            capture_and_release(&mut record, &mut guest)?;
        }
        Ok(())
    })?;
    record.save()
}

/// Client and guest that send to each other, in and out and small ones, as much as they can.
pub(super) struct Traffic<'a>(ScopedJoinHandle<'a, Result<()>>);

impl Traffic<'_> {
    /// # Errors
    ///
    /// It has ended before it was told to.
    pub(super) fn require(&self) -> Result<()> {
        ensure!(!self.0.is_finished(), "the loads have ended before");
        Ok(())
    }
}

/// Runs `f` while there is traffic.
pub(super) fn under_load(f: impl FnOnce(&Traffic<'_>) -> Result<()>) -> Result<()> {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = Traffic(scope.spawn(|| -> Result<()> {
            while !ended.load(Ordering::Relaxed) {
                for load in [Load::TcpIn, Load::TcpOut, Load::SmallIn, Load::SmallOut] {
                    load::measure(GUEST_IP, load, super::LOAD_TIME)?;
                }
            }
            Ok(())
        }));
        let result = f(&traffic);
        ended.store(true, Ordering::Relaxed);
        // What has ended it says more.
        traffic.0.join().expect("the loads' thread panicked")?;
        result
    })
}

fn capture_and_release(record: &mut Record, guest: &mut L2) -> Result<()> {
    let before = kernel::memory_kib()?;
    begin(guest)?;
    let captured = kernel::memory_kib()?;
    cancel(guest)?;
    let released = kernel::memory_kib()?;
    // QEMU's own bitmaps are part of it, and the buffers of the loads are noise.
    for (what, after) in [
        ("kernel memory of a captured VF, and a migration", captured),
        ("the same once it is assigned again", released),
    ] {
        let mib = (after as f64 - before as f64) / 1024.0;
        record.note(what, "MiB", SEMIASSIGN, mib);
    }
    let status = Status::read(&guest.vf)?;
    for (what, key) in [
        ("request for PRE_COPY", "precopy_ns"),
        ("capture", "capture_ns"),
        ("release", "release_ns"),
    ] {
        record.note(what, "ms", SEMIASSIGN, ms(status.number(key)?));
    }
    record.save()
}

/// With a VF of ours, and an interface of vhost to compare it with.
pub(super) fn guest(bed: &Bed) -> Result<(L2, impl Fn(&'static str) -> Subject)> {
    host::load_semiassign()?;
    bed.host.create_vfs(1)?;
    let vf = vf(bed, 0, "semiassign", GUEST_MAC)?;
    let options = Options {
        taps: vec![tap(bed, 0, "tap0", OTHER_MAC)?],
        ..Options::default()
    };
    let mut guest = bed.source(&vf, &options)?;
    let assigned = Subject {
        name: SEMIASSIGN,
        network: 0,
    };
    assigned.connect(bed, &mut guest, "eth0")?;
    let vhost = |name| Subject { name, network: 2 };
    vhost(VHOST).connect(bed, &mut guest, "eth1")?;
    Ok((guest, vhost))
}

pub(super) fn begin(guest: &mut L2) -> Result<()> {
    migration::prepare_for_nobody(guest)?;
    migration::slow_down(guest)?;
    migration::start(guest, NOWHERE)?;
    wait_precopy(guest)
}

pub(super) fn cancel(guest: &mut L2) -> Result<()> {
    guest.cmd("migrate_cancel")?;
    let report = migration::wait(guest)?;
    ensure!(
        report.status == "cancelled",
        "a migration to nowhere has {}",
        report.status
    );
    require_assigned(&guest.vf).map(drop)
}

/// Both ways.
pub(super) fn frames(status: &Status) -> Result<u64> {
    Ok(status.number("tx_frames")? + status.number("rx_frames")?)
}

/// The threads that serve VFs: of those, only the one of a VF that is captured has anything to do.
pub(super) struct Workers {
    pub(super) pids: Vec<u32>,
}

impl Workers {
    pub(super) fn of_all_vfs() -> Result<Self> {
        let mut pids = Vec::new();
        for process in fs::read_dir("/proc")?.flatten() {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            if name.starts_with("semiassign") {
                pids.push(process.file_name().to_string_lossy().parse()?);
            }
        }
        ensure!(!pids.is_empty(), "no VF is served");
        Ok(Self { pids })
    }

    /// What they have spent.
    pub(super) fn spent_ns(&self) -> Result<u64> {
        let of = |pid: &u32| -> Result<u64> {
            let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
            let spent = text.split_whitespace().next();
            spent
                .and_then(|ns| ns.parse().ok())
                .with_context(|| format!("no time in {text:?}"))
        };
        self.pids.iter().map(of).sum()
    }
}
