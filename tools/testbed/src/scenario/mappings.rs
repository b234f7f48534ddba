// SPDX-License-Identifier: GPL-2.0
//! All mappings of the ring pages show the same thing, whoever has them: RAM while captured, the hardware otherwise.

use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{fork, ForkResult};

use super::bed::{require_assigned, Bed};
use super::vmm_bed::{memory, peer, vfs, LAP, MAC};
use crate::vmm::device::BAR_BYTES;
use crate::vmm::guest::{regs, Guest};
use crate::vmm::memory::PAGE;
use crate::vmm::migration::State;
use crate::vmm::traffic::exchange;
use crate::vmm::{Machine, BAR_IOVA};

/// Registers whose bits all can be written while their queue is off: a page each, and the second queue pair, which is off.
const WORDS: [usize; 2] = [regs::RDBAH + 0x100, regs::TDBAH + 0x100];
const ROUNDS: u32 = 6;

pub fn every_mapping_follows(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let peer = peer(bed)?;
    let memory = memory()?;
    let machine = Machine::open(&vfs.a, &memory)?;
    let device = &machine.device;
    let mut guest = Guest::start(device, &memory, MAC)?;
    exchange(&mut guest, &peer, LAP)?;

    let mappings = [
        device.map(PAGE..BAR_BYTES)?,
        // A page each, so that a fault's offset is not that of the BAR.
        device.map(2 * PAGE..BAR_BYTES)?,
        device.map(2 * PAGE..4 * PAGE)?,
        device.duplicate()?.map(PAGE..BAR_BYTES)?,
        device.map(2 * PAGE..BAR_BYTES)?.moved()?,
    ];
    let mut number = 0x100;
    let mut check = |when: &str| -> Result<()> {
        for writer in &mappings {
            for word in WORDS {
                number += 1;
                writer.write32(word, number);
                for (index, reader) in mappings.iter().enumerate() {
                    let found = reader.read32(word);
                    ensure!(
                        found == number,
                        "{when}: mapping {index} has {found:#x} at {word:#x}, not {number:#x}"
                    );
                }
                let read = device.read32_by_file(word)?;
                ensure!(
                    read == number,
                    "{when}: read() has {read:#x} at {word:#x}, not {number:#x}"
                );
            }
        }
        // Each register has what was written to it last.
        let last = [number - 1, number];
        in_child(|| {
            let mut words = WORDS.iter().zip(last);
            words.all(|(word, val)| mappings.iter().all(|m| m.read32(*word) == val))
        })
        .with_context(|| format!("{when}: a forked process"))
    };
    check("assigned")?;
    for round in 0..ROUNDS {
        let file = device.open_data(State::PreCopy)?;
        // What was shown before is not what is shown now, and yet holds the same.
        for word in WORDS {
            let words: Vec<u32> = mappings.iter().map(|m| m.read32(word)).collect();
            ensure!(
                words.iter().all(|w| *w == words[0]),
                "captured: {word:#x} is {words:x?}"
            );
        }
        check("captured")?;
        if round % 2 == 0 {
            // The RAM pages that a mapping shows are no part of the device: type1, which would keep them for longer than they
            // live, takes only the page before them.
            for (part, taken) in [
                (PAGE..BAR_BYTES, Err(Errno::EFAULT)),
                (PAGE..2 * PAGE, Ok(())),
            ] {
                let iova = BAR_IOVA + part.start as u64;
                let address = mappings[0].address();
                let mapped = machine.container.map(iova, address, part.len());
                ensure!(
                    mapped == taken,
                    "MAP_DMA of {part:x?} of the BAR while captured: {mapped:?}"
                );
                check("captured, and mapped for DMA")?;
                if taken.is_ok() {
                    machine.container.unmap(iova, part.len())?;
                }
            }
        }
        exchange(&mut guest, &peer, LAP)?;
        device.go(State::Running)?;
        drop(file);
        require_assigned(&vfs.a)?;
        check("released")?;
        exchange(&mut guest, &peer, LAP)?;
    }
    println!(
        "    {} mappings, {ROUNDS} captures and releases",
        mappings.len()
    );
    drop(mappings);
    memory.check_canaries()
}

/// Runs `holds` in a forked process, which has all mappings.
fn in_child(holds: impl FnOnce() -> bool) -> Result<()> {
    // SAFETY: The child reads memory and ends, without running anything that could hold a lock.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let code = i32::from(!holds());
            // SAFETY: Ends the process at once.
            unsafe { nix::libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            status => bail!("sees something else: {status:?}"),
        },
    }
}
