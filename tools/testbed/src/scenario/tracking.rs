// SPDX-License-Identifier: GPL-2.0
//! The dirty bitmap of a type1 container, with a destination that is made from it alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};

use super::bed::Bed;
use super::vmm_bed::{memory, peer, vfs, LAP, MAC};
use crate::status::Status;
use crate::vmm::container::Container;
use crate::vmm::guest::{may_be_written, Guest};
use crate::vmm::memory::{Memory, PAGE};
use crate::vmm::migration::State;
use crate::vmm::traffic::exchange;
use crate::vmm::Machine;

/// Frames each way while the bitmap is fetched again and again, and after it was last fetched while the device runs.
const FRAMES: usize = 1500;
const LAST_FRAMES: usize = 100;
const SYNC_EVERY: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Figures {
    syncs: usize,
    reported: usize,
    changed: usize,
}

impl Figures {
    /// Takes what is reported over to the destination.
    fn sync(&mut self, container: &Container, memory: &Memory) -> Result<()> {
        let pages = container.dirty_pages(memory.len())?;
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
    let peer = peer(bed)?;
    let memory = memory()?;
    let machine = Machine::open(&vfs.a, &memory)?;
    let mut guest = Guest::start(&machine.device, &memory, MAC)?;
    exchange(&mut guest, &peer, LAP)?;

    machine.container.start_tracking()?;
    let all = machine.container.dirty_pages(memory.len())?.len();
    ensure!(
        all == memory.len() / PAGE,
        "before PRE_COPY {all} pages are reported, not all"
    );
    let _file = machine.device.open_data(State::PreCopy)?;
    machine.container.dirty_pages(memory.len())?;
    memory.copy_all();
    let before = Status::read(&vfs.a)?;

    let stop = AtomicBool::new(false);
    let mut figures = std::thread::scope(|scope| {
        let syncing = scope.spawn(|| {
            let mut figures = Figures::default();
            while !stop.load(Ordering::Relaxed) {
                figures.sync(&machine.container, &memory)?;
                std::thread::sleep(SYNC_EVERY);
            }
            Ok::<_, anyhow::Error>(figures)
        });
        let exchanged = exchange(&mut guest, &peer, FRAMES);
        stop.store(true, Ordering::Relaxed);
        let figures = syncing.join().map_err(|_| anyhow!("the syncs panicked"))?;
        exchanged.and(figures)
    })?;
    exchange(&mut guest, &peer, LAST_FRAMES)?;
    machine.device.go(State::PreCopyP2p)?;
    machine.device.go(State::StopCopy)?;

    // The oracle must see a page that is withheld, or it proves nothing.
    let changed = memory.differing();
    let pages = machine.container.dirty_pages(memory.len())?;
    let (withheld, rest) = pages.split_last().with_context(|| {
        format!(
            "nothing is reported at the end, and {} pages changed",
            changed.len()
        )
    })?;
    figures.apply(rest, &memory)?;
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
    figures.apply(&[*withheld], &memory)?;
    let missed = memory.differing();
    ensure!(missed.is_empty(), "missed pages: {missed:x?}");
    let again = machine.container.dirty_pages(memory.len())?;
    ensure!(again.is_empty(), "dirty though stopped: {again:x?}");

    let after = Status::read(&vfs.a)?;
    let moved = |key| Ok::<_, anyhow::Error>(after.number(key)? - before.number(key)?);
    let (rx, tx) = (moved("rx_frames")?, moved("tx_frames")?);
    let frames = (FRAMES + LAST_FRAMES) as u64;
    ensure!(
        rx >= frames && tx >= frames,
        "only {rx} and {tx} frames were relayed"
    );
    ensure!(
        after.number("direct_while_tracking")? == 0,
        "direct DMA while tracking"
    );
    println!(
        "    {rx} frames received, {tx} sent; {} syncs, {} pages reported, {} changed ({:.2}), 0 missed",
        figures.syncs,
        figures.reported,
        figures.changed,
        figures.reported as f64 / figures.changed.max(1) as f64
    );
    machine.container.stop_tracking()?;
    memory.forget_copy();
    memory.check_canaries()
}
