// SPDX-License-Identifier: GPL-2.0
//! A guest that programs nonsense while it is captured.

use anyhow::{ensure, Context, Result};
use nix::errno::Errno;

use super::bed::{require_assigned, Bed, SOON};
use super::vmm_bed::{memory, peer, vfs, LAP, MAC};
use crate::clock::wait_for;
use crate::status::Status;
use crate::vmm::device::Device;
use crate::vmm::guest::{
    desc, may_be_written, regs::*, Guest, DESC_BYTES, RX_RING, SLOTS, TX_DATA, TX_RING,
};
use crate::vmm::memory::{Memory, PAGE};
use crate::vmm::migration::State;
use crate::vmm::traffic::{exchange, exchange_ways, new_numbers, Peer};
use crate::vmm::{Machine, Random, BAR_IOVA, RAM_BYTES};

/// An IOVA that nobody maps.
const NOWHERE: u64 = 5 << 30;
/// The last bytes of RAM.
const EDGE: u64 = RAM_BYTES as u64 - 16;
/// RAM with nothing in it, to send from.
const PATTERN: u64 = 8 << 20;
/// A ring of more slots than a packet may have descriptors.
const LONG_RING: usize = 0x20000;
const LONG_SLOTS: usize = 256;
const BAR_HIGH: u32 = (BAR_IOVA >> 32) as u32;
const SEED: u64 = 0xbad_0bad;
const FEW: usize = 5;

/// What the device may be told.
enum Garbage {
    /// Registers of the RX queue, which is enabled.
    Rx(&'static [(usize, u32)]),
    /// Where RX buffers are.
    RxBuffers(u64),
    /// RX buffers are where the TX registers are: both queues are the guest's own fault.
    RxOverTx,
    /// Registers of the TX queue, which is enabled.
    Tx(&'static [(usize, u32)]),
    /// One descriptor, in all slots.
    TxDescs(u64, u32, u32),
    /// A long ring of descriptors without an end of packet.
    TxEndless,
    TxRandom,
}
use Garbage::*;

const BAD: &[&str] = &["bad_rings"];
const RX_UNMAPPED: &[&str] = &["dropped_rx_unmapped"];
const TX_UNMAPPED: &[&str] = &["dropped_tx_unmapped"];
const TX_MALFORMED: &[&str] = &["dropped_tx_malformed"];

/// Each with the counter that has to rise, if any does.
const CASES: [(&str, Garbage, &[&str]); 25] = [
    ("an RX ring of length 0", Rx(&[(RDLEN, 0)]), BAD),
    ("a huge RX ring", Rx(&[(RDLEN, 0xffff_ff80)]), BAD),
    ("an RX ring of a slot", Rx(&[(RDLEN, 0x10)]), BAD),
    ("an RX head out of range", Rx(&[(RDH, 0xffff)]), BAD),
    ("an RX tail out of range", Rx(&[(RDT, 0xffff)]), &[]),
    ("an RX ring nowhere", Rx(&[(RDBAH, 0x7fff)]), RX_UNMAPPED),
    (
        "an RX ring at the end of all addresses",
        Rx(&[(RDBAH, u32::MAX), (RDBAL, 0xffff_ff80)]),
        RX_UNMAPPED,
    ),
    ("RX buffers nowhere", RxBuffers(NOWHERE), RX_UNMAPPED),
    (
        "RX buffers that end behind RAM",
        RxBuffers(EDGE),
        RX_UNMAPPED,
    ),
    (
        "RX buffers at the end of all addresses",
        RxBuffers(u64::MAX - 16),
        RX_UNMAPPED,
    ),
    (
        "an RX ring in the BAR, over its own registers",
        Rx(&[(RDBAH, BAR_HIGH), (RDBAL, 0x2800)]),
        &[],
    ),
    (
        "RX buffers in the BAR, over the RX registers",
        RxBuffers(BAR_IOVA + 0x2800),
        &[],
    ),
    (
        "RX buffers in the BAR, over the TX registers",
        RxOverTx,
        &["rx_frames"],
    ),
    ("a TX ring of length 0", Tx(&[(TDLEN, 0)]), BAD),
    ("a huge TX ring", Tx(&[(TDLEN, 0xffff_ff80)]), BAD),
    ("a TX tail out of range", Tx(&[(TDT, 0xffff)]), &[]),
    (
        "a TX ring nowhere",
        Tx(&[(TDBAH, 0x7fff), (TDT, 9)]),
        TX_UNMAPPED,
    ),
    (
        "TX buffers that end behind RAM",
        TxDescs(EDGE, TX_DATA | 300, 300 << 14),
        TX_UNMAPPED,
    ),
    (
        "a TX ring in the BAR, over its own registers",
        Tx(&[(TDBAH, BAR_HIGH), (TDBAL, 0x3800), (TDT, 9)]),
        &[],
    ),
    (
        "TX buffers in the BAR",
        TxDescs(BAR_IOVA + 0x2800, TX_DATA | 100, 100 << 14),
        &[],
    ),
    (
        "frames of 0 bytes",
        TxDescs(PATTERN, TX_DATA, 0),
        TX_MALFORMED,
    ),
    (
        "frames of 65535 bytes",
        TxDescs(PATTERN, TX_DATA | 0xffff, 0xffff << 14),
        TX_MALFORMED,
    ),
    (
        "a PAYLEN that is not the frame's",
        TxDescs(PATTERN, TX_DATA | 100, 0x3_ffff << 14),
        &[],
    ),
    ("a packet without an end", TxEndless, TX_MALFORMED),
    ("random descriptors", TxRandom, TX_UNMAPPED),
];

pub fn garbage_rings_hurt_only_their_queue(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let peer = peer(bed)?;
    let memory = memory()?;
    let machine = Machine::open(&vfs.a, &memory)?;
    let device = &machine.device;
    let mut guest = Guest::start(device, &memory, MAC)?;
    exchange(&mut guest, &peer, LAP)?;
    let bar = machine.map_bar()?;
    let file = device.open_data(State::PreCopy)?;
    // Substituted pages cannot be pinned; what matters is that asking for it ends.
    let mapped = machine.container.map(2 * BAR_IOVA, bar.address(), PAGE);
    ensure!(mapped.is_ok(), "page 1, captured: {mapped:?}");
    let mapped = machine
        .container
        .map(3 * BAR_IOVA, bar.address() + PAGE as u64, 2 * PAGE);
    ensure!(
        mapped == Err(Errno::EFAULT),
        "pages 2 and 3, captured: {mapped:?}"
    );
    memory.copy_all();
    for (what, garbage, counters) in &CASES {
        try_garbage(
            &vfs.a, device, &memory, &mut guest, &peer, garbage, counters,
        )
        .context(*what)?;
        clear_rings(device)?;
        guest.start_rings()?;
        exchange(&mut guest, &peer, FEW)
            .with_context(|| format!("with proper rings after {what}"))?;
    }
    let counted = || Status::read(&vfs.a)?.number(RX_UNMAPPED[0]);
    let before = counted()?;
    machine.container.unmap(0, memory.len())?;
    for number in new_numbers(2 * SLOTS) {
        peer.send(&peer.frame_to(guest.mac, number))?;
    }
    wait_for("frames for memory that is gone", SOON, || {
        Ok((counted()? > before).then_some(()))
    })?;
    machine
        .container
        .map(0, memory.address(0), memory.len())
        .context("cannot map memory again")?;
    guest.start_rings()?;
    exchange(&mut guest, &peer, FEW).context("with memory that went and came")?;

    // Whatever it was told to do, it wrote where rings and buffers were, and nowhere else. Registers that are taken for descriptors
    // say 0 as an address.
    let edge = EDGE as usize / PAGE;
    let astray: Vec<usize> = memory
        .differing()
        .into_iter()
        .filter(|page| !may_be_written(*page) && ![0, edge, LONG_RING / PAGE].contains(page))
        .collect();
    ensure!(astray.is_empty(), "pages were written: {astray:x?}");
    memory.check_canaries()?;
    println!(
        "    {} kinds of garbage; drops: {}",
        CASES.len(),
        Status::read(&vfs.a)?.drops()
    );
    device.go(State::Running)?;
    drop(file);
    require_assigned(&vfs.a)?;
    exchange(&mut guest, &peer, LAP).map(drop)
}

/// All registers of both queues: those of the second one may have been hit, too.
fn clear_rings(device: &Device) -> Result<()> {
    for page in [0x2000, 0x3000] {
        for queue in [0x800, 0x900] {
            for at in (0..0x40).step_by(4) {
                device.write32(page + queue + at, 0)?;
            }
        }
    }
    // Seen by the worker.
    std::thread::sleep(std::time::Duration::from_millis(10));
    Ok(())
}

fn try_garbage(
    vf: &str,
    device: &Device,
    memory: &Memory,
    guest: &mut Guest<'_>,
    peer: &Peer,
    garbage: &Garbage,
    counters: &[&str],
) -> Result<()> {
    let sum = || -> Result<u64> {
        let status = Status::read(vf)?;
        counters.iter().map(|key| status.number(key)).sum()
    };
    let before = sum()?;
    program(device, memory, garbage)?;
    for number in new_numbers(2 * SLOTS) {
        peer.send(&peer.frame_to(guest.mac, number))?;
    }
    if !counters.is_empty() {
        wait_for("the garbage to be counted", SOON, || {
            Ok((sum()? > before).then_some(()))
        })
        .with_context(|| format!("{counters:?} stays at {before}"))?;
    }
    ensure!(device.state()? == State::PreCopy, "the state changed");
    // The other direction has not noticed; before it is proved, what was sent above has passed.
    match garbage {
        RxOverTx => {}
        Rx(_) | RxBuffers(_) => {
            exchange_ways(guest, peer, 0, FEW).context("sending meanwhile")?;
        }
        Tx(_) | TxDescs(..) | TxEndless | TxRandom => {
            guest.skip_arrived()?;
            exchange_ways(guest, peer, FEW, 0).context("receiving meanwhile")?;
        }
    }
    Ok(())
}

fn program(device: &Device, memory: &Memory, garbage: &Garbage) -> Result<()> {
    let restart = |control: usize, registers: &[(usize, u32)]| {
        device.write32(control, 0)?;
        // The worker has to see a ring that is off between two that are on.
        std::thread::sleep(std::time::Duration::from_millis(10));
        for (at, value) in registers {
            device.write32(*at, *value)?;
        }
        device.write32(control, ENABLE)
    };
    let fill = |descs: &mut dyn FnMut() -> [u8; DESC_BYTES]| {
        for slot in 0..SLOTS {
            memory.write(TX_RING + slot * DESC_BYTES, &descs());
        }
        restart(TXDCTL, &[(TDH, 0), (TDT, SLOTS as u32 - 1)])
    };
    let post = |address: u64| {
        for slot in 0..SLOTS {
            memory.write(RX_RING + slot * DESC_BYTES, &desc(address, 0, 0));
        }
        restart(RXDCTL, &[(RDH, 0), (RDT, SLOTS as u32 - 1)])
    };
    match garbage {
        Rx(registers) => restart(RXDCTL, registers),
        Tx(registers) => restart(TXDCTL, registers),
        RxBuffers(address) => post(*address),
        RxOverTx => post(BAR_IOVA + 0x3800),
        TxDescs(address, low, high) => fill(&mut || desc(*address, *low, *high)),
        TxEndless => {
            for slot in 0..LONG_SLOTS {
                let low = TX_DATA & !(1 << 24) | 100;
                memory.write(
                    LONG_RING + slot * DESC_BYTES,
                    &desc(PATTERN, low, 100 << 14),
                );
            }
            restart(
                TXDCTL,
                &[
                    (TDBAL, LONG_RING as u32),
                    (TDLEN, (LONG_SLOTS * DESC_BYTES) as u32),
                    (TDH, 0),
                    (TDT, LONG_SLOTS as u32 - 1),
                ],
            )
        }
        TxRandom => {
            let mut random = Random::new(SEED);
            fill(&mut || {
                // No segmentation: by a context without a size it is QEMU's patience that would be tried.
                let low = random.number() as u32 & !(1 << 31) | 1 << 24;
                desc(random.number() | 1 << 40, low, random.number() as u32)
            })
        }
    }
}
