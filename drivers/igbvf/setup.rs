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

/// Whether completing as TDWBAL says can be emulated, for a ring of `tdlen` bytes.
///
/// # Errors
///
/// Why not.
pub(crate) fn check_write_back(tdwbal: u32, tdlen: u32) -> Result<(), &'static str> {
    if tdwbal & regs::WB_ON_EITR != 0 {
        return Err("a transmit queue writes its head back by the throttle timer");
    }
    // Four bytes are copied to a user one by one. A head with more than one that changes would be seen as it never was.
    if tdwbal & regs::HEAD_WB_EN != 0 && ring_len(tdlen) > 256 {
        return Err("a transmit queue of more than 256 descriptors writes its head back");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::mock::Page;
    use regs::STRIDE;

    #[test]
    fn a_ring_is_what_its_registers_say() {
        for q in 0..regs::QUEUES {
            let mut page = Page::new(0x2000, 0x4000);
            let o = q as u32 * STRIDE;
            for base in [0x2800, 0x3800] {
                page.write32(base + o, 0xabcd_efff);
                page.write32(base + o + 4, 0x12);
                page.write32(base + o + 8, 0x1000);
            }
            page.write32(0x280c + o, 0x0200_0003);
            let rx = RxRing::read(q, &mut page);
            assert_eq!((rx.base, rx.len), (Iova(0x12_abcd_ef80), 256));
            assert_eq!((rx.format.buffer, rx.format.header), (3072, None));
            // With all bits but the one that enables it, the head is not written back.
            page.write32(0x3838 + o, !1);
            page.write32(0x383c + o, 0x34);
            let tx = TxRing::read(q, &mut page);
            assert_eq!((tx.base, tx.len), (Iova(0x12_abcd_ef80), 256));
            assert_eq!(tx.head_wb, None);
            page.write32(0x3838 + o, u32::MAX);
            let tx = TxRing::read(q, &mut page);
            assert_eq!(tx.head_wb, Some(Iova(0x34_ffff_fffc)));
        }
    }

    #[test]
    fn a_ring_has_whole_cache_lines_of_descriptors_and_an_end() {
        for (bytes, len) in [
            (0, 0),
            (16, 0),
            (127, 0),
            (128, 8),
            (129, 0),
            (0x8_0000, 0x8000),
            (0x8_0080, 0),
            (u32::MAX & !127, 0),
        ] {
            assert_eq!(ring_len(bytes), len, "{bytes:#x}");
        }
    }

    #[test]
    fn a_format_is_what_srrctl_says() {
        for (srrctl, buffer, header) in [
            (1 << 25, 2048, None),
            (1 << 25 | 1, 1024, None),
            (1 << 25 | 0x7f, 0x7f * 1024, None),
            // Split where the header is known has all in packet buffers, as far as we know.
            (2 << 25 | 4 << 8 | 2, 2048, None),
            (5 << 25 | 4 << 8 | 2, 2048, Some(256)),
            (5 << 25 | 1 << 8 | 1, 1024, Some(64)),
            // As long as HDR_LEN can say.
            (5 << 25 | 0x3f << 8, 2048, Some(960)),
            // DROP_EN and the rest are no part of it.
            (0x8000_0000 | 5 << 25 | 4 << 8 | 2, 2048, Some(256)),
            (0x4080 | 5 << 25 | 4 << 8 | 2, 2048, Some(256)),
            (0x8000_0000 | 1 << 25 | 4 << 8 | 2, 2048, None),
        ] {
            let format = Format { buffer, header };
            assert_eq!(Format::parse(srrctl), format, "{srrctl:#x}");
        }
    }

    #[test]
    fn a_frame_fills_the_header_first_and_then_buffer_after_buffer() {
        let split = Format::parse(5 << 25 | 2 << 8 | 1);
        for (len, header, descs, parts) in [
            (1, 1, 1, [(1, 0), (1025, 0)]),
            (128, 128, 1, [(128, 0), (1152, 0)]),
            (129, 128, 1, [(128, 1), (1152, 0)]),
            (128 + 1024, 128, 1, [(128, 1024), (1152, 0)]),
            (128 + 1025, 128, 2, [(128, 1024), (1152, 1)]),
        ] {
            assert_eq!((split.in_header(len), split.descs(len)), (header, descs));
            let got = [0, 1].map(|n| split.in_buffer(len, n));
            assert_eq!(got, parts, "{len}");
        }
        let one = Format::parse(1 << 25 | 1);
        assert_eq!((one.in_header(3000), one.descs(3000)), (0, 3));
        assert_eq!(one.in_buffer(3000, 2), (2048, 952));
    }

    #[test]
    fn what_cannot_be_received_or_completed_is_named() {
        for (srrctl, good) in [
            (0, false),
            (1 << 25, true),
            (2 << 25, true),
            (3 << 25, false),
            (4 << 25, false),
            (5 << 25, true),
            (6 << 25, false),
            (7 << 25, false),
            (0x8000_0000 | 1 << 25, true),
            (0x4000_0000 | 1 << 25, false),
        ] {
            assert_eq!(check_format(srrctl).is_ok(), good, "{srrctl:#x}");
        }
        for (tdwbal, descs, good) in [
            (0, 4096, true),
            (!3, 4096, true),
            (!2, 256, true),
            (!2, 264, false),
            (2, 8, false),
            (3, 8, false),
        ] {
            let checked = check_write_back(tdwbal, descs * 16);
            assert_eq!(checked.is_ok(), good, "{tdwbal:#x} {descs}");
        }
    }
}
