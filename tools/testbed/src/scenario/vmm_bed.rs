// SPDX-License-Identifier: GPL-2.0
//! What the scenarios without an L2 have in common.

use std::ops::Range;
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};

use super::bed::{require_assigned, Bed, Vfs, SOON};
use crate::clock::wait_for;
use crate::status::Status;
use crate::vmm::guest::{Guest, Mac, SLOTS};
use crate::vmm::memory::Memory;
use crate::vmm::migration::State;
use crate::vmm::traffic::{exchange, new_numbers, Peer};
use crate::vmm::{Machine, RAM_BYTES};
use crate::{command, kernel};

pub const MAC: Mac = [0x52, 0x54, 0x00, 0xaa, 0x00, 0x03];
/// Enough to go around a ring once.
pub const LAP: usize = 80;

pub fn peer(bed: &Bed) -> Result<Peer> {
    Peer::open(&bed.host.client_netdev)
}

pub fn memory() -> Result<Memory> {
    Memory::new(RAM_BYTES)
}

/// VFs whose guests choose their address.
pub fn vfs(bed: &Bed) -> Result<Vfs> {
    bed.vfs(None, None)
}

/// A device that is as good as new: RUNNING, assigned, and a driver makes it move frames.
pub fn require_usable(vf: &str, machine: &Machine, memory: &Memory, peer: &Peer) -> Result<()> {
    let state = machine.device.state()?;
    ensure!(state == State::Running, "{vf} is {state:?}, not RUNNING");
    require_assigned(vf)?;
    let mut guest =
        Guest::start(&machine.device, memory, MAC).context("the driver cannot start")?;
    exchange(&mut guest, peer, LAP).map(drop)
}

/// Has frames arrive at an emulated VF until the ring of its guest, which takes none, is full, and `more` behind them: their
/// numbers.
pub fn overfill(vf: &str, guest: &Guest<'_>, peer: &Peer, more: usize) -> Result<Range<u32>> {
    let numbers = new_numbers(SLOTS - 1 + more);
    let had = Status::read(vf)?.number("rx_frames")?;
    for number in numbers.clone() {
        peer.send(&peer.frame_to(guest.mac, number))?;
    }
    wait_for("the guest's ring to be full", SOON, || {
        let now = Status::read(vf)?.number("rx_frames")?;
        Ok((now - had >= SLOTS as u64 - 1).then_some(()))
    })?;
    // The others have followed through the same wire; some time for them, and none is needed by a test.
    std::thread::sleep(Duration::from_millis(200));
    Ok(numbers)
}

/// Does `work` on a thread that may hang: then the scenario fails, and the kernel's log says where.
pub fn bounded<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let thread = std::thread::spawn(work);
    wait_for(what, SOON * 5, || Ok(thread.is_finished().then_some(())))?;
    thread
        .join()
        .map_err(|_| anyhow!("{what}: a thread panicked"))?
}

/// Keeps the driver's messages off the screen while an adversary provokes one after the other; the log has them. And off the
/// console, which is slow, but where a warning is the end of L1 and of its log.
pub struct QuietConsole(String);

const PRINTK: &str = "/proc/sys/kernel/printk";

impl QuietConsole {
    pub fn new() -> Result<Self> {
        println!("@quiet true");
        let before = command::read(PRINTK)?;
        if !kernel::is_debug() {
            // KERN_ERR and worse.
            command::write(PRINTK, "4")?;
        }
        Ok(Self(before))
    }
}

impl Drop for QuietConsole {
    fn drop(&mut self) {
        let _ = command::write(PRINTK, self.0.trim());
        println!("@quiet false");
    }
}
