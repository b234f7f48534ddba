// SPDX-License-Identifier: GPL-2.0

//! How frames stop: what was begun is finished, and what comes later is kept for a guest that does not run.

use model::adapter::{Adapter, Io, Stuck};
use model::io::Hardware;

use crate::irq::Causes;
use crate::{mirror, regs, Igbvf};

impl Igbvf {
    /// What is received would raise a vector of a guest that does not run.
    pub(crate) fn mask(&mut self, hw: &mut dyn Hardware) {
        hw.write32(regs::EIMC, u32::MAX);
        self.masked = true;
    }

    /// Ends what [`pause`](Adapter::pause) or [`listen`](Adapter::listen) has begun; what came meanwhile is held.
    pub(crate) fn deafen(&mut self, io: &mut Io<'_>) -> Result<(), Stuck> {
        self.listening = false;
        let result = self.queues_off(io.hw);
        self.hold_all(io);
        result
    }

    /// What the RX mirror rings have, which are off, is held for a guest that wants it.
    pub(crate) fn hold_all(&mut self, io: &mut Io<'_>) {
        for (q, rx) in self.rx.iter_mut().enumerate() {
            if rx.is_guest_on() {
                rx.hold(q, io.mirror, &mut self.counters);
            }
            rx.mirror_lost();
        }
    }

    /// Has the VF send what it was given, switches queues `off`, completes what was sent, and delivers what the guest has room
    /// for.
    pub(crate) fn finish(
        &mut self,
        io: &mut Io<'_>,
        off: impl FnOnce(&mut Self, &mut dyn Hardware) -> Result<(), Stuck>,
    ) -> Result<(), Stuck> {
        let mut causes = Causes::default();
        let Self {
            tx, rx, counters, ..
        } = self;
        for (q, (tx, rx)) in tx.iter_mut().zip(rx).enumerate() {
            tx.follow(q, io.page, counters);
            rx.follow(q, io.page, counters);
            if tx.drain(q, io) {
                causes.tx(q);
            }
        }
        let result = off(self, io.hw);
        let Self {
            tx, rx, counters, ..
        } = self;
        for (q, (tx, rx)) in tx.iter_mut().zip(rx).enumerate() {
            if tx.reap(q, io) {
                causes.tx(q);
            }
            tx.mirror_lost();
            let (all, head) = (
                mirror::RX_SLOTS.saturating_add(rx.held().count()),
                rx.head(),
            );
            if rx.relay(q, io, all, counters) > 0 || rx.head() != head {
                causes.rx(q);
            }
        }
        causes.raise(io.hw);
        result
    }
}
