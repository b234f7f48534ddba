// SPDX-License-Identifier: GPL-2.0

//! The adapter's sections of the image: what is written into them, and what becomes of them on the other side.

use model::adapter::Adapter;
use model::image::{Full, Reader, Refused, Writer};
use model::io::{Hardware, Registers};

use crate::control::{Record, Repeated};
use crate::irq::Interrupts;
use crate::state::{Pair, State};
use crate::{is_active, mailbox, regs, Igbvf};

impl Igbvf {
    /// Takes over a control record, and asks the PF for all of it but the address.
    pub(crate) fn take_control(
        &mut self,
        r: &mut Reader<'_>,
        hw: &mut dyn Hardware,
    ) -> Result<(), Refused> {
        let record = Record::load(r)?;
        r.clone().finish()?;
        if record == self.control && self.repeated != Repeated::No {
            return Ok(());
        }
        self.repeated = Repeated::No;
        if record.is_live() {
            let has_mac = record.replay(hw)?;
            self.repeated = if has_mac {
                Repeated::All
            } else {
                Repeated::AllButMac
            };
        }
        self.control = record;
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    /// Asks the PF for what is missing of the record, when the image is complete.
    pub(crate) fn give_control(&mut self, hw: &mut dyn Hardware) -> Result<(), Refused> {
        let was_reset = mailbox::was_reset(hw);
        if was_reset {
            // It has forgotten what it was asked for with the first part of the image.
            self.repeated = Repeated::No;
        }
        // Only once: whoever asks again has a reason.
        match core::mem::replace(&mut self.repeated, Repeated::No) {
            Repeated::No => {
                let repeated = self.repeat_all(hw);
                // A PF that is just back may serve our message before the event of its own reset, and forget us again.
                if was_reset && repeated.is_err() {
                    self.repeat_all(hw)?;
                } else {
                    repeated?;
                }
            }
            Repeated::All => self.mailbox.restore(hw),
            Repeated::AllButMac => {
                self.control.replay_mac(hw)?;
                self.mailbox.restore(hw);
            }
        }
        if was_reset {
            // And these were wiped.
            self.interrupts.write(hw);
            hw.write32(regs::PSRTYPE, self.psrtype);
            self.statistics.rebase(hw);
        }
        Ok(())
    }

    /// Writes the state of a stopped device.
    pub(crate) fn put_state(
        &mut self,
        hw: &mut dyn Hardware,
        page: &mut dyn Registers,
        w: &mut Writer<'_>,
    ) -> Result<(), Full> {
        // A reset of the PF that nobody has noticed has cleared the statistics, and the interrupts. An answer that
        // the guest waits for is not taken here: the record went before.
        if !self.mailbox.is_waiting() {
            self.look(hw, self.hides_resets(true));
        }
        let mut pairs = [Pair::read(0, page), Pair::read(1, page)];
        for (pair, (tx, rx)) in pairs.iter_mut().zip(self.tx.iter().zip(&self.rx)) {
            pair.contexts = tx.contexts();
            pair.partial = rx.partial();
        }
        let state = State {
            pairs,
            interrupts: if self.lost || self.masked {
                self.interrupts.as_meant(is_active(page))
            } else {
                Interrupts::read(hw, is_active(page))
            },
            psrtype: self.psrtype,
            mailbox: self.mailbox.clone(),
            statistics: self.statistics.read_all(hw),
        };
        state.save(w)
    }

    /// Takes over a state, whole or not at all.
    pub(crate) fn take_state(
        &mut self,
        r: &mut Reader<'_>,
        hw: &mut dyn Hardware,
        page: &mut dyn Registers,
    ) -> Result<(), Refused> {
        let State {
            pairs,
            interrupts,
            psrtype,
            mailbox,
            statistics,
        } = State::load(r)?;
        r.clone().finish()?;
        self.drop_held();
        for (q, (pair, (tx, rx))) in pairs
            .iter()
            .zip(self.tx.iter_mut().zip(&mut self.rx))
            .enumerate()
        {
            pair.write(q, page);
            tx.reset();
            tx.set_contexts(pair.contexts);
            rx.reset(&mut self.counters);
            rx.set_partial(pair.partial);
        }
        interrupts.write(hw);
        self.interrupts = interrupts;
        hw.write32(regs::PSRTYPE, psrtype);
        self.psrtype = psrtype;
        self.mailbox = mailbox;
        self.statistics.restore(statistics, hw);
        (self.listening, self.masked, self.fresh) = (false, false, false);
        (self.lost, self.mirror_gone) = (false, false);
        Ok(())
    }
}
