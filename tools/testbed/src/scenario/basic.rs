// SPDX-License-Identifier: GPL-2.0
//! Migrations that succeed, with the guest's driver up, down and absent.

use anyhow::{ensure, Result};

use super::bed::{require_assigned, require_narrow, require_ping, Bed, Traffic};
use crate::host::{self, GUEST_IP};
use crate::l2::Options;

pub fn assigned_without_us(bed: &Bed) -> Result<()> {
    bed.host.create_vfs(1)?;
    let vf = bed.host.vf(0, 0)?;
    host::bind(&vf, "vfio-pci")?;
    let _guest = bed.source(
        &vf,
        &Options {
            migratable: false,
            ..Options::default()
        },
    )?;
    Traffic::start(bed)?.finish()?;
    Ok(())
}

pub fn migrate_and_back(bed: &Bed) -> Result<()> {
    let vfs = bed.vfs(None, None)?;
    let mut first = bed.source(&vfs.a, &Options::default())?;
    let traffic = Traffic::start(bed)?;
    let mut second = bed.destination(&vfs.b)?;
    let there = bed.migrate(&mut first, &mut second)?;
    require_narrow(&there)?;
    traffic.require()?;
    require_assigned(&vfs.b)?;
    first.quit()?;

    let mut third = bed.destination_named("back", &vfs.a, &Options::default())?;
    let back = bed.migrate(&mut second, &mut third)?;
    require_narrow(&back)?;
    traffic.require()?;
    require_assigned(&vfs.a)?;
    second.quit()?;
    traffic.require()?;
    ensure!(
        third.agent.sh("cat /sys/class/net/eth0/operstate")?.trim() == "up",
        "eth0 is not up"
    );
    println!(
        "    downtime {} and {} ms, device state {} and {} bytes",
        there.downtime_ms, back.downtime_ms, there.device_bytes, back.device_bytes
    );
    traffic.finish()?;
    Ok(())
}

pub fn interface_down(bed: &Bed) -> Result<()> {
    let vfs = bed.pinned_vfs()?;
    let mut source = bed.source(&vfs.a, &Options::default())?;
    require_ping(GUEST_IP, 56)?;
    source.agent.sh("ip link set eth0 down")?;
    let mut destination = bed.destination(&vfs.b)?;
    bed.migrate(&mut source, &mut destination)?;
    require_assigned(&vfs.b)?;
    source.quit()?;
    destination.agent.sh("ip link set eth0 up")?;
    require_ping(GUEST_IP, 56)?;
    require_assigned(&vfs.b).map(drop)
}

pub fn driver_never_loaded(bed: &Bed) -> Result<()> {
    let vfs = bed.pinned_vfs()?;
    let mut source = bed.source(
        &vfs.a,
        &Options {
            words: "bed.nodriver".into(),
            ..Options::default()
        },
    )?;
    let mut destination = bed.destination(&vfs.b)?;
    bed.migrate(&mut source, &mut destination)?;
    require_assigned(&vfs.b)?;
    source.quit()?;
    destination
        .agent
        .sh("for m in $(cat /order); do insmod $m; done")?;
    destination.agent.sh(&format!(
        "ip addr add {GUEST_IP}/24 dev eth0 && ip link set eth0 up"
    ))?;
    require_ping(GUEST_IP, 56)
}
