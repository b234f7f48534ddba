// SPDX-License-Identifier: GPL-2.0

//! Descriptors: 16 bytes, little endian (82576 datasheet 7.1.5 and 7.2.2).

use model::adapter::MAX_BURST;
use model::io::{Fault, GuestMemory, Iova};

/// Bytes of a descriptor.
pub(crate) const DESC_BYTES: usize = 16;
/// Descriptors that are read from the guest at once.
pub(crate) const RUN: u32 = MAX_BURST;

/// DD, in the dword that holds it.
pub(crate) const DD: u32 = 1 << 0;
/// TX: bits 3:0 of the last dword are status.
const TX_STATUS: u32 = 0xf;
/// TX: end of packet.
const TX_EOP: u32 = 1 << 24;
/// TX: insert the checksum of the frame.
const TX_IFCS: u32 = 1 << 25;
/// TX: report status.
const TX_RS: u32 = 1 << 27;
/// TX: advanced descriptor.
const TX_DEXT: u32 = 1 << 29;
/// TX: cut into segments.
const TX_TSE: u32 = 1 << 31;
/// TX: descriptor type.
const TX_DTYP: u32 = 0xf << 20;
const TX_DTYP_CONTEXT: u32 = 2 << 20;
const TX_DTYP_DATA: u32 = 3 << 20;
/// TX: bytes of the buffer.
const TX_DTALEN: u32 = 0xffff;
/// TX: which of the two contexts.
const TX_IDX: u32 = 1 << 4;

/// RX: end of packet.
pub(crate) const RX_EOP: u32 = 1 << 1;
/// RX: receive error, which drivers drop a frame for.
pub(crate) const RX_RXE: u32 = 1 << 31;
/// RX: RSS type and packet type; HDR_LEN and SPH are ours.
pub(crate) const RX_TYPES: u32 = 0x1_ffff;
/// RX: where HDR_LEN is.
pub(crate) const RX_HDR_LEN_SHIFT: u32 = 21;

/// A copy of a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Desc(pub(crate) [u32; 4]);

impl Desc {
    /// From the bytes in memory.
    pub(crate) fn from_bytes(bytes: [u8; DESC_BYTES]) -> Self {
        let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = bytes;
        Self([
            u32::from_le_bytes([a0, a1, a2, a3]),
            u32::from_le_bytes([b0, b1, b2, b3]),
            u32::from_le_bytes([c0, c1, c2, c3]),
            u32::from_le_bytes([d0, d1, d2, d3]),
        ])
    }

    /// As bytes in memory.
    pub(crate) fn to_bytes(self) -> [u8; DESC_BYTES] {
        let Self([a, b, c, d]) = self;
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.to_le_bytes(), b.to_le_bytes());
        let ([c0, c1, c2, c3], [d0, d1, d2, d3]) = (c.to_le_bytes(), d.to_le_bytes());
        [
            a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        ]
    }

    /// The address in the first quadword.
    pub(crate) fn low_address(self) -> Iova {
        let Self([lo, hi, ..]) = self;
        Iova(u64::from(hi) << 32 | u64::from(lo))
    }

    /// The address in the second quadword.
    pub(crate) fn high_address(self) -> Iova {
        let Self([.., lo, hi]) = self;
        Iova(u64::from(hi) << 32 | u64::from(lo))
    }

    /// A descriptor for the device to receive into `at`.
    pub(crate) fn receive(at: Iova) -> Self {
        Self([at.0 as u32, (at.0 >> 32) as u32, 0, 0])
    }

    /// A descriptor that sends a whole frame of `len` bytes at `at`.
    pub(crate) fn send(at: Iova, len: u16) -> Self {
        let cmd = TX_DTYP_DATA | TX_EOP | TX_IFCS | TX_RS | TX_DEXT;
        Self([
            at.0 as u32,
            (at.0 >> 32) as u32,
            cmd | u32::from(len),
            u32::from(len) << 14,
        ])
    }

    /// TX: the same for the device, with the data at `at`; status is reported where `rs` says.
    pub(crate) fn relayed(self, at: Iova, rs: bool) -> Self {
        let Self([.., cmd, opts]) = self;
        Self([
            at.0 as u32,
            (at.0 >> 32) as u32,
            set(cmd, TX_RS, rs),
            opts & !TX_STATUS,
        ])
    }

    /// TX: the same context for the device; status is reported where `rs` says.
    pub(crate) fn relayed_context(self, rs: bool) -> Self {
        let Self([a, b, cmd, opts]) = self;
        Self([a, b, set(cmd, TX_RS, rs), opts & !TX_STATUS])
    }

    /// TX: whether the packet ends here.
    pub(crate) fn is_eop(self) -> bool {
        let Self([.., cmd, _]) = self;
        cmd & TX_EOP != 0
    }

    /// TX: whether the guest wants to know when it is done.
    pub(crate) fn wants_status(self) -> bool {
        let Self([.., cmd, _]) = self;
        cmd & TX_RS != 0
    }

    /// TX: whether it gives or uses the second context.
    pub(crate) fn names_second_context(self) -> bool {
        let Self([.., opts]) = self;
        opts & TX_IDX != 0
    }

    /// TX: whether the device cuts the packet into segments.
    pub(crate) fn is_segmented(self) -> bool {
        let Self([.., cmd, _]) = self;
        cmd & TX_TSE != 0
    }

    /// TX: what it says.
    pub(crate) fn parse_tx(self) -> Tx {
        let Self([.., cmd, _]) = self;
        if cmd & TX_DEXT == 0 {
            return Tx::Malformed;
        }
        match cmd & TX_DTYP {
            TX_DTYP_CONTEXT => Tx::Context {
                index: usize::from(self.names_second_context()),
            },
            TX_DTYP_DATA => Tx::Data {
                at: self.low_address(),
                len_bytes: (cmd & TX_DTALEN) as usize,
            },
            _ => Tx::Malformed,
        }
    }
}

fn set(val: u32, bit: u32, on: bool) -> u32 {
    if on {
        val | bit
    } else {
        val & !bit
    }
}

/// What a TX descriptor of the guest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tx {
    /// Offload parameters; sends nothing.
    Context { index: usize },
    /// A piece of a packet.
    Data { at: Iova, len_bytes: usize },
    /// A legacy descriptor, which no VF driver uses, or none at all.
    Malformed,
}

/// TX: the byte with DD of a descriptor that is done.
pub(crate) fn status_byte(second_context: bool) -> u8 {
    set(DD, TX_IDX, second_context) as u8
}

/// Where descriptor `index` of the ring at `base` is.
pub(crate) fn slot(base: Iova, index: u32) -> Result<Iova, Fault> {
    base.checked_add(u64::from(index).saturating_mul(DESC_BYTES as u64))
        .ok_or(Fault::Unmapped)
}

/// Reads descriptors of a guest's ring several at a time, each once.
///
/// The guest handed them over by its tail, so a copy stays right for as long as the device owns them.
pub(crate) struct Run {
    base: Iova,
    len: u32,
    first: u32,
    count: u32,
    bytes: [u8; RUN as usize * DESC_BYTES],
}

impl Run {
    /// Of the ring of `len` descriptors at `base`.
    pub(crate) fn new(base: Iova, len: u32) -> Self {
        Self {
            base,
            len,
            first: 0,
            count: 0,
            bytes: [0; RUN as usize * DESC_BYTES],
        }
    }

    /// Descriptor `index`, which is the first of `owned` that the guest handed over.
    ///
    /// # Errors
    ///
    /// As guest memory has it.
    pub(crate) fn get(
        &mut self,
        mem: &mut dyn GuestMemory,
        index: u32,
        owned: u32,
    ) -> Result<Desc, Fault> {
        let at = index.wrapping_sub(self.first);
        if at < self.count {
            return self.copied(at);
        }
        let to_end = self.len.saturating_sub(index);
        let count = owned.min(to_end).clamp(1, RUN);
        let first = self.fill(mem, index, count);
        match first {
            // Only a later descriptor may lie outside.
            Err(Fault::Unmapped) if count > 1 => self.fill(mem, index, 1)?,
            other => other?,
        }
        self.copied(0)
    }

    fn fill(&mut self, mem: &mut dyn GuestMemory, index: u32, count: u32) -> Result<(), Fault> {
        self.count = 0;
        let bytes = (count as usize).saturating_mul(DESC_BYTES);
        let buf = self.bytes.get_mut(..bytes).ok_or(Fault::Unmapped)?;
        mem.read(slot(self.base, index)?, buf)?;
        (self.first, self.count) = (index, count);
        Ok(())
    }

    fn copied(&self, at: u32) -> Result<Desc, Fault> {
        self.bytes
            .get((at as usize).saturating_mul(DESC_BYTES)..)
            .and_then(|bytes| bytes.first_chunk())
            .map(|bytes| Desc::from_bytes(*bytes))
            .ok_or(Fault::Unmapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::mock::Memory;

    #[test]
    fn bytes_are_little_endian() {
        let d = Desc([0x0302_0100, 0x0706_0504, 0x0b0a_0908, 0x0f0e_0d0c]);
        let bytes = core::array::from_fn(|i| i as u8);
        assert_eq!(d.to_bytes(), bytes);
        assert_eq!(Desc::from_bytes(bytes), d);
        assert_eq!(d.low_address(), Iova(0x0706_0504_0302_0100));
        assert_eq!(d.high_address(), Iova(0x0f0e_0d0c_0b0a_0908));
    }

    #[test]
    fn relayed_descriptor_keeps_all_but_address_status_and_rs() {
        let d = Desc([
            1,
            2,
            TX_DEXT | TX_DTYP_DATA | TX_TSE | TX_RS | 77,
            0xabcd_e71f,
        ]);
        let Desc([lo, hi, cmd, opts]) = d.relayed(Iova(0x5_0000_0006), false);
        assert_eq!(
            (lo, hi, cmd, opts),
            (6, 5, TX_DEXT | TX_DTYP_DATA | TX_TSE | 77, 0xabcd_e710)
        );
        assert!(d.relayed(Iova(0), true).wants_status());
        assert_eq!(
            d.parse_tx(),
            Tx::Data {
                at: Iova(0x2_0000_0001),
                len_bytes: 77
            }
        );
    }

    #[test]
    fn legacy_descriptor_is_malformed() {
        assert_eq!(Desc([0, 0, TX_EOP | 60, 0]).parse_tx(), Tx::Malformed);
        assert_eq!(Desc([0, 0, TX_DEXT | 1 << 20, 0]).parse_tx(), Tx::Malformed);
    }

    #[test]
    fn run_reads_each_descriptor_once_and_no_other() {
        let mut mem = Memory::new(0x1000, 0x1000);
        for i in 0..32u8 {
            mem.set(0x1000 + u64::from(i) * 16, &[i; 16]);
        }
        let mut run = Run::new(Iova(0x1000), 32);
        let first = |d: Desc| d.0[0] as u8;
        assert_eq!(first(run.get(&mut mem, 30, 20).unwrap()), 30);
        mem.set(0x1000 + 31 * 16, &[99; 16]);
        assert_eq!(first(run.get(&mut mem, 31, 19).unwrap()), 31);
        assert_eq!(first(run.get(&mut mem, 0, 18).unwrap()), 0);
        // Handed over are 18, so the 19th is not in the copy.
        assert_eq!(run.count, 16);
        assert_eq!(first(run.get(&mut mem, 16, 2).unwrap()), 16);
        assert_eq!(run.count, 2);
    }

    #[test]
    fn run_reaches_the_last_mapped_descriptor() {
        let mut mem = Memory::new(0x1000, 0x20);
        let mut run = Run::new(Iova(0x1000), 64);
        assert!(run.get(&mut mem, 0, 10).is_ok());
        assert!(run.get(&mut mem, 1, 9).is_ok());
        assert_eq!(run.get(&mut mem, 2, 8), Err(Fault::Unmapped));
        let mut run = Run::new(Iova(u64::MAX - 15), 64);
        assert_eq!(run.get(&mut mem, 1, 8), Err(Fault::Unmapped));
    }

    #[test]
    fn a_frame_of_our_own_is_one_descriptor_with_a_checksum_and_a_status() {
        // PAYLEN; DEXT, RS, IFCS, EOP, data, DTALEN.
        assert_eq!(
            Desc::send(Iova(0x5_0000_0006), 60),
            Desc([6, 5, 0x2b30_003c, 60 << 14])
        );
        assert_eq!(Desc::receive(Iova(0x5_0000_0006)), Desc([6, 5, 0, 0]));
    }

    #[test]
    fn a_context_is_what_says_so_by_its_type() {
        let context = |opts| Desc([1, 2, 1 << 29 | 2 << 20, opts]).parse_tx();
        assert_eq!(context(0xffff_ffef), Tx::Context { index: 0 });
        assert_eq!(context(0x10), Tx::Context { index: 1 });
        for dtyp in [0, 1, 4, 6, 7, 8, 15] {
            let d = Desc([1, 2, 1 << 29 | dtyp << 20, 0]);
            assert_eq!(d.parse_tx(), Tx::Malformed, "{dtyp}");
        }
        assert_eq!(Desc([1, 2, !(1 << 29), 0]).parse_tx(), Tx::Malformed);
    }

    #[test]
    fn relayed_context_keeps_all_but_status_and_rs() {
        let d = Desc([1, 2, TX_DEXT | TX_DTYP_CONTEXT | TX_RS, 0xabcd_e71f]);
        let cmd = TX_DEXT | TX_DTYP_CONTEXT;
        assert_eq!(d.relayed_context(false), Desc([1, 2, cmd, 0xabcd_e710]));
        assert_eq!(
            d.relayed_context(true),
            Desc([1, 2, cmd | TX_RS, 0xabcd_e710])
        );
    }
}
