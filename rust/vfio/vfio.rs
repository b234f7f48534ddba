// SPDX-License-Identifier: GPL-2.0

//! VFIO PCI variant drivers in Rust.
//!
//! A variant driver wraps `vfio-pci-core` and adds what the core cannot know of a device: migration, DMA
//! logging, regions that are not what the hardware shows. It implements [`Operations`] and registers a
//! [`Driver`]; the core allocates one [`Device`] for each function that is bound.
//!
//! This crate knows no device, and is the only one of the module that talks to C.
//!
//! - [`driver`]: registration with the PCI core.
//! - [`device`]: the device, its callbacks and their contexts.
//! - [`region`]: accesses to BARs, mapped pages and their faults.
//! - [`migration`]: states of the migration protocol, and the walk along its arcs.
//! - [`file`]: the data file of a migration.
//! - [`dma_log`]: the log of device writes to memory.
//! - [`iommu`]: a private domain for memory that the user of the device must not reach.
//! - [`guest`]: memory of the user of the device.
//! - [`memory`]: pages that stand in for those of a BAR.
//! - [`worker`]: a kernel thread.
//!
//! C headers: [`include/linux/vfio.h`](srctree/include/linux/vfio.h),
//! [`include/linux/vfio_pci_core.h`](srctree/include/linux/vfio_pci_core.h)

mod bindings;
pub mod device;
pub mod dma_log;
pub mod driver;
pub mod file;
pub mod guest;
pub mod iommu;
pub mod memory;
pub mod migration;
pub mod region;
pub mod worker;

pub use device::Device;
pub use device::Operations;
pub use driver::Driver;
