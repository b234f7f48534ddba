// SPDX-License-Identifier: GPL-2.0
//! The main job, with a timeline and a verdict: an assigned VF's guest moves to a VF of another PF and nobody notices.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::bed::{require_narrow, share, Bed, Traffic, SOON};
use crate::clock::ms;
use crate::l2::Options;
use crate::migration::Report;
use crate::ping::Summary;
use crate::status::{self, Status};
use crate::stream::Progress;
use crate::timeline::{End, Timeline};

pub fn demo(bed: &Bed) -> Result<()> {
    let vfs = bed.pinned_vfs()?;
    println!(
        "demo: VF {} of the first PF and {} of the second are bound to semiassign",
        vfs.a, vfs.b
    );
    let mut source = bed.source(&vfs.a, &Options::default())?;
    let traffic = Traffic::start(bed)?;
    println!(
        "demo: the guest on {} answers 100 pings/s and serves a TCP stream",
        vfs.a
    );
    let mut destination = bed.destination(&vfs.b)?;
    // Some traffic with both machines up, so that the gap measured is the migration's and not QEMU's start.
    traffic.require()?;

    println!("demo: migrating");
    let timeline = Timeline::start(vec![
        End {
            name: "source",
            vf: vfs.a.clone(),
            events: source.qmp.event_list(),
        },
        End {
            name: "destination",
            vf: vfs.b.clone(),
            events: destination.qmp.event_list(),
        },
    ]);
    let report = bed.migrate(&mut source, &mut destination)?;
    let arrived = status::wait_mode(&vfs.b, "assigned", SOON);
    traffic.require()?;
    timeline.finish();
    let before = Status::read(&vfs.a)?;
    let after = Status::read(&vfs.b)?;
    let (pings, stream) = traffic.finish()?;
    summary(&report, &pings, &stream, &before, &after);
    drop(arrived?);
    verdict(&report, &pings, &before, &after)
}

fn summary(report: &Report, pings: &Summary, stream: &Progress, before: &Status, after: &Status) {
    let shares: Vec<String> = report
        .dirty_pages
        .iter()
        .map(|pages| format!("{:.1} %", share(*pages)))
        .collect();
    let frames = |key: &str| format!("{} + {}", before.text(key), after.text(key));
    let duration = |status: &Status, key: &str| {
        status
            .number(key)
            .map_or("?".into(), |ns| format!("{:.2} ms", ms(ns)))
    };
    let rows = [
        ("QEMU's downtime", format!("{} ms", report.downtime_ms)),
        ("total time", format!("{} ms", report.total_ms)),
        (
            "longest gap between answers",
            format!("{} ms", pings.longest_gap.as_millis()),
        ),
        ("pings lost", format!("{} of {}", pings.lost, pings.sent)),
        (
            "median ping",
            format!("{:.1} ms", pings.median.as_secs_f64() * 1e3),
        ),
        ("frames relayed, guest to wire", frames("tx_frames")),
        ("frames relayed, wire to guest", frames("rx_frames")),
        ("frames held over the switch", frames("held_frames")),
        (
            "frames dropped",
            format!("{} + {}", before.drops(), after.drops()),
        ),
        ("RAM reported dirty per sync", shares.join(", ")),
        ("device state", format!("{} bytes", report.device_bytes)),
        ("RAM sent", format!("{} KiB", report.ram_bytes / 1024)),
        (
            "capture, stop (source)",
            format!(
                "{}, {}",
                duration(before, "capture_ns"),
                duration(before, "stop_ns")
            ),
        ),
        (
            "resume, release (destination)",
            format!(
                "{}, {}",
                duration(after, "resume_ns"),
                duration(after, "release_ns")
            ),
        ),
        (
            "TCP connection",
            format!(
                "survived, {} KiB, longest stall {} ms",
                stream.bytes / 1024,
                stream.longest_stall.as_millis()
            ),
        ),
        (
            "checksum of the stream",
            format!("{:016x}, as expected", stream.received_sum),
        ),
        ("destination's VF", after.mode().to_owned()),
    ];
    println!("summary");
    for (what, value) in rows {
        println!("  {what:<32} {value}");
    }
}

/// The conditions of the main job. The stream's were checked when the traffic ended.
fn verdict(report: &Report, pings: &Summary, before: &Status, after: &Status) -> Result<()> {
    let captured = before.number("captured_at_ns")?;
    let precopy = before.number("precopy_at_ns")?;
    ensure!(
        captured > 0 && captured <= precopy,
        "captured at {captured}, after PRE_COPY returned at {precopy}"
    );
    for (end, status) in [("source", before), ("destination", after)] {
        ensure!(
            status.number("direct_while_tracking")? == 0,
            "direct DMA on the {end} while tracking"
        );
    }
    for key in ["tx_frames", "rx_frames"] {
        ensure!(
            before.number(key)? + after.number(key)? > 0,
            "no frame relayed: {key} is 0"
        );
    }
    require_narrow(report)?;
    ensure!(
        pings.longest_gap < Duration::from_secs(1),
        "a gap of {} ms",
        pings.longest_gap.as_millis()
    );
    ensure!(
        after.mode() == "assigned",
        "the destination ended {}",
        after.mode()
    );
    Ok(())
}
