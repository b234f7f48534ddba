// SPDX-License-Identifier: GPL-2.0

//! What a guest's driver does besides moving frames: mailbox, interrupts, resets.

use igbvf::regs::TABLE;

use crate::compare::{equal, Same};
use crate::guest::RX;
use crate::play::Player;
use crate::sequence::MAC;

const CTRL: u32 = 0x0;
const VMBMEM: u32 = 0x800;
const V2PMAILBOX: u32 = 0xc40;
const PSRTYPE: u32 = 0xf0c;
const EIMS: u32 = 0x1524;
const EIMC: u32 = 0x1528;
const EIAC: u32 = 0x152c;
const EIAM: u32 = 0x1530;
const EICR: u32 = 0x1580;
const EITR: u32 = 0x1680;
const IVAR0: u32 = 0x1700;
const IVAR_MISC: u32 = 0x1740;

impl Player {
    pub(crate) fn interrupts(&mut self, at: u32, val: u32) {
        self.sides.store(at, val);
        match at {
            EIMS => self.now.eims |= val,
            EIMC => self.now.eims &= !val,
            EICR => self.now.pending &= !val,
            EITR.. => {
                let vector = 1 << ((at - EITR) / 4);
                self.now.throttled &= !vector;
                self.now.throttled |= if val & 0x7ffe != 0 { vector } else { 0 };
            }
            _ => {}
        }
    }

    /// V2PMAILBOX, which has to be the same.
    fn mailbox(&mut self) -> Result<u32, String> {
        let (direct, ours) = self.sides.load(V2PMAILBOX);
        equal("V2PMAILBOX", direct, ours)?;
        Ok(ours)
    }

    /// A message to the PF, in igbvf's order: the reply.
    pub(crate) fn message(&mut self, words: &[u32]) -> Result<u32, String> {
        self.sides.store(V2PMAILBOX, 4);
        if self.mailbox()? & 4 == 0 {
            return Err("the mailbox cannot be taken".to_owned());
        }
        for (n, word) in words.iter().enumerate() {
            let at = VMBMEM + 4 * n as u32;
            self.sides.store(at, *word);
            self.now.loose.remove(&at);
        }
        self.sides.store(V2PMAILBOX, 1);
        let val = self.mailbox()?;
        if val & 0x30 != 0x30 {
            return Err(format!("no reply: V2PMAILBOX is {val:#x}"));
        }
        self.sides.store(V2PMAILBOX, 4);
        self.mailbox()?;
        let mut reply = 0;
        for n in (0..3).rev() {
            let (direct, ours) = self.sides.load(VMBMEM + 4 * n);
            if !self.now.loose.contains(&(VMBMEM + 4 * n)) {
                equal(&format!("word {n} of the reply"), direct, ours)?;
            }
            reply = ours;
        }
        self.sides.store(V2PMAILBOX, 2);
        Ok(reply)
    }

    /// What a driver does to a VF that it finds.
    pub(crate) fn probe(&mut self) -> Same {
        self.sides.store(EIMC, u32::MAX);
        self.sides.store(EIAC, 0);
        self.now.eims = 0;
        self.sides.store(CTRL, 1 << 26);
        let mut val = self.mailbox()?;
        if val & 0xc0 != 0 {
            val = self.mailbox()?;
        }
        if val & 0xc0 != 0 {
            return Err(format!("the PF stays in reset: V2PMAILBOX is {val:#x}"));
        }
        self.message(&[1])?;
        let reply = self.message(&set_mac(0))?;
        if reply >> 29 != 5 {
            return Err(format!("the PF refuses an address: {reply:#x}"));
        }
        let [ivar0, ivar_misc] = self.now.ivar;
        for (at, val) in [
            (IVAR0, ivar0),
            (IVAR_MISC, ivar_misc),
            (EIAC, 7),
            (EIAM, 7),
            (EIMS, 7),
        ] {
            self.sides.store(at, val);
        }
        self.now.eims = 7;
        self.now.since.switched = true;
        Ok(())
    }

    pub(crate) fn reset(&mut self, flr: bool) -> Same {
        self.now.guest.forget();
        if flr {
            self.sides.direct.flr();
            self.sides.ours.flr();
            self.now.psrtype = 0;
            self.now.loose.extend((0..16).map(|n| VMBMEM + 4 * n));
            self.now.loose.insert(PSRTYPE);
        }
        for row in TABLE.iter().filter(|row| row.at >= RX) {
            for n in 0..row.count {
                let is_index = matches!(row.name, "RDH" | "RDT" | "TDH" | "TDT");
                if flr || is_index {
                    self.now.loose.insert(row.at + n * row.stride);
                }
            }
        }
        if flr {
            self.note_statistics();
        }
        self.probe()?;
        if flr {
            // igb remembers these, ours starts anew: a driver that is opened asks for both.
            self.message(&set_mac(1 << 16))?;
            self.message(&[5, 9728])?;
        }
        Ok(())
    }
}

/// SET_MAC_ADDR with the guest's address.
fn set_mac(info: u32) -> [u32; 3] {
    let [a, b, c, d, e, f] = MAC;
    [
        2 | info,
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, 0, 0]),
    ]
}
