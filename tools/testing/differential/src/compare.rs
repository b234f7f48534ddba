// SPDX-License-Identifier: GPL-2.0

//! What has to be equal, and how unequal it may be.

use igbvf::regs::TABLE;

use crate::deviations::{self as known, Tally};
use crate::guest::Guest;
use crate::side::Side;

pub type Same = Result<(), String>;

/// Descriptor bits.
const DD: u32 = 1;
const EOP: u32 = 2;
const SPH: u32 = 1 << 31;
const HBO: u32 = 1 << 23;
const TYPES: u32 = 0x1_ffff;
const IP: u32 = 0xf << 4;
const SWFLSH: u32 = 1 << 26;

pub fn equal<T: PartialEq + std::fmt::LowerHex>(what: &str, direct: T, ours: T) -> Same {
    if direct == ours {
        Ok(())
    } else {
        Err(format!("{what}: {direct:#x} by QEMU, {ours:#x} by ours"))
    }
}

/// Where `a` and `b` differ first, in bytes.
pub fn difference(a: &[u8], b: &[u8]) -> Option<usize> {
    // Comparing slices takes a tenth of the time, and nearly all are equal.
    if a == b {
        return None;
    }
    let n = a.iter().zip(b).position(|(a, b)| a != b);
    Some(n.unwrap_or(a.len().min(b.len())))
}

/// What went out with the same end of the source address.
pub fn wire(from: u8, direct: &[Vec<u8>], ours: &[Vec<u8>]) -> Same {
    equal(&format!("frames of {from}"), direct.len(), ours.len())?;
    for (direct, ours) in direct.iter().zip(ours) {
        if let Some(n) = difference(direct, ours) {
            let part = |frame: &[u8]| {
                let near = &frame[n.saturating_sub(4).min(frame.len())..(n + 12).min(frame.len())];
                format!("{near:02x?} of {}", frame.len())
            };
            let (head, direct, ours) = (&direct[..60], part(direct), part(ours));
            return Err(format!(
                "frame {head:02x?}: from byte {n} on {direct} by QEMU, {ours} by ours"
            ));
        }
    }
    Ok(())
}

pub fn words(bytes: &[u8]) -> [u32; 4] {
    std::array::from_fn(|i| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap()))
}

/// The register at `at` reads as `direct` and `ours`, which is not the same. `psrtype` was written last.
pub fn register(at: u32, direct: u32, ours: u32, psrtype: u32, tally: &mut Tally) -> Same {
    let row = TABLE
        .iter()
        .find(|r| (0..r.count).any(|n| r.at + n * r.stride == at))
        .unwrap();
    let what = format!("{} ({at:#x})", row.name);
    let mut masked = |known, mask: u32| {
        tally.forgive(known);
        equal(&what, direct & mask, ours & mask)
    };
    match row.name {
        "STATUS" => {
            masked(&known::STATUS, 0xd3)?;
            equal(&what, 0x83, ours)
        }
        "PSRTYPE" => {
            tally.forgive(&known::PSRTYPE);
            equal(&what, psrtype, ours)
        }
        "RXCTL" => masked(&known::RXCTL, 0),
        "RDBAL" | "TDBAL" => masked(&known::RESERVED_BITS, !0x1f),
        "RDLEN" | "TDLEN" => masked(&known::RESERVED_BITS, 0xf_fff0),
        "RDH" | "RDT" | "TDH" | "TDT" => masked(&known::RESERVED_BITS, 0xffff),
        "RXDCTL" | "TXDCTL" => masked(&known::SWFLSH, !SWFLSH),
        _ => equal(&what, direct, ours),
    }
}

/// How an RX queue lays out its frames.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    kind: u32,
    pub packet: usize,
    header: usize,
}

impl Layout {
    pub fn new(srrctl: u32) -> Self {
        let packet = match srrctl as usize & 0x7f {
            0 => 2048,
            kib => kib * 1024,
        };
        Self {
            kind: srrctl >> 25 & 7,
            packet,
            header: (srrctl >> 8 & 0x3f) as usize * 64,
        }
    }

    fn is_split(self) -> bool {
        self.kind != 1
    }

    /// Bytes of a frame of `len` that QEMU puts into the header buffer, if it has `headers` bytes of IP headers.
    fn qemu_split(self, len: usize, headers: Option<usize>) -> usize {
        match (self.kind, headers) {
            (5, _) if len <= self.header => len,
            (5, Some(headers)) if headers <= self.header => headers,
            (5, _) => self.header,
            (2, Some(headers)) if headers <= self.header => headers,
            _ => 0,
        }
    }

    /// The same for ours, and for a device that is told to look for no headers.
    fn split(self, len: usize) -> usize {
        if self.kind == 5 {
            len.min(self.header)
        } else {
            0
        }
    }

    fn descs(self, len: usize, split: usize) -> u32 {
        (len - split).div_ceil(self.packet).max(1) as u32
    }

    /// Descriptors for a frame of `len`; none if the sides do not agree.
    pub fn need(self, len: usize, headers: Option<usize>) -> Option<u32> {
        let qemu = self.descs(len, self.qemu_split(len, headers));
        (qemu == self.descs(len, self.split(len))).then_some(qemu)
    }
}

/// A frame as a guest finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub slots: Vec<u32>,
    pub descs: Vec<[u32; 4]>,
    pub bytes: Vec<u8>,
}

impl Got {
    fn last(&self) -> [u32; 4] {
        self.descs[self.descs.len() - 1]
    }
}

/// Takes the frames in `slots` of RX queue `q` out of guest memory, as a driver does.
pub fn collect(
    side: &mut Side,
    q: u32,
    ring: u64,
    slots: &[u32],
    layout: Layout,
) -> Result<Vec<Got>, String> {
    let mut host = side.host.borrow_mut();
    let mut all = Vec::new();
    let mut got = Got {
        slots: Vec::new(),
        descs: Vec::new(),
        bytes: Vec::new(),
    };
    for &slot in slots {
        let desc = words(&host.memory(ring + u64::from(slot) * 16, 16));
        if desc[2] & DD == 0 {
            return Err(format!("RX {q} slot {slot}: no DD before the head"));
        }
        let (packet, header) = Guest::buffers(q, slot);
        let split =
            layout.kind == 5 || layout.kind == 2 && desc[0] & SPH != 0 && desc[2] & HBO == 0;
        if got.slots.is_empty() && split {
            let len = ((desc[0] >> 21 & 0x3ff) as usize).min(layout.header);
            got.bytes.extend(host.memory(header, len));
        }
        let len = desc[3] as usize & 0xffff;
        if len > layout.packet {
            return Err(format!("RX {q} slot {slot}: {len} bytes in a buffer"));
        }
        got.bytes.extend(host.memory(packet, len));
        got.slots.push(slot);
        got.descs.push(desc);
        if desc[2] & EOP != 0 {
            all.push(got.clone());
            got.slots.clear();
            got.descs.clear();
            got.bytes.clear();
        }
    }
    if got.slots.is_empty() {
        Ok(all)
    } else {
        Err(format!("RX {q}: a frame without an end"))
    }
}

/// A frame that both sides have received: whether its bytes are in the same places.
pub fn frame(
    q: u32,
    direct: &Got,
    ours: &Got,
    layout: Layout,
    tally: &mut Tally,
) -> Result<bool, String> {
    if direct == ours {
        return Ok(true);
    }
    let differ = || format!("RX {q}: {direct:x?} by QEMU, {ours:x?} by ours");
    if direct.slots != ours.slots || direct.bytes != ours.bytes {
        return Err(differ());
    }
    let mut is_moved = false;
    let last = direct.last();
    let is_ip = last[0] & IP != 0;
    for (n, (direct, ours)) in direct.descs.iter().zip(&ours.descs).enumerate() {
        let (mut direct, mut ours) = (*direct, *ours);
        let is_last = direct[2] & EOP != 0;
        if !is_last && direct[0] & TYPES == 0 && ours[0] & TYPES == last[0] & TYPES {
            tally.forgive(&known::TYPES_OF_PARTS);
            ours[0] &= !TYPES;
        }
        if layout.is_split() && is_ip {
            // Where the bytes are is checked for ours by itself.
            tally.forgive(&known::SPLIT_AT_HEADERS);
            direct = [
                direct[0] & TYPES,
                direct[1],
                direct[2] & !HBO,
                direct[3] >> 16,
            ];
            ours = [ours[0] & TYPES, ours[1], ours[2], ours[3] >> 16];
            is_moved = true;
        } else if layout.is_split() && direct[0] & !TYPES != ours[0] & !TYPES {
            let qemu = (layout.header as u32) << 21;
            match layout.kind {
                2 => tally.forgive(&known::HEADER_LENGTH_OF_NONE),
                _ if n > 0 => tally.forgive(&known::HEADER_LENGTH_OF_PARTS),
                _ => return Err(differ()),
            }
            if direct[0] & !TYPES != qemu || ours[0] & !TYPES != 0 {
                return Err(differ());
            }
            direct[0] &= TYPES;
            ours[0] &= TYPES;
        }
        if direct != ours {
            return Err(differ());
        }
    }
    Ok(!is_moved)
}

/// Whether ours lays a frame out as the datasheet has it where no headers are looked for.
pub fn plain(q: u32, ours: &Got, layout: Layout) -> Same {
    let mut left = ours.bytes.len();
    for (n, desc) in ours.descs.iter().enumerate() {
        let header = if n == 0 { layout.split(left) } else { 0 };
        left -= header;
        let packet = left.min(layout.packet);
        left -= packet;
        let want = ((header as u32) << 21, packet as u32);
        if (desc[0] & !TYPES, desc[3] & 0xffff) != want {
            return Err(format!("RX {q}: {ours:x?} is not laid out as it has to be"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPLIT: Layout = Layout {
        kind: 5,
        packet: 2048,
        header: 128,
    };

    /// A frame of 3000 bytes without IP, as ours delivers it.
    fn got() -> Got {
        Got {
            slots: vec![7, 0],
            descs: vec![
                [128 << 21, 0, DD, 2048],
                [0, 5, DD | EOP | 8, 824 | 7 << 16],
            ],
            bytes: vec![1; 3000],
        }
    }

    #[test]
    fn a_frame_that_is_laid_out_wrong_is_found() {
        assert_eq!(plain(0, &got(), SPLIT), Ok(()));
        for (n, word, val) in [
            (0, 0, 127 << 21),
            (0, 3, 2047),
            (1, 0, 128 << 21),
            (1, 3, 825),
        ] {
            let mut bad = got();
            bad.descs[n][word] = val;
            assert!(plain(0, &bad, SPLIT).is_err());
        }
    }

    #[test]
    fn whatever_a_descriptor_says_is_compared() {
        let mut tally = Tally::default();
        assert_eq!(frame(0, &got(), &got(), SPLIT, &mut tally), Ok(true));
        for (n, word, bit) in [
            (0, 3, 1),
            (1, 1, 1),
            (1, 2, 8),
            (1, 3, 1 << 16),
            (1, 0, SPH),
        ] {
            let mut bad = got();
            bad.descs[n][word] ^= bit;
            assert!(frame(0, &got(), &bad, SPLIT, &mut tally).is_err());
        }
        let mut bad = got();
        bad.slots[1] = 1;
        assert!(frame(0, &got(), &bad, SPLIT, &mut tally).is_err());
        let mut bad = got();
        bad.bytes[2999] = 2;
        assert!(frame(0, &got(), &bad, SPLIT, &mut tally).is_err());
    }

    #[test]
    fn what_is_forgiven_has_bounds() {
        let mut tally = Tally::default();
        let mut register = |at, direct, ours| register(at, direct, ours, 3, &mut tally).is_ok();
        assert!(register(0x8, 0x800c_4483, 0x83));
        assert!(!register(0x8, 0x800c_4483, 0x483));
        assert!(register(0xf0c, 0, 3) && !register(0xf0c, 0, 4));
        assert!(register(0x2900, 0x1000, 0x101f) && !register(0x2900, 0x1000, 0x1020));
        assert!(!register(0x1524, 6, 7));
    }

    #[test]
    fn sides_agree_on_descriptors_unless_qemu_splits_elsewhere() {
        assert_eq!(SPLIT.need(128, Some(54)), Some(1));
        assert_eq!(SPLIT.need(3000, None), Some(2));
        // 54 and 2048 bytes do for QEMU, 128 and 2048 for ours.
        assert_eq!(SPLIT.need(2150, Some(54)), None);
    }
}
