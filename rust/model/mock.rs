// SPDX-License-Identifier: GPL-2.0

//! Registers, guest memory and a mirror area in plain memory, for tests and fuzzers.

extern crate std;

use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

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
        }
    }

    fn range(&mut self, at: Iova, len: usize) -> Result<std::ops::Range<usize>, Fault> {
        if let Some(left) = self.busy_after {
            if left == 0 {
                self.busy_after = self.busy_always.then_some(0);
                return Err(Fault::Busy);
            }
            self.busy_after = Some(left.saturating_sub(1));
        }
        let start = at.0.checked_sub(self.base).ok_or(Fault::Unmapped)?;
        let start = usize::try_from(start).map_err(|_| Fault::Unmapped)?;
        let end = start.checked_add(len).ok_or(Fault::Unmapped)?;
        if end > self.bytes.len() {
            return Err(Fault::Unmapped);
        }
        Ok(start..end)
    }

    /// As the guest's CPU sees it.
    pub fn get(&self, at: u64, len: usize) -> &[u8] {
        let start = (at - self.base) as usize;
        &self.bytes[start..start + len]
    }

    /// As the guest's CPU writes it.
    pub fn set(&mut self, at: u64, bytes: &[u8]) {
        let start = (at - self.base) as usize;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }
}

impl GuestMemory for Memory {
    fn read(&mut self, at: Iova, buf: &mut [u8]) -> Result<(), Fault> {
        let range = self.range(at, buf.len())?;
        buf.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn write(&mut self, at: Iova, buf: &[u8]) -> Result<(), Fault> {
        let range = self.range(at, buf.len())?;
        self.bytes[range].copy_from_slice(buf);
        if !buf.is_empty() {
            self.dirty
                .extend(at.0 >> 12..=(at.0 + buf.len() as u64 - 1) >> 12);
        }
        if let Some(log) = &mut self.log {
            log.push((at.0, buf.to_vec()));
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
