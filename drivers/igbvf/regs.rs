// SPDX-License-Identifier: GPL-2.0

//! Registers of the 82576 virtual function, by the datasheet's names.
//!
//! Offsets are bytes in BAR 0. Those of the ring pages are queue 0's: `nth` gives those of queue 1.

use model::io::Registers;
use model::register::{Access, Register};

/// Queue pairs of a VF.
pub(crate) const QUEUES: usize = 2;
/// Bytes from a register of queue 0 to the same of queue 1.
pub(crate) const STRIDE: u32 = 0x100;

/// Device control; only RST is defined for a VF.
pub(crate) const CTRL: u32 = 0x0000;
/// Alias of CTRL.
pub(crate) const CTRL_DUP: u32 = 0x0004;
/// Device status.
pub(crate) const STATUS: u32 = 0x0008;
/// Mailbox memory, 16 words.
pub(crate) const VMBMEM: u32 = 0x0800;
/// Mailbox control.
pub(crate) const V2PMAILBOX: u32 = 0x0c40;
/// MSI-X pending bit clear.
pub(crate) const PBACL: u32 = 0x0f04;
/// Packet split types.
pub(crate) const PSRTYPE: u32 = 0x0f0c;
/// Statistics: 32 bits, wrapping, neither cleared by a read nor by a VF reset.
pub(crate) const STATISTICS: [u32; 9] = [
    0x0f10, 0x0f14, 0x0f18, 0x0f34, 0x0f3c, 0x0f40, 0x0f44, 0x0f48, 0x0f50,
];

/// Interrupt cause set.
pub(crate) const EICS: u32 = 0x1520;
/// Interrupt mask set.
pub(crate) const EIMS: u32 = 0x1524;
/// Interrupt mask clear.
pub(crate) const EIMC: u32 = 0x1528;
/// Interrupt auto clear.
pub(crate) const EIAC: u32 = 0x152c;
/// Interrupt auto mask.
pub(crate) const EIAM: u32 = 0x1530;
/// Interrupt cause.
pub(crate) const EICR: u32 = 0x1580;
/// Interrupt throttle, one per vector, four bytes apart.
pub(crate) const EITR: u32 = 0x1680;
/// Vectors of RX 0, TX 0, RX 1, TX 1, a byte each.
pub(crate) const IVAR0: u32 = 0x1700;
/// Vector of the mailbox.
pub(crate) const IVAR_MISC: u32 = 0x1740;

/// RX ring base, low.
pub(crate) const RDBAL: u32 = 0x2800;
/// RX ring base, high.
pub(crate) const RDBAH: u32 = 0x2804;
/// RX ring bytes.
pub(crate) const RDLEN: u32 = 0x2808;
/// RX buffer sizes and descriptor type.
pub(crate) const SRRCTL: u32 = 0x280c;
/// RX head.
pub(crate) const RDH: u32 = 0x2810;
/// RX direct cache access.
pub(crate) const RXCTL: u32 = 0x2814;
/// RX tail.
pub(crate) const RDT: u32 = 0x2818;
/// RX queue control.
pub(crate) const RXDCTL: u32 = 0x2828;

/// TX ring base, low.
pub(crate) const TDBAL: u32 = 0x3800;
/// TX ring base, high.
pub(crate) const TDBAH: u32 = 0x3804;
/// TX ring bytes.
pub(crate) const TDLEN: u32 = 0x3808;
/// TX head.
pub(crate) const TDH: u32 = 0x3810;
/// TX direct cache access.
pub(crate) const TXCTL: u32 = 0x3814;
/// TX tail.
pub(crate) const TDT: u32 = 0x3818;
/// TX queue control.
pub(crate) const TXDCTL: u32 = 0x3828;
/// TX head write-back address, low, and its enable bits.
pub(crate) const TDWBAL: u32 = 0x3838;
/// TX head write-back address, high.
pub(crate) const TDWBAH: u32 = 0x383c;

/// CTRL: resets the VF; clears itself.
pub(crate) const CTRL_RST: u32 = 1 << 26;
/// STATUS: what every host shows alike; the rest is the PF's.
pub(crate) const STATUS_MASK: u32 = 0xd3;

/// STATUS: 1000 Mb/s, link up, full duplex.
pub(crate) const STATUS_UP: u32 = 0x83;

/// V2PMAILBOX: a message for the PF.
pub(crate) const REQ: u32 = 1 << 0;
/// V2PMAILBOX: the PF's message was read.
pub(crate) const ACK: u32 = 1 << 1;
/// V2PMAILBOX: the VF owns VMBMEM.
pub(crate) const VFU: u32 = 1 << 2;
/// V2PMAILBOX: the PF wrote a message.
pub(crate) const PFSTS: u32 = 1 << 4;
/// V2PMAILBOX: the PF read ours.
pub(crate) const PFACK: u32 = 1 << 5;
/// V2PMAILBOX: the PF is being reset.
pub(crate) const RSTI: u32 = 1 << 6;
/// V2PMAILBOX: the PF was reset.
pub(crate) const RSTD: u32 = 1 << 7;
/// V2PMAILBOX: bits that a read clears.
pub(crate) const READ_CLEARS: u32 = PFSTS | PFACK | RSTD;

/// RXDCTL and TXDCTL: runs the queue; reads as what the queue really does.
pub(crate) const ENABLE: u32 = 1 << 25;
/// RXDCTL and TXDCTL: writes completed descriptors back.
pub(crate) const SWFLSH: u32 = 1 << 26;
/// RXDCTL and TXDCTL: descriptors to gather before they are written back.
pub(crate) const WTHRESH: u32 = 0x1f << 16;

/// TDWBAL: the head is written to memory, no DD bit is.
pub(crate) const HEAD_WB_EN: u32 = 1 << 0;
/// TDWBAL: the head is also written when the throttle timer expires.
pub(crate) const WB_ON_EITR: u32 = 1 << 1;

/// Ring registers of the RX page that can be read back and written again.
pub(crate) const RX_RING: [u32; 8] = [RDBAL, RDBAH, RDLEN, SRRCTL, RDH, RXCTL, RDT, RXDCTL];
/// Ring registers of the TX page that can be read back and written again.
pub(crate) const TX_RING: [u32; 9] = [TDBAL, TDBAH, TDLEN, TDH, TXCTL, TDT, TXDCTL, TDWBAL, TDWBAH];

/// The register of queue `q` that queue 0 has at `at`.
pub(crate) fn nth(at: u32, q: usize) -> u32 {
    if q == 0 {
        at
    } else {
        at.wrapping_add(STRIDE)
    }
}

/// Which word of VMBMEM is at `at`.
pub(crate) fn mailbox_word(at: u32) -> Option<usize> {
    let offset = at.checked_sub(VMBMEM)?;
    (offset < 64 && offset % 4 == 0).then_some(offset as usize / 4)
}

/// Clears `bits` of the register at `at`.
pub(crate) fn clear<R: Registers + ?Sized>(regs: &mut R, at: u32, bits: u32) {
    let val = regs.read32(at);
    regs.write32(at, val & !bits);
}

const fn row(name: &'static str, at: u32, access: Access, reset: u32) -> Register {
    Register {
        name,
        at,
        count: 1,
        stride: 0,
        access,
        reset,
    }
}

const fn rows(name: &'static str, at: u32, access: Access, reset: u32) -> Register {
    Register {
        name,
        at,
        count: QUEUES as u32,
        stride: STRIDE,
        access,
        reset,
    }
}

/// Every register of the VF.
pub static TABLE: [Register; 47] = [
    row("CTRL", CTRL, Access::ReadWrite, 0),
    row("CTRL_DUP", CTRL_DUP, Access::ReadWrite, 0),
    row("STATUS", STATUS, Access::ReadOnly, 0x83),
    Register {
        name: "VMBMEM",
        at: VMBMEM,
        count: 16,
        stride: 4,
        access: Access::ReadWrite,
        reset: 0,
    },
    row("V2PMAILBOX", V2PMAILBOX, Access::ReadClears, 0),
    row("PBACL", PBACL, Access::WriteClears, 0),
    row("PSRTYPE", PSRTYPE, Access::ReadWrite, 0),
    row("VFGPRC", 0x0f10, Access::ReadOnly, 0),
    row("VFGPTC", 0x0f14, Access::ReadOnly, 0),
    row("VFGORC", 0x0f18, Access::ReadOnly, 0),
    row("VFGOTC", 0x0f34, Access::ReadOnly, 0),
    row("VFMPRC", 0x0f3c, Access::ReadOnly, 0),
    row("VFGPRLBC", 0x0f40, Access::ReadOnly, 0),
    row("VFGPTLBC", 0x0f44, Access::ReadOnly, 0),
    row("VFGORLBC", 0x0f48, Access::ReadOnly, 0),
    row("VFGOTLBC", 0x0f50, Access::ReadOnly, 0),
    row("FRTIMER", 0x1048, Access::ReadOnly, 0),
    row("EICS", EICS, Access::WriteOnly, 0),
    row("EIMS", EIMS, Access::ReadWrite, 0),
    row("EIMC", EIMC, Access::WriteOnly, 0),
    row("EIAC", EIAC, Access::ReadWrite, 0),
    row("EIAM", EIAM, Access::ReadWrite, 0),
    row("EICR", EICR, Access::ReadClears, 0),
    Register {
        name: "EITR",
        at: EITR,
        count: 3,
        stride: 4,
        access: Access::ReadWrite,
        reset: 0,
    },
    row("IVAR0", IVAR0, Access::ReadWrite, 0),
    row("IVAR_MISC", IVAR_MISC, Access::ReadWrite, 0),
    row("PBRWAC", 0x24e8, Access::ReadOnly, 0),
    rows("RDBAL", RDBAL, Access::ReadWrite, 0),
    rows("RDBAH", RDBAH, Access::ReadWrite, 0),
    rows("RDLEN", RDLEN, Access::ReadWrite, 0),
    row("SRRCTL", SRRCTL, Access::ReadWrite, 0x400),
    // DROP_EN: the second queue must not block the first one's buffer.
    row("SRRCTL", SRRCTL + STRIDE, Access::ReadWrite, 0x8000_0400),
    rows("RDH", RDH, Access::ReadWrite, 0),
    rows("RXCTL", RXCTL, Access::ReadWrite, 0),
    rows("RDT", RDT, Access::ReadWrite, 0),
    rows("RXDCTL", RXDCTL, Access::ReadWrite, 0x10000),
    rows("RQDPC", 0x2830, Access::ReadClears, 0),
    row("PBTWAC", 0x34e8, Access::ReadOnly, 0),
    rows("TDBAL", TDBAL, Access::ReadWrite, 0),
    rows("TDBAH", TDBAH, Access::ReadWrite, 0),
    rows("TDLEN", TDLEN, Access::ReadWrite, 0),
    rows("TDH", TDH, Access::ReadWrite, 0),
    rows("TXCTL", TXCTL, Access::ReadWrite, 0x2a00),
    rows("TDT", TDT, Access::ReadWrite, 0),
    rows("TXDCTL", TXDCTL, Access::ReadWrite, 0),
    rows("TDWBAL", TDWBAL, Access::ReadWrite, 0),
    rows("TDWBAH", TDWBAH, Access::ReadWrite, 0),
];

/// Gives the registers of `page` their values after a reset.
pub(crate) fn reset_rings<R: Registers + ?Sized>(page: &mut R) {
    for r in TABLE.iter().filter(|r| r.at >= 0x2000) {
        for n in 0..r.count {
            page.write32(r.at.wrapping_add(n.wrapping_mul(r.stride)), r.reset);
        }
    }
}

/// Runs `f` on each ring register that travels.
pub(crate) fn for_each_ring_register(mut f: impl FnMut(u32)) {
    for q in 0..QUEUES {
        for at in RX_RING.iter().chain(&TX_RING) {
            f(nth(*at, q));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::mock::Page;

    #[test]
    fn every_ring_register_that_travels_is_in_the_table() {
        for_each_ring_register(|at| {
            let in_table = |r: &Register| (0..r.count).any(|n| r.at + n * r.stride == at);
            assert!(TABLE.iter().any(in_table), "{at:#x}");
        });
    }

    #[test]
    fn registers_of_queue_1_are_256_bytes_further_on() {
        assert_eq!((nth(RDBAL, 0), nth(RDBAL, 1)), (0x2800, 0x2900));
    }

    #[test]
    fn words_of_the_mailbox_are_16_and_aligned() {
        for at in 0..0x1000 {
            let expected = match at {
                0x800..=0x83f if at % 4 == 0 => Some((at as usize - 0x800) / 4),
                _ => None,
            };
            assert_eq!(mailbox_word(at), expected, "{at:#x}");
        }
    }

    #[test]
    fn rings_have_their_reset_values_after_a_reset_and_nothing_else_has() {
        let mut page = Page::new(0, 0x4000);
        for at in (0..0x4000).step_by(4) {
            page.write32(at, 0x77);
        }
        reset_rings(&mut page);
        for at in (0..0x2000).step_by(4) {
            assert_eq!(page.read32(at), 0x77);
        }
        assert_eq!(
            [0x2810, 0x2828, 0x2928, 0x290c, 0x3914].map(|at| page.read32(at)),
            [0, 0x10000, 0x10000, 0x8000_0400, 0x2a00]
        );
        for_each_ring_register(|at| assert_ne!(page.read32(at), 0x77));
    }

    #[test]
    fn what_is_cleared_leaves_the_rest() {
        let mut page = Page::new(0, 0x4000);
        page.write32(RXDCTL, u32::MAX);
        clear(&mut page, RXDCTL, ENABLE);
        assert_eq!(page.read32(RXDCTL), !(1 << 25));
    }

    #[test]
    fn rows_name_each_queue_s_register() {
        let r = rows("NAME", 0x2800, Access::ReadOnly, 7);
        assert_eq!(
            (r.name, r.at, r.count, r.stride),
            ("NAME", 0x2800, 2, 0x100)
        );
        let r = row("NAME", 0x2800, Access::ReadOnly, 7);
        assert_eq!((r.count, r.stride, r.reset), (1, 0, 7));
    }
}
