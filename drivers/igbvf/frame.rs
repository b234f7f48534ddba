// SPDX-License-Identifier: GPL-2.0

//! Received frames on their way to the guest.

use model::io::{Area, Fault, GuestMemory, Iova};

use crate::desc::{Desc, DD, DESC_BYTES, RX_EOP, RX_TYPES};
use crate::mirror::{self, RX_BUFFER_BYTES};

/// Most pieces of a frame: the hardware's largest frame has 16,128 bytes.
pub(crate) const MAX_PIECES: usize = 16;
/// Most bytes of a frame.
pub(crate) const MAX_FRAME_BYTES: usize = 16 * 1024;

/// What the device says about a frame, besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// RSS type and packet type.
    pub(crate) types: u32,
    /// RSS hash, or IP identification and packet checksum.
    pub(crate) hash: u32,
    /// Status and error, without DD.
    pub(crate) status: u32,
    /// VLAN tag.
    pub(crate) vlan: u16,
}

/// A frame in the mirror area.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// What the device says.
    pub(crate) meta: Meta,
    /// Its bytes.
    pub(crate) len: usize,
    /// Where they are: offset and length of each piece.
    pieces: [(u32, u16); MAX_PIECES],
    count: u8,
}

impl Frame {
    pub(crate) fn new() -> Self {
        Self {
            meta: Meta::default(),
            len: 0,
            pieces: [(0, 0); MAX_PIECES],
            count: 0,
        }
    }

    /// Adds the next piece, at most a buffer long; false if there are too many.
    pub(crate) fn push(&mut self, offset: usize, len: usize) -> bool {
        let Some(piece) = self.pieces.get_mut(usize::from(self.count)) else {
            return false;
        };
        let (Ok(at), Ok(bytes)) = (u32::try_from(offset), u16::try_from(len)) else {
            return false;
        };
        *piece = (at, bytes);
        self.count = self.count.saturating_add(1);
        self.len = self.len.saturating_add(len);
        true
    }

    /// Calls `f` with offset, length and position of each piece of `[from, from + len)`.
    pub(crate) fn pieces_of<E>(
        &self,
        from: usize,
        len: usize,
        mut f: impl FnMut(usize, usize, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = from.saturating_add(len).min(self.len);
        let mut start = 0usize;
        for &(at, bytes) in self.pieces.iter().take(self.count.into()) {
            let next = start.saturating_add(bytes.into());
            let (lo, hi) = (from.max(start), end.min(next));
            if lo < hi {
                let offset = (at as usize).saturating_add(lo.saturating_sub(start));
                f(offset, hi.saturating_sub(lo), lo.saturating_sub(from))?;
            }
            start = next;
        }
        Ok(())
    }

    /// Copies `[from, from + len)` of it to guest memory.
    ///
    /// # Errors
    ///
    /// As guest memory has it.
    pub(crate) fn copy_to_guest(
        &self,
        area: &mut dyn Area,
        from: usize,
        len: usize,
        mem: &mut dyn GuestMemory,
        at: Iova,
    ) -> Result<(), Fault> {
        self.pieces_of(from, len, |offset, bytes, position| {
            let to = at.checked_add(position as u64).ok_or(Fault::Unmapped)?;
            mem.write_from_area(to, area, offset, bytes)
        })
    }
}

/// Looks at the frame that starts in slot `next` of the mirror ring: slots, and the frame unless it makes
/// no sense. `None` until its end is there.
pub(crate) fn peek_mirror(
    q: usize,
    next: u32,
    area: &mut dyn Area,
) -> Option<(u32, Option<Frame>)> {
    let mut frame = Frame::new();
    let mut slot = next;
    for n in 1..=MAX_PIECES as u32 {
        let Desc([types, hash, status, tail]) = written_back(q, slot, area)?;
        let len = ((tail & 0xffff) as usize).min(RX_BUFFER_BYTES);
        frame.push(mirror::rx_buffer(q, slot), len);
        if status & RX_EOP != 0 {
            frame.meta = Meta {
                types: types & RX_TYPES,
                hash,
                status: status & !DD,
                vlan: (tail >> 16) as u16,
            };
            let good = frame.len > 0 && frame.len <= MAX_FRAME_BYTES;
            return Some((n, good.then_some(frame)));
        }
        slot = model::ring::step(mirror::RX_SLOTS, slot, 1);
    }
    Some((MAX_PIECES as u32, None))
}

/// The descriptor of slot `slot`, once the device has written it.
fn written_back(q: usize, slot: u32, area: &mut dyn Area) -> Option<Desc> {
    let at = mirror::rx_slot(q, slot);
    let mut status = [0; 4];
    area.read(at.saturating_add(8), &mut status);
    if u32::from_le_bytes(status) & DD == 0 {
        return None;
    }
    // ORDER: DD was seen by an earlier call. Within one, parts that were copied before the part with DD may be older than that.
    let mut bytes = [0; DESC_BYTES];
    area.read(at, &mut bytes);
    // This copy, and only that: the device is not trusted.
    let Desc([_, _, status, _]) = Desc::from_bytes(bytes);
    (status & DD != 0).then_some(Desc::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::mock::Mirror;

    /// Its device writes a descriptor in the middle of a read, which copies from the lowest byte on.
    struct Racing {
        area: Mirror,
        reads: usize,
        desc: Desc,
    }

    impl Area for Racing {
        fn iova(&self) -> Iova {
            self.area.iova()
        }

        fn len(&self) -> usize {
            self.area.len()
        }

        fn read(&mut self, at: usize, buf: &mut [u8]) {
            let (low, high) = buf.split_at_mut(buf.len() / 2);
            self.area.read(at, low);
            if self.reads == 0 {
                let desc = self.desc.to_bytes();
                self.area.write(mirror::rx_slot(0, 0), &desc);
            }
            self.reads = self.reads.wrapping_sub(1);
            self.area.read(at + low.len(), high);
        }

        fn write(&mut self, at: usize, buf: &[u8]) {
            self.area.write(at, buf);
        }
    }

    #[test]
    fn a_descriptor_that_is_written_while_it_is_read_is_seen_whole_or_not_yet() {
        for reads in 0..4 {
            let mut area = Racing {
                area: area(),
                reads,
                desc: Desc([0x11, 0x1234_5678, 3, 60]),
            };
            let posted = Desc::receive(Iova(0x7f_0012_3000)).to_bytes();
            area.write(mirror::rx_slot(0, 0), &posted);
            let frame = (0..5).find_map(|_| peek_mirror(0, 0, &mut area));
            let Meta { types, hash, .. } = frame.unwrap().1.unwrap().meta;
            assert_eq!((types, hash), (0x11, 0x1234_5678), "{reads}");
        }
    }

    fn area() -> Mirror {
        Mirror::new(0x10_0000, mirror::BYTES)
    }

    #[test]
    fn walk_of_the_mirror_ends_without_an_end_of_packet() {
        let mut area = area();
        let bad = Desc([0, 0, 1, 0xffff]).to_bytes();
        for slot in 0..mirror::RX_SLOTS {
            area.write(mirror::rx_slot(0, slot), &bad);
        }
        assert!(matches!(peek_mirror(0, 500, &mut area), Some((16, None))));
    }

    #[test]
    fn lengths_that_the_device_claims_are_clamped_to_its_buffers() {
        let mut area = area();
        area.write(mirror::rx_slot(1, 511), &Desc([0, 0, 1, 0xffff]).to_bytes());
        area.write(mirror::rx_slot(1, 0), &Desc([0, 0, 3, 0x7_0003]).to_bytes());
        let (slots, frame) = peek_mirror(1, 511, &mut area).unwrap();
        let frame = frame.unwrap();
        assert_eq!((slots, frame.len, frame.meta.vlan), (2, 2051, 7));
    }

    #[test]
    fn a_frame_has_pieces_that_have_a_place_and_no_more_than_16() {
        let mut frame = Frame::new();
        assert!(!frame.push(usize::MAX, 1));
        assert!(!frame.push(0, 0x1_0000));
        for n in 0..16 {
            assert!(frame.push(n * 2048, 100));
        }
        assert!(!frame.push(0, 100));
        assert_eq!(frame.len, 1600);
    }

    #[test]
    fn a_part_of_a_frame_is_made_of_parts_of_its_pieces() {
        let mut frame = Frame::new();
        for n in 1..4 {
            frame.push(1000 * n, 100);
        }
        for (from, len, expected) in [
            (0, 100, &[(1000, 100, 0)][..]),
            (100, 100, &[(2000, 100, 0)]),
            (50, 200, &[(1050, 50, 0), (2000, 100, 50), (3000, 50, 150)]),
            (299, 100, &[(3099, 1, 0)]),
            (300, 100, &[]),
            (0, 0, &[]),
        ] {
            let (mut got, mut count) = ([(0, 0, 0); 4], 0);
            let done: Result<(), ()> = frame.pieces_of(from, len, |offset, bytes, position| {
                got[count] = (offset, bytes, position);
                count += 1;
                Ok(())
            });
            assert_eq!(done, Ok(()));
            assert_eq!(&got[..count], expected);
        }
        let stopped = frame.pieces_of(0, 300, |offset, _, _| Err(offset));
        assert_eq!(stopped, Err(1000));
    }

    #[test]
    fn a_frame_without_a_byte_or_with_too_many_makes_no_sense() {
        for (slots, last, good) in [(1, 0, false), (1, 1, true), (8, 2048, true), (9, 1, false)] {
            let mut area = area();
            for slot in 0..slots {
                let desc = if slot + 1 < slots {
                    Desc([0, 0, 1, 2048])
                } else {
                    Desc([0, 0, 3, last])
                };
                area.write(mirror::rx_slot(0, slot), &desc.to_bytes());
            }
            let (n, frame) = peek_mirror(0, 0, &mut area).unwrap();
            assert_eq!((n, frame.is_some()), (slots, good), "{slots} {last}");
        }
    }

    #[test]
    fn what_the_device_says_is_kept_but_for_what_is_ours() {
        let mut area = area();
        let desc = Desc([u32::MAX, 0x1234_5678, u32::MAX, 0xabcd_0040]);
        area.write(mirror::rx_slot(0, 7), &desc.to_bytes());
        let (_, frame) = peek_mirror(0, 7, &mut area).unwrap();
        let meta = Meta {
            types: 0x1_ffff,
            hash: 0x1234_5678,
            status: !1,
            vlan: 0xabcd,
        };
        assert_eq!(frame.unwrap().meta, meta);
    }
}
