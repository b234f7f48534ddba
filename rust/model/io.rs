// SPDX-License-Identifier: GPL-2.0

//! What an adapter can touch, as traits that the kernel implements on the real thing and tests on memory.

/// An address as the device sees it, before the IOMMU.
///
/// Guest-controlled: never trusted, and arithmetic on it is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Iova(pub u64);

impl Iova {
    /// The address `len_bytes` further on, or `None` past the end of the address space.
    pub fn checked_add(self, len_bytes: u64) -> Option<Self> {
        self.0.checked_add(len_bytes).map(Self)
    }
}

/// Why guest memory could not be reached. The guest's fault, hence a device event and not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing (or nothing with this permission) is mapped there: the access is dropped and counted.
    Unmapped,
    /// The mapping is being changed right now: nothing was done, try the same access again later.
    Busy,
}

/// 32-bit registers, addressed by their byte offset in BAR 0.
///
/// Accesses outside what is backed read as 0 and write nothing.
pub trait Registers {
    /// Reads the register at `at`.
    fn read32(&mut self, at: u32) -> u32;
    /// Writes `val` to the register at `at`.
    fn write32(&mut self, at: u32, val: u32);
}

/// BAR 0 of the real VF.
pub trait Hardware: Registers {
    /// Waits for at least `us` microseconds; may sleep.
    fn pause(&mut self, us: u32);
}

/// The memory of the guest.
///
/// Every byte that [`write`](GuestMemory::write) changed is known to the dirty log when it returns,
/// also when it failed half-way.
pub trait GuestMemory {
    /// Copies from guest memory.
    ///
    /// # Errors
    ///
    /// See [`Fault`]; `buf` then holds nothing of use.
    fn read(&mut self, at: Iova, buf: &mut [u8]) -> Result<(), Fault>;

    /// Copies to guest memory. What was written before a call is visible to the guest no later than
    /// what the call writes; within one call there is no order.
    ///
    /// # Errors
    ///
    /// See [`Fault`]; a part may have been written.
    fn write(&mut self, at: Iova, buf: &[u8]) -> Result<(), Fault>;

    /// Copies `len` bytes from guest memory into `area` at `to`, without a copy in between where it can.
    ///
    /// # Errors
    ///
    /// See [`Fault`].
    fn read_to_area(
        &mut self,
        at: Iova,
        area: &mut dyn Area,
        to: usize,
        len: usize,
    ) -> Result<(), Fault> {
        let mut chunk = [0u8; 256];
        let mut done = 0usize;
        while done < len {
            let n = (len - done).min(chunk.len());
            let Some(part) = chunk.get_mut(..n) else {
                return Ok(());
            };
            self.read(at.checked_add(done as u64).ok_or(Fault::Unmapped)?, part)?;
            area.write(to.saturating_add(done), part);
            done += n;
        }
        Ok(())
    }

    /// Copies `len` bytes of `area` at `from` to guest memory, without a copy in between where it can.
    ///
    /// # Errors
    ///
    /// See [`Fault`]; a part may have been written.
    fn write_from_area(
        &mut self,
        at: Iova,
        area: &mut dyn Area,
        from: usize,
        len: usize,
    ) -> Result<(), Fault> {
        let mut chunk = [0u8; 256];
        let mut done = 0usize;
        while done < len {
            let n = (len - done).min(chunk.len());
            let Some(part) = chunk.get_mut(..n) else {
                return Ok(());
            };
            area.read(from.saturating_add(done), part);
            self.write(at.checked_add(done as u64).ok_or(Fault::Unmapped)?, part)?;
            done += n;
        }
        Ok(())
    }
}

/// Memory that we share with the real VF while it is captured: mirror rings and their buffers.
///
/// The device, or a peer that reaches it, may change any byte at any time: copy once, then use the copy.
/// Accesses out of range read as 0 and write nothing.
pub trait Area {
    /// Where the device sees byte 0. Page aligned; the whole area is contiguous for the device.
    fn iova(&self) -> Iova;
    /// Its size in bytes.
    fn len(&self) -> usize;
    /// Whether it has no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies from the area; device writes that were seen by an earlier call are ordered before this one.
    fn read(&mut self, at: usize, buf: &mut [u8]);
    /// Copies to the area; ordered before any later register write.
    fn write(&mut self, at: usize, buf: &[u8]);
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::mock::{Memory, Mirror};
    use std::vec::Vec;

    const BYTES: usize = 4096;

    fn numbers() -> Vec<u8> {
        (0..BYTES).map(|n| (n % 251) as u8).collect()
    }

    /// Lengths about the size of the pieces that a copy is made in.
    const LENGTHS: [usize; 9] = [0, 1, 255, 256, 257, 511, 512, 513, 1500];

    #[test]
    fn a_copy_to_the_area_is_whole_and_touches_nothing_else() {
        for len in LENGTHS {
            let (mut mem, mut area) = (Memory::new(0x1000, BYTES), Mirror::new(0, BYTES));
            mem.set(0x1000, &numbers());
            assert_eq!(mem.read_to_area(Iova(0x1007), &mut area, 9, len), Ok(()));
            let mut expected = [0; BYTES];
            expected[9..9 + len].copy_from_slice(&numbers()[7..7 + len]);
            assert!(area.bytes == expected, "{len}");
            assert!(mem.dirty.is_empty());
        }
    }

    #[test]
    fn a_copy_to_the_guest_is_whole_and_touches_nothing_else() {
        for len in LENGTHS {
            let (mut mem, mut area) = (Memory::new(0x1000, BYTES), Mirror::new(0, BYTES));
            area.bytes = numbers();
            assert_eq!(mem.write_from_area(Iova(0x1007), &mut area, 9, len), Ok(()));
            let mut expected = [0; BYTES];
            expected[7..7 + len].copy_from_slice(&numbers()[9..9 + len]);
            assert!(mem.get(0x1000, BYTES) == expected, "{len}");
        }
    }

    #[test]
    fn a_copy_ends_where_memory_does() {
        // The second piece lies outside, or past the end of the address space.
        for base in [0x1000, u64::MAX - 255] {
            let (mut mem, mut area) = (Memory::new(base, 256), Mirror::new(0, BYTES));
            let to = mem.read_to_area(Iova(base), &mut area, 0, 257);
            assert_eq!(to, Err(Fault::Unmapped));
            let from = mem.write_from_area(Iova(base), &mut area, 0, 257);
            assert_eq!(from, Err(Fault::Unmapped));
            assert_eq!(mem.dirty.len(), 1);
        }
    }

    #[test]
    fn an_area_is_empty_without_a_byte() {
        assert!(Mirror::new(0, 0).is_empty());
        assert!(!Mirror::new(0, 1).is_empty());
    }

    #[test]
    fn addresses_end_with_the_address_space() {
        assert_eq!(Iova(1).checked_add(2), Some(Iova(3)));
        assert_eq!(Iova(u64::MAX).checked_add(0), Some(Iova(u64::MAX)));
        assert_eq!(Iova(u64::MAX).checked_add(1), None);
    }
}
