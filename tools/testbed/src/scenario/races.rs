// SPDX-License-Identifier: GPL-2.0
//! Two things at once that happen one after the other in every happy hour.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{sched_setaffinity, CpuSet};
use nix::unistd::Pid;

use super::bed::{require_assigned, Bed};
use super::vmm_bed::{bounded, memory, peer, require_usable, vfs, QuietConsole, LAP, MAC};
use crate::status::Status;
use crate::vmm::container::Container;
use crate::vmm::device::BAR_BYTES;
use crate::vmm::guest::{desc, Guest, DESC_BYTES, RX_RING, SLOTS};
use crate::vmm::memory::{Memory, PAGE};
use crate::vmm::migration::State;
use crate::vmm::traffic::{exchange, new_numbers, Peer};
use crate::vmm::vcpu::{Vcpu, STORES};
use crate::vmm::{Machine, Random, BAR_IOVA};

const OPENS: usize = 50;
const ROUNDS: usize = 2;
/// How long the page is mapped, at most.
const MAPPED_US: usize = 150;

const CAPTURES: usize = 800;
/// The tail of a ring that nobody uses.
const SPARE_TAIL: usize = 0x3918;

const RESETS: usize = 30;
/// A turn of the worker that a reset has met would have written by then.
const LATE: Duration = Duration::from_millis(5);
const SEED: u64 = 0x0e5e_7000;

pub fn unmap_races_pin(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let peer = peer(bed)?;
    let _quiet = QuietConsole::new()?;
    let vf = vfs.a.clone();
    let sum = bounded("the race to end", move || {
        let mut first = CpuSet::new();
        first.set(0)?;
        sched_setaffinity(Pid::from_raw(0), &first)?;
        let memory = memory()?;
        let mut sum = Race::default();
        for _ in 0..OPENS {
            race_once(&vf, &memory, &mut sum)?;
        }
        memory.check_canaries().map(|()| sum)
    })?;
    println!(
        "    {} maps and unmaps against {} captures in {OPENS} opens, {} of which pinned the page",
        sum.unmaps, sum.captures, sum.pinned
    );
    ensure!(sum.unmaps >= 1000, "only {} unmaps", sum.unmaps);
    ensure!(sum.pinned > 0, "the page was never pinned");
    let memory = memory()?;
    let machine = Machine::open(&vfs.a, &memory)?;
    require_usable(&vfs.a, &machine, &memory, &peer)
}

/// A virtual CPU's page fault that meets the zap of a capture or of a release is taken again, and never for a wrong address.
pub fn captures_race_vcpu(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let (peer, memory) = (peer(bed)?, memory()?);
    let machine = Machine::open(&vfs.a, &memory)?;
    let device = &machine.device;
    let mut guest = Guest::start(device, &memory, MAC)?;
    exchange(&mut guest, &peer, LAP)?;
    let _quiet = QuietConsole::new()?;
    let bar = device.map(PAGE..BAR_BYTES)?;
    let stop = AtomicBool::new(false);
    let laps = std::thread::scope(|scope| {
        let storing = scope.spawn(|| {
            let mut vcpu = Vcpu::new(&bar, SPARE_TAIL)?;
            let mut laps = 0u64;
            while !stop.load(Ordering::Relaxed) {
                vcpu.run().with_context(|| format!("after {laps} laps"))?;
                laps += 1;
            }
            Ok(laps)
        });
        let captured = (0..CAPTURES).try_for_each(|_| {
            let file = device.open_data(State::PreCopy)?;
            device.go(State::Running)?;
            drop(file);
            ensure!(!storing.is_finished(), "the virtual CPU does not go on");
            require_assigned(&vfs.a).map(drop)
        });
        stop.store(true, Ordering::Relaxed);
        let laps = storing
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the virtual CPU panicked")))?;
        captured.map(|()| laps)
    })?;
    println!("    {laps} laps of {STORES} stores against {CAPTURES} captures and releases");
    ensure!(laps > 0, "not one lap");
    exchange(&mut guest, &peer, LAP).map(drop)
}

/// Makes the calling thread a real-time one.
fn go_first() -> Result<()> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: The structure is there; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    Errno::result(result).map(drop).context("no SCHED_FIFO")
}

#[derive(Default)]
struct Race {
    unmaps: usize,
    captures: u64,
    pinned: u64,
}

/// The only page that can be pinned comes and goes while the VF is captured again and again.
fn race_once(vf: &str, memory: &Memory, sum: &mut Race) -> Result<()> {
    let container = Container::open(vf)?;
    let start = 16 << 20;
    container.map(start as u64, memory.address(start), memory.len() - start)?;
    let machine = Machine::in_container(vf, container)?;
    let _guest = Guest::start_at(&machine.device, memory, start, MAC)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let unmapping = scope.spawn(|| {
            // In front of the one that pins, on its processor: whatever it was doing when the page goes, it gets no further by itself.
            go_first()?;
            let mut random = Random::new(SEED);
            let mut unmaps = 0;
            while !stop.load(Ordering::Relaxed) {
                machine.container.map(0, memory.address(0), PAGE)?;
                std::thread::sleep(Duration::from_micros(random.below(MAPPED_US) as u64));
                let bytes = machine.container.unmap(0, PAGE)?;
                ensure!(bytes == PAGE as u64, "UNMAP_DMA unmapped {bytes} bytes");
                unmaps += 1;
            }
            Ok(unmaps)
        });
        let captured = (0..ROUNDS).try_for_each(|_| {
            let file = machine.device.open_data(State::PreCopy)?;
            machine.device.go(State::Running)?;
            drop(file);
            require_assigned(vf).map(drop)
        });
        stop.store(true, Ordering::Relaxed);
        let unmaps = unmapping
            .join()
            .map_err(|_| anyhow!("unmapping panicked"))?;
        sum.unmaps += unmaps.context("MAP_DMA or UNMAP_DMA")?;
        captured
    })?;
    let status = Status::read(vf)?;
    sum.captures += status.number("captures")?;
    sum.pinned += status.number("pinned")?;
    Ok(())
}

/// `VFIO_DEVICE_RESET` while the worker writes to guest memory, which may be the very BAR that the reset takes away.
pub fn resets_race_guest_memory(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let vf = vfs.a.clone();
    let sender = peer(bed)?;
    let _quiet = QuietConsole::new()?;
    let relayed = bounded("the resets to end", move || {
        let memory = memory()?;
        let machine = Machine::open(&vf, &memory)?;
        let _bar = machine.map_bar()?;
        let mut random = Random::new(SEED);
        for round in 0..RESETS {
            let (in_bar, by_guest) = (round % 2 == 0, round % 3 == 0);
            // Nobody takes frames, and in a full ring nothing is written: in those whose writes a reset can meet, it comes before.
            let most_us = if in_bar { 4_000 } else { 20_000 };
            let delay = Duration::from_micros(random.below(most_us) as u64);
            reset_once(&machine, &memory, &sender, in_bar, by_guest, delay)
                .with_context(|| format!("reset {round}, after {} us", delay.as_micros()))?;
        }
        require_assigned(&vf)?;
        let status = Status::read(&vf)?;
        memory.check_canaries()?;
        status.number("rx_frames")
    })?;
    println!("    {RESETS} resets, {relayed} frames relayed");
    let memory = memory()?;
    let machine = Machine::open(&vfs.a, &memory)?;
    require_usable(&vfs.a, &machine, &memory, &peer(bed)?)
}

/// What the guest has reset writes nothing more, whoever sends.
fn require_still(memory: &Memory) -> Result<()> {
    let (mut at_once, mut later) = ([0; SLOTS * DESC_BYTES], [0; SLOTS * DESC_BYTES]);
    memory.read(RX_RING, &mut at_once);
    std::thread::sleep(LATE);
    memory.read(RX_RING, &mut later);
    ensure!(at_once == later, "the ring was written to after the reset");
    Ok(())
}

fn reset_once(
    machine: &Machine,
    memory: &Memory,
    peer: &Peer,
    in_bar: bool,
    by_guest: bool,
    delay: Duration,
) -> Result<()> {
    let device = &machine.device;
    let guest = Guest::start(device, memory, MAC)?;
    // Emulated as long as the file is open.
    let file = device.open_data(State::PreCopy)?;
    if in_bar {
        for slot in 0..SLOTS {
            // Behind the ring registers, where nobody cares.
            let buffer = desc(BAR_IOVA + 0x3000, 0, 0);
            memory.write(RX_RING + slot * DESC_BYTES, &buffer);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for number in new_numbers(8) {
                    peer.send(&peer.frame_to(guest.mac, number))?;
                }
                std::thread::sleep(Duration::from_micros(500));
            }
            Ok::<_, anyhow::Error>(())
        });
        // A vCPU that touches trapped and mapped registers all the time.
        let touching = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                device.read32(8)?;
                device.read32(0x2810)?;
            }
            Ok::<_, anyhow::Error>(())
        });
        std::thread::sleep(delay);
        // Either way: by a request of the VMM, or by the guest itself.
        let reset = if by_guest {
            device.flr()
        } else {
            device.reset()
        };
        let done = reset
            .and_then(|()| require_still(memory))
            .and_then(|()| device.state());
        stop.store(true, Ordering::Relaxed);
        for thread in [sending, touching] {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        let state = done?;
        ensure!(state == State::Running, "it is {state:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    drop(file);
    Ok(())
}
