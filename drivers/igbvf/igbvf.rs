// SPDX-License-Identifier: GPL-2.0

//! The 82576 virtual function (8086:10ca), and QEMU's `igbvf`, as semiassign models it.
//!
//! - [`regs`]: registers by name.
//! - `desc`: descriptors. `mirror`: the hardware rings we own while the VF is captured.
//! - `tx`, `rx`, `frame`: what moves between the guest's rings and those.
//! - `mailbox`, `control`: what the guest asks of its PF. `irq`, `stats`: the rest of the registers.
//! - `state`: what travels.
//!
//! Sources: kernel 7.3's igbvf and igb, QEMU 11.1's igb, and the siblings' datasheets.

#![no_std]
#![forbid(unsafe_code)]

mod announce;
mod control;
mod desc;
mod frame;
mod held;
mod image;
mod irq;
mod mailbox;
mod mirror;
mod pause;
mod place;
pub mod regs;
mod repair;
#[cfg(test)]
mod rig;
mod rx;
mod setup;
mod state;
mod stats;
mod trap;
mod tx;

use model::adapter::{Adapter, Io, Layout, Progress, Stuck};
use model::counters::Counters;
use model::image::{Full, Reader, Refused, Writer};
use model::io::{Area, Hardware, Registers};
use model::register::Register;

use crate::control::{Record, Repeated};
use crate::irq::{Causes, Interrupts};
use crate::mailbox::Mailbox;
use crate::regs::{nth, ENABLE, QUEUES};
use crate::stats::Statistics;

/// The fixed facts.
pub static LAYOUT: Layout = Layout {
    name: "igbvf",
    image_id: 0x8086_10ca,
    bar_bytes: 0x4000,
    trapped: (0, 0x1000),
    substituted: (0x2000, 0x4000),
    mirror_bytes: mirror::BYTES,
};

/// One 82576 virtual function.
#[derive(Debug)]
pub struct Igbvf {
    counters: Counters,
    /// What the guest asked of its PF.
    control: Record,
    /// Changes when `control` does.
    generation: u32,
    /// How much of `control` was repeated to this VF's PF on behalf of an image.
    repeated: Repeated,
    mailbox: Mailbox,
    statistics: Statistics,
    psrtype: u32,
    /// The interrupt registers as last seen right.
    interrupts: Interrupts,
    tx: [tx::Queue; QUEUES],
    rx: [rx::Queue; QUEUES],
    /// Between start and stop.
    running: bool,
    /// Paused, or loaded and not started: the RX mirror rings run all the same.
    listening: bool,
    /// The vectors were masked for that: what the guest has for them is in `interrupts`.
    masked: bool,
    /// Captured from the hardware, and not started since.
    fresh: bool,
    /// The PF was reset behind the guest's back: the record has to be repeated.
    lost: bool,
    /// The mirror rings went with it.
    mirror_gone: bool,
    /// Turns since the hardware was looked at.
    turns: u32,
    /// The queue that comes first in the next turn: one that always has frames must not take every turn's budget.
    first: usize,
}

impl Default for Igbvf {
    fn default() -> Self {
        Self::new()
    }
}

impl Igbvf {
    /// A VF that nobody has set up.
    pub const fn new() -> Self {
        Self {
            counters: Counters::new(),
            control: Record::new(),
            generation: 0,
            repeated: Repeated::No,
            mailbox: Mailbox::new(),
            statistics: Statistics::new(),
            psrtype: 0,
            interrupts: Interrupts::new(),
            tx: [const { tx::Queue::new() }; QUEUES],
            rx: [const { rx::Queue::new() }; QUEUES],
            running: false,
            listening: false,
            masked: false,
            fresh: false,
            lost: false,
            mirror_gone: false,
            turns: 0,
            first: 0,
        }
    }

    /// Follows the guest's ring registers, and starts the mirror rings that are missing.
    fn follow(&mut self, io: &mut Io<'_>) {
        let Self {
            tx, rx, counters, ..
        } = self;
        let mut stuck = false;
        for (q, (tx, rx)) in tx.iter_mut().zip(rx).enumerate() {
            if tx.follow(q, io.page, counters) && !tx.is_mirror_on() {
                stuck |= tx.start(q, io.hw, io.mirror).is_err();
            }
            if rx.follow(q, io.page, counters) && !rx.is_mirror_on() {
                stuck |= rx.start(q, io.hw, io.mirror).is_err();
            }
        }
        if stuck {
            self.lose(io.hw);
        }
    }

    /// Whether a descriptor was half delivered. It has lost its addresses: the hardware must not see it.
    fn is_partial(&self) -> bool {
        let whole = rx::Partial::default();
        self.rx.iter().any(|rx| rx.partial() != whole)
    }

    /// Moves frames both ways.
    fn relay(&mut self, io: &mut Io<'_>, budget: u32) -> Progress {
        let mut causes = Causes::default();
        let (mut sent, mut received, mut more) = (0u32, 0u32, false);
        let first = self.first;
        self.first = first.saturating_add(1) % QUEUES;
        let order = (0..QUEUES).map(|n| first.saturating_add(n) % QUEUES);
        for q in order.clone() {
            let Some(tx) = self.tx.get_mut(q) else { break };
            let mut raise = tx.reap(q, io);
            let left = budget.saturating_sub(sent);
            let packets = tx.fetch(q, io, left, &mut self.counters);
            if packets > 0 {
                // The device may have sent them before the doorbell's write returned.
                raise |= tx.reap(q, io);
            }
            if raise {
                causes.tx(q);
            }
            sent = sent.saturating_add(packets);
            more |= packets == left && tx.has_more(q, io.page);
        }
        for q in order {
            let Some(rx) = self.rx.get_mut(q) else { break };
            let (left, head) = (budget.saturating_sub(received), rx.head());
            let frames = rx.relay(q, io, left, &mut self.counters);
            if !rx.is_guest_on() {
                rx.discard(q, io.mirror);
            }
            rx.kick(q, io.hw);
            // Also for descriptors that say that their frame was lost.
            if frames > 0 || rx.head() != head {
                causes.rx(q);
            }
            received = received.saturating_add(frames);
            more |= frames >= left && rx.has_more(q, io, &mut self.counters);
        }
        causes.raise(io.hw);
        Progress {
            frames: sent.saturating_add(received),
            more,
        }
    }
}

/// Whether any queue is enabled.
fn is_active<R: Registers + ?Sized>(regs: &mut R) -> bool {
    (0..QUEUES).any(|q| {
        (regs.read32(nth(regs::RXDCTL, q)) | regs.read32(nth(regs::TXDCTL, q))) & ENABLE != 0
    })
}

impl Adapter for Igbvf {
    fn layout(&self) -> &'static Layout {
        &LAYOUT
    }

    fn registers(&self) -> &'static [Register] {
        &regs::TABLE
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn reset(&mut self, hw: &mut dyn Hardware, page: Option<&mut dyn Registers>) {
        let Self {
            counters,
            control,
            generation,
            repeated,
            mailbox,
            statistics,
            psrtype,
            interrupts,
            tx,
            rx,
            running: _, // the kernel's business: the mirror starts again when the guest does
            listening,
            masked,
            fresh,
            lost,
            mirror_gone,
            turns,
            first,
        } = self;
        *control = Record::new();
        *generation = generation.wrapping_add(1);
        *repeated = Repeated::No;
        *mailbox = Mailbox::new();
        *psrtype = 0;
        *interrupts = Interrupts::new();
        for (tx, rx) in tx.iter_mut().zip(rx) {
            tx.reset();
            rx.reset(counters);
        }
        (*listening, *masked, *fresh) = (false, false, false);
        (*lost, *mirror_gone, *turns, *first) = (false, false, 0, 0);
        // A reset does not take the buffer away from a driver that died with it, and the PF waits for it.
        hw.write32(regs::V2PMAILBOX, 0);
        hw.write32(regs::EIMC, u32::MAX);
        statistics.rebase(hw);
        if let Some(page) = page {
            regs::reset_rings(page);
        }
    }

    fn read(&mut self, at: u32, hw: &mut dyn Hardware, page: Option<&mut dyn Registers>) -> u32 {
        self.trap_read(at, hw, page.is_some())
    }

    fn write(
        &mut self,
        at: u32,
        val: u32,
        hw: &mut dyn Hardware,
        page: Option<&mut dyn Registers>,
    ) {
        self.trap_write(at, val, hw, page);
    }

    fn is_active(&self, regs: &mut dyn Registers) -> bool {
        is_active(regs)
    }

    fn check_migratable(&self, regs: &mut dyn Registers) -> Result<(), &'static str> {
        self.control.check()?;
        for q in 0..QUEUES {
            // A PF's reset leaves queue 0 enabled, and without a ring: the format of no ring matters to nobody.
            let has_ring = |regs: &mut dyn Registers, control, len| {
                regs.read32(nth(control, q)) & ENABLE != 0 && regs.read32(nth(len, q)) != 0
            };
            if has_ring(regs, regs::RXDCTL, regs::RDLEN) {
                setup::check_format(regs.read32(nth(regs::SRRCTL, q)))?;
            }
            if has_ring(regs, regs::TXDCTL, regs::TDLEN) {
                let [tdwbal, tdlen] = [regs::TDWBAL, regs::TDLEN].map(|at| regs.read32(nth(at, q)));
                setup::check_write_back(tdwbal, tdlen)?;
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, hw: &mut dyn Hardware, page: &mut dyn Registers) {
        regs::for_each_ring_register(|at| page.write32(at, hw.read32(at)));
    }

    fn quiesce(&mut self, hw: &mut dyn Hardware, page: &mut dyn Registers) -> Result<(), Stuck> {
        for q in 0..QUEUES {
            mirror::drain_guest(q, hw);
        }
        self.queues_off(hw)?;
        for q in 0..QUEUES {
            mirror::take_heads(q, hw, page);
        }
        for (tx, rx) in self.tx.iter_mut().zip(&mut self.rx) {
            // What was known of the rings of an earlier capture is not true any more.
            tx.reset();
            rx.reset(&mut self.counters);
        }
        (self.listening, self.masked, self.fresh) = (false, false, true);
        (self.lost, self.mirror_gone, self.turns) = (false, false, 0);
        self.interrupts = Interrupts::read(hw, is_active(page));
        self.expose_reset(hw);
        Ok(())
    }

    fn queues_off(&mut self, hw: &mut dyn Hardware) -> Result<(), Stuck> {
        let mut result = Ok(());
        self.running = false;
        for at in [regs::RXDCTL, regs::TXDCTL] {
            for q in 0..QUEUES {
                result = result.and(mirror::switch_off(hw, nth(at, q)));
            }
        }
        // A read pushes posted writes of the device before it.
        hw.read32(regs::STATUS);
        result
    }

    fn start(&mut self, io: &mut Io<'_>) {
        let fresh = core::mem::take(&mut self.fresh);
        let listening = core::mem::take(&mut self.listening);
        for (tx, rx) in self.tx.iter_mut().zip(&mut self.rx) {
            tx.mirror_lost();
            if !listening {
                rx.mirror_lost();
            }
        }
        if core::mem::take(&mut self.masked) {
            self.interrupts.unmask(io.hw);
        }
        self.running = true;
        if !self.lost {
            self.turns = 0;
        }
        self.follow(io);
        if fresh {
            for (q, (tx, rx)) in self.tx.iter_mut().zip(&mut self.rx).enumerate() {
                tx.scan_contexts(q, io.page, io.mem);
                rx.end_cut_frame(q, io);
            }
        }
    }

    fn listen(&mut self, hw: &mut dyn Hardware, page: &mut dyn Registers, mirror: &mut dyn Area) {
        self.listening = true;
        self.mask(hw);
        for (q, rx) in self.rx.iter_mut().enumerate() {
            if rx.follow(q, page, &mut self.counters) {
                // One that does not start is started again with the others.
                let _ = rx.start(q, hw, mirror);
            }
        }
    }

    fn poll(&mut self, io: &mut Io<'_>, budget: u32) -> Progress {
        if !self.running {
            return Progress::default();
        }
        self.turns = self.turns.saturating_add(1);
        if self.lost && !self.retry(io.hw) {
            self.wait_for_pf(io);
            return Progress::default();
        }
        if self.mirror_gone {
            self.drop_mirrors(io);
        }
        self.follow(io);
        let progress = self.relay(io, budget);
        self.check_hardware(io, progress.frames == 0);
        progress
    }

    fn pause(&mut self, io: &mut Io<'_>) -> Result<(), Stuck> {
        self.settle(io.hw);
        if !self.running {
            return Ok(());
        }
        let result = self.finish(io, |_, hw| {
            (0..QUEUES).try_for_each(|q| mirror::switch_off(hw, nth(regs::TXDCTL, q)))
        });
        for (q, rx) in self.rx.iter_mut().enumerate() {
            rx.kick(q, io.hw);
        }
        let now = Interrupts::read(io.hw, is_active(io.page));
        if now.is_set_up() {
            self.interrupts = now;
        }
        self.mask(io.hw);
        (self.running, self.listening) = (false, true);
        result
    }

    fn stop(&mut self, io: &mut Io<'_>) -> Result<(), Stuck> {
        self.settle(io.hw);
        if self.listening {
            return self.deafen(io);
        }
        if !self.running {
            return self.queues_off(io.hw);
        }
        let result = self.finish(io, Self::queues_off);
        self.hold_all(io);
        result
    }

    fn held(&self) -> u32 {
        self.rx
            .iter()
            .fold(0, |sum, rx| sum.saturating_add(rx.held().count()))
    }

    fn may_hand_back(&self) -> bool {
        !self.lost && !self.is_partial()
    }

    fn hand_back(&mut self, hw: &mut dyn Hardware, page: &mut dyn Registers) -> Result<(), Stuck> {
        if self.is_partial() {
            return Err(Stuck);
        }
        self.queues_off(hw)?;
        // The guest was told nothing of it: what it gets back has to work.
        if self.lost && !self.repair(hw) {
            return Err(Stuck);
        }
        for q in 0..QUEUES {
            if let Err(stuck) = mirror::hand_back(q, hw, page) {
                self.queues_off(hw)?;
                return Err(stuck);
            }
        }
        for q in 0..QUEUES {
            mirror::hand_back_tails(q, hw, page);
        }
        self.drop_held();
        for (tx, rx) in self.tx.iter_mut().zip(&mut self.rx) {
            tx.reset();
            rx.reset(&mut self.counters);
        }
        Ok(())
    }

    fn raise_all(&mut self, hw: &mut dyn Hardware) {
        irq::raise_all(hw, self.mailbox.unread() != 0);
    }

    fn announce(&mut self, io: &mut Io<'_>) {
        self.send_announcements(io);
    }

    fn control_generation(&self) -> u32 {
        self.generation
    }

    fn save_control(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        self.control.save(w)
    }

    fn load_control(&mut self, r: &mut Reader<'_>, hw: &mut dyn Hardware) -> Result<(), Refused> {
        self.take_control(r, hw)
    }

    fn replay_control(&mut self, hw: &mut dyn Hardware) -> Result<(), Refused> {
        self.give_control(hw)
    }

    fn save_state(
        &mut self,
        hw: &mut dyn Hardware,
        page: &mut dyn Registers,
        w: &mut Writer<'_>,
    ) -> Result<(), Full> {
        self.put_state(hw, page, w)
    }

    fn load_state(
        &mut self,
        r: &mut Reader<'_>,
        hw: &mut dyn Hardware,
        page: &mut dyn Registers,
    ) -> Result<(), Refused> {
        self.take_state(r, hw, page)
    }

    fn save_held(
        &mut self,
        index: u32,
        mirror: &mut dyn Area,
        w: &mut Writer<'_>,
    ) -> Result<(), Full> {
        let mut index = index;
        for (q, rx) in self.rx.iter_mut().enumerate() {
            match index.checked_sub(rx.held().count()) {
                None => return rx.held_mut().save(q, index, mirror, w),
                Some(left) => index = left,
            }
        }
        Err(Full)
    }

    fn load_held(&mut self, r: &mut Reader<'_>, mirror: &mut dyn Area) -> Result<(), Refused> {
        let q = usize::from(r.take_u8()?);
        let rx = self
            .rx
            .get_mut(q)
            .ok_or(Refused("a held frame of a queue that does not exist"))?;
        rx.held_mut().load(q, r, mirror)
    }

    fn drop_held(&mut self) {
        for rx in &mut self.rx {
            rx.drop_held(&mut self.counters);
        }
    }
}

#[cfg(test)]
#[path = "igbvf_tests.rs"]
mod tests;
