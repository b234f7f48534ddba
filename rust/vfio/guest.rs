// SPDX-License-Identifier: GPL-2.0

//! Memory of the user of a device, by the address the device sees.

use crate::bindings;
use crate::device::{Device, Operations};
use crate::iommu::Area;
use kernel::error::to_result;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Full};
use kernel::time::{delay::fsleep, Delta};

/// Most that [`dma_unmap`] waits for a pin in flight, each of ten times. A pin takes microseconds once its page is there.
const UNMAP_WAIT_MS: u32 = 100;

/// Splits `[iova, iova + len)` at page boundaries: type1 marks a write dirty only if all of it succeeded.
fn pages(iova: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0usize;
    core::iter::from_fn(move || {
        if done >= len {
            return None;
        }
        let at = iova.checked_add(done as u64)?;
        let room = PAGE_SIZE - (at % PAGE_SIZE as u64) as usize;
        let bytes = room.min(len - done);
        let item = (at, done, bytes);
        done += bytes;
        Some(item)
    })
}

impl<T: Operations> Device<T> {
    /// Copies from memory of the user.
    ///
    /// Must be called by a kernel thread or one of the process that mapped the memory, and not under any
    /// lock that a page fault or an unmap of the user takes.
    ///
    /// # Errors
    ///
    /// `EBUSY` while the mapping changes, otherwise nothing is mapped there.
    pub fn dma_read(&self, iova: u64, buf: &mut [u8]) -> Result {
        if iova.checked_add(buf.len() as u64).is_none() {
            return Err(EINVAL);
        }
        for (at, from, bytes) in pages(iova, buf.len()) {
            let part = buf.get_mut(from..from + bytes).ok_or(EINVAL)?;
            // SAFETY: The buffer is as long as told; a copy out of user memory.
            to_result(unsafe {
                bindings::vfio_dma_rw(self.vdev(), at, part.as_mut_ptr().cast(), bytes, false)
            })?;
        }
        Ok(())
    }

    /// Copies to memory of the user. See [`dma_read`](Self::dma_read).
    ///
    /// # Errors
    ///
    /// As for [`dma_read`](Self::dma_read); whole pages before the one that failed are written.
    pub fn dma_write(&self, iova: u64, buf: &[u8]) -> Result {
        if iova.checked_add(buf.len() as u64).is_none() {
            return Err(EINVAL);
        }
        for (at, from, bytes) in pages(iova, buf.len()) {
            let part = buf.get(from..from + bytes).ok_or(EINVAL)?;
            // SAFETY: The buffer is as long as told, and only read.
            to_result(unsafe {
                bindings::vfio_dma_rw(
                    self.vdev(),
                    at,
                    part.as_ptr().cast_mut().cast(),
                    bytes,
                    true,
                )
            })?;
        }
        Ok(())
    }

    /// Copies `len` bytes from memory of the user to `area` at `to`. See [`dma_read`](Self::dma_read).
    ///
    /// # Errors
    ///
    /// As for [`dma_read`](Self::dma_read); `EINVAL` if the area ends before.
    pub fn dma_read_to(&self, iova: u64, area: &Area, to: usize, len: usize) -> Result {
        let memory = area.slice(to, len).ok_or(EINVAL)?;
        if iova.checked_add(len as u64).is_none() {
            return Err(EINVAL);
        }
        for (at, from, bytes) in pages(iova, len) {
            // SAFETY: `memory` is valid for `len` bytes; it is shared with a device, which may see any
            // mixture of old and new, and no Rust reference to it exists.
            to_result(unsafe {
                bindings::vfio_dma_rw(
                    self.vdev(),
                    at,
                    memory.as_ptr().add(from).cast(),
                    bytes,
                    false,
                )
            })?;
        }
        Ok(())
    }

    /// Copies `len` bytes of `area` at `from` to memory of the user. See [`dma_read`](Self::dma_read).
    ///
    /// # Errors
    ///
    /// As for [`dma_write`](Self::dma_write); `EINVAL` if the area ends before.
    pub fn dma_write_from(&self, iova: u64, area: &Area, from: usize, len: usize) -> Result {
        let memory = area.slice(from, len).ok_or(EINVAL)?;
        if iova.checked_add(len as u64).is_none() {
            return Err(EINVAL);
        }
        for (at, offset, bytes) in pages(iova, len) {
            // SAFETY: As for `dma_read_to`; the memory is only read.
            to_result(unsafe {
                bindings::vfio_dma_rw(
                    self.vdev(),
                    at,
                    memory.as_ptr().add(offset).cast(),
                    bytes,
                    true,
                )
            })?;
        }
        Ok(())
    }

    /// Pins one page of the user for a moment. From then on a type1 container reports as dirty only what
    /// was written through it, until it is closed; direct writes of the device are the driver's to prevent.
    ///
    /// To be called by a kernel thread: a user who lets a thread of his own wait for a processor in the middle of this, and unmaps
    /// the page, has type1 run into a BUG.
    ///
    /// # Errors
    ///
    /// The page at `iova` cannot be pinned.
    pub fn narrow_dirty_scope(&self, iova: u64) -> Result {
        self.pins.fetch_add(1, Full);
        // SAFETY: The device has a `dma_unmap` operation and is open.
        let ret =
            unsafe { bindings::vfio_helper_pin_once(self.vdev(), iova & !(PAGE_SIZE as u64 - 1)) };
        self.pins.fetch_sub(1, Full);
        to_result(ret)
    }
}

/// The user unmaps memory of which a page is pinned: waits until the pin, which never lasts, is over.
/// Returning at once would make type1 give up (`BUG_ON(++retries > 10)`); holding a lock could deadlock.
///
/// # Safety
///
/// Called by the core for a `Device<T>`.
pub(crate) unsafe extern "C" fn dma_unmap<T: Operations>(
    vdev: *mut bindings::vfio_device,
    _iova: u64,
    _len: u64,
) {
    // SAFETY: The core calls this for our device.
    let dev = unsafe { Device::<T>::from_raw(vdev) };
    for _ in 0..UNMAP_WAIT_MS {
        if dev.pins.load(Acquire) == 0 {
            return;
        }
        fsleep(Delta::from_millis(1));
    }
}

/// Orders earlier writes to memory of the user before later ones, as the user sees them.
pub fn write_barrier() {
    // SAFETY: A barrier.
    unsafe { bindings::vfio_helper_smp_wmb() }
}
