// SPDX-License-Identifier: GPL-2.0

//! What an adapter is lent for one call: the real VF, the RAM pages, guest memory and the mirror area.

use crate::dirty::DirtyLog;
use crate::vf::Vf;
use kernel::prelude::*;
use kernel::time::{delay::fsleep, Delta};
use model::dirty;
use model::io::{Area, Fault, GuestMemory, Hardware, Iova, Registers};
use vfio::memory::Pages;
use vfio::region::MemoryGuard;
use vfio::Device;

/// The real VF. Takes the memory lock for each access, so that a reset need not wait for us.
pub(crate) struct RealVf<'a>(pub(crate) &'a Device<Vf>);

impl Registers for RealVf<'_> {
    fn read32(&mut self, at: u32) -> u32 {
        self.0.memory().read32(at)
    }

    fn write32(&mut self, at: u32, val: u32) {
        self.0.memory().write32(at, val);
    }
}

impl Hardware for RealVf<'_> {
    fn pause(&mut self, us: u32) {
        fsleep(Delta::from_micros(us.into()));
    }
}

/// The real VF, while the memory lock is held anyway.
pub(crate) struct LockedVf<'a>(pub(crate) &'a MemoryGuard<'a, Vf>);

impl Registers for LockedVf<'_> {
    fn read32(&mut self, at: u32) -> u32 {
        self.0.read32(at)
    }

    fn write32(&mut self, at: u32, val: u32) {
        self.0.write32(at, val);
    }
}

impl Hardware for LockedVf<'_> {
    fn pause(&mut self, us: u32) {
        fsleep(Delta::from_micros(us.into()));
    }
}

/// The RAM behind the substituted pages.
pub(crate) struct RamPages<'a>(pub(crate) &'a Pages<Vf>);

impl Registers for RamPages<'_> {
    fn read32(&mut self, at: u32) -> u32 {
        self.0.read32(at)
    }

    fn write32(&mut self, at: u32, val: u32) {
        self.0.write32(at, val);
    }
}

/// The mirror area.
pub(crate) struct Mirror<'a>(pub(crate) &'a vfio::iommu::Area);

impl Area for Mirror<'_> {
    fn iova(&self) -> Iova {
        Iova(self.0.iova())
    }

    fn len(&self) -> usize {
        self.0.bytes()
    }

    fn read(&mut self, at: usize, buf: &mut [u8]) {
        self.0.read(at, buf);
    }

    fn write(&mut self, at: usize, buf: &[u8]) {
        self.0.write(at, buf);
    }
}

/// Guest memory, with a note of every page that is written.
pub(crate) struct Guest<'a> {
    pub(crate) dev: &'a Device<Vf>,
    pub(crate) area: &'a vfio::iommu::Area,
    pub(crate) log: Option<&'a mut DirtyLog>,
    pub(crate) pages_written: &'a mut u64,
}

fn fault(e: Error) -> Fault {
    if e == EBUSY || e == EAGAIN {
        Fault::Busy
    } else {
        Fault::Unmapped
    }
}

impl Guest<'_> {
    /// A guest that takes the bus from its VF does not expect it to write, or to send: not before it has it back.
    fn check_master(&self) -> Result<(), Fault> {
        if self.dev.data().get_ref().is_master() {
            Ok(())
        } else {
            Err(Fault::Busy)
        }
    }

    /// Marks after the write, also after one that failed half-way: marking first would lose the page to a
    /// report in between, and what failed may have written its beginning.
    fn written(&mut self, at: Iova, len: usize) {
        let nr_pages = dirty::pages(at, len).map_or(0, |pages| pages.count());
        *self.pages_written = self.pages_written.wrapping_add(nr_pages as u64);
        if let Some(log) = self.log.as_deref_mut() {
            log.mark(at, len);
        }
    }
}

impl GuestMemory for Guest<'_> {
    fn read(&mut self, at: Iova, buf: &mut [u8]) -> Result<(), Fault> {
        self.dev.dma_read(at.0, buf).map_err(fault)
    }

    fn write(&mut self, at: Iova, buf: &[u8]) -> Result<(), Fault> {
        if buf.is_empty() {
            return Ok(());
        }
        self.check_master()?;
        let result = self.dev.dma_write(at.0, buf).map_err(fault);
        self.written(at, buf.len());
        // Whatever the adapter writes next, the guest must not see before this.
        vfio::guest::write_barrier();
        result
    }

    fn read_to_area(
        &mut self,
        at: Iova,
        _: &mut dyn Area,
        to: usize,
        len: usize,
    ) -> Result<(), Fault> {
        self.check_master()?;
        self.dev
            .dma_read_to(at.0, self.area, to, len)
            .map_err(fault)
    }

    fn write_from_area(
        &mut self,
        at: Iova,
        _: &mut dyn Area,
        from: usize,
        len: usize,
    ) -> Result<(), Fault> {
        if len == 0 {
            return Ok(());
        }
        self.check_master()?;
        let result = self
            .dev
            .dma_write_from(at.0, self.area, from, len)
            .map_err(fault);
        self.written(at, len);
        vfio::guest::write_barrier();
        result
    }
}
