// SPDX-License-Identifier: GPL-2.0

//! Where things are in the mirror area, and how the hardware's rings are handled.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::*;
use model::mock::{Mirror, Page, Script};
use regs::{RDBAL, RDH, RDT, RXDCTL, TDBAL, TDH, TDT, TDWBAL, TXDCTL};

/// Bits as the datasheet has them.
const ENABLE: u32 = 1 << 25;
const SWFLSH: u32 = 1 << 26;
const HEAD_WB_EN: u32 = 1;

fn hw() -> Script {
    Script::new(0, 0x4000)
}

fn page() -> Page {
    Page::new(0x2000, 0x4000)
}

#[test]
fn places_in_the_area_are_apart_and_inside() {
    let mut free = 0;
    for q in 0..regs::QUEUES {
        for (start, bytes, align) in [
            (tx_slot(q, 0), 256 * 16, 128),
            (rx_slot(q, 0), 512 * 16, 128),
            (pool(q, 0), POOL_BYTES, 64),
            (rx_buffer(q, 0), 512 * 2048, 2048),
            (held(q, 0), HELD_BYTES, 64),
        ] {
            assert!(start >= free && start % align == 0, "{start:#x}");
            free = start + bytes;
        }
        assert_eq!(tx_slot(q, 255), tx_slot(q, 0) + 255 * 16);
        assert_eq!(rx_slot(q, 511), rx_slot(q, 0) + 511 * 16);
        assert_eq!(rx_buffer(q, 511), rx_buffer(q, 0) + 511 * 2048);
        assert_eq!((pool(q, 9), held(q, 9)), (pool(q, 0) + 9, held(q, 0) + 9));
    }
    assert!(free <= BYTES);
}

#[test]
fn a_wait_of_600_looks_is_about_100_ms() {
    let mut hw = hw();
    for n in 0..DRAIN_TRIES {
        pause(&mut hw, n);
    }
    assert_eq!(hw.pauses.iter().sum::<u32>(), 105_000);
    assert_eq!(hw.pauses[98..102], [50, 50, 200, 200]);
}

#[test]
fn a_queue_that_is_off_is_not_written_to() {
    let mut hw = hw();
    hw.page.write32(RXDCTL, !ENABLE);
    assert_eq!(switch_off(&mut hw, RXDCTL), Ok(()));
    assert!(hw.writes.is_empty() && hw.pauses.is_empty());
}

#[test]
fn a_queue_is_off_when_it_says_so_and_no_sooner() {
    let mut hw = hw();
    hw.page.write32(TXDCTL, u32::MAX);
    hw.answer(TXDCTL, &[u32::MAX, ENABLE, ENABLE]);
    assert_eq!(switch_off(&mut hw, TXDCTL), Ok(()));
    assert_eq!(hw.writes, [(TXDCTL, !(ENABLE | SWFLSH))]);
    assert_eq!(hw.pauses, [50, 50]);
}

#[test]
fn a_queue_that_does_not_follow_is_stuck_after_20_ms() {
    for on in [false, true] {
        let mut hw = hw();
        hw.page.write32(TXDCTL, if on { !ENABLE } else { ENABLE });
        assert_eq!(wait_enable(&mut hw, TXDCTL, on), Err(Stuck));
        assert_eq!(hw.pauses.iter().sum::<u32>(), 20_000);
    }
}

#[test]
fn a_mirror_ring_starts_empty_at_index_0() {
    for q in 0..regs::QUEUES {
        let (mut hw, area) = (hw(), Mirror::new(0x7f_0010_0000, BYTES));
        for at in (0x2800..0x2a00).chain(0x3800..0x3a00).step_by(4) {
            hw.page.write32(at, 0x77);
        }
        start_tx(q, &mut hw, &area).unwrap();
        start_rx(q, &mut hw, &area).unwrap();
        let o = q as u32 * 0x100;
        let mut read = |at: u32| hw.page.read32(at + o);
        let tx = 0x10_0000 + tx_slot(q, 0) as u32;
        let rx = 0x10_0000 + rx_slot(q, 0) as u32;
        assert_eq!([read(TDBAL), read(0x3804), read(0x3808)], [tx, 0x7f, 4096]);
        assert_eq!([read(RDBAL), read(0x2804), read(0x2808)], [rx, 0x7f, 8192]);
        assert_eq!([read(TDH), read(TDT), read(RDH), read(RDT)], [0, 0, 0, 511]);
        assert_eq!([read(TDWBAL), read(0x383c)], [0, 0]);
        // One-buffer of 2 KiB, and drop; descriptors written back in order.
        assert_eq!([read(0x280c), read(0x3814)], [0x8200_0002, 0x2200]);
        assert_eq!([read(TXDCTL), read(RXDCTL)], [0x0201_0108, 0x0201_0810]);
    }
}

#[test]
fn a_ring_is_ours_if_base_and_enable_are() {
    let area = Mirror::new(0x7f_0010_0000, BYTES);
    for q in 0..regs::QUEUES {
        let o = q as u32 * 0x100;
        let mut started = hw();
        start_tx(q, &mut started, &area).unwrap();
        start_rx(q, &mut started, &area).unwrap();
        assert!(has_tx(q, &mut started, &area) && has_rx(q, &mut started, &area));
        for (at, val) in [(TXDCTL, !ENABLE), (TXDCTL, 0), (TDBAL, 0)] {
            let mut hw = started.clone();
            hw.write32(at + o, val);
            assert!(!has_tx(q, &mut hw, &area) && has_rx(q, &mut hw, &area));
        }
        for (at, val) in [(RXDCTL, !ENABLE), (RXDCTL, 0), (RDBAL, 0)] {
            let mut hw = started.clone();
            hw.write32(at + o, val);
            assert!(has_tx(q, &mut hw, &area) && !has_rx(q, &mut hw, &area));
        }
    }
}

#[test]
fn a_ring_of_the_guest_that_is_off_is_not_waited_for() {
    let mut hw = hw();
    hw.page.write32(TXDCTL, !ENABLE);
    hw.page.write32(TDT, 5);
    drain_guest(0, &mut hw);
    assert!(hw.writes.is_empty() && hw.pauses.is_empty());
}

#[test]
fn a_ring_of_the_guest_is_waited_for_until_it_is_empty_or_100_ms_have_passed() {
    let mut hw = hw();
    hw.page.write32(TXDCTL + 0x100, ENABLE);
    hw.page.write32(TDT + 0x100, 5);
    hw.page.write32(TDH + 0x100, 5);
    hw.answer(TDH + 0x100, &[3, 4]);
    drain_guest(1, &mut hw);
    assert_eq!(hw.pauses.len(), 2);
    hw.page.write32(TDH + 0x100, 4);
    drain_guest(1, &mut hw);
    assert_eq!(hw.pauses.len(), 2 + DRAIN_TRIES as usize);
    assert!(hw.writes.is_empty());
}

#[test]
fn what_the_hardware_gathers_or_writes_by_head_is_flushed() {
    for (txdctl, tdwbal, flushes) in [
        (ENABLE, 0, false),
        (ENABLE, !HEAD_WB_EN, false),
        (ENABLE | 0x7fff, 0, false),
        (ENABLE | 1 << 16, 0, true),
        (ENABLE | 1 << 20, 0, true),
        (ENABLE, HEAD_WB_EN, true),
    ] {
        let mut hw = hw();
        hw.page.write32(TXDCTL, txdctl | SWFLSH);
        hw.page.write32(TDWBAL, tdwbal);
        drain_guest(0, &mut hw);
        let both = [(TXDCTL, txdctl | SWFLSH), (TXDCTL, txdctl)];
        let expected = if flushes { both.to_vec() } else { vec![] };
        assert_eq!(hw.writes, expected, "{txdctl:#x} {tdwbal:#x}");
    }
}

#[test]
fn final_heads_are_taken_over_after_a_flush_of_what_is_gathered() {
    for (rxdctl, flushes) in [
        (0, false),
        (1 << 16, false),
        (0x10 << 20 | 1 << 16, false),
        (2 << 16, true),
        (0x1f << 16, true),
    ] {
        for q in 0..regs::QUEUES {
            let (mut hw, mut page, o) = (hw(), page(), q as u32 * 0x100);
            hw.page.write32(RXDCTL + o, rxdctl);
            hw.page.write32(RDH + o, 7);
            hw.page.write32(TDH + o, 9);
            take_heads(q, &mut hw, &mut page);
            assert_eq!((page.read32(RDH + o), page.read32(TDH + o)), (7, 9));
            assert_eq!(hw.writes.is_empty(), !flushes, "{rxdctl:#x}");
        }
    }
}

/// A page with both rings of a queue enabled, each register with a number of its own.
fn guest(q: usize) -> Page {
    let mut page = page();
    let (rx, tx) = (regs::RX_RING.iter(), regs::TX_RING.iter());
    for (n, at) in rx.chain(&tx.copied().collect::<Vec<_>>()).enumerate() {
        page.write32(nth(*at, q), 0x100 + n as u32);
    }
    for at in [RXDCTL, TXDCTL] {
        page.write32(nth(at, q), ENABLE | SWFLSH | 1);
    }
    page
}

#[test]
fn a_ring_that_is_handed_back_goes_on_at_the_guest_s_indices() {
    for q in 0..regs::QUEUES {
        let (mut hw, mut page) = (hw(), guest(q));
        hand_back(q, &mut hw, &mut page).unwrap();
        hand_back_tails(q, &mut hw, &mut page);
        for at in regs::RX_RING.into_iter().chain(regs::TX_RING) {
            let expected = match at {
                RXDCTL | TXDCTL => ENABLE | 1,
                _ => page.read32(nth(at, q)),
            };
            assert_eq!(hw.page.read32(nth(at, q)), expected, "{at:#x}");
        }
        for (head, tail, dctl) in [(RDH, RDT, RXDCTL), (TDH, TDT, TXDCTL)] {
            let [head, tail, dctl] = [head, tail, dctl].map(|at| nth(at, q));
            let of = |at| hw.writes.iter().filter(move |(to, _)| *to == at);
            let position = |at| hw.writes.iter().position(|(to, _)| *to == at);
            // The queue is empty until it runs, and the tail is written after that.
            assert!(position(tail) < position(dctl));
            let both: Vec<_> = of(tail).map(|(_, val)| *val).collect();
            assert_eq!(both, [page.read32(head), page.read32(tail)]);
            assert_eq!(of(head).count(), 1);
        }
    }
}

#[test]
fn a_head_that_is_not_taken_is_written_once_more_and_then_given_up() {
    // A head that can be written only while the queue runs.
    let (mut hw, mut page) = (hw(), guest(0));
    hw.answer(RDH, &[0]);
    hand_back(0, &mut hw, &mut page).unwrap();
    let head = page.read32(RDH);
    let written = hw.writes.iter().filter(|w| **w == (RDH, head)).count();
    assert_eq!(written, 2);
    // And one that cannot be written.
    let mut hw = self::hw();
    hw.answer(TDH, &[0, 0]);
    assert_eq!(hand_back(0, &mut hw, &mut page), Err(Stuck));
    assert!(!hw.writes.contains(&(TDT, page.read32(TDT))));
}

#[test]
fn indices_and_bits_beyond_the_hardware_s_are_not_handed_back() {
    let (mut hw, mut page) = (hw(), guest(1));
    for at in [RDH, RDT, TDH, TDT] {
        page.write32(at + 0x100, 0xabcd_0003);
    }
    hand_back(1, &mut hw, &mut page).unwrap();
    for at in [RDH, RDT, TDH, TDT] {
        assert_eq!(hw.page.read32(at + 0x100), 3);
    }
}
