// SPDX-License-Identifier: GPL-2.0

//! Held frames: received, and not delivered yet. They are older than any in the mirror ring, and travel.

use model::counters::Counters;
use model::image::{Full, Reader, Refused, Writer};
use model::io::Area;

use crate::desc::{DD, RX_TYPES};
use crate::frame::{Frame, Meta, MAX_FRAME_BYTES};
use crate::mirror::{self, HELD_BYTES};

/// Bytes that go through the stack at once.
const CHUNK_BYTES: usize = 256;
/// Bytes of a held frame's record before its payload.
const HEAD_BYTES: usize = 24;

/// A FIFO of held frames, as records in the mirror area: {length, types, hash, status, VLAN} and the bytes.
///
/// The area is within reach of the device, so what a record says is checked against the FIFO's own bounds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    start: u32,
    used: u32,
    count: u32,
    /// Where the record that was saved last ends, so that saving all is not quadratic: {index, offset}.
    saved: (u32, u32),
}

impl Held {
    pub(crate) const fn new() -> Self {
        Self {
            start: 0,
            used: 0,
            count: 0,
            saved: (0, 0),
        }
    }

    /// Frames in it.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Drops all: how many.
    pub(crate) fn clear(&mut self) -> u32 {
        let count = self.count;
        *self = Self::default();
        count
    }

    /// Bytes of a record, with its padding.
    fn record_bytes(len: usize) -> usize {
        len.saturating_add(HEAD_BYTES + 7) & !7
    }

    /// Calls `f` with each contiguous part of `len` bytes from `n` on: offset, position.
    fn parts(&self, q: usize, n: usize, len: usize, mut f: impl FnMut(usize, usize, usize)) {
        let byte = (self.start as usize).saturating_add(n) % HELD_BYTES;
        let first = len.min(HELD_BYTES.saturating_sub(byte));
        f(mirror::held(q, byte), first, 0);
        if first < len {
            f(mirror::held(q, 0), len.saturating_sub(first), first);
        }
    }

    fn put(&self, q: usize, area: &mut dyn Area, n: usize, bytes: &[u8]) {
        self.parts(q, n, bytes.len(), |offset, len, position| {
            if let Some(part) = bytes.get(position..position.saturating_add(len)) {
                area.write(offset, part);
            }
        });
    }

    fn get(&self, q: usize, area: &mut dyn Area, n: usize, bytes: &mut [u8]) {
        self.parts(q, n, bytes.len(), |offset, len, position| {
            if let Some(part) = bytes.get_mut(position..position.saturating_add(len)) {
                area.read(offset, part);
            }
        });
    }

    fn put_head(&self, q: usize, area: &mut dyn Area, len: usize, meta: &Meta) {
        let mut head = [0; HEAD_BYTES];
        let mut w = Writer::new(&mut head);
        let Meta {
            types,
            hash,
            status,
            vlan,
        } = *meta;
        let done = w
            .put_u32(len as u32)
            .and_then(|()| w.put_u32(types))
            .and_then(|()| w.put_u32(hash))
            .and_then(|()| w.put_u32(status))
            .and_then(|()| w.put_u16(vlan));
        if done.is_ok() {
            self.put(q, area, self.used as usize, &head);
        }
    }

    fn head(&self, q: usize, area: &mut dyn Area, n: usize) -> Option<(usize, Meta)> {
        let mut head = [0; HEAD_BYTES];
        self.get(q, area, n, &mut head);
        let mut r = Reader::new(&head);
        let len = r.take_u32().ok()? as usize;
        let meta = Meta {
            types: r.take_u32().ok()? & RX_TYPES,
            hash: r.take_u32().ok()?,
            status: r.take_u32().ok()? & !DD,
            vlan: r.take_u16().ok()?,
        };
        let end = n.checked_add(Self::record_bytes(len))?;
        (len > 0 && len <= MAX_FRAME_BYTES && end <= self.used as usize).then_some((len, meta))
    }

    fn has_room(&self, len: usize) -> bool {
        Self::record_bytes(len) <= HELD_BYTES.saturating_sub(self.used as usize)
    }

    fn grow(&mut self, len: usize) {
        self.used = self.used.saturating_add(Self::record_bytes(len) as u32);
        self.count = self.count.saturating_add(1);
    }

    /// Appends `frame`; false if there is no room for it.
    pub(crate) fn push(&mut self, q: usize, area: &mut dyn Area, frame: &Frame) -> bool {
        if !self.has_room(frame.len) {
            return false;
        }
        self.put_head(q, area, frame.len, &frame.meta);
        let mut chunk = [0; CHUNK_BYTES];
        let mut done = 0usize;
        while done < frame.len {
            let want = frame.len.saturating_sub(done).min(CHUNK_BYTES);
            let Some(part) = chunk.get_mut(..want) else {
                break;
            };
            let copied: Result<(), ()> = frame.pieces_of(done, want, |offset, len, position| {
                if let Some(bytes) = part.get_mut(position..position.saturating_add(len)) {
                    area.read(offset, bytes);
                }
                Ok(())
            });
            let Ok(()) = copied else { break };
            self.put(
                q,
                area,
                (self.used as usize)
                    .saturating_add(HEAD_BYTES)
                    .saturating_add(done),
                part,
            );
            done = done.saturating_add(want);
        }
        self.grow(frame.len);
        true
    }

    /// The oldest one. If its record makes no sense, the device has been writing there: then all are lost.
    pub(crate) fn peek(
        &mut self,
        q: usize,
        area: &mut dyn Area,
        counters: &mut Counters,
    ) -> Option<Frame> {
        if self.count == 0 {
            return None;
        }
        let Some((len, meta)) = self.head(q, area, 0) else {
            let lost = u64::from(self.clear());
            counters.dropped_rx_malformed = counters.dropped_rx_malformed.wrapping_add(lost);
            return None;
        };
        let mut frame = Frame::new();
        frame.meta = meta;
        self.parts(q, HEAD_BYTES, len, |offset, bytes, _| {
            frame.push(offset, bytes);
        });
        Some(frame)
    }

    /// Removes the oldest one, which [`peek`](Self::peek) gave.
    pub(crate) fn pop(&mut self, frame: &Frame) {
        let bytes = Self::record_bytes(frame.len) as u32;
        self.used = self.used.saturating_sub(bytes);
        self.count = self.count.saturating_sub(1);
        self.start = self.start.wrapping_add(bytes) % HELD_BYTES as u32;
        self.saved = (0, 0);
    }

    /// Writes frame `index`, counted from the oldest.
    ///
    /// # Errors
    ///
    /// [`Full`] if `w` is too small or there is no such frame.
    pub(crate) fn save(
        &mut self,
        q: usize,
        index: u32,
        area: &mut dyn Area,
        w: &mut Writer<'_>,
    ) -> Result<(), Full> {
        if index >= self.count {
            return Err(Full);
        }
        let (mut n, mut offset) = if self.saved.0 <= index {
            self.saved
        } else {
            (0, 0)
        };
        while n < index {
            let (len, _) = self.head(q, area, offset as usize).ok_or(Full)?;
            offset = offset.saturating_add(Self::record_bytes(len) as u32);
            n = n.saturating_add(1);
        }
        self.saved = (n, offset);
        let (len, meta) = self.head(q, area, offset as usize).ok_or(Full)?;
        let Meta {
            types,
            hash,
            status,
            vlan,
        } = meta;
        w.put_u8(q as u8)?;
        w.put_u32(types)?;
        w.put_u32(hash)?;
        w.put_u32(status)?;
        w.put_u16(vlan)?;
        self.get(
            q,
            area,
            (offset as usize).saturating_add(HEAD_BYTES),
            w.claim(len)?,
        );
        Ok(())
    }

    /// Appends the frame that `r` holds, after its queue number.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub(crate) fn load(
        &mut self,
        q: usize,
        r: &mut Reader<'_>,
        area: &mut dyn Area,
    ) -> Result<(), Refused> {
        let meta = Meta {
            types: r.take_u32()? & RX_TYPES,
            hash: r.take_u32()?,
            status: r.take_u32()? & !DD,
            vlan: r.take_u16()?,
        };
        let bytes = r.bytes(r.remaining())?;
        if bytes.is_empty() || bytes.len() > MAX_FRAME_BYTES {
            return Err(Refused("a held frame of an impossible length"));
        }
        if !self.has_room(bytes.len()) {
            return Err(Refused("more held frames than there is room for"));
        }
        self.put_head(q, area, bytes.len(), &meta);
        self.put(
            q,
            area,
            (self.used as usize).saturating_add(HEAD_BYTES),
            bytes,
        );
        self.grow(bytes.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::mirror::RX_BUFFER_BYTES;
    use model::io::Iova;
    use model::mock::{Memory, Mirror};
    use std::vec;
    use std::vec::Vec;

    fn area() -> Mirror {
        Mirror::new(0x10_0000, mirror::BYTES)
    }

    /// A frame of `len` bytes `fill`, in the RX buffers from slot 510 on.
    fn frame(area: &mut Mirror, fill: u8, len: usize) -> Frame {
        let mut frame = Frame::new();
        let mut slot = 510;
        while frame.len < len {
            let n = (len - frame.len).min(RX_BUFFER_BYTES);
            area.write(mirror::rx_buffer(0, slot), &vec![fill; n]);
            assert!(frame.push(mirror::rx_buffer(0, slot), n));
            slot = model::ring::step(mirror::RX_SLOTS, slot, 1);
        }
        frame.meta = Meta {
            types: 1,
            hash: u32::from(fill),
            status: 2,
            vlan: 3,
        };
        frame
    }

    fn bytes(frame: &Frame, area: &mut Mirror) -> Vec<u8> {
        let mut mem = Memory::new(0, MAX_FRAME_BYTES);
        frame
            .copy_to_guest(area, 0, frame.len, &mut mem, Iova(0))
            .unwrap();
        mem.get(0, frame.len).to_vec()
    }

    #[test]
    fn held_frames_come_out_as_they_went_in_across_the_wrap() {
        let (mut area, mut held, mut counters) = (area(), Held::new(), Counters::default());
        let mut next_out = 0u8;
        for i in 0..250u8 {
            let f = frame(&mut area, i, 60 + usize::from(i) * 50);
            assert!(held.push(0, &mut area, &f));
            if i >= 10 {
                let f = held.peek(0, &mut area, &mut counters).unwrap();
                let len = 60 + usize::from(next_out) * 50;
                assert_eq!(f.meta.hash, u32::from(next_out));
                assert_eq!(bytes(&f, &mut area), vec![next_out; len]);
                held.pop(&f);
                next_out += 1;
            }
        }
        assert_eq!(held.count(), 10);
    }

    #[test]
    fn held_frames_are_bounded() {
        let (mut area, mut held) = (area(), Held::new());
        let f = frame(&mut area, 1, MAX_FRAME_BYTES);
        let n = (0..100).take_while(|_| held.push(0, &mut area, &f)).count();
        assert_eq!(n, 15);
        let mut buf = vec![0; 17 * 1024];
        let mut w = Writer::new(&mut buf);
        held.save(0, 14, &mut area, &mut w).unwrap();
        let len = w.written();
        assert!(len <= model::image::MAX_SECTION_BYTES - model::image::SECTION_OVERHEAD_BYTES);
        let mut r = Reader::new(&buf[1..len]);
        assert!(held.load(0, &mut r, &mut area).is_err());
    }

    #[test]
    fn saved_frames_are_those_that_are_loaded() {
        let (mut area, mut held, mut other) = (area(), Held::new(), Held::new());
        let mut images = Vec::new();
        for i in 0..20u8 {
            let f = frame(&mut area, i, 100 * usize::from(i) + 60);
            assert!(held.push(0, &mut area, &f));
        }
        let mut buf = [0; 4096];
        held.save(0, 5, &mut area, &mut Writer::new(&mut buf))
            .unwrap();
        let first = held.peek(0, &mut area, &mut Counters::default()).unwrap();
        held.pop(&first);
        // In any order, though in order is the fast one.
        for i in [7].into_iter().chain(0..19).chain([3, 18, 0]) {
            let mut buf = vec![0; 4096];
            let mut w = Writer::new(&mut buf);
            held.save(0, i, &mut area, &mut w).unwrap();
            let len = w.written();
            images.push((i, buf[..len].to_vec()));
        }
        let mut to = self::area();
        for (_, image) in images.iter().skip(1).take(19) {
            let mut r = Reader::new(&image[1..]);
            other.load(0, &mut r, &mut to).unwrap();
        }
        for (i, image) in &images {
            let mut buf = vec![0; 4096];
            let mut w = Writer::new(&mut buf);
            other.save(0, *i, &mut to, &mut w).unwrap();
            let len = w.written();
            assert_eq!(&buf[..len], &image[..]);
        }
        assert_eq!(
            held.save(0, 19, &mut area, &mut Writer::new(&mut [0; 64])),
            Err(Full)
        );
    }

    #[test]
    fn a_record_that_the_device_has_altered_says_nothing_that_is_ours_to_say() {
        let (mut area, mut held, mut counters) = (area(), Held::new(), Counters::default());
        let f = frame(&mut area, 1, 60);
        assert!(held.push(0, &mut area, &f));
        // Types and status: HDR_LEN, SPH and DD among them.
        area.write(mirror::held(0, 4), &[0xff; 4]);
        area.write(mirror::held(0, 12), &[0xff; 4]);
        let meta = held.peek(0, &mut area, &mut counters).unwrap().meta;
        assert_eq!((meta.types, meta.status), (RX_TYPES, !DD));
    }

    #[test]
    fn a_record_that_the_device_has_overwritten_loses_the_fifo_and_no_more() {
        let (mut area, mut held, mut counters) = (area(), Held::new(), Counters::default());
        let f = frame(&mut area, 1, 60);
        for _ in 0..3 {
            assert!(held.push(0, &mut area, &f));
        }
        area.write(mirror::held(0, 0), &[0xff; 4]);
        assert!(held.peek(0, &mut area, &mut counters).is_none());
        assert_eq!((held.count(), counters.dropped_rx_malformed), (0, 3));
    }
}
