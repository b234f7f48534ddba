// SPDX-License-Identifier: GPL-2.0

//! Page 0, register by register.

use crate::control::{Record, VF_RESET};
use crate::regs::*;
use crate::rig::{small, Rig, ONE_BUFFER};
use model::adapter::Adapter;
use model::io::Registers;

const SET_LPE: u32 = 5;
const YES: u32 = 0xa000_0000;
/// A statistics register.
const VFGPRC: u32 = 0x0f10;

/// A read of the guest, while the VF is captured or not.
fn load(rig: &mut Rig, at: u32, captured: bool) -> u32 {
    let Rig {
        model, hw, page, ..
    } = rig;
    let page: Option<&mut dyn Registers> = if captured { Some(page) } else { None };
    model.read(at, hw, page)
}

/// A write of the guest.
fn store(rig: &mut Rig, at: u32, val: u32, captured: bool) {
    let Rig {
        model, hw, page, ..
    } = rig;
    let page: Option<&mut dyn Registers> = if captured { Some(page) } else { None };
    model.write(at, val, hw, page);
}

/// A guest that its PF knows.
fn live() -> Rig {
    let mut rig = Rig::new();
    let mut request = [0; 16];
    request[0] = VF_RESET;
    rig.model
        .control
        .answered(&request, &[VF_RESET | YES, 2, 0]);
    assert!(rig.model.control.is_live());
    rig
}

#[test]
fn only_the_reset_bit_of_ctrl_passes() {
    for captured in [false, true] {
        for at in [CTRL, CTRL_DUP] {
            let mut rig = Rig::new();
            // The bit clears itself.
            rig.hw.answer(CTRL, &[u32::MAX, !CTRL_RST]);
            assert_eq!(load(&mut rig, at, captured), 1 << 26);
            assert_eq!(load(&mut rig, at, captured), 0);
            store(&mut rig, at, u32::MAX, captured);
            assert_eq!(rig.hw.take_writes(), [(CTRL, 1 << 26)]);
        }
    }
}

#[test]
fn a_write_of_ctrl_without_reset_is_none() {
    let mut rig = live();
    rig.enable_rx(0, 64, 9, ONE_BUFFER);
    rig.start();
    let generation = rig.model.control_generation();
    store(&mut rig, CTRL, !CTRL_RST, true);
    assert_eq!(rig.hw.take_writes(), [(CTRL, 0)]);
    assert!(rig.model.control.is_live());
    assert_eq!(rig.model.control_generation(), generation);
    assert_eq!(rig.page.read32(RDT), 9);
}

#[test]
fn a_reset_by_the_guest_switches_its_queues_off_and_forgets_its_indices() {
    let mut rig = live();
    for q in 0..QUEUES {
        rig.enable_rx(q, 64, 9, ONE_BUFFER);
        rig.enable_tx(q, 64);
        rig.queue(q, 0, &[small()]);
    }
    rig.start();
    let generation = rig.model.control_generation();
    store(&mut rig, CTRL, CTRL_RST, true);
    assert_ne!(rig.model.control_generation(), generation);
    assert_eq!(rig.model.control, Record::new());
    for q in 0..QUEUES {
        for at in [RDH, RDT, TDH, TDT] {
            assert_eq!(rig.page.read32(nth(at, q)), 0);
        }
        for at in [RXDCTL, TXDCTL] {
            assert_eq!(rig.page.read32(nth(at, q)) & ENABLE, 0);
        }
        // Where the rings are stays.
        assert_eq!(rig.page.read32(nth(TDLEN, q)), 1024);
    }
    // Another one changes nothing more.
    let generation = rig.model.control_generation();
    store(&mut rig, CTRL, CTRL_RST, true);
    assert_eq!(rig.model.control_generation(), generation);
}

#[test]
fn status_looks_up_while_a_reset_of_the_pf_is_hidden_and_only_then() {
    for (captured, known, lost, expected) in [
        (true, true, true, 0x83 | 0x50),
        (true, true, false, 0x50),
        (true, false, true, 0x50),
        (false, true, true, 0x50),
        (false, false, false, 0x50),
    ] {
        let mut rig = if known { live() } else { Rig::new() };
        rig.model.lost = lost;
        rig.hw.page.write32(STATUS, 0xffff_ff50);
        assert_eq!(load(&mut rig, STATUS, captured), expected);
    }
}

#[test]
fn psrtype_is_written_through_and_read_from_memory() {
    let mut rig = Rig::new();
    store(&mut rig, PSRTYPE, 0x1234, true);
    assert_eq!(rig.hw.take_writes(), [(PSRTYPE, 0x1234)]);
    // A VF of another PF has another one.
    rig.hw.page.write32(PSRTYPE, 0);
    assert_eq!(load(&mut rig, PSRTYPE, true), 0x1234);
}

#[test]
fn statistics_start_anew_with_a_reset_of_the_pf_that_is_shown() {
    for bits in [RSTI, RSTD] {
        let mut rig = Rig::new();
        rig.hw.page.write32(VFGPRC, 10);
        assert_eq!(load(&mut rig, VFGPRC, false), 10);
        rig.hw.page.write32(VFGPRC, 0);
        rig.hw.answer(V2PMAILBOX, &[bits]);
        assert_eq!(load(&mut rig, V2PMAILBOX, false) & bits, bits);
        assert_eq!(load(&mut rig, VFGPRC, false), 10);
    }
    // And with nothing else that the mailbox says.
    for bits in [0, !(RSTI | RSTD | PFSTS)] {
        let mut rig = Rig::new();
        rig.hw.page.write32(VFGPRC, 10);
        rig.hw.answer(V2PMAILBOX, &[bits]);
        load(&mut rig, V2PMAILBOX, false);
        assert_eq!(load(&mut rig, VFGPRC, false), 10);
    }
}

#[test]
fn the_record_travels_again_only_if_a_reply_has_changed_it() {
    let mut rig = live();
    for (lpe, changes) in [(9000, true), (9000, false), (1500, true)] {
        let before = rig.model.control_generation();
        store(&mut rig, VMBMEM, SET_LPE, true);
        store(&mut rig, VMBMEM + 4, lpe, true);
        rig.hw.answer(V2PMAILBOX, &[0]);
        store(&mut rig, V2PMAILBOX, REQ, true);
        rig.hw.page.write32(VMBMEM, SET_LPE | YES);
        rig.hw.answer(V2PMAILBOX, &[PFSTS]);
        load(&mut rig, V2PMAILBOX, true);
        let after = rig.model.control_generation();
        assert_eq!(after != before, changes, "{lpe}");
    }
}

#[test]
fn the_mailbox_is_looked_at_before_a_message_that_a_lost_pf_would_refuse() {
    for (captured, known, val, looks) in [
        (true, true, REQ, true),
        (true, true, REQ | VFU, true),
        (true, true, VFU, false),
        (true, true, ACK, false),
        (true, false, REQ, false),
        (false, true, REQ, false),
        (false, false, VFU, false),
    ] {
        let mut rig = if known { live() } else { Rig::new() };
        rig.hw.answer(V2PMAILBOX, &[PFACK]);
        store(&mut rig, V2PMAILBOX, val, captured);
        assert_eq!(rig.hw.answers[&V2PMAILBOX].is_empty(), looks, "{val:#x}");
        assert_eq!(rig.hw.take_writes(), [(V2PMAILBOX, val)]);
        // What was seen there waits for the guest.
        assert_eq!(load(&mut rig, V2PMAILBOX, captured) & READ_CLEARS, PFACK);
    }
}
