// SPDX-License-Identifier: GPL-2.0

//! What the guest does.

use model::adapter::Adapter;

use super::Life;
use crate::driver::tx::Packet;
use crate::driver::Setup;
use crate::guest::mac_words;
use crate::property::act::Ask;

impl Life {
    /// The VM runs, if it did not.
    pub(super) fn run(&mut self) {
        if !std::mem::take(&mut self.paused) || !self.m.captured {
            return;
        }
        let loaded = std::mem::take(&mut self.loaded);
        if loaded {
            // The PF knows what it has not told the guest yet, or was reset.
            let w = self.m.world.borrow();
            let known = [&self.ledger.filters, &w.filters];
            let vlans = known.map(|f| f.vlans.iter().filter(|vid| **vid != 0).count());
            self.announcements = 1 + vlans[0].max(vlans[1]);
            self.macs = known.map(|f| f.mac);
        }
        self.m.resume(loaded);
        self.drain_wire();
        let works = !self.lost && !self.exposed && !self.m.world.borrow().stalled;
        if loaded && works && self.driver.setup.is_some() && !self.driver.is_waiting() {
            assert_eq!(self.announcements, 0, "too few announcements");
        }
    }

    pub(super) fn send(&mut self, q: u32, packets: &[(usize, Packet)], steps: u64) {
        self.run();
        let Self {
            m, driver, ledger, ..
        } = self;
        let Some(pair) = &mut driver.pairs[q as usize] else {
            return;
        };
        for (len, packet) in packets {
            if pair.tx.post(m, &ledger.next_frame(*len), packet) {
                ledger.posted(*len, packet.told(q, *len));
            }
            // Hardware must not see half a packet; a model in its place can wait.
            if steps > 1 && !m.captured {
                pair.tx.ring(m, u64::MAX);
            }
        }
        let step = pair.tx.unrung().div_ceil(steps).max(1);
        while pair.tx.unrung() > 0 {
            pair.tx.ring(m, step);
            if steps > 1 {
                m.wait();
            }
        }
    }

    pub(super) fn look(&mut self, most: usize, slots: u32, steps: u64) {
        self.run();
        let raised = std::mem::take(&mut self.m.world.borrow_mut().raised);
        for q in 0..2 {
            self.drain_wire();
            self.look_at(q, raised, most);
            self.refill(q, slots, steps);
        }
    }

    pub(super) fn look_at(&mut self, q: usize, raised: u32, most: usize) {
        let Self {
            m,
            driver,
            ledger,
            again,
            ..
        } = self;
        let [rx, tx] = driver.vectors(q);
        let Some(pair) = &mut driver.pairs[q] else {
            return;
        };
        if tx == 0 || raised & tx != 0 {
            ledger.completed(q, pair.tx.clean(m));
        }
        if rx == 0 || raised & rx != 0 || again[q] {
            for frame in std::iter::from_fn(|| pair.rx.take(m)).take(most) {
                ledger.received(q, &frame);
            }
            again[q] = pair.rx.has_frame(m);
        }
    }

    pub(super) fn refill(&mut self, q: usize, slots: u32, steps: u64) {
        let Self { m, driver, .. } = self;
        let Some(pair) = &mut driver.pairs[q] else {
            return;
        };
        let step = pair.rx.refill(m, slots).div_ceil(steps);
        for _ in 0..steps {
            pair.rx.ring(m, step);
            if steps > 1 {
                m.wait();
            }
        }
    }

    pub(super) fn open(&mut self, setup: &Setup) {
        self.run();
        self.pf_back();
        self.driver.open(&mut self.m, setup);
        self.unnoticed = true;
        self.m.world.borrow_mut().raised = 0;
    }

    pub(super) fn close(&mut self) {
        self.run();
        self.pf_back();
        self.driver.answer(&mut self.m);
        self.drain_wire();
        self.driver.close(&mut self.m);
        self.was_reset();
    }

    pub(super) fn reset(&mut self) {
        self.run();
        self.pf_back();
        self.driver.answer(&mut self.m);
        self.drain_wire();
        self.driver.reset(&mut self.m);
        self.was_reset();
    }

    /// Nothing of before may arrive any more.
    pub(super) fn was_reset(&mut self) {
        self.ledger.reset();
        self.again = [false; 2];
        self.announcements = 0;
        let c = self.m.model.counters();
        self.dropped = (c.dropped_rx_no_room, c.dropped_rx_no_room);
        if std::mem::take(&mut self.exposed) {
            // Rings that a reset of the PF has wiped.
            self.bad_rings = c.bad_rings;
        }
        self.lost = false;
    }

    pub(super) fn restart(&mut self, q: u32) {
        self.run();
        self.drain_wire();
        if let Some(pair) = &self.driver.pairs[q as usize] {
            // What the guest had no room for is counted, if it was held by then.
            let queue = q as usize;
            let delivered = pair.rx.frames(&self.m);
            let (least, most) = self.ledger.too_long(queue);
            let waiting = self.ledger.waiting(queue, delivered);
            self.driver.restart(&mut self.m, q);
            self.explain(least, most + waiting as u64);
            self.ledger.restarted(q as usize, self.m.captured);
            self.again[q as usize] = false;
            // Without a queue the guest's vectors count as masked.
            self.unnoticed |= self.m.captured;
        }
    }

    /// So many frames were dropped for want of room, and should be.
    pub(super) fn explain(&mut self, least: u64, most: u64) {
        self.dropped = (self.dropped.0 + least, self.dropped.1 + most);
    }

    pub(super) fn post(&mut self, ask: &Ask) {
        self.run();
        self.pf_back();
        let Self { m, driver, .. } = self;
        if !driver.known || self.exposed {
            return;
        }
        let words = match *ask {
            Ask::Vlan(vid, add) => vec![4 | u32::from(add) << 16, vid.into()],
            Ask::Multicast(n) => {
                let mut words = vec![0; 16];
                words[0] = 3 | n << 16;
                words[1..].fill(n * 0x0101_0101);
                words
            }
            Ask::Unicast(n) => {
                let (lo, hi) = mac_words([2, 0, 0, 0, 1, n]);
                vec![2 | 2 << 16, lo, hi]
            }
            Ask::Promisc(on) => vec![6 | u32::from(on) << 17],
            Ask::LongestFrame(bytes) => vec![5, bytes],
            Ask::Mac(n) => {
                let (lo, hi) = mac_words([2, 0, 0, 0, 2, n]);
                vec![2, lo, hi]
            }
        };
        driver.post(m, &words);
    }

    pub(super) fn link_check(&mut self) {
        self.run();
        if self.driver.known && !self.driver.link_check(&mut self.m) {
            assert!(self.exposed, "the guest sees a reset of its PF");
            let setup = self.driver.setup;
            self.reset();
            if let Some(setup) = setup {
                self.open(&setup);
            }
        }
    }

    pub(super) fn read_statistics(&mut self) {
        self.run();
        self.drain_wire();
        for (n, at) in [0xf10, 0xf14].into_iter().enumerate() {
            let val = self.m.load(at);
            self.ledger.read_counter(n, val);
        }
    }
}
