// SPDX-License-Identifier: GPL-2.0

//! Fuzz targets for the device model of igbvf.
//!
//! A target is a function of bytes, which it takes for acts of everybody who can reach the model, and which panics
//! where a rule is broken:
//!
//! - [`mod@mmio`]: any access to any register at any moment.
//! - [`mod@descriptors`]: descriptors, buffers and ring registers, and their changes while the model looks.
//! - [`mod@mirror`]: mirror descriptors and held frames, altered by the device or a peer.
//! - [`mod@mailbox`]: the mailbox with us in between, beside one without us.
//! - [`mod@image`]: migration images, altered and sealed again.
//!
//! They share
//!
//! - [`input`]: bytes as acts.
//! - [`life`]: the model on the bench of the conformance suite, with a PF and a device.
//! - [`rings`]: what the device is told.
//! - [`driver`], [`traffic`]: a guest whose rings work, and what it may expect.
//!
//! `make fuzz` gives them the bytes that libFuzzer finds, `cargo test` those in `seeds` and small changes of these.
//! Every input ends, and does the same every time.

#![forbid(unsafe_code)]

pub mod descriptors;
pub mod driver;
pub mod image;
pub mod input;
pub mod life;
pub mod mailbox;
pub mod mirror;
pub mod mmio;
pub mod rings;
pub mod traffic;

pub use descriptors::descriptors;
pub use image::image;
pub use mailbox::mailbox;
pub use mirror::mirror;
pub use mmio::mmio;

use crate::life::Reached;

/// One of them.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Runs an input.
    pub run: fn(&[u8]) -> Reached,
    /// What an input means, an act each.
    pub show: fn(&[u8]) -> Vec<String>,
}

/// All of them.
pub const TARGETS: [Target; 5] = [
    Target {
        name: "mmio",
        run: mmio,
        show: input::show::<mmio::Act>,
    },
    Target {
        name: "descriptors",
        run: descriptors,
        show: input::show::<descriptors::Act>,
    },
    Target {
        name: "mirror",
        run: mirror,
        show: input::show::<mirror::Act>,
    },
    Target {
        name: "mailbox",
        run: mailbox,
        show: input::show::<mailbox::Act>,
    },
    Target {
        name: "image",
        run: image,
        show: input::show::<image::Act>,
    },
];
