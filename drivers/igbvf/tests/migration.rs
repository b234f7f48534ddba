// SPDX-License-Identifier: GPL-2.0

//! From one VF to another.

use model::adapter::Adapter;
use model::image::{Reader, Writer, HEADER_BYTES};
use model::mock::Random;

use crate::flow::{frame, machine, Flow};
use crate::guest::{Cut, Guest, MAC, ONE_BUFFER, SPLIT};
use crate::machine::{Machine, MEMORY_BYTES};
use crate::vf::GUEST;

#[test]
fn frames_keep_their_order_and_number_across_migrations() {
    for srrctl in [ONE_BUFFER, SPLIT] {
        let (mut m, mut g) = machine(0, srrctl);
        let mut r = Random(21);
        let mut flow = Flow::new(0);
        let mut held = 0;
        for i in 0..40 {
            for _ in 0..r.below(20) {
                flow.step(&mut m, &mut g, &mut r);
            }
            m.capture();
            flow.lazy = r.below(2) == 0;
            for _ in 0..r.below(40) {
                flow.step(&mut m, &mut g, &mut r);
            }
            m = m.migrate();
            held += m.model.held();
            flow.lazy = false;
            m.with(|model, io| model.start(io));
            if i % 3 == 0 {
                // And on to the next host, before anything was delivered.
                m = m.migrate();
                m.with(|model, io| model.start(io));
            }
            for _ in 0..20 {
                m.poll();
                g.receive(&mut m, false);
            }
            m.release().unwrap();
        }
        assert!(held > 0);
        // Counters are those of the last machine only.
        flow.finish(&mut m, &mut g);
    }
}

#[test]
fn an_image_that_is_restored_is_saved_the_same() {
    let (mut m, mut g) = machine(0, SPLIT);
    g.send(
        &mut m,
        &frame(0, 900),
        Cut {
            pieces: 2,
            context: Some(9),
            tso: false,
        },
    );
    m.capture();
    for i in 0..40 {
        m.world.borrow_mut().receive(0, &frame(i, 1500));
    }
    m.poll();
    m.with(|model, io| model.stop(io)).unwrap();
    assert!(m.model.held() > 5);
    let image = m.save();
    let memory = m.world.borrow().memory.clone();
    let mut to = Machine::with_memory(memory);
    to.restore(&image).unwrap();
    assert!(to.save() == image);
}

#[test]
fn everything_the_guest_asked_for_is_asked_of_the_other_pf() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    let uc = [2, 0, 0, 0, 0, 9];
    let (lo, hi) = crate::guest::mac_words(uc);
    for message in [
        vec![4 | 1 << 16, 100],
        vec![4 | 1 << 16, 0],
        vec![4 | 1 << 16, 200],
        vec![4, 200],
        vec![4, 0],
        vec![3 | 3 << 16, 0x1234_5678, 0x9abc],
        vec![2 | 2 << 16, lo, hi],
        vec![6 | 2 << 16],
    ] {
        assert_ne!(g.message(&mut m, &message).unwrap() >> 31, 0);
    }
    let filters = m.world.borrow().filters.clone();
    assert_eq!(
        (filters.mac, &filters.vlans[..]),
        (Some(MAC), [0, 100].as_slice())
    );
    m.capture();
    let mut to = m.migrate();
    assert_eq!(to.world.borrow().filters, filters);
    to.with(|model, io| model.start(io));
    assert!(g.link_check(&mut to));
    to.release().unwrap();
    assert!(g.link_check(&mut to));
    // The guest goes on where it was.
    assert_ne!(g.message(&mut to, &[4, 100]).unwrap() >> 31, 0);
    assert_eq!(to.world.borrow().filters.vlans, [0]);
}

#[test]
fn tags_are_removed_or_kept_as_before() {
    // igb goes by the VLAN that it heard of last, be it added or removed.
    let (add, remove) = (|vid| [4 | 1 << 16, vid], |vid| [4, vid]);
    for (messages, strip) in [
        (vec![], true),
        (vec![add(0)], false),
        (vec![add(0), add(7)], true),
        (vec![add(7), add(0)], false),
        (vec![add(0), add(7), add(0)], false),
        (vec![add(7), add(0), remove(8)], true),
        (vec![add(0), add(7), remove(7)], true),
        (vec![add(7), add(0), remove(0)], false),
    ] {
        let (mut m, mut g) = machine(0, ONE_BUFFER);
        for message in &messages {
            assert_ne!(g.message(&mut m, message).unwrap() >> 31, 0);
        }
        let filters = m.world.borrow().filters.clone();
        assert_eq!(filters.strip, strip);
        m.capture();
        let to = m.migrate();
        assert_eq!(to.world.borrow().filters, filters, "after {messages:?}");
    }
}

#[test]
fn modes_that_the_pf_has_refused_in_part_are_asked_for() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    // DPDK asks for unicasts and multicasts at once; igb takes the multicasts and says no.
    assert_eq!(g.message(&mut m, &[6 | 6 << 16]).unwrap() >> 30, 1);
    assert_eq!(m.world.borrow().filters.promisc, 2);
    m.capture();
    let mut to = m.migrate();
    assert_eq!(to.world.borrow().filters.promisc, 2);
    assert_eq!(g.message(&mut to, &[6 | 4 << 16]).unwrap() >> 30, 1);
    assert_eq!(to.migrate_stopped().world.borrow().filters.promisc, 0);
}

#[test]
fn what_the_guest_s_reset_has_ended_is_not_asked_for() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    g.message(&mut m, &[4 | 1 << 16, 100]).unwrap();
    g.message(&mut m, &[3 | 1 << 16, 0x123]).unwrap();
    g.message(&mut m, &[6 | 2 << 16]).unwrap();
    m.capture();
    g.probe(&mut m);
    let filters = m.world.borrow().filters.clone();
    let to = m.migrate();
    assert_eq!(to.world.borrow().filters, filters);
    assert_eq!(
        (
            filters.vlans.len(),
            filters.multicast.len(),
            filters.promisc
        ),
        (0, 0, 0)
    );
}

#[test]
fn interrupts_are_set_up_as_they_were() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.store(0x1680, 488);
    // As QEMU reads it: the vector that was unmasked last.
    m.store(0x1524, 2);
    m.capture();
    let to = m.migrate();
    let read = |at: usize| to.world.borrow().regs[at / 4];
    assert_eq!(
        [read(0x1680), read(0x1700), read(0x1740)],
        [488, 0x8081_8081, 0x82]
    );
    assert_eq!([read(0x1524), read(0x152c), read(0x1530)], [7, 7, 7]);
}

#[test]
fn a_frame_that_is_half_delivered_is_finished_on_the_other_side() {
    let mut held = 0;
    for n in 0..40 {
        let (mut m, mut g) = machine(0, ONE_BUFFER);
        m.capture();
        let f = frame(0, 5000);
        m.world.borrow_mut().receive(0, &f);
        m.world.borrow_mut().memory.busy_after = Some(n);
        m.with(|model, io| model.poll(io, 1));
        // Busy until the device is stopped, which no guest should be able to hold up.
        m.world.borrow_mut().memory.busy_after = Some(0);
        m.world.borrow_mut().memory.busy_always = true;
        m.with(|model, io| model.stop(io)).unwrap();
        m.world.borrow_mut().memory.busy_always = false;
        m.world.borrow_mut().memory.busy_after = None;
        held += m.model.held();
        let mut to = m.migrate_stopped();
        to.with(|model, io| model.start(io));
        to.poll();
        to.world.borrow_mut().receive(0, &frame(1, 60));
        to.poll();
        g.receive(&mut to, false);
        assert!(g.received == [f, frame(1, 60)], "{n}");
    }
    assert!((10..40).contains(&held));
}

#[test]
fn what_comes_before_the_guest_runs_waits_behind_what_is_held() {
    for hops in 0..3 {
        let (mut m, mut g) = machine(0, ONE_BUFFER);
        m.capture();
        m.world.borrow_mut().memory.busy_after = Some(0);
        m.world.borrow_mut().memory.busy_always = true;
        assert!(m.world.borrow_mut().receive(0, &frame(0, 60)));
        m.with(|model, io| model.stop(io)).unwrap();
        m.world.borrow_mut().memory.busy_always = false;
        m.world.borrow_mut().memory.busy_after = None;
        let mut expected = vec![frame(0, 60)];
        let mut to = m.migrate_stopped();
        for n in 1..=4 + 3 * hops {
            let ram = |m: &Machine| m.world.borrow().memory.get(GUEST, MEMORY_BYTES).to_vec();
            let before = ram(&to);
            let new = frame(n, 60 + n as usize);
            assert!(to.world.borrow_mut().receive(0, &new));
            to.turns(3);
            expected.push(new);
            assert!(ram(&to) == before);
            if n % 3 == 0 {
                // On to the next host, and nobody has run here.
                to = to.migrate();
            }
        }
        to.resume(true);
        g.receive(&mut to, false);
        assert!(g.received == expected, "{hops}");
    }
}

#[test]
fn what_comes_to_a_guest_that_is_paused_waits_or_travels() {
    for travels in [false, true] {
        let (mut m, mut g) = machine(0, ONE_BUFFER);
        m.capture();
        m.world.borrow_mut().receive(0, &frame(0, 60));
        g.send(&mut m, &frame(0, 60), Cut::default());
        m.poll();
        m.with(|model, io| model.pause(io)).unwrap();
        let ram = |m: &Machine| m.world.borrow().memory.get(GUEST, MEMORY_BYTES).to_vec();
        let before = ram(&m);
        let mut expected = vec![frame(0, 60)];
        for n in 1..20 {
            let new = frame(n, 60 + n as usize);
            assert!(m.world.borrow_mut().receive(0, &new));
            m.turns(3);
            expected.push(new);
        }
        assert!(ram(&m) == before);
        assert_eq!(m.world.borrow().wire.len(), 1);
        if travels {
            m = m.migrate();
        }
        m.resume(travels);
        g.receive(&mut m, false);
        assert!(g.received == expected, "{travels}");
        assert_eq!(m.load(0x1524), 7);
    }
}

#[test]
fn vectors_are_there_again_when_the_guest_runs() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    let mut to = m.migrate();
    *to.world.borrow_mut().reg(0x1524) = 0;
    to.with(|model, io| model.start(io));
    assert_eq!(to.load(0x1524), 7);
}

#[test]
fn the_address_goes_live_only_at_the_end() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    let mut record = vec![0; 1024];
    let mut w = Writer::new(&mut record);
    m.model.save_control(&mut w).unwrap();
    let len = w.written();
    let mut to = Machine::new();
    let mut hw = to.hw();
    to.model
        .load_control(&mut Reader::new(&record[..len]), &mut hw)
        .unwrap();
    assert_eq!(to.world.borrow().filters.mac, None);
    assert_eq!(to.world.borrow().filters.lpe, 9000);
    let before = to.world.borrow().messages.len();
    // The same record again asks for nothing.
    to.model
        .load_control(&mut Reader::new(&record[..len]), &mut hw)
        .unwrap();
    assert_eq!(to.world.borrow().messages.len(), before);
    to.model.replay_control(&mut hw).unwrap();
    assert_eq!(to.world.borrow().filters.mac, Some(MAC));
    assert_eq!(to.world.borrow().messages.len(), before + 1);
}

#[test]
fn pinned_addresses_are_taken_or_refused() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    m.with(|model, io| model.stop(io)).unwrap();
    let image = m.save();
    let pinned = |mac| {
        let to = Machine::new();
        to.world.borrow_mut().pinned = Some(mac);
        to.world.borrow_mut().filters.mac = Some(mac);
        to
    };
    let mut same = pinned(MAC);
    same.restore(&image).unwrap();
    assert!(
        !same.world.borrow().messages.contains(&2),
        "igb refuses even an equal address"
    );
    let mut other = pinned([2, 0, 0, 0, 0, 1]);
    let refused = other.restore(&image).unwrap_err();
    assert_eq!(refused.0, "the PF pinned another MAC address to this VF");
    assert_eq!(other.model.counters().rx_frames, 0);
}

#[test]
fn a_pf_that_does_not_answer_is_a_reason_to_refuse() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    m.with(|model, io| model.stop(io)).unwrap();
    let image = m.save();
    let mut to = Machine::new();
    to.world.borrow_mut().silent = true;
    let refused = to.restore(&image).unwrap_err();
    assert!(refused.0.contains("interface has to be up"), "{refused:?}");
}

#[test]
fn a_guest_without_a_driver_migrates_and_asks_for_nothing() {
    let mut m = Machine::new();
    m.capture();
    let mut to = m.migrate();
    assert!(to.world.borrow().messages.is_empty());
    to.with(|model, io| model.start(io));
    to.turns(3);
    to.release().unwrap();
    let mut g = Guest::new(0, ONE_BUFFER);
    g.probe(&mut to);
    g.up(&mut to);
    to.world.borrow_mut().receive(0, &frame(1, 60));
    g.receive(&mut to, false);
    assert_eq!(g.received.len(), 1);
}

#[test]
fn an_interface_that_is_down_migrates_with_its_address() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    g.down(&mut m);
    let mut to = m.migrate();
    assert_eq!(to.world.borrow().filters.mac, Some(MAC));
    assert_eq!(to.world.borrow().regs[0x1524 / 4], 0);
    to.with(|model, io| model.start(io));
    to.release().unwrap();
    g.up(&mut to);
    g.send(&mut to, &frame(0, 60), Cut::default());
    assert_eq!(to.world.borrow().wire.len(), 1);
}

#[test]
fn statistics_never_run_backwards() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    let mut last = 0u32;
    let mut check = |m: &mut Machine, add: u32| {
        let now = m.load(0xf10);
        assert_eq!(now.wrapping_sub(last), add);
        last = now;
    };
    for _ in 0..5 {
        m.world.borrow_mut().receive(0, &frame(0, 60));
        check(&mut m, 1);
        m.capture();
        m.world.borrow_mut().receive(0, &frame(0, 60));
        m.poll();
        check(&mut m, 1);
        m = m.migrate();
        check(&mut m, 0);
        m.with(|model, io| model.start(io));
        m.world.borrow_mut().pf_reset();
        g.link_check(&mut m);
        check(&mut m, 0);
        m.turns(40);
        m.release().unwrap();
        g.receive(&mut m, false);
    }
}

#[test]
fn a_message_that_is_under_way_is_answered_on_the_other_side() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().silent = true;
    g.post(&mut m, &[4 | 1 << 16, 300]);
    let mut to = m.migrate();
    let reply = g.reply(&mut to).unwrap();
    assert_eq!(reply, 0xa001_0004);
    assert_eq!(to.world.borrow().filters.vlans, [300]);
}

#[test]
fn a_message_that_the_guest_has_given_up_is_not_repeated() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().silent = true;
    g.post(&mut m, &[4 | 1 << 16, 300]);
    m.store(0, 1 << 26);
    let to = m.migrate();
    assert!(to.world.borrow().messages.is_empty());
}

#[test]
fn a_state_is_taken_over_whole_or_not_at_all() {
    let (mut m, mut g) = machine(0, SPLIT);
    g.send(
        &mut m,
        &frame(0, 900),
        Cut {
            pieces: 2,
            context: Some(9),
            tso: false,
        },
    );
    m.capture();
    m.with(|model, io| model.stop(io)).unwrap();
    let mut hw = m.hw();
    let mut state = vec![0; 4096];
    let mut w = Writer::new(&mut state);
    m.model.save_state(&mut hw, &mut m.page, &mut w).unwrap();
    let len = w.written();
    state.truncate(len);
    // As Documentation/migration-image.md says.
    assert_eq!(len, 413);
    for short in 0..len {
        let mut w = vec![0; short];
        assert!(m
            .model
            .save_state(&mut hw, &mut m.page, &mut Writer::new(&mut w))
            .is_err());
    }
    let mut r = Random(5);
    let mut refused = 0;
    for i in 0..2000 {
        let mut to = Machine::new();
        let mut hw = to.hw();
        let mut bad = state.clone();
        if i < len {
            bad.truncate(i);
        } else {
            for _ in 0..1 + r.below(4) {
                let at = r.below(len as u32) as usize;
                bad[at] = r.next() as u8;
            }
        }
        let before = to.save();
        match to
            .model
            .load_state(&mut Reader::new(&bad), &mut hw, &mut to.page)
        {
            Err(_) => {
                refused += 1;
                assert!(to.save() == before);
            }
            Ok(()) => {
                // Harmless: whatever it says, a guest could have written.
                to.captured = true;
                to.world.borrow_mut().captured = true;
                to.world.borrow_mut().alive = true;
                to.with(|model, io| model.start(io));
                to.world.borrow_mut().receive(0, &frame(0, 60));
                to.turns(20);
                to.with(|model, io| model.stop(io)).unwrap();
                assert_eq!(to.world.borrow().faults, 0);
            }
        }
    }
    assert!(refused >= len);
}

#[test]
fn a_control_record_with_garbage_is_refused_or_harmless() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    g.message(&mut m, &[4 | 1 << 16, 100]).unwrap();
    g.message(&mut m, &[3 | 2 << 16, 0x1234_5678]).unwrap();
    let mut record = vec![0; 1024];
    let mut w = Writer::new(&mut record);
    m.model.save_control(&mut w).unwrap();
    let len = w.written();
    record.truncate(len);
    let mut r = Random(6);
    for i in 0..3000 {
        let mut to = Machine::new();
        let mut hw = to.hw();
        let mut bad = record.clone();
        if i < len {
            bad.truncate(i);
        } else {
            bad[r.below(len as u32) as usize] = r.next() as u8;
        }
        let before = to.save();
        if to
            .model
            .load_control(&mut Reader::new(&bad), &mut hw)
            .is_err()
        {
            assert!(to.save() == before);
        }
        assert!(i >= len || to.world.borrow().messages.is_empty());
    }
}

#[test]
fn an_altered_image_never_gets_to_its_end() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    for i in 0..35 {
        m.world.borrow_mut().receive(0, &frame(i, 70));
    }
    m.poll();
    g.clean(&mut m);
    m.with(|model, io| model.stop(io)).unwrap();
    assert!(m.model.held() > 2);
    let image = m.save();
    let memory = m.world.borrow().memory.clone();
    let mut to = Machine::with_memory(memory);
    for at in 0..image.len() {
        assert!(to.restore(&image[..at]).is_err());
        let mut bad = image.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(to.restore(&bad).is_err(), "byte {at}");
    }
    // And the VF is as good as before.
    let mut hw = to.hw();
    to.model.reset(&mut hw, Some(&mut to.page));
    to.restore(&image).unwrap();
    assert!(image.len() > HEADER_BYTES);
    assert!(to.save() == image);
}

#[test]
fn a_unicast_filter_that_is_gone_when_the_record_comes_again_is_not_kept() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    let (lo, hi) = crate::guest::mac_words([2, 0, 0, 0, 0, 9]);
    g.message(&mut m, &[2 | 2 << 16, lo, hi]).unwrap();
    m.capture();
    let mut to = Machine::new();
    let mut hw = to.hw();
    for expected in [1, 0] {
        let mut record = vec![0; 1024];
        let mut w = Writer::new(&mut record);
        m.model.save_control(&mut w).unwrap();
        let len = w.written();
        to.model
            .load_control(&mut Reader::new(&record[..len]), &mut hw)
            .unwrap();
        assert_eq!(to.world.borrow().filters.unicast.len(), expected);
        g.message(&mut m, &[2 | 1 << 16, lo, hi]).unwrap();
    }
}

#[test]
fn interrupts_that_a_reset_of_the_pf_has_wiped_are_not_lost() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    m.with(|model, io| model.stop(io)).unwrap();
    m.world.borrow_mut().pf_reset();
    assert_eq!(m.world.borrow().regs[0x1700 / 4], 0);
    let to = m.migrate_stopped();
    let read = |at: usize| to.world.borrow().regs[at / 4];
    assert_eq!([read(0x1700), read(0x1740)], [0x8081_8081, 0x82]);
    assert_eq!([read(0x1524), read(0x152c), read(0x1530)], [7, 7, 7]);
}
