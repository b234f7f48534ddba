// SPDX-License-Identifier: GPL-2.0
//! A leg of a soak: one guest that migrates to and fro, under pings and a TCP stream, and the figures of each migration.

use std::fs;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};

use super::bed::{require_narrow, Bed, Traffic, SOON};
use crate::clock;
use crate::job::{self, Job, SHARE};
use crate::l2::Options;
use crate::soak::Migration;
use crate::status::{self, Status};

pub fn soak(bed: &Bed) -> Result<()> {
    let Job::Soak(count) = job::load(&job::job_file(Path::new(SHARE)))? else {
        bail!("L1 was not asked for a soak");
    };
    let vfs = bed.pinned_vfs()?;
    let mut guest = bed.source(&vfs.a, &Options::default())?;
    let traffic = Traffic::start(bed)?;
    let mut done = Vec::new();
    for number in 0..count {
        // The files of the last but one are written over.
        let (name, vf) = if number % 2 == 0 {
            ("destination", &vfs.b)
        } else {
            ("source", &vfs.a)
        };
        let mut next = bed.destination_named(name, vf, &Options::default())?;
        let from = clock::now_ns();
        let report = bed.migrate(&mut guest, &mut next)?;
        require_narrow(&report)?;
        let arrived = status::wait_mode(vf, "assigned", SOON)?;
        traffic.require()?;
        for status in [Status::read(&guest.vf)?, arrived] {
            ensure!(
                status.number("direct_while_tracking")? == 0,
                "direct DMA while tracking"
            );
        }
        guest.quit()?;
        guest = next;
        let pings = traffic.pinger.summary_since(from)?;
        done.push(Migration {
            downtime_ms: report.downtime_ms,
            gap_ms: pings.longest_gap.as_millis() as u64,
            lost: pings.lost as u64,
            device_bytes: report.device_bytes,
            kernel_kib: kernel_kib()?,
        });
        // After each, so that what an L1 that dies has done still counts.
        job::save(&Migration::file(Path::new(SHARE)), &done)?;
    }
    traffic.finish().map(drop)
}

/// Memory that is neither free nor a process's nor a cache's: slabs, stacks, page tables, and pages that drivers took.
fn kernel_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let of = |key: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
            .with_context(|| format!("/proc/meminfo has no {key}"))
    };
    let known = [
        "MemFree:",
        "Buffers:",
        "Cached:",
        "AnonPages:",
        "SReclaimable:",
    ];
    known.into_iter().try_fold(of("MemTotal:")?, |left, key| {
        Ok(left.saturating_sub(of(key)?))
    })
}
