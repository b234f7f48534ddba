// SPDX-License-Identifier: GPL-2.0

//! What must hold after each act.

use model::adapter::Adapter;

use super::Life;
use crate::vf::Filters;

/// What a PF has to know, in an order that does not depend on history. What a reset of the VF leaves, and a driver
/// says anew when it opens its interface, counts only if that is `open`.
fn comparable(filters: &Filters, open: bool) -> Filters {
    let mut new = filters.clone();
    new.vlans.sort_unstable();
    new.unicast.sort_unstable();
    new.unicast.dedup();
    if !open {
        (new.lpe, new.unicast) = (0, Vec::new());
    }
    new
}

impl Life {
    /// Puts what was sent on record.
    pub(super) fn drain_wire(&mut self) {
        let w = &mut *self.m.world.borrow_mut();
        let offloads = w.offloads.as_mut().unwrap();
        for ((frame, _), told) in w.wire.drain(..).zip(offloads.drain(..)) {
            if frame.starts_with(&[0xff; 6]) {
                let good = self.macs.iter().flatten().any(|mac| frame[6..12] == *mac);
                assert!(good, "an announcement from elsewhere");
                self.announcements = self
                    .announcements
                    .checked_sub(1)
                    .expect("too many announcements");
                self.ledger.announced();
            } else {
                self.ledger.sent(&frame, told);
            }
        }
    }

    pub(super) fn check(&mut self) {
        self.drain_wire();
        for asked in self.driver.asked.drain(..) {
            self.ledger.asked(&asked);
        }
        if let Some(transfer) = &mut self.transfer {
            transfer.refresh(&mut self.m);
        }
        self.driver.assert_untouched(&self.m);
        let w = self.m.world.borrow();
        assert_eq!(w.faults, 0, "the IOMMU has stopped the device");
        drop(w);
        self.lost = self.lost && !self.is_repaired();
        if self.driver.known && !self.driver.is_waiting() && !self.lost && !self.exposed {
            let [ours, theirs] = self.filters();
            assert_eq!(theirs, ours, "the PF's filters");
        }
        let c = self.m.model.counters();
        let dropped = [
            c.dropped_tx_malformed,
            c.dropped_tx_unmapped,
            c.dropped_rx_unmapped,
            c.dropped_rx_malformed,
        ];
        assert_eq!(dropped, [0; 4]);
        if self.exposed {
            self.bad_rings = c.bad_rings;
        }
        assert_eq!(c.bad_rings, self.bad_rings, "bad rings");
        if !self.paused && !self.lost && !self.exposed {
            self.assert_announced();
            self.assert_set_up();
        }
    }

    /// What of the guest's setup is in registers of the device itself, is there.
    pub(super) fn assert_set_up(&self) {
        let Some(setup) = self.driver.setup else {
            return;
        };
        let w = self.m.world.borrow();
        let read = |at: usize| w.regs[at / 4];
        assert_eq!(read(0xf0c), setup.psrtype, "PSRTYPE");
        // Those of a guest that polls are not looked for after a reset of the PF.
        if setup.ivar0 != 0 {
            assert_eq!(
                [read(0x1700), read(0x1740)],
                [setup.ivar0, setup.ivar_misc],
                "IVAR"
            );
            assert_eq!([0x1680, 0x1684, 0x1688].map(read), [setup.eitr; 3], "EITR");
            assert_eq!(
                [0x1524, 0x152c, 0x1530].map(read),
                [7; 3],
                "EIMS, EIAC, EIAM"
            );
        }
    }

    /// What the PF has to know, and what it knows.
    pub(super) fn filters(&self) -> [Filters; 2] {
        let open = self.driver.setup.is_some();
        let w = self.m.world.borrow();
        [&self.ledger.filters, &w.filters].map(|filters| comparable(filters, open))
    }

    /// Whether a reset of the PF is undone.
    pub(super) fn is_repaired(&self) -> bool {
        let [ours, theirs] = self.filters();
        self.m.world.borrow().alive && ours == theirs
    }

    /// Whatever waits for a guest that waits for an interrupt, has been announced by one.
    pub(super) fn assert_announced(&self) {
        let raised = self.m.world.borrow().raised;
        for (q, pair) in self.driver.pairs.iter().enumerate() {
            let Some(pair) = pair else { continue };
            let [rx, tx] = self.driver.vectors(q);
            let told = |vector: u32| vector == 0 || raised & vector != 0;
            assert!(
                told(tx) || pair.tx.done(&self.m) == 0,
                "no interrupt for what queue {q} has sent"
            );
            let waits = pair.rx.has_frame(&self.m) && !self.again[q];
            assert!(
                told(rx) || !waits,
                "no interrupt for what queue {q} has received"
            );
        }
    }

    /// What was dropped for want of room is what had to be.
    pub(super) fn assert_dropped(&mut self) {
        let (mut least, mut most) = self.dropped;
        for q in 0..2 {
            let (l, m) = self.ledger.too_long(q);
            (least, most) = (least + l, most + m);
        }
        let dropped = self.m.model.counters().dropped_rx_no_room;
        let explained = (least..=most).contains(&dropped);
        assert!(
            explained,
            "{dropped} frames were dropped, not {least} to {most}"
        );
    }
}
