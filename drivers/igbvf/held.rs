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
#[path = "held_tests.rs"]
mod tests;
