// SPDX-License-Identifier: GPL-2.0

//! What the igbvf model costs, between a VF and a guest that cost next to nothing.
//!
//! - [`vf`]: a mirror area whose descriptors are done as soon as they are written.
//! - [`guest`]: guest memory, with or without a dirty log.
//! - [`rig`]: the model between these two.
//! - [`case`]: what is measured, by name.
//! - [`table`]: the results.
//!
//! `benches/time.rs` measures nanoseconds; instructions are those that callgrind counts of `bench_model count`.

pub mod case;
pub mod guest;
pub mod rig;
pub mod table;
pub mod vf;
