// SPDX-License-Identifier: GPL-2.0

//! Registration with the PCI core.
//!
//! The kernel crate's `pci::Driver` cannot carry a VFIO driver: it keeps its own data where VFIO wants its
//! device, and has neither error handlers nor `driver_managed_dma`.

use crate::bindings;
use crate::device::{Device, Operations};
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::device_id::IdTable;
use kernel::error::{from_result, to_result};
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::types::Opaque;
use kernel::{device, pci, ModuleMetadata};

/// An ID that matches only a device whose `driver_override` names the driver, and that user space finds
/// as `vfio_pci:` alias.
pub const fn override_id(vendor: u32, device: u32) -> pci::DeviceId {
    let raw = bindings::pci_device_id {
        vendor,
        device,
        subvendor: !0,
        subdevice: !0,
        class: 0,
        class_mask: 0,
        driver_data: 0,
        override_only: bindings::PCI_ID_F_VFIO_DRIVER_OVERRIDE,
    };
    // SAFETY: `pci::DeviceId` is a transparent wrapper of `pci_device_id` without an invariant.
    unsafe { core::mem::transmute::<bindings::pci_device_id, pci::DeviceId>(raw) }
}

/// A registered driver; dropping it unbinds all its devices.
#[pin_data(PinnedDrop)]
pub struct Driver<T: Operations> {
    #[pin]
    raw: Opaque<bindings::pci_driver>,
    _operations: PhantomData<T>,
}

// SAFETY: A registered driver can be unregistered from any thread that may sleep.
unsafe impl<T: Operations> Send for Driver<T> {}
// SAFETY: There is nothing to do with a shared reference.
unsafe impl<T: Operations> Sync for Driver<T> {}

impl<T: Operations> Driver<T> {
    /// Registers the driver for the devices in `ids`.
    pub fn new<I: 'static>(
        ids: &'static dyn IdTable<pci::DeviceId, I>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            raw <- Opaque::try_ffi_init(move |raw: *mut bindings::pci_driver| {
                // SAFETY: `raw` is memory for a `pci_driver` that stays where it is until it is unregistered
                // in `drop`. The name, the table and the handlers are static.
                unsafe {
                    raw.write(bindings::pci_driver {
                        name: T::Module::NAME.as_char_ptr(),
                        id_table: ids.as_ptr(),
                        probe: Some(Self::probe),
                        remove: Some(Self::remove),
                        err_handler: &Self::ERRORS,
                        driver_managed_dma: true,
                        ..Default::default()
                    });
                    to_result(bindings::__pci_register_driver(
                        raw,
                        T::Module::THIS_MODULE.as_ptr(),
                        T::Module::NAME.as_char_ptr(),
                    ))
                }
            }),
            _operations: PhantomData,
        })
    }

    const ERRORS: bindings::pci_error_handlers = bindings::pci_error_handlers {
        error_detected: Some(bindings::vfio_pci_core_aer_err_detected),
        slot_reset: Some(Self::slot_reset),
        resume: None,
        reset_done: Some(Self::reset_done),
        ..EMPTY_ERRORS
    };

    /// # Safety
    ///
    /// Called by the PCI core for a device that is being bound.
    unsafe extern "C" fn probe(
        pdev: *mut bindings::pci_dev,
        id: *const bindings::pci_device_id,
    ) -> c_int {
        // SAFETY: The device is bound for the time of this call, and `pci::Device` is transparent.
        let pci_dev = unsafe { &*pdev.cast::<pci::Device<device::Bound>>() };
        // SAFETY: The PCI core lends the ID that matched.
        let vendor = unsafe { (*id).vendor };
        from_result(|| {
            // `driver_override` alone matches any device; ours are those of the table and of `new_id`.
            if vendor == !0 {
                return Err(ENODEV);
            }
            let dev = Device::<T>::new(pci_dev)?;
            // SAFETY: The PCI core leaves the driver data to the driver.
            unsafe { bindings::dev_set_drvdata(&raw mut (*pdev).dev, dev.core().cast()) };
            // SAFETY: The driver data is the device, as the core demands.
            to_result(unsafe { bindings::vfio_pci_core_register_device(dev.core()) })?;
            T::bound(&dev);
            // `remove` takes this reference back.
            let _ = ARef::into_raw(dev);
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the PCI core for a device that `probe` bound.
    unsafe extern "C" fn remove(pdev: *mut bindings::pci_dev) {
        // SAFETY: Set by `probe`.
        let raw = unsafe { bindings::dev_get_drvdata(&raw mut (*pdev).dev) };
        let Some(raw) = NonNull::new(raw.cast::<Device<T>>()) else {
            return;
        };
        // SAFETY: This is the reference that `probe` left here.
        let dev = unsafe { ARef::from_raw(raw) };
        // SAFETY: Registered by `probe`. Returns when there is no user any more.
        unsafe { bindings::vfio_pci_core_unregister_device(dev.core()) };
        T::unbind(&dev);
    }

    /// # Safety
    ///
    /// Called by the PCI core after a reset of a device that is bound to this driver.
    unsafe extern "C" fn reset_done(pdev: *mut bindings::pci_dev) {
        // SAFETY: The core holds the device lock; the driver data is null or what `probe` set.
        let raw = unsafe { bindings::dev_get_drvdata(&raw mut (*pdev).dev) };
        if !raw.is_null() {
            // SAFETY: Set by `probe` to a device whose data is initialised.
            T::reset_done(unsafe { Device::<T>::from_raw(raw.cast()) });
        }
    }

    /// # Safety
    ///
    /// Called by the PCI core after an error reset of a device that is bound to this driver.
    unsafe extern "C" fn slot_reset(pdev: *mut bindings::pci_dev) -> bindings::pci_ers_result_t {
        // SAFETY: As for `reset_done`.
        unsafe { Self::reset_done(pdev) };
        bindings::pci_ers_result_PCI_ERS_RESULT_RECOVERED
    }
}

const EMPTY_ERRORS: bindings::pci_error_handlers = bindings::pci_error_handlers {
    error_detected: None,
    mmio_enabled: None,
    slot_reset: None,
    reset_prepare: None,
    reset_done: None,
    resume: None,
    cor_error_detected: None,
};

#[pinned_drop]
impl<T: Operations> PinnedDrop for Driver<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered in `new`.
        unsafe { bindings::pci_unregister_driver(self.raw.get()) };
    }
}
