// SPDX-License-Identifier: GPL-2.0

//! Page 0, which always traps: what the guest does to it, and what it sees.

use model::io::{Hardware, Registers};

use crate::control::Repeated;
use crate::mailbox::Seen;
use crate::regs::{self, nth, ENABLE};
use crate::Igbvf;

impl Igbvf {
    /// A guest read of a trapped register.
    pub(crate) fn trap_read(&mut self, at: u32, hw: &mut dyn Hardware, captured: bool) -> u32 {
        let hide = self.hides_resets(captured);
        match at {
            regs::CTRL | regs::CTRL_DUP => hw.read32(regs::CTRL) & regs::CTRL_RST,
            regs::STATUS => {
                let up = if hide && self.lost {
                    regs::STATUS_UP
                } else {
                    0
                };
                hw.read32(regs::STATUS) & regs::STATUS_MASK | up
            }
            regs::V2PMAILBOX => {
                let val = self.look(hw, hide);
                self.mailbox.take(val)
            }
            regs::PSRTYPE => self.psrtype,
            _ => match regs::mailbox_word(at) {
                Some(index) => self.mailbox.word(index),
                None => {
                    if regs::STATISTICS.contains(&at) {
                        self.look_for_reset(hw, captured);
                    }
                    self.statistics.read(at, hw).unwrap_or(0)
                }
            },
        }
    }

    /// A reset of the PF that nobody has noticed yet must not make statistics run backwards.
    pub(crate) fn look_for_reset(&mut self, hw: &mut dyn Hardware, captured: bool) {
        let hide = self.hides_resets(captured);
        self.look(hw, hide);
    }

    /// A guest write of a trapped register.
    pub(crate) fn trap_write(
        &mut self,
        at: u32,
        val: u32,
        hw: &mut dyn Hardware,
        page: Option<&mut dyn Registers>,
    ) {
        match at {
            regs::CTRL | regs::CTRL_DUP => self.write_ctrl(val, hw, page),
            regs::V2PMAILBOX => self.write_mailbox(val, hw, page.is_some()),
            regs::PSRTYPE => {
                self.psrtype = val;
                hw.write32(regs::PSRTYPE, val);
            }
            // PBACL among the others: QEMU would clear bits of the PF.
            _ => {
                if let Some(index) = regs::mailbox_word(at) {
                    self.mailbox.set_word(index, val, hw);
                }
            }
        }
    }

    /// Whether the guest is to see nothing of a reset of its PF.
    pub(crate) fn hides_resets(&self, captured: bool) -> bool {
        captured && self.control.is_live()
    }

    /// Reads V2PMAILBOX: the value, less what is hidden.
    pub(crate) fn look(&mut self, hw: &mut dyn Hardware, hide: bool) -> u32 {
        let (val, seen) = self.mailbox.look(hw, hide);
        if val & (regs::RSTI | regs::RSTD) != 0 {
            self.statistics.rebase(hw);
        }
        match seen {
            Seen::Nothing => {}
            Seen::Reply(reply) => {
                let before = self.control.clone();
                self.control.answered(self.mailbox.request(), &reply);
                if self.control != before {
                    self.generation = self.generation.wrapping_add(1);
                }
            }
            Seen::Lost => self.lose(hw),
        }
        val
    }

    /// The guest writes CTRL.
    fn write_ctrl(&mut self, val: u32, hw: &mut dyn Hardware, page: Option<&mut dyn Registers>) {
        hw.write32(regs::CTRL, val & regs::CTRL_RST);
        if val & regs::CTRL_RST == 0 {
            return;
        }
        let before = self.control.clone();
        self.control.vf_reset();
        if self.control != before {
            self.generation = self.generation.wrapping_add(1);
        }
        self.repeated = Repeated::No;
        self.mailbox.give_up();
        // What it has for vectors now is not known.
        self.masked = false;
        // It is the guest that asked, so there is nothing to repair.
        self.lost = false;
        self.mirror_gone = false;
        let Some(page) = page else { return };
        for (q, (tx, rx)) in self.tx.iter_mut().zip(&mut self.rx).enumerate() {
            for at in [regs::RXDCTL, regs::TXDCTL] {
                regs::clear(page, nth(at, q), ENABLE);
            }
            // Stale indices must not be taken for those of the next ring before the guest has set them.
            for at in [regs::RDH, regs::RDT, regs::TDH, regs::TDT] {
                page.write32(nth(at, q), 0);
            }
            tx.forget_guest();
            tx.mirror_lost();
            rx.reset(&mut self.counters);
        }
    }

    /// The guest writes V2PMAILBOX.
    fn write_mailbox(&mut self, val: u32, hw: &mut dyn Hardware, captured: bool) {
        let hide = self.hides_resets(captured);
        if hide && val & regs::REQ != 0 {
            // A PF that has lost the VF would refuse, and the guest would reset itself.
            self.look(hw, hide);
            if self.lost {
                // It takes the place of one that was not answered.
                self.mailbox.give_up();
                self.repair(hw);
            }
        }
        self.mailbox.control(val, hw);
    }
}

#[cfg(test)]
#[path = "trap_tests.rs"]
mod tests;
