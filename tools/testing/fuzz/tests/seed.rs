// SPDX-License-Identifier: GPL-2.0

//! Seeds: inputs that begin where a fuzzer takes long to get to.
//!
//! They are written as acts in the files beside, and kept as bytes in `seeds`, where libFuzzer takes them from.
//! What it finds may be added there as it is.

use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;

use fuzz::input::{script, Field};
use fuzz::life::Reached;
use model::mock::Random;

/// One of them.
pub struct Seed {
    name: &'static str,
    bytes: Vec<u8>,
    reaches: fn(&Reached) -> bool,
}

/// What `acts` are for is said by `reaches`.
pub fn seed<A: Field>(name: &'static str, reaches: fn(&Reached) -> bool, acts: &[A]) -> Seed {
    let bytes = script(acts);
    Seed {
        name,
        bytes,
        reaches,
    }
}

fn folder(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "seeds", target]
        .iter()
        .collect()
}

/// The files of a target, by name.
fn files(target: &str) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder(target)).expect("the target has a folder");
    files
        .map(|file| {
            let path = file.expect("a file").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            (name.into_owned(), std::fs::read(&path).expect("a seed"))
        })
        .collect()
}

/// Writes the files anew.
pub fn write(target: &str, seeds: &[Seed]) {
    for Seed { name, bytes, .. } in seeds {
        std::fs::write(folder(target).join(name), bytes).expect("a file");
    }
}

/// Every seed is a file, and reaches what it is for.
pub fn check(target: &str, run: fn(&[u8]) -> Reached, seeds: &[Seed]) {
    let files = files(target);
    for Seed {
        name,
        bytes,
        reaches,
    } in seeds
    {
        assert!(
            files.get(*name) == Some(bytes),
            "{target}/{name} is not what its acts are: cargo test -p fuzz -- --ignored"
        );
        let reached = run(bytes);
        assert!(reaches(&reached), "{target}/{name}: {reached:?}");
        let again = run(bytes);
        assert_eq!(
            format!("{again:?}"),
            format!("{reached:?}"),
            "{target}/{name} is another life every time"
        );
    }
}

/// Runs every file of a target, and so many changes of each, the same every time.
pub fn change(target: &str, run: fn(&[u8]) -> Reached, changes: u32) {
    let files: Vec<_> = files(target).into_iter().collect();
    let mut random = Random(1);
    for (name, bytes) in &files {
        for n in 0..=changes {
            let mut changed = bytes.clone();
            for _ in 0..n.min(3) {
                let other = &files[random.below(files.len() as u32) as usize].1;
                alter(&mut changed, other, &mut random);
            }
            let result = catch_unwind(AssertUnwindSafe(|| run(&changed)));
            assert!(
                result.is_ok(),
                "{target}/{name}, change {n}: {changed:02x?}"
            );
        }
    }
}

fn alter(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(bytes.len() as u32 + 1) as usize;
    match random.below(5) {
        0 => bytes.insert(at, random.next() as u8),
        1 => bytes.truncate(at),
        2 => {
            // Goes on as another one.
            let from = random.below(other.len() as u32 + 1) as usize;
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        3 => {
            let small = random.below(32) as u8;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = small;
            }
        }
        _ => {
            let bit = 1 << random.below(8);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bit;
            }
        }
    }
}

/// The tests of a target whose seeds are `seeds()`.
#[macro_export]
macro_rules! seeds_of {
    ($target:ident, $changes:expr) => {
        #[test]
        fn seeds_reach_what_they_are_for() {
            $crate::seed::check(stringify!($target), fuzz::$target, &seeds());
        }

        #[test]
        fn changed_seeds_break_no_rule() {
            $crate::seed::change(stringify!($target), fuzz::$target, $changes);
        }

        #[test]
        #[ignore = "writes the files"]
        fn write_the_seeds() {
            $crate::seed::write(stringify!($target), &seeds());
        }
    };
}
