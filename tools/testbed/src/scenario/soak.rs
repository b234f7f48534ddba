// SPDX-License-Identifier: GPL-2.0
//! A leg of a soak: one guest that migrates to and fro, or nearly, under pings and a TCP stream, and the figures of each
//! migration.

use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Result};

use super::bed::{require_assigned, require_narrow, require_tracked, Bed, Traffic};
use super::loss::{Deaf, Ledger};
use crate::job::{self, Job, SHARE};
use crate::l2::{Options, L2};
use crate::migration::{self, Report};
use crate::soak::Migration;
use crate::status::Status;
use crate::vmm::Random;
use crate::{clock, kernel};

/// What the demo's migration takes on an idle bed.
const LATEST_CANCEL_MS: usize = 1600;

pub fn soak(bed: &Bed) -> Result<()> {
    let Job::Soak { count, cancel } = job::load(&job::job_file(Path::new(SHARE)))? else {
        bail!("L1 was not asked for a soak");
    };
    let vfs = bed.pinned_vfs()?;
    let mut guest = bed.source(&vfs.a, &Options::default())?;
    let traffic = Traffic::start(bed)?;
    let mut ledger = Ledger::start(&mut guest)?;
    let mut random = Random::new(clock::now_ns());
    let mut done = Vec::new();
    for _ in 0..count {
        // The files of the last but one are written over.
        let (name, vf) = if guest.vf == vfs.a {
            ("destination", &vfs.b)
        } else {
            ("source", &vfs.a)
        };
        // A cancel may come when the destination has all: as libvirt does, let it run only when the source has not.
        let options = Options {
            paused: cancel,
            ..Options::default()
        };
        let mut next = bed.destination_named(name, vf, &options)?;
        let from = clock::now_ns();
        let report = if cancel {
            let after = Duration::from_millis(random.below(LATEST_CANCEL_MS) as u64);
            migrate_and_cancel(&mut guest, &mut next, after * kernel::patience())?
        } else {
            bed.migrate(&mut guest, &mut next)?
        };
        let completed = report.status == "completed";
        if completed {
            require_narrow(&report)?;
        }
        let assigned = require_assigned(if completed { &next.vf } else { &guest.vf })?;
        let left = Status::read(&guest.vf)?;
        require_tracked(&guest.vf, &left)?;
        traffic.require()?;
        let deaf = if completed {
            Deaf::between(&left, &assigned)?
        } else {
            Deaf::while_cancelled(&left, from)?
        };
        if completed {
            guest.quit()?;
            guest = next;
        } else {
            next.kill()?;
        }
        let loss = ledger.settle(&mut guest, &deaf)?;
        let pings = traffic.pinger.summary_since(from)?;
        done.push(Migration {
            status: report.status,
            downtime_ms: report.downtime_ms,
            gap_ms: pings.longest_gap.as_millis() as u64,
            lost: pings.lost as u64,
            device_bytes: report.device_bytes,
            // None, if it was cancelled.
            deaf_us: deaf.switch.end.saturating_sub(deaf.switch.start) / 1000,
            lost_datagrams: [loss.capture, loss.switch, loss.release],
            lost_stalled: loss.stalled,
            kernel_kib: kernel::memory_kib()?,
        });
        // After each, so that what an L1 that dies has done still counts.
        job::save(&Migration::file(Path::new(SHARE)), &done)?;
    }
    ledger.finish()?;
    traffic.finish().map(drop)
}

/// Cancels a migration `after` it was begun: where that is too late, it completes.
fn migrate_and_cancel(source: &mut L2, destination: &mut L2, after: Duration) -> Result<Report> {
    let uri = migration::connect(source, destination)?;
    migration::start(source, &uri)?;
    std::thread::sleep(after);
    source.cmd("migrate_cancel")?;
    let report = migration::wait(source)?;
    match report.status.as_str() {
        "cancelled" => migration::wait_running(source)?,
        "completed" => {
            destination.cmd("cont")?;
            migration::wait_running(destination)?;
        }
        status => bail!("cancelled after {after:?}, and {status}: {}", report.error),
    }
    Ok(report)
}
