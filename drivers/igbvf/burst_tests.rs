// SPDX-License-Identifier: GPL-2.0

//! Frames that come together: the guest sees all of them or, for the moment, none.

extern crate std;

use std::vec::Vec;

use super::*;
use crate::rig::{rx_buffer, rx_ring, Rig, ONE_BUFFER, SPLIT};
use crate::{mirror, Igbvf};
use model::adapter::Adapter;
use model::image::{Reader, Writer};
use model::io::{Area, Registers};

const DONE: u32 = 3;

/// A guest with a ring of `len` slots, all but one handed over; its head is at `head`, and `frames` have come.
fn rig(len: u32, head: u32, frames: u32) -> Rig {
    let mut rig = Rig::new();
    rig.enable_rx(0, len, (head + len - 1) % len, ONE_BUFFER);
    rig.page.write32(regs::RDH, head);
    rig.start();
    for n in 0..frames {
        rig.received(0, n, 60 + n as usize, n as u8);
    }
    rig.mem.log = Some(Vec::new());
    rig
}

fn relay(rig: &mut Rig, budget: u32) -> u32 {
    rig.with(|Igbvf { rx, counters, .. }, io| rx[0].relay(0, io, budget, counters))
}

/// Writes to the ring since the last call: the first slot and the bytes of each.
fn writes(rig: &mut Rig) -> Vec<(u64, usize)> {
    let log = rig.mem.log.replace(Vec::new()).unwrap();
    let ring = rx_ring(0)..rx_ring(0) + 0x4000;
    log.iter()
        .filter(|(at, _)| ring.contains(at))
        .map(|(at, bytes)| ((at - ring.start) / 16, bytes.len()))
        .collect()
}

/// The guest's slots from `first` on have the frames `numbers`, and the next one has none.
fn require(rig: &Rig, first: u32, numbers: core::ops::Range<u32>) {
    for n in numbers.clone() {
        let slot = first + n - numbers.start;
        let status = rig.status(rx_ring(0), slot, 2);
        assert_eq!((status, rig.status(rx_ring(0), slot, 3)), (DONE, 60 + n));
        assert_eq!(rig.mem.get(rx_buffer(slot), 1), [n as u8]);
    }
    let next = first + numbers.len() as u32;
    assert_eq!(rig.status(rx_ring(0), next, 2) & DD, 0);
}

#[test]
fn descriptors_of_a_burst_take_two_writes_and_the_first_gets_its_dd_last() {
    let mut rig = rig(64, 3, 5);
    assert_eq!(relay(&mut rig, 9), 5);
    let log = rig.mem.log.clone().unwrap();
    assert_eq!(writes(&mut rig), [(3, 5 * 16), (3, 1)]);
    let (_, bytes) = &log[log.len() - 2];
    let dd: Vec<u8> = bytes.chunks(16).map(|desc| desc[8] & 1).collect();
    assert_eq!(dd, [0, 1, 1, 1, 1]);
    // The payload was there before.
    assert_eq!(log.len(), 5 + 2);
    require(&rig, 3, 0..5);
    assert_eq!(rig.page.read32(regs::RDH), 8);
    assert_eq!(rig.model.counters().rx_frames, 5);
}

#[test]
fn a_burst_ends_with_the_budget_the_free_slots_the_page_and_the_ring() {
    for (len, head, tail, frames, budget, expected) in [
        (64, 0, 63, 20, 64, &[(0, 16), (16, 4)][..]),
        (64, 0, 63, 20, 6, &[(0, 6)]),
        (64, 0, 7, 20, 64, &[(0, 7)]),
        (64, 62, 61, 5, 64, &[(62, 2), (0, 3)]),
        (512, 250, 249, 9, 64, &[(250, 6), (256, 3)]),
    ] {
        let mut rig = rig(len, head, frames);
        rig.page.write32(regs::RDT, tail);
        let all: usize = expected.iter().map(|(_, descs)| descs).sum();
        assert_eq!(relay(&mut rig, budget), all as u32, "{expected:?}");
        let bursts: Vec<_> = writes(&mut rig).into_iter().step_by(2).collect();
        let expected: Vec<_> = expected.iter().map(|&(at, n)| (at, n * 16)).collect();
        assert_eq!(bursts, expected);
    }
}

#[test]
fn a_frame_that_needs_more_than_a_descriptor_has_its_own_turn_and_order_is_kept() {
    let mut rig = rig(64, 0, 3);
    rig.received(0, 3, 5000, 7);
    for n in 0..2 {
        rig.received(0, 6 + n, 63 + n as usize, 3 + n as u8);
    }
    assert_eq!(relay(&mut rig, 9), 6);
    let bursts: Vec<_> = writes(&mut rig).into_iter().filter(|w| w.1 > 16).collect();
    assert_eq!(bursts, [(0, 48), (6, 32)]);
    assert_eq!(rig.mem.get(rx_buffer(3), 1), [7]);
    require(&rig, 6, 3..5);
}

#[test]
fn a_burst_that_memory_interrupts_goes_on_where_it_was() {
    // A read of the ring, four copies, and two writes.
    for after in 0..8 {
        let mut rig = rig(64, 0, 4);
        rig.mem.busy_after = Some(after);
        rig.mem.busy_always = true;
        let first = relay(&mut rig, 9);
        rig.mem.busy_after = None;
        let all_but_dd = after == 6;
        assert_eq!(first, if after > 6 { 4 } else { 0 }, "{after}");
        assert_eq!(rig.page.read32(regs::RDH), first);
        assert_eq!(rig.model.rx[0].partial().written, 4 * u8::from(all_but_dd));
        if first == 0 {
            assert_eq!(rig.status(rx_ring(0), 0, 2) & DD, 0);
            let _ = writes(&mut rig);
            assert_eq!(relay(&mut rig, 9), 4);
            if all_but_dd {
                assert_eq!(writes(&mut rig), [(0, 1)]);
            }
        }
        require(&rig, 0, 0..4);
        assert_eq!(rig.page.read32(regs::RDH), 4);
        assert_eq!(rig.model.rx[0].partial(), Partial::default());
        assert_eq!(relay(&mut rig, 9), 0);
        assert_eq!(rig.model.counters().rx_frames, 4, "{after}");
    }
}

#[test]
fn what_was_copied_before_memory_got_busy_is_delivered() {
    for after in 1..5 {
        let mut rig = rig(64, 0, 4);
        // Once: at the copy of this frame, which the next burst begins with.
        rig.mem.busy_after = Some(after);
        assert_eq!(relay(&mut rig, 9), 4, "{after}");
        let bursts: Vec<_> = writes(&mut rig).into_iter().step_by(2).collect();
        let (first, rest) = (after as usize - 1, 5 - after as usize);
        if first > 0 {
            assert_eq!(bursts, [(0, first * 16), (first as u64, rest * 16)]);
        }
        require(&rig, 0, 0..4);
    }
}

#[test]
fn a_burst_whose_frames_were_spoiled_gets_its_dd_all_the_same() {
    let mut rig = interrupted();
    rig.received(0, 0, 0, 7);
    assert_eq!(relay(&mut rig, 9), 4);
    assert_eq!(rig.status(rx_ring(0), 0, 2), DONE);
    assert_eq!(rig.page.read32(regs::RDH), 4);
}

#[test]
fn the_first_descriptor_of_an_interrupted_burst_keeps_what_its_device_says() {
    // IP and TCP checksums are good.
    const CHECKED: u32 = 3 << 5;
    let mut rig = rig(64, 0, 4);
    let desc = Desc([0x11, 0x1234, DONE | CHECKED, 60]);
    rig.mirror.write(mirror::rx_slot(0, 0), &desc.to_bytes());
    rig.mem.busy_after = Some(6);
    assert_eq!(relay(&mut rig, 9), 0);
    assert_eq!(relay(&mut rig, 9), 4);
    assert_eq!(rig.status(rx_ring(0), 0, 2), DONE | CHECKED);
}

#[test]
fn a_burst_that_is_ended_may_be_more_than_the_budget_but_for_none() {
    let mut rig = interrupted();
    assert_eq!(relay(&mut rig, 0), 0);
    rig.received(0, 4, 60, 7);
    let progress = rig.with(|model, io| model.poll(io, 2));
    assert_eq!((progress.frames, progress.more), (4, true));
    assert_eq!(relay(&mut rig, 2), 1);
}

#[test]
fn a_burst_that_is_ended_is_part_of_the_budget() {
    let mut rig = interrupted();
    for n in 4..9 {
        rig.received(0, n, 60, 7);
    }
    assert_eq!(relay(&mut rig, 6), 6);
}

#[test]
fn a_queue_that_is_switched_off_gets_no_burst() {
    let mut rig = rig(64, 0, 4);
    rig.page.write32(regs::RXDCTL, 0);
    assert_eq!(relay(&mut rig, 9), 0);
    assert_eq!(rig.mem.log.map(|log| log.len()), Some(0));
}

/// One whose first burst lacks its DD.
fn interrupted() -> Rig {
    let mut rig = rig(64, 0, 4);
    rig.mem.busy_after = Some(6);
    assert_eq!(relay(&mut rig, 9), 0);
    rig.mem.busy_after = None;
    assert_eq!(rig.model.rx[0].partial().written, 4);
    rig
}

#[test]
fn a_burst_that_lacks_its_dd_travels_and_ends_on_the_other_side() {
    let mut rig = interrupted();
    rig.received(0, 4, 64, 4);
    // Nobody could be told until then.
    rig.mem.busy_after = Some(0);
    rig.mem.busy_always = true;
    rig.with(|model, io| model.stop(io)).unwrap();
    rig.mem.busy_after = None;
    assert_eq!(rig.model.held(), 5);
    let mut other = Rig::new();
    let mut state = [0; 1024];
    let Rig {
        model, hw, page, ..
    } = &mut rig;
    let mut w = Writer::new(&mut state);
    model.save_state(hw, page, &mut w).unwrap();
    let bytes = w.written();
    let Rig {
        model, hw, page, ..
    } = &mut other;
    let mut r = Reader::new(&state[..bytes]);
    model.load_state(&mut r, hw, page).unwrap();
    for index in 0..5 {
        let mut held = [0; 1024];
        let mut w = Writer::new(&mut held);
        let Rig { model, mirror, .. } = &mut rig;
        model.save_held(index, mirror, &mut w).unwrap();
        let bytes = w.written();
        let Rig { model, mirror, .. } = &mut other;
        let mut r = Reader::new(&held[..bytes]);
        model.load_held(&mut r, mirror).unwrap();
    }
    other.mem = rig.mem.clone();
    other.start();
    let _ = writes(&mut other);
    assert_eq!(relay(&mut other, 9), 5);
    assert_eq!(writes(&mut other), [(0, 1), (4, 16), (4, 1)]);
    require(&other, 0, 0..5);
    assert_eq!(other.model.held(), 0);
}

#[test]
fn a_burst_that_lacks_its_dd_is_forgotten_with_its_ring() {
    let mut rig = interrupted();
    rig.page.write32(regs::RDH, 0);
    rig.page.write32(regs::RDLEN, 32 * 16);
    let Rig { model, page, .. } = &mut rig;
    assert!(model.rx[0].follow(0, page, &mut model.counters));
    assert_eq!(model.rx[0].partial(), Partial::default());
}

#[test]
fn a_ring_that_cannot_be_written_to_costs_a_burst_once() {
    let mut rig = rig(64, 0, 9);
    rig.mem.read_only.insert(rx_ring(0) >> 12);
    assert_eq!(relay(&mut rig, 9), 0);
    assert_eq!(rig.model.counters().dropped_rx_unmapped, 9);
    assert_eq!(rig.page.read32(regs::RDH), 9);
    // Their payload was copied for the burst, and for each on its own.
    assert_eq!(rig.mem.log.map(|log| log.len()), Some(18));
}

#[test]
fn frames_of_a_guest_that_splits_them_come_together_as_well() {
    let mut rig = rig(64, 0, 0);
    rig.page.write32(regs::SRRCTL, SPLIT);
    rig.start();
    for n in 0..3 {
        rig.received(0, n, 100 + 100 * n as usize, n as u8);
    }
    let _ = writes(&mut rig);
    assert_eq!(relay(&mut rig, 9), 3);
    assert_eq!(writes(&mut rig), [(0, 48), (0, 1)]);
    for (slot, header, packet) in [(0, 100, 0), (1, 128, 72), (2, 128, 172)] {
        assert_eq!(rig.status(rx_ring(0), slot, 0) >> 21, header);
        assert_eq!(rig.status(rx_ring(0), slot, 3), packet);
    }
}

#[test]
fn a_page_of_a_ring_ends_where_the_next_one_begins() {
    for (base, index, left) in [
        (0, 0, 256),
        (0, 255, 1),
        (0, 256, 256),
        (0xf80, 7, 1),
        (0xf80, 8, 256),
    ] {
        assert_eq!(descs_to_page_end(Iova(base), index), left);
    }
    // However odd: never none.
    assert_eq!(descs_to_page_end(Iova(u64::MAX), 0), 1);
}
