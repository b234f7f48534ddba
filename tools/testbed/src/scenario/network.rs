// SPDX-License-Identifier: GPL-2.0
//! What the guest asked of the PF through the mailbox must hold on the other VF: MAC, VLAN, frame length.

use anyhow::{ensure, Result};

use super::bed::{require_assigned, require_ping, Bed, Traffic, GUEST_MAC, OTHER_MAC};
use crate::host::{CLIENT_VLAN_IP, GUEST_IP, GUEST_VLAN_IP, VLAN};
use crate::l2::Options;
use crate::{migration, namespace};

pub fn mac_pinned_same_on_both(bed: &Bed) -> Result<()> {
    migrate_with_macs(bed, Some(GUEST_MAC), Some(GUEST_MAC), "")
}

pub fn mac_unpinned(bed: &Bed) -> Result<()> {
    migrate_with_macs(bed, None, None, &format!("bed.mac={OTHER_MAC}"))
}

fn migrate_with_macs(
    bed: &Bed,
    pin_a: Option<&str>,
    pin_b: Option<&str>,
    words: &str,
) -> Result<()> {
    let vfs = bed.vfs(pin_a, pin_b)?;
    let mut source = bed.source(
        &vfs.a,
        &Options {
            words: words.into(),
            ..Options::default()
        },
    )?;
    let traffic = Traffic::start(bed)?;
    let mac = source.agent.sh("cat /sys/class/net/eth0/address")?;
    ensure!(
        mac.trim()
            == if words.is_empty() {
                GUEST_MAC
            } else {
                OTHER_MAC
            },
        "the guest's MAC is {}",
        mac.trim()
    );
    let mut destination = bed.destination(&vfs.b)?;
    bed.migrate(&mut source, &mut destination)?;
    source.quit()?;
    traffic.require()?;
    require_assigned(&vfs.b)?;
    // A guest that opens its interface again asks for its MAC again, and must get it.
    destination
        .agent
        .sh("ip link set eth0 down; ip link set eth0 up")?;
    traffic.require()?;
    traffic.finish().map(drop)
}

pub fn mac_pinned_differently_is_refused(bed: &Bed) -> Result<()> {
    let vfs = bed.vfs(Some(GUEST_MAC), Some(OTHER_MAC))?;
    let mut source = bed.source(&vfs.a, &Options::default())?;
    let traffic = Traffic::start(bed)?;
    let mut destination = bed.destination(&vfs.b)?;
    let uri = migration::connect(&mut source, &mut destination)?;
    migration::start(&mut source, &uri)?;
    let report = migration::wait(&mut source)?;
    ensure!(
        report.status == "failed",
        "migration {} onto a VF with another MAC",
        report.status
    );
    require_assigned(&vfs.a)?;
    traffic.require()?;
    drop(destination);
    let why = crate::host::kernel_log()?;
    ensure!(
        why.lines()
            .any(|line| line.contains(&vfs.b) && line.to_lowercase().contains("mac")),
        "no line of the kernel says why {} refused",
        vfs.b
    );
    traffic.finish().map(drop)
}

pub fn vlan_100_survives(bed: &Bed) -> Result<()> {
    let nic = &bed.host.client_netdev;
    for line in [
        format!("link add link {nic} name vlan{VLAN} type vlan id {VLAN}"),
        format!("addr add {CLIENT_VLAN_IP}/24 dev vlan{VLAN}"),
        format!("link set vlan{VLAN} up"),
    ] {
        namespace::run(&format!("ip {line}"))?;
    }
    let result = with_vlan(bed);
    namespace::run(&format!("ip link del vlan{VLAN}"))?;
    result
}

fn with_vlan(bed: &Bed) -> Result<()> {
    let vfs = bed.pinned_vfs()?;
    let mut source = bed.source(&vfs.a, &Options::default())?;
    source.agent.sh(&format!("vconfig add eth0 {VLAN} && ip addr add {GUEST_VLAN_IP}/24 dev eth0.{VLAN} && ip link set eth0.{VLAN} up"))?;
    require_ping(GUEST_VLAN_IP, 56)?;
    let mut destination = bed.destination(&vfs.b)?;
    bed.migrate(&mut source, &mut destination)?;
    source.quit()?;
    require_assigned(&vfs.b)?;
    require_ping(GUEST_VLAN_IP, 56)?;
    require_ping(GUEST_IP, 56)
}

pub fn jumbo_frames(bed: &Bed) -> Result<()> {
    const MTU: u32 = 9000;
    const PAYLOAD: usize = 8192;
    bed.host.set_mtu(MTU)?;
    let result = (|| {
        let vfs = bed.pinned_vfs()?;
        let mut source = bed.source(
            &vfs.a,
            &Options {
                words: format!("bed.mtu={MTU}"),
                ..Options::default()
            },
        )?;
        require_ping(GUEST_IP, PAYLOAD)?;
        let mut destination = bed.destination(&vfs.b)?;
        bed.migrate(&mut source, &mut destination)?;
        source.quit()?;
        require_assigned(&vfs.b)?;
        require_ping(GUEST_IP, PAYLOAD)
    })();
    bed.host.set_mtu(1500)?;
    result
}
