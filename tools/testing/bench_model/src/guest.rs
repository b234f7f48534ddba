// SPDX-License-Identifier: GPL-2.0

//! The memory of the guest.

use model::io::{Area, Fault, GuestMemory, Iova};

use crate::vf::Bytes;

/// Where it starts, as the device sees it.
pub const BASE: u64 = 0x1_0000_0000;
/// Its size in bytes.
pub const BYTES: usize = 1 << 21;

/// Guest memory, from [`BASE`] on.
pub struct Ram {
    pub bytes: Vec<u8>,
    /// A bit for each page that was written, if somebody tracks.
    dirty: Option<Vec<u64>>,
    mirror: Bytes,
}

impl Ram {
    pub fn new(mirror: Bytes, tracked: bool) -> Self {
        Self {
            bytes: vec![0; BYTES],
            dirty: tracked.then(|| vec![0; BYTES >> 12 >> 6]),
            mirror,
        }
    }

    /// Pages that were written.
    pub fn dirty_pages(&self) -> u32 {
        self.dirty
            .iter()
            .flatten()
            .map(|word| word.count_ones())
            .sum()
    }

    fn at(at: Iova) -> Result<usize, Fault> {
        at.0.checked_sub(BASE)
            .and_then(|at| usize::try_from(at).ok())
            .ok_or(Fault::Unmapped)
    }

    fn mark(&mut self, at: usize, len: usize) {
        if let Some(dirty) = &mut self.dirty {
            for page in at >> 12..=(at + len.max(1) - 1) >> 12 {
                dirty[page >> 6] |= 1 << (page & 63);
            }
        }
    }
}

impl GuestMemory for Ram {
    fn read(&mut self, at: Iova, buf: &mut [u8]) -> Result<(), Fault> {
        let at = Self::at(at)?;
        let from = self.bytes.get(at..at + buf.len()).ok_or(Fault::Unmapped)?;
        buf.copy_from_slice(from);
        Ok(())
    }

    fn write(&mut self, at: Iova, buf: &[u8]) -> Result<(), Fault> {
        let at = Self::at(at)?;
        let to = self.bytes.get_mut(at..at + buf.len());
        to.ok_or(Fault::Unmapped)?.copy_from_slice(buf);
        self.mark(at, buf.len());
        Ok(())
    }

    // As in the kernel: one copy from here to there.
    fn read_to_area(
        &mut self,
        at: Iova,
        _: &mut dyn Area,
        to: usize,
        len: usize,
    ) -> Result<(), Fault> {
        let at = Self::at(at)?;
        let from = self.bytes.get(at..at + len).ok_or(Fault::Unmapped)?;
        self.mirror.borrow_mut()[to..to + len].copy_from_slice(from);
        Ok(())
    }

    fn write_from_area(
        &mut self,
        at: Iova,
        _: &mut dyn Area,
        from: usize,
        len: usize,
    ) -> Result<(), Fault> {
        let at = Self::at(at)?;
        let to = self.bytes.get_mut(at..at + len).ok_or(Fault::Unmapped)?;
        to.copy_from_slice(&self.mirror.borrow()[from..from + len]);
        self.mark(at, len);
        Ok(())
    }
}
