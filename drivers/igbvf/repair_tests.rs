// SPDX-License-Identifier: GPL-2.0

//! When a reset of the PF is noticed, and when it is repaired.

use super::*;
use crate::control::VF_RESET;
use crate::regs::{ENABLE, PFSTS, REQ, RSTI, V2PMAILBOX, VFU, VMBMEM};
use crate::rig::{small, Rig, ONE_BUFFER};
use model::adapter::Adapter;
use model::io::Registers;

const YES: u32 = 0xa000_0000;

/// A guest with all of its queues running.
fn rig() -> Rig {
    let mut rig = Rig::new();
    for q in 0..regs::QUEUES {
        rig.enable_rx(q, 64, 9, ONE_BUFFER);
        rig.enable_tx(q, 64);
    }
    rig.start();
    rig
}

fn check(rig: &mut Rig, turns: u32, idle: bool) {
    rig.model.turns = turns;
    rig.with(|model, io| model.check_hardware(io, idle));
}

#[test]
fn a_repair_holds_nothing_for_a_queue_that_is_off() {
    let mut rig = rig();
    rig.page.write32(regs::RXDCTL, 0);
    rig.with(|model, io| model.follow(io));
    for q in 0..regs::QUEUES {
        rig.received(q, 0, 60, 7);
    }
    rig.with(|model, io| model.drop_mirrors(io));
    let held = rig.model.rx.each_ref().map(|rx| rx.held().count());
    assert_eq!(held, [0, 1]);
}

#[test]
fn every_ring_that_is_gone_is_noticed() {
    let mut rig = self::rig();
    check(&mut rig, 16, true);
    assert!(!rig.model.lost && !rig.model.mirror_gone);
    for q in 0..regs::QUEUES {
        for at in [regs::TXDCTL, regs::RXDCTL, regs::TDBAL, regs::RDBAL] {
            let mut rig = self::rig();
            rig.hw.page.write32(regs::nth(at, q), 0);
            check(&mut rig, 16, true);
            assert!(rig.model.lost && rig.model.mirror_gone, "{at:#x} {q}");
            // The first repair is due at once.
            assert_eq!(rig.model.turns, RETRY_TURNS);
        }
    }
}

#[test]
fn the_hardware_is_looked_at_every_16_idle_and_256_busy_turns() {
    for (turns, idle, looks) in [
        (15, true, false),
        (16, true, true),
        (17, true, true),
        (255, false, false),
        (256, false, true),
        (257, false, true),
    ] {
        let mut rig = rig();
        rig.hw.page.write32(regs::TDBAL, 0);
        check(&mut rig, turns, idle);
        assert_eq!(rig.model.lost, looks, "{turns} {idle}");
        // Where all is well the count starts anew.
        let mut rig = self::rig();
        check(&mut rig, turns, idle);
        assert_eq!(rig.model.turns, if looks { 0 } else { turns });
    }
}

#[test]
fn interrupts_are_remembered_while_they_are_set_up() {
    let mut rig = rig();
    rig.hw.page.write32(regs::EITR, 488);
    check(&mut rig, 16, true);
    let right = rig.model.interrupts;
    assert_eq!(Interrupts::read(&mut rig.hw, true), right);
    // A PF in reset has wiped them, and the rings are not touched yet.
    rig.hw.page.write32(regs::IVAR0, 0);
    rig.hw.page.write32(regs::EITR, 0);
    check(&mut rig, 16, true);
    assert_eq!(rig.model.interrupts, right);
    let Rig { model, hw, .. } = &mut rig;
    assert!(model.repair(hw));
    assert_eq!(Interrupts::read(&mut rig.hw, true), right);
}

#[test]
fn nothing_is_handed_back_until_a_poll_has_found_the_pf_again() {
    let mut rig = rig();
    assert!(rig.model.may_hand_back());
    rig.model.lose(&mut rig.hw);
    rig.hw.page.write32(V2PMAILBOX, RSTI);
    rig.with(|model, io| model.poll(io, 1));
    assert!(!rig.model.may_hand_back());
    rig.hw.page.write32(V2PMAILBOX, 0);
    rig.model.turns = RETRY_TURNS;
    rig.with(|model, io| model.poll(io, 1));
    assert!(rig.model.may_hand_back());
}

#[test]
fn a_pf_is_asked_again_every_1000_turns() {
    for (turns, asks) in [(999, false), (1000, true), (1001, true)] {
        let mut rig = rig();
        rig.model.turns = turns;
        rig.model.lost = true;
        let Rig { model, hw, .. } = &mut rig;
        // A guest that its PF does not know has nothing to be asked for.
        assert_eq!(model.retry(hw), asks, "{turns}");
        assert_eq!(model.lost, !asks);
        assert_eq!(model.turns, if asks { 0 } else { turns });
    }
}

#[test]
fn a_pf_in_reset_is_left_alone() {
    let mut rig = rig();
    rig.model.lost = true;
    rig.hw.page.write32(V2PMAILBOX, RSTI);
    let Rig { model, hw, .. } = &mut rig;
    assert!(!model.repair(hw) && model.lost);
    assert!(rig.hw.writes.is_empty());
    rig.hw.page.write32(V2PMAILBOX, !RSTI);
    let Rig { model, hw, .. } = &mut rig;
    assert!(model.repair(hw) && !model.lost);
}

#[test]
fn interrupts_of_the_guest_are_not_touched_unless_they_were_wiped() {
    let mut rig = rig();
    rig.model.psrtype = 0x1234;
    let Rig { model, hw, .. } = &mut rig;
    assert!(model.repair(hw));
    // But every vector is raised.
    assert_eq!(hw.take_writes(), [(regs::PSRTYPE, 0x1234), (regs::EICS, 7)]);
}

#[test]
fn a_message_that_is_under_way_is_waited_for_10_ms() {
    /// A guest with a message, and the PF's looks at it that are in vain.
    fn waiting(looks: usize) -> Rig {
        let mut rig = rig();
        let Rig { model, hw, .. } = &mut rig;
        model.mailbox.set_word(0, VF_RESET, hw);
        model.mailbox.control(REQ, hw);
        for _ in 0..looks {
            hw.answer(V2PMAILBOX, &[VFU]);
        }
        hw.answer(V2PMAILBOX, &[PFSTS]);
        hw.page.write32(VMBMEM, VF_RESET | YES);
        rig
    }
    let settle = |rig: &mut Rig| {
        let Rig { model, hw, .. } = rig;
        model.settle(hw);
        (model.control.is_live(), hw.pauses.len())
    };
    assert_eq!(settle(&mut rig()), (false, 0));
    // A look for resets first; then a pause after each, also after the one that has brought it.
    assert_eq!(settle(&mut waiting(2)), (true, 2));
    assert_eq!(settle(&mut waiting(200)), (true, 200));
    assert_eq!(settle(&mut waiting(201)), (false, 200));
    // The reply of a PF that was reset is not waited for: it will be asked again.
    let mut rig = waiting(2);
    rig.model.lost = true;
    assert_eq!(settle(&mut rig), (false, 0));
}

#[test]
fn frames_that_wait_in_rings_that_are_gone_are_kept() {
    let mut rig = rig();
    rig.page.write32(regs::RDT, 0);
    for slot in 0..3 {
        rig.received(0, slot, 60, 7);
    }
    rig.hw.page.write32(regs::RXDCTL, !ENABLE);
    check(&mut rig, 16, true);
    rig.with(|model, io| model.drop_mirrors(io));
    assert_eq!((rig.model.held(), rig.model.counters().repaired), (3, 1));
    assert!(!rig.model.mirror_gone);
    // The next turn starts all of them again.
    rig.model.lost = false;
    rig.with(|model, io| model.poll(io, 9));
    for q in 0..regs::QUEUES {
        assert!(rig.model.tx[q].is_mirror_on() && rig.model.rx[q].is_mirror_on());
    }
}

#[test]
fn frames_for_a_ring_that_is_none_wait_until_it_is_one() {
    let mut rig = rig();
    rig.received(0, 0, 60, 7);
    rig.page.write32(regs::RDH, 64);
    rig.with(|model, io| model.wait_for_pf(io));
    rig.page.write32(regs::RDH, 0);
    let delivered = rig.with(|Igbvf { rx, counters, .. }, io| {
        rx[0].follow(0, io.page, counters);
        rx[0].relay(0, io, 9, counters)
    });
    assert_eq!(delivered, 1);
}

#[test]
fn mirror_rings_stay_until_the_guest_knows_of_every_queue_what_was_sent() {
    let mut rig = rig();
    for q in 0..regs::QUEUES {
        rig.queue(q, 0, &[small()]);
        rig.with(|Igbvf { tx, counters, .. }, io| tx[q].fetch(q, io, 9, counters));
        rig.sent(q, 0);
    }
    rig.model.mirror_gone = true;
    (rig.mem.busy_after, rig.mem.busy_always) = (Some(0), true);
    rig.with(|model, io| model.drop_mirrors(io));
    assert!(rig.model.mirror_gone);
    (rig.mem.busy_after, rig.mem.busy_always) = (None, false);
    rig.with(|model, io| model.drop_mirrors(io));
    assert!(!rig.model.mirror_gone);
    let heads = [0, 1].map(|q| rig.page.read32(regs::nth(regs::TDH, q)));
    assert_eq!(heads, [1, 1]);
}
