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
