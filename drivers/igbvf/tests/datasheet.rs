// SPDX-License-Identifier: GPL-2.0

//! Where QEMU's VF differs from the datasheet: ours does as the datasheet says, or better.
//!
//! tools/testing/differential/src/deviations.rs names these tests.

use model::adapter::Adapter;

use crate::flow::{frame, machine};
use crate::guest::{Cut, ONE_BUFFER, SPLIT};
use crate::machine::Machine;
use crate::vf::GUEST;

/// Header split where the hardware knows the headers: 128 B and 2 KiB.
const SPLIT_KNOWN: u32 = 0x8400_0202;
const RX_RING: u64 = GUEST + 0x3000;

fn rx_desc(m: &Machine, slot: u64) -> [u32; 4] {
    let w = m.world.borrow();
    let bytes = w.memory.get(RX_RING + slot * 16, 16);
    std::array::from_fn(|i| u32::from_le_bytes(bytes[i * 4..i * 4 + 4].try_into().unwrap()))
}

#[test]
fn psrtype_reads_as_it_was_written() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    for captured in [false, true] {
        m.store(0xf0c, 0x1234_5678);
        assert_eq!(m.load(0xf0c), 0x1234_5678);
        m.world.borrow_mut().regs[0xf0c / 4] = 0;
        assert_eq!(m.load(0xf0c), 0x1234_5678);
        if !captured {
            m.capture();
        }
    }
}

#[test]
fn pbacl_does_not_reach_the_hardware() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.world.borrow_mut().regs[0xf04 / 4] = 5;
    m.store(0xf04, 7);
    assert_eq!(m.load(0xf04), 0);
    assert_eq!(m.world.borrow().regs[0xf04 / 4], 5);
}

#[test]
fn ring_registers_keep_what_the_guest_stores() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    m.store(0x2814, 0x0302_0100);
    m.store(0x2928, 1 << 26 | 8);
    m.poll();
    let mut to = m.migrate();
    assert_eq!(to.load(0x2814), 0x0302_0100);
    assert_eq!(to.load(0x2928), 1 << 26 | 8);
    to.with(|model, io| model.start(io));
    to.release().unwrap();
    assert_eq!(to.load(0x2814), 0x0302_0100);
    // Written once more, it would ask for another flush.
    assert_eq!(to.load(0x2928), 8);
}

#[test]
fn split_always_fills_the_header_buffer_first() {
    let (mut m, mut g) = machine(0, SPLIT);
    m.capture();
    let f = frame(1, 5000);
    m.world.borrow_mut().receive(0, &f);
    m.world.borrow_mut().receive(0, &f[..100]);
    m.poll();
    // HDR_LEN in the first descriptor alone, and no SPH: nobody has looked for headers.
    let parts = (0..4)
        .map(|slot| rx_desc(&m, slot))
        .map(|dw| (dw[0], dw[3] & 0xffff));
    let want = [
        (128 << 21 | 0x11, 2048),
        (0x11, 2048),
        (0x11, 776),
        (100 << 21 | 0x11, 0),
    ];
    assert!(parts.eq(want));
    g.receive(&mut m, false);
    assert_eq!(g.received, [&f[..], &f[..100]]);
}

#[test]
fn nothing_is_split_off_a_frame_whose_headers_are_unknown() {
    let (mut m, mut g) = machine(0, SPLIT_KNOWN);
    m.capture();
    m.world.borrow_mut().receive(0, &frame(1, 3000));
    m.poll();
    let parts = (0..2)
        .map(|slot| rx_desc(&m, slot))
        .map(|dw| (dw[0], dw[3] & 0xffff));
    assert!(parts.eq([(0x11, 2048), (0x11, 952)]));
    g.receive(&mut m, false);
    assert_eq!(g.received, [frame(1, 3000)]);
}

#[test]
fn sending_writes_nothing_but_dd() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().memory.log = Some(Vec::new());
    let cut = Cut {
        pieces: 3,
        context: Some(5),
        tso: true,
    };
    g.send(&mut m, &frame(0, 9000), cut);
    m.poll();
    let log = m.world.borrow_mut().memory.log.take().unwrap();
    assert_eq!(log, [(GUEST + 0x1000 + 3 * 16 + 12, vec![1])]);
}

#[test]
fn the_second_queue_has_vectors_of_its_own() {
    let (mut m, mut g) = machine(1, ONE_BUFFER);
    m.store(0x1700, 0x8281_8080);
    m.capture();
    m.world.borrow_mut().raised = 0;
    m.world.borrow_mut().receive(1, &frame(0, 60));
    m.poll();
    assert_eq!(std::mem::take(&mut m.world.borrow_mut().raised), 1 << 1);
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.poll();
    assert_eq!(std::mem::take(&mut m.world.borrow_mut().raised), 1 << 2);
}

#[test]
fn a_frame_waits_until_the_guest_has_room() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    let frames: Vec<_> = (0..20).map(|n| frame(n, 5000)).collect();
    for f in &frames {
        assert!(m.world.borrow_mut().receive(0, f));
    }
    m.poll();
    // 30 descriptors are posted, and a frame takes three.
    assert_eq!(m.load(0x2810), 30);
    g.receive(&mut m, false);
    m.poll();
    g.receive(&mut m, false);
    assert!(g.received == frames);
    assert_eq!(m.model.counters().dropped_rx_no_room, 0);
}
