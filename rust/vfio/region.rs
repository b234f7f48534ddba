// SPDX-License-Identifier: GPL-2.0

//! Accesses to regions: read and write, mappings and their faults.

use crate::bindings;
use crate::device::{Device, Operations};
use crate::memory::Pages;
use core::marker::PhantomData;
use kernel::error::from_result;
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::types::NotThreadSafe;
use kernel::uaccess::{UserPtr, UserSlice};

/// Where a region starts in the device file: `VFIO_PCI_INDEX_TO_OFFSET`.
const OFFSET_SHIFT: u32 = bindings::VFIO_PCI_OFFSET_SHIFT;
const OFFSET_MASK: u64 = (1 << OFFSET_SHIFT) - 1;

/// Whether `count` bytes at `at` of the device file meet the command register, in the configuration space.
fn is_command(at: u64, count: usize) -> bool {
    let (region, offset) = (at >> OFFSET_SHIFT, at & OFFSET_MASK);
    let command = u64::from(bindings::PCI_COMMAND);
    region == u64::from(bindings::VFIO_PCI_CONFIG_REGION_INDEX)
        && offset < command + 2
        && offset.saturating_add(count as u64) > command
}

/// Holds `memory_lock` for reading: the BAR can be accessed, no reset is going on.
pub struct MemoryGuard<'a, T: Operations>(&'a Device<T>, NotThreadSafe);

impl<T: Operations> Drop for MemoryGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: Taken in `Device::memory`, by this thread.
        unsafe { bindings::up_read(&raw mut (*self.0.core()).memory_lock) };
    }
}

impl<T: Operations> MemoryGuard<'_, T> {
    /// The dword at `at`, if the device is open and has one there.
    fn dword(&self, at: u32) -> Option<*mut c_void> {
        if self.0.life().is_none() || at % 4 != 0 || u64::from(at) + 4 > self.0.bar_bytes() {
            return None;
        }
        // SAFETY: The BAR is mapped from before the device is open until after the lock, which we hold, was
        // taken for writing to close it.
        let base = unsafe { bindings::vfio_helper_iomap(self.0.core(), T::BAR) };
        (!base.is_null()).then(|| base.wrapping_byte_add(at as usize).cast())
    }

    /// Reads a dword of [`Operations::BAR`]; all ones if there is no such dword.
    pub fn read32(&self, at: u32) -> u32 {
        match self.dword(at) {
            // SAFETY: The address is inside the BAR, which is mapped as long as the lock is held.
            Some(addr) => unsafe { bindings::vfio_helper_readl(addr) },
            None => !0,
        }
    }

    /// Writes a dword of [`Operations::BAR`].
    pub fn write32(&self, at: u32, val: u32) {
        if let Some(addr) = self.dword(at) {
            // SAFETY: As for `read32`.
            unsafe { bindings::vfio_helper_writel(val, addr) }
        }
    }
}

impl<T: Operations> Device<T> {
    /// Keeps resets away and the BAR accessible. Not to be held over anything that touches memory of the
    /// user, because its faults take the same lock.
    pub fn memory(&self) -> MemoryGuard<'_, T> {
        // SAFETY: Initialised by the core's init.
        unsafe { bindings::down_read(&raw mut (*self.core()).memory_lock) };
        MemoryGuard(self, NotThreadSafe)
    }

    /// Bytes of [`Operations::BAR`].
    pub fn bar_bytes(&self) -> u64 {
        // SAFETY: Resources of a bound device are constant; the index is checked by `get`.
        unsafe {
            let resources = &(*self.pdev()).resource;
            resources.get(T::BAR as usize).map_or(0, |r| {
                if r.end == 0 {
                    0
                } else {
                    r.end - r.start + 1
                }
            })
        }
    }

    fn bar_start(&self) -> u64 {
        // SAFETY: As for `bar_bytes`.
        unsafe {
            (*self.pdev())
                .resource
                .get(T::BAR as usize)
                .map_or(0, |r| r.start)
        }
    }

    /// Takes `[start, end)` of [`Operations::BAR`] out of all mappings: the next touch faults.
    pub fn zap(&self, start: u64, end: u64) {
        let at = (u64::from(T::BAR) << OFFSET_SHIFT) + start;
        // SAFETY: The inode lives as long as the registered device.
        unsafe {
            bindings::vfio_helper_zap(self.vdev(), at as i64, end.saturating_sub(start) as i64)
        };
    }
}

/// A touch of a mapped page of [`Operations::BAR`].
pub struct Fault<'a, T: Operations> {
    dev: &'a Device<T>,
    vmf: *mut bindings::vm_fault,
    at: u64,
    _memory: MemoryGuard<'a, T>,
    _vmf: PhantomData<&'a mut bindings::vm_fault>,
}

/// How a fault ended.
pub struct FaultResult(bindings::vm_fault_t);

impl<T: Operations> Fault<'_, T> {
    /// Offset in the BAR of the page that was touched, in bytes.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Shows the page of the hardware.
    pub fn insert_bar(self) -> FaultResult {
        let pfn = (self.dev.bar_start() + self.at) >> PAGE_SHIFT;
        // SAFETY: The memory lock is held; the page is inside the BAR, which `mmap` checked.
        FaultResult(unsafe {
            bindings::vfio_pci_vmf_insert_pfn(self.dev.core(), self.vmf, pfn as usize, 0)
        })
    }

    /// Shows the page that stands in for it, if `pages` has one; the page of the hardware otherwise.
    pub fn insert_page(self, pages: &Pages<T>) -> FaultResult {
        match pages.pfn(self.dev, self.at) {
            // SAFETY: The VMA is a PFN mapping that the core set up; the page outlives the mapping, because
            // dropping `Pages` takes it out of all mappings first.
            Some(pfn) => FaultResult(unsafe {
                bindings::vmf_insert_pfn(
                    (*self.vmf).__bindgen_anon_1.vma,
                    (*self.vmf).__bindgen_anon_1.address,
                    pfn,
                )
            }),
            None => self.insert_bar(),
        }
    }
}

/// # Safety
///
/// Called by the memory core for a mapping of a `Device<T>`, whose core is the VMA's private data.
unsafe extern "C" fn fault<T: Operations>(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: By this function's contract; a mapping holds the device file, and so the device, open.
    let (dev, pgoff) = unsafe {
        let vma = (*vmf).__bindgen_anon_1.vma;
        (
            Device::<T>::from_raw((*vma).vm_private_data.cast()),
            (*vmf).__bindgen_anon_1.pgoff,
        )
    };
    let at = ((pgoff as u64) << PAGE_SHIFT) & OFFSET_MASK;
    let fault = Fault {
        dev,
        vmf,
        at,
        _memory: dev.memory(),
        _vmf: PhantomData,
    };
    let result = T::fault(dev, fault).0;
    if result != bindings::vm_fault_reason_VM_FAULT_NOPAGE {
        return result;
    }
    // SAFETY: The fault is not over. From here on neither the mapping nor the device need be there, and nothing of
    // them is locked or used: `fault` is gone.
    unsafe { bindings::vfio_helper_fault_again(vmf) }
}

struct VmOps<T>(PhantomData<T>);

impl<T: Operations> VmOps<T> {
    /// Without `huge_fault`: a leaf that covers several pages would hide that some are substituted.
    const OPS: bindings::vm_operations_struct = bindings::vm_operations_struct {
        fault: Some(fault::<T>),
        ..pin_init::zeroed()
    };
}

/// # Safety
///
/// Called by the core for an open `Device<T>`.
pub(crate) unsafe extern "C" fn mmap<T: Operations>(
    vdev: *mut bindings::vfio_device,
    vma: *mut bindings::vm_area_struct,
) -> c_int {
    // SAFETY: The core calls this for our device, and for a VMA that is being set up.
    let (dev, pgoff, bytes) = unsafe {
        let area = &(*vma).__bindgen_anon_1.__bindgen_anon_1;
        (
            Device::<T>::from_raw(vdev),
            (*vma).vm_pgoff as u64,
            (area.vm_end - area.vm_start) as u64,
        )
    };
    from_result(|| {
        let start = pgoff << PAGE_SHIFT;
        let ours = start >> OFFSET_SHIFT == u64::from(T::BAR);
        // SAFETY: Passed on as it came.
        kernel::error::to_result(unsafe { bindings::vfio_pci_core_mmap(vdev, vma) })?;
        if ours {
            let at = start & OFFSET_MASK;
            T::mmap(dev, at..at.checked_add(bytes).ok_or(EINVAL)?)?;
            // SAFETY: The VMA is still being set up; the core made it a PFN mapping with itself as private
            // data, which is what `fault` relies on.
            unsafe { (*vma).vm_ops = &VmOps::<T>::OPS };
        }
        Ok(0)
    })
}

/// # Safety
///
/// Called by the core for an open `Device<T>`.
pub(crate) unsafe extern "C" fn info<T: Operations>(
    vdev: *mut bindings::vfio_device,
    info: *mut bindings::vfio_region_info,
    caps: *mut bindings::vfio_info_cap,
) -> c_int {
    from_result(|| {
        // SAFETY: Passed on as it came.
        kernel::error::to_result(unsafe {
            bindings::vfio_pci_ioctl_get_region_info(vdev, info, caps)
        })?;
        // SAFETY: The core lends both for the time of the call.
        let (index, flags) = unsafe { ((*info).index, (*info).flags) };
        if index != T::BAR || flags & bindings::VFIO_REGION_INFO_FLAG_MMAP == 0 {
            return Ok(0);
        }
        // SAFETY: The core calls this for our device.
        let range = T::mappable(unsafe { Device::<T>::from_raw(vdev) });
        let mut cap = SparseMmap {
            id: bindings::VFIO_REGION_INFO_CAP_SPARSE_MMAP as u16,
            version: 1,
            next: 0,
            nr_areas: 1,
            reserved: 0,
            offset: range.start,
            size: range.end.saturating_sub(range.start),
        };
        let header = core::ptr::from_mut(&mut cap).cast();
        // SAFETY: The capability has the layout of `vfio_region_info_cap_sparse_mmap` with one area, and is
        // copied.
        kernel::error::to_result(unsafe {
            bindings::vfio_info_add_capability(caps, header, size_of::<SparseMmap>())
        })?;
        Ok(0)
    })
}

/// `vfio_region_info_cap_sparse_mmap` with its one area behind it.
#[repr(C)]
struct SparseMmap {
    id: u16,
    version: u16,
    next: u32,
    nr_areas: u32,
    reserved: u32,
    offset: u64,
    size: u64,
}

/// One dword access at a time: which dword, and which of its bytes.
struct Dwords {
    at: u64,
    left: usize,
}

impl Iterator for Dwords {
    /// Offset of the dword, first byte in it, bytes of it.
    type Item = (u32, usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let first = (self.at % 4) as usize;
        let bytes = (4 - first).min(self.left);
        let dword = self.at - first as u64;
        self.at += bytes as u64;
        self.left -= bytes;
        Some((u32::try_from(dword).ok()?, first, bytes))
    }
}

/// The dwords of an access to [`Operations::BAR`], or `None` if it is to another region.
///
/// # Safety
///
/// `ppos` is valid.
unsafe fn dwords<T: Operations>(
    dev: &Device<T>,
    count: usize,
    ppos: *const i64,
) -> Option<Result<Dwords>> {
    // SAFETY: By this function's contract.
    let pos = unsafe { *ppos } as u64;
    if pos >> OFFSET_SHIFT != u64::from(T::BAR) {
        return None;
    }
    let at = pos & OFFSET_MASK;
    let bytes = dev.bar_bytes();
    if at >= bytes {
        return Some(Err(EINVAL));
    }
    Some(Ok(Dwords {
        at,
        left: count
            .min(usize::try_from(bytes - at).unwrap_or(0))
            .min(PAGE_SIZE),
    }))
}

/// # Safety
///
/// Called by the core for an open `Device<T>`.
pub(crate) unsafe extern "C" fn read<T: Operations>(
    vdev: *mut bindings::vfio_device,
    buf: *mut c_char,
    count: usize,
    ppos: *mut i64,
) -> isize {
    // SAFETY: The core calls this for our device.
    let dev = unsafe { Device::<T>::from_raw(vdev) };
    // SAFETY: The core lends the position.
    let dwords = match unsafe { dwords(dev, count, ppos) } {
        // SAFETY: Passed on as it came.
        None => return unsafe { bindings::vfio_pci_core_read(vdev, buf, count, ppos) },
        Some(Err(e)) => return e.to_errno() as isize,
        Some(Ok(dwords)) => dwords,
    };
    let total = dwords.left;
    let mut user = UserSlice::new(UserPtr::from_ptr(buf.cast()), total).writer();
    for (at, first, bytes) in dwords {
        let val = T::read32(dev, at).to_le_bytes();
        let Some(part) = val.get(first..first + bytes) else {
            break;
        };
        if user.write_slice(part).is_err() {
            return EFAULT.to_errno() as isize;
        }
    }
    // SAFETY: The core lends the position.
    unsafe { *ppos += total as i64 };
    total as isize
}

/// # Safety
///
/// Called by the core for an open `Device<T>`.
pub(crate) unsafe extern "C" fn write<T: Operations>(
    vdev: *mut bindings::vfio_device,
    buf: *const c_char,
    count: usize,
    ppos: *mut i64,
) -> isize {
    // SAFETY: The core calls this for our device.
    let dev = unsafe { Device::<T>::from_raw(vdev) };
    // SAFETY: The core lends the position.
    let dwords = match unsafe { dwords(dev, count, ppos) } {
        None => {
            // SAFETY: The core lends the position.
            let at = unsafe { *ppos } as u64;
            // SAFETY: Passed on as it came.
            let result = unsafe { bindings::vfio_pci_core_write(vdev, buf, count, ppos) };
            T::returning(dev, is_command(at, count));
            return result;
        }
        Some(Err(e)) => return e.to_errno() as isize,
        Some(Ok(dwords)) => dwords,
    };
    let total = dwords.left;
    let mut user = UserSlice::new(UserPtr::from_ptr(buf.cast_mut().cast()), total).reader();
    for (at, _, bytes) in dwords {
        let mut val = [0u8; 4];
        let Some(part) = val.get_mut(..bytes) else {
            break;
        };
        if user.read_slice(part).is_err() {
            return EFAULT.to_errno() as isize;
        }
        // Registers are written whole: a part of one has no defined effect.
        if bytes == 4 {
            T::write32(dev, at, u32::from_le_bytes(val));
        }
    }
    // SAFETY: The core lends the position.
    unsafe { *ppos += total as i64 };
    total as isize
}
