// SPDX-License-Identifier: GPL-2.0

//! The rules, one test each. They panic where an adapter breaks them.

use std::collections::BTreeSet;
use std::fmt::Debug;

use model::image::{Decoder, Encoder, Step, Tag, MAX_SECTION_BYTES};
use model::io::Registers;
use model::mock::Random;
use model::register::{Access, Register};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::act::{life, Act};
use crate::bench::{Bench, Count, Image, Mind};
use crate::Subject;

/// Most bytes of a mirror area.
const MAX_MIRROR_BYTES: usize = 16 << 20;
/// Pages that can be substituted.
const MAX_PAGES: u32 = 4;

/// Runs `rule` on random values, the same ones every time.
pub fn for_all<S: Strategy>(cases: u32, values: S, rule: impl Fn(S::Value))
where
    S::Value: Clone + Debug,
{
    let mut config = Config::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(0);
    }
    config.failure_persistence = None;
    let result = TestRunner::new(config).run(&values, |value| {
        rule(value);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// A VF that has gone through all of this.
fn after(subject: &Subject, seed: u64, acts: &[Act]) -> Bench {
    let mut bench = Bench::captured(subject, seed);
    for act in acts {
        bench.act(act);
    }
    bench
}

/// And that was stopped, between a device and a memory that have come to their senses.
fn stopped_after(subject: &Subject, seed: u64, acts: &[Act]) -> Bench {
    let mut bench = after(subject, seed, acts);
    bench.hw.mind = Mind::Sane;
    bench.mem.inner.busy_after = None;
    bench.stop();
    bench
}

/// Each register of the table, and its offset.
pub(crate) fn registers(table: &[Register]) -> impl Iterator<Item = (Register, u32)> + '_ {
    let one = |r: &Register| {
        let r = *r;
        (0..r.count).map(move |n| (r, r.at + n * r.stride))
    };
    table.iter().flat_map(one)
}

fn is_inside(at: u32, (start, end): (u32, u32)) -> bool {
    (start..end).contains(&at)
}

/// Pages are pages, inside the BAR and apart, and the mirror area is not too large.
pub fn the_layout_makes_sense(subject: &Subject) {
    let layout = Bench::new(subject).layout;
    let ((t0, t1), (s0, s1)) = (layout.trapped, layout.substituted);
    assert!(!layout.name.is_empty());
    for at in [t0, t1, s0, s1] {
        assert!(at % 0x1000 == 0 && at <= layout.bar_bytes, "{at:#x}");
    }
    assert!(t0 < t1 && s0 < s1 && (t1 <= s0 || s1 <= t0));
    assert!(s1 - s0 <= MAX_PAGES * 0x1000);
    assert!(layout.mirror_bytes <= MAX_MIRROR_BYTES && layout.mirror_bytes % 0x1000 == 0);
}

/// Registers are aligned, inside the BAR, and no two are in the same place.
pub fn registers_do_not_overlap(subject: &Subject) {
    let bench = Bench::new(subject);
    let mut taken = BTreeSet::new();
    for (r, at) in registers(bench.model.registers()) {
        assert!(!r.name.is_empty() && r.count > 0);
        assert!(
            at % 4 == 0 && at < bench.layout.bar_bytes,
            "{} at {at:#x}",
            r.name
        );
        assert!(taken.insert(at), "{}: another one is at {at:#x}", r.name);
    }
    assert!(!taken.is_empty(), "an adapter without registers");
}

/// After a reset every register of the trapped and of the substituted pages reads as the table says, whatever it
/// was before. The device's own are taken to be right.
pub fn a_reset_gives_every_register_its_reset_value(subject: &Subject) {
    for_all(32, any::<u64>(), |seed| {
        let mut random = Random(seed | 1);
        let mut bench = Bench::captured(&Subject::new(subject.new), seed);
        let table = bench.model.registers();
        for (_, at) in registers(table) {
            bench.write32(at, random.next());
        }
        for (r, at) in registers(table) {
            bench.hw.write32(at, r.reset);
        }
        bench.reset();
        for (r, at) in registers(table) {
            let ours = [bench.layout.trapped, bench.layout.substituted];
            if !ours.iter().any(|range| is_inside(at, *range)) {
                continue;
            }
            let expected = match r.access {
                Access::WriteOnly => 0,
                _ => r.reset,
            };
            assert_eq!(bench.read32(at), expected, "{} at {at:#x}", r.name);
        }
    });
}

/// All of the trapped pages and places beyond them, byte by byte: nothing panics, and what is no register is
/// nothing, in both modes.
pub fn an_offset_without_a_register_reads_as_0_and_writes_nothing(subject: &Subject) {
    for captured in [false, true] {
        let mut bench = Bench::new(&Subject::new(subject.new));
        if captured {
            bench.capture();
        }
        bench.hw.mind = Mind::Random(Random(1));
        let known: BTreeSet<u32> = registers(bench.model.registers())
            .map(|(_, at)| at)
            .collect();
        let (start, end) = bench.layout.trapped;
        let beyond = [
            end,
            end + 1,
            bench.layout.bar_bytes,
            1 << 31,
            u32::MAX - 3,
            u32::MAX,
        ];
        for at in (start..end).chain(beyond) {
            for val in [0, 1, u32::MAX] {
                let (read, count) = bench.call(|model, io| {
                    let page: Option<&mut dyn Registers> =
                        if captured { Some(io.page) } else { None };
                    model.write(at, val, io.hw, page);
                    let page: Option<&mut dyn Registers> =
                        if captured { Some(io.page) } else { None };
                    model.read(at, io.hw, page)
                });
                if !known.contains(&at) {
                    let Count {
                        hw_writes,
                        page_writes,
                        ..
                    } = count;
                    assert_eq!((read, hw_writes, page_writes), (0, 0, 0), "{at:#x}");
                }
            }
        }
    }
}

/// Garbage in registers, guest memory and the mirror area, memory that fails and a device that lies: no call
/// panics, goes on without end, or moves more than its budget.
pub fn every_turn_ends_whatever_is_in_registers_and_memory(subject: &Subject) {
    for_all(256, life(), |(seed, acts)| {
        let mut bench = after(subject, seed, &acts);
        bench.stop();
        bench.release();
    });
}

/// Hardware that answers the same to everything: whatever is waited for is given up, in all parts of a life.
pub fn every_wait_is_bounded(subject: &Subject) {
    let image = stopped(subject).save();
    for val in [0, u32::MAX, 1 << 25, !(1 << 25)] {
        for step in 0..11 {
            let mut bench = Bench::captured(subject, 0);
            if step == 0 {
                bench.release();
                bench.hw.mind = Mind::Constant(val);
                bench.capture();
            }
            bench.hw.mind = Mind::Constant(val);
            match step {
                0 | 1 => bench.stop(),
                2 => bench.release(),
                3 => bench.start(),
                4 => bench.reset(),
                5 => bench.poll(64),
                6 => {
                    let _ = bench.load(Tag::Control, &image[0].1);
                }
                7 => {
                    let _ = bench.call(|model, io| model.replay_control(io.hw));
                }
                8 => {
                    let _ = bench.call(|model, io| model.pause(io));
                }
                9 => {
                    bench.call(|model, io| model.listen(io.hw, io.page, io.mirror));
                }
                _ => {
                    let _ = bench.call(|model, io| model.queues_off(io.hw));
                }
            }
        }
    }
}

/// The dirty set is what was written, no less, also where a write straddles pages or fails in the middle.
pub fn every_page_that_changed_is_dirty(subject: &Subject) {
    for_all(128, life(), |(seed, acts)| {
        let mut bench = Bench::captured(subject, seed);
        for act in &acts {
            let before = bench.mem.inner.clone();
            bench.mem.inner.dirty.clear();
            bench.mem.inner.log = Some(Vec::new());
            bench.act(act);
            if matches!(act, Act::Memory(..) | Act::SetUp) {
                continue;
            }
            let dirty = std::mem::take(&mut bench.mem.inner.dirty);
            let written = bench.mem.inner.log.take().unwrap_or_default();
            let pages = |(at, bytes): &(u64, Vec<u8>)| {
                *at >> 12..=(*at + (bytes.len() as u64).max(1) - 1) >> 12
            };
            let touched: BTreeSet<u64> = written
                .iter()
                .filter(|(_, bytes)| !bytes.is_empty())
                .flat_map(pages)
                .collect();
            assert!(bench.changed_pages(&before).is_subset(&dirty), "{act:?}");
            assert_eq!(touched, dirty, "{act:?}");
        }
    });
}

/// After a stop neither turns nor announcements touch memory, the mirror area or the device.
pub fn a_stopped_model_is_still(subject: &Subject) {
    for_all(128, life(), |(seed, acts)| {
        let mut bench = stopped_after(subject, seed, &acts);
        let mut random = Random(seed | 1);
        // There is work to do, and more comes.
        (subject.set_up)(&mut bench);
        for _ in 0..16 {
            for (r, at) in registers(bench.model.registers()) {
                if r.access == Access::ReadWrite && random.below(16) == 0 {
                    bench.write32(at, random.below(64));
                }
            }
            let ((), count) = bench.call(|model, io| {
                assert_eq!(model.poll(io, 64).frames, 0);
                model.announce(io);
            });
            let Count {
                hw_writes,
                page_writes,
                guest,
                mirror_writes,
                ..
            } = count;
            assert_eq!((hw_writes, page_writes, guest, mirror_writes), (0, 0, 0, 0));
        }
    });
}

/// What is paused, or has taken an image over, and receives all the same, leaves the guest alone until it is started.
pub fn a_model_that_listens_does_so_in_silence(subject: &Subject) {
    for_all(128, life(), |(seed, acts)| {
        let mut bench = after(subject, seed, &acts);
        bench.hw.mind = Mind::Sane;
        bench.mem.inner.busy_after = None;
        let _ = bench.call(|model, io| model.pause(io));
        let ((), count) = bench.call(|model, io| {
            assert_eq!(model.poll(io, 64).frames, 0);
            model.announce(io);
        });
        assert_eq!((count.hw_writes, count.page_writes, count.guest), (0, 0, 0));
        let image = stopped_after(subject, seed, &acts).save();
        let Ok(mut other) = Bench::restored(subject, &image) else {
            return;
        };
        let ((), count) = other.call(|model, io| {
            model.listen(io.hw, io.page, io.mirror);
            assert_eq!(model.poll(io, 64).frames, 0);
            model.announce(io);
        });
        assert_eq!((count.page_writes, count.guest), (0, 0));
    });
}

/// What one VF saves, another one takes over and saves again.
pub fn what_is_saved_and_loaded_is_saved_the_same(subject: &Subject) {
    let loaded = std::cell::Cell::new(0u32);
    for_all(128, life(), |(seed, acts)| {
        let image = stopped_after(subject, seed, &acts).save();
        // Only the PF may refuse: it is not there unless the subject brings it.
        if let Ok(mut other) = Bench::restored(subject, &image) {
            assert_eq!(other.save(), image);
            loaded.set(loaded.get() + 1);
        }
    });
    assert!(loaded.get() > 0, "no image was ever taken over");
}

/// The images of a few lives, for what takes long with each.
fn for_some_images(subject: &Subject, rule: impl Fn(Image)) {
    for_all(10, life(), |(seed, acts)| {
        // Many held frames are no better than two.
        let mut image = stopped_after(subject, seed, &acts).save();
        image.truncate(4);
        rule(image);
    });
}

/// A VF for images, captured and stopped.
fn stopped(subject: &Subject) -> Bench {
    let mut bench = Bench::captured(subject, 0);
    bench.stop();
    bench
}

/// Lets `bench` take over what may be wrong: whether it did. Refusing changes nothing, and accepting does no harm.
/// `deep` also has another VF take over what was accepted.
fn try_load(subject: &Subject, bench: &mut Bench, tag: Tag, payload: &[u8], deep: bool) -> bool {
    bench.model.drop_held();
    let before = bench.save();
    if bench.load(tag, payload).is_err() {
        assert_eq!(
            bench.save(),
            before,
            "{tag:?}: refused, and yet something changed"
        );
        return false;
    }
    let image = bench.save();
    let other = deep.then(|| Bench::restored(subject, &image));
    if let Some(Ok(mut other)) = other {
        assert_eq!(
            other.save(),
            image,
            "{tag:?}: accepted, and saved in another way"
        );
    }
    bench.start();
    for budget in [1, 64] {
        bench.poll(budget);
    }
    bench.stop();
    true
}

/// A section that ends early, or goes on, is refused and changes nothing; only a frame may be shorter or longer.
pub fn a_truncated_section_is_refused(subject: &Subject) {
    for_some_images(subject, |image| {
        let mut bench = stopped(subject);
        for (tag, payload) in image {
            let longer = [&payload[..], &[0]].concat();
            for len in (0..payload.len()).chain([longer.len()]) {
                let loaded = try_load(subject, &mut bench, tag, &longer[..len], false);
                assert!(!loaded || tag == Tag::Held, "{tag:?}, {len} bytes");
            }
        }
    });
}

/// Every byte of every section, altered in three ways.
pub fn an_altered_section_is_refused_or_harmless(subject: &Subject) {
    for_some_images(subject, |image| {
        let mut bench = stopped(subject);
        for (tag, payload) in image {
            for at in 0..payload.len() {
                for bits in [0x01, 0x80, 0xff] {
                    let mut altered = payload.clone();
                    altered[at] ^= bits;
                    try_load(subject, &mut bench, tag, &altered, at % 8 == 0);
                }
            }
        }
    });
}

/// Sections of random bytes, some of which start like a section.
pub fn a_section_of_garbage_is_refused_or_harmless(subject: &Subject) {
    let tag = prop::sample::select(vec![Tag::Control, Tag::State, Tag::Held]);
    let bytes = prop::collection::vec(prop_oneof![any::<u8>(), 0..4u8], 0..2048);
    for_all(512, (tag, bytes), |(tag, bytes)| {
        try_load(subject, &mut stopped(subject), tag, &bytes, true);
    });
}

/// Whether a whole image is believed.
fn is_believed(bench: &Bench, mut bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new(bench.layout);
    while !decoder.is_complete() {
        match decoder.step(bytes) {
            Ok(Step::Header { consumed } | Step::Section { consumed, .. }) => {
                bytes = &bytes[consumed..];
            }
            Ok(Step::NeedMore) | Err(_) => return false,
        }
    }
    bytes.is_empty()
}

/// In its frame, no truncated image and none with an altered byte is ever complete.
pub fn an_altered_image_is_refused(subject: &Subject) {
    let mut bench = stopped(subject);
    let (mut encoder, mut buf) = (Encoder::new(bench.layout), vec![0; MAX_SECTION_BYTES]);
    let mut bytes = Vec::new();
    let full = "a section that does not fit";
    let len = encoder.header(&mut buf).expect(full);
    bytes.extend_from_slice(&buf[..len]);
    for (tag, payload) in bench.save() {
        let len = encoder
            .section(&mut buf, tag, |w| w.put_bytes(&payload))
            .expect(full);
        bytes.extend_from_slice(&buf[..len]);
    }
    let len = encoder.end(&mut buf).expect(full);
    bytes.extend_from_slice(&buf[..len]);
    assert!(is_believed(&bench, &bytes));
    for at in 0..bytes.len() {
        assert!(!is_believed(&bench, &bytes[..at]));
        for bits in 1..=u8::MAX {
            bytes[at] ^= bits;
            assert!(!is_believed(&bench, &bytes), "byte {at} of the image");
            bytes[at] ^= bits;
        }
    }
}
