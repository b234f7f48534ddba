// SPDX-License-Identifier: GPL-2.0

//! A driver's side of the mailbox.

use crate::machine::Machine;

const VMBMEM: u32 = 0x800;
const V2PMAILBOX: u32 = 0xc40;
const REQ: u32 = 1 << 0;
const ACK: u32 = 1 << 1;
const VFU: u32 = 1 << 2;
const PFSTS: u32 = 1 << 4;
const PFACK: u32 = 1 << 5;
const RSTI: u32 = 1 << 6;
const RSTD: u32 = 1 << 7;
/// Bits that a read clears, so that they are lost to whoever does not keep them.
const READ_CLEARS: u32 = PFSTS | PFACK | RSTD;
/// Word 0: the PF knows the VF.
const CTS: u32 = 1 << 29;
/// Looks until the PF has to have answered: Linux takes as many, half a millisecond apart.
const TRIES: u32 = 2000;

/// Words 0, 1 and 2 of an answer.
pub type Reply = [u32; 3];

/// Bits of V2PMAILBOX that were read and not used yet.
#[derive(Default)]
pub struct Mailbox {
    unread: u32,
    /// A message was sent, and its answer not read.
    pub waiting: bool,
}

impl Mailbox {
    fn look(&mut self, m: &mut Machine) -> u32 {
        let val = m.load(V2PMAILBOX);
        self.unread |= val & READ_CLEARS;
        val & !READ_CLEARS | self.unread
    }

    fn wait_for(&mut self, m: &mut Machine, bit: u32) -> bool {
        for _ in 0..TRIES {
            if self.look(m) & bit != 0 {
                self.unread &= !bit;
                return true;
            }
            m.wait();
        }
        false
    }

    fn own(&mut self, m: &mut Machine) {
        m.store(V2PMAILBOX, VFU);
        assert_ne!(self.look(m) & VFU, 0, "the mailbox cannot be taken");
    }

    /// Sends a message.
    pub fn post(&mut self, m: &mut Machine, words: &[u32]) {
        self.own(m);
        self.look(m);
        self.unread &= !(PFSTS | PFACK);
        for (at, word) in (VMBMEM..).step_by(4).zip(words) {
            m.store(at, *word);
        }
        m.store(V2PMAILBOX, REQ);
        self.waiting = true;
    }

    /// The answer to it, if one comes.
    pub fn reply(&mut self, m: &mut Machine) -> Option<Reply> {
        self.waiting = false;
        if !self.wait_for(m, PFACK) || !self.wait_for(m, PFSTS) {
            return None;
        }
        self.own(m);
        let reply = [0, 4, 8].map(|offset| m.load(VMBMEM + offset));
        m.store(V2PMAILBOX, ACK);
        Some(reply)
    }

    /// Waits until the PF is not being reset, and has been.
    pub fn wait_for_pf(&mut self, m: &mut Machine) {
        self.waiting = false;
        for _ in 0..TRIES {
            let val = self.look(m);
            self.unread = 0;
            if val & (RSTI | RSTD) == 0 {
                return;
            }
        }
        panic!("the PF stays in reset");
    }

    /// What Linux's watchdog looks at: whether all is well.
    pub fn link_check(&mut self, m: &mut Machine) -> bool {
        let val = self.look(m);
        self.own(m);
        let word = m.load(VMBMEM);
        m.store(V2PMAILBOX, ACK);
        self.unread &= !PFSTS;
        val & (RSTI | RSTD) == 0 && word & CTS != 0
    }
}
