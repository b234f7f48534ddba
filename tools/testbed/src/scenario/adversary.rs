// SPDX-License-Identifier: GPL-2.0
//! Guests and administrators that do what no happy path does.

use anyhow::{ensure, Result};

use super::bed::{require_assigned, require_ping, wait_precopy, Bed, Traffic};
use crate::host::GUEST_IP;
use crate::l2::{Options, L2};
use crate::migration;

/// RX and TX rings of queue pair 0 on pages 2 and 3 of the VF's own BAR0, with tails that make work at once.
const RINGS_IN_BAR: &str = "@mmio b 2800 2000; w 2804 0; w 2808 1000; w 2828 02000000; w 2818 80;\
    b 3800 3000; w 3804 0; w 3808 1000; w 3828 02000000; w 3818 80";
/// Rings in RAM whose descriptors lie in the BAR would need a driver; tails in and out of range need none.
const MORE_TAILS: [&str; 4] = [
    "@mmio w 2818 10; w 3818 10",
    "@mmio w 2818 ffff; w 3818 ffff",
    "@mmio w 2808 0; w 3808 0",
    "@mmio w 2808 ffffff80; w 3808 ffffff80",
];
const CAPTURES: usize = 8;

pub fn rings_inside_own_bar(bed: &Bed) -> Result<()> {
    let vfs = bed.pinned_vfs()?;
    let mut source = bed.source(&vfs.a, &Options::default())?;
    require_ping(GUEST_IP, 56)?;
    source.agent.sh("ip link set eth0 down; echo 0000:00:02.0 > /sys/bus/pci/drivers/igbvf/unbind; echo 1 > /sys/bus/pci/devices/0000:00:02.0/enable")?;
    source.agent.sh(RINGS_IN_BAR)?;
    let destination = bed.destination(&vfs.b)?;
    precopy(&mut source, destination, |source| {
        for tails in MORE_TAILS {
            source.agent.sh(tails)?;
            source.agent.sh(RINGS_IN_BAR)?;
        }
        source
            .agent
            .sh("echo 1 > /sys/bus/pci/devices/0000:00:02.0/reset")?;
        source.agent.sh(RINGS_IN_BAR).map(drop)
    })?;
    require_assigned(&vfs.a)?;
    // The function itself is as good as new for a driver that behaves.
    source
        .agent
        .sh("echo 0000:00:02.0 > /sys/bus/pci/drivers/igbvf/bind")?;
    source.agent.sh(&format!(
        "ip addr add {GUEST_IP}/24 dev eth0; ip link set eth0 up"
    ))?;
    require_ping(GUEST_IP, 56)
}

pub fn captures_fault_free(bed: &Bed) -> Result<()> {
    let vfs = bed.pinned_vfs()?;
    let mut source = bed.source(&vfs.a, &Options::default())?;
    let traffic = Traffic::start(bed)?;
    for round in 0..CAPTURES {
        let destination =
            bed.destination_named(&format!("destination{round}"), &vfs.b, &Options::default())?;
        precopy(&mut source, destination, |_| traffic.require())?;
        require_assigned(&vfs.a)?;
        traffic.require()?;
    }
    let status = require_assigned(&vfs.a)?;
    ensure!(
        status.number("captures")? >= CAPTURES as u64,
        "only {} captures",
        status.text("captures")
    );
    traffic.finish().map(drop)
}

/// Does something in pre-copy and cancels. That it was cancelled or failed is all the same here.
fn precopy(
    source: &mut L2,
    mut destination: L2,
    doing: impl FnOnce(&mut L2) -> Result<()>,
) -> Result<()> {
    migration::slow_down(source)?;
    let uri = migration::connect(source, &mut destination)?;
    migration::start(source, &uri)?;
    wait_precopy(source)?;
    doing(source)?;
    source.cmd("migrate_cancel")?;
    let report = migration::wait(source)?;
    ensure!(
        report.status != "completed",
        "a cancelled migration completed"
    );
    Ok(())
}
