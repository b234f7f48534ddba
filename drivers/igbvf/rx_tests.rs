// SPDX-License-Identifier: GPL-2.0

//! One RX queue: what the guest gets, and what it does not.

extern crate std;

use std::vec::Vec;

use super::*;
use crate::frame::Meta;
use crate::rig::{rx_buffer, rx_header, rx_ring, Rig, ONE_BUFFER, SPLIT};
use crate::Igbvf;
use model::adapter::Adapter;

/// A guest with a ring of 64 slots on queue 0, of which `free` are handed over; started.
fn rig(free: u32, srrctl: u32) -> Rig {
    let mut rig = Rig::new();
    rig.enable_rx(0, 64, free, srrctl);
    rig.start();
    rig
}

fn relay(rig: &mut Rig, budget: u32) -> u32 {
    rig.with(|Igbvf { rx, counters, .. }, io| rx[0].relay(0, io, budget, counters))
}

fn has_more(rig: &mut Rig) -> bool {
    rig.with(|Igbvf { rx, counters, .. }, io| rx[0].has_more(0, io, counters))
}

fn hold(rig: &mut Rig) {
    rig.with(|Igbvf { rx, counters, .. }, io| rx[0].hold(0, io.mirror, counters));
}

/// RX status of the guest's descriptor `slot`.
fn status(rig: &Rig, slot: u32) -> u32 {
    rig.status(rx_ring(0), slot, 2)
}

#[test]
fn a_head_outside_its_ring_is_counted_once_and_not_served() {
    for (head, good) in [
        (63, true),
        (64, false),
        (0xffff, false),
        (0xabcd_0003, true),
    ] {
        let mut rig = Rig::new();
        rig.enable_rx(0, 64, 9, ONE_BUFFER);
        rig.page.write32(regs::RDH, head);
        rig.model.rx[0].mirror_on = true;
        rig.received(0, 0, 60, 7);
        for _ in 0..2 {
            let Rig { model, page, .. } = &mut rig;
            let followed = model.rx[0].follow(0, page, &mut model.counters);
            assert_eq!(followed, good, "{head:#x}");
        }
        assert_eq!(rig.model.counters().bad_rings, u64::from(!good));
        assert_eq!(relay(&mut rig, 9), u32::from(good));
    }
}

#[test]
fn the_hardware_is_told_once_of_the_slots_that_were_emptied() {
    let kick = |rig: &mut Rig| {
        let Rig { model, hw, .. } = rig;
        model.rx[0].kick(0, hw);
        hw.take_writes()
    };
    let mut rig = rig(32, ONE_BUFFER);
    assert_eq!(kick(&mut rig), []);
    for slot in 0..3 {
        rig.received(0, slot, 60, 7);
    }
    assert_eq!(relay(&mut rig, 9), 3);
    // One slot less than all of them.
    assert_eq!(kick(&mut rig), [(regs::RDT, 2)]);
    assert_eq!(kick(&mut rig), []);
    rig.received(0, 3, 60, 7);
    assert_eq!(relay(&mut rig, 9), 1);
    rig.model.rx[0].mirror_on = false;
    assert_eq!(kick(&mut rig), []);
}

#[test]
fn frames_take_as_many_descriptors_as_they_need_and_the_last_free_one_too() {
    for (free, len, delivered) in [
        (0, 60, 0),
        (1, 60, 1),
        (1, 2048, 1),
        (1, 2049, 0),
        (2, 2049, 1),
        (2, 4097, 0),
        (3, 4097, 1),
        (0xabcd_0001, 60, 1),
        (0xabcd_0000, 60, 0),
    ] {
        let mut rig = rig(free, ONE_BUFFER);
        rig.received(0, 0, len, 7);
        assert_eq!(has_more(&mut rig), delivered == 1, "{free} {len}");
        assert_eq!(relay(&mut rig, 9), delivered, "{free} {len}");
        let descs = len.div_ceil(2048) as u32 * delivered;
        assert_eq!(rig.page.read32(regs::RDH), descs);
        assert_eq!(status(&rig, 0) & 1, delivered);
    }
}

#[test]
fn nothing_waits_for_a_guest_that_is_off_or_has_no_frames() {
    let mut rig = rig(9, ONE_BUFFER);
    assert!(!has_more(&mut rig));
    rig.received(0, 0, 60, 7);
    assert!(has_more(&mut rig));
    // What makes no sense is to be dropped.
    rig.received(0, 0, 0, 7);
    assert!(has_more(&mut rig));
    rig.with(|Igbvf { rx, counters, .. }, _| rx[0].forget_guest(counters));
    assert!(!has_more(&mut rig));
}

#[test]
fn a_header_goes_to_the_first_header_buffer_only() {
    let mut rig = rig(9, SPLIT);
    rig.received(0, 0, 128 + 3 * 2048 - 5, 7);
    assert_eq!(relay(&mut rig, 9), 1);
    assert_eq!(rig.mem.get(rx_header(0), 128), [7; 128]);
    assert_eq!(rig.mem.get(rx_header(1), 256), [0; 256]);
    for (slot, bytes) in [(0, 2048), (1, 2048), (2, 2043)] {
        let got = rig.mem.get(rx_buffer(slot), 2048);
        assert!(got[..bytes].iter().all(|byte| *byte == 7));
        assert!(got[bytes..].iter().all(|byte| *byte == 0));
        assert_eq!(rig.status(rx_ring(0), slot, 3), bytes as u32);
        let header = if slot == 0 { 128 } else { 0 };
        let types = rig.status(rx_ring(0), slot, 0);
        assert_eq!((types >> 21, types & 0x1_ffff), (header, 0x11));
    }
}

#[test]
fn only_the_last_descriptor_says_what_the_device_said() {
    let mut frame = Frame::new();
    frame.meta = Meta {
        types: 0x11,
        hash: 5,
        status: 0x30,
        vlan: 77,
    };
    for n in 0..2 {
        frame.push(n * 2048, 1500);
    }
    let format = Format {
        buffer: 2048,
        header: None,
    };
    // EOP is ours to set, and DD is not set here.
    let desc = |n, failed| write_back(format, &frame, n, 2, failed);
    assert_eq!(desc(0, false), Desc([0x11, 0, 0, 2048]));
    assert_eq!(desc(1, false), Desc([0x11, 5, 0x32, 952 | 77 << 16]));
    assert_eq!(desc(1, true), Desc([0x11, 5, 0x8000_0032, 952 | 77 << 16]));
    frame.meta.status = u32::MAX;
    assert_eq!(write_back(format, &frame, 1, 2, false).0[2], !1);
}

#[test]
fn a_frame_that_no_ring_can_hold_is_dropped_and_the_next_one_arrives() {
    let mut rig = Rig::new();
    rig.enable_rx(0, 8, 7, ONE_BUFFER);
    rig.start();
    rig.received(0, 0, 7 * 2048 + 1, 7);
    rig.received(0, 8, 7 * 2048, 8);
    assert_eq!(relay(&mut rig, 9), 1);
    assert_eq!(rig.model.counters().dropped_rx_no_room, 1);
    assert_eq!(rig.mem.get(rx_buffer(0), 1), [8]);
}

#[test]
fn frames_that_make_no_sense_are_counted_and_skipped() {
    let mut rig = rig(9, ONE_BUFFER);
    rig.received(0, 0, 0, 7);
    rig.received(0, 1, 60, 8);
    assert_eq!(relay(&mut rig, 9), 1);
    assert_eq!(rig.model.counters().dropped_rx_malformed, 1);
    assert_eq!(rig.mem.get(rx_buffer(0), 1), [8]);
}

#[test]
fn a_queue_that_is_switched_off_between_two_frames_gets_no_more() {
    let mut rig = rig(9, ONE_BUFFER);
    rig.received(0, 0, 60, 7);
    rig.page.write32(regs::RXDCTL, !regs::ENABLE);
    assert_eq!(relay(&mut rig, 9), 0);
    rig.page.write32(regs::RXDCTL, u32::MAX);
    assert_eq!(relay(&mut rig, 9), 1);
}

#[test]
fn what_is_discarded_makes_room_and_reaches_nobody() {
    let mut rig = rig(9, ONE_BUFFER);
    for slot in 0..5 {
        rig.received(0, slot, 60, 7);
    }
    let Rig { model, mirror, .. } = &mut rig;
    model.rx[0].discard(0, mirror);
    assert_eq!((model.rx[0].next, model.rx[0].emptied), (5, 5));
    assert_eq!((relay(&mut rig, 9), status(&rig, 0) & DD), (0, 0));
}

#[test]
fn what_is_held_is_older_than_what_arrives_and_is_counted_if_it_is_dropped() {
    let mut rig = rig(0, ONE_BUFFER);
    for slot in 0..3 {
        rig.received(0, slot, 60, slot as u8);
    }
    rig.received(0, 3, 0, 7);
    hold(&mut rig);
    assert_eq!(rig.model.held(), 3);
    let c = rig.model.counters();
    assert_eq!((c.held_frames, c.dropped_rx_malformed), (3, 1));
    rig.received(0, 4, 60, 3);
    rig.page.write32(regs::RDT, 2);
    assert_eq!(relay(&mut rig, 9), 2);
    rig.page.write32(regs::RDT, 9);
    assert_eq!(relay(&mut rig, 9), 2);
    let first: Vec<_> = (0..4).map(|n| rig.mem.get(rx_buffer(n), 1)[0]).collect();
    assert_eq!(first, [0, 1, 2, 3]);
    rig.received(0, 5, 60, 7);
    hold(&mut rig);
    rig.model.drop_held();
    assert_eq!(rig.model.held(), 0);
    assert_eq!(rig.model.counters().dropped_rx_no_room, 1);
    // Without frames there is nothing to count.
    rig.model.drop_held();
    assert_eq!(rig.model.counters().dropped_rx_no_room, 1);
}

/// A guest whose ring has, before the head, a descriptor with this status.
fn cut(status: u32, free: u32) -> Rig {
    let mut rig = Rig::new();
    rig.enable_rx(0, 64, 5 + free, ONE_BUFFER);
    rig.page.write32(regs::RDH, 5);
    let desc = Desc([0x11, 0, status, 2048]);
    rig.mem.set(rx_ring(0) + 4 * 16, &desc.to_bytes());
    rig.start();
    rig
}

#[test]
fn only_a_frame_that_the_hardware_has_begun_is_ended() {
    for (before, free, ended) in [
        (DD, 1, true),
        (DD | 0x30, 9, true),
        // The head is at a frame's start, or the slot was never used, or there is none to end it in.
        (DD | RX_EOP, 9, false),
        (RX_EOP, 9, false),
        (0, 9, false),
        (DD, 0, false),
    ] {
        let rig = cut(before, free);
        let untouched = rx_header(5) as u32;
        let expected = if ended {
            DD | RX_EOP | RX_RXE
        } else {
            untouched
        };
        assert_eq!(status(&rig, 5), expected, "{before:#x} {free}");
        let mut page = rig.page.clone();
        assert_eq!(page.read32(regs::RDH), 5 + u32::from(ended));
    }
}

#[test]
fn a_frame_that_was_cut_ends_at_once_and_the_next_one_is_whole() {
    let mut rig = cut(DD, 9);
    rig.received(0, 0, 60, 7);
    assert_eq!(relay(&mut rig, 9), 1);
    assert_eq!((status(&rig, 6), rig.mem.get(rx_buffer(6), 1)[0]), (3, 7));
}

#[test]
fn a_delivery_that_memory_interrupts_goes_on_where_it_was() {
    // Three descriptors: two reads, three copies, and then two writes for each.
    for after in 0..10 {
        let mut rig = rig(9, ONE_BUFFER);
        rig.received(0, 0, 5000, 7);
        rig.mem.busy_after = Some(after);
        rig.mem.busy_always = true;
        let first = relay(&mut rig, 9);
        rig.mem.busy_after = None;
        let (descs, partial) = (rig.page.read32(regs::RDH), rig.model.rx[0].partial);
        if first == 0 {
            assert_eq!(u32::from(partial.descs), descs, "{after}");
            // Nothing that has no DD yet is visible, and nothing that has one is written again.
            for slot in 0..4 {
                assert_eq!(status(&rig, slot) & 1, u32::from(slot < descs));
            }
            rig.mem.log = Some(Vec::new());
            assert_eq!(relay(&mut rig, 9), 1);
            let log = rig.mem.log.take().unwrap();
            let done = rx_ring(0)..rx_ring(0) + u64::from(descs) * 16;
            assert!(!log.iter().any(|(at, _)| done.contains(at)), "{after}");
        }
        assert_eq!(rig.model.rx[0].partial, Partial::default());
        assert_eq!([0, 1, 2].map(|slot| status(&rig, slot)), [1, 1, 3]);
        assert_eq!(status(&rig, 3) & DD, 0);
        assert_eq!(rig.page.read32(regs::RDH), 3);
    }
}
