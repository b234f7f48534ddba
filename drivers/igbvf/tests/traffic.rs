// SPDX-License-Identifier: GPL-2.0

//! Frames across capture and release.

use model::adapter::Adapter;
use model::mock::Random;

use crate::flow::{frame, machine, Flow};
use crate::guest::{Cut, Guest, ONE_BUFFER, SPLIT};
use crate::vf::GUEST;

#[test]
fn frames_keep_their_order_and_number_across_captures_and_releases() {
    for (q, srrctl) in [(0, ONE_BUFFER), (0, SPLIT), (1, ONE_BUFFER)] {
        let (mut m, mut g) = machine(q, srrctl);
        let mut r = Random(1 + u64::from(q));
        let mut flow = Flow::new(q);
        for _ in 0..60 {
            for _ in 0..r.below(20) {
                flow.step(&mut m, &mut g, &mut r);
            }
            if m.captured {
                // Whoever has held frames stays emulated until they are delivered.
                m.with(|model, io| model.stop(io)).unwrap();
                while m.model.held() > 0 {
                    m.with(|model, io| model.start(io));
                    m.poll();
                    g.receive(&mut m, false);
                    m.poll();
                    m.with(|model, io| model.stop(io)).unwrap();
                }
                m.release().unwrap();
            } else {
                m.capture();
            }
        }
        assert!(flow.sent > 100 && flow.injected.len() > 100);
        flow.finish(&mut m, &mut g);
    }
}

#[test]
fn frames_survive_stops_and_starts() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    let mut r = Random(7);
    let mut flow = Flow::new(0);
    m.capture();
    for _ in 0..100 {
        flow.lazy = r.below(2) == 0;
        for _ in 0..r.below(20) {
            flow.step(&mut m, &mut g, &mut r);
        }
        m.with(|model, io| model.stop(io)).unwrap();
        assert_eq!(m.world.borrow().regs[0x2828 / 4] & 1 << 25, 0);
        m.with(|model, io| model.start(io));
    }
    flow.finish(&mut m, &mut g);
    assert!(m.model.counters().held_frames > 0);
}

#[test]
fn busy_guest_memory_stalls_and_loses_nothing() {
    for srrctl in [ONE_BUFFER, SPLIT] {
        let (mut m, mut g) = machine(0, srrctl);
        let mut r = Random(11);
        let mut flow = Flow::new(0);
        m.capture();
        for i in 0..3000 {
            // The n-th access from now fails.
            m.world.borrow_mut().memory.busy_after = Some(r.below(40));
            flow.step(&mut m, &mut g, &mut r);
            if i % 50 == 0 {
                m.world.borrow_mut().memory.busy_after = None;
                m.with(|model, io| model.stop(io)).unwrap();
                m.with(|model, io| model.start(io));
            }
        }
        m.world.borrow_mut().memory.busy_after = None;
        flow.finish(&mut m, &mut g);
    }
}

#[test]
fn dd_is_written_last_and_alone() {
    let (mut m, mut g) = machine(0, SPLIT);
    m.capture();
    m.world.borrow_mut().memory.log = Some(Vec::new());
    g.send(
        &mut m,
        &frame(0, 3000),
        Cut {
            pieces: 3,
            ..Cut::default()
        },
    );
    m.world.borrow_mut().receive(0, &frame(1, 5000));
    m.poll();
    let log = m.world.borrow_mut().memory.log.take().unwrap();
    let ring = |at: u64| (GUEST + 0x1000..GUEST + 0x5000).contains(&at);
    let mut open = None;
    let mut published = 0;
    for (at, bytes) in log {
        match (ring(at), bytes.len()) {
            (true, 16) => {
                assert_eq!(bytes[8] & 1, 0, "DD with the rest of the descriptor");
                open = Some(at);
            }
            (true, 1) if at & 0xf == 8 => {
                assert_eq!(open.take(), Some(at - 8), "DD before its descriptor");
                assert_eq!(bytes[0] & 1, 1);
                published += 1;
            }
            (true, 1) => assert_eq!((at & 0xf, bytes[0]), (12, 1)),
            (true, n) => panic!("{n} bytes into a ring"),
            (false, _) => assert_eq!(published, 0, "payload after DD"),
        }
    }
    // 128 bytes of header, and three buffers of 2 KiB.
    assert_eq!(published, 3);
}

#[test]
fn only_descriptors_with_rs_get_dd() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    g.send(
        &mut m,
        &frame(0, 900),
        Cut {
            pieces: 3,
            context: Some(5),
            tso: false,
        },
    );
    m.poll();
    let w = m.world.borrow();
    let dd = |slot: u64| w.memory.get(GUEST + 0x1000 + slot * 16 + 12, 1)[0] & 1;
    assert_eq!([dd(0), dd(1), dd(2), dd(3)], [0, 0, 0, 1]);
}

#[test]
fn interrupts_are_raised_by_the_guest_s_own_vectors() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.poll();
    m.world.borrow_mut().raised = 0;
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.poll();
    assert_eq!(std::mem::take(&mut m.world.borrow_mut().raised), 1);
    m.world.borrow_mut().receive(0, &frame(1, 60));
    m.poll();
    assert_eq!(std::mem::take(&mut m.world.borrow_mut().raised), 2);
    m.poll();
    assert_eq!(m.world.borrow().raised, 0);
}

#[test]
fn tso_packets_and_their_contexts_go_out_as_they_are() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    g.send(
        &mut m,
        &frame(0, 60_000),
        Cut {
            pieces: 17,
            context: Some(0xabcd),
            tso: true,
        },
    );
    m.poll();
    g.clean(&mut m);
    assert_eq!(g.in_flight(), 0);
    let (sent, [flags, context]) = m.world.borrow_mut().wire.pop_front().unwrap();
    assert!(sent == frame(0, 60_000));
    assert_eq!((flags & 2, context), (2, 0xabcd));
}

#[test]
fn a_partial_packet_waits_for_its_end() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    g.queue(
        &mut m,
        &frame(0, 900),
        Cut {
            pieces: 3,
            ..Cut::default()
        },
    );
    m.store(0x3818, 2);
    m.turns(5);
    assert!(m.world.borrow().wire.is_empty());
    assert_eq!(m.load(0x3810), 0);
    g.doorbell(&mut m);
    m.poll();
    assert_eq!(m.world.borrow().wire.len(), 1);
    assert_eq!(m.load(0x3810), 3);
}

#[test]
fn packets_that_the_hardware_did_not_send_are_sent_after_the_next_start() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.world.borrow_mut().stalled = true;
    // One before the capture, in the guest's own ring, and two in the mirror ring.
    for n in 1..4 {
        g.send(
            &mut m,
            &frame(n, 60),
            Cut {
                context: Some(n),
                ..Cut::default()
            },
        );
        if n == 1 {
            m.capture();
        }
    }
    m.turns(3);
    assert_eq!(m.load(0x3810), 1);
    m.with(|model, io| model.stop(io)).unwrap();
    assert_eq!(m.load(0x3810), 1);
    g.clean(&mut m);
    assert_eq!(g.in_flight(), 3);
    m.world.borrow_mut().stalled = false;
    m.with(|model, io| model.start(io));
    m.poll();
    g.clean(&mut m);
    assert_eq!(g.in_flight(), 0);
    let sent: Vec<_> = m.world.borrow().wire.iter().map(|(f, _)| f[0]).collect();
    assert_eq!(sent, [0, 1, 2, 3]);
}

#[test]
fn packets_that_are_sent_after_the_next_start_have_the_contexts_of_before() {
    for migrates in [false, true] {
        let (mut m, mut g) = machine(0, ONE_BUFFER);
        m.capture();
        // A context serves until the next one: two packets have the first, the third has another.
        for (n, context) in [(0, Some(0xa)), (1, None), (2, Some(0xb))] {
            g.send(
                &mut m,
                &frame(n, 60),
                Cut {
                    context,
                    ..Cut::default()
                },
            );
            m.poll();
            m.world.borrow_mut().stalled = true;
        }
        m.with(|model, io| model.stop(io)).unwrap();
        m.world.borrow_mut().stalled = false;
        if migrates {
            m = m.migrate_stopped();
        }
        m.with(|model, io| model.start(io));
        m.poll();
        let sent: Vec<_> = m.world.borrow().wire.iter().map(|(_, of)| of[1]).collect();
        assert_eq!(sent, [0xa, 0xa, 0xb]);
    }
}

#[test]
fn a_context_alone_waits_for_what_it_is_for() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().stalled = true;
    g.send(&mut m, &frame(0, 60), Cut::default());
    g.queue(
        &mut m,
        &frame(1, 60),
        Cut {
            context: Some(0xa),
            ..Cut::default()
        },
    );
    // The context, and then the packet.
    m.store(0x3818, 2);
    m.turns(2);
    m.store(0x3818, 3);
    m.turns(2);
    g.send(
        &mut m,
        &frame(2, 60),
        Cut {
            context: Some(0xb),
            ..Cut::default()
        },
    );
    m.turns(2);
    m.with(|model, io| model.stop(io)).unwrap();
    m.world.borrow_mut().stalled = false;
    m.with(|model, io| model.start(io));
    m.poll();
    let sent: Vec<_> = m.world.borrow().wire.iter().map(|(_, of)| of[1]).collect();
    assert_eq!(sent, [0, 0xa, 0xb]);
}

#[test]
fn a_release_hands_back_what_was_not_sent() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().stalled = true;
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.turns(3);
    m.world.borrow_mut().wire.clear();
    m.with(|model, io| model.stop(io)).unwrap();
    m.world.borrow_mut().stalled = false;
    m.release().unwrap();
    g.clean(&mut m);
    assert_eq!((g.in_flight(), m.world.borrow().wire.len()), (0, 1));
}

#[test]
fn nothing_is_completed_into_a_ring_that_the_guest_has_made_anew() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().stalled = true;
    for n in 0..3 {
        g.send(&mut m, &frame(n, 60), Cut::default());
    }
    m.turns(2);
    // Without a reset, so that the mirror ring goes on.
    m.store(0x3828, 0);
    m.turns(2);
    m.store(0x3818, 0);
    m.store(0x3810, 0);
    m.store(0x3828, 1 << 25);
    m.turns(2);
    m.world.borrow_mut().memory.log = Some(Vec::new());
    m.world.borrow_mut().stalled = false;
    m.world.borrow_mut().transmit(0);
    m.turns(2);
    assert!(m.world.borrow().memory.log.as_ref().unwrap().is_empty());
    assert_eq!(m.load(0x3810), 0);
}

#[test]
fn every_descriptor_with_rs_gets_dd() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    g.queue(
        &mut m,
        &frame(0, 900),
        Cut {
            pieces: 4,
            context: Some(5),
            tso: false,
        },
    );
    let at = |slot: u64| GUEST + 0x1000 + slot * 16;
    for slot in [0, 2] {
        let mut w = m.world.borrow_mut();
        let cmd = w.memory.get(at(slot) + 11, 1)[0] | 1 << 3;
        w.memory.set(at(slot) + 11, &[cmd]);
    }
    m.capture();
    g.doorbell(&mut m);
    m.poll();
    let w = m.world.borrow();
    let dd: Vec<_> = (0..5)
        .map(|slot| w.memory.get(at(slot) + 12, 1)[0] & 1)
        .collect();
    assert_eq!(dd, [1, 0, 1, 0, 1]);
}

#[test]
fn head_write_back_replaces_dd() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.store(0x3838, (GUEST as u32 + 0x800) | 1);
    m.store(0x383c, (GUEST >> 32) as u32);
    m.capture();
    g.send(&mut m, &frame(0, 60), Cut::default());
    g.send(&mut m, &frame(1, 60), Cut::default());
    m.poll();
    let w = m.world.borrow();
    assert_eq!(w.memory.get(GUEST + 0x800, 4), [2, 0, 0, 0]);
    assert_eq!(w.memory.get(GUEST + 0x1000 + 12, 1)[0] & 1, 0);
}

#[test]
fn an_interface_that_goes_down_and_up_while_captured_works() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    let mut r = Random(3);
    m.capture();
    for _ in 0..10 {
        let mut flow = Flow::new(0);
        for _ in 0..30 {
            flow.step(&mut m, &mut g, &mut r);
        }
        flow.finish(&mut m, &mut g);
        g.received.clear();
        g.down(&mut m);
        m.turns(3);
        assert!(!m.world.borrow_mut().receive(0, &frame(0, 60)));
        g.up(&mut m);
        m.turns(1);
    }
    m.release().unwrap();
    let mut flow = Flow::new(0);
    for _ in 0..30 {
        flow.step(&mut m, &mut g, &mut r);
    }
    flow.finish(&mut m, &mut g);
}

#[test]
fn a_queue_that_the_guest_switches_off_gets_no_frame_of_before() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    let val = m.load(0x2828);
    m.store(0x2828, val & !(1 << 25));
    m.world.borrow_mut().memory.log = Some(Vec::new());
    m.world.borrow_mut().receive(0, &frame(0, 60));
    m.turns(2);
    assert!(m.world.borrow().memory.log.as_ref().unwrap().is_empty());
    m.store(0x2828, val);
    m.turns(2);
    m.world.borrow_mut().receive(0, &frame(1, 60));
    m.poll();
    g.receive(&mut m, false);
    assert_eq!(g.received, [frame(1, 60)]);
}

#[test]
fn dpdk_s_order_of_enable_head_and_tail_is_accepted() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    for i in 0..5 {
        m.world.borrow_mut().receive(0, &frame(i, 60));
    }
    m.poll();
    g.receive(&mut m, false);
    // A reset without switching the queue off, and then the head only after ENABLE.
    g.probe(&mut m);
    g.up(&mut m);
    m.store(0x2810, 0);
    m.store(0x2818, 30);
    m.turns(1);
    m.world.borrow_mut().receive(0, &frame(9, 60));
    m.poll();
    g.receive(&mut m, false);
    assert_eq!(g.received.last(), Some(&frame(9, 60)));
}

#[test]
fn hardware_that_refuses_a_head_stays_emulated() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.world.borrow_mut().fixed_heads = true;
    m.capture();
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.poll();
    assert!(m.release().is_err());
    g.send(&mut m, &frame(1, 60), Cut::default());
    m.poll();
    assert_eq!(m.world.borrow().wire.len(), 2);
    assert_eq!(m.world.borrow().faults, 0);
    // Until the guest starts its rings anew.
    g.down(&mut m);
    g.up(&mut m);
    m.turns(1);
    m.release().unwrap();
}

#[test]
fn hardware_that_refuses_one_head_moves_no_other_ring() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    let mut other = Guest::new(1, ONE_BUFFER);
    other.up(&mut m);
    m.world.borrow_mut().fixed_heads = true;
    m.capture();
    m.world.borrow_mut().receive(1, &frame(0, 60));
    m.with(|model, io| model.stop(io)).unwrap();
    // Nobody has sent it when the hardware gets the ring.
    g.send(&mut m, &frame(1, 60), Cut::default());
    assert!(m.release().is_err());
    m.poll();
    g.clean(&mut m);
    assert_eq!((g.in_flight(), m.world.borrow().wire.len()), (0, 1));
}

#[test]
fn a_frame_that_the_capture_has_cut_ends_with_an_error() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    // Silicon might stop between two descriptors of a frame.
    m.world.borrow_mut().receive(0, &frame(0, 3000));
    m.world.borrow_mut().regs[0x2810 / 4] = 1;
    m.capture();
    m.world.borrow_mut().receive(0, &frame(1, 60));
    m.poll();
    g.receive(&mut m, false);
    assert_eq!(
        (g.errors, g.received.as_slice()),
        (1, [frame(1, 60)].as_slice())
    );
}

#[test]
fn contexts_that_only_the_hardware_has_seen_are_found_in_the_ring() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    g.send(
        &mut m,
        &frame(0, 60),
        Cut {
            context: Some(0x77),
            ..Cut::default()
        },
    );
    m.capture();
    // Whether hardware keeps them while a queue is off is unknown.
    m.world.borrow_mut().contexts = [[None; 2]; 2];
    for n in 1..3 {
        g.send(&mut m, &frame(n, 60), Cut::default());
        m.poll();
        let (_, [_, context]) = m.world.borrow_mut().wire.pop_back().unwrap();
        assert_eq!(context, 0x77);
        m.with(|model, io| model.stop(io)).unwrap();
        m.world.borrow_mut().contexts = [[None; 2]; 2];
        m.with(|model, io| model.start(io));
    }
}

#[test]
fn a_context_that_was_completed_is_still_the_one_that_it_was() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    // Context 1, which wants a status, and a packet that uses it.
    let context = [0x77, 0, 1 << 29 | 1 << 27 | 2 << 20, 1 << 4];
    let data = [0, 1, 0x2b30_0000 | 60, 60 << 14 | 1 << 4];
    let desc = |m: &mut crate::machine::Machine, slot: u64, words: [u32; 4]| {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let at = GUEST + 0x1000 + slot * 16;
        m.world.borrow_mut().memory.set(at, &bytes);
    };
    desc(&mut m, 0, context);
    desc(&mut m, 1, data);
    m.capture();
    m.store(0x3818, 2);
    m.poll();
    let status = |slot: u64| GUEST + 0x1000 + slot * 16 + 12;
    assert_eq!(m.world.borrow().memory.get(status(0), 1), [0x11]);
    assert_eq!(m.world.borrow().memory.get(status(1), 1), [0x11]);
    m.release().unwrap();
    m.capture();
    m.with(|model, io| model.stop(io)).unwrap();
    m.world.borrow_mut().contexts = [[None; 2]; 2];
    m.with(|model, io| model.start(io));
    desc(&mut m, 2, data);
    m.store(0x3818, 3);
    m.poll();
    let (_, [_, context]) = m.world.borrow_mut().wire.pop_back().unwrap();
    assert_eq!(context, 0x77);
}

#[test]
fn announcements_go_out_untagged_and_on_every_vlan() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    g.message(&mut m, &[4 | 1 << 16, 100]).unwrap();
    g.message(&mut m, &[4 | 1 << 16, 0]).unwrap();
    m.capture();
    m.with(|model, io| model.announce(io));
    m.poll();
    let w = m.world.borrow();
    let frames: Vec<_> = w.wire.iter().map(|(f, _)| f.clone()).collect();
    assert_eq!(frames.len(), 2);
    assert_eq!(
        &frames[0][..14],
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 1, 2, 3, 0x80, 0x35]
    );
    assert_eq!(&frames[1][12..18], [0x81, 0, 0, 100, 0x80, 0x35]);
    assert!(frames.iter().all(|f| f.len() >= 60));
    drop(w);
    // The guest's ring is where it was.
    assert_eq!(m.load(0x3810), 0);
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.poll();
    g.clean(&mut m);
    assert_eq!(g.in_flight(), 0);
}

#[test]
fn the_model_is_small() {
    assert!(
        size_of::<igbvf::Igbvf>() <= 4608,
        "{}",
        size_of::<igbvf::Igbvf>()
    );
}
