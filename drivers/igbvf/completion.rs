// SPDX-License-Identifier: GPL-2.0

//! The end of a packet: the device is done with it, and the guest is told.

use model::adapter::Io;
use model::io::{Area, Fault};
use model::ring::step;

use super::{Packet, Queue, MAX_IN_FLIGHT};
use crate::desc::{self, Desc, Tx};
use crate::mirror::{self, TX_SLOTS};
use crate::regs::{self, nth};

impl Queue {
    /// Completes what the device is done with: whether the guest wants to know.
    pub(crate) fn reap(&mut self, q: usize, io: &mut Io<'_>) -> bool {
        let mut raise = false;
        while self.count > 0 {
            let Some(mut packet) = self.fifo.get(usize::from(self.first)).copied() else {
                break;
            };
            if !is_done(q, io.mirror, &packet) {
                // What goes out again goes with its contexts, though the head may be past the descriptors that they came in, if
                // these were a packet of their own.
                self.note_done(q, io.mirror, &packet);
                break;
            }
            if self.orphans > 0 {
                self.orphans = self.orphans.saturating_sub(1);
            } else {
                raise |= packet.rs != 0;
                let done = self.complete(q, io, &mut packet);
                if let Some(kept) = self.fifo.get_mut(usize::from(self.first)) {
                    *kept = packet;
                }
                if !done {
                    break;
                }
            }
            self.note_done(q, io.mirror, &packet);
            self.place.free(packet.slots.into(), packet.grains);
            self.first = (usize::from(self.first).saturating_add(1) % MAX_IN_FLIGHT) as u8;
            self.count = self.count.saturating_sub(1);
        }
        if self.count == 0 {
            self.done = self.contexts;
        }
        raise
    }

    /// Whether a packet is done that [`reap`](Self::reap) could not complete, because guest memory is busy.
    pub(crate) fn has_done(&self, q: usize, area: &mut dyn Area) -> bool {
        let oldest = self.fifo.get(usize::from(self.first));
        self.count > 0 && oldest.is_some_and(|packet| is_done(q, area, packet))
    }

    /// Remembers the contexts that go out with a packet of the guest: they are where the device has found
    /// them, without RS, so that it has written nothing there.
    fn note_done(&mut self, q: usize, area: &mut dyn Area, packet: &Packet) {
        let (Some(last), true) = (packet.slot, packet.descs > 0) else {
            return;
        };
        let slots = u32::from(packet.slots);
        let first = step(
            TX_SLOTS,
            last.into(),
            TX_SLOTS.saturating_add(1).saturating_sub(slots),
        );
        for n in 0..slots.min(2) {
            let mut bytes = [0; desc::DESC_BYTES];
            area.read(mirror::tx_slot(q, step(TX_SLOTS, first, n)), &mut bytes);
            let raw = Desc::from_bytes(bytes);
            let Tx::Context { index } = raw.parse_tx() else {
                break;
            };
            if let Some(context) = self.done.get_mut(index) {
                *context = Some(raw);
            }
        }
    }

    /// Tells the guest that `packet` was sent; false if its memory is busy. `packet` knows what is left.
    fn complete(&mut self, q: usize, io: &mut Io<'_>, packet: &mut Packet) -> bool {
        let Some(setup) = self.guest else { return true };
        let end = u32::from(packet.end);
        let start = step(
            setup.len,
            end,
            setup.len.saturating_sub(packet.descs.into()),
        );
        while packet.rs != 0 {
            let n = packet.rs.trailing_zeros();
            // Whose context it is has to stay: a later capture looks for contexts in the ring.
            let status =
                desc::status_byte(packet.second & (packet.rs & packet.rs.wrapping_neg()) != 0);
            // ORDER: only the byte with DD is written, so that it cannot be seen before anything else.
            let written = match setup.head_wb {
                Some(at) => io.mem.write(at, &end.to_le_bytes()),
                None => desc::slot(setup.base, step(setup.len, start, n))
                    .and_then(|at| at.checked_add(12).ok_or(Fault::Unmapped))
                    .and_then(|at| io.mem.write(at, &[status])),
            };
            match written {
                // The guest may use a slot again as soon as it has its DD: never write one twice.
                Ok(()) if setup.head_wb.is_none() => packet.rs &= packet.rs.wrapping_sub(1),
                Ok(()) => packet.rs = 0,
                Err(Fault::Busy) => return false,
                // Nobody is there to be told.
                Err(Fault::Unmapped) => packet.rs = 0,
            }
        }
        self.head = end;
        io.page.write32(nth(regs::TDH, q), end);
        true
    }

    /// Waits, bounded, until the device has sent what was taken over: whether the guest wants to know.
    pub(crate) fn drain(&mut self, q: usize, io: &mut Io<'_>) -> bool {
        let mut raise = false;
        self.flush_contexts(q, io.mirror);
        self.kick(q, io.hw);
        for n in 0..mirror::DRAIN_TRIES {
            raise |= self.reap(q, io);
            if self.count == 0 || !self.mirror_on {
                break;
            }
            mirror::pause(io.hw, n);
        }
        raise
    }
}

/// Whether the device is done with `packet`.
fn is_done(q: usize, area: &mut dyn Area, packet: &Packet) -> bool {
    let Some(slot) = packet.slot else { return true };
    let mut status = [0; 4];
    area.read(
        mirror::tx_slot(q, slot.into()).saturating_add(12),
        &mut status,
    );
    u32::from_le_bytes(status) & desc::DD != 0
}
