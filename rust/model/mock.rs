// SPDX-License-Identifier: GPL-2.0

//! Registers, guest memory and a mirror area in plain memory, for tests and fuzzers.

extern crate std;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Range, RangeInclusive};
use std::vec;
use std::vec::Vec;

use crate::dirty::{Chunk, Chunks};
use crate::io::{Area, Fault, GuestMemory, Hardware, Iova, Registers};

/// Registers that just keep what is written.
#[derive(Clone, Debug)]
pub struct Page {
    start: u32,
    words: Vec<u32>,
}

impl Page {
    /// Backs the registers in `[start, end)`.
    pub fn new(start: u32, end: u32) -> Self {
        Self {
            start,
            words: vec![0; (end - start) as usize / 4],
        }
    }
}

impl Registers for Page {
    fn read32(&mut self, at: u32) -> u32 {
        let index = at.wrapping_sub(self.start) as usize / 4;
        self.words.get(index).copied().unwrap_or(0)
    }

    fn write32(&mut self, at: u32, val: u32) {
        let index = at.wrapping_sub(self.start) as usize / 4;
        if let Some(word) = self.words.get_mut(index) {
            *word = val;
        }
    }
}

impl Hardware for Page {
    fn pause(&mut self, _us: u32) {}
}

/// Registers that answer by a script, and note what is done to them.
#[derive(Clone, Debug)]
pub struct Script {
    /// What they hold.
    pub page: Page,
    /// What the next reads of a register give; after these it is what it holds.
    pub answers: BTreeMap<u32, VecDeque<u32>>,
    /// Every write: where and what, in order.
    pub writes: Vec<(u32, u32)>,
    /// Every pause, in microseconds.
    pub pauses: Vec<u32>,
}

impl Script {
    /// Backs the registers in `[start, end)`.
    pub fn new(start: u32, end: u32) -> Self {
        Self {
            page: Page::new(start, end),
            answers: BTreeMap::new(),
            writes: Vec::new(),
            pauses: Vec::new(),
        }
    }

    /// The next reads of the register at `at` give `vals`.
    pub fn answer(&mut self, at: u32, vals: &[u32]) {
        self.answers.entry(at).or_default().extend(vals);
    }

    /// What was written since the last call.
    pub fn take_writes(&mut self) -> Vec<(u32, u32)> {
        std::mem::take(&mut self.writes)
    }
}

impl Registers for Script {
    fn read32(&mut self, at: u32) -> u32 {
        let answer = self.answers.get_mut(&at).and_then(VecDeque::pop_front);
        answer.unwrap_or_else(|| self.page.read32(at))
    }

    fn write32(&mut self, at: u32, val: u32) {
        self.writes.push((at, val));
        self.page.write32(at, val);
    }
}

impl Hardware for Script {
    fn pause(&mut self, us: u32) {
        self.pauses.push(us);
    }
}

/// A guest's memory, from `base` on.
#[derive(Clone, Debug)]
pub struct Memory {
    base: u64,
    bytes: Vec<u8>,
    /// Accesses until one finds the mapping busy.
    pub busy_after: Option<u32>,
    /// And it stays busy.
    pub busy_always: bool,
    /// Every write: where and what, in order.
    pub log: Option<Vec<(u64, Vec<u8>)>>,
    /// 4 KiB pages that were written.
    pub dirty: BTreeSet<u64>,
    /// 4 KiB pages in the middle that are not mapped: an access gets as far as these.
    pub holes: BTreeSet<u64>,
    /// 4 KiB pages that can only be read.
    pub read_only: BTreeSet<u64>,
}

impl Memory {
    /// `len_bytes` of zeroes.
    pub fn new(base: u64, len_bytes: usize) -> Self {
        Self {
            base,
            bytes: vec![0; len_bytes],
            busy_after: None,
            busy_always: false,
            log: None,
            dirty: BTreeSet::new(),
            holes: BTreeSet::new(),
            read_only: BTreeSet::new(),
        }
    }

    /// The part of an access that is mapped; it may be shorter than `len`.
    fn reach(&mut self, at: Iova, len: usize) -> Result<Range<usize>, Fault> {
        if let Some(left) = self.busy_after {
            if left == 0 {
                self.busy_after = self.busy_always.then_some(0);
                return Err(Fault::Busy);
            }
            self.busy_after = Some(left.saturating_sub(1));
        }
        let start = at.0.checked_sub(self.base).ok_or(Fault::Unmapped)?;
        let start = usize::try_from(start).map_err(|_| Fault::Unmapped)?;
        let mut end = start.saturating_add(len).min(self.bytes.len());
        if start > end {
            return Err(Fault::Unmapped);
        }
        if let Some(hole) = self.holes.range(at.0 >> 12..).next() {
            let free = (hole << 12).saturating_sub(at.0);
            end = end.min(start + usize::try_from(free).unwrap_or(usize::MAX - start));
        }
        Ok(start..end)
    }

    /// As the guest's CPU sees it.
    pub fn get(&self, at: u64, len: usize) -> &[u8] {
        let start = (at - self.base) as usize;
        &self.bytes[start..start + len]
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Has `bytes` from now on: what it had.
    pub fn replace(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        core::mem::replace(&mut self.bytes, bytes)
    }

    /// As the guest's CPU writes it.
    pub fn set(&mut self, at: u64, bytes: &[u8]) {
        let start = (at - self.base) as usize;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }
}

impl GuestMemory for Memory {
    fn read(&mut self, at: Iova, buf: &mut [u8]) -> Result<(), Fault> {
        let range = self.reach(at, buf.len())?;
        if range.len() < buf.len() {
            return Err(Fault::Unmapped);
        }
        buf.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn write(&mut self, at: Iova, buf: &[u8]) -> Result<(), Fault> {
        let range = self.reach(at, buf.len())?;
        if self.read_only.contains(&(at.0 >> 12)) {
            return Err(Fault::Unmapped);
        }
        let written = &buf[..range.len()];
        self.bytes[range].copy_from_slice(written);
        if !written.is_empty() {
            self.dirty
                .extend(at.0 >> 12..=(at.0 + (written.len() as u64 - 1)) >> 12);
        }
        if let Some(log) = &mut self.log {
            log.push((at.0, written.to_vec()));
        }
        if written.len() < buf.len() {
            return Err(Fault::Unmapped);
        }
        Ok(())
    }
}

/// A mirror area.
#[derive(Clone, Debug)]
pub struct Mirror {
    iova: u64,
    /// Its bytes, as the device sees them.
    pub bytes: Vec<u8>,
}

impl Mirror {
    /// `len_bytes` of zeroes, which the device sees at `iova`.
    pub fn new(iova: u64, len_bytes: usize) -> Self {
        Self {
            iova,
            bytes: vec![0; len_bytes],
        }
    }
}

impl Area for Mirror {
    fn iova(&self) -> Iova {
        Iova(self.iova)
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn read(&mut self, at: usize, buf: &mut [u8]) {
        match at
            .checked_add(buf.len())
            .and_then(|end| self.bytes.get(at..end))
        {
            Some(bytes) => buf.copy_from_slice(bytes),
            None => buf.fill(0),
        }
    }

    fn write(&mut self, at: usize, buf: &[u8]) {
        if let Some(bytes) = at
            .checked_add(buf.len())
            .and_then(|end| self.bytes.get_mut(at..end))
        {
            bytes.copy_from_slice(buf);
        }
    }
}

/// The chunks of a dirty set.
#[derive(Clone, Debug)]
pub struct BTreeChunks {
    chunks: BTreeMap<u64, Chunk>,
    most: usize,
}

impl BTreeChunks {
    /// There is memory for so many.
    pub fn at_most(most: usize) -> Self {
        Self {
            chunks: BTreeMap::new(),
            most,
        }
    }
}

impl Default for BTreeChunks {
    fn default() -> Self {
        Self::at_most(usize::MAX)
    }
}

impl Chunks for BTreeChunks {
    fn get(&mut self, number: u64) -> Option<&mut Chunk> {
        self.chunks.get_mut(&number)
    }

    fn insert(&mut self, number: u64) -> bool {
        let room = self.chunks.len() < self.most;
        if room {
            self.chunks.insert(number, Chunk::new());
        }
        room
    }

    fn for_each(&mut self, numbers: RangeInclusive<u64>, f: &mut dyn FnMut(u64, &mut Chunk)) {
        for (number, chunk) in self.chunks.range_mut(numbers) {
            f(*number, chunk);
        }
    }
}

/// A small generator; every test starts it with its own number, which is not 0.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any number.
    #[expect(clippy::should_implement_trait, reason = "it has no end to iterate to")]
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as u32
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u32) -> u32 {
        self.next() % n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_write_has_changed_is_dirty_even_if_it_failed_in_the_middle() {
        let mut memory = Memory::new(0x1_0000, 0x4000);
        memory.holes.insert(0x12);
        assert_eq!(memory.write(Iova(0x1_0ffc), &[1; 8]), Ok(()));
        assert_eq!(memory.dirty, BTreeSet::from([0x10, 0x11]));
        memory.dirty.clear();
        for (at, dirty) in [
            (0x1_1ffc, Some(0x11)),
            (0x1_3ffc, Some(0x13)),
            (0x1_2000, None),
            (0x1_4000, None),
        ] {
            memory.dirty.clear();
            assert_eq!(memory.write(Iova(at), &[2; 8]), Err(Fault::Unmapped));
            assert_eq!(memory.dirty, dirty.into_iter().collect());
            assert_eq!(memory.read(Iova(at), &mut [0; 8]), Err(Fault::Unmapped));
        }
        assert_eq!(
            memory.get(0x1_1ff8, 12),
            [0, 0, 0, 0, 2, 2, 2, 2, 0, 0, 0, 0]
        );
        memory.busy_after = Some(0);
        assert_eq!(memory.write(Iova(0x1_0000), &[3]), Err(Fault::Busy));
        assert_eq!(memory.get(0x1_0000, 1), [0]);
    }
}
