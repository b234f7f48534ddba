// SPDX-License-Identifier: GPL-2.0
//! The length of an interface's rings, as `ethtool -G` sets it.

use std::os::fd::AsRawFd;

use anyhow::{ensure, Context, Result};
use nix::libc;
use nix::sys::socket::{socket, AddressFamily, SockFlag, SockType};

const ETHTOOL_GRINGPARAM: u32 = 0x10;
const ETHTOOL_SRINGPARAM: u32 = 0x11;

/// `struct ethtool_ringparam`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Rings {
    cmd: u32,
    rx_max: u32,
    rx_mini_max: u32,
    rx_jumbo_max: u32,
    tx_max: u32,
    rx: u32,
    rx_mini: u32,
    rx_jumbo: u32,
    tx: u32,
}

/// `eth0 4096`: gives the rings of both directions so many descriptors, and says how many they have then.
pub fn run(words: &str) -> Result<String> {
    let (netdev, length) = words.split_once(' ').context("NETDEV LENGTH")?;
    let length = length.trim().parse()?;
    let mut rings = Rings {
        cmd: ETHTOOL_GRINGPARAM,
        ..Rings::default()
    };
    ethtool(netdev, &mut rings)?;
    (rings.cmd, rings.rx, rings.tx) = (ETHTOOL_SRINGPARAM, length, length);
    ethtool(netdev, &mut rings)?;
    rings.cmd = ETHTOOL_GRINGPARAM;
    ethtool(netdev, &mut rings)?;
    ensure!(
        (rings.rx, rings.tx) == (length, length),
        "the driver has made them {} and {}",
        rings.rx,
        rings.tx
    );
    Ok(length.to_string())
}

fn ethtool(netdev: &str, rings: &mut Rings) -> Result<()> {
    let any = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: All zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(
        netdev.len() < request.ifr_name.len(),
        "no interface has such a long name as {netdev}"
    );
    for (to, byte) in request.ifr_name.iter_mut().zip(netdev.bytes()) {
        *to = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(rings).cast();
    // SAFETY: Both structures live longer than the call, and have the layout that the kernel expects.
    let result = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCETHTOOL, &mut request) };
    nix::errno::Errno::result(result)
        .map(drop)
        .with_context(|| format!("ethtool on {netdev}"))
}
