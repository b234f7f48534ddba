// SPDX-License-Identifier: GPL-2.0

//! What a guest that keeps the protocol may rely on: one message at a time, and none is written over.
//!
//! That is a PF of its own, which is asked in the moment in which the guest sees the reply. So it does not matter
//! when the real one was asked, nor how often: it has to have said the same, and to know the same in the end.

use std::cell::RefCell;
use std::rc::Rc;

use mock_igbvf::vf::{Filters, Vf, World, GUEST};
use model::io::Registers;
use model::mock::Memory;

use super::{Message, CTS, DONE, REFUSED, REQ, TYPE, V2PMAILBOX, VF_RESET, VMBMEM};

/// Messages whose effect a reset of the VF does not undo: SET_LPE, unicast filters, and the greeting itself.
pub(super) fn lasts(message: &Message) -> bool {
    let (kind, info) = (message[0] & TYPE, message[0] >> 16);
    kind == VF_RESET || kind == 5 || kind == 2 && info != 0
}

/// It.
pub(super) struct Known {
    pf: Rc<RefCell<World>>,
    /// The real one was reset behind the guest's back, and may have forgotten the address when the guest greets it.
    pub hidden: bool,
}

impl Known {
    pub fn new() -> Self {
        Self {
            pf: World::new(Memory::new(GUEST, 0)),
            hidden: false,
        }
    }

    pub fn world(&mut self, f: impl FnOnce(&mut World)) {
        f(&mut self.pf.borrow_mut());
    }

    /// Whether the guest was greeted since the last reset that it knows of.
    pub fn is_greeted(&self) -> bool {
        self.pf.borrow().cts
    }

    /// The VF was reset, and the guest knows it.
    pub fn reset(&mut self) {
        self.pf.borrow_mut().vf_reset();
    }

    /// The guest has seen `reply` to `asked`. The PF may have `refused` whatever it was.
    pub fn answered(&mut self, asked: &Message, reply: [u32; 3], refused: bool) {
        {
            let mut pf = self.pf.borrow_mut();
            pf.refusing = refused && reply[0] & REFUSED != 0;
            if asked[0] == VF_RESET && self.hidden && reply[0] & REFUSED != 0 {
                pf.filters.mac = None;
            }
        }
        let mut pf = Vf(self.pf.clone());
        for (at, word) in (VMBMEM..).step_by(4).zip(asked) {
            pf.write32(at, *word);
        }
        pf.write32(V2PMAILBOX, REQ);
        let due = [0, 4, 8].map(|at| pf.read32(VMBMEM + at));
        let words = if asked[0] == VF_RESET && due[0] & DONE != 0 {
            3
        } else {
            1
        };
        assert_eq!(
            reply[..words],
            due[..words],
            "the reply to {:#x}; the guest is known: {}",
            asked[0],
            due[0] & CTS != 0
        );
    }

    /// The PF of `world` knows the same.
    pub fn compare(&mut self, world: &World) {
        assert_eq!(
            sorted(&world.filters),
            sorted(&self.pf.borrow().filters),
            "what the PF knows"
        );
        self.hidden = false;
    }
}

/// What a PF knows, in one order, each once.
fn sorted(filters: &Filters) -> Filters {
    let mut filters = filters.clone();
    filters.vlans.sort_unstable();
    filters.vlans.dedup();
    filters.unicast.sort_unstable();
    filters.unicast.dedup();
    filters
}
