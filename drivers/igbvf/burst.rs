// SPDX-License-Identifier: GPL-2.0

//! Frames that are delivered together: those that take one slot and one descriptor each, which is nearly all.
//!
//! However many they are, their descriptors take two writes.

use model::adapter::Io;
use model::counters::Counters;
use model::io::{Fault, Iova};
use model::ring::{distance, step};

use super::{copy_part, is_enabled, publish_dd, write_back, Partial, Queue};
use crate::desc::{self, Desc, Run, DD, DESC_BYTES, RUN, RX_EOP};
use crate::frame;
use crate::mirror::RX_SLOTS;
use crate::regs::{self, nth};
use crate::setup::RxRing;

/// Bytes within which a write is done or, if memory is busy, not begun.
const PAGE_BYTES: u64 = 4096;

/// Descriptors as the guest is to find them, one after the other in its ring: all with DD but the first, so that it looks at
/// none of them before that one has it.
struct Burst {
    bytes: [u8; RUN as usize * DESC_BYTES],
    count: u32,
}

impl Burst {
    const fn new() -> Self {
        Self {
            bytes: [0; RUN as usize * DESC_BYTES],
            count: 0,
        }
    }

    /// Adds `desc`, which is without DD.
    fn push(&mut self, desc: Desc) {
        let Desc([types, hash, status, tail]) = desc;
        let dd = if self.count == 0 { 0 } else { DD };
        let shown = Desc([types, hash, status | dd, tail]);
        let at = (self.count as usize).saturating_mul(DESC_BYTES);
        if let Some(bytes) = self.bytes.get_mut(at..at.saturating_add(DESC_BYTES)) {
            bytes.copy_from_slice(&shown.to_bytes());
            self.count = self.count.saturating_add(1);
        }
    }

    /// The first one, without DD.
    fn first(&self) -> Desc {
        Desc::from_bytes(*self.bytes.first_chunk().unwrap_or(&[0; DESC_BYTES]))
    }

    fn bytes(&self) -> &[u8] {
        let len = (self.count as usize).saturating_mul(DESC_BYTES);
        self.bytes.get(..len).unwrap_or(&[])
    }
}

impl Queue {
    /// Delivers the oldest frames of the mirror ring, at most `budget`: how many. None, if the oldest one has to be looked at on
    /// its own.
    ///
    /// # Errors
    ///
    /// As the guest's ring has it; if memory is busy, [`Partial::written`] says how far it came.
    pub(super) fn deliver_burst(
        &mut self,
        q: usize,
        io: &mut Io<'_>,
        setup: &RxRing,
        run: &mut Run,
        budget: u32,
    ) -> Result<u32, Fault> {
        if !self.mirror_on || self.held.count() > 0 || self.partial != Partial::default() {
            return Ok(0);
        }
        let burst = self.gather(q, io, setup, run, budget);
        if burst.count == 0 || !is_enabled(q, io.page) {
            return Ok(0);
        }
        let at = desc::slot(setup.base, self.head)?;
        io.mem.write(at, burst.bytes())?;
        if publish_dd(setup.base, self.head, io.mem, burst.first()) == Err(Fault::Busy) {
            self.partial.written = burst.count as u8;
            return Err(Fault::Busy);
        }
        // If the DD could not be written, nobody is there to be told.
        self.consume(q, io.mirror, burst.count);
        self.advance(q, io.page, setup.len, burst.count);
        Ok(burst.count)
    }

    /// Ends a burst that lacks only its DD: how many frames.
    pub(super) fn end_burst(
        &mut self,
        q: usize,
        io: &mut Io<'_>,
        setup: &RxRing,
        counters: &mut Counters,
    ) -> u32 {
        let first = match self.peek(q, io.mirror, counters) {
            Some((_, Some(oldest))) => write_back(setup.format, &oldest, 0, 1, false),
            // Its device has spoiled it since; all but this byte is with the guest, which waits there.
            _ => Desc([0, 0, RX_EOP, 0]),
        };
        if publish_dd(setup.base, self.head, io.mem, first) == Err(Fault::Busy) {
            return 0;
        }
        let descs = u32::from(core::mem::take(&mut self.partial).written);
        for _ in 0..descs {
            // They may be held by now.
            match self.peek(q, io.mirror, counters) {
                Some((0, Some(frame))) => self.held.pop(&frame),
                Some((slots, _)) => self.consume(q, io.mirror, slots),
                None => break,
            }
        }
        self.advance(q, io.page, setup.len, descs);
        descs
    }

    /// Copies what the guest's buffers can take, up to a frame that needs more than one, or up to the end of the ring or of a page
    /// of it.
    fn gather(
        &self,
        q: usize,
        io: &mut Io<'_>,
        setup: &RxRing,
        run: &mut Run,
        budget: u32,
    ) -> Burst {
        let mut burst = Burst::new();
        let tail = io.page.read32(nth(regs::RDT, q)) & 0xffff;
        let free = distance(setup.len, self.head, tail);
        let most = free
            .min(budget)
            .min(setup.len.saturating_sub(self.head))
            .min(descs_to_page_end(setup.base, self.head))
            .min(RUN);
        for n in 0..most {
            // A guest that switches the queue off frees the buffers soon after.
            if !is_enabled(q, io.page) {
                break;
            }
            let slot = step(RX_SLOTS, self.next, n);
            let Some((1, Some(frame))) = frame::peek_mirror(q, slot, io.mirror) else {
                break;
            };
            if setup.format.descs(frame.len) != 1 {
                break;
            }
            let copied = run
                .get(io.mem, self.head.saturating_add(n), free.saturating_sub(n))
                .and_then(|raw| copy_part(setup.format, &frame, 0, raw, io));
            if copied.is_err() {
                break;
            }
            burst.push(write_back(setup.format, &frame, 0, 1, false));
        }
        burst
    }
}

/// How many descriptors from `index` on are in the same page as that one, and at least one.
fn descs_to_page_end(base: Iova, index: u32) -> u32 {
    let at = base
        .0
        .wrapping_add(u64::from(index).wrapping_mul(DESC_BYTES as u64));
    let bytes = PAGE_BYTES.saturating_sub(at % PAGE_BYTES);
    ((bytes / DESC_BYTES as u64) as u32).max(1)
}

#[cfg(test)]
#[path = "burst_tests.rs"]
mod tests;
