// SPDX-License-Identifier: GPL-2.0

//! DMA logging: which memory of the user the device wrote.
//!
//! Reports go through `iova_bitmap`, which the kernel has only with `CONFIG_IOMMUFD_DRIVER`. Without it the
//! core fails every report, so logging must not be offered at all.

use crate::bindings;
use crate::device::{Device, Operations};
use core::marker::PhantomData;
use core::ops::Range;
use kernel::error::from_result;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

/// Whether this kernel can report what was logged.
pub const SUPPORTED: bool = cfg!(CONFIG_IOMMUFD_DRIVER);

/// Where a report goes.
pub struct Report<'a>(
    *mut bindings::iova_bitmap,
    PhantomData<&'a mut bindings::iova_bitmap>,
);

impl Report<'_> {
    /// Reports that `[iova, iova + bytes)` was written.
    pub fn mark(&mut self, iova: u64, bytes: usize) {
        // SAFETY: The core lends the bitmap for the time of the call, and ignores what is out of its range.
        unsafe { bindings::vfio_helper_mark_dirty(self.0, iova as usize, bytes) }
    }
}

/// `vfio_log_ops` for `T`.
pub(crate) struct VTable<T>(PhantomData<T>);

impl<T: Operations> VTable<T> {
    pub(crate) const OPS: bindings::vfio_log_ops = bindings::vfio_log_ops {
        log_start: Some(Self::start),
        log_stop: Some(Self::stop),
        log_read_and_clear: Some(Self::read_and_clear),
    };

    /// The ranges are ignored: everything is logged, at the size of a page.
    ///
    /// # Safety
    ///
    /// Called by the core for an open `Device<T>`.
    unsafe extern "C" fn start(
        vdev: *mut bindings::vfio_device,
        _ranges: *mut bindings::rb_root_cached,
        _nr_ranges: u32,
        page_bytes: *mut u64,
    ) -> c_int {
        // SAFETY: The core calls this for our device.
        let dev = unsafe { Device::<T>::from_raw(vdev) };
        from_result(|| {
            T::log_start(dev)?;
            // SAFETY: The core lends it for the time of the call.
            unsafe { *page_bytes = PAGE_SIZE as u64 };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the core for an open `Device<T>`.
    unsafe extern "C" fn stop(vdev: *mut bindings::vfio_device) -> c_int {
        // SAFETY: The core calls this for our device.
        T::log_stop(unsafe { Device::<T>::from_raw(vdev) });
        0
    }

    /// # Safety
    ///
    /// Called by the core for an open `Device<T>`.
    unsafe extern "C" fn read_and_clear(
        vdev: *mut bindings::vfio_device,
        iova: c_ulong,
        bytes: c_ulong,
        bitmap: *mut bindings::iova_bitmap,
    ) -> c_int {
        // SAFETY: The core calls this for our device.
        let dev = unsafe { Device::<T>::from_raw(vdev) };
        let start = iova as u64;
        let range: Range<u64> = start..start.saturating_add(bytes as u64);
        from_result(|| T::log_read(dev, range, &mut Report(bitmap, PhantomData)).map(|()| 0))
    }
}
