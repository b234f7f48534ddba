// SPDX-License-Identifier: GPL-2.0

//! The igbvf model between a mock guest and a mock VF: what tests, fuzzers and benchmarks of it begin with.
//!
//! - [`vf`]: a VF in plain memory that behaves as QEMU's, with its PF, and the memories it reaches.
//! - [`guest`]: a guest's driver, in the order of Linux's.
//! - [`driver`]: another one, which can all that a driver can do; [`ledger`]: what became of its frames.
//! - [`replica`]: a copy of guest memory, kept by the dirty set. [`transfer`]: an image on its way.
//! - [`machine`]: a VF with its model, driven as the kernel drives it; saved, restored, migrated.
//! - [`flow`]: numbered frames each way, and whether all of them arrive.
//!
//! Whatever makes no sense here is a failed test, so everything panics.

pub mod driver;
pub mod flow;
pub mod guest;
pub mod ledger;
pub mod machine;
pub mod replica;
pub mod transfer;
pub mod vf;
