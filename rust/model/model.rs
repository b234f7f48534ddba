// SPDX-License-Identifier: GPL-2.0

//! The contract between an adapter and the rest of semiassign, and what all adapters share.
//!
//! An *adapter* is the pure device model of one family of virtual functions: its registers, its
//! descriptors, its mailbox and the state that travels when its guest migrates. Everything that a
//! guest, a device or a migration stream can influence is decided here and in the adapters, so this
//! crate knows no kernel, allocates nothing, takes no lock and forbids `unsafe`: it runs the same in
//! the kernel, under `cargo test` and in a fuzzer.
//!
//! - [`adapter`]: the trait, and [`adapter::Io`], all that an adapter may touch.
//! - [`io`]: what `Io` is made of: registers, guest memory, the mirror area.
//! - [`register`]: rows of a register table.
//! - [`ring`]: arithmetic of head, tail and length.
//! - [`image`]: the migration stream, written and parsed.
//! - [`dirty`]: the set of guest pages that were written.
//! - [`counters`]: what happened, for debugfs.

#![no_std]
#![forbid(unsafe_code)]

pub mod adapter;
pub mod counters;
pub mod dirty;
pub mod image;
pub mod io;
#[cfg(any(test, feature = "mock"))]
pub mod mock;
pub mod register;
pub mod ring;
