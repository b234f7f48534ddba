// SPDX-License-Identifier: GPL-2.0
//! Migrations that are interrupted, and guests that are paused.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::bed::{require_assigned, require_ping, wait_precopy, Bed, Traffic, SOON};
use crate::clock::wait_for;
use crate::host::GUEST_IP;
use crate::l2::{Options, L2};
use crate::migration;
use crate::status::{self, Status};

/// A guest under traffic on A, in a pre-copy that will not end by itself.
fn in_precopy(bed: &Bed, options: &Options) -> Result<(L2, L2, Traffic)> {
    let vfs = bed.pinned_vfs()?;
    let mut source = bed.source(&vfs.a, options)?;
    let traffic = Traffic::start(bed)?;
    let mut destination = bed.destination_named("destination", &vfs.b, options)?;
    migration::slow_down(&mut source)?;
    let uri = migration::connect(&mut source, &mut destination)?;
    migration::start(&mut source, &uri)?;
    wait_precopy(&mut source)?;
    // Works while emulated: the relay carries it.
    traffic.require()?;
    Ok((source, destination, traffic))
}

pub fn cancel_in_precopy(bed: &Bed) -> Result<()> {
    let (mut source, destination, traffic) = in_precopy(bed, &Options::default())?;
    let relayed = Status::read(&source.vf)?;
    ensure!(
        relayed.number("tx_frames")? > 0 && relayed.number("rx_frames")? > 0,
        "traffic went on, but not through the relay"
    );
    source.cmd("migrate_cancel")?;
    let report = migration::wait(&mut source)?;
    ensure!(
        report.status == "cancelled",
        "migration {}: {}",
        report.status,
        report.error
    );
    require_assigned(&source.vf)?;
    drop(destination);
    traffic.require()?;
    traffic.finish().map(drop)
}

/// What the source's device is doing when the destination is killed.
const MOMENTS: [&str; 4] = ["running", "pre-copy", "pre-copy-p2p", "stop-copy"];

pub fn destination_killed(bed: &Bed) -> Result<()> {
    let vfs = bed.pinned_vfs()?;
    let mut source = bed.source(&vfs.a, &Options::default())?;
    let traffic = Traffic::start(bed)?;
    for moment in MOMENTS {
        let mut destination = bed.destination(&vfs.b)?;
        // It stays in pre-copy, or goes on as fast as it can.
        if moment == "pre-copy" {
            migration::slow_down(&mut source)?;
        } else {
            migration::speed_up(&mut source)?;
        }
        let uri = migration::connect(&mut source, &mut destination)?;
        migration::start(&mut source, &uri)?;
        // P2P lasts for a few milliseconds, and is over if the next state is there.
        let later = MOMENTS.iter().skip_while(|other| **other != moment);
        wait_for("the moment", SOON, || {
            let state = Status::read(&source.vf)?;
            let mut later = later.clone();
            Ok(later.any(|other| *other == state.state()).then_some(()))
        })?;
        destination.kill()?;
        let report = migration::wait(&mut source)?;
        ensure!(
            report.status == "failed",
            "migration {}, and its destination was killed in {moment}",
            report.status
        );
        migration::wait_running(&mut source)?;
        require_assigned(&source.vf).context(moment)?;
        traffic.require().context(moment)?;
    }
    let mut destination = bed.destination(&vfs.b)?;
    bed.migrate(&mut source, &mut destination)?;
    require_assigned(&destination.vf)?;
    traffic.require()?;
    traffic.finish().map(drop)
}

/// The guest runs at the destination: what becomes of the source is nothing to it.
pub fn source_killed_on_arrival(bed: &Bed) -> Result<()> {
    let vfs = bed.pinned_vfs()?;
    let mut source = bed.source(&vfs.a, &Options::default())?;
    let traffic = Traffic::start(bed)?;
    let mut destination = bed.destination(&vfs.b)?;
    let uri = migration::connect(&mut source, &mut destination)?;
    migration::start(&mut source, &uri)?;
    wait_for("the guest to arrive", SOON, || {
        let there = Status::read(&vfs.b)?;
        let complete = there.number("listening_at_ns")? > 0;
        Ok((complete && there.state() == "running").then_some(()))
    })?;
    source.kill()?;
    migration::wait_running(&mut destination)?;
    require_assigned(&vfs.b)?;
    traffic.require()?;
    traffic.finish().map(drop)
}

pub fn guest_reboot_ends_precopy(bed: &Bed) -> Result<()> {
    let (mut source, destination, traffic) = in_precopy(
        bed,
        &Options {
            reboots: true,
            ..Options::default()
        },
    )?;
    drop(traffic);
    source.agent.tell("@reboot")?;
    wait_for("the reset of the VF", Duration::from_secs(60), || {
        Ok((Status::read(&source.vf)?.state() == "running").then_some(()))
    })?;
    migration::speed_up(&mut source)?;
    let report = migration::wait(&mut source)?;
    ensure!(
        report.status == "failed",
        "migration {} although the guest rebooted",
        report.status
    );
    drop(destination);
    source.wait_booted()?;
    require_ping(GUEST_IP, 56)?;
    require_assigned(&source.vf).map(drop)
}

pub fn stop_cont_under_traffic(bed: &Bed) -> Result<()> {
    let vfs = bed.pinned_vfs()?;
    let mut source = bed.source(&vfs.a, &Options::default())?;
    let traffic = Traffic::start(bed)?;
    for _ in 0..5 {
        source.cmd("stop")?;
        wait_for("the device to stop", SOON, || {
            Ok((Status::read(&vfs.a)?.state() == "stop").then_some(()))
        })?;
        source.cmd("cont")?;
        traffic.require()?;
        require_assigned(&vfs.a)?;
    }
    traffic.finish().map(drop)
}

pub fn stop_cont_during_migration(bed: &Bed) -> Result<()> {
    let (mut source, destination, traffic) = in_precopy(bed, &Options::default())?;
    source.cmd("stop")?;
    source.cmd("cont")?;
    traffic.require()?;
    // QEMU still holds the saving file, and its dirty scope would not see direct DMA.
    if migration::status(&mut source)? == "active" {
        let status = Status::read(&source.vf)?;
        ensure!(
            status.mode() == "emulated",
            "{} while the saving file is open",
            status.mode()
        );
    }
    source.cmd("migrate_cancel")?;
    let report = migration::wait(&mut source)?;
    ensure!(
        report.status != "completed",
        "a cancelled migration completed"
    );
    drop(destination);
    require_assigned(&source.vf)?;
    traffic.require()?;
    traffic.finish().map(drop)
}

pub fn close_while_emulated(bed: &Bed) -> Result<()> {
    let (source, destination, traffic) = in_precopy(bed, &Options::default())?;
    let vf = source.vf.clone();
    drop(traffic);
    source.kill()?;
    drop(destination);
    status::wait_mode(&vf, "assigned", Duration::from_secs(10))?;
    let again = L2::start(&bed.folder, "again", &vf, &Options::default())
        .and_then(|mut guest| guest.wait_booted().map(|()| guest))?;
    require_ping(GUEST_IP, 56)?;
    again.quit()
}
