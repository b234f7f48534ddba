// SPDX-License-Identifier: GPL-2.0

//! What must hold for every adapter, as tests that it runs with one line:
//!
//! ```ignore
//! conformance::conformance!(Example::new());
//! ```
//!
//! That alone gives the model a guest, a device and a peer that make no sense. With a guest that has set
//! its rings up, and hardware that answers, the same tests reach further:
//!
//! ```ignore
//! conformance::conformance!(Example::new(), hardware: vf_with_its_pf, set_up: working_rings);
//! ```
//!
//! - [`rules`]: the tests, one function each.
//! - [`mod@bench`]: the model between a guest, a device and memory, all of which are watched.
//! - [`act`]: what may happen to it, at random.
//! - [`meanwhile`]: what happens while the model looks.
//!
//! Not covered, because it takes knowledge of the device: that frames arrive, whole and in order, and that
//! the bit that publishes a descriptor is written last. Each adapter has tests of its own for that.
//!
//! Runs are the same every time. `PROPTEST_CASES` makes them longer, `PROPTEST_RNG_SEED` others.

pub mod act;
pub mod bench;
pub mod meanwhile;
pub mod rules;

pub use proptest;

use model::adapter::{Adapter, Layout};
use model::io::Hardware;
use model::mock::Page;

use crate::bench::Bench;

/// Where the guest's memory starts, as the device sees it.
pub const GUEST: u64 = 0x1_0000_0000;
/// Bytes of guest memory.
pub const GUEST_BYTES: usize = 1 << 18;
/// Where the mirror area starts, as the device sees it.
pub const MIRROR: u64 = 0x7f_0000_0000;

/// The adapter under test and what it needs to work.
#[derive(Clone, Copy)]
pub struct Subject {
    /// Makes a new model.
    pub new: fn() -> Box<dyn Adapter>,
    /// Makes the VF behind it; else one that keeps what is written to it.
    pub hardware: fn(&Layout) -> Box<dyn Hardware>,
    /// What a guest's driver does to BAR 0, which the bench is, and to its memory until its rings work.
    pub set_up: fn(&mut Bench),
}

impl Subject {
    /// An adapter without further knowledge.
    pub fn new(new: fn() -> Box<dyn Adapter>) -> Self {
        Self {
            new,
            hardware: |layout| Box::new(Page::new(0, layout.bar_bytes)),
            set_up: |_| {},
        }
    }
}

/// Makes a test of every rule for an adapter.
#[macro_export]
macro_rules! conformance {
    ($new:expr $(, $field:ident: $value:expr)* $(,)?) => {
        mod rules {
            use super::*;

            fn subject() -> $crate::Subject {
                #[allow(unused_mut, reason = "there may be nothing to add")]
                let mut subject = $crate::Subject::new(|| Box::new($new));
                $(subject.$field = $value;)*
                subject
            }

            $crate::rules! {
                the_layout_makes_sense
                registers_do_not_overlap
                a_reset_gives_every_register_its_reset_value
                an_offset_without_a_register_reads_as_0_and_writes_nothing
                every_turn_ends_whatever_is_in_registers_and_memory
                every_wait_is_bounded
                every_page_that_changed_is_dirty
                a_stopped_model_is_still
                a_model_that_listens_does_so_in_silence
                what_is_saved_and_loaded_is_saved_the_same
                a_truncated_section_is_refused
                an_altered_section_is_refused_or_harmless
                a_section_of_garbage_is_refused_or_harmless
                an_altered_image_is_refused
            }
        }
    };
}

/// Tests that call the functions of the same name.
#[doc(hidden)]
#[macro_export]
macro_rules! rules {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            $crate::rules::$name(&subject());
        })*
    };
}
