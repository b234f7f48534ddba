// SPDX-License-Identifier: GPL-2.0

//! One TX queue: what is taken over, what is dropped, and what the guest is told.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::*;
use crate::rig::{context, data, small, tx_ring, Rig, BUFFER, GUEST, LAST, SEGMENTED};
use crate::Igbvf;
use model::adapter::Adapter;

/// A guest with a ring of `len` slots on queue 0, started.
fn rig(len: u32) -> Rig {
    let mut rig = Rig::new();
    rig.enable_tx(0, len);
    rig.start();
    rig
}

/// Takes over at most `budget` packets: how many.
fn fetch(rig: &mut Rig, budget: u32) -> u32 {
    rig.with(|Igbvf { tx, counters, .. }, io| tx[0].fetch(0, io, budget, counters))
}

fn reap(rig: &mut Rig) -> bool {
    rig.with(|model, io| model.tx[0].reap(0, io))
}

fn has_more(rig: &mut Rig) -> bool {
    let Rig { model, page, .. } = rig;
    model.tx[0].has_more(0, page)
}

/// Frames that were sent, dropped as malformed, and dropped as unmapped.
fn counted(rig: &Rig) -> (u64, u64, u64) {
    let c = rig.model.counters();
    (c.tx_frames, c.dropped_tx_malformed, c.dropped_tx_unmapped)
}

#[test]
fn a_head_outside_its_ring_is_counted_once_and_not_served() {
    for (head, good) in [
        (255, true),
        (256, false),
        (0xffff, false),
        (0xabcd_0003, true),
    ] {
        let mut rig = Rig::new();
        rig.enable_tx(0, 256);
        rig.page.write32(regs::TDH, head);
        for _ in 0..2 {
            let Rig { model, page, .. } = &mut rig;
            let followed = model.tx[0].follow(0, page, &mut model.counters);
            assert_eq!(followed, good, "{head:#x}");
        }
        assert_eq!(rig.model.counters().bad_rings, u64::from(!good));
    }
}

#[test]
fn a_reset_forgets_ring_and_contexts() {
    let mut rig = rig(64);
    rig.queue(0, 0, &[context(0, 7), small()]);
    assert_eq!(fetch(&mut rig, 9), 1);
    let queue = &mut rig.model.tx[0];
    assert_eq!(queue.contexts(), [Some(Desc(context(0, 7))), None]);
    queue.reset();
    assert_eq!((queue.contexts(), queue.guest), ([None; 2], None));
    assert!(!queue.is_mirror_on() && queue.count == 0);
}

#[test]
fn more_waits_if_it_is_handed_over_complete_and_can_be_taken() {
    let mut rig = rig(64);
    assert!(!has_more(&mut rig));
    rig.queue(0, 0, &[small(), data(BUFFER, 60, 0)]);
    assert!(has_more(&mut rig));
    // Bits beyond the index are no part of the tail.
    rig.page.write32(regs::TDT, 0xabcd_0000);
    assert!(!has_more(&mut rig));
    rig.page.write32(regs::TDT, 0xabcd_0002);
    assert!(has_more(&mut rig));
    // The second one has no end.
    assert_eq!(fetch(&mut rig, 9), 1);
    assert!(!has_more(&mut rig));
    rig.queue(0, 2, &[data(BUFFER, 60, LAST)]);
    assert!(has_more(&mut rig));
    rig.model.tx[0].mirror_on = false;
    assert!(!has_more(&mut rig));
    rig.model.tx[0].mirror_on = true;
    rig.model.tx[0].forget_guest();
    assert!(!has_more(&mut rig));
}

#[test]
fn no_more_than_64_packets_are_with_the_device() {
    let mut rig = rig(256);
    rig.queue(0, 0, &[small(); 70]);
    assert_eq!(fetch(&mut rig, 100), 64);
    assert!(!has_more(&mut rig));
    assert_eq!(fetch(&mut rig, 100), 0);
    rig.sent(0, 0);
    reap(&mut rig);
    assert!(has_more(&mut rig));
    assert_eq!(fetch(&mut rig, 100), 1);
    for slot in 1..65 {
        rig.sent(0, slot);
    }
    reap(&mut rig);
    assert_eq!(rig.page.read32(regs::TDH), 65);
}

#[test]
fn lengths_are_bounded_for_frames_and_for_what_is_cut_into_segments() {
    let long = |last| {
        let mut descs = vec![data(BUFFER, 0xffff, SEGMENTED); 4];
        descs.push(data(BUFFER, last, LAST | SEGMENTED));
        descs
    };
    for (descs, good) in [
        (vec![data(BUFFER, 1, LAST)], true),
        (vec![data(BUFFER, 0, LAST)], false),
        (vec![data(BUFFER, 16 * 1024, LAST)], true),
        (vec![data(BUFFER, 16 * 1024 + 1, LAST)], false),
        // The first descriptor says that it is cut.
        (
            vec![data(BUFFER, 16 * 1024, SEGMENTED), data(BUFFER, 1, LAST)],
            true,
        ),
        (
            vec![
                data(BUFFER, 16 * 1024, 0),
                data(BUFFER, 1, LAST | SEGMENTED),
            ],
            false,
        ),
        (long(4), true),
        (long(5), false),
    ] {
        let mut rig = rig(64);
        rig.queue(0, 0, &descs);
        fetch(&mut rig, 1);
        assert_eq!(
            counted(&rig),
            (good.into(), (!good).into(), 0),
            "{descs:x?}"
        );
        assert_eq!(rig.hw.writes.is_empty(), !good);
    }
}

#[test]
fn a_packet_is_dropped_for_what_was_wrong_with_it_first() {
    let mut rig = rig(64);
    let mut descs = vec![data(BUFFER, 0xffff, SEGMENTED); 6];
    descs[0] = data(0, 60, SEGMENTED);
    descs.push(data(BUFFER, 60, LAST));
    descs.push(small());
    rig.queue(0, 0, &descs);
    assert_eq!(fetch(&mut rig, 9), 2);
    assert_eq!(counted(&rig), (1, 0, 1));
}

#[test]
fn a_legacy_descriptor_makes_no_sense_whatever_its_other_bits_say() {
    let mut rig = rig(64);
    let mut legacy = small();
    legacy[2] &= !(1 << 29);
    rig.queue(0, 0, &[legacy, small()]);
    assert_eq!(fetch(&mut rig, 9), 2);
    assert_eq!(counted(&rig), (1, 1, 0));
}

#[test]
fn a_descriptor_that_is_not_mapped_costs_its_own_packet() {
    // Three pages of ring, of which the second is not there.
    let mut rig = rig(768);
    rig.mem.holes.insert((tx_ring(0) >> 12) + 1);
    for (slot, dw) in [
        (254, data(BUFFER, 60, LAST)),
        (255, data(BUFFER, 60, 0)),
        (512, data(BUFFER, 60, LAST)),
        (513, small()),
    ] {
        rig.queue(0, slot, &[dw]);
    }
    rig.page.write32(regs::TDH, 254);
    rig.start();
    for _ in 0..20 {
        fetch(&mut rig, 64);
        for slot in 0..9 {
            rig.sent(0, slot);
        }
        reap(&mut rig);
    }
    assert_eq!(counted(&rig), (2, 0, 1));
    assert_eq!(rig.page.read32(regs::TDH), 514);
    // And one at the start of a packet ends with itself.
    let mut rig = self::rig(768);
    rig.mem.holes.insert(tx_ring(0) >> 12);
    rig.queue(0, 256, &[small(), small()]);
    rig.page.write32(regs::TDH, 255);
    rig.start();
    assert_eq!(fetch(&mut rig, 9), 3);
    assert_eq!(counted(&rig), (2, 0, 1));
}

#[test]
fn contexts_alone_are_no_frames_and_go_out_once_before_the_next_one() {
    let mut rig = rig(64);
    rig.queue(0, 0, &[context(0, 5), context(1, 6)]);
    // They wait for what they are for.
    assert_eq!(fetch(&mut rig, 9), 0);
    assert_eq!(counted(&rig), (0, 0, 0));
    assert!(rig.hw.writes.is_empty());
    rig.queue(0, 2, &[small(), small()]);
    assert_eq!(fetch(&mut rig, 9), 2);
    assert_eq!(counted(&rig), (2, 0, 0));
    let first = (0..5).map(|slot| rig.mirrored(0, slot).0[0]);
    let first: Vec<_> = first.collect();
    assert_eq!(first[..2], [5, 6]);
    // And two frames, no more.
    assert_eq!(rig.hw.writes, [(regs::TDT, 4)]);
}

#[test]
fn contexts_that_ask_for_a_status_get_one_and_are_no_frame() {
    let mut rig = rig(64);
    let mut asking = context(0, 5);
    asking[2] |= 1 << 27;
    rig.queue(0, 0, &[asking]);
    assert_eq!(fetch(&mut rig, 9), 1);
    assert!(reap(&mut rig));
    assert_eq!(counted(&rig), (0, 0, 0));
    assert_eq!(rig.status(tx_ring(0), 0, 3) & 1, 1);
}

#[test]
fn what_is_sent_again_has_the_context_of_what_was_sent_before_it() {
    let mut rig = rig(64);
    let descs = [context(0, 7), small(), small(), context(0, 9), small()];
    rig.queue(0, 0, &descs);
    assert_eq!(fetch(&mut rig, 9), 3);
    // A context and a frame. The next one has none of its own, and the last one has another.
    rig.sent(0, 1);
    assert!(reap(&mut rig));
    let queue = &mut rig.model.tx[0];
    assert_eq!(queue.contexts(), [Some(Desc(context(0, 9))), None]);
    queue.mirror_lost();
    assert_eq!(queue.contexts(), [Some(Desc(context(0, 7))), None]);
}

#[test]
fn what_is_sent_again_has_a_context_that_came_in_a_packet_of_its_own() {
    let mut rig = rig(64);
    let mut alone = context(0, 7);
    alone[2] |= 1 << 27;
    rig.queue(0, 0, &[small(), alone]);
    fetch(&mut rig, 9);
    rig.queue(0, 2, &[small()]);
    fetch(&mut rig, 9);
    rig.sent(0, 0);
    assert!(reap(&mut rig));
    // The context is behind the guest's head, and the device has not done what came with it.
    assert_eq!(rig.page.read32(regs::TDH), 2);
    let queue = &mut rig.model.tx[0];
    queue.mirror_lost();
    let kept = queue
        .contexts()
        .map(|context| context.map(|Desc(dw)| dw[0]));
    assert_eq!(kept, [Some(7), None]);
}

#[test]
fn contexts_that_no_frame_has_followed_are_sent_by_themselves_before_a_stop() {
    let mut rig = rig(64);
    rig.queue(0, 0, &[context(1, 6)]);
    fetch(&mut rig, 9);
    let raise = rig.with(|model, io| model.tx[0].drain(0, io));
    let Desc([first, _, cmd, _]) = rig.mirrored(0, 0);
    assert_eq!((first, cmd >> 27 & 1), (6, 1));
    assert!(!raise);
    assert_eq!(rig.hw.writes[0], (regs::TDT, 1));
    // The ring that is off gets nothing.
    let mut rig = self::rig(64);
    rig.queue(0, 0, &[context(1, 6)]);
    fetch(&mut rig, 9);
    rig.model.tx[0].mirror_on = false;
    let Rig { model, mirror, .. } = &mut rig;
    model.tx[0].flush_contexts(0, mirror);
    assert_eq!(rig.mirrored(0, 0), Desc::default());
    // Nor one with the most packets there can be.
    let mut rig = self::rig(128);
    rig.queue(0, 0, &[&[small(); 64][..], &[context(1, 6)]].concat());
    fetch(&mut rig, 64);
    let queue = &mut rig.model.tx[0];
    (queue.contexts[1], queue.unsent[1]) = (Some(Desc(context(1, 6))), true);
    queue.flush_contexts(0, &mut rig.mirror);
    assert_eq!((queue.count, rig.mirrored(0, 64)), (64, Desc::default()));
}

#[test]
fn contexts_are_looked_for_before_the_head_and_the_newest_stays() {
    for tail in [10, 0xabcd_000a] {
        let mut rig = Rig::new();
        rig.enable_tx(0, 64);
        // Of both kinds: old, newest, and one that the hardware has not seen.
        for (slot, index, first) in [
            (60, 0, 1),
            (4, 0, 2),
            (63, 1, 3),
            (62, 1, 4),
            (8, 0, 5),
            (9, 1, 6),
        ] {
            rig.queue(0, slot, &[context(index, first)]);
        }
        rig.page.write32(regs::TDH, 8);
        rig.page.write32(regs::TDT, tail);
        rig.start();
        let found = rig.model.tx[0].contexts();
        let first = found.map(|context| context.map(|desc| desc.0[0]));
        assert_eq!(first, [Some(2), Some(3)], "{tail:#x}");
    }
}

#[test]
fn contexts_are_looked_for_in_every_slot_that_the_guest_has_back() {
    for slot in [7, 0, 1] {
        let mut rig = Rig::new();
        rig.enable_tx(0, 8);
        rig.queue(0, slot, &[context(0, 3)]);
        // This one waits.
        rig.queue(0, 5, &[context(1, 4)]);
        rig.page.write32(regs::TDH, 2);
        rig.page.write32(regs::TDT, 0xabcd_0006);
        rig.start();
        let found = rig.model.tx[0].contexts();
        assert_eq!(found, [Some(Desc(context(0, 3))), None], "{slot}");
    }
}

#[test]
fn a_mirror_ring_starts_with_the_contexts_that_are_known() {
    let mut rig = Rig::new();
    rig.enable_tx(0, 64);
    rig.model.tx[0].set_contexts([None, Some(Desc(context(1, 6)))]);
    let Rig {
        model, hw, mirror, ..
    } = &mut rig;
    model.tx[0].start(0, hw, mirror).unwrap();
    assert_eq!(rig.mirrored(0, 0).0[0], 6);
    assert_eq!(rig.hw.writes.last(), Some(&(regs::TDT, 1)));
}

#[test]
fn the_guest_is_told_once_of_every_packet_that_is_done() {
    let mut rig = rig(64);
    let silent = data(BUFFER, 60, LAST & !(1 << 27));
    rig.queue(0, 0, &[small(), silent, small(), silent]);
    assert_eq!(fetch(&mut rig, 9), 4);
    assert!(!reap(&mut rig));
    // Two of the three that are done by now ask for a status.
    for slot in 0..3 {
        rig.sent(0, slot);
    }
    assert!(reap(&mut rig));
    assert_eq!(rig.page.read32(regs::TDH), 3);
    let dd: Vec<_> = (0..4).map(|n| rig.status(tx_ring(0), n, 3) & 1).collect();
    assert_eq!(dd, [1, 0, 1, 0]);
    rig.sent(0, 3);
    assert!(!reap(&mut rig));
    assert_eq!(rig.page.read32(regs::TDH), 4);
}

#[test]
fn each_descriptor_that_asks_for_it_gets_a_status_with_the_kind_of_its_own_context() {
    let mut rig = rig(64);
    let mut last = small();
    last[3] |= 1 << 4;
    rig.queue(0, 0, &[data(BUFFER, 60, 1 << 27), last]);
    assert_eq!(fetch(&mut rig, 9), 1);
    rig.sent(0, 1);
    assert!(reap(&mut rig));
    let status = [0, 1].map(|slot| rig.status(tx_ring(0), slot, 3) & 0xff);
    assert_eq!(status, [0x01, 0x11]);
}

/// A mirror area in which the device has sent what is in slot 1 when somebody has looked there once.
struct Late<'a>(&'a mut dyn Area, u32);

impl Area for Late<'_> {
    fn iova(&self) -> Iova {
        self.0.iova()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn read(&mut self, at: usize, buf: &mut [u8]) {
        self.0.read(at, buf);
        if at == mirror::tx_slot(0, 1) + 12 {
            buf[0] |= u8::from(self.1 > 0);
            self.1 += 1;
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.0.write(at, bytes);
    }
}

#[test]
fn a_drain_says_that_the_guest_waits_however_many_turns_it_took() {
    let mut rig = rig(64);
    rig.queue(0, 0, &[small(), small()]);
    fetch(&mut rig, 9);
    rig.sent(0, 0);
    let raise = rig.with(|model, io| {
        let mut io = Io {
            hw: &mut *io.hw,
            page: &mut *io.page,
            mem: &mut *io.mem,
            mirror: &mut Late(&mut *io.mirror, 0),
        };
        model.tx[0].drain(0, &mut io)
    });
    assert!(raise);
    assert_eq!((rig.page.read32(regs::TDH), rig.hw.pauses.len()), (2, 1));
}

#[test]
fn a_drain_waits_for_the_device_and_says_whether_the_guest_waits() {
    let drain = |rig: &mut Rig| rig.with(|model, io| model.tx[0].drain(0, io));
    // Nothing to wait for.
    let mut rig = rig(64);
    assert!(!drain(&mut rig));
    assert!(rig.hw.pauses.is_empty());
    // Done already.
    rig.queue(0, 0, &[small()]);
    fetch(&mut rig, 9);
    rig.sent(0, 0);
    assert!(drain(&mut rig));
    assert!(rig.hw.pauses.is_empty());
    // Never done: given up after a while.
    rig.queue(0, 1, &[small()]);
    fetch(&mut rig, 9);
    assert!(!drain(&mut rig));
    assert_eq!(rig.hw.pauses.len(), mirror::DRAIN_TRIES as usize);
    // One is done, another one is not.
    rig.queue(0, 2, &[small()]);
    fetch(&mut rig, 9);
    rig.sent(0, 1);
    assert!(drain(&mut rig));
    assert_eq!(rig.hw.pauses.len(), 2 * mirror::DRAIN_TRIES as usize);
    // Nobody works at it.
    rig.model.tx[0].mirror_on = false;
    assert!(!drain(&mut rig));
    assert_eq!(rig.hw.pauses.len(), 2 * mirror::DRAIN_TRIES as usize);
}

#[test]
fn a_frame_of_our_own_is_padded_with_zeroes_and_touches_nothing_else() {
    for (len, padded) in [(1, 60), (42, 60), (60, 60), (61, 61), (64, 64)] {
        let mut rig = rig(64);
        rig.mirror.bytes.fill(0xee);
        let Rig { model, mirror, .. } = &mut rig;
        model.tx[0].send(0, mirror, &vec![7; len]);
        let mut pool = [0; 128];
        rig.mirror.read(mirror::pool(0, 0), &mut pool);
        assert!(pool[..len].iter().all(|byte| *byte == 7));
        assert!(pool[len..padded].iter().all(|byte| *byte == 0), "{len}");
        assert!(pool[64..].iter().all(|byte| *byte == 0xee), "{len}");
        let Desc([_, _, cmd, _]) = rig.mirrored(0, 0);
        assert_eq!((cmd & 0xffff) as usize, padded);
        assert_eq!(rig.model.tx[0].count, 1);
    }
}

#[test]
fn a_frame_of_our_own_is_not_sent_where_there_is_no_room_for_it() {
    let send = |rig: &mut Rig, len: usize| {
        let Rig { model, mirror, .. } = rig;
        let before = model.tx[0].count;
        model.tx[0].send(0, mirror, &vec![7; len]);
        model.tx[0].count - before
    };
    let mut rig = rig(256);
    assert_eq!((send(&mut rig, 65), send(&mut rig, 64)), (0, 1));
    rig.model.tx[0].mirror_on = false;
    assert_eq!(send(&mut rig, 60), 0);
    rig.model.tx[0].mirror_on = true;
    rig.queue(0, 0, &[small(); 100]);
    assert_eq!(fetch(&mut rig, 100), 63);
    assert_eq!(send(&mut rig, 60), 0);
}

#[test]
fn a_pool_that_is_full_stalls_and_goes_on_where_it_was() {
    let mut rig = rig(64);
    // 64 KiB each, of 512 KiB.
    let long = data(BUFFER, 0xffff, SEGMENTED | LAST);
    rig.queue(0, 0, &[long; 12]);
    assert_eq!(fetch(&mut rig, 64), 8);
    assert!(has_more(&mut rig));
    for slot in 0..8 {
        rig.sent(0, slot);
    }
    reap(&mut rig);
    assert_eq!(fetch(&mut rig, 64), 4);
    assert_eq!(counted(&rig), (12, 0, 0));
}

#[test]
fn memory_that_is_busy_is_tried_again() {
    let mut rig = rig(64);
    rig.queue(0, 0, &[small(), small()]);
    for (after, taken) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
        rig.mem.busy_after = Some(after);
        assert_eq!(fetch(&mut rig, 9), taken, "{after}");
    }
    for slot in 0..2 {
        rig.sent(0, slot);
    }
    rig.mem.busy_after = Some(1);
    assert!(reap(&mut rig));
    assert_eq!(rig.page.read32(regs::TDH), 1);
    assert!(reap(&mut rig));
    assert_eq!(rig.page.read32(regs::TDH), 2);
}

#[test]
fn heads_are_written_where_the_guest_wants_them() {
    let mut rig = Rig::new();
    rig.enable_tx(0, 64);
    rig.page.write32(regs::TDWBAL, GUEST as u32 + 0x801);
    rig.page.write32(regs::TDWBAH, (GUEST >> 32) as u32);
    rig.start();
    // Once for each packet, whatever asks for it.
    let first = data(BUFFER, 60, 1 << 27);
    rig.queue(0, 0, &[first, small(), small()]);
    fetch(&mut rig, 9);
    rig.sent(0, 1);
    rig.mem.log = Some(Vec::new());
    assert!(reap(&mut rig));
    let log = rig.mem.log.take().unwrap();
    assert_eq!(log, [(GUEST + 0x800, vec![2, 0, 0, 0])]);
}
