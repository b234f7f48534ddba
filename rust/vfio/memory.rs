// SPDX-License-Identifier: GPL-2.0

//! Pages of RAM that stand in for pages of a BAR.

use crate::bindings;
use crate::device::{Device, Operations};
use core::ptr::NonNull;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::aref::ARef;

/// At most so many pages of a BAR can be substituted.
pub const MAX_PAGES: usize = 4;

/// Zeroed pages for `[start, end)` of [`Operations::BAR`].
///
/// The user of the device may map them and write to them at any time. They are ordinary pages, not
/// `PG_reserved`, so that nobody takes them for memory of a device.
///
/// # Invariants
///
/// The first `nr_pages` of `pages` are allocated and belong to this object. No mapping has one of them
/// when they are freed.
pub struct Pages<T: Operations> {
    dev: ARef<Device<T>>,
    start: u64,
    nr_pages: usize,
    pages: [Option<NonNull<u8>>; MAX_PAGES],
}

// SAFETY: The pages belong to this object alone, and accesses to them are atomic dwords.
unsafe impl<T: Operations> Send for Pages<T> {}
// SAFETY: As above.
unsafe impl<T: Operations> Sync for Pages<T> {}

impl<T: Operations> Pages<T> {
    /// Allocates the pages. `start` and `end` are page aligned.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an odd or too large range, `ENOMEM`.
    pub fn new(dev: &Device<T>, start: u64, end: u64) -> Result<Self> {
        let page = PAGE_SIZE as u64;
        let bytes = end.checked_sub(start).ok_or(EINVAL)?;
        let nr_pages = usize::try_from(bytes / page).map_err(|_| EINVAL)?;
        if start % page != 0 || bytes % page != 0 || nr_pages > MAX_PAGES {
            return Err(EINVAL);
        }
        let mut this = Self {
            dev: dev.into(),
            start,
            nr_pages,
            pages: [None; MAX_PAGES],
        };
        for slot in this.pages.iter_mut().take(nr_pages) {
            // SAFETY: Process context.
            let page = unsafe { bindings::vfio_helper_alloc_page() };
            *slot = Some(NonNull::new(page.cast()).ok_or(ENOMEM)?);
        }
        Ok(this)
    }

    fn page(&self, at: u64) -> Option<(NonNull<u8>, usize)> {
        let off = at.checked_sub(self.start)?;
        let index = usize::try_from(off / PAGE_SIZE as u64).ok()?;
        let page = (*self.pages.get(index)?)?;
        Some((page, (off % PAGE_SIZE as u64) as usize))
    }

    /// The frame that stands in for the page at `at`, if `dev` is the device these pages are for.
    pub(crate) fn pfn(&self, dev: &Device<T>, at: u64) -> Option<usize> {
        if !core::ptr::eq(dev, &*self.dev) {
            return None;
        }
        let (page, _) = self.page(at)?;
        // SAFETY: The page is allocated.
        Some(unsafe { bindings::vfio_helper_pfn(page.as_ptr().cast()) })
    }

    /// Reads the dword at `at` of the BAR; 0 if it is not in these pages.
    pub fn read32(&self, at: u32) -> u32 {
        match self.page(at.into()) {
            // SAFETY: An aligned dword inside an allocated page; the access is atomic.
            Some((page, off)) if off % 4 == 0 => unsafe {
                bindings::vfio_helper_read_once(page.as_ptr().add(off).cast())
            },
            _ => 0,
        }
    }

    /// Writes the dword at `at` of the BAR.
    pub fn write32(&self, at: u32, val: u32) {
        if let Some((page, off)) = self.page(at.into()) {
            if off % 4 == 0 {
                // SAFETY: As for `read32`.
                unsafe { bindings::vfio_helper_write_once(val, page.as_ptr().add(off).cast()) }
            }
        }
    }
}

impl<T: Operations> Drop for Pages<T> {
    fn drop(&mut self) {
        // Zap, then free: KVM and page tables hold no reference to what they map.
        self.dev
            .zap(self.start, self.start + (self.nr_pages * PAGE_SIZE) as u64);
        for page in self.pages.iter().flatten() {
            // SAFETY: Allocated in `new`, in no mapping any more; `fault` needs a reference to `self` to
            // insert one again.
            unsafe { bindings::vfio_helper_free_page(page.as_ptr().cast()) };
        }
    }
}
