// SPDX-License-Identifier: GPL-2.0

//! When all is at rest: what both sides have done is compared.

use crate::compare::{self, equal, Layout, Same};
use crate::deviations as known;
use crate::guest::{at, Guest, HEAD, RX, TX, TX_DATA, TX_DATA_BYTES};
use crate::host::{GUEST, GUEST_BYTES};
use crate::play::{Player, Since};

/// EITR counts in units of 1024 ns in QEMU, up to this.
const LONGEST_EITR_US: u32 = 34_000;

/// The vectors that the bytes of `ivar` name.
fn vectors(ivar: u32) -> u32 {
    let valid = ivar.to_le_bytes().into_iter().filter(|b| b & 0x80 != 0);
    valid.fold(0, |bits, byte| bits | 1 << (byte & 3))
}

impl Player {
    /// Lets both sides come to rest and compares what they have done.
    pub(crate) fn rest(&mut self) -> Same {
        self.done.rests += 1;
        self.sides.ours.poll()?;
        let complaints = self.sides.ours.complaints();
        if let Some((name, n)) = complaints.into_iter().find(|(_, n)| *n != 0) {
            return Err(format!("{name} is {n}"));
        }
        if self.now.since.switched || self.now.since.traffic | self.now.since.noise != 0 {
            self.compare_wire()?;
            for q in 0..2 {
                self.compare_tx(q)?;
                self.compare_rx(q)?;
            }
            self.compare_memory()?;
        }
        self.compare_interrupts()?;
        self.now.guest.at_rest();
        self.now.since = Since::default();
        self.now.is_late = false;
        Ok(())
    }

    fn compare_wire(&mut self) -> Same {
        if self.now.since.traffic & 0xff00_ff00 == 0 {
            return Ok(());
        }
        let direct = self.sides.direct.host.borrow_mut().sent();
        let ours = self.sides.ours.host.borrow_mut().sent();
        self.done.sent += direct.len() as u64;
        if direct != ours {
            self.tally.forgive(&known::ORDER_OF_QUEUES);
        }
        for from in [1, 2] {
            // Only the frames of one queue have an order.
            let of = |frames: &[Vec<u8>]| -> Vec<Vec<u8>> {
                let frames = frames.iter().filter(|frame| frame.get(11) == Some(&from));
                frames.cloned().collect()
            };
            compare::wire(from, &of(&direct), &of(&ours))?;
        }
        equal("frames sent", direct.len(), ours.len())
    }

    fn compare_tx(&mut self, q: u32) -> Same {
        let Some(ring) = self.now.guest.tx[q as usize].ring.as_mut() else {
            return Ok(());
        };
        if !ring.on {
            return Ok(());
        }
        let (direct, ours) = self.sides.load(at(TX, q, HEAD));
        equal(&format!("TDH {q}"), direct, ours)?;
        equal(&format!("TDH {q} and its tail"), direct, ring.tail)?;
        ring.head = ring.tail;
        Ok(())
    }

    fn compare_rx(&mut self, q: u32) -> Same {
        let queue = &mut self.now.guest.rx[q as usize];
        let Some(ring) = queue.ring.as_mut().filter(|ring| ring.on) else {
            return Ok(());
        };
        let (direct, ours) = self.sides.load(at(RX, q, HEAD));
        equal(&format!("RDH {q}"), direct, ours)?;
        let count = (direct + ring.len - ring.head) % ring.len;
        let slots: Vec<u32> = (0..count).map(|n| ring.step(ring.head, n)).collect();
        ring.head = direct;
        let (base, layout) = (ring.base, Layout::new(queue.srrctl));
        let theirs = compare::collect(&mut self.sides.direct, q, base, &slots, layout)?;
        let ours = compare::collect(&mut self.sides.ours, q, base, &slots, layout)?;
        equal(&format!("frames on RX {q}"), theirs.len(), ours.len())?;
        if !ours.is_empty() {
            self.now.since.due |= 0xff << (16 * q) & 0x00ff_0000;
        }
        for (direct, ours) in theirs.iter().zip(&ours) {
            self.done.received[q as usize] += 1;
            if self.sides.ours.is_captured() && !self.now.since.went_past {
                compare::plain(q, ours, layout)?;
            }
            let alike = compare::frame(q, direct, ours, layout, &mut self.tally)?;
            self.done.split += u64::from(!alike);
            for slot in &ours.slots {
                self.level(base + u64::from(*slot) * 16, 16);
                if !alike {
                    let (packet, header) = Guest::buffers(q, *slot);
                    self.level(packet, layout.packet.min(0x2b00));
                    self.level(header, 0x3c0);
                }
            }
        }
        Ok(())
    }

    /// Gives QEMU's side what ours has: the difference was accounted for, and is not to be found again.
    fn level(&mut self, at: u64, len: usize) {
        let ours = self.sides.ours.host.borrow_mut().memory(at, len);
        self.sides.direct.host.borrow_mut().set_memory(at, &ours);
    }

    /// Leaves out what QEMU does to TX buffers; ours leaves them alone, see `kept`.
    fn level_tx_data(&mut self) {
        let len = TX_DATA_BYTES as usize;
        let direct = self.sides.direct.host.borrow_mut().memory(TX_DATA, len);
        let ours = self.sides.ours.host.borrow_mut().memory(TX_DATA, len);
        if direct != ours {
            self.tally.forgive(&known::CHECKSUMS_IN_PLACE);
            self.sides
                .direct
                .host
                .borrow_mut()
                .set_memory(TX_DATA, &ours);
        }
    }

    fn compare_memory(&mut self) -> Same {
        let was_captured = self.sides.ours.is_captured() || self.now.since.switched;
        if was_captured && self.now.since.traffic & 0xff00_ff00 != 0 {
            self.level_tx_data();
        }
        let direct = self
            .sides
            .direct
            .host
            .borrow_mut()
            .memory(GUEST, GUEST_BYTES);
        let mut host = self.sides.ours.host.borrow_mut();
        let ours = host.memory(GUEST, GUEST_BYTES);
        if let Some(kept) = &host.kept {
            if let Some(n) = compare::difference(kept, &ours) {
                return Err(format!("the VF has written guest memory at {n:#x}"));
            }
        }
        match compare::difference(&direct, &ours) {
            None => Ok(()),
            Some(n) => equal(&format!("guest memory at {n:#x}"), direct[n], ours[n]),
        }
    }

    fn compare_interrupts(&mut self) -> Same {
        if self.now.throttled != 0 {
            self.sides.direct.host.borrow_mut().pass(LONGEST_EITR_US);
            self.sides.ours.host.borrow_mut().pass(LONGEST_EITR_US);
        }
        let (_, direct) = self.sides.direct.host.borrow_mut().fired();
        let (raised, came) = self.sides.ours.host.borrow_mut().fired();
        self.done.interrupts += u64::from(direct.count_ones());
        let is_captured = self.sides.ours.is_captured();
        // What the hardware says of a frame that the guest does not have yet counts for nothing.
        let is_told_by_us = is_captured
            && !self.now.since.switched
            && self.now.since.traffic != 0
            && self.now.throttled == 0;
        let told = if is_told_by_us { raised } else { raised | came };
        let moved = vectors(self.now.ivar[0] & (self.now.since.traffic | self.now.since.noise));
        if direct & !told != 0 {
            return Err(format!(
                "vectors {direct:#x} by QEMU, {told:#x} by ours, {came:#x} by themselves"
            ));
        }
        let due = vectors(self.now.ivar[0] & self.now.since.due) & self.now.eims;
        if is_told_by_us && due & !told != 0 {
            return Err(format!("vectors {told:#x} where {due:#x} are due"));
        }
        if is_told_by_us && due & !direct != 0 {
            self.tally.forgive(&known::SECOND_QUEUE);
        }
        let may = self.now.pending | moved | if self.now.since.switched { 7 } else { 0 };
        let extra = (raised | came) & !direct;
        if extra & !may != 0 {
            return Err(format!("vectors {extra:#x} for nothing"));
        }
        if extra != 0 {
            self.tally.forgive(&known::EXTRA_INTERRUPTS);
        }
        self.now.pending = may & !self.now.eims;
        Ok(())
    }
}
