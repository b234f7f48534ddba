// SPDX-License-Identifier: GPL-2.0

//! Transmit: packets of the guest's ring go out through the mirror ring.
//!
//! A packet is taken over whole or not at all: its descriptors are read once, its payload is copied into the
//! pool, and the mirror's tail moves past it. When the device is done with it the guest's descriptors that
//! asked for a status get their DD. Whatever cannot be reached for the moment stays in the guest's ring.

use model::adapter::{Io, Stuck};
use model::counters::Counters;
use model::io::{Area, Fault, GuestMemory, Hardware, Iova, Registers};
use model::ring::{distance, step};

use crate::desc::{Desc, Run, Tx};
use crate::mirror;
use crate::place::Place;
use crate::regs::{self, nth};
use crate::setup::TxRing;

#[path = "completion.rs"]
mod completion;

/// Most descriptors of one packet (Linux makes 19, the hardware takes about 40).
const MAX_PACKET_DESCS: u32 = 64;
/// Most bytes of one packet that the device cuts into segments.
const MAX_PACKET_BYTES: usize = 256 * 1024;
/// Most bytes of one packet that is sent as it is.
const MAX_FRAME_BYTES: usize = 16 * 1024;
/// Packets that are with the device, at most.
const MAX_IN_FLIGHT: usize = 64;
/// Bytes of the shortest frame without its checksum.
const MIN_FRAME_BYTES: usize = 60;
/// Bytes of an inline VLAN tag.
const VLAN_TAG_BYTES: usize = 4;

/// One packet that is with the device, or waits behind one that is.
#[derive(Clone, Copy, Debug, Default)]
struct Packet {
    /// Which of its descriptors want a DD, from the first.
    rs: u64,
    /// Which of those name the second context.
    second: u64,
    /// The guest's slot after it.
    end: u16,
    /// The mirror's slot whose DD says that it is done; none if it has no part in the mirror.
    slot: Option<u8>,
    /// The guest's descriptors.
    descs: u8,
    /// The mirror's slots.
    slots: u8,
    /// Grains of the pool.
    grains: u16,
}

/// What became of a packet.
enum Taken {
    /// It is with the device, or was dropped.
    Done,
    /// Its end was not handed over yet.
    Incomplete,
    /// There is no room, or guest memory is busy: the same again later.
    Later,
}

/// One TX queue.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The mirror ring runs.
    mirror_on: bool,
    /// What of the mirror is used up to the next packet.
    place: Place,
    /// The guest's ring, while it is enabled.
    guest: Option<TxRing>,
    /// The guest's next descriptor that was not taken over.
    fetched: u32,
    /// The head as last written to the guest's register.
    head: u32,
    /// The tail up to which a packet was found incomplete.
    incomplete: Option<u32>,
    /// The packet to be dropped goes on.
    skipping: bool,
    /// Offload contexts, as the guest last gave them.
    contexts: [Option<Desc>; 2],
    /// Offload contexts, as they were when the head was reached: those of what is sent again.
    done: [Option<Desc>; 2],
    /// Which of them the mirror ring has not seen.
    unsent: [bool; 2],
    /// Packets in flight, oldest first from `first`.
    fifo: [Packet; MAX_IN_FLIGHT],
    first: u8,
    count: u8,
    /// How many of the oldest belong to a ring that the guest has given up.
    orphans: u8,
}

impl Queue {
    pub(crate) const fn new() -> Self {
        Self {
            mirror_on: false,
            place: Place {
                next: 0,
                slots: 0,
                grain: 0,
                grains: 0,
            },
            guest: None,
            fetched: 0,
            head: 0,
            incomplete: None,
            skipping: false,
            contexts: [None; 2],
            done: [None; 2],
            unsent: [false; 2],
            fifo: [Packet {
                rs: 0,
                second: 0,
                end: 0,
                slot: None,
                descs: 0,
                slots: 0,
                grains: 0,
            }; MAX_IN_FLIGHT],
            first: 0,
            count: 0,
            orphans: 0,
        }
    }

    /// Forgets all that the guest has set up.
    pub(crate) fn reset(&mut self) {
        self.forget_guest();
        self.mirror_lost();
        self.set_contexts([None; 2]);
        self.unsent = [false; 2];
    }

    /// The mirror ring is off: what it had is gone, and what the guest still owns of it is sent again.
    pub(crate) fn mirror_lost(&mut self) {
        self.mirror_on = false;
        if self.count > 0 {
            self.contexts = self.done;
        }
        self.place = Place::new();
        (self.first, self.count, self.orphans) = (0, 0, 0);
        self.fetched = self.head;
        self.incomplete = None;
        self.skipping = false;
    }

    /// The guest has given up its ring: nothing of it is touched any more.
    pub(crate) fn forget_guest(&mut self) {
        self.guest = None;
        self.orphans = self.count;
        self.incomplete = None;
        self.skipping = false;
    }

    pub(crate) fn is_mirror_on(&self) -> bool {
        self.mirror_on
    }

    pub(crate) fn contexts(&self) -> [Option<Desc>; 2] {
        self.contexts
    }

    pub(crate) fn set_contexts(&mut self, contexts: [Option<Desc>; 2]) {
        (self.contexts, self.done) = (contexts, contexts);
    }

    /// Follows the guest's registers: whether it has a ring that can be served.
    pub(crate) fn follow(
        &mut self,
        q: usize,
        page: &mut dyn Registers,
        counters: &mut Counters,
    ) -> bool {
        if page.read32(nth(regs::TXDCTL, q)) & regs::ENABLE == 0 {
            if self.guest.is_some() {
                self.forget_guest();
            }
            return false;
        }
        let (setup, head) = (
            TxRing::read(q, page),
            page.read32(nth(regs::TDH, q)) & 0xffff,
        );
        if self.guest != Some(setup) || self.head != head {
            self.forget_guest();
            self.guest = Some(setup);
            (self.head, self.fetched) = (head, head);
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
        mirror::start_tx(q, hw, area)?;
        self.mirror_on = true;
        for (unsent, context) in self.unsent.iter_mut().zip(&self.contexts) {
            *unsent = context.is_some();
        }
        self.flush_contexts(q, area);
        self.ring_doorbell(q, hw);
        Ok(())
    }

    /// Looks for the contexts that the guest gave the hardware before we took over: the newest of each
    /// kind before the head. A driver that cleans its slots spoils them, but such a driver sends a context
    /// with every packet.
    pub(crate) fn scan_contexts(
        &mut self,
        q: usize,
        page: &mut dyn Registers,
        mem: &mut dyn GuestMemory,
    ) {
        const SCAN: u32 = 256;
        let Some(TxRing { base, len, .. }) = self.guest else {
            return;
        };
        let tail = page.read32(nth(regs::TDT, q)) & 0xffff;
        let old = len
            .saturating_sub(distance(len, self.head, tail))
            .saturating_sub(1)
            .min(SCAN);
        self.contexts = [None; 2];
        // Oldest first, so that the newest one of a kind stays.
        let first = step(len, self.head, len.saturating_sub(old));
        let mut run = Run::new(base, len);
        for n in 0..old {
            let Ok(raw) = run.get(mem, step(len, first, n), old.saturating_sub(n)) else {
                break;
            };
            self.note_context(raw);
        }
        self.done = self.contexts;
    }

    /// Remembers `raw` if it is a context, to be sent before the next packet.
    fn note_context(&mut self, raw: Desc) -> bool {
        let Tx::Context { index } = raw.parse_tx() else {
            return false;
        };
        if let (Some(context), Some(mark)) =
            (self.contexts.get_mut(index), self.unsent.get_mut(index))
        {
            *context = Some(raw);
            *mark = true;
        }
        true
    }

    /// Takes over packets of the guest, at most `budget`: how many.
    pub(crate) fn fetch(
        &mut self,
        q: usize,
        io: &mut Io<'_>,
        budget: u32,
        counters: &mut Counters,
    ) -> u32 {
        let Some(setup) = self.guest else { return 0 };
        let tail = io.page.read32(nth(regs::TDT, q)) & 0xffff;
        let before = self.place.next;
        let mut run = Run::new(setup.base, setup.len);
        let mut packets = 0u32;
        while packets < budget && self.mirror_on && self.has_room() {
            let pending = distance(setup.len, self.fetched, tail);
            if pending == 0 || self.incomplete == Some(tail) {
                break;
            }
            match self.take_packet(q, io, setup.len, &mut run, pending, counters) {
                Taken::Done => packets = packets.saturating_add(1),
                Taken::Incomplete => self.incomplete = Some(tail),
                Taken::Later => break,
            }
        }
        if self.place.next != before {
            self.ring_doorbell(q, io.hw);
        }
        packets
    }

    /// Whether the guest has packets that were not taken over and could be.
    pub(crate) fn has_more(&self, q: usize, page: &mut dyn Registers) -> bool {
        let tail = page.read32(nth(regs::TDT, q)) & 0xffff;
        let pending = self
            .guest
            .map_or(0, |setup| distance(setup.len, self.fetched, tail));
        pending != 0 && self.incomplete != Some(tail) && self.mirror_on && self.has_room()
    }

    fn has_room(&self) -> bool {
        usize::from(self.count) < MAX_IN_FLIGHT
    }

    fn ring_doorbell(&self, q: usize, hw: &mut dyn Hardware) {
        hw.write32(nth(regs::TDT, q), self.place.next);
    }

    fn take_packet(
        &mut self,
        q: usize,
        io: &mut Io<'_>,
        len: u32,
        run: &mut Run,
        pending: u32,
        counters: &mut Counters,
    ) -> Taken {
        let mut place = self.place;
        let (mut rs, mut second) = (0u64, 0u64);
        let (mut bytes, mut segmented) = (0usize, false);
        let mut in_data = self.skipping;
        // A packet that was cut off before: counted then, and only its end is of interest.
        let mut bad = self.skipping.then_some(Reject::Rest);
        let mut unsent = self.unsent;
        let mut last_slot = None;
        let mut n = 0u32;
        let ends = loop {
            if n == pending {
                // Contexts wait for what they are for, unless somebody waits for them.
                if in_data || rs == 0 {
                    return Taken::Incomplete;
                }
                break true;
            }
            if n == MAX_PACKET_DESCS {
                if !in_data {
                    break true;
                }
                bad = bad.or(Some(Reject::Malformed));
                break false;
            }
            let raw = match run.get(
                io.mem,
                step(len, self.fetched, n),
                pending.saturating_sub(n),
            ) {
                Ok(raw) => raw,
                Err(Fault::Busy) => return Taken::Later,
                Err(Fault::Unmapped) => {
                    bad = bad.or(Some(Reject::Unmapped));
                    n = n.saturating_add(1);
                    break !in_data;
                }
            };
            if raw.wants_status() {
                let bit = 1u64.checked_shl(n).unwrap_or(0);
                rs |= bit;
                second |= if raw.names_second_context() { bit } else { 0 };
            }
            n = n.saturating_add(1);
            let part = match raw.parse_tx() {
                Tx::Context { .. } if !in_data => {
                    self.note_context(raw);
                    unsent = self.unsent;
                    continue;
                }
                Tx::Data { at, len_bytes } => Some((at, len_bytes)),
                Tx::Context { .. } | Tx::Malformed => None,
            };
            if !in_data {
                segmented = raw.is_segmented();
            }
            in_data = true;
            match part {
                Some((at, len_bytes)) if bad.is_none() => {
                    bytes = bytes.saturating_add(len_bytes);
                    if bytes > MAX_PACKET_BYTES {
                        bad = Some(Reject::Malformed);
                    } else {
                        if self
                            .add_contexts(q, io.mirror, &mut place, &mut unsent, false)
                            .is_none()
                        {
                            return Taken::Later;
                        }
                        match self.add_data(q, io, &mut place, raw, at, len_bytes) {
                            Ok(slot) => last_slot = slot,
                            Err(None) => return Taken::Later,
                            Err(Some(why)) => bad = Some(why),
                        }
                    }
                }
                Some(_) => {}
                None => bad = bad.or(Some(Reject::Malformed)),
            }
            if part.is_some() && raw.is_eop() || part.is_none() && is_end(raw) {
                break true;
            }
        };
        if in_data && ends && bad.is_none() && (bytes == 0 || !segmented && bytes > MAX_FRAME_BYTES)
        {
            bad = Some(Reject::Malformed);
        }
        match bad {
            None if in_data => {
                counters.tx_frames = counters.tx_frames.wrapping_add(1);
                self.unsent = unsent;
            }
            None | Some(Reject::Rest) => {}
            Some(Reject::Malformed) => {
                counters.dropped_tx_malformed = counters.dropped_tx_malformed.wrapping_add(1);
            }
            Some(Reject::Unmapped) => {
                counters.dropped_tx_unmapped = counters.dropped_tx_unmapped.wrapping_add(1);
            }
        }
        self.skipping = !ends;
        self.fetched = step(len, self.fetched, n);
        self.incomplete = None;
        let slot = if bad.is_none() { last_slot } else { None };
        if slot.is_none() {
            place = self.place;
        }
        self.commit(place, slot, [rs, second], n);
        Taken::Done
    }

    /// Makes what was placed a packet in flight.
    fn commit(&mut self, place: Place, slot: Option<u8>, [rs, second]: [u64; 2], descs: u32) {
        let packet = Packet {
            rs,
            second,
            end: self.fetched as u16,
            slot,
            descs: descs as u8,
            slots: place.slots.saturating_sub(self.place.slots) as u8,
            grains: place.grains.saturating_sub(self.place.grains),
        };
        self.place = place;
        let index = (usize::from(self.first).saturating_add(self.count.into())) % MAX_IN_FLIGHT;
        if let Some(free) = self.fifo.get_mut(index) {
            *free = packet;
            self.count = self.count.saturating_add(1);
        }
    }

    /// Writes the contexts that the mirror ring has not seen: the last slot, if there is room.
    fn add_contexts(
        &self,
        q: usize,
        area: &mut dyn Area,
        place: &mut Place,
        unsent: &mut [bool; 2],
        rs: bool,
    ) -> Option<Option<u8>> {
        let mut last = None;
        for (unsent, context) in unsent.iter_mut().zip(&self.contexts) {
            if let (true, Some(context)) = (*unsent, context) {
                last = Some(place.add(q, area, context.relayed_context(rs))?);
            }
            *unsent = false;
        }
        Some(last)
    }

    /// Copies a piece of a packet: the slot of its descriptor. `Err(None)` is for now, `Err(Some)` for good.
    fn add_data(
        &self,
        q: usize,
        io: &mut Io<'_>,
        place: &mut Place,
        raw: Desc,
        at: Iova,
        len: usize,
    ) -> Result<Option<u8>, Option<Reject>> {
        let offset = mirror::pool(q, place.claim(len).ok_or(None)?);
        match io.mem.read_to_area(at, io.mirror, offset, len) {
            Ok(()) => {}
            Err(Fault::Busy) => return Err(None),
            Err(Fault::Unmapped) => return Err(Some(Reject::Unmapped)),
        }
        let desc = raw.relayed(mirror::iova(io.mirror, offset), raw.is_eop());
        place.add(q, io.mirror, desc).map(Some).ok_or(None)
    }

    /// Sends contexts on their own, so that the hardware has them before the ring changes hands.
    pub(crate) fn flush_contexts(&mut self, q: usize, area: &mut dyn Area) {
        let (mut place, mut unsent) = (self.place, self.unsent);
        if !self.mirror_on || !self.has_room() {
            return;
        }
        let Some(Some(slot)) = self.add_contexts(q, area, &mut place, &mut unsent, true) else {
            return;
        };
        self.unsent = unsent;
        self.commit(place, Some(slot), [0; 2], 0);
    }

    /// Queues a frame of our own.
    ///
    /// The guest sees nothing of it: it takes no slot of the guest's ring.
    pub(crate) fn send(&mut self, q: usize, area: &mut dyn Area, frame: &[u8]) {
        let mut place = self.place;
        let padded = frame.len().max(MIN_FRAME_BYTES);
        if !self.mirror_on || !self.has_room() || padded > MIN_FRAME_BYTES + VLAN_TAG_BYTES {
            return;
        }
        let Some(offset) = place.claim(padded).map(|byte| mirror::pool(q, byte)) else {
            return;
        };
        area.write(offset, &[0; MIN_FRAME_BYTES + VLAN_TAG_BYTES]);
        area.write(offset, frame);
        let desc = Desc::send(mirror::iova(area, offset), padded as u16);
        if let Some(slot) = place.add(q, area, desc) {
            self.commit(place, Some(slot), [0; 2], 0);
        }
    }

    /// Makes the device look at what was queued.
    pub(crate) fn kick(&self, q: usize, hw: &mut dyn Hardware) {
        if self.mirror_on {
            self.ring_doorbell(q, hw);
        }
    }
}

/// Why a packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reject {
    Malformed,
    Unmapped,
    /// It was counted before; this is the rest of it.
    Rest,
}

/// Whether a descriptor that makes no sense ends its packet: EOP is in the same place in all but contexts.
fn is_end(raw: Desc) -> bool {
    raw.is_eop() && raw.parse_tx() == Tx::Malformed
}

#[cfg(test)]
#[path = "tx_tests.rs"]
mod tests;
