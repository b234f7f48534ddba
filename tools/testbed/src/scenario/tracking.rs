// SPDX-License-Identifier: GPL-2.0
//! What is reported dirty, by a type1 container and by the device's own log, with a destination that is made from it alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};

use super::bed::{Bed, SOON};
use super::vmm_bed::{memory, peer, vfs, LAP, MAC};
use crate::status::{self, Status};
use crate::vmm::guest::{may_be_written, Guest, SLOTS};
use crate::vmm::memory::{Memory, PAGE};
use crate::vmm::migration::State;
use crate::vmm::traffic::{exchange, Peer};
use crate::vmm::Machine;

/// Page writes while the reports are fetched again and again.
const WRITES: u64 = 50_000;
/// Frames each way between two looks at how many writes there were, and after the last report while the device runs.
const FRAMES: usize = 500;
const LAST_FRAMES: usize = 100;
const SYNC_EVERY: Duration = Duration::from_millis(5);

/// Who reports.
#[derive(Clone, Copy)]
enum Tracker<'a> {
    /// The container, whose scope the driver has narrowed.
    Container(&'a Machine),
    /// The driver's log.
    Log(&'a Machine),
}

impl Tracker<'_> {
    fn start(self, memory: &Memory) -> Result<()> {
        match self {
            Self::Container(machine) => {
                machine.container.start_tracking()?;
                let all = self.pages(memory)?.len();
                ensure!(
                    all == memory.len() / PAGE,
                    "before PRE_COPY {all} pages are reported, not all"
                );
            }
            Self::Log(machine) => {
                // As QEMU does: below 4 GiB, above, and whatever PCI has; the last one to the end of all addresses.
                machine
                    .device
                    .start_logging(&[
                        (0, memory.len() as u64),
                        (4 << 30, (1 << 40) - (4 << 30)),
                        (1 << 40, !0xfff - (1 << 40)),
                    ])
                    .context("cannot start to log")?;
            }
        }
        Ok(())
    }

    fn pages(self, memory: &Memory) -> Result<Vec<usize>> {
        match self {
            Self::Container(machine) => machine.container.dirty_pages(memory.len()),
            Self::Log(machine) => machine.device.logged_pages(memory.len()),
        }
    }

    fn stop(self) -> Result<()> {
        match self {
            Self::Container(machine) => machine.container.stop_tracking(),
            Self::Log(machine) => Ok(machine.device.stop_logging()?),
        }
    }
}

#[derive(Default)]
struct Figures {
    syncs: usize,
    reported: usize,
    changed: usize,
}

impl Figures {
    /// Takes what is reported over to the destination.
    fn sync(&mut self, tracker: Tracker<'_>, memory: &Memory) -> Result<()> {
        let pages = tracker.pages(memory)?;
        self.apply(&pages, memory)
    }

    fn apply(&mut self, pages: &[usize], memory: &Memory) -> Result<()> {
        self.syncs += 1;
        self.reported += pages.len();
        for page in pages {
            ensure!(
                may_be_written(*page),
                "page {page:#x} is reported, and the device has no business there"
            );
            self.changed += usize::from(memory.copy_page(*page));
        }
        Ok(())
    }
}

pub fn dirty_bitmap_is_exact(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let memory = memory()?;
    let machine = Machine::open(&vfs.a, &memory)?;
    require_exact(bed, &vfs.a, &machine, &memory, Tracker::Container(&machine))
}

pub fn dma_log_is_exact(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let memory = memory()?;
    let machine = Machine::open(&vfs.a, &memory)?;
    if !machine.device.can_log() {
        // Then it must not be offered: a user who relies on the reports gets none.
        let refused = machine.device.start_logging(&[(0, PAGE as u64)]);
        ensure!(refused.is_err(), "logs, and says that it cannot");
        println!("    this kernel cannot report what is logged, and logging is not offered");
        return Ok(());
    }
    require_exact(bed, &vfs.a, &machine, &memory, Tracker::Log(&machine))?;
    // And nobody tracks any more.
    machine.device.go(State::Running)?;
    status::wait_mode(&vfs.a, "assigned", SOON).map(drop)
}

fn require_exact(
    bed: &Bed,
    vf: &str,
    machine: &Machine,
    memory: &Memory,
    tracker: Tracker<'_>,
) -> Result<()> {
    let peer = peer(bed)?;
    let mut guest = Guest::start(&machine.device, memory, MAC)?;
    exchange(&mut guest, &peer, LAP)?;

    tracker.start(memory)?;
    let file = machine.device.open_data(State::PreCopy)?;
    tracker.pages(memory)?;
    memory.copy_all();
    let before = Status::read(vf)?;

    let mut figures = sync_under_traffic(vf, memory, &mut guest, &peer, tracker)?;
    exchange(&mut guest, &peer, LAST_FRAMES)?;
    machine.device.go(State::PreCopyP2p)?;
    machine.device.go(State::StopCopy)?;

    // The oracle must see a page that is withheld, or it proves nothing.
    let changed = memory.differing();
    let pages = tracker.pages(memory)?;
    let (withheld, rest) = pages.split_last().with_context(|| {
        format!(
            "nothing is reported at the end, and {} pages changed",
            changed.len()
        )
    })?;
    figures.apply(rest, memory)?;
    let missed = memory.differing();
    ensure!(
        missed == [*withheld] || !changed.contains(withheld) && missed.is_empty(),
        "page {withheld:#x} was withheld, and of {} pages that changed at the end {} were missed: {missed:x?}",
        changed.len(),
        missed.len()
    );
    ensure!(
        changed.len() > 1,
        "only {} pages changed at the end: nothing was tested",
        changed.len()
    );
    figures.apply(&[*withheld], memory)?;
    let missed = memory.differing();
    ensure!(missed.is_empty(), "missed pages: {missed:x?}");
    let again = tracker.pages(memory)?;
    ensure!(again.is_empty(), "dirty though stopped: {again:x?}");

    let after = Status::read(vf)?;
    let moved = |key| Ok::<_, anyhow::Error>(after.number(key)? - before.number(key)?);
    let (rx, tx) = (moved("rx_frames")?, moved("tx_frames")?);
    ensure!(
        after.number("direct_while_tracking")? == 0,
        "direct DMA while tracking"
    );
    println!(
        "    {rx} frames received, {tx} sent, {} page writes; {} syncs, {} pages reported, {} changed ({:.2}), 0 missed",
        moved("dirty_pages")?,
        figures.syncs,
        figures.reported,
        figures.changed,
        figures.reported as f64 / figures.changed.max(1) as f64
    );
    tracker.stop()?;
    memory.forget_copy();
    drop(file);
    memory.check_canaries()
}

/// A VM that is paused without a ring, and whose user begins to track and has it run again, all without a word to the driver, as
/// QEMU does with a paused VM: the driver hears of it when it is to save. The scope was narrowed by a migration before.
pub fn paused_guest_is_tracked_unasked(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let peer = peer(bed)?;
    for by_reset in [false, true] {
        require_tracked_unasked(&vfs.a, &peer, by_reset)
            .with_context(|| format!("runs again by a reset: {by_reset}"))?;
    }
    Ok(())
}

/// A reset makes a device run, too.
fn require_tracked_unasked(vf: &str, peer: &Peer, by_reset: bool) -> Result<()> {
    let memory = memory()?;
    let machine = Machine::open(vf, &memory)?;
    let device = &machine.device;
    let file = device.open_data(State::PreCopy)?;
    device.go(State::Running)?;
    drop(file);
    status::wait_mode(vf, "assigned", SOON)?;

    device.go(State::Stop)?;
    machine.container.start_tracking()?;
    memory.copy_all();
    if by_reset {
        device.reset()?;
    } else {
        device.go(State::Running)?;
    }
    let mut guest = Guest::start(device, &memory, MAC)?;
    exchange(&mut guest, peer, LAP)?;
    device.go(State::Stop)?;
    let changed = memory.differing().len();
    ensure!(
        changed > SLOTS,
        "{changed} pages changed: nothing was tested"
    );
    let file = device.open_data(State::StopCopy)?;
    let pages = Tracker::Container(&machine).pages(&memory)?;
    Figures::default().apply(&pages, &memory)?;
    let missed = memory.differing();
    ensure!(
        missed.is_empty(),
        "missed {} of {changed} pages",
        missed.len()
    );
    println!("    {changed} pages changed, all of them reported");
    machine.container.stop_tracking()?;
    memory.forget_copy();
    device.go(State::Running)?;
    drop(file);
    status::wait_mode(vf, "assigned", SOON)?;
    exchange(&mut guest, peer, LAP)?;
    memory.check_canaries()
}

/// Frames both ways until so many pages were written, and reports all the time.
fn sync_under_traffic(
    vf: &str,
    memory: &Memory,
    guest: &mut Guest<'_>,
    peer: &Peer,
    tracker: Tracker<'_>,
) -> Result<Figures> {
    let stop = AtomicBool::new(false);
    let written = || Status::read(vf)?.number("dirty_pages");
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| {
            let mut figures = Figures::default();
            while !stop.load(Ordering::Relaxed) {
                figures.sync(tracker, memory)?;
                std::thread::sleep(SYNC_EVERY);
            }
            Ok::<_, anyhow::Error>(figures)
        });
        let exchanged = written().and_then(|first| {
            // A frame is a write at least.
            for _ in 0..WRITES / FRAMES as u64 {
                if written()? >= first + WRITES {
                    break;
                }
                exchange(guest, peer, FRAMES)?;
            }
            let writes = written()? - first;
            ensure!(writes >= WRITES, "only {writes} page writes");
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let figures = syncing.join().map_err(|_| anyhow!("the syncs panicked"))?;
        exchanged.and(figures)
    })
}

/// The oracle sees what a device wrote that was released while somebody tracked: with a bitmap of a scope that was narrowed
/// before, and with a log that was stopped.
pub fn direct_dma_is_missed_by_both_trackers(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let peer = peer(bed)?;
    let memory = memory()?;
    let machine = Machine::open(&vfs.a, &memory)?;
    let mut guest = Guest::start(&machine.device, &memory, MAC)?;
    let mut trackers = vec![Tracker::Container(&machine)];
    if machine.device.can_log() {
        trackers.push(Tracker::Log(&machine));
    }
    for tracker in trackers {
        tracker.start(&memory)?;
        let file = machine.device.open_data(State::PreCopy)?;
        tracker.pages(&memory)?;
        machine.device.go(State::Running)?;
        // The user ends its session, and with a log the log as well, and yet goes on to rely on reports.
        drop(file);
        if let Tracker::Log(machine) = tracker {
            machine.device.stop_logging()?;
        }
        status::wait_mode(&vfs.a, "assigned", SOON)?;
        memory.copy_all();
        exchange(&mut guest, &peer, LAP)?;
        if let Tracker::Container(machine) = tracker {
            let pages = tracker.pages(&memory)?;
            ensure!(
                pages.is_empty(),
                "type1 reports {} pages of direct DMA: the scope is not sticky any more",
                pages.len()
            );
            machine.container.stop_tracking()?;
        }
        let missed = memory.differing().len();
        ensure!(
            missed > SLOTS,
            "{missed} pages differ after {LAP} frames of direct DMA into {SLOTS} buffers"
        );
        println!("    {missed} pages were written directly, reported by nobody, and found");
        memory.forget_copy();
    }
    memory.check_canaries()
}
