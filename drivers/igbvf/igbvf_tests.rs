// SPDX-License-Identifier: GPL-2.0

//! Turns, stops and what travels, with all queues together.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::*;
use crate::desc::Desc;
use crate::regs::{PFSTS, V2PMAILBOX, VFU, VMBMEM};
use crate::rig::{context, rx_ring, small, tx_ring, Rig, ONE_BUFFER};

/// A guest with all of its queues running.
fn rig() -> Rig {
    let mut rig = Rig::new();
    for q in 0..QUEUES {
        rig.enable_rx(q, 64, 20, ONE_BUFFER);
        rig.enable_tx(q, 64);
    }
    rig.start();
    rig
}

fn poll(rig: &mut Rig, budget: u32) -> Progress {
    rig.with(|model, io| model.poll(io, budget))
}

#[test]
fn a_new_model_is_a_default_one_with_the_table_of_its_registers() {
    let model = Igbvf::default();
    assert_eq!(model.layout().image_id, 0x8086_10ca);
    assert_eq!(model.registers().len(), regs::TABLE.len());
    assert_eq!((model.held(), model.control_generation()), (0, 0));
    assert_eq!(*model.counters(), Counters::new());
}

#[test]
fn any_queue_that_is_enabled_makes_the_guest_active() {
    let mut rig = Rig::new();
    assert!(!rig.model.is_active(&mut rig.page));
    for q in 0..QUEUES {
        for at in [regs::RXDCTL, regs::TXDCTL] {
            let mut rig = Rig::new();
            rig.page.write32(nth(at, q), !ENABLE);
            assert!(!rig.model.is_active(&mut rig.page));
            rig.page.write32(nth(at, q), ENABLE);
            assert!(rig.model.is_active(&mut rig.page));
        }
    }
}

#[test]
fn only_a_queue_that_is_enabled_and_has_a_ring_keeps_its_guest_from_migrating() {
    for q in 0..QUEUES {
        for (dctl, len, at, bad) in [
            (regs::RXDCTL, regs::RDLEN, regs::SRRCTL, 0),
            (regs::TXDCTL, regs::TDLEN, regs::TDWBAL, regs::WB_ON_EITR),
        ] {
            for (control, bytes) in [(!ENABLE, 0x400), (ENABLE, 0), (ENABLE, 0x400)] {
                let mut rig = Rig::new();
                rig.page.write32(nth(at, q), bad);
                rig.page.write32(nth(dctl, q), control);
                rig.page.write32(nth(len, q), bytes);
                let may = rig.model.check_migratable(&mut rig.page).is_ok();
                assert_eq!(may, control != ENABLE || bytes == 0);
            }
        }
    }
}

/// The device has sent all that it was given.
fn all_sent(rig: &mut Rig) {
    for q in 0..QUEUES {
        for slot in 0..8 {
            rig.sent(q, slot);
        }
    }
}

#[test]
fn what_was_sent_is_completed_in_the_next_turn_and_raises_one_vector() {
    for q in 0..QUEUES {
        let mut rig = rig();
        rig.queue(q, 0, &[small()]);
        assert_eq!(
            poll(&mut rig, 9),
            Progress {
                frames: 1,
                more: false
            }
        );
        assert_eq!((rig.raised(), rig.page.read32(nth(regs::TDH, q))), (0, 0));
        all_sent(&mut rig);
        assert_eq!(poll(&mut rig, 9), Progress::default());
        assert_eq!(rig.page.read32(nth(regs::TDH, q)), 1);
        assert_eq!(rig.raised(), [1 << 1, 1 << 2][q]);
        assert_eq!(rig.status(tx_ring(q), 0, 3) & 1, 1);
        assert_eq!((poll(&mut rig, 9), rig.raised()), (Progress::default(), 0));
    }
}

#[test]
fn what_was_received_raises_the_queue_s_vector() {
    for q in 0..QUEUES {
        let mut rig = rig();
        rig.received(q, 0, 60, 7);
        assert_eq!(poll(&mut rig, 9).frames, 1);
        assert_eq!(rig.raised(), [1, 1 << 2][q]);
        assert_eq!(rig.status(rx_ring(q), 0, 2) & 1, 1);
        assert_eq!((poll(&mut rig, 9).frames, rig.raised()), (0, 0));
    }
}

#[test]
fn a_budget_is_for_both_queues_of_a_direction_together_and_says_what_is_left() {
    for (tx, rx, budget, frames, more) in [
        ([2, 0], [0, 0], 2, 2, false),
        ([3, 0], [0, 0], 2, 2, true),
        ([0, 3], [0, 0], 2, 2, true),
        ([2, 1], [0, 0], 2, 2, true),
        ([3, 3], [0, 0], 2, 2, true),
        ([2, 1], [0, 0], 3, 3, false),
        ([0, 0], [2, 0], 2, 2, false),
        ([0, 0], [3, 0], 2, 2, true),
        ([0, 0], [0, 3], 2, 2, true),
        ([0, 0], [2, 1], 2, 2, true),
        ([0, 0], [3, 3], 2, 2, true),
        ([0, 0], [2, 1], 3, 3, false),
        ([2, 1], [1, 2], 3, 6, false),
        ([3, 1], [1, 2], 3, 6, true),
        ([1, 2], [3, 1], 3, 6, true),
    ] {
        let mut rig = rig();
        for q in 0..QUEUES {
            rig.queue(q, 0, &vec![small(); tx[q]]);
            for slot in 0..rx[q] {
                rig.received(q, slot, 60, 7);
            }
        }
        let progress = poll(&mut rig, budget);
        assert_eq!(
            progress,
            Progress { frames, more },
            "{tx:?} {rx:?} {budget}"
        );
    }
}

#[test]
fn a_queue_that_always_has_frames_leaves_the_next_turn_to_the_other() {
    let mut rig = rig();
    for q in 0..QUEUES {
        rig.queue(q, 0, &vec![small(); 20]);
        for slot in 0..20 {
            rig.received(q, slot, 60, 7);
        }
    }
    for _ in 0..2 {
        poll(&mut rig, 4);
    }
    for q in 0..QUEUES {
        assert_eq!(rig.page.read32(nth(regs::RDH, q)), 4, "{q}");
        let taken = (0..20).filter(|slot| rig.mirrored(q, *slot) != Desc::default());
        assert_eq!(taken.count(), 4, "{q}");
    }
}

#[test]
fn a_descriptor_that_says_that_its_frame_was_lost_raises_its_vector() {
    let mut rig = rig();
    // Its buffer is nowhere.
    rig.mem.set(rx_ring(0), &Desc([0x10, 0, 0, 0]).to_bytes());
    rig.received(0, 0, 60, 7);
    rig.raised();
    poll(&mut rig, 4);
    assert_eq!(rig.model.counters().dropped_rx_unmapped, 1);
    assert_eq!(rig.raised(), 1);
}

#[test]
fn a_queue_that_does_not_start_is_taken_for_lost() {
    for (stuck, lost) in [
        (&[][..], false),
        (&[regs::TXDCTL], true),
        (&[regs::RXDCTL + 0x100], true),
        // Any of them, and any number.
        (&[regs::TXDCTL, regs::TXDCTL + 0x100], true),
        (&[regs::RXDCTL, regs::RXDCTL + 0x100], true),
        (&[regs::TXDCTL, regs::RXDCTL], true),
    ] {
        let mut rig = Rig::new();
        for q in 0..QUEUES {
            rig.enable_rx(q, 64, 20, ONE_BUFFER);
            rig.enable_tx(q, 64);
        }
        for at in stuck {
            rig.hw.answer(*at, &[0; 500]);
        }
        rig.start();
        assert_eq!(rig.model.lost, lost, "{stuck:x?}");
    }
}

#[test]
fn a_stop_delivers_what_it_can_and_raises_its_vectors() {
    for q in 0..QUEUES {
        let mut rig = rig();
        rig.page.write32(nth(regs::RDT, q), 2);
        for slot in 0..3 {
            rig.received(q, slot, 60, 7);
        }
        rig.with(|model, io| model.stop(io)).unwrap();
        assert_eq!(rig.raised(), [1, 1 << 2][q]);
        assert_eq!(rig.model.held(), 1);
        assert_eq!(rig.page.read32(nth(regs::RDH, q)), 2);
        for at in [regs::RXDCTL, regs::TXDCTL] {
            assert_eq!(rig.hw.page.read32(nth(at, q)) & ENABLE, 0);
        }
        // Nothing moves any more, and nobody is told of nothing.
        rig.received(q, 3, 60, 7);
        assert_eq!(poll(&mut rig, 9), Progress::default());
        let mut rig = self::rig();
        rig.with(|model, io| model.stop(io)).unwrap();
        assert_eq!((rig.raised(), rig.model.held()), (0, 0));
    }
}

#[test]
fn a_stop_completes_what_the_device_was_still_busy_with() {
    for q in 0..QUEUES {
        let mut rig = rig();
        rig.queue(q, 0, &[small()]);
        poll(&mut rig, 9);
        all_sent(&mut rig);
        rig.with(|model, io| model.stop(io)).unwrap();
        assert_eq!(rig.raised(), [1 << 1, 1 << 2][q]);
        assert_eq!(rig.page.read32(nth(regs::TDH, q)), 1);
    }
}

#[test]
fn held_frames_of_both_queues_are_saved_one_after_the_other_and_loaded_into_their_own() {
    let mut rig = rig();
    for (q, frames) in [(0, 2), (1, 3)] {
        rig.page.write32(nth(regs::RDT, q), 0);
        for slot in 0..frames {
            rig.received(q, slot, 60, 10 * q as u8 + slot as u8);
        }
    }
    rig.with(|model, io| model.stop(io)).unwrap();
    assert_eq!(rig.model.held(), 5);
    let mut other = self::rig();
    other.with(|model, io| model.stop(io)).unwrap();
    let mut kinds = Vec::new();
    for index in 0..6 {
        let mut buf = [0; 128];
        let mut w = Writer::new(&mut buf);
        let saved = rig.with(|model, io| model.save_held(index, io.mirror, &mut w));
        assert_eq!(saved.is_ok(), index < 5);
        if saved.is_err() {
            break;
        }
        let len = w.written();
        kinds.push((buf[0], buf[len - 1]));
        let Rig { model, mirror, .. } = &mut other;
        model
            .load_held(&mut Reader::new(&buf[..len]), mirror)
            .unwrap();
        buf[0] = 2;
        let refused = model.load_held(&mut Reader::new(&buf[..len]), mirror);
        assert!(refused.is_err());
    }
    assert_eq!(kinds, [(0, 0), (0, 1), (1, 10), (1, 11), (1, 12)]);
    let [first, second] = &other.model.rx;
    assert_eq!((first.held().count(), second.held().count()), (2, 3));
    other.model.drop_held();
    assert_eq!(other.model.held(), 0);
}

#[test]
fn a_pf_that_was_not_reset_is_asked_for_the_record_once_even_if_it_refuses() {
    let mut rig = Rig::new();
    let vlan = [4 | 1 << 16, 100];
    let mut request = [0; 16];
    request[..2].copy_from_slice(&vlan);
    let control = &mut rig.model.control;
    control.answered(&[1; 16], &[1 | 1 << 31, 2, 0x100]);
    control.answered(&request, &[vlan[0] | 0xa000_0000, 0, 0]);
    // VF_RESET is answered, and the VLAN is refused.
    let looks = [0, 0, VFU, PFSTS, VFU, PFSTS];
    rig.hw.answer(V2PMAILBOX, &looks);
    rig.hw.answer(VMBMEM, &[1 | 1 << 31, vlan[0] | 0x6000_0000]);
    rig.hw.answer(VMBMEM + 4, &[2, 0]);
    rig.hw.answer(VMBMEM + 8, &[0x100, 0]);
    let Rig { model, hw, .. } = &mut rig;
    hw.writes.clear();
    let refused = model.give_control(hw).unwrap_err();
    assert_eq!(refused.0, "the PF refused a VLAN of the guest");
    let asked = hw.writes.iter().filter(|write| **write == (V2PMAILBOX, 1));
    assert_eq!(asked.count(), 2);
}

#[test]
fn a_record_that_comes_again_is_asked_for_again_only_after_it_was_repeated() {
    /// A PF that gives the guest its address at once.
    fn answers(rig: &mut Rig) {
        rig.hw.answer(V2PMAILBOX, &[0, VFU, PFSTS, VFU, PFSTS]);
        // VF_RESET, and the filters that are cleared.
        rig.hw.answer(VMBMEM, &[1 | 1 << 31, 2 | 0xa000_0000]);
        rig.hw.answer(VMBMEM + 4, &[2, 0]);
        rig.hw.answer(VMBMEM + 8, &[0x100, 0]);
    }
    let record = |hi: u32| {
        let mut control = Record::new();
        control.answered(&[1; 16], &[1 | 1 << 31, 2, hi]);
        let mut buf = vec![0; 256];
        let mut w = Writer::new(&mut buf);
        control.save(&mut w).unwrap();
        let len = w.written();
        buf.truncate(len);
        buf
    };
    let asked = |rig: &mut Rig, record: &[u8]| {
        let Rig { model, hw, .. } = rig;
        hw.writes.clear();
        model.load_control(&mut Reader::new(record), hw).unwrap();
        !hw.writes.is_empty()
    };
    let mut rig = Rig::new();
    let first = record(0x100);
    answers(&mut rig);
    assert!(asked(&mut rig, &first));
    assert!(!asked(&mut rig, &first));
    // One that is not live asks for nothing, and is another one all the same.
    let mut none = vec![0; 256];
    let mut w = Writer::new(&mut none);
    Record::new().save(&mut w).unwrap();
    let len = w.written();
    let generation = rig.model.control_generation();
    assert!(!asked(&mut rig, &none[..len]));
    assert_ne!(rig.model.control_generation(), generation);
    answers(&mut rig);
    assert!(asked(&mut rig, &first));
    // Whoever has repeated it has a reason to ask again.
    let Rig { model, hw, .. } = &mut rig;
    hw.writes.clear();
    model.replay_control(hw).unwrap();
    assert!(hw.writes.is_empty());
    answers(&mut rig);
    assert!(asked(&mut rig, &first));
    // And another record is always asked for.
    let mut other = first.clone();
    // Behind the version.
    let mac = 2 + other[2..].iter().position(|byte| *byte == 2).unwrap();
    other[mac + 5] = 9;
    rig.hw
        .answer(V2PMAILBOX, &[0, VFU, PFSTS, VFU, PFSTS, VFU, PFSTS]);
    rig.hw
        .answer(VMBMEM, &[1 | 1 << 31, 2 | 0xa000_0000, 2 | 0xa000_0000]);
    rig.hw.answer(VMBMEM + 4, &[2, 0, 0]);
    rig.hw.answer(VMBMEM + 8, &[0x100, 0, 0]);
    assert!(asked(&mut rig, &other));
}

#[test]
fn a_state_is_loaded_as_it_was_saved() {
    let save = |rig: &mut Rig| {
        let mut buf = [0; 413];
        let Rig {
            model, hw, page, ..
        } = rig;
        model
            .save_state(hw, page, &mut Writer::new(&mut buf))
            .unwrap();
        buf
    };
    let mut rig = rig();
    rig.queue(1, 0, &[context(1, 7), small()]);
    poll(&mut rig, 9);
    let Rig { model, hw, .. } = &mut rig;
    model.write(regs::PSRTYPE, 0x1234, hw, None);
    rig.with(|model, io| model.stop(io)).unwrap();
    rig.model.rx[0].set_partial(rx::Partial {
        descs: 2,
        written: 1,
    });
    let state = save(&mut rig);
    let mut other = Rig::new();
    other.model.lost = true;
    let Rig {
        model, hw, page, ..
    } = &mut other;
    model
        .load_state(&mut Reader::new(&state), hw, page)
        .unwrap();
    assert!(!other.model.lost);
    assert_eq!(other.hw.page.read32(regs::PSRTYPE), 0x1234);
    assert!(save(&mut other) == state);
    assert_eq!(other.model.tx[1].contexts(), rig.model.tx[1].contexts());
    // A ring that is half delivered is not for the hardware.
    let Rig {
        model, hw, page, ..
    } = &mut other;
    assert!(!model.may_hand_back());
    assert_eq!(model.hand_back(hw, page), Err(Stuck));
    model.rx[0].set_partial(rx::Partial::default());
    assert!(model.may_hand_back());
    assert_eq!(model.hand_back(hw, page), Ok(()));
}

#[test]
fn nothing_is_repaired_of_a_vf_that_is_handed_back_and_was_not_lost() {
    let mut rig = rig();
    rig.with(|model, io| model.stop(io)).unwrap();
    rig.hw.writes.clear();
    let Rig {
        model, hw, page, ..
    } = &mut rig;
    model.hand_back(hw, page).unwrap();
    assert!(rig.hw.writes.iter().all(|(at, _)| *at >= 0x2000));
}

#[test]
fn a_vector_that_queue_and_mailbox_share_is_raised_for_both() {
    let mut rig = rig();
    for ivar_misc in [0x80, 0x81, 0x82, 0] {
        rig.hw.write32(regs::IVAR_MISC, ivar_misc);
        for news in [false, true] {
            rig.hw.writes.clear();
            crate::irq::raise_all(&mut rig.hw, news);
            // Those of all queues in any case.
            assert_eq!(rig.hw.writes, [(regs::EICS, 7)]);
        }
    }
}

#[test]
fn a_vf_that_was_lost_is_handed_back_if_it_can_be_repaired() {
    for (mailbox, handed_back) in [(0, Ok(())), (regs::RSTI, Err(Stuck))] {
        let mut rig = rig();
        rig.with(|model, io| model.stop(io)).unwrap();
        rig.hw.write32(V2PMAILBOX, mailbox);
        rig.model.lost = true;
        let Rig {
            model, hw, page, ..
        } = &mut rig;
        assert_eq!(model.hand_back(hw, page), handed_back, "{mailbox:#x}");
    }
}

#[test]
fn a_hand_back_that_fails_leaves_every_queue_off() {
    for q in 0..QUEUES {
        let mut rig = rig();
        rig.with(|model, io| model.stop(io)).unwrap();
        rig.hw.answer(nth(regs::TDH, q), &[5, 5]);
        let Rig {
            model, hw, page, ..
        } = &mut rig;
        assert_eq!(model.hand_back(hw, page), Err(Stuck));
        for q in 0..QUEUES {
            for at in [regs::RXDCTL, regs::TXDCTL] {
                assert_eq!(rig.hw.page.read32(nth(at, q)) & ENABLE, 0);
            }
        }
    }
}

#[test]
fn vectors_are_masked_before_anything_is_received_for_a_guest_that_does_not_run() {
    let mut rig = Rig::new();
    rig.enable_rx(0, 64, 9, ONE_BUFFER);
    rig.hw.writes.clear();
    rig.with(|model, io| model.listen(io.hw, io.page, io.mirror));
    assert_eq!(rig.hw.writes.first(), Some(&(regs::EIMC, u32::MAX)));
    assert!(rig.hw.writes.contains(&(regs::RDT, mirror::RX_SLOTS - 1)));
    assert!(rig.hw.writes.iter().all(|(at, _)| *at != regs::EIMS));
}

#[test]
fn vectors_of_a_paused_guest_are_masked_and_travel_as_they_were() {
    let mut rig = Rig::new();
    rig.enable_rx(0, 64, 9, ONE_BUFFER);
    rig.hw.page.write32(regs::EIMS, 5);
    rig.start();
    rig.with(|model, io| model.pause(io)).unwrap();
    assert!(rig.hw.writes.contains(&(regs::EIMC, u32::MAX)));
    // As silicon reads then.
    rig.hw.page.write32(regs::EIMS, 0);
    rig.with(|model, io| model.stop(io)).unwrap();
    let mut image = vec![0; 1024];
    let mut w = Writer::new(&mut image);
    let Rig {
        model, hw, page, ..
    } = &mut rig;
    model.save_state(hw, page, &mut w).unwrap();
    let len = w.written();
    let mut other = Rig::new();
    let Rig {
        model, hw, page, ..
    } = &mut other;
    model
        .load_state(&mut Reader::new(&image[..len]), hw, page)
        .unwrap();
    assert_eq!(hw.page.read32(regs::EIMS), 5);
    rig.start();
    assert_eq!(rig.hw.page.read32(regs::EIMS), 5);
}

#[test]
fn a_device_whose_guest_is_paused_has_the_slots_of_what_that_got_last() {
    let mut rig = Rig::new();
    rig.enable_rx(0, 64, 9, ONE_BUFFER);
    rig.start();
    for slot in 0..3 {
        rig.received(0, slot, 60, 7);
    }
    rig.with(|model, io| model.pause(io)).unwrap();
    assert_eq!(rig.page.read32(regs::RDH), 3);
    assert!(rig.hw.writes.contains(&(regs::RDT, 2)));
}
