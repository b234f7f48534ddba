// SPDX-License-Identifier: GPL-2.0

//! Resets of the PF that the guest did not ask for: noticed, hidden and undone.

use model::adapter::Io;
use model::image::Refused;
use model::io::Hardware;

use crate::control::Repeated;
use crate::irq::{self, Causes, Interrupts};
use crate::{is_active, mirror, regs, Igbvf};

/// Turns until the hardware is looked at again while nothing moves.
const IDLE_TURNS: u32 = 16;
/// Turns between two repairs that fail: each may wait for a PF that does not answer.
const RETRY_TURNS: u32 = 1000;
/// Turns until the hardware is looked at again while frames move.
const BUSY_TURNS: u32 = 256;
/// Looks at the mailbox until a message of the guest that is under way is given up: 10 ms.
const SETTLE_TRIES: u32 = 200;

impl Igbvf {
    /// The PF may have been reset while the VF was assigned, and the guest not have looked since. Its rings went
    /// with it, so it has to see that: from here on it is one that its PF does not know.
    pub(crate) fn expose_reset(&mut self, hw: &mut dyn Hardware) {
        let val = self.look(hw, false) | self.mailbox.unread();
        if val & (regs::RSTI | regs::RSTD) != 0 && self.control.is_live() {
            self.control.vf_reset();
            self.generation = self.generation.wrapping_add(1);
        }
    }

    /// Notes that the PF was reset behind the guest's back.
    pub(crate) fn lose(&mut self, hw: &mut dyn Hardware) {
        self.statistics.rebase(hw);
        self.repeated = Repeated::No;
        if !self.lost {
            self.lost = true;
            self.mirror_gone = true;
            // The first repair is due at once.
            self.turns = RETRY_TURNS;
        }
    }

    /// Repairs if that is due: whether all is well.
    pub(crate) fn retry(&mut self, hw: &mut dyn Hardware) -> bool {
        if self.turns < RETRY_TURNS {
            return false;
        }
        self.turns = 0;
        self.repair(hw)
    }

    /// Nothing moves, but what the guest does to its rings is noticed.
    pub(crate) fn wait_for_pf(&mut self, io: &mut Io<'_>) {
        for (q, (tx, rx)) in self.tx.iter_mut().zip(&mut self.rx).enumerate() {
            tx.follow(q, io.page, &mut self.counters);
            if !rx.follow(q, io.page, &mut self.counters) && !rx.is_guest_on() {
                rx.discard(q, io.mirror);
            }
        }
    }

    /// Sets the VF up again after a reset of its PF, all but the mirror rings: whether that was possible.
    pub(crate) fn repair(&mut self, hw: &mut dyn Hardware) -> bool {
        let live = self.control.is_live();
        // What the guest is to see is kept for it, and RSTI is not cleared by a read. A guest that its PF did not
        // know sees the reset itself, and has nothing to be repeated.
        self.look(hw, live);
        if hw.read32(regs::V2PMAILBOX) & regs::RSTI != 0 {
            return false;
        }
        self.lost = live && self.repeat_all(hw).is_err();
        if !self.lost {
            // Page 1 is the guest's: only what was wiped is written.
            if !Interrupts::read(hw, true).is_set_up() {
                // A queue may have been enabled since they were seen, and a vector too many does no harm.
                self.interrupts.as_meant(true).write(hw);
            }
            hw.write32(regs::PSRTYPE, self.psrtype);
            self.statistics.rebase(hw);
            // What was completed meanwhile had no vector.
            irq::raise_all(hw, self.mailbox.unread() != 0);
        }
        !self.lost
    }

    /// Repeats the whole record, and what the guest is waiting for.
    pub(crate) fn repeat_all(&mut self, hw: &mut dyn Hardware) -> Result<(), Refused> {
        self.mailbox.overwritten();
        if self.control.is_live() && !self.control.replay(hw)? {
            self.control.replay_mac(hw)?;
        }
        self.mailbox.restore(hw);
        Ok(())
    }

    /// Waits, bounded, for the reply to a message of the guest that is under way: the record has to have it.
    pub(crate) fn settle(&mut self, hw: &mut dyn Hardware) {
        self.look_for_reset(hw, true);
        for n in 0..SETTLE_TRIES {
            if !self.mailbox.is_waiting() || self.lost {
                break;
            }
            self.look(hw, self.hides_resets(true));
            mirror::pause(hw, n);
        }
    }

    /// Looks, now and then, whether the hardware still is as we have set it up.
    pub(crate) fn check_hardware(&mut self, io: &mut Io<'_>, idle: bool) {
        if self.turns < if idle { IDLE_TURNS } else { BUSY_TURNS } {
            return;
        }
        self.turns = 0;
        // Rings that were started after the reset look good; the mailbox knows.
        self.look(io.hw, self.hides_resets(true));
        if self.lost {
            return;
        }
        let tx = self
            .tx
            .iter()
            .enumerate()
            .filter(|(_, tx)| tx.is_mirror_on());
        let rx = self
            .rx
            .iter()
            .enumerate()
            .filter(|(_, rx)| rx.is_mirror_on());
        let mut good = true;
        for (q, _) in tx {
            good &= mirror::has_tx(q, io.hw, io.mirror);
        }
        for (q, _) in rx {
            good &= mirror::has_rx(q, io.hw, io.mirror);
        }
        if !good {
            self.lose(io.hw);
            return;
        }
        let now = Interrupts::read(io.hw, is_active(io.page));
        if now.is_set_up() {
            self.interrupts = now;
        }
    }

    /// The guest's frames that wait in mirror rings that are gone are kept; the rings start again.
    ///
    /// Not as long as the guest cannot be told what was sent: it would be sent again.
    pub(crate) fn drop_mirrors(&mut self, io: &mut Io<'_>) {
        let (mut causes, mut busy) = (Causes::default(), false);
        for (q, tx) in self.tx.iter_mut().enumerate() {
            // If the reset came before they were started, they still run: nothing must come in any more. One that
            // does not stop now has to at its next start.
            for at in [regs::RXDCTL, regs::TXDCTL] {
                let _ = mirror::switch_off(io.hw, regs::nth(at, q));
            }
            if tx.reap(q, io) {
                causes.tx(q);
            }
            busy |= tx.has_done(q, io.mirror);
        }
        causes.raise(io.hw);
        if busy {
            return;
        }
        for (q, (tx, rx)) in self.tx.iter_mut().zip(&mut self.rx).enumerate() {
            tx.mirror_lost();
            if rx.is_guest_on() {
                rx.hold(q, io.mirror, &mut self.counters);
            }
            rx.mirror_lost();
        }
        self.mirror_gone = false;
        self.counters.repaired = self.counters.repaired.wrapping_add(1);
    }
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
