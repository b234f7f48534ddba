// SPDX-License-Identifier: GPL-2.0

//! The device and the callbacks of a variant driver.

use crate::bindings;
use crate::dma_log;
use crate::migration;
use crate::region::{self, Fault, FaultResult};
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::{offset_of, MaybeUninit};
use core::ops::Range;
use core::ptr::NonNull;
use kernel::error::{from_result, to_result};
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::aref::{ARef, AlwaysRefCounted};
use kernel::sync::atomic::{Acquire, Atomic, Full};
use kernel::types::{Opaque, ScopeGuard};
use kernel::{device, pci, ModuleMetadata};

/// A VFIO PCI variant driver, and its data for one device.
///
/// Callbacks run concurrently, except where their text says otherwise. Every one but [`new`](Self::new), [`bound`](Self::bound)
/// and [`unbind`](Self::unbind) is called between [`open`](Self::open) and [`close`](Self::close), which
/// exclude each other; [`reset_done`](Self::reset_done) and [`state`](Self::state), which VFIO's debugfs shows, may come at any time.
pub trait Operations: Sized + Send + Sync + 'static {
    /// The module that implements the driver.
    type Module: ModuleMetadata;

    /// Name of the driver, as VFIO prints it.
    const NAME: &'static CStr;

    /// The BAR whose accesses, mappings and faults the driver sees.
    const BAR: u32;

    /// What of the migration protocol the driver offers.
    const MIGRATION: migration::Flags;

    /// Creates the data of a device that is being bound.
    fn new(pdev: &pci::Device<device::Bound>) -> impl PinInit<Self, Error>;

    /// The device is bound and visible to users.
    fn bound(dev: &Device<Self>);

    /// The device goes away; no callback runs or will run, but data files may still be open.
    fn unbind(dev: &Device<Self>);

    /// First user: the device is enabled and reset, its BARs are mapped.
    ///
    /// # Errors
    ///
    /// Fails the open.
    fn open(dev: &Device<Self>) -> Result;

    /// Last user gone: DMA must be off, all that was substituted undone. BARs are still mapped.
    fn close(dev: &Device<Self>);

    /// The device has been reset. May run with the memory lock held for writing: must not access the
    /// device's BARs and not wait for anybody who does, or who touches guest memory.
    fn reset_done(dev: &Device<Self>);

    /// A request of the user is about to return that may have reset the device, or, if `configured`, may have switched its bus
    /// mastering: what the user takes for over by then must be. Nothing is locked.
    fn returning(dev: &Device<Self>, configured: bool);

    /// The part of [`BAR`](Self::BAR) that users are told to map, in bytes, page aligned; the rest traps.
    fn mappable(dev: &Device<Self>) -> Range<u64>;

    /// Somebody maps `range` of [`BAR`](Self::BAR). Runs with the mmap lock held for writing.
    ///
    /// # Errors
    ///
    /// Fails the mmap.
    fn mmap(dev: &Device<Self>, range: Range<u64>) -> Result;

    /// A page of [`BAR`](Self::BAR) is touched through a mapping. Runs with the mmap lock and, for reading,
    /// the memory lock held; must not wait for user space.
    fn fault(dev: &Device<Self>, fault: Fault<'_, Self>) -> FaultResult;

    /// Reads the aligned dword at `at` of [`BAR`](Self::BAR) for the user.
    fn read32(dev: &Device<Self>, at: u32) -> u32;

    /// Writes the aligned dword at `at` of [`BAR`](Self::BAR) for the user.
    fn write32(dev: &Device<Self>, at: u32, val: u32);

    /// Moves to the migration state `to`, by the arcs that [`migration::walk`] yields.
    ///
    /// # Errors
    ///
    /// The device is then in whatever state was reached.
    fn set_state(dev: &Device<Self>, to: migration::State) -> Result<Option<ARef<File>>>;

    /// The migration state. Called for whoever looks, of a device that is closed, too.
    fn state(dev: &Device<Self>) -> migration::State;

    /// Estimate of the bytes that STOP_COPY will yield.
    fn data_bytes(dev: &Device<Self>) -> usize;

    /// Starts logging; returns when no device write can stay unseen.
    ///
    /// # Errors
    ///
    /// Fails the start.
    fn log_start(dev: &Device<Self>) -> Result;

    /// Stops logging.
    fn log_stop(dev: &Device<Self>);

    /// Reports and clears what was written in `range`.
    ///
    /// # Errors
    ///
    /// Fails the report.
    fn log_read(dev: &Device<Self>, range: Range<u64>, out: &mut dma_log::Report<'_>) -> Result;
}

/// One PCI function bound to the driver `T`.
///
/// # Invariants
///
/// - `core` is at offset 0, is initialised, and its reference count owns the allocation.
/// - `data` is initialised once `has_data` is true, which is never undone before release.
#[repr(C)]
pub struct Device<T: Operations> {
    core: Opaque<bindings::vfio_pci_core_device>,
    /// Counts opens and closes: odd while the device is open.
    lives: Atomic<u32>,
    /// Pins of a page of the user that are not over.
    pub(crate) pins: Atomic<u32>,
    has_data: UnsafeCell<bool>,
    data: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: The C core's parts are made for any thread, and `T` is `Send`.
unsafe impl<T: Operations> Send for Device<T> {}
// SAFETY: As above, `T` is `Sync`, and `has_data` and `data` change only while nobody else has a reference.
unsafe impl<T: Operations> Sync for Device<T> {}

// SAFETY: The embedded `struct device` counts the references; the last one frees the allocation.
unsafe impl<T: Operations> AlwaysRefCounted for Device<T> {
    fn inc_ref(&self) {
        // SAFETY: `self` shows that the count is not zero.
        unsafe { bindings::vfio_helper_get_device(self.vdev()) }
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up a reference of its own.
        unsafe { bindings::vfio_helper_put_device(obj.as_ptr().cast()) }
    }
}

impl<T: Operations> Device<T> {
    /// Allocates the device for `pdev`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or what [`Operations::new`] returned.
    pub(crate) fn new(pdev: &pci::Device<device::Bound>) -> Result<ARef<Self>> {
        const { assert!(offset_of!(Self, core) == 0) };

        let bytes = core::alloc::Layout::new::<Self>().pad_to_align().size();
        let dev: &device::Device<device::Bound> = pdev.as_ref();
        // SAFETY: The size covers `Self`, the parent is bound, and the table of operations is static.
        let raw = unsafe {
            bindings::_vfio_alloc_device(
                bytes,
                core::ptr::from_ref(dev).cast_mut().cast(),
                &VTable::<T>::OPS,
            )
        };
        let raw = kernel::error::from_err_ptr(raw)?;
        // SAFETY: The core initialised the object at offset 0 of a zeroed allocation (`has_data` is false),
        // and hands us its first reference.
        let this: ARef<Self> =
            unsafe { ARef::from_raw(NonNull::new_unchecked(raw.cast::<Self>())) };
        let init = T::new(pdev);
        // SAFETY: The slot is inside an allocation that does not move, and nobody else can see it yet.
        unsafe { pin_init::raw_try_init(this.data.get().cast::<T>(), init)? };
        // Data files and mappings may outlive the PCI device; `release` gives the reference up.
        // SAFETY: The device is bound.
        unsafe { bindings::pci_dev_get(this.pdev()) };
        // INVARIANT: `data` has just been initialised.
        // SAFETY: Nobody else can see the device yet.
        unsafe { *this.has_data.get() = true };

        // SAFETY: Before registration these fields are the driver's to set.
        unsafe {
            let vdev = &mut *this.vdev();
            vdev.mig_ops = &migration::VTable::<T>::OPS;
            vdev.migration_flags = T::MIGRATION.0;
            if dma_log::SUPPORTED {
                vdev.log_ops = &dma_log::VTable::<T>::OPS;
            }
        }
        Ok(this)
    }

    /// # Safety
    ///
    /// `vdev` is at offset 0 of a live `Device<T>` whose data is initialised.
    pub(crate) unsafe fn from_raw<'a>(vdev: *mut bindings::vfio_device) -> &'a Self {
        // SAFETY: By this function's contract.
        unsafe { &*vdev.cast::<Self>() }
    }

    pub(crate) fn core(&self) -> *mut bindings::vfio_pci_core_device {
        self.core.get()
    }

    pub(crate) fn vdev(&self) -> *mut bindings::vfio_device {
        self.core.get().cast()
    }

    pub(crate) fn pdev(&self) -> *mut bindings::pci_dev {
        // SAFETY: Set by the core's init, constant afterwards.
        unsafe { (*self.core.get()).pdev }
    }

    pub(crate) fn raw_dev(&self) -> *mut bindings::device {
        // SAFETY: A reference to the PCI device is held as long as `self` lives.
        unsafe { &raw mut (*self.pdev()).dev }
    }

    /// The driver's data.
    pub fn data(&self) -> Pin<&T> {
        // SAFETY: No safe code has a `Device` before its data is there, and the data does not move.
        unsafe { Pin::new_unchecked((*self.data.get()).assume_init_ref()) }
    }

    /// The PCI device, for messages.
    pub fn as_dev(&self) -> &device::Device {
        // SAFETY: A reference to the PCI device is held as long as `self` lives.
        unsafe { device::Device::from_raw(self.raw_dev()) }
    }

    /// Whether a message that a user can provoke again and again may be logged now: ten in five seconds are, of all devices
    /// together.
    pub fn may_log(&self) -> bool {
        // SAFETY: Callable from anywhere.
        unsafe { bindings::vfio_helper_may_log() }
    }

    /// The domain:bus:device.function name.
    pub fn name(&self) -> &CStr {
        self.as_dev().name()
    }

    /// Switches bus mastering on, whatever the user wrote to its command register: for what is the driver's own, while the
    /// user's domain is not attached. Not if `may`, which no reset by the user can come between, says no.
    pub fn set_master(&self, may: impl FnOnce() -> bool) {
        let _command = self.memory_for_writing();
        if may() {
            // SAFETY: The device is there as long as `self` lives; the PCI core reads, and writes if the bit is not set.
            unsafe { bindings::pci_set_master(self.pdev()) }
        }
    }

    /// Whether the device may master the bus.
    pub fn is_master(&self) -> bool {
        let mut command = 0;
        let _command = self.memory_for_writing();
        // SAFETY: The device is there as long as `self` lives.
        let read =
            unsafe { bindings::pci_read_config_word(self.pdev(), PCI_COMMAND, &mut command) };
        read == 0 && command & PCI_COMMAND_MASTER != 0
    }

    /// Switches bus mastering off.
    pub fn clear_master(&self) {
        let _command = self.memory_for_writing();
        self.clear_master_in_reset();
    }

    /// The same for [`Operations::reset_done`], which may run with the memory lock held.
    pub fn clear_master_in_reset(&self) {
        // SAFETY: The device is there as long as `self` lives.
        unsafe { bindings::pci_clear_master(self.pdev()) }
    }

    /// Keeps others from the command register, and from the BARs.
    fn memory_for_writing(&self) -> impl Drop + '_ {
        // SAFETY: The lock is initialised by the core's init.
        unsafe { bindings::down_write(&raw mut (*self.core()).memory_lock) };
        ScopeGuard::new(|| {
            // SAFETY: Taken above, by this thread.
            unsafe { bindings::up_write(&raw mut (*self.core()).memory_lock) }
        })
    }

    /// Makes the function decode its BARs, whatever the user wrote to its command register.
    ///
    /// A VF of silicon always does, the bit is hardwired there; QEMU's goes by the bit.
    pub fn decode_memory(&self) {
        let mut command = 0;
        let _command = self.memory_for_writing();
        // SAFETY: The device is there as long as `self` lives.
        unsafe {
            bindings::pci_read_config_word(self.pdev(), PCI_COMMAND, &mut command);
            if command & PCI_COMMAND_MEMORY == 0 {
                bindings::pci_write_config_word(
                    self.pdev(),
                    PCI_COMMAND,
                    command | PCI_COMMAND_MEMORY,
                );
            }
        }
    }

    /// Resets the function, as `pcie_flr` does, without saving or restoring anything. Mappings of the BAR wait in their
    /// faults meanwhile, so that nobody accesses a device that does not answer.
    ///
    /// # Errors
    ///
    /// What the PCI core returned.
    pub fn flr(&self) -> Result {
        let _memory = self.memory_for_writing();
        self.zap(0, self.bar_bytes());
        // SAFETY: The device is there as long as `self` lives.
        to_result(unsafe { bindings::pcie_flr(self.pdev()) })
    }

    /// Whether the device is open.
    pub fn is_open(&self) -> bool {
        self.life().is_some()
    }

    /// Number of the life, from open to close, that the device is in; `None` while it is closed.
    pub(crate) fn life(&self) -> Option<u32> {
        let lives = self.lives.load(Acquire);
        (lives % 2 == 1).then_some(lives)
    }

    /// From here no register access finds the BAR; the lock waits for those under way.
    fn end_life(&self) {
        let _memory = self.memory_for_writing();
        self.lives.fetch_add(1, Full);
    }

    /// Whether a domain with mappings is attached, the user's or a private one: otherwise the device reaches no memory.
    pub fn has_paging_domain(&self) -> bool {
        // SAFETY: The PCI device is there as long as `self` lives.
        !unsafe { bindings::vfio_helper_user_domain(self.raw_dev()) }.is_null()
    }

    /// Whether the user came through iommufd rather than a container.
    pub fn is_iommufd(&self) -> bool {
        // SAFETY: The field is set before open and cleared after close.
        unsafe { bindings::vfio_helper_is_iommufd(self.vdev()) }
    }
}

impl<T: Operations> AsRef<device::Device> for Device<T> {
    fn as_ref(&self) -> &device::Device {
        self.as_dev()
    }
}

/// `vfio_device_ops` for `T`.
struct VTable<T>(PhantomData<T>);

impl<T: Operations> VTable<T> {
    const OPS: bindings::vfio_device_ops = bindings::vfio_device_ops {
        name: T::NAME.to_bytes_with_nul().as_ptr().cast_mut().cast(),
        init: Some(bindings::vfio_pci_core_init_dev),
        release: Some(Self::release),
        bind_iommufd: IOMMUFD_BIND,
        unbind_iommufd: IOMMUFD_UNBIND,
        attach_ioas: IOMMUFD_ATTACH,
        detach_ioas: IOMMUFD_DETACH,
        pasid_attach_ioas: None,
        pasid_detach_ioas: None,
        open_device: Some(Self::open_device),
        close_device: Some(Self::close_device),
        read: Some(region::read::<T>),
        write: Some(region::write::<T>),
        ioctl: Some(Self::ioctl),
        get_region_info_caps: Some(region::info::<T>),
        mmap: Some(region::mmap::<T>),
        request: Some(bindings::vfio_pci_core_request),
        match_: Some(bindings::vfio_pci_core_match),
        match_token_uuid: Some(bindings::vfio_pci_core_match_token_uuid),
        dma_unmap: Some(crate::guest::dma_unmap::<T>),
        device_feature: Some(Self::feature),
    };

    /// # Safety
    ///
    /// `vdev` is that of a `Device<T>` whose last reference is gone.
    unsafe extern "C" fn release(vdev: *mut bindings::vfio_device) {
        let this = vdev.cast::<Device<T>>();
        // SAFETY: Nobody else has the device any more; the data is dropped once, and only if it is there.
        unsafe {
            let pdev = (*this).pdev();
            let has_data = *(*this).has_data.get();
            if has_data {
                (*(*this).data.get()).assume_init_drop();
            }
            bindings::vfio_pci_core_release_dev(vdev);
            if has_data {
                bindings::pci_dev_put(pdev);
            }
        }
    }

    /// # Safety
    ///
    /// Called by the core for a `Device<T>`.
    unsafe extern "C" fn open_device(vdev: *mut bindings::vfio_device) -> c_int {
        // SAFETY: The core calls this for our device.
        let dev = unsafe { Device::<T>::from_raw(vdev) };
        from_result(|| {
            // SAFETY: First open, serialised by the core.
            to_result(unsafe { bindings::vfio_pci_core_enable(dev.core()) })?;
            dev.lives.fetch_add(1, Full);
            if let Err(e) = T::open(dev) {
                dev.end_life();
                // SAFETY: Undoes the enable above.
                unsafe { bindings::vfio_pci_core_disable(dev.core()) };
                return Err(e);
            }
            // SAFETY: After a successful enable.
            unsafe { bindings::vfio_pci_core_finish_enable(dev.core()) };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the core for an open `Device<T>`.
    unsafe extern "C" fn close_device(vdev: *mut bindings::vfio_device) {
        // SAFETY: The core calls this for our device.
        let dev = unsafe { Device::<T>::from_raw(vdev) };
        T::close(dev);
        dev.end_life();
        // SAFETY: Last close, serialised by the core.
        unsafe { bindings::vfio_pci_core_close_device(vdev) };
    }

    /// # Safety
    ///
    /// Called by the core for an open `Device<T>`.
    unsafe extern "C" fn ioctl(
        vdev: *mut bindings::vfio_device,
        cmd: c_uint,
        arg: c_ulong,
    ) -> c_long {
        // An ioeventfd writes to the real BAR from the kernel, past the driver.
        if cmd == VFIO_DEVICE_IOEVENTFD {
            return ENOTTY.to_errno() as c_long;
        }
        // SAFETY: Passed on as it came.
        let result = unsafe { bindings::vfio_pci_core_ioctl(vdev, cmd, arg) };
        // SAFETY: The core calls this for our device.
        T::returning(unsafe { Device::<T>::from_raw(vdev) }, false);
        result
    }

    /// # Safety
    ///
    /// Called by the core for an open `Device<T>`.
    unsafe extern "C" fn feature(
        vdev: *mut bindings::vfio_device,
        flags: u32,
        arg: *mut c_void,
        argsz: usize,
    ) -> c_int {
        // Low power would put the function to sleep behind the driver's back.
        match flags & bindings::VFIO_DEVICE_FEATURE_MASK {
            bindings::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY
            | bindings::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP
            | bindings::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT => ENOTTY.to_errno(),
            // SAFETY: Passed on as it came.
            _ => unsafe { bindings::vfio_pci_core_ioctl_feature(vdev, flags, arg, argsz) },
        }
    }
}

const PCI_COMMAND: c_int = bindings::PCI_COMMAND as c_int;
const PCI_COMMAND_MEMORY: u16 = bindings::PCI_COMMAND_MEMORY as u16;
const PCI_COMMAND_MASTER: u16 = bindings::PCI_COMMAND_MASTER as u16;

/// `_IO(VFIO_TYPE, VFIO_BASE + 16)`.
const VFIO_DEVICE_IOEVENTFD: u32 = kernel::ioctl::_IO(b';' as u32, 116);

#[cfg(CONFIG_IOMMUFD)]
mod iommufd {
    use super::bindings::*;

    pub(super) const BIND: Option<
        unsafe extern "C" fn(*mut vfio_device, *mut iommufd_ctx, *mut u32) -> kernel::ffi::c_int,
    > = Some(vfio_iommufd_physical_bind);
    pub(super) const UNBIND: Option<unsafe extern "C" fn(*mut vfio_device)> =
        Some(vfio_iommufd_physical_unbind);
    pub(super) const ATTACH: Option<
        unsafe extern "C" fn(*mut vfio_device, *mut u32) -> kernel::ffi::c_int,
    > = Some(vfio_iommufd_physical_attach_ioas);
    pub(super) const DETACH: Option<unsafe extern "C" fn(*mut vfio_device)> =
        Some(vfio_iommufd_physical_detach_ioas);
}
#[cfg(CONFIG_IOMMUFD)]
use iommufd::{
    ATTACH as IOMMUFD_ATTACH, BIND as IOMMUFD_BIND, DETACH as IOMMUFD_DETACH,
    UNBIND as IOMMUFD_UNBIND,
};

#[cfg(not(CONFIG_IOMMUFD))]
const IOMMUFD_BIND: Option<
    unsafe extern "C" fn(*mut bindings::vfio_device, *mut bindings::iommufd_ctx, *mut u32) -> c_int,
> = None;
#[cfg(not(CONFIG_IOMMUFD))]
const IOMMUFD_UNBIND: Option<unsafe extern "C" fn(*mut bindings::vfio_device)> = None;
#[cfg(not(CONFIG_IOMMUFD))]
const IOMMUFD_ATTACH: Option<unsafe extern "C" fn(*mut bindings::vfio_device, *mut u32) -> c_int> =
    None;
#[cfg(not(CONFIG_IOMMUFD))]
const IOMMUFD_DETACH: Option<unsafe extern "C" fn(*mut bindings::vfio_device)> = None;
