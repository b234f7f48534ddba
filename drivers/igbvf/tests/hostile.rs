// SPDX-License-Identifier: GPL-2.0

//! Guests, devices and memory that make no sense.

use model::adapter::Adapter;
use model::io::Area;
use model::mock::Random;

use crate::flow::{frame, machine};
use crate::guest::{Cut, Guest, ONE_BUFFER};
use crate::machine::Machine;
use crate::vf::{Shared, GUEST};

/// Sets a TX descriptor of queue 0.
fn set_tx(m: &Machine, slot: u64, dw: [u32; 4]) {
    let bytes: Vec<u8> = dw.iter().flat_map(|w| w.to_le_bytes()).collect();
    m.world
        .borrow_mut()
        .memory
        .set(GUEST + 0x1000 + slot * 16, &bytes);
}

const DATA: u32 = 3 << 20 | 1 << 29;
const LAST: u32 = 1 << 24 | 1 << 27;

#[test]
fn ring_walk_ends_when_a_tail_is_garbage() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    for tail in [32, 33, 0xffff, 0x1_0000, u32::MAX] {
        m.store(0x3818, tail);
        m.store(0x2818, tail);
        m.world.borrow_mut().receive(0, &frame(0, 60));
        m.turns(10);
        assert_eq!(m.load(0x3810), 0);
    }
    m.store(0x2818, 30);
    m.store(0x3818, 0);
    g.send(&mut m, &frame(0, 60), Cut::default());
    m.poll();
    assert_eq!(m.world.borrow().wire.len(), 1);
}

#[test]
fn rings_that_are_none_are_counted_and_left_alone() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    for len in [0, 16, 127, 0x8_0080, u32::MAX] {
        let before = m.model.counters().bad_rings;
        m.store(0x3808, len);
        m.store(0x2808, len);
        m.turns(10);
        assert_eq!(m.model.counters().bad_rings, before + 2, "{len:#x}");
        m.store(0x3808, 512);
        m.store(0x2808, 512);
        m.turns(1);
    }
}

#[test]
fn a_bad_packet_is_dropped_and_completed_and_the_next_one_goes_out() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    let at = (GUEST + 0x10_0000) as u32;
    let hi = (GUEST >> 32) as u32;
    let cases: [(&str, Vec<[u32; 4]>); 7] = [
        ("legacy", vec![[at, hi, 60 | LAST, 0]]),
        (
            "legacy in the middle",
            vec![
                [at, hi, 60 | DATA, 0],
                [at, hi, 60, 0],
                [at, hi, 60 | DATA | LAST, 0],
            ],
        ),
        ("empty", vec![[at, hi, DATA | LAST, 0]]),
        (
            "outside memory",
            vec![[at, hi, 60 | DATA, 0], [0, 7, 60 | DATA | LAST, 0]],
        ),
        (
            "past the end of the address space",
            vec![[u32::MAX, u32::MAX, 60 | DATA | LAST, 0]],
        ),
        (
            "too long for a frame",
            vec![[at, hi, 0xffff | DATA | LAST, 0]],
        ),
        (
            "a context among data",
            vec![
                [at, hi, 60 | DATA, 0],
                [0, 0, 2 << 20 | 1 << 29, 0],
                [at, hi, 60 | DATA | LAST, 0],
            ],
        ),
    ];
    let mut slot = 0;
    for (what, descs) in cases {
        let c = *m.model.counters();
        for dw in &descs {
            set_tx(&m, slot, *dw);
            slot += 1;
        }
        m.store(0x3818, slot as u32);
        m.poll();
        let now = m.model.counters();
        let bad = now.dropped_tx_malformed + now.dropped_tx_unmapped;
        assert_eq!(
            bad,
            c.dropped_tx_malformed + c.dropped_tx_unmapped + 1,
            "{what}"
        );
        assert_eq!(m.load(0x3810), slot as u32, "{what}");
        let dd = m
            .world
            .borrow()
            .memory
            .get(GUEST + 0x1000 + (slot - 1) * 16 + 12, 1)[0];
        assert_eq!(dd & 1, 1, "{what}");
    }
    assert!(m.world.borrow().wire.is_empty());
    set_tx(&m, slot, [at, hi, 60 | DATA | LAST, 60 << 14]);
    m.store(0x3818, slot as u32 + 1);
    m.poll();
    assert_eq!(m.world.borrow().wire.len(), 1);
}

#[test]
fn a_packet_without_an_end_is_bounded_and_dropped_whole() {
    let mut m = Machine::new();
    let mut g = Guest::new(0, ONE_BUFFER);
    g.probe(&mut m);
    g.up(&mut m);
    m.capture();
    m.store(0x3808, 4096 * 16);
    let (at, hi) = ((GUEST + 0x10_0000) as u32, (GUEST >> 32) as u32);
    for slot in 0..200 {
        set_tx(&m, slot, [at, hi, 60 | DATA, 0]);
    }
    set_tx(&m, 200, [at, hi, 60 | DATA | LAST, 0]);
    set_tx(&m, 201, [at, hi, 61 | DATA | LAST, 61 << 14]);
    m.store(0x3818, 202);
    m.poll();
    assert_eq!(m.model.counters().dropped_tx_malformed, 1);
    assert_eq!(m.world.borrow().wire.len(), 1);
    assert_eq!(m.world.borrow().wire[0].0.len(), 61);
    assert_eq!(m.load(0x3810), 202);
}

#[test]
fn receive_buffers_outside_memory_cost_the_frame_and_no_more() {
    let (mut m, mut g) = machine(0, ONE_BUFFER);
    m.capture();
    m.world.borrow_mut().memory.set(GUEST + 0x3000, &[0xff; 16]);
    for i in 0..3 {
        m.world.borrow_mut().receive(0, &frame(i, 60));
    }
    m.poll();
    g.receive(&mut m, false);
    assert_eq!((g.errors, g.received.len()), (1, 2));
    assert_eq!(m.model.counters().dropped_rx_unmapped, 1);
}

#[test]
fn a_ring_outside_memory_hurts_only_itself() {
    let (mut m, _) = machine(0, ONE_BUFFER);
    m.capture();
    m.store(0x2804, 0x77);
    m.store(0x3804, 0x77);
    m.store(0x3818, 9);
    for i in 0..50 {
        m.world.borrow_mut().receive(0, &frame(i, 60));
        m.turns(1);
    }
    assert_eq!(m.world.borrow().faults, 0);
    assert!(m.model.counters().dropped_tx_unmapped > 0);
    assert!(m.model.counters().dropped_rx_unmapped > 0);
}

#[test]
fn nothing_panics_whatever_the_guest_stores() {
    for seed in 1..12 {
        let (mut m, _) = machine(0, ONE_BUFFER);
        let mut r = Random(seed * 77);
        m.capture();
        for i in 0..400 {
            let at = match r.below(4) {
                0 => r.below(0x1000),
                1 => 0x800 + r.below(0x440),
                _ => [0x2800, 0x2900, 0x3800, 0x3900][r.below(4) as usize] + r.below(16) * 4,
            };
            let val = match r.below(4) {
                0 => r.next(),
                1 => r.below(64),
                2 => GUEST as u32 + r.below(1 << 16),
                _ => 1 << 25 | r.below(1 << 20),
            };
            m.store(at, val);
            m.load(at);
            let at = GUEST + 0x1000 + u64::from(r.below(0x4000));
            m.world.borrow_mut().memory.set(at, &r.next().to_le_bytes());
            m.world
                .borrow_mut()
                .receive(r.below(2), &frame(i, 60 + r.below(9000) as usize));
            m.world.borrow_mut().memory.busy_after = (r.below(3) == 0).then(|| r.below(20));
            let budget = r.below(20);
            m.with(|model, io| model.poll(io, budget));
            m.world.borrow_mut().memory.busy_after = None;
            match r.below(60) {
                0 => {
                    m.with(|model, io| model.stop(io)).unwrap();
                    m.save();
                    m.with(|model, io| model.start(io));
                }
                1 => m.world.borrow_mut().pf_reset(),
                2 if m.release().is_ok() => {
                    // The guest's own garbage, in the guest's own domain.
                    m.world.borrow_mut().faults = 0;
                    m.capture();
                }
                _ => {}
            }
            // The device never leaves the mirror area while captured.
            assert_eq!(std::mem::take(&mut m.world.borrow_mut().faults), 0);
        }
    }
}

#[test]
fn nothing_panics_whatever_the_device_writes() {
    for seed in 1..40 {
        let (mut m, mut g) = machine(0, ONE_BUFFER);
        let mut r = Random(seed * 1234);
        m.capture();
        for i in 0..200 {
            if g.room() > 3 {
                g.send(
                    &mut m,
                    &frame(i, 900),
                    Cut {
                        pieces: 2,
                        ..Cut::default()
                    },
                );
            }
            m.world
                .borrow_mut()
                .receive(0, &frame(i, 60 + r.below(9000) as usize));
            let mut area = Shared(m.world.clone());
            for _ in 0..20 {
                // The rings, and the held frames.
                let at = [0, 0x1000, 0x183000][r.below(3) as usize] + r.below(0x3000) as usize;
                area.write(at, &r.next().to_le_bytes());
            }
            m.turns(3);
            if r.below(20) == 0 {
                m.with(|model, io| model.stop(io)).unwrap();
                for n in 0..m.model.held() {
                    let mut buf = vec![0; 20_000];
                    let mut w = model::image::Writer::new(&mut buf);
                    let _ = m.model.save_held(n, &mut area, &mut w);
                }
                m.with(|model, io| model.start(io));
            }
        }
    }
}
