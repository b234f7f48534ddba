// SPDX-License-Identifier: GPL-2.0

//! The igbvf model between a mock guest and a mock VF: what tests, fuzzers and benchmarks of it begin with.
//!
//! - [`vf`]: a VF in plain memory that behaves as QEMU's, with its PF, and the memories it reaches.
//! - [`guest`]: a guest's driver, in the order of Linux's.
//! - [`machine`]: a VF with its model, driven as the kernel drives it; saved, restored, migrated.
//! - [`flow`]: numbered frames each way, and whether all of them arrive.
//!
//! Whatever makes no sense here is a failed test, so everything panics.

pub mod flow;
pub mod guest;
pub mod machine;
pub mod vf;
