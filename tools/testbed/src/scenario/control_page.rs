// SPDX-License-Identifier: GPL-2.0
//! A VMM that maps the page that has to trap.

use anyhow::{ensure, Context, Result};
use nix::errno::Errno;

use super::bed::{require_assigned, Bed};
use super::vmm_bed::{memory, peer, require_usable, vfs, LAP, MAC};
use crate::vmm::device::BAR_BYTES;
use crate::vmm::guest::Guest;
use crate::vmm::memory::PAGE;
use crate::vmm::migration::State;
use crate::vmm::traffic::exchange;
use crate::vmm::Machine;

pub fn control_page_mapped_is_unmigratable(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let peer = peer(bed)?;
    let memory = memory()?;
    {
        let machine = Machine::open(&vfs.a, &memory)?;
        let device = &machine.device;
        let mut guest = Guest::start(device, &memory, MAC)?;
        let whole = device.map(0..BAR_BYTES).context("all of BAR 0")?;
        // STATUS, by the mapping and trapped: full duplex, link up.
        ensure!(
            whole.read32(8) & 3 == device.read32(8)? & 3,
            "the mapped control page shows something else"
        );
        for again in ["", " again", " with the page unmapped"] {
            let refused = device.try_state(State::PreCopy as u32).err();
            ensure!(
                refused == Some(Errno::EOPNOTSUPP),
                "PRE_COPY{again}: {refused:?}"
            );
            ensure!(device.state()? == State::Running, "not RUNNING any more");
            if again == " again" {
                drop(device.map(0..PAGE).context("page 0 once more")?);
            }
        }
        drop(whole);
        device.go(State::Stop)?;
        device.go(State::Running)?;
        exchange(&mut guest, &peer, LAP).context("not migratable, but assigned")?;
        require_assigned(&vfs.a)?;
    }
    let machine = Machine::open(&vfs.a, &memory)?;
    let device = &machine.device;
    let mut guest = Guest::start(device, &memory, MAC)?;
    let file = device
        .open_data(State::PreCopy)
        .context("after close and open")?;
    for (part, allowed) in [
        (0..PAGE, false),
        (0..BAR_BYTES, false),
        (PAGE..BAR_BYTES, true),
        (2 * PAGE..3 * PAGE, true),
    ] {
        let mapped = device.map(part.clone()).map(drop);
        let expected = if allowed { Ok(()) } else { Err(Errno::EBUSY) };
        ensure!(
            mapped == expected,
            "mapping {part:x?} while captured: {mapped:?}"
        );
    }
    exchange(&mut guest, &peer, LAP).context("captured")?;
    device.go(State::Running)?;
    drop(file);
    require_usable(&vfs.a, &machine, &memory, &peer)
}
