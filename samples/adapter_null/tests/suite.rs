// SPDX-License-Identifier: GPL-2.0

//! What must hold for every adapter. FILL IN: tests of what only this one does, as `drivers/igbvf/tests` has them.

use conformance::bench::{Bench, Mode};
use conformance::{Subject, GUEST};
use model::io::Registers;

use adapter_null::Null;

// Without a guest: what is in the registers and in memory is all at random.
conformance::conformance!(Null::new());

mod at_work {
    use super::*;

    // With one that has set its rings up, so that the random part begins where things work.
    conformance::conformance!(Null::new(), set_up: set_up);
}

/// A ring of 64 with 40 frames in it.
fn set_up(bar: &mut Bench) {
    for (at, val) in [
        (0x8, 5),
        (0x1004, (GUEST >> 32) as u32),
        (0x1008, 64),
        (0x1018, 40),
        (0x1028, 1 << 25),
    ] {
        bar.write32(at, val);
    }
}

#[test]
fn every_frame_is_completed_once_and_in_order() {
    let mut subject = Subject::new(|| Box::new(Null::new()));
    subject.set_up = set_up;
    let mut bench = Bench::captured(&subject, 1);
    assert_eq!(bench.mode, Mode::Running);
    bench.mem.inner.log = Some(Vec::new());
    for _ in 0..5 {
        bench.poll(16);
    }
    let done = (0..40).map(|slot| (GUEST + slot * 16 + 15, vec![1]));
    assert_eq!(bench.mem.inner.log.take().unwrap(), Vec::from_iter(done));
    assert_eq!(bench.read32(0x1010), 40);
    assert_eq!(bench.model.counters().tx_frames, 40);
}
