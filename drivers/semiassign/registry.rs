// SPDX-License-Identifier: GPL-2.0

//! Which adapter models which function. A new adapter is one line in each of the two tables.

use kernel::pci;
use kernel::prelude::*;
use model::adapter::Adapter;
use vfio::driver::override_id;

/// Creates the model of a function.
type New = fn() -> Result<KBox<dyn Adapter>>;

/// Vendor, device, model.
const MODELS: &[(u16, u16, New)] = &[
    (INTEL, 0x10ca, igbvf_82576),
    // Nobody has run this one: it is bound only after an explicit `new_id`.
    (INTEL, 0x1520, igbvf_82576),
];

kernel::pci_device_table!(PCI_TABLE, (), [(override_id(INTEL as u32, 0x10ca), ())]);

const INTEL: u16 = 0x8086;

fn igbvf_82576() -> Result<KBox<dyn Adapter>> {
    Ok(KBox::new(igbvf::Igbvf::new(), GFP_KERNEL)?)
}

/// The IDs that the driver announces.
pub(crate) fn ids() -> &'static dyn kernel::device_id::IdTable<pci::DeviceId, ()> {
    &PCI_TABLE
}

/// The model of a function.
///
/// # Errors
///
/// `ENODEV` if there is none, `ENOMEM`.
pub(crate) fn adapter(vendor: u16, device: u16) -> Result<KBox<dyn Adapter>> {
    let (_, _, new) = MODELS
        .iter()
        .find(|(v, d, _)| (*v, *d) == (vendor, device))
        .ok_or(ENODEV)?;
    new()
}
