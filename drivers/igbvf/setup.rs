// SPDX-License-Identifier: GPL-2.0

//! What the guest's ring registers say.

use model::io::{Iova, Registers};

use crate::desc::DESC_BYTES;
use crate::regs::{self, nth};

/// SRRCTL: where DESCTYPE is.
const DESCTYPE_SHIFT: u32 = 25;
/// SRRCTL: the hardware puts a time stamp before the frame (not in an 82576).
const TIMESTAMP: u32 = 1 << 30;
/// Bytes of a packet buffer if SRRCTL leaves it to the PF.
const DEFAULT_BUFFER_BYTES: usize = 2048;
/// Most bytes in a header buffer: what HDR_LEN can say, in units of SRRCTL.
const MAX_HEADER_BYTES: usize = 960;

/// A TX ring of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TxRing {
    pub(crate) base: Iova,
    pub(crate) len: u32,
    /// Where the head is written instead of DD bits.
    pub(crate) head_wb: Option<Iova>,
}

impl TxRing {
    pub(crate) fn read(q: usize, page: &mut dyn Registers) -> Self {
        let mut at = |reg| page.read32(nth(reg, q));
        let (wb_lo, wb_hi) = (at(regs::TDWBAL), at(regs::TDWBAH));
        let head_wb = (wb_lo & regs::HEAD_WB_EN != 0).then(|| address(wb_lo & !3, wb_hi));
        let base = address(at(regs::TDBAL) & !0x7f, at(regs::TDBAH));
        Self {
            base,
            len: ring_len(at(regs::TDLEN)),
            head_wb,
        }
    }
}

/// An RX ring of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RxRing {
    pub(crate) base: Iova,
    pub(crate) len: u32,
    pub(crate) format: Format,
}

impl RxRing {
    pub(crate) fn read(q: usize, page: &mut dyn Registers) -> Self {
        let mut at = |reg| page.read32(nth(reg, q));
        Self {
            base: address(at(regs::RDBAL) & !0x7f, at(regs::RDBAH)),
            len: ring_len(at(regs::RDLEN)),
            format: Format::parse(at(regs::SRRCTL)),
        }
    }
}

/// How the guest lays out its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// Bytes of a packet buffer.
    pub(crate) buffer: usize,
    /// Bytes of a header buffer that is always filled first, if that is so.
    pub(crate) header: Option<usize>,
}

impl Format {
    pub(crate) fn parse(srrctl: u32) -> Self {
        let buffer = match (srrctl & 0x7f) as usize {
            0 => DEFAULT_BUFFER_BYTES,
            kib => kib.saturating_mul(1024),
        };
        let header = ((srrctl >> 8 & 0x3f) as usize)
            .saturating_mul(64)
            .min(MAX_HEADER_BYTES);
        // Split where the hardware knows the header (2) delivers what it does not know into packet buffers
        // alone, so everything may go there.
        let always = srrctl >> DESCTYPE_SHIFT & 7 == 5;
        Self {
            buffer,
            header: always.then_some(header),
        }
    }

    /// Bytes of a frame of `len` that go into the header buffer.
    pub(crate) fn in_header(self, len: usize) -> usize {
        self.header.map_or(0, |header| header.min(len))
    }

    /// Descriptors for a frame of `len` bytes.
    pub(crate) fn descs(self, len: usize) -> u32 {
        len.saturating_sub(self.in_header(len))
            .div_ceil(self.buffer.max(1))
            .max(1) as u32
    }

    /// The part of a frame of `len` that goes into packet buffer `n`: start and bytes.
    pub(crate) fn in_buffer(self, len: usize, n: u32) -> (usize, usize) {
        let start = self
            .in_header(len)
            .saturating_add(self.buffer.saturating_mul(n as usize));
        (start, len.saturating_sub(start).min(self.buffer))
    }
}

/// Whether receiving by `srrctl` can be emulated.
///
/// # Errors
///
/// Why not.
pub(crate) fn check_format(srrctl: u32) -> Result<(), &'static str> {
    if srrctl & TIMESTAMP != 0 {
        return Err("a receive queue puts time stamps before its frames");
    }
    match srrctl >> DESCTYPE_SHIFT & 7 {
        1 | 2 | 5 => Ok(()),
        0 => Err("a receive queue uses legacy descriptors"),
        _ => Err("a receive queue uses a descriptor type that is not emulated"),
    }
}

/// An address in two registers.
fn address(lo: u32, hi: u32) -> Iova {
    Iova(u64::from(hi) << 32 | u64::from(lo))
}

/// Descriptors in a ring of `bytes`; 0 if there is no such ring.
fn ring_len(bytes: u32) -> u32 {
    if bytes % 128 == 0 && bytes <= 0x8_0000 {
        bytes / DESC_BYTES as u32
    } else {
        0
    }
}

/// Whether completing as TDWBAL says can be emulated.
///
/// # Errors
///
/// Why not.
pub(crate) fn check_write_back(tdwbal: u32) -> Result<(), &'static str> {
    if tdwbal & regs::WB_ON_EITR != 0 {
        return Err("a transmit queue writes its head back by the throttle timer");
    }
    Ok(())
}
