// SPDX-License-Identifier: GPL-2.0

//! The mailbox as the guest sees it, and our own messages in it.

extern crate std;

use std::vec::Vec;

use super::*;
use crate::regs::PFACK;
use model::io::Registers;
use model::mock::Script;

const VF_RESET: u32 = crate::control::VF_RESET;
const SET_VLAN: u32 = 0x04;
/// Bits as the datasheet has them.
const REQ_BIT: u32 = 0x01;
const ACK_BIT: u32 = 0x02;
const VFU_BIT: u32 = 0x04;

fn hw() -> Script {
    Script::new(0, 0x1000)
}

/// A guest that has sent `asked`.
fn waiting(asked: u32) -> (Mailbox, Script) {
    let (mut mailbox, mut hw) = (Mailbox::new(), hw());
    mailbox.set_word(0, asked, &mut hw);
    mailbox.control(REQ_BIT, &mut hw);
    hw.writes.clear();
    (mailbox, hw)
}

/// The PF writes `words`.
fn reply(hw: &mut Script, words: &[u32]) {
    for (n, word) in words.iter().enumerate() {
        hw.page.write32(word_at(n), *word);
    }
    hw.answer(V2PMAILBOX, &[PFSTS]);
}

fn of(writes: &[(u32, u32)], at: u32) -> Vec<u32> {
    let of = writes.iter().filter(|(to, _)| *to == at);
    of.map(|(_, val)| *val).collect()
}

#[test]
fn every_word_of_the_memory_has_its_own_place() {
    let (mut mailbox, mut hw) = (Mailbox::new(), hw());
    for n in 0..16u32 {
        mailbox.set_word(n as usize, n + 1, &mut hw);
        assert_eq!(hw.writes.last(), Some(&(0x800 + 4 * n, n + 1)));
    }
    for n in 0..16u32 {
        assert_eq!(mailbox.word(n as usize), n + 1);
    }
    mailbox.set_word(16, 99, &mut hw);
    assert_eq!((mailbox.word(16), hw.writes.len()), (0, 16));
}

#[test]
fn only_what_answers_the_guest_s_message_is_a_reply() {
    for (first, is_reply) in [
        (SET_VLAN | MSG_ACK | MSG_CTS, true),
        (SET_VLAN | MSG_NACK | MSG_CTS, true),
        // INFO is not part of the type.
        (SET_VLAN | 1 << 16 | MSG_ACK | MSG_CTS, true),
        (SET_VLAN | MSG_CTS, false),
        (5 | MSG_ACK | MSG_CTS, false),
        (0x100 | MSG_CTS, false),
    ] {
        let (mut mailbox, mut hw) = waiting(SET_VLAN | 1 << 16);
        reply(&mut hw, &[first, 7, 8]);
        let (val, seen) = mailbox.look(&mut hw, true);
        let expected = if is_reply {
            Seen::Reply([first, 7, 8])
        } else {
            Seen::Nothing
        };
        assert_eq!((val, seen), (PFSTS, expected), "{first:#x}");
        // The guest reads the first word, whatever it is.
        assert_eq!((mailbox.word(0), mailbox.word(1)), (first, 0));
        assert_eq!(mailbox.is_waiting(), !is_reply);
    }
}

#[test]
fn nobody_who_does_not_ask_gets_a_reply() {
    let (mut mailbox, mut hw) = (Mailbox::new(), hw());
    reply(&mut hw, &[MSG_ACK | MSG_CTS, 7, 8]);
    assert_eq!(mailbox.look(&mut hw, true), (PFSTS, Seen::Nothing));
}

#[test]
fn the_reply_to_a_reset_has_the_address_with_it() {
    let (mut mailbox, mut hw) = waiting(VF_RESET);
    // It is no reset of the PF's that it comes without CTS.
    let words = [VF_RESET | MSG_ACK, 0x0403_0201, 0x0605];
    reply(&mut hw, &words);
    assert_eq!(mailbox.look(&mut hw, true), (PFSTS, Seen::Reply(words)));
    assert_eq!([0, 1, 2].map(|n| mailbox.word(n)), words);
}

#[test]
fn a_message_without_cts_says_that_the_pf_has_lost_the_vf() {
    for (asked, first) in [
        // A ping, a refusal, and what looks like an answer to a reset that nobody asked for.
        (SET_VLAN, 0x100),
        (SET_VLAN, SET_VLAN | MSG_NACK),
        (SET_VLAN, VF_RESET | MSG_ACK),
        (VF_RESET, 0x100),
    ] {
        let (mut mailbox, mut hw) = waiting(asked);
        reply(&mut hw, &[first, 7, 8]);
        assert_eq!(mailbox.look(&mut hw, true), (0, Seen::Lost), "{first:#x}");
        assert_eq!((mailbox.word(0), mailbox.take(0)), (asked, 0));
        assert!(mailbox.is_waiting());
        // Who is to see it sees it.
        let (mut mailbox, mut hw) = waiting(asked);
        reply(&mut hw, &[first, 7, 8]);
        assert_eq!(mailbox.look(&mut hw, false).0, PFSTS);
        assert_eq!(mailbox.word(0), first);
    }
}

#[test]
fn a_reset_of_the_pf_is_hidden_or_shown() {
    for bits in [RSTI, RSTD, RSTI | RSTD] {
        let (mut mailbox, mut hw) = (Mailbox::new(), hw());
        hw.answer(V2PMAILBOX, &[bits | PFACK, bits]);
        assert_eq!(mailbox.look(&mut hw, true), (PFACK, Seen::Lost));
        assert_eq!(mailbox.look(&mut hw, false), (bits, Seen::Nothing));
    }
}

#[test]
fn bits_that_a_read_clears_wait_until_the_guest_reads() {
    let (mut mailbox, mut hw) = (Mailbox::new(), hw());
    hw.answer(V2PMAILBOX, &[VFU_BIT | PFACK, PFACK, RSTD, 0]);
    mailbox.look(&mut hw, false);
    mailbox.look(&mut hw, false);
    mailbox.look(&mut hw, false);
    let (val, _) = mailbox.look(&mut hw, false);
    assert_eq!(mailbox.take(val), PFACK | RSTD);
    assert_eq!(mailbox.take(VFU_BIT | RSTI | PFSTS), VFU_BIT | RSTI);
}

#[test]
fn the_buffer_is_the_guest_s_from_vfu_until_it_lets_go_or_loses_it() {
    /// Whether the guest's side has anything to put back.
    fn owned(mailbox: &Mailbox) -> bool {
        let mut hw = hw();
        hw.page.write32(V2PMAILBOX, VFU_BIT);
        mailbox.clone().restore(&mut hw);
        assert!(!of(&hw.writes, V2PMAILBOX).contains(&REQ_BIT));
        !hw.writes.is_empty()
    }
    let (mut mailbox, mut hw) = (Mailbox::new(), hw());
    assert!(!owned(&mailbox));
    for (val, held) in [(VFU_BIT, true), (ACK_BIT, false), (VFU_BIT | ACK_BIT, true)] {
        mailbox.control(val, &mut hw);
        assert_eq!(hw.writes.last(), Some(&(V2PMAILBOX, val)));
        assert_eq!(owned(&mailbox), held, "{val:#x}");
    }
    // The PF had it: a look without VFU says so, one with VFU does not give it.
    hw.answer(V2PMAILBOX, &[VFU_BIT, !VFU_BIT & !PFSTS, VFU_BIT]);
    mailbox.look(&mut hw, false);
    assert!(owned(&mailbox));
    mailbox.look(&mut hw, false);
    assert!(!owned(&mailbox));
    mailbox.look(&mut hw, false);
    assert!(!owned(&mailbox));
}

#[test]
fn a_message_that_the_guest_waits_for_is_put_back_and_sent() {
    let (mut mailbox, _) = waiting(SET_VLAN);
    // What the guest has written since is not what it asked.
    mailbox.set_word(0, 99, &mut hw());
    let mut hw = hw();
    hw.answer(V2PMAILBOX, &[0, VFU_BIT]);
    mailbox.restore(&mut hw);
    assert_eq!(of(&hw.writes, V2PMAILBOX), [VFU_BIT, VFU_BIT, REQ_BIT]);
    assert_eq!(of(&hw.writes, VMBMEM), [SET_VLAN]);
    assert_eq!(hw.writes.len(), 16 + 3);
}

#[test]
fn a_mailbox_is_loaded_as_it_was_saved() {
    let (mut mailbox, mut hw) = waiting(SET_VLAN);
    mailbox.set_word(15, 0x1234_5678, &mut hw);
    mailbox.control(VFU_BIT, &mut hw);
    hw.answer(V2PMAILBOX, &[VFU_BIT | PFACK]);
    mailbox.look(&mut hw, false);
    let save = |mailbox: &Mailbox| {
        let mut buf = [0; 131];
        let mut w = Writer::new(&mut buf);
        mailbox.save(&mut w).unwrap();
        assert_eq!(w.written(), 131);
        buf
    };
    let saved = save(&mailbox);
    // Unread, owned, waiting.
    assert_eq!(saved[128..], [PFACK as u8, 1, 1]);
    assert_eq!(saved[..4], SET_VLAN.to_le_bytes());
    assert_eq!(saved[60..64], 0x1234_5678u32.to_le_bytes());
    assert_eq!(saved[64..68], SET_VLAN.to_le_bytes());
    let other = Mailbox::load(&mut Reader::new(&saved)).unwrap();
    assert_eq!(save(&other), saved);
    let mut garbage = saved;
    garbage[128] = 0xff;
    let other = Mailbox::load(&mut Reader::new(&garbage)).unwrap();
    assert_eq!(u32::from(save(&other)[128]), READ_CLEARS);
}

#[test]
fn a_buffer_that_was_held_elsewhere_is_held_until_it_is_looked_for_here() {
    let (mut mailbox, mut hw) = waiting(SET_VLAN);
    (mailbox.owned, mailbox.waiting, mailbox.moved) = (true, false, true);
    // Nobody has taken it on this VF yet.
    hw.answer(V2PMAILBOX, &[!VFU_BIT; 2]);
    mailbox.look(&mut hw, false);
    assert!(mailbox.owned);
    mailbox.restore(&mut hw);
    mailbox.look(&mut hw, false);
    assert!(mailbox.owned, "the hardware has it now");
    hw.page.write32(V2PMAILBOX, 0);
    mailbox.look(&mut hw, false);
    assert!(!mailbox.owned, "and does not any more");
    // What the guest writes is about this VF.
    mailbox.moved = true;
    mailbox.control(VFU_BIT, &mut hw);
    hw.page.write32(V2PMAILBOX, 0);
    mailbox.look(&mut hw, false);
    assert!(!mailbox.owned);
}

#[test]
fn the_buffer_is_taken_or_given_up_after_100_ms() {
    let mut hw = hw();
    hw.answer(V2PMAILBOX, &[0, !VFU_BIT, VFU_BIT]);
    assert_eq!(own(&mut hw), Ok(()));
    assert_eq!(of(&hw.writes, V2PMAILBOX), [VFU_BIT; 3]);
    assert_eq!(hw.pauses, [50, 50]);
    // A register that keeps nothing.
    hw.answer(V2PMAILBOX, &[0; 600]);
    assert_eq!(own(&mut hw), Err(NO_BUFFER));
    assert_eq!(hw.pauses.len(), 602);
}

#[test]
fn a_pf_in_reset_is_waited_for_100_ms() {
    let mut hw = hw();
    assert_eq!(wait_for_pf(&mut hw), Ok(()));
    assert!(hw.pauses.is_empty());
    // RSTD alone is over with the read that shows it.
    hw.answer(V2PMAILBOX, &[RSTI, RSTI | RSTD, RSTD, !(RSTI | RSTD)]);
    assert_eq!(wait_for_pf(&mut hw), Ok(()));
    assert_eq!(hw.pauses.len(), 2);
    hw.page.write32(V2PMAILBOX, RSTI);
    assert_eq!(wait_for_pf(&mut hw), Err(PF_AWAY));
    assert_eq!(hw.pauses.len(), 602);
}

#[test]
fn our_own_message_is_sent_and_its_reply_acknowledged() {
    let mut hw = hw();
    let words = [SET_VLAN | MSG_ACK | MSG_CTS, 7, 8];
    for (n, word) in words.iter().enumerate() {
        hw.answer(word_at(n), &[*word]);
    }
    // Two looks in vain, of which the first is at once.
    hw.answer(V2PMAILBOX, &[VFU_BIT, 0, !PFSTS, PFSTS]);
    assert_eq!(exchange(&mut hw, &[SET_VLAN, 100]), Ok(words));
    assert_eq!(
        hw.writes,
        [
            (V2PMAILBOX, VFU_BIT),
            (VMBMEM, SET_VLAN),
            (VMBMEM + 4, 100),
            (V2PMAILBOX, REQ_BIT),
            (V2PMAILBOX, ACK_BIT),
        ]
    );
    assert_eq!(hw.pauses, [50]);
}

#[test]
fn a_ping_is_no_reply_to_our_own_message() {
    let mut hw = hw();
    hw.answer(V2PMAILBOX, &[VFU_BIT, PFSTS, PFSTS]);
    hw.answer(VMBMEM, &[0x100 | MSG_CTS, SET_VLAN | MSG_NACK]);
    let reply = exchange(&mut hw, &[SET_VLAN]).unwrap();
    assert_eq!(reply, [SET_VLAN | MSG_NACK, 0, 0]);
    assert_eq!(
        of(&hw.writes, V2PMAILBOX),
        [VFU_BIT, REQ_BIT, ACK_BIT, ACK_BIT]
    );
}

#[test]
fn a_pf_that_does_not_answer_is_given_up_after_100_ms() {
    let mut hw = hw();
    hw.answer(V2PMAILBOX, &[VFU_BIT]);
    assert_eq!(exchange(&mut hw, &[SET_VLAN]), Err(NO_REPLY));
    assert_eq!(hw.pauses.len(), 599);
    // And so is one that says other things all the time.
    hw.answer(V2PMAILBOX, &[VFU_BIT]);
    hw.answer(V2PMAILBOX, &[PFSTS; 600]);
    assert_eq!(exchange(&mut hw, &[SET_VLAN]), Err(NO_REPLY));
}
