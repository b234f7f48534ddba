// SPDX-License-Identifier: GPL-2.0

//! What the host does, and the world.

use model::adapter::Adapter;

use super::{machine, Life, NOTICE_TURNS};
use crate::machine::Machine;
use crate::property::act::Host;
use crate::replica::Replica;
use crate::transfer::Transfer;
use crate::vf::{Filters, World};

impl Life {
    pub(super) fn turns(&mut self, budget: u32, turns: u32) {
        self.run();
        if self.m.captured {
            for _ in 0..turns {
                self.m.with(|model, io| model.poll(io, budget));
            }
        }
    }

    pub(super) fn capture(&mut self) {
        if !self.m.captured {
            self.m.capture();
            self.track();
            self.unnoticed = false;
        }
    }

    /// From now on the replica knows guest memory from the dirty set.
    pub(super) fn track(&mut self) {
        let mut w = self.m.world.borrow_mut();
        w.replica = Some(Replica::of(&w.memory));
    }

    /// Nothing moves any more, and nothing is lost of what the guest has no room for.
    pub(super) fn stop(&mut self) {
        let Self {
            m, driver, ledger, ..
        } = self;
        m.with(|model, io| model.stop(io)).unwrap();
        let mut waiting = 0;
        for q in 0..2 {
            if let Some(pair) = &driver.pairs[q] {
                waiting += ledger.waiting(q, pair.rx.frames(m));
            }
        }
        assert_eq!(
            m.model.held() as usize,
            waiting,
            "held are not those that wait"
        );
    }

    pub(super) fn release(&mut self, anyway: bool) {
        self.run();
        if !self.m.captured || self.transfer.is_some() {
            return;
        }
        self.stop();
        self.drain_wire();
        if self.m.model.held() > 0 && !anyway {
            self.m.with(|model, io| model.start(io));
            return;
        }
        self.m.world.borrow_mut().memory.busy_after = None;
        self.sync();
        if self.m.release().is_err() {
            let cut = self.m.model.held() > 0;
            let fixed = self.m.world.borrow().fixed_heads;
            assert!(fixed || cut || self.lost, "the rings are not handed back");
            self.track();
            return;
        }
        for q in 0..2 {
            if let Some(pair) = &self.driver.pairs[q] {
                let delivered = pair.rx.frames(&self.m);
                let lost = self.ledger.waiting(q, delivered);
                self.ledger.lose(q, lost);
                self.explain(lost as u64, lost as u64);
            }
        }
        let alive = self.m.world.borrow().alive;
        self.exposed |= std::mem::take(&mut self.lost) && !alive;
    }

    pub(super) fn pause(&mut self) {
        if self.paused {
            return;
        }
        let active = self.driver.setup.is_some();
        if !self.m.captured && active {
            self.capture();
        }
        if self.m.captured {
            self.m.with(|model, io| model.pause(io)).unwrap();
        }
        self.paused = true;
    }

    pub(super) fn pre_copy(&mut self, host: &Host) {
        self.run();
        if self.transfer.is_none() {
            self.capture();
            // The guest may still change its address: nobody pins one.
            let to = machine(host, None);
            self.transfer = Some(Transfer::begin(&mut self.m, to));
        }
    }

    /// The other host, when all has arrived there.
    pub(super) fn arrival(&mut self, host: &Host) -> Machine {
        self.capture();
        self.pause();
        // What came meanwhile is to travel.
        self.stop();
        // A PF that has pinned an address gives no others.
        let filters = self.m.world.borrow().filters.clone();
        let others = [&filters.unicast, &self.ledger.filters.unicast];
        let only = others.iter().all(|macs| macs.is_empty()) && !self.driver.is_waiting();
        let mac = filters.mac.filter(|_| only);
        let transfer = match self.transfer.take() {
            Some(transfer) => transfer,
            None => Transfer::begin(&mut self.m, machine(host, mac)),
        };
        transfer.finish(&mut self.m)
    }

    pub(super) fn migrate(&mut self, host: &Host) {
        let to = self.arrival(host);
        self.assert_dropped();
        self.ledger.moved();
        self.drain_wire();
        {
            let from = &mut *self.m.world.borrow_mut();
            let mut w = to.world.borrow_mut();
            std::mem::swap(&mut w.memory, &mut from.memory);
            w.replica = from.replica.take();
            let World {
                replica, memory, ..
            } = &mut *w;
            replica.as_mut().expect("captured").swap(memory);
        }
        self.m = to;
        self.loaded = true;
        self.announcements = 0;
        self.lost = false;
        self.unnoticed = false;
        (self.dropped, self.bad_rings) = ((0, 0), 0);
    }

    /// What the dirty set says is all that was written.
    pub(super) fn sync(&mut self) {
        assert_eq!(self.missed(), None, "a page was written and not marked");
    }

    /// What the copy of memory has to say, which is there while the VF is captured.
    pub fn replica<R>(&mut self, f: impl FnOnce(&mut Replica) -> R) -> R {
        f(self
            .m
            .world
            .borrow_mut()
            .replica
            .as_mut()
            .expect("captured"))
    }

    /// A page that was written and is not in the dirty set.
    pub fn missed(&mut self) -> Option<u64> {
        let w = &mut *self.m.world.borrow_mut();
        w.replica.as_mut()?.sync(&w.memory)
    }

    pub(super) fn flr(&mut self) {
        self.run();
        self.drain_wire();
        self.m.reset();
        self.driver.forget();
        self.was_reset();
        self.transfer = None;
        self.ledger.filters = Filters::default();
        self.ledger.counters_cleared();
    }

    pub(super) fn ping(&mut self) {
        let mut w = self.m.world.borrow_mut();
        if w.cts && !self.driver.is_waiting() {
            w.ping();
        }
    }

    pub(super) fn pf_reset(&mut self, away: bool) {
        if !self.driver.known || self.driver.is_waiting() {
            return;
        }
        if self.m.captured && !self.exposed {
            if std::mem::take(&mut self.unnoticed) {
                self.turns(64, NOTICE_TURNS);
                self.drain_wire();
            }
            self.lost = true;
        } else {
            self.exposed = true;
        }
        let mut w = self.m.world.borrow_mut();
        w.pf_reset();
        w.silent = away;
        if self.lost {
            // Even what the reset of a VF leaves.
            w.filters.lpe = 0;
            w.filters.unicast.clear();
        }
        drop(w);
        self.ledger.counters_cleared();
    }

    pub(super) fn pf_back(&mut self) {
        self.m.world.borrow_mut().silent = false;
    }

    /// A frame comes in: whether the device takes it.
    pub(super) fn arrive(&mut self, q: u32, len: usize) -> bool {
        let Self {
            m, driver, ledger, ..
        } = self;
        let queue = q as usize;
        if m.captured && !ledger.has_room(queue, len) {
            return false;
        }
        let taken = m.world.borrow_mut().receive(q, &ledger.next_frame(len));
        match driver.setup.and_then(|setup| setup.pairs[queue]) {
            _ if !taken => {}
            Some(pair) => ledger.arrived(queue, len, &pair.rx),
            None => ledger.strayed(),
        }
        taken
    }

    pub(super) fn unstall(&mut self) {
        let mut w = self.m.world.borrow_mut();
        (w.stalled, w.stall_after) = (false, None);
        w.transmit(0);
        w.transmit(1);
    }
}
