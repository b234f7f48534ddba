// SPDX-License-Identifier: GPL-2.0

//! A private IOMMU domain: memory that the device may reach and its user may not, instead of the other way
//! round.
//!
//! While the private domain is attached the device cannot touch the memory of its user at all.

use crate::bindings;
use crate::device::{Device, Operations};
use core::ptr::NonNull;
use kernel::error::{from_err_ptr, to_result};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::time::{delay::fsleep, Delta};

/// Without the user's domain the device is lost to its user: what may pass is waited for, memory too.
const BACK: [Error; 2] = [EBUSY, ENOMEM];

/// Attaching fails with `EBUSY` during a reset of functions with ATS, which takes 100 ms and more: tries, a millisecond or
/// more apart.
const ATTACH_TRIES: u32 = 1000;

/// Private IOVAs are aligned to this, so that they need few page tables.
const IOVA_ALIGN: u64 = 2 << 20;

/// Memory shared with the device through a [`Private`] domain.
///
/// # Invariants
///
/// `memory` is valid for `bytes` bytes and ours, zeroed when it was allocated.
pub struct Area {
    memory: NonNull<u8>,
    bytes: usize,
    iova: u64,
}

// SAFETY: Plain memory, that is only copied to and from.
unsafe impl Send for Area {}
// SAFETY: As above; the device writes to it concurrently anyway.
unsafe impl Sync for Area {}

impl Area {
    fn new(bytes: usize) -> Result<Self> {
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(EINVAL)?;
        // SAFETY: Process context.
        let memory = unsafe { bindings::vfio_helper_kvzalloc(bytes) };
        Ok(Self {
            memory: NonNull::new(memory.cast()).ok_or(ENOMEM)?,
            bytes,
            iova: 0,
        })
    }

    /// Where the device sees byte 0.
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes `[at, at + len)`, if there are so many.
    pub(crate) fn slice(&self, at: usize, len: usize) -> Option<NonNull<u8>> {
        if at.checked_add(len)? > self.bytes {
            return None;
        }
        // SAFETY: Inside the allocation.
        Some(unsafe { self.memory.add(at) })
    }

    /// The physical address of the page at `at`.
    fn phys(&self, at: usize) -> Option<u64> {
        let memory = self.slice(at, PAGE_SIZE)?;
        // SAFETY: A page of the allocation.
        Some(unsafe { bindings::vfio_helper_phys(memory.as_ptr().cast()) })
    }

    /// Copies from the area, after whatever the device wrote before what was last seen; zeros if out of
    /// range.
    pub fn read(&self, at: usize, buf: &mut [u8]) {
        match self.slice(at, buf.len()) {
            // SAFETY: Both are valid for the length. A C copy, because the device may write meanwhile.
            Some(memory) => unsafe {
                bindings::vfio_helper_dma_rmb();
                bindings::vfio_helper_copy(
                    buf.as_mut_ptr().cast(),
                    memory.as_ptr().cast(),
                    buf.len(),
                );
                bindings::vfio_helper_dma_rmb();
            },
            None => buf.fill(0),
        }
    }

    /// Copies to the area; register writes that follow are ordered behind. Nothing if out of range.
    pub fn write(&self, at: usize, buf: &[u8]) {
        if let Some(memory) = self.slice(at, buf.len()) {
            // SAFETY: As for `read`.
            unsafe {
                bindings::vfio_helper_copy(memory.as_ptr().cast(), buf.as_ptr().cast(), buf.len())
            }
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: Allocated in `new`.
        unsafe { bindings::vfio_helper_kvfree(self.memory.as_ptr().cast()) };
    }
}

/// The IOMMU group of a device.
///
/// # Invariants
///
/// This object owns a reference.
struct Group(NonNull<bindings::iommu_group>);

impl Group {
    fn of<T: Operations>(dev: &Device<T>) -> Result<Self> {
        // SAFETY: The PCI device is there as long as `dev`.
        let group = unsafe { bindings::iommu_group_get(dev.raw_dev()) };
        // INVARIANT: The reference was taken by the call above.
        NonNull::new(group).map(Self).ok_or(ENODEV)
    }

    fn as_ptr(&self) -> *mut bindings::iommu_group {
        self.0.as_ptr()
    }

    fn nr_devices(&self) -> u32 {
        // SAFETY: The group is alive.
        unsafe { bindings::vfio_helper_group_devices(self.as_ptr()) }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: By the invariant.
        unsafe { bindings::iommu_group_put(self.as_ptr()) }
    }
}

/// Attaches `domain`, while none is attached.
fn attach_once(domain: NonNull<bindings::iommu_domain>, group: &Group) -> Result {
    #[cfg(CONFIG_KUNIT = "y")]
    inject::fail()?;
    // SAFETY: Both are alive.
    to_result(unsafe { bindings::iommu_attach_group(domain.as_ptr(), group.as_ptr()) })
}

/// Failures to attach a domain, for tests.
#[cfg(CONFIG_KUNIT = "y")]
pub mod inject {
    use kernel::error::to_result;
    use kernel::prelude::*;
    use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed, Release};

    static LEFT: Atomic<u32> = Atomic::new(0);
    static ERRNO: Atomic<i32> = Atomic::new(0);

    /// The next `times` attempts, of whatever device, fail with `error`.
    pub fn attach_fails(times: u32, error: Error) {
        ERRNO.store(error.to_errno(), Relaxed);
        LEFT.store(times, Release);
    }

    /// Failures that have not happened yet.
    pub fn left() -> u32 {
        LEFT.load(Acquire)
    }

    pub(super) fn fail() -> Result {
        let mut left = LEFT.load(Acquire);
        while left > 0 {
            match LEFT.cmpxchg(left, left - 1, Full) {
                Ok(_) => return to_result(ERRNO.load(Relaxed)),
                Err(now) => left = now,
            }
        }
        Ok(())
    }
}

/// Why the private domain could not be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The domain of the user is attached, as before.
    Undone(Error),
    /// No domain is attached: the device can reach no memory at all.
    Blocked(Error),
}

/// A private domain with an [`Area`] mapped into it.
///
/// # Invariants
///
/// `domain` is allocated, has all of `area` mapped at `area.iova`, and is attached to `group` if and only
/// if `user` is there.
pub struct Private<T: Operations> {
    dev: ARef<Device<T>>,
    group: Group,
    domain: NonNull<bindings::iommu_domain>,
    area: Option<Area>,
    user: Option<User>,
}

/// The domain that the user of the device had attached, and in which life of the device.
struct User {
    domain: NonNull<bindings::iommu_domain>,
    life: u32,
}

// SAFETY: IOMMU domains and groups have no thread affinity; changes need `&mut`.
unsafe impl<T: Operations> Send for Private<T> {}
// SAFETY: As above.
unsafe impl<T: Operations> Sync for Private<T> {}

impl<T: Operations> Private<T> {
    /// Whether `dev` can have a private domain.
    ///
    /// # Errors
    ///
    /// The reason, for the log.
    pub fn check(dev: &Device<T>) -> Result<(), &'static str> {
        if dev.is_iommufd() {
            return Err("opened through iommufd, which gives no access to guest memory");
        }
        // SAFETY: No arguments.
        if unsafe { bindings::vfio_helper_mem_is_encrypted() } {
            return Err("host memory encryption is active");
        }
        let group = Group::of(dev).map_err(|_| "no IOMMU group")?;
        if group.nr_devices() != 1 {
            return Err("shares its IOMMU group with other devices");
        }
        // SAFETY: The PCI device is there as long as `dev`.
        if unsafe { bindings::vfio_helper_user_domain(dev.raw_dev()) }.is_null() {
            return Err("its user has no IOMMU domain");
        }
        Ok(())
    }

    /// Allocates a domain and an area of `bytes`, and maps one into the other.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or what the IOMMU driver returned.
    pub fn new(dev: &Device<T>, bytes: usize) -> Result<Self> {
        let mut area = Area::new(bytes)?;
        let group = Group::of(dev)?;
        // SAFETY: The PCI device is there as long as `dev`.
        let domain = unsafe { bindings::vfio_helper_paging_domain(dev.raw_dev()) };
        let domain = NonNull::new(from_err_ptr(domain)?).ok_or(ENOMEM)?;
        // SAFETY: The domain was just allocated, nothing is mapped yet.
        unsafe { bindings::vfio_helper_enforce_coherency(domain.as_ptr(), dev.raw_dev()) };
        // INVARIANT: Not attached; with no area yet, nothing needs to be mapped.
        let mut this = Self {
            dev: dev.into(),
            group,
            domain,
            area: None,
            user: None,
        };
        area.iova = this.place(area.bytes as u64)?;
        this.map(&area)?;
        this.area = Some(area);
        Ok(this)
    }

    /// Where to map `bytes`: as high as the domain reaches, because users map low, outside what the platform
    /// reserves.
    fn place(&self, bytes: u64) -> Result<u64> {
        // SAFETY: The domain is alive.
        let end = unsafe { bindings::vfio_helper_aperture_end(self.domain.as_ptr()) };
        let mut start = end.checked_sub(bytes).ok_or(ENOSPC)? & !(IOVA_ALIGN - 1);
        for _ in 0..64 {
            // SAFETY: The group is referenced.
            let reserved = unsafe {
                bindings::vfio_helper_iova_is_reserved(
                    self.group.as_ptr(),
                    start,
                    start + bytes - 1,
                )
            };
            if !reserved {
                return Ok(start);
            }
            start = start.checked_sub(IOVA_ALIGN).ok_or(ENOSPC)?;
        }
        Err(ENOSPC)
    }

    /// Maps the area, in as few pieces as its pages are contiguous: the fewer, the larger the IOMMU's pages.
    fn map(&self, area: &Area) -> Result {
        let mut start = 0;
        while start < area.bytes {
            let phys = area.phys(start).ok_or(EINVAL)?;
            let mut end = start + PAGE_SIZE;
            while end < area.bytes && area.phys(end) == Some(phys + (end - start) as u64) {
                end += PAGE_SIZE;
            }
            self.map_piece(area.iova + start as u64, phys, end - start)?;
            start = end;
        }
        Ok(())
    }

    fn map_piece(&self, iova: u64, phys: u64, bytes: usize) -> Result {
        let prot = (bindings::IOMMU_READ | bindings::IOMMU_WRITE | bindings::IOMMU_CACHE) as c_int;
        // SAFETY: The domain is alive and not attached, and the memory belongs to the area, which outlives
        // the mapping.
        to_result(unsafe {
            bindings::iommu_map(
                self.domain.as_ptr(),
                iova as usize,
                phys,
                bytes,
                prot,
                bindings::GFP_KERNEL_ACCOUNT,
            )
        })
    }

    /// Whether the private domain is the one that the device uses.
    pub fn is_attached(&self) -> bool {
        // SAFETY: The PCI device is there as long as `dev`.
        let domain = unsafe { bindings::vfio_helper_user_domain(self.dev.raw_dev()) };
        domain == self.domain.as_ptr()
    }

    /// The memory. `None` only while it is being set up.
    pub fn area(&self) -> Option<&Area> {
        self.area.as_ref()
    }

    /// Tries again for as long as it fails by one of `passing`.
    fn attach_group(&self, domain: NonNull<bindings::iommu_domain>, passing: &[Error]) -> Result {
        let mut ret = Err(EBUSY);
        for _ in 0..ATTACH_TRIES {
            ret = attach_once(domain, &self.group);
            if ret.is_ok() || ret.is_err_and(|e| !passing.contains(&e)) {
                break;
            }
            fsleep(Delta::from_millis(1));
        }
        ret
    }

    /// Attaches the private domain instead of the user's. DMA is blocked in between.
    ///
    /// The caller has switched off whatever could access memory of the user.
    ///
    /// # Errors
    ///
    /// See [`AttachError`].
    pub fn attach(&mut self) -> Result<(), AttachError> {
        if self.user.is_some() {
            return Ok(());
        }
        let life = self.dev.life().ok_or(AttachError::Undone(ENODEV))?;
        // SAFETY: The PCI device is there as long as `dev`.
        let user = NonNull::new(unsafe { bindings::vfio_helper_user_domain(self.dev.raw_dev()) })
            .ok_or(AttachError::Undone(ENODEV))?;
        // SAFETY: The group is the device's own, and owned by VFIO while the device is open.
        unsafe { bindings::iommu_detach_group(user.as_ptr(), self.group.as_ptr()) };
        match self.attach_group(self.domain, &[EBUSY]) {
            Ok(()) => {
                self.user = Some(User { domain: user, life });
                Ok(())
            }
            Err(e) => match self.attach_group(user, &BACK) {
                Ok(()) => Err(AttachError::Undone(e)),
                Err(_) => Err(AttachError::Blocked(e)),
            },
        }
    }

    /// Attaches the user's domain again. DMA is blocked in between.
    ///
    /// The caller has switched off whatever could access the area.
    ///
    /// # Errors
    ///
    /// The user's domain cannot be attached: no domain is.
    pub fn detach(&mut self) -> Result {
        let Some(user) = self.user.take() else {
            return Ok(());
        };
        // SAFETY: Attached by `attach`.
        unsafe { bindings::iommu_detach_group(self.domain.as_ptr(), self.group.as_ptr()) };
        if self.dev.life() != Some(user.life) {
            // The user is gone, and its domain with it.
            return Err(ENODEV);
        }
        self.attach_group(user.domain, &BACK)
    }
}

impl<T: Operations> Drop for Private<T> {
    fn drop(&mut self) {
        let _ = self.detach();
        // SAFETY: Attached to nothing, and unmapped before the area is freed.
        unsafe {
            if let Some(area) = &self.area {
                bindings::iommu_unmap(self.domain.as_ptr(), area.iova as usize, area.bytes);
            }
            bindings::iommu_domain_free(self.domain.as_ptr());
        }
    }
}
