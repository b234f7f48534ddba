// SPDX-License-Identifier: GPL-2.0

//! Registers of the null function. Replace them by the datasheet's, names verbatim.

use model::register::{Access, Register};

/// Device control, in the trapped page.
pub(crate) const CTRL: u32 = 0x0000;
/// Packets of which protocols the guest wants: the PF's business, so it has to be repeated to another PF.
pub(crate) const FILTER: u32 = 0x0008;
/// TX ring base, low, in the substituted page. Registers that tell where a ring is have to be there.
pub(crate) const TDBAL: u32 = 0x1000;
/// TX ring base, high.
pub(crate) const TDBAH: u32 = 0x1004;
/// TX ring descriptors.
pub(crate) const TDLEN: u32 = 0x1008;
/// TX head.
pub(crate) const TDH: u32 = 0x1010;
/// TX tail; writing it is the doorbell.
pub(crate) const TDT: u32 = 0x1018;
/// TX queue control.
pub(crate) const TXDCTL: u32 = 0x1028;

/// CTRL: resets the function; clears itself.
pub(crate) const CTRL_RST: u32 = 1 << 0;
/// TXDCTL: runs the queue; reads as what the queue really does.
pub(crate) const ENABLE: u32 = 1 << 25;

/// Most descriptors of a ring.
pub(crate) const MAX_DESCS: u32 = 4096;
/// Bytes of a descriptor.
pub(crate) const DESC_BYTES: u64 = 16;
/// Where in a descriptor the byte is that says it is done.
pub(crate) const DONE_BYTE: u64 = 15;
/// That byte.
pub(crate) const DONE: u8 = 1;

/// The registers of the substituted page that travel, in the order of the image.
pub(crate) const RING: [u32; 6] = [TDBAL, TDBAH, TDLEN, TDH, TDT, TXDCTL];

const fn row(name: &'static str, at: u32, reset: u32) -> Register {
    Register {
        name,
        at,
        count: 1,
        stride: 0,
        access: Access::ReadWrite,
        reset,
    }
}

/// Every register of the function, for debugfs and for the conformance tests.
pub static TABLE: [Register; 8] = [
    row("CTRL", CTRL, 0),
    row("FILTER", FILTER, 0),
    row("TDBAL", TDBAL, 0),
    row("TDBAH", TDBAH, 0),
    row("TDLEN", TDLEN, 0),
    row("TDH", TDH, 0),
    row("TDT", TDT, 0),
    row("TXDCTL", TXDCTL, 0),
];
