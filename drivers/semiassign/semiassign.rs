// SPDX-License-Identifier: GPL-2.0

//! Live migration of assigned SR-IOV virtual functions, without help of the device.
//!
//! A VF is *assigned* in normal operation: its guest talks to the hardware. While the guest migrates it is
//! *emulated*: the guest's ring pages are RAM, its frames move through rings of our own, and so its state
//! and every page it dirties are known. Switching from one to the other is *capture*, back is *release*.
//!
//! - [`registry`]: which adapter models which PCI ID.
//! - [`vf`]: one VF: its state, its lock, and the callbacks of VFIO.
//! - [`lend`]: what an adapter is lent: registers, guest memory, the mirror area.
//! - [`capture`]: capture and release.
//! - [`relay`]: the worker that moves frames while emulated.
//! - [`arcs`]: the arcs of the migration protocol.
//! - [`session`]: the data file of a migration, both ways.
//! - [`dirty`]: the log of pages written while emulated.
//! - [`status`]: what can be seen from outside.
//! - `kunit`: what only the kernel can test.

use kernel::debugfs::Dir;
use kernel::prelude::*;

/// Logs what a user can provoke again and again.
macro_rules! dev_warn_ratelimited {
    ($dev:expr, $($message:tt)*) => {
        if $dev.may_log() {
            dev_warn!($dev.as_dev(), $($message)*);
        }
    };
}
/// The same, for what is no fault.
macro_rules! dev_info_ratelimited {
    ($dev:expr, $($message:tt)*) => {
        if $dev.may_log() {
            dev_info!($dev.as_dev(), $($message)*);
        }
    };
}

mod arcs;
mod capture;
mod dirty;
#[cfg(CONFIG_KUNIT = "y")]
mod kunit;
mod lend;
mod registry;
mod relay;
mod scope;
mod session;
mod status;
mod vf;

module! {
    type: Semiassign,
    name: "semiassign",
    authors: ["The semiassign developers"],
    description: "Live migration of assigned SR-IOV virtual functions",
    license: "GPL",
    imports_ns: ["IOMMUFD"],
}

kernel::sync::global_lock! {
    // SAFETY: Initialised first thing in `init`, before any device can be bound.
    unsafe(uninit) static DEBUGFS_ROOT: Mutex<Option<Dir>> = None;
}

/// The folder of all devices, while the module is loaded.
fn debugfs_root() -> Option<Dir> {
    DEBUGFS_ROOT.lock().clone()
}

#[pin_data]
struct Semiassign {
    #[pin]
    driver: vfio::Driver<vf::Vf>,
    _debugfs: DebugfsRoot,
}

/// Removes the folder after the last device is gone.
struct DebugfsRoot;

impl Drop for DebugfsRoot {
    fn drop(&mut self) {
        *DEBUGFS_ROOT.lock() = None;
    }
}

impl kernel::InPlaceModule for Semiassign {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: Called once, as the module is loaded.
        unsafe { DEBUGFS_ROOT.init() };
        *DEBUGFS_ROOT.lock() = Some(Dir::new(c"semiassign"));
        #[cfg(CONFIG_KUNIT = "y")]
        kunit::init();
        try_pin_init!(Self {
            // Before the driver, whose registration may fail.
            _debugfs: DebugfsRoot,
            driver <- vfio::Driver::new(registry::ids()),
        })
    }
}
