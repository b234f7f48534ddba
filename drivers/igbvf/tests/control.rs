// SPDX-License-Identifier: GPL-2.0

//! Page 0: the mailbox, resets, and what the guest sees of them.

use model::adapter::Adapter;
use model::image::Tag;
use model::mock::Random;

use crate::flow::{frame, machine, Flow};
use crate::guest::{Cut, Guest, MAC, ONE_BUFFER};
use crate::machine::Machine;

#[test]
fn bits_that_a_read_clears_are_not_stolen_from_the_guest() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().delay = 3;
    g.post(&mut m, &[4 | 1 << 16, 100]);
    // The model looks as well, while it waits for the message to be answered.
    m.with(|model, io| model.stop(io)).unwrap();
    m.with(|model, io| model.start(io));
    assert_eq!(g.reply(&mut m), Some(0xa001_0004));
    assert_eq!(m.load(0xc40) & 0xb0, 0);
}

#[test]
fn a_reset_of_the_pf_is_not_seen_while_captured() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    g.message(&mut m, &[4 | 1 << 16, 100]).unwrap();
    let filters = m.world.borrow().filters.clone();
    let mut r = Random(31);
    let mut flow = Flow::new(0);
    m.capture();
    for i in 0..20 {
        for _ in 0..20 {
            flow.step(&mut m, &mut g, &mut r);
        }
        m.poll();
        m.world.borrow_mut().pf_reset();
        match i % 3 {
            // The guest's watchdog is first.
            0 => assert!(g.link_check(&mut m)),
            // A message of the guest is first.
            1 => assert_ne!(g.message(&mut m, &[5, 9000]).unwrap() >> 29 & 5, 0),
            // The canary is first.
            _ => {}
        }
        m.turns(40);
        assert_eq!(m.world.borrow().filters, filters);
        assert_eq!(m.model.counters().repaired, i + 1);
        assert!(g.link_check(&mut m));
        assert_eq!(m.world.borrow().regs[0x1700 / 4], 0x8081_8081);
    }
    flow.finish(&mut m, &mut g);
}

#[test]
fn a_reset_of_the_pf_is_seen_while_assigned() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.world.borrow_mut().pf_reset();
    assert!(!g.link_check(&mut m));
    g.probe(&mut m);
    g.up(&mut m);
    g.send(&mut m, &frame(0, 60), Cut::default());
    assert_eq!(m.world.borrow().wire.len(), 1);
}

#[test]
fn a_reset_of_the_pf_is_seen_by_a_guest_that_was_not_known_to_it() {
    let (mut m, mut g) = (Machine::new(), Guest::new(0, ONE_BUFFER));
    g.up(&mut m);
    m.capture();
    m.world.borrow_mut().pf_reset();
    // The canary is first: there is nothing to repeat.
    m.turns(40);
    assert_eq!(m.load(0xc40) & 0xb0, 0x90);
}

#[test]
fn a_ping_is_seen_though_the_mirror_rings_have_gone() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    *m.world.borrow_mut().reg(0x2800) = 0;
    m.world.borrow_mut().ping();
    m.turns(40);
    assert_eq!(m.model.counters().repaired, 1);
    assert_eq!(m.load(0xc40) & 0x10, 0x10);
    assert_eq!(m.load(0x800), 0x2000_0100);
}

#[test]
fn statistics_do_not_run_backwards_when_the_pf_is_reset() {
    // Nobody has looked at the mailbox since.
    let captured = || {
        let (mut m, _) = machine(0, ONE_BUFFER);
        m.capture();
        *m.world.borrow_mut().reg(0xf10) = 1000;
        assert_eq!(m.load(0xf10), 1000);
        m.world.borrow_mut().pf_reset();
        m
    };
    let mut read = captured();
    assert_eq!(read.load(0xf10), 1000);
    *read.world.borrow_mut().reg(0xf10) += 5;
    assert_eq!(read.load(0xf10), 1005);
    let mut migrated = captured().migrate();
    assert_eq!(migrated.load(0xf10), 1000);
    // A guest that is assigned, and sees the reset together with the reply to its next message.
    let (mut m, _) = machine(0, ONE_BUFFER);
    *m.world.borrow_mut().reg(0xf10) = 1000;
    assert_eq!(m.load(0xf10), 1000);
    m.world.borrow_mut().pf_reset();
    m.store(0x800, 1);
    m.store(0xc40, 1);
    assert_eq!(m.load(0xc40) & 0xb0, 0xb0);
    assert_eq!(m.load(0xf10), 1000);
    // Or has not seen it yet.
    *m.world.borrow_mut().reg(0xf10) = 5;
    assert_eq!(m.load(0xf10), 1005);
    m.world.borrow_mut().pf_reset();
    assert_eq!(m.load(0xf10), 1005);
    assert_eq!(m.load(0xc40) & 0xb0, 0x90);
}

#[test]
fn a_vf_whose_pf_is_away_is_not_handed_back() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().pf_reset();
    m.world.borrow_mut().silent = true;
    // The guest is told that all is well, so it has to be.
    assert!(g.link_check(&mut m));
    assert!(m.release().is_err());
    m.world.borrow_mut().silent = false;
    m.turns(1100);
    m.release().unwrap();
    g.send(&mut m, &frame(0, 60), Cut::default());
    assert_eq!(m.world.borrow().wire.len(), 1);
}

#[test]
fn a_message_that_a_pf_reset_has_overtaken_is_repeated() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.poll();
    m.world.borrow_mut().delay = 2;
    g.post(&mut m, &[4 | 1 << 16, 300]);
    m.world.borrow_mut().pf_reset();
    m.turns(40);
    assert_eq!(g.reply(&mut m), Some(0xa001_0004));
    assert_eq!(m.world.borrow().filters.vlans, [300]);
}

#[test]
fn a_message_that_meets_a_reset_of_the_pf_arrives_as_it_is() {
    for (was_waiting, turns) in [(false, 0), (true, 0), (false, 40)] {
        let (mut m, mut g) = machine(0, ONE_BUFFER);
        m.capture();
        if was_waiting {
            // Never answered, and given up.
            m.world.borrow_mut().silent = true;
            g.post(&mut m, &[4 | 1 << 16, 300]);
            m.world.borrow_mut().silent = false;
        }
        m.store(0xc40, 4);
        m.store(0x800, 4 | 1 << 16);
        m.store(0x804, 301);
        m.world.borrow_mut().pf_reset();
        // It has forgotten who owns the buffer.
        *m.world.borrow_mut().reg(0xc40) &= !4;
        m.turns(turns);
        m.store(0xc40, 1);
        assert_eq!(g.reply(&mut m), Some(0xa001_0004));
        assert_eq!(m.world.borrow().filters.vlans, [301]);
    }
}

#[test]
fn the_guest_s_own_reset_ends_what_it_had_set_up() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    g.message(&mut m, &[4 | 1 << 16, 100]).unwrap();
    m.capture();
    let before = m.model.control_generation();
    m.store(0, 1 << 26);
    assert_ne!(m.model.control_generation(), before);
    assert!(!m.model.is_active(&mut m.page));
    m.turns(40);
    assert_eq!(m.model.counters().repaired, 0);
    assert!(m.world.borrow().filters.vlans.is_empty());
    g.probe(&mut m);
    g.up(&mut m);
    m.turns(1);
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.poll();
    assert_eq!(m.world.borrow().wire.len(), 1);
    assert_eq!(m.world.borrow().filters.mac, Some(MAC));
}

#[test]
fn a_reset_of_the_pf_that_the_guest_s_own_one_follows_is_not_repaired() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().pf_reset();
    assert!(g.link_check(&mut m));
    m.store(0, 1 << 26);
    m.world.borrow_mut().messages.clear();
    m.turns(2000);
    assert!(m.world.borrow().messages.is_empty());
    assert_eq!(m.model.counters().repaired, 0);
    g.probe(&mut m);
    g.up(&mut m);
    m.turns(1);
    m.world.borrow_mut().receive(0, &frame(0, 60));
    m.poll();
    g.receive(&mut m, false);
    assert_eq!(g.received.len(), 1);
}

#[test]
fn a_pf_that_is_away_for_long_is_asked_now_and_then() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().pf_reset();
    m.world.borrow_mut().silent = true;
    m.turns(5000);
    assert_eq!(m.model.counters().repaired, 0);
    assert_eq!(m.load(8), 0x83);
    m.world.borrow_mut().silent = false;
    m.turns(1100);
    assert_eq!(m.model.counters().repaired, 1);
    assert!(g.link_check(&mut m));
}

#[test]
fn a_reset_from_outside_forgets_the_guest() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().vf_reset();
    let mut hw = m.hw();
    m.model.reset(&mut hw, Some(&mut m.page));
    assert!(!m.model.is_active(&mut m.page));
    m.turns(40);
    assert_eq!(
        (m.load(0x2828), m.load(0x280c), m.load(0x290c)),
        (0x10000, 0x400, 0x8000_0400)
    );
    assert_eq!(m.load(0x800), 0);
}

#[test]
fn pings_are_passed_on() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().ping();
    assert_eq!(m.load(0xc40) & 0x10, 0x10);
    assert_eq!(m.load(0x800), 0x2000_0100);
    assert!(g.link_check(&mut m));
}

#[test]
fn status_shows_what_every_host_shows() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    assert_eq!(m.load(8), 0x83);
    m.store(8, 0);
    assert_eq!(m.load(8), 0x83);
}

#[test]
fn unknown_and_unaligned_registers_read_as_0_and_take_nothing() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    let before = m.world.borrow().regs.clone();
    for at in 0..0x1000u32 {
        let known = at % 4 == 0
            && matches!(at, 0..=8 | 0x800..=0x83f | 0xc40 | 0xf04 | 0xf0c..=0xf18 | 0xf34..=0xf50);
        if !known {
            m.store(at, u32::MAX);
            assert_eq!(m.load(at), 0, "{at:#x}");
        }
    }
    m.store(0xf04, 7);
    assert!(m.world.borrow().regs == before);
}

#[test]
fn what_cannot_be_emulated_is_named() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    let mut hw = m.hw();
    assert_eq!(m.model.check_migratable(&mut hw), Ok(()));
    m.store(0x280c, 2);
    assert!(m
        .model
        .check_migratable(&mut hw)
        .unwrap_err()
        .contains("legacy"));
    m.store(0x280c, 0xc200_0002);
    assert!(m.model.check_migratable(&mut hw).is_err());
    m.store(0x280c, ONE_BUFFER);
    m.store(0x3838, 3);
    assert!(m
        .model
        .check_migratable(&mut hw)
        .unwrap_err()
        .contains("throttle"));
}

#[test]
fn a_queue_without_a_ring_keeps_nobody_from_migrating() {
    // Queue 0 is enabled then, with the format of old.
    let m = Machine::new();
    m.world.borrow_mut().pf_reset();
    assert_eq!(m.model.check_migratable(&mut m.hw()), Ok(()));
}

#[test]
fn a_reset_of_the_pf_between_two_parts_of_an_image_is_undone_at_its_end() {
    for (late, event) in [(Tag::State, false), (Tag::End, false), (Tag::End, true)] {
        let (mut m, mut g) = machine(0, ONE_BUFFER);
        g.message(&mut m, &[4 | 1 << 16, 100]).unwrap();
        m.capture();
        m.with(|model, io| model.stop(io)).unwrap();
        let image = m.save();
        let world = m.world.borrow();
        let mut to = Machine::with_memory(world.memory.clone());
        to.restore_while(&image, |tag, world| {
            if tag == late {
                world.pf_reset();
                world.late_event = event;
            }
        })
        .unwrap();
        assert_eq!(to.world.borrow().filters, world.filters);
        assert_eq!(to.world.borrow().regs[0x1700 / 4], 0x8081_8081);
        to.resume(true);
        let announced = to.world.borrow().wire.len();
        g.send(&mut to, &frame(0, 60), Cut::default());
        to.poll();
        assert_eq!(to.world.borrow().wire.len(), announced + 1);
        assert_eq!(to.model.counters().repaired, 0);
        assert!(g.link_check(&mut to));
    }
}

#[test]
fn a_reset_of_the_pf_before_the_capture_is_seen_after_it() {
    for (migrates, statistics) in [(false, false), (true, false), (true, true)] {
        let (mut m, mut g) = machine(0, ONE_BUFFER);
        m.world.borrow_mut().pf_reset();
        if statistics {
            // The guest looks elsewhere, and we have to remember.
            m.load(0xf10);
        }
        // The guest's rings are gone, and only the guest can set them up again.
        m.capture();
        m.turns(40);
        if migrates {
            m = m.migrate();
            assert!(m.world.borrow().messages.is_empty());
            m.with(|model, io| model.start(io));
        }
        assert!(!g.link_check(&mut m));
        g.probe(&mut m);
        g.up(&mut m);
        m.turns(1);
        g.send(&mut m, &frame(0, 60), Cut::default());
        m.world.borrow_mut().receive(0, &frame(1, 60));
        m.poll();
        g.receive(&mut m, false);
        assert_eq!((m.world.borrow().wire.len(), g.received.len()), (1, 1));
        // From here on resets are hidden again.
        m.world.borrow_mut().pf_reset();
        assert!(g.link_check(&mut m));
    }
}

#[test]
fn a_reset_of_the_pf_while_nothing_runs_is_noticed_afterwards() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.with(|model, io| model.stop(io)).unwrap();
    m.world.borrow_mut().pf_reset();
    // The rings start, but the PF lets nothing through; and this guest does not look at its mailbox.
    m.with(|model, io| model.start(io));
    m.turns(40);
    assert_eq!(m.model.counters().repaired, 1);
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.poll();
    assert_eq!(m.world.borrow().wire.len(), 1);
}

#[test]
fn statistics_go_on_after_a_reset_of_the_pf_that_nobody_has_noticed() {
    for captured in [false, true] {
        let (mut m, _) = machine(0, ONE_BUFFER);
        if captured {
            m.capture();
            m.poll();
        }
        for n in 0..5 {
            m.world.borrow_mut().receive(0, &frame(n, 60));
        }
        assert_eq!(m.load(0xf10), 5);
        m.world.borrow_mut().pf_reset();
        assert_eq!(m.load(0xf10), 5);
    }
    // Nor are they in the image.
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().receive(0, &frame(0, 60));
    assert_eq!(m.load(0xf10), 1);
    m.with(|model, io| model.stop(io)).unwrap();
    m.world.borrow_mut().pf_reset();
    assert_eq!(m.migrate_stopped().load(0xf10), 1);
}

#[test]
fn interrupts_that_were_wiped_before_they_were_seen_are_not_masked_for_ever() {
    // Vectors are known, but no queue was enabled when they were last looked at.
    let up = |turns| {
        let (mut m, mut g) = machine(0, ONE_BUFFER);
        m.store(0x2828, 0);
        m.store(0x3828, 0);
        m.capture();
        g.up(&mut m);
        m.turns(1);
        m.world.borrow_mut().pf_reset();
        m.turns(turns);
        m
    };
    let repaired = up(40);
    assert_eq!(repaired.model.counters().repaired, 1);
    assert_eq!(repaired.world.borrow().regs[0x1524 / 4], 7);
    let migrated = up(0).migrate();
    assert_eq!(migrated.world.borrow().regs[0x1524 / 4], 7);
}

#[test]
fn a_frame_that_is_delivered_while_interrupts_are_wiped_is_announced_later() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    m.poll();
    m.world.borrow_mut().receive(0, &frame(0, 60));
    m.world.borrow_mut().pf_reset();
    m.world.borrow_mut().raised = 0;
    m.turns(1);
    assert_eq!((m.load(0x2810), m.world.borrow().raised), (1, 0));
    m.turns(40);
    assert_eq!(m.model.counters().repaired, 1);
    assert_eq!(m.world.borrow().raised, 3);
}

#[test]
fn rings_that_a_repair_has_dropped_take_no_frame() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.with(|model, io| model.stop(io)).unwrap();
    m.world.borrow_mut().pf_reset();
    m.with(|model, io| model.start(io));
    // That repairs, and the rings are the hardware's still.
    g.message(&mut m, &[5, 9000]).unwrap();
    let val = m.load(0x2828);
    m.store(0x2828, val & !(1 << 25));
    m.turns(1);
    m.store(0x2828, val);
    let mut taken = Vec::new();
    for n in 0..3 {
        let f = frame(n, 60);
        if m.world.borrow_mut().receive(0, &f) {
            taken.push(f);
        }
        m.poll();
    }
    g.receive(&mut m, false);
    assert!(taken.len() == 2 && g.received == taken);
}

#[test]
fn a_queue_that_is_switched_off_while_the_pf_is_away_gets_no_frame_of_before() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.poll();
    m.store(0x2818, 0);
    for n in 0..3 {
        m.world.borrow_mut().receive(0, &frame(n, 60));
    }
    m.world.borrow_mut().pf_reset();
    m.world.borrow_mut().silent = true;
    assert!(g.link_check(&mut m));
    m.turns(2);
    let val = m.load(0x2828);
    m.store(0x2828, val & !(1 << 25));
    m.turns(1);
    m.store(0x2828, val);
    m.store(0x2818, 30);
    m.world.borrow_mut().silent = false;
    m.turns(1100);
    assert_eq!(m.model.counters().repaired, 1);
    m.world.borrow_mut().receive(0, &frame(9, 60));
    m.poll();
    g.receive(&mut m, false);
    assert_eq!(g.received, [frame(9, 60)]);
}

#[test]
fn a_reset_of_the_pf_that_was_noticed_while_stopped_is_repaired_at_once() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.with(|model, io| model.stop(io)).unwrap();
    m.world.borrow_mut().pf_reset();
    assert!(g.link_check(&mut m));
    m.with(|model, io| model.start(io));
    m.turns(1);
    assert_eq!(m.model.counters().repaired, 1);
}

#[test]
fn what_was_sent_before_a_reset_of_the_pf_is_not_sent_again_if_guest_memory_is_busy() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.poll();
    m.world.borrow_mut().stalled = true;
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.turns(1);
    m.world.borrow_mut().stalled = false;
    m.world.borrow_mut().transmit(0);
    m.world.borrow_mut().pf_reset();
    assert!(g.link_check(&mut m));
    m.world.borrow_mut().memory.busy_after = Some(0);
    m.turns(40);
    g.clean(&mut m);
    assert_eq!((g.in_flight(), m.world.borrow().wire.len()), (0, 1));
    assert_eq!(m.model.counters().repaired, 1);
}

#[test]
fn a_frame_that_was_sent_before_the_rings_start_again_is_announced() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.poll();
    m.world.borrow_mut().stalled = true;
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.turns(1);
    m.world.borrow_mut().stalled = false;
    m.world.borrow_mut().transmit(0);
    m.world.borrow_mut().pf_reset();
    // That repairs, and raises the queues' vectors, before the packet is completed.
    g.message(&mut m, &[5, 9000]).unwrap();
    assert_eq!(std::mem::take(&mut m.world.borrow_mut().raised), 3);
    m.turns(1);
    g.clean(&mut m);
    assert_eq!((g.in_flight(), m.world.borrow().raised), (0, 1));
}
