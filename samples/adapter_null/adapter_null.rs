// SPDX-License-Identifier: GPL-2.0

//! The smallest adapter, as a template: a function that takes every frame and sends none.
//!
//! There is no such device. It has one TX queue, one register that its PF has to know of, and one vector that is
//! not modelled. While captured, the guest's frames are completed and thrown away; a real adapter copies them to a
//! ring of its own in the mirror area, as `drivers/igbvf` does. Every place where a real one has more to do says
//! so after `FILL IN`.
//!
//! `make new-adapter NAME=x` makes a copy of this in `drivers/x`.

#![no_std]
#![forbid(unsafe_code)]

mod regs;

use model::adapter::{Adapter, Io, Layout, Progress, Stuck};
use model::counters::Counters;
use model::image::{Full, Reader, Refused, Writer};
use model::io::{Area, Fault, GuestMemory, Hardware, Iova, Registers};
use model::register::Register;
use model::ring::Ring;

/// The fixed facts. FILL IN: the pages of the device, and an identity that no other adapter has.
pub static LAYOUT: Layout = Layout {
    name: "adapter_null",
    image_id: 0,
    bar_bytes: 0x2000,
    trapped: (0, 0x1000),
    substituted: (0x1000, 0x2000),
    mirror_bytes: 0,
};

/// Version of both sections of the image; the first thing in each.
const VERSION: u16 = 1;
/// Looks at a queue that has to stop, and the microseconds between two: every wait is bounded.
const TRIES: u32 = 400;
const PAUSE_US: u32 = 50;

/// One function.
#[derive(Debug)]
pub struct Null {
    counters: Counters,
    /// The control record: what the guest has asked of its PF and nobody can read back. FILL IN: addresses, VLANs.
    filter: u32,
    /// Changes when the control record does.
    generation: u32,
    /// Between start and stop. FILL IN: the mirror rings, and frames that were received and not delivered.
    running: bool,
}

impl Default for Null {
    fn default() -> Self {
        Self::new()
    }
}

impl Null {
    /// A function that nobody has set up.
    pub const fn new() -> Self {
        Self {
            counters: Counters::new(),
            filter: 0,
            generation: 0,
            running: false,
        }
    }

    fn set_filter(&mut self, filter: u32) {
        if self.filter != filter {
            self.filter = filter;
            self.generation = self.generation.wrapping_add(1);
        }
    }

    /// Takes at most `budget` descriptors of the guest.
    fn take(&mut self, io: &mut Io<'_>, budget: u32) -> Progress {
        // The page is the guest's, which writes there at any time: read once, check, then use what was read.
        let page = &mut *io.page;
        let len = page.read32(regs::TDLEN);
        let (head, tail) = (page.read32(regs::TDH), page.read32(regs::TDT));
        let base = u64::from(page.read32(regs::TDBAH)) << 32 | u64::from(page.read32(regs::TDBAL));
        let ring = Ring::new(len, head, tail).filter(|_| len <= regs::MAX_DESCS);
        let (true, Some(mut ring)) = (is_enabled(page), ring) else {
            return Progress::default();
        };
        let mut frames = 0u32;
        while frames < budget && ring.pending() > 0 {
            match complete(io.mem, base, ring.head()) {
                Ok(()) => self.counters.tx_frames = self.counters.tx_frames.wrapping_add(1),
                // Nothing was done: the same again in the next turn, also after a stop.
                Err(Fault::Busy) => break,
                // The guest's own fault: counted, and on with the next.
                Err(Fault::Unmapped) => {
                    self.counters.dropped_tx_unmapped =
                        self.counters.dropped_tx_unmapped.wrapping_add(1);
                }
            }
            ring.advance(1);
            frames = frames.saturating_add(1);
        }
        if frames > 0 {
            io.page.write32(regs::TDH, ring.head());
        }
        Progress {
            frames,
            more: frames == budget && ring.pending() > 0,
        }
    }
}

/// Tells the guest that the frame in `slot` was sent. FILL IN: copy it to the mirror ring, and do this when the
/// device has sent it.
fn complete(mem: &mut dyn GuestMemory, base: u64, slot: u32) -> Result<(), Fault> {
    let offset = u64::from(slot)
        .saturating_mul(regs::DESC_BYTES)
        .saturating_add(regs::DONE_BYTE);
    let at = Iova(base).checked_add(offset).ok_or(Fault::Unmapped)?;
    // ORDER: the byte that says so comes last, in a write of its own.
    mem.write(at, &[regs::DONE])
}

fn is_enabled<R: Registers + ?Sized>(regs: &mut R) -> bool {
    regs.read32(regs::TXDCTL) & regs::ENABLE != 0
}

impl Adapter for Null {
    fn layout(&self) -> &'static Layout {
        &LAYOUT
    }

    fn registers(&self) -> &'static [Register] {
        &regs::TABLE
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn reset(&mut self, _hw: &mut dyn Hardware, page: Option<&mut dyn Registers>) {
        // Every field by name: one that is new breaks the build, and not a migration.
        let Self {
            counters: _,
            filter,
            generation,
            running: _, // the kernel's business
        } = self;
        *filter = 0;
        *generation = generation.wrapping_add(1);
        if let Some(page) = page {
            for at in regs::RING {
                page.write32(at, 0);
            }
        }
    }

    fn read(&mut self, at: u32, hw: &mut dyn Hardware, _page: Option<&mut dyn Registers>) -> u32 {
        match at {
            regs::CTRL => hw.read32(regs::CTRL) & regs::CTRL_RST,
            regs::FILTER => self.filter,
            _ => 0,
        }
    }

    fn write(
        &mut self,
        at: u32,
        val: u32,
        hw: &mut dyn Hardware,
        page: Option<&mut dyn Registers>,
    ) {
        match at {
            regs::CTRL if val & regs::CTRL_RST != 0 => {
                hw.write32(regs::CTRL, regs::CTRL_RST);
                self.reset(hw, page);
            }
            regs::FILTER => {
                hw.write32(regs::FILTER, val);
                self.set_filter(val);
            }
            _ => {}
        }
    }

    fn is_active(&self, regs: &mut dyn Registers) -> bool {
        is_enabled(regs)
    }

    fn check_migratable(&self, _regs: &mut dyn Registers) -> Result<(), &'static str> {
        // FILL IN: modes of the device that are not emulated, with the reason for the log.
        Ok(())
    }

    fn snapshot(&mut self, hw: &mut dyn Hardware, page: &mut dyn Registers) {
        for at in regs::RING {
            page.write32(at, hw.read32(at));
        }
    }

    fn quiesce(&mut self, hw: &mut dyn Hardware, page: &mut dyn Registers) -> Result<(), Stuck> {
        self.queues_off(hw)?;
        // The heads as they are now that nothing moves.
        page.write32(regs::TDH, hw.read32(regs::TDH));
        Ok(())
    }

    fn queues_off(&mut self, hw: &mut dyn Hardware) -> Result<(), Stuck> {
        self.running = false;
        hw.write32(regs::TXDCTL, 0);
        for _ in 0..TRIES {
            if !is_enabled(hw) {
                return Ok(());
            }
            hw.pause(PAUSE_US);
        }
        Err(Stuck)
    }

    fn start(&mut self, _io: &mut Io<'_>) {
        // FILL IN: program the mirror rings, for the queues that the guest has enabled.
        self.running = true;
    }

    fn pause(&mut self, io: &mut Io<'_>) -> Result<(), Stuck> {
        // FILL IN: leave the RX mirror rings on, with all vectors masked.
        self.stop(io)
    }

    fn listen(
        &mut self,
        _hw: &mut dyn Hardware,
        _page: &mut dyn Registers,
        _mirror: &mut dyn Area,
    ) {
        // FILL IN: start the RX mirror rings, with all vectors masked. This device receives nothing.
    }

    fn poll(&mut self, io: &mut Io<'_>, budget: u32) -> Progress {
        if !self.running {
            return Progress::default();
        }
        // FILL IN: deliver what was received, and raise the vectors of queues on which something happened.
        self.take(io, budget)
    }

    fn stop(&mut self, io: &mut Io<'_>) -> Result<(), Stuck> {
        // FILL IN: send what was taken over and complete it; hold what was received and has no room.
        self.queues_off(io.hw)
    }

    fn held(&self) -> u32 {
        0
    }

    fn may_hand_back(&self) -> bool {
        // Nothing is ever half done here.
        true
    }

    fn hand_back(&mut self, hw: &mut dyn Hardware, page: &mut dyn Registers) -> Result<(), Stuck> {
        self.queues_off(hw)?;
        // In the order of the table: ENABLE comes last.
        for at in regs::RING {
            hw.write32(at, page.read32(at));
        }
        if hw.read32(regs::TDH) != page.read32(regs::TDH) {
            self.queues_off(hw)?;
            return Err(Stuck);
        }
        Ok(())
    }

    fn raise_all(&mut self, _hw: &mut dyn Hardware) {
        // FILL IN: the register that raises vectors: those of all queues.
    }

    fn announce(&mut self, _io: &mut Io<'_>) {
        // FILL IN: a RARP from the guest's address on the mirror ring, while it runs.
    }

    fn control_generation(&self) -> u32 {
        self.generation
    }

    fn save_control(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        w.put_u16(VERSION)?;
        w.put_u32(self.filter)
    }

    fn load_control(&mut self, r: &mut Reader<'_>, hw: &mut dyn Hardware) -> Result<(), Refused> {
        if r.take_u16()? != VERSION {
            return Err(Refused("a control record of another version"));
        }
        let filter = r.take_u32()?;
        r.clone().finish()?;
        // FILL IN: ask the PF, and refuse with its reason, before anything of ours changes.
        hw.write32(regs::FILTER, filter);
        self.set_filter(filter);
        Ok(())
    }

    fn replay_control(&mut self, hw: &mut dyn Hardware) -> Result<(), Refused> {
        hw.write32(regs::FILTER, self.filter);
        Ok(())
    }

    fn save_state(
        &mut self,
        _hw: &mut dyn Hardware,
        page: &mut dyn Registers,
        w: &mut Writer<'_>,
    ) -> Result<(), Full> {
        w.put_u16(VERSION)?;
        for at in regs::RING {
            w.put_u32(page.read32(at))?;
        }
        Ok(())
    }

    fn load_state(
        &mut self,
        r: &mut Reader<'_>,
        _hw: &mut dyn Hardware,
        page: &mut dyn Registers,
    ) -> Result<(), Refused> {
        if r.take_u16()? != VERSION {
            return Err(Refused("a state of another version"));
        }
        let mut ring = [0; regs::RING.len()];
        for val in &mut ring {
            *val = r.take_u32()?;
        }
        r.clone().finish()?;
        // All is checked; ring registers may hold anything, because the guest can write anything there.
        for (at, val) in regs::RING.into_iter().zip(ring) {
            page.write32(at, val);
        }
        Ok(())
    }

    fn save_held(
        &mut self,
        _index: u32,
        _mirror: &mut dyn Area,
        _w: &mut Writer<'_>,
    ) -> Result<(), Full> {
        Err(Full)
    }

    fn load_held(&mut self, _r: &mut Reader<'_>, _mirror: &mut dyn Area) -> Result<(), Refused> {
        Err(Refused("a held frame, which this adapter has none of"))
    }

    fn drop_held(&mut self) {}
}
