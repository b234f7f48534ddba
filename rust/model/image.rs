// SPDX-License-Identifier: GPL-2.0

//! The migration image: how it is framed, written and believed.
//!
//! ```text
//! header    magic u64 "SEMIASGN" | version u16 | flags u16 | image_id u32 | BAR bytes u32 | crc u32
//! section   tag u16 | version u16 | payload bytes u32 | payload | crc u32
//! order     header, CONTROL once or more, STATE, HELD any number, END
//! ```
//!
//! All little endian. Every crc (CRC-32 of IEEE 802.3) runs over everything before it but the other crcs, from
//! the first byte of the stream: a byte that is altered, missing or in another place is found at the next crc, before the
//! section is believed. The stream comes from an enemy: lengths are bounded before they are waited for.

use crate::adapter::Layout;

/// The buffer is too small for what is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Why an image, or a part of one, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// "SEMIASGN", the first bytes of every image.
pub const MAGIC: u64 = u64::from_le_bytes(*b"SEMIASGN");
/// Version of the framing.
pub const VERSION: u16 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 24;
/// Bytes of a section besides its payload.
pub const SECTION_OVERHEAD_BYTES: usize = 12;
/// Most bytes of one section with its overhead: a buffer of this size is enough to write and to read.
pub const MAX_SECTION_BYTES: usize = 17 * 1024;

/// Bytes of a section before its payload.
const SECTION_HEAD_BYTES: usize = 8;
/// Bytes of a checksum.
const CRC_BYTES: usize = 4;
/// Most bytes of one payload.
const MAX_PAYLOAD_BYTES: usize = MAX_SECTION_BYTES - SECTION_OVERHEAD_BYTES;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// What the guest asked of its PF; may come again when it changed.
    Control,
    /// Registers, statistics, mailbox: all but control record and held frames.
    State,
    /// One held frame.
    Held,
    /// The last one.
    End,
}

impl Tag {
    fn number(self) -> u16 {
        match self {
            Self::Control => 1,
            Self::State => 2,
            Self::Held => 3,
            Self::End => 4,
        }
    }

    fn parse(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Control),
            2 => Some(Self::State),
            3 => Some(Self::Held),
            4 => Some(Self::End),
            _ => None,
        }
    }
}

/// CRC-32 of IEEE 802.3, eight bytes at a time: the guest stands still while its frames are saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Crc(u32);

/// What a byte makes of the crc, as the last one, and with one to seven behind it.
static CRC_TABLES: [[u32; 256]; 8] = crc_tables();

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "at compile time, where either would be an error"
)]
const fn crc_tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 0 { 0 } else { 0xedb8_8320 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut behind = 1;
    while behind < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[behind - 1][byte];
            tables[behind][byte] = (crc >> 8) ^ tables[0][(crc & 0xff) as usize];
            byte += 1;
        }
        behind += 1;
    }
    tables
}

impl Crc {
    fn new() -> Self {
        Self(u32::MAX)
    }

    fn add(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let [c0, c1, c2, c3] = self.0.to_le_bytes();
            let before = [c0, c1, c2, c3, 0, 0, 0, 0];
            let bytes = chunk.iter().zip(before).map(|(byte, crc)| byte ^ crc);
            let rows = CRC_TABLES.iter().rev().zip(bytes);
            self.0 = rows.fold(0, |crc, (table, byte)| crc ^ Self::row(table, byte));
        }
        for &byte in chunks.remainder() {
            let [table, ..] = &CRC_TABLES;
            self.0 = (self.0 >> 8) ^ Self::row(table, byte ^ self.0 as u8);
        }
    }

    fn row(table: &[u32; 256], byte: u8) -> u32 {
        table.get(usize::from(byte)).copied().unwrap_or(0)
    }

    fn value(self) -> u32 {
        !self.0
    }
}

/// Writes numbers and bytes one after the other.
#[derive(Debug)]
pub struct Writer<'a> {
    buf: &'a mut [u8],
    written: usize,
}

impl<'a> Writer<'a> {
    /// Writes from the start of `buf`.
    pub fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, written: 0 }
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Writes `bytes`.
    ///
    /// # Errors
    ///
    /// [`Full`] if they do not fit; nothing is written then.
    pub fn put_bytes(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.claim(bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    /// The next `len` bytes, for the caller to fill.
    ///
    /// # Errors
    ///
    /// [`Full`] if there are not that many.
    pub fn claim(&mut self, len: usize) -> Result<&mut [u8], Full> {
        let end = self.written.checked_add(len).ok_or(Full)?;
        let out = self.buf.get_mut(self.written..end).ok_or(Full)?;
        self.written = end;
        Ok(out)
    }

    /// Writes one byte.
    ///
    /// # Errors
    ///
    /// [`Full`] if it does not fit.
    pub fn put_u8(&mut self, val: u8) -> Result<(), Full> {
        self.put_bytes(&[val])
    }

    /// Writes two bytes.
    ///
    /// # Errors
    ///
    /// [`Full`] if they do not fit.
    pub fn put_u16(&mut self, val: u16) -> Result<(), Full> {
        self.put_bytes(&val.to_le_bytes())
    }

    /// Writes four bytes.
    ///
    /// # Errors
    ///
    /// [`Full`] if they do not fit.
    pub fn put_u32(&mut self, val: u32) -> Result<(), Full> {
        self.put_bytes(&val.to_le_bytes())
    }

    /// Writes eight bytes.
    ///
    /// # Errors
    ///
    /// [`Full`] if they do not fit.
    pub fn put_u64(&mut self, val: u64) -> Result<(), Full> {
        self.put_bytes(&val.to_le_bytes())
    }
}

/// Takes numbers and bytes one after the other.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `buf`.
    pub fn new(buf: &'a [u8]) -> Self {
        Self { rest: buf }
    }

    /// Bytes that were not taken yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Takes `len` bytes.
    ///
    /// # Errors
    ///
    /// [`Refused`] if fewer are left.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(Refused("a section ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes `N` bytes.
    ///
    /// # Errors
    ///
    /// [`Refused`] if fewer are left.
    pub fn take_array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// Takes one byte.
    ///
    /// # Errors
    ///
    /// [`Refused`] if none is left.
    pub fn take_u8(&mut self) -> Result<u8, Refused> {
        Ok(u8::from_le_bytes(self.take_array()?))
    }

    /// Takes two bytes.
    ///
    /// # Errors
    ///
    /// [`Refused`] if fewer are left.
    pub fn take_u16(&mut self) -> Result<u16, Refused> {
        Ok(u16::from_le_bytes(self.take_array()?))
    }

    /// Takes four bytes.
    ///
    /// # Errors
    ///
    /// [`Refused`] if fewer are left.
    pub fn take_u32(&mut self) -> Result<u32, Refused> {
        Ok(u32::from_le_bytes(self.take_array()?))
    }

    /// Takes eight bytes.
    ///
    /// # Errors
    ///
    /// [`Refused`] if fewer are left.
    pub fn take_u64(&mut self) -> Result<u64, Refused> {
        Ok(u64::from_le_bytes(self.take_array()?))
    }

    /// Takes a truth, which is 0 or 1 and nothing else.
    ///
    /// # Errors
    ///
    /// [`Refused`] if it is something else or nothing is left.
    pub fn take_bool(&mut self) -> Result<bool, Refused> {
        match self.take_u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Refused("a flag that is neither 0 nor 1")),
        }
    }

    /// Ends the section.
    ///
    /// # Errors
    ///
    /// [`Refused`] if bytes are left.
    pub fn finish(self) -> Result<(), Refused> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Refused("a section goes on after its end"))
        }
    }
}

/// Writes an image, section by section.
#[derive(Clone, Debug)]
pub struct Encoder {
    layout: &'static Layout,
    crc: Crc,
    sections: u32,
}

impl Encoder {
    /// An image of the adapter with this layout.
    pub fn new(layout: &'static Layout) -> Self {
        Self {
            layout,
            crc: Crc::new(),
            sections: 0,
        }
    }

    /// Writes the header to the start of `out`: how many bytes.
    ///
    /// # Errors
    ///
    /// [`Full`] if `out` is too small; it can be called again then.
    pub fn header(&mut self, out: &mut [u8]) -> Result<usize, Full> {
        let mut w = Writer::new(out);
        w.put_u64(MAGIC)?;
        w.put_u16(VERSION)?;
        w.put_u16(0)?;
        w.put_u32(self.layout.image_id)?;
        w.put_u32(self.layout.bar_bytes)?;
        self.seal(out, HEADER_BYTES - CRC_BYTES)
    }

    /// Writes one section, whose payload `fill` writes, to the start of `out`: how many bytes.
    ///
    /// # Errors
    ///
    /// [`Full`] if `out` is too small, or as `fill` says; the image is as before then.
    pub fn section(
        &mut self,
        out: &mut [u8],
        tag: Tag,
        fill: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>,
    ) -> Result<usize, Full> {
        let room = out
            .len()
            .min(MAX_SECTION_BYTES)
            .checked_sub(CRC_BYTES)
            .ok_or(Full)?;
        let (head, payload) = out
            .get_mut(..room)
            .and_then(|out| out.split_at_mut_checked(SECTION_HEAD_BYTES))
            .ok_or(Full)?;
        let mut w = Writer::new(payload);
        fill(&mut w)?;
        let len = w.written();
        let mut w = Writer::new(head);
        w.put_u16(tag.number())?;
        w.put_u16(VERSION)?;
        w.put_u32(u32::try_from(len).map_err(|_| Full)?)?;
        let bytes = self.seal(out, SECTION_HEAD_BYTES.saturating_add(len))?;
        self.sections = self.sections.saturating_add(1);
        Ok(bytes)
    }

    /// Writes the last section to the start of `out`: how many bytes.
    ///
    /// # Errors
    ///
    /// [`Full`] if `out` is too small; it can be called again then.
    pub fn end(&mut self, out: &mut [u8]) -> Result<usize, Full> {
        let sections = self.sections;
        self.section(out, Tag::End, |w| w.put_u32(sections))
    }

    /// Appends the checksum to the first `len` bytes of `out`.
    fn seal(&mut self, out: &mut [u8], len: usize) -> Result<usize, Full> {
        let end = len.checked_add(CRC_BYTES).ok_or(Full)?;
        let (body, tail) = out
            .get_mut(..end)
            .and_then(|out| out.split_at_mut_checked(len))
            .ok_or(Full)?;
        let mut crc = self.crc;
        crc.add(body);
        let value = crc.value().to_le_bytes();
        // Not into the crc: whatever comes before, a crc over its own value is the same number, and sections
        // could change places.
        tail.copy_from_slice(&value);
        self.crc = crc;
        Ok(end)
    }
}

/// What the bytes at hand amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Not enough for the next part; at most [`MAX_SECTION_BYTES`] ever are.
    NeedMore,
    /// The header was right.
    Header {
        /// Bytes to drop.
        consumed: usize,
    },
    /// A section, whose checksum was right.
    Section {
        /// What it holds.
        tag: Tag,
        /// Where its payload starts.
        start: usize,
        /// Where its payload ends.
        end: usize,
        /// Bytes to drop, once the payload was used.
        consumed: usize,
    },
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Header,
    Control,
    ControlOrState,
    HeldOrEnd,
    Nothing,
    /// Something was refused: so is all that follows.
    Refused(Refused),
}

/// Reads an image, as its bytes come in.
#[derive(Clone, Debug)]
pub struct Decoder {
    layout: &'static Layout,
    crc: Crc,
    sections: u32,
    expect: Expect,
}

impl Decoder {
    /// Expects an image of the adapter with this layout.
    pub fn new(layout: &'static Layout) -> Self {
        Self {
            layout,
            crc: Crc::new(),
            sections: 0,
            expect: Expect::Header,
        }
    }

    /// Whether the image has come to its end.
    pub fn is_complete(&self) -> bool {
        self.expect == Expect::Nothing
    }

    /// Looks at the bytes that came in and were not consumed yet.
    ///
    /// # Errors
    ///
    /// The reason why the image is refused; it stays refused.
    pub fn step(&mut self, have: &[u8]) -> Result<Step, Refused> {
        let step = match self.expect {
            Expect::Refused(why) => return Err(why),
            Expect::Nothing if have.is_empty() => return Ok(Step::NeedMore),
            Expect::Nothing => Err(Refused("bytes after the end of the image")),
            Expect::Header => self.header(have),
            Expect::Control | Expect::ControlOrState | Expect::HeldOrEnd => self.section(have),
        };
        if let Err(why) = step {
            self.expect = Expect::Refused(why);
        }
        step
    }

    fn header(&mut self, have: &[u8]) -> Result<Step, Refused> {
        if let Some(magic) = have.first_chunk::<8>() {
            if *magic != MAGIC.to_le_bytes() {
                return Err(Refused("not a semiassign image"));
            }
        }
        let Some(header) = have.get(..HEADER_BYTES) else {
            return Ok(Step::NeedMore);
        };
        let mut r = Reader::new(header);
        r.take_u64()?;
        let (version, flags) = (r.take_u16()?, r.take_u16()?);
        let (image_id, bar_bytes) = (r.take_u32()?, r.take_u32()?);
        let crc = self.check(header)?;
        if version != VERSION {
            return Err(Refused("an image of another version"));
        }
        if flags != 0 {
            return Err(Refused("an image with unknown flags"));
        }
        if image_id != self.layout.image_id {
            return Err(Refused("an image of another adapter"));
        }
        if bar_bytes != self.layout.bar_bytes {
            return Err(Refused("an image of another geometry"));
        }
        self.crc = crc;
        self.expect = Expect::Control;
        Ok(Step::Header {
            consumed: HEADER_BYTES,
        })
    }

    fn section(&mut self, have: &[u8]) -> Result<Step, Refused> {
        let Some(head) = have.get(..SECTION_HEAD_BYTES) else {
            return Ok(Step::NeedMore);
        };
        let mut r = Reader::new(head);
        let (tag, version, len) = (r.take_u16()?, r.take_u16()?, r.take_u32()?);
        let tag = Tag::parse(tag).ok_or(Refused("an unknown section"))?;
        if version != VERSION {
            return Err(Refused("a section of another version"));
        }
        let next = match (self.expect, tag) {
            (Expect::Control | Expect::ControlOrState, Tag::Control) => Expect::ControlOrState,
            (Expect::ControlOrState, Tag::State) => Expect::HeldOrEnd,
            (Expect::HeldOrEnd, Tag::Held) => Expect::HeldOrEnd,
            (Expect::HeldOrEnd, Tag::End) => Expect::Nothing,
            _ => return Err(Refused("a section out of order")),
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > MAX_PAYLOAD_BYTES {
            return Err(Refused("a section that is too long"));
        }
        let (start, end) = (SECTION_HEAD_BYTES, SECTION_HEAD_BYTES.saturating_add(len));
        let consumed = end.saturating_add(CRC_BYTES);
        let Some(section) = have.get(..consumed) else {
            return Ok(Step::NeedMore);
        };
        let crc = self.check(section)?;
        if tag == Tag::End {
            let mut r = Reader::new(section.get(start..end).unwrap_or(&[]));
            if r.take_u32()? != self.sections {
                return Err(Refused("an image with another number of sections"));
            }
            r.finish()?;
        }
        self.crc = crc;
        self.sections = self
            .sections
            .checked_add(1)
            .ok_or(Refused("too many sections"))?;
        self.expect = next;
        Ok(Step::Section {
            tag,
            start,
            end,
            consumed,
        })
    }

    /// Checks the checksum at the end of `part`: the one to go on with.
    fn check(&self, part: &[u8]) -> Result<Crc, Refused> {
        let (body, value) = part
            .split_last_chunk::<CRC_BYTES>()
            .ok_or(Refused("a section ends too early"))?;
        let mut crc = self.crc;
        crc.add(body);
        if crc.value().to_le_bytes() != *value {
            return Err(Refused("a wrong checksum: the image was altered"));
        }
        Ok(crc)
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
