// SPDX-License-Identifier: GPL-2.0

//! A model that nobody here wrote, to hold ours against: QEMU's own 82576 VF.
//!
//! Two QEMUs without a guest are driven over qtest. In one a guest uses the VF as it is; in the other it uses ours,
//! with that QEMU's VF as the hardware. Both get the same stores, descriptors and frames, at random, and have to show
//! the same: registers, descriptors and all other guest memory, frames on the wire, interrupts, and what the PF was
//! asked for. Ours is captured, released, stopped and migrated meanwhile, of which the guest is to notice nothing.
//!
//! - [`qemu`], [`qtest`], [`ram`], [`wire`]: a QEMU, and what it has: registers, memory, a network.
//! - [`pci`], [`pf`], `asked`: what firmware and the PF's driver do until the VF works.
//! - [`host`], [`side`]: the VF as the model has it, and as a guest has it on either side.
//! - [`guest`], [`frame`]: a driver that uses both sides, and frames for it.
//! - [`sequence`], [`generate`], [`shrink`]: what may be done; some of it, by a seed; and less of it that still fails.
//! - [`play`], `driver`, `readback`, `rest`: doing it to both sides; [`done`]: how much of it.
//! - [`compare`], [`deviations`]: what has to be equal, and the frozen list of what need not.
//!
//! Whatever makes no sense in a QEMU that is set up right is a failed test, so everything panics but a difference.

#![forbid(unsafe_code)]

mod asked;
pub mod compare;
pub mod deviations;
pub mod done;
mod driver;
pub mod frame;
pub mod generate;
pub mod guest;
pub mod host;
pub mod pci;
pub mod pf;
pub mod play;
pub mod qemu;
pub mod qtest;
pub mod ram;
mod readback;
mod rest;
pub mod sequence;
pub mod shrink;
pub mod side;
pub mod wire;
