// SPDX-License-Identifier: GPL-2.0

//! A VF without us, to which everything is done that is done to the one with us.
//!
//! It is given up when something happens that the guest is not to see.

use std::cell::RefCell;
use std::rc::Rc;

use mock_igbvf::vf::{Vf, World, GUEST};
use model::io::Registers;
use model::mock::Memory;

use super::{PFSTS, V2PMAILBOX, VFGPRC, VMBMEM};

/// It.
pub(super) struct Twin {
    bare: Rc<RefCell<World>>,
    /// The one with us is another one now, and VMBMEM may not be what the guest has written.
    pub moved: bool,
    /// After a reset VFGPRC is no more what the hardware has.
    pub recounted: bool,
}

impl Twin {
    pub fn new() -> Self {
        Self {
            bare: World::new(Memory::new(GUEST, 0)),
            moved: false,
            recounted: false,
        }
    }

    pub fn world(&mut self, f: impl FnOnce(&mut World)) {
        f(&mut self.bare.borrow_mut());
    }

    /// The guest writes.
    pub fn write(&mut self, at: u32, val: u32) {
        Vf(self.bare.clone()).write32(at, val);
    }

    /// The guest has read V2PMAILBOX as `val`, and `word` at VMBMEM.
    pub fn look(&mut self, val: u32, word: u32) {
        let bare = Vf(self.bare.clone()).read32(V2PMAILBOX);
        assert_eq!(val, bare, "V2PMAILBOX");
        if bare & PFSTS != 0 {
            assert_eq!(word, *self.bare.borrow_mut().reg(VMBMEM), "VMBMEM[0]");
        }
    }

    /// The guest has read VFGPRC.
    pub fn count(&mut self, received: u32) {
        if !self.recounted {
            assert_eq!(received, *self.bare.borrow_mut().reg(VFGPRC), "VFGPRC");
        }
    }

    /// The function is reset from outside. What the mailbox had is forgotten or not, as `other` has it.
    pub fn flr(&mut self, other: &mut World) {
        self.recounted = true;
        let mut bare = self.bare.borrow_mut();
        bare.vf_reset();
        for at in (VMBMEM..VMBMEM + 64).step_by(4).chain([V2PMAILBOX]) {
            *bare.reg(at) = *other.reg(at);
        }
    }
}
