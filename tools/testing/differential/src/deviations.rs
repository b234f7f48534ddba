// SPDX-License-Identifier: GPL-2.0

//! Where QEMU's VF and ours are known to differ, and what becomes of that.
//!
//! The list is frozen. A difference that is not in it fails the test, and so does a row that a full run never needs.
//! Where QEMU and the datasheet differ the datasheet is right: ours follows it, and the unit test that is named says
//! so. Rows with a number were known before, by reading QEMU; the others were found by this test, or are ours.

mod forgiven;
mod others;

use std::collections::BTreeMap;

pub use forgiven::*;
use others::OTHERS;

/// Who differs from the datasheet, or goes further than it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Qemu,
    /// Ours, by design.
    Ours,
}

/// What becomes of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The comparison lets it pass within the bounds that are given, and counts it.
    Forgiven,
    /// Sequences do not come near it.
    Avoided,
    /// Both sides have it, because the page or the PF is QEMU's in both cases.
    Shared,
}

#[derive(Debug)]
pub struct Deviation {
    pub name: &'static str,
    /// Numbers in 6.5.
    pub numbers: &'static [u32],
    pub who: Who,
    /// What is to be seen.
    pub seen: &'static str,
    pub rule: Rule,
    /// How it is compared all the same, or avoided.
    pub how: &'static str,
    /// The unit test of ours that says what is right.
    pub test: &'static str,
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Deviation> {
    [
        &STATUS,
        &PSRTYPE,
        &RXCTL,
        &SPLIT_AT_HEADERS,
        &HEADER_LENGTH_OF_NONE,
        &HEADER_LENGTH_OF_PARTS,
        &CHECKSUMS_IN_PLACE,
        &SECOND_QUEUE,
        &RESET_HEADS,
        &FLR_KEEPS,
        &EIMS_READ,
        &EICR_READ,
        &EITR_READ,
        &RESERVED_BITS,
        &SWFLSH,
        &TYPES_OF_PARTS,
        &EXTRA_INTERRUPTS,
        &UNHEARD,
        &ORDER_OF_QUEUES,
    ]
    .into_iter()
    .chain(&OTHERS)
}

/// How often each was needed.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn forgive(&mut self, known: &Deviation) {
        *self.0.entry(known.name).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (name, n) in &other.0 {
            *self.0.entry(name).or_default() += n;
        }
    }

    pub fn of(&self, known: &Deviation) -> u64 {
        self.0.get(known.name).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_number_of_the_reference_is_here_and_no_name_twice() {
        let numbers: BTreeSet<u32> = all().flat_map(|known| known.numbers).copied().collect();
        assert_eq!(numbers, (1..=21).collect());
        let names: BTreeSet<&str> = all().map(|known| known.name).collect();
        assert_eq!(names.len(), all().count());
    }

    #[test]
    fn every_unit_test_that_is_named_is_there() {
        let igbvf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../drivers/igbvf");
        let mut text = String::new();
        for folder in [igbvf.clone(), igbvf.join("tests")] {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|ext| ext == "rs") {
                    text += &std::fs::read_to_string(path).unwrap();
                }
            }
        }
        for known in all() {
            assert!(
                text.contains(&format!("fn {}()", known.test)),
                "{}: no unit test {}",
                known.name,
                known.test
            );
        }
    }
}
