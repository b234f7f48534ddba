// SPDX-License-Identifier: GPL-2.0

//! Receive: frames of the mirror ring go into the guest's ring, in the guest's own format.
//!
//! The mirror ring is always one-buffer with 2 KiB; SRRCTL of the guest says how a frame is laid out in its
//! descriptors. A frame is delivered whole or, as long as the guest has too few descriptors, not at all: it
//! stays in the mirror ring, and when that is full the hardware drops.

use model::adapter::{Io, Stuck};
use model::counters::Counters;
use model::io::{Area, Fault, GuestMemory, Hardware, Iova, Registers};
use model::ring::{distance, step};

use crate::desc::{self, Desc, Run, DD, RX_EOP, RX_HDR_LEN_SHIFT, RX_RXE};
use crate::frame::{self, Frame};
use crate::held::Held;
use crate::mirror::{self, RX_SLOTS};
use crate::regs::{self, nth};
use crate::setup::{Format, RxRing};

#[path = "burst.rs"]
mod burst;

/// How far the delivery of the oldest frames has come, when guest memory got busy in the middle of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Partial {
    /// Descriptors that the guest has got of the oldest one.
    pub(crate) descs: u8,
    /// Descriptors behind them that are written; only the first of them lacks its DD. If there are several, each is that of a
    /// frame of its own.
    pub(crate) written: u8,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The guest has it.
    Delivered,
    /// It is gone, and counted.
    Dropped,
    /// The guest has no room, or its memory is busy: the same again later.
    Later,
}

/// One RX queue.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The mirror ring runs.
    mirror_on: bool,
    /// The mirror's slot that the next frame starts in.
    next: u32,
    /// Slots that were emptied since the mirror's tail was written.
    emptied: u32,
    /// The guest's ring, while it is enabled.
    guest: Option<RxRing>,
    /// The guest's next free slot: the head as last written to its register.
    head: u32,
    /// Of the oldest frames.
    partial: Partial,
    /// Frames older than those in the mirror ring.
    held: Held,
}

impl Queue {
    pub(crate) const fn new() -> Self {
        Self {
            mirror_on: false,
            next: 0,
            emptied: 0,
            guest: None,
            head: 0,
            partial: Partial {
                descs: 0,
                written: 0,
            },
            held: Held::new(),
        }
    }

    /// Forgets all that the guest has set up; held frames go with it.
    pub(crate) fn reset(&mut self, counters: &mut Counters) {
        self.forget_guest(counters);
        self.mirror_lost();
    }

    /// The mirror ring is off, and what it had is gone.
    pub(crate) fn mirror_lost(&mut self) {
        self.mirror_on = false;
        (self.next, self.emptied) = (0, 0);
    }

    /// The guest has given up its ring.
    pub(crate) fn forget_guest(&mut self, counters: &mut Counters) {
        self.guest = None;
        self.partial = Partial::default();
        self.drop_held(counters);
    }

    pub(crate) fn drop_held(&mut self, counters: &mut Counters) {
        let n = self.held.clear();
        counters.dropped_rx_no_room = counters.dropped_rx_no_room.wrapping_add(n.into());
    }

    pub(crate) fn is_mirror_on(&self) -> bool {
        self.mirror_on
    }

    /// Whether the guest has the queue enabled.
    pub(crate) fn is_guest_on(&self) -> bool {
        self.guest.is_some()
    }

    /// The guest's next free slot.
    pub(crate) fn head(&self) -> u32 {
        self.head
    }

    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    pub(crate) fn held_mut(&mut self) -> &mut Held {
        &mut self.held
    }

    pub(crate) fn partial(&self) -> Partial {
        self.partial
    }

    pub(crate) fn set_partial(&mut self, partial: Partial) {
        self.partial = partial;
    }

    /// Follows the guest's registers: whether it has a ring that can be served.
    pub(crate) fn follow(
        &mut self,
        q: usize,
        page: &mut dyn Registers,
        counters: &mut Counters,
    ) -> bool {
        if !is_enabled(q, page) {
            if self.guest.is_some() {
                self.forget_guest(counters);
            }
            return false;
        }
        let (setup, head) = (
            RxRing::read(q, page),
            page.read32(nth(regs::RDH, q)) & 0xffff,
        );
        if self.guest != Some(setup) || self.head != head {
            // A ring that we served before is another one now; at a start it is the one of before.
            if self.guest.is_some() {
                self.partial = Partial::default();
            }
            (self.guest, self.head) = (Some(setup), head);
            if head >= setup.len {
                counters.bad_rings = counters.bad_rings.wrapping_add(1);
            }
        }
        self.head < setup.len
    }

    /// Switches the mirror ring on.
    pub(crate) fn start(
        &mut self,
        q: usize,
        hw: &mut dyn Hardware,
        area: &mut dyn Area,
    ) -> Result<(), Stuck> {
        self.mirror_lost();
        for slot in 0..RX_SLOTS {
            Self::refill(q, area, slot);
        }
        mirror::start_rx(q, hw, area)?;
        self.mirror_on = true;
        Ok(())
    }

    fn refill(q: usize, area: &mut dyn Area, slot: u32) {
        let desc = Desc::receive(mirror::iova(area, mirror::rx_buffer(q, slot)));
        area.write(mirror::rx_slot(q, slot), &desc.to_bytes());
    }

    /// Gives `slots` slots back to the hardware's ring; the tail is written by [`Self::kick`].
    fn consume(&mut self, q: usize, area: &mut dyn Area, slots: u32) {
        for _ in 0..slots {
            Self::refill(q, area, self.next);
            self.next = step(RX_SLOTS, self.next, 1);
        }
        self.emptied = self.emptied.saturating_add(slots);
    }

    /// Tells the hardware of the slots that were emptied.
    pub(crate) fn kick(&mut self, q: usize, hw: &mut dyn Hardware) {
        if self.emptied > 0 && self.mirror_on {
            self.emptied = 0;
            hw.write32(nth(regs::RDT, q), step(RX_SLOTS, self.next, RX_SLOTS - 1));
        }
    }

    /// If the hardware was stopped in the middle of a frame, ends the part that the guest has got with an
    /// error, so that the next frame is not taken for the rest of it.
    pub(crate) fn end_cut_frame(&mut self, q: usize, io: &mut Io<'_>) {
        let Some(RxRing { base, len, .. }) = self.guest else {
            return;
        };
        let mut bytes = [0; desc::DESC_BYTES];
        let last = step(len, self.head, len.saturating_sub(1));
        let read = desc::slot(base, last).and_then(|at| io.mem.read(at, &mut bytes));
        let Desc([_, _, status, _]) = Desc::from_bytes(bytes);
        let tail = io.page.read32(nth(regs::RDT, q)) & 0xffff;
        if read.is_ok() && status & (DD | RX_EOP) == DD && distance(len, self.head, tail) > 0 {
            let end = Desc([0, 0, RX_EOP | RX_RXE, 0]);
            if publish(base, self.head, io.mem, end).is_ok() {
                self.advance(q, io.page, len, 1);
            }
        }
    }

    fn advance(&mut self, q: usize, page: &mut dyn Registers, len: u32, descs: u32) {
        self.head = step(len, self.head, descs);
        page.write32(nth(regs::RDH, q), self.head);
    }

    /// Delivers at most `budget` frames, the held ones first, or ends a burst that an earlier turn had to interrupt, however long:
    /// how many the guest has got.
    pub(crate) fn relay(
        &mut self,
        q: usize,
        io: &mut Io<'_>,
        budget: u32,
        counters: &mut Counters,
    ) -> u32 {
        let Some(setup) = self.guest.filter(|setup| self.head < setup.len) else {
            return 0;
        };
        let mut run = Run::new(setup.base, setup.len);
        let mut delivered = 0u32;
        if budget > 0 && self.partial.written > 1 {
            delivered = self.end_burst(q, io, &setup, counters);
        }
        let (mut left, mut bursts) = (budget.saturating_sub(delivered), true);
        while left > 0 && self.partial.written <= 1 {
            if bursts {
                let burst = self.deliver_burst(q, io, &setup, &mut run, left);
                // What a ring that cannot be written to has cost once is not to be spent for each of its frames.
                bursts = burst.is_ok();
                if let Some(frames) = burst.ok().filter(|frames| *frames > 0) {
                    delivered = delivered.saturating_add(frames);
                    left = left.saturating_sub(frames);
                    continue;
                }
                if self.partial.written > 1 {
                    break;
                }
            }
            left = left.saturating_sub(1);
            // A guest that switches the queue off frees the buffers soon after.
            if !is_enabled(q, io.page) {
                break;
            }
            let Some((slots, frame)) = self.peek(q, io.mirror, counters) else {
                break;
            };
            let outcome = match &frame {
                Some(frame) => self.deliver(q, io, &setup, &mut run, frame, counters),
                None => {
                    counters.dropped_rx_malformed = counters.dropped_rx_malformed.wrapping_add(1);
                    Outcome::Dropped
                }
            };
            match outcome {
                Outcome::Delivered => delivered = delivered.saturating_add(1),
                Outcome::Dropped => {}
                Outcome::Later => break,
            }
            self.partial = Partial::default();
            match (slots, frame) {
                (0, Some(frame)) => self.held.pop(&frame),
                (slots, _) => self.consume(q, io.mirror, slots),
            }
        }
        counters.rx_frames = counters.rx_frames.wrapping_add(delivered.into());
        delivered
    }

    /// The oldest frame, and the slots it has in the mirror ring.
    fn peek(
        &mut self,
        q: usize,
        area: &mut dyn Area,
        counters: &mut Counters,
    ) -> Option<(u32, Option<Frame>)> {
        if let Some(frame) = self.held.peek(q, area, counters) {
            return Some((0, Some(frame)));
        }
        if !self.mirror_on {
            return None;
        }
        frame::peek_mirror(q, self.next, area)
    }

    /// Whether a frame waits that the guest may have room for.
    pub(crate) fn has_more(&mut self, q: usize, io: &mut Io<'_>, counters: &mut Counters) -> bool {
        let Some(setup) = self.guest else {
            return false;
        };
        let tail = io.page.read32(nth(regs::RDT, q)) & 0xffff;
        let free = distance(setup.len, self.head, tail);
        match self.peek(q, io.mirror, counters) {
            Some((_, Some(frame))) => setup.format.descs(frame.len) <= free,
            Some((_, None)) => true,
            None => false,
        }
    }

    /// Drops what is in the mirror ring, as the hardware does for a queue that is off.
    pub(crate) fn discard(&mut self, q: usize, area: &mut dyn Area) {
        for _ in 0..RX_SLOTS {
            let Some((slots, _)) = self.mirror_frame(q, area) else {
                break;
            };
            self.consume(q, area, slots);
        }
    }

    fn mirror_frame(&self, q: usize, area: &mut dyn Area) -> Option<(u32, Option<Frame>)> {
        self.mirror_on
            .then(|| frame::peek_mirror(q, self.next, area))
            .flatten()
    }

    /// Moves the frames in the mirror ring, which the hardware does not fill any more, to the held ones.
    pub(crate) fn hold(&mut self, q: usize, area: &mut dyn Area, counters: &mut Counters) {
        for _ in 0..RX_SLOTS {
            let Some((slots, frame)) = self.mirror_frame(q, area) else {
                break;
            };
            let counter = match frame {
                Some(frame) if self.held.push(q, area, &frame) => &mut counters.held_frames,
                Some(_) => &mut counters.dropped_rx_no_room,
                None => &mut counters.dropped_rx_malformed,
            };
            *counter = counter.wrapping_add(1);
            self.consume(q, area, slots);
        }
    }

    fn deliver(
        &mut self,
        q: usize,
        io: &mut Io<'_>,
        setup: &RxRing,
        run: &mut Run,
        frame: &Frame,
        counters: &mut Counters,
    ) -> Outcome {
        let (format, len) = (setup.format, setup.len);
        let descs = format.descs(frame.len);
        if descs >= len {
            counters.dropped_rx_no_room = counters.dropped_rx_no_room.wrapping_add(1);
            return Outcome::Dropped;
        }
        let tail = io.page.read32(nth(regs::RDT, q)) & 0xffff;
        let free = distance(len, self.head, tail);
        let done = u32::from(self.partial.descs).min(descs.saturating_sub(1));
        if free < descs.saturating_sub(done) {
            return Outcome::Later;
        }
        let mut unmapped = false;
        let skip = u32::from(self.partial.written);
        for n in done.saturating_add(skip)..descs {
            let ahead = n.saturating_sub(done);
            let copied = run
                .get(
                    io.mem,
                    step(len, self.head, ahead),
                    free.saturating_sub(ahead),
                )
                .and_then(|raw| copy_part(format, frame, n, raw, io));
            match copied {
                Ok(()) => {}
                Err(Fault::Busy) => return Outcome::Later,
                // The descriptors are used up all the same, as by hardware that DMA fails for.
                Err(Fault::Unmapped) => {
                    unmapped = true;
                    break;
                }
            }
        }
        for n in done..descs {
            let desc = write_back(format, frame, n, descs, unmapped);
            let written = if self.partial.written > 0 {
                publish_dd(setup.base, self.head, io.mem, desc)
            } else {
                let whole = write_desc(setup.base, self.head, io.mem, desc);
                self.partial.written = whole.is_ok().into();
                whole.and_then(|()| publish_dd(setup.base, self.head, io.mem, desc))
            };
            match written {
                Ok(()) => {}
                Err(Fault::Busy) => return Outcome::Later,
                Err(Fault::Unmapped) => unmapped = true,
            }
            self.partial = Partial {
                descs: n.saturating_add(1) as u8,
                written: 0,
            };
            self.advance(q, io.page, len, 1);
        }
        if unmapped {
            counters.dropped_rx_unmapped = counters.dropped_rx_unmapped.wrapping_add(1);
            return Outcome::Dropped;
        }
        Outcome::Delivered
    }
}

fn is_enabled(q: usize, page: &mut dyn Registers) -> bool {
    page.read32(nth(regs::RXDCTL, q)) & regs::ENABLE != 0
}

/// Copies the part of `frame` that belongs to its descriptor `n`, which reads as `raw`.
fn copy_part(
    format: Format,
    frame: &Frame,
    n: u32,
    raw: Desc,
    io: &mut Io<'_>,
) -> Result<(), Fault> {
    let header = format.in_header(frame.len);
    if n == 0 && header > 0 {
        frame.copy_to_guest(io.mirror, 0, header, io.mem, bit0_off(raw.high_address()))?;
    }
    let (start, bytes) = format.in_buffer(frame.len, n);
    frame.copy_to_guest(io.mirror, start, bytes, io.mem, bit0_off(raw.low_address()))
}

/// Bit 0 of an address is no part of it.
fn bit0_off(at: Iova) -> Iova {
    Iova(at.0 & !1)
}

/// Descriptor `n` of `descs` for `frame` as the guest is to find it, without DD.
fn write_back(format: Format, frame: &Frame, n: u32, descs: u32, failed: bool) -> Desc {
    let (_, bytes) = format.in_buffer(frame.len, n);
    let header = if n == 0 {
        format.in_header(frame.len) as u32
    } else {
        0
    };
    let types = frame.meta.types | header << RX_HDR_LEN_SHIFT;
    if n.saturating_add(1) < descs {
        return Desc([types, 0, 0, bytes as u32]);
    }
    let error = if failed { RX_RXE } else { 0 };
    let status = (frame.meta.status | RX_EOP | error) & !DD;
    Desc([
        types,
        frame.meta.hash,
        status,
        bytes as u32 | u32::from(frame.meta.vlan) << 16,
    ])
}

/// Writes `desc`, which is without DD, to a slot.
fn write_desc(base: Iova, index: u32, mem: &mut dyn GuestMemory, desc: Desc) -> Result<(), Fault> {
    mem.write(desc::slot(base, index)?, &desc.to_bytes())
}

/// Sets DD of `desc` in its slot.
fn publish_dd(base: Iova, index: u32, mem: &mut dyn GuestMemory, desc: Desc) -> Result<(), Fault> {
    let Desc([_, _, status, _]) = desc;
    let at = desc::slot(base, index)?
        .checked_add(8)
        .ok_or(Fault::Unmapped)?;
    // ORDER: payload and the rest of the descriptor, by earlier calls, before the one byte that holds DD: the
    // guest looks at nothing until it sees that.
    mem.write(at, &[(status | DD) as u8])
}

fn publish(base: Iova, index: u32, mem: &mut dyn GuestMemory, desc: Desc) -> Result<(), Fault> {
    write_desc(base, index, mem, desc)?;
    publish_dd(base, index, mem, desc)
}

#[cfg(test)]
#[path = "rx_tests.rs"]
mod tests;
