// SPDX-License-Identifier: GPL-2.0

//! What is learned from the guest's messages, and what is asked of another PF.

extern crate std;

use std::vec;
use std::vec::Vec;

use super::*;
use crate::regs::{PFSTS, V2PMAILBOX, VFU, VMBMEM};
use model::mock::Script;

const MAC: Mac = [0x52, 0x54, 0, 1, 2, 3];
const UNICAST: Mac = [2, 0, 0, 0, 0, 9];
const GROUP: Mac = [3, 0, 0, 0, 0, 9];
const YES: u32 = MSG_ACK | MSG_CTS;
const NO: u32 = MSG_NACK | MSG_CTS;

/// The PF answers a message of these words by `answer`.
fn message(record: &mut Record, words: &[u32], answer: u32) {
    let mut request = [0; WORDS];
    request[..words.len()].copy_from_slice(words);
    record.answered(&request, &[words[0] | answer, 0, 0]);
}

fn address(kind: u32, mac: Mac) -> [u32; 3] {
    let (lo, hi) = words_of(mac);
    [SET_MAC_ADDR | kind, lo, hi]
}

/// A record with all there is in one.
fn full() -> Record {
    let mut record = Record::new();
    let (lo, hi) = words_of(MAC);
    record.answered(&[VF_RESET; WORDS], &[VF_RESET | MSG_ACK, lo, hi]);
    for words in [
        &[SET_VLAN | 1 << 16, 100][..],
        &[SET_VLAN | 1 << 16, 0xfff],
        &[SET_LPE, 9000],
        &[SET_MULTICAST | 2 << 16, 0x123],
        &address(FILTER_ADD, UNICAST),
        &[SET_PROMISC | 2 << 16],
    ] {
        message(&mut record, words, YES);
    }
    record
}

fn save(record: &Record) -> Vec<u8> {
    let mut buf = vec![0; 512];
    let mut w = Writer::new(&mut buf);
    record.save(&mut w).unwrap();
    let len = w.written();
    buf.truncate(len);
    buf
}

#[test]
fn addresses_are_in_words_1_and_2_and_unicast() {
    let words = (0x0403_0201, 0x0605);
    assert_eq!(words_of([1, 2, 3, 4, 5, 6]), words);
    assert_eq!(mac_of(words.0, 0xffff_0605), [1, 2, 3, 4, 5, 6]);
    assert!(is_unicast(&MAC) && is_unicast(&[0, 0, 0, 0, 0, 1]));
    assert!(!is_unicast(&GROUP) && !is_unicast(&[1, 0, 0, 0, 0, 0]) && !is_unicast(&[0; 6]));
}

#[test]
fn what_the_pf_refuses_is_not_recorded() {
    let before = full();
    for words in [
        &[SET_VLAN | 1 << 16, 200][..],
        &[SET_VLAN, 100],
        &[SET_LPE, 1500],
        &[SET_MULTICAST | 1 << 16, 0x456],
        &address(0, UNICAST),
        &address(FILTER_CLR, UNICAST),
        &address(FILTER_ADD, MAC),
    ] {
        let mut record = before.clone();
        message(&mut record, words, NO);
        assert_eq!(record, before, "{words:x?}");
        message(&mut record, words, YES);
        assert_ne!(record, before, "{words:x?}");
    }
    // Promiscuous modes: what the PF knows of the VF it takes, even if it says no.
    for (answer, known) in [(NO, true), (YES, true), (MSG_NACK, false), (0, false)] {
        let mut record = before.clone();
        message(&mut record, &[SET_PROMISC | 1 << 16], answer);
        assert_eq!(record.promisc == 1 << 16, known, "{answer:#x}");
    }
    // And what is no message changes nothing.
    let mut record = before.clone();
    message(&mut record, &[7, 1, 1], YES);
    message(&mut record, &address(3 << 16, UNICAST), YES);
    assert_eq!(record, before);
}

#[test]
fn a_reset_gives_the_address_that_the_pf_accepts_and_forgets_the_rest() {
    let (lo, hi) = words_of(UNICAST);
    for (reply, mac) in [
        ([VF_RESET | MSG_ACK, lo, hi], Some(UNICAST)),
        ([VF_RESET | MSG_NACK, lo, hi], None),
        ([VF_RESET | MSG_ACK, 0, 0], None),
        ([VF_RESET | MSG_ACK, 1, 0], None),
    ] {
        let mut record = full();
        record.answered(&[VF_RESET; WORDS], &reply);
        assert_eq!((record.is_live(), record.mac()), (true, mac));
        assert_eq!(record.vlans().count(), 0);
        assert_eq!((&record.multicast, record.promisc), (&None, 0));
        // The PF keeps these.
        assert_eq!((record.lpe, record.unicast.iter().count()), (Some(9000), 1));
    }
}

#[test]
fn vlans_are_added_once_and_removed_but_for_vlan_0() {
    let mut record = Record::new();
    for vid in [100, 0, 100, 0x1064, 7] {
        message(&mut record, &[SET_VLAN | 1 << 16, vid], YES);
    }
    assert!(record.vlans().eq([100, 0, 7]));
    for vid in [100, 0, 8] {
        message(&mut record, &[SET_VLAN, vid], YES);
    }
    assert!(record.vlans().eq([0, 7]));
}

#[test]
fn addresses_of_groups_are_no_addresses_of_the_guest() {
    let mut record = full();
    message(&mut record, &address(FILTER_ADD, GROUP), YES);
    assert!(record.unicast.iter().eq([UNICAST]));
    message(&mut record, &address(FILTER_CLR, MAC), YES);
    assert_eq!(record.unicast.iter().count(), 0);
    message(&mut record, &address(0, GROUP), YES);
    assert_eq!(record.mac(), None);
    message(&mut record, &address(0, MAC), YES);
    assert_eq!(record.mac(), Some(MAC));
}

#[test]
fn the_last_multicast_message_is_kept_without_its_flags() {
    let mut record = Record::new();
    message(&mut record, &[SET_MULTICAST | 0xff << 24 | 2 << 16, 5], YES);
    let kept = record.multicast.unwrap();
    assert_eq!(kept[..3], [SET_MULTICAST | 2 << 16, 5, 0]);
}

#[test]
fn a_guest_with_more_than_can_be_recorded_does_not_migrate() {
    // One that does not fit, and another.
    let (mut vlans, mut filters) = (Record::new(), Record::new());
    for n in 1..=34u32 {
        message(&mut vlans, &[SET_VLAN | 1 << 16, n], YES);
        assert_eq!(vlans.check().is_ok(), n <= 32, "{n}");
    }
    for n in 1..=18u8 {
        message(&mut filters, &address(FILTER_ADD, [2, 0, 0, 0, 0, n]), YES);
        assert_eq!(filters.check().is_ok(), n <= 16, "{n}");
    }
    // It stays so: the PF has what we have not.
    message(&mut vlans, &[SET_VLAN, 5], YES);
    message(&mut vlans, &[SET_VLAN | 1 << 16, 6], YES);
    assert!(vlans.check().is_err());
    let saved = save(&vlans);
    assert!(Record::load(&mut Reader::new(&saved)).is_err());
}

#[test]
fn a_record_is_loaded_as_it_was_saved() {
    for record in [Record::new(), full()] {
        let saved = save(&record);
        let loaded = Record::load(&mut Reader::new(&saved)).unwrap();
        assert_eq!((&save(&loaded), loaded), (&saved, record));
        for len in 0..saved.len() {
            assert!(Record::load(&mut Reader::new(&saved[..len])).is_err());
        }
    }
}

/// Whether `full()` is loaded with `new` in the place of `old`, which is in it once.
fn loads_with(old: &[u8], new: &[u8]) -> bool {
    let mut saved = save(&full());
    let at = |bytes: &[u8]| bytes.windows(old.len()).position(|part| part == old);
    let start = at(&saved).unwrap();
    assert_eq!(at(&saved[start + 1..]), None);
    saved[start..start + old.len()].copy_from_slice(new);
    Record::load(&mut Reader::new(&saved)).is_ok()
}

#[test]
fn a_record_that_no_guest_could_have_made_is_refused() {
    let multicast = (SET_MULTICAST | 2 << 16).to_le_bytes();
    let promisc = [0, 0, 2, 0, 1];
    for (old, new, good) in [
        (&MAC[..], &UNICAST[..], true),
        (&MAC, &GROUP, false),
        (&MAC, &[0; 6], false),
        (&UNICAST, &GROUP, false),
        (&[0xff, 0x0f], &[0xfe, 0x0f], true),
        (&[0xff, 0x0f], &[0x00, 0x10], false),
        (&multicast, &[3, 0, 0, 0], true),
        (&multicast, &[2, 0, 2, 0], false),
        (&multicast, &[3, 0, 2, 1], false),
        (&promisc, &[0, 0, 0xff, 0, 1], true),
        (&promisc, &[0, 0, 2, 1, 1], false),
        (&promisc, &[1, 0, 2, 0, 1], false),
    ] {
        assert_eq!(loads_with(old, new), good, "{old:x?} {new:x?}");
    }
}

/// A PF that gives these answers, one after the other.
fn pf(answers: &[[u32; 3]]) -> Script {
    let mut hw = Script::new(0, 0x1000);
    hw.answer(V2PMAILBOX, &[0]);
    for answer in answers {
        hw.answer(V2PMAILBOX, &[VFU, PFSTS]);
        for (n, word) in answer.iter().enumerate() {
            hw.answer(VMBMEM + 4 * n as u32, &[*word]);
        }
    }
    hw
}

/// The first three words of each message that was sent.
fn sent(hw: &Script) -> Vec<[u32; 3]> {
    let (mut words, mut all) = ([0; 3], Vec::new());
    for (at, val) in &hw.writes {
        match *at {
            V2PMAILBOX if val & 1 != 0 => all.push(std::mem::take(&mut words)),
            V2PMAILBOX => {}
            at => {
                if let Some(word) = words.get_mut((at - VMBMEM) as usize / 4) {
                    *word = *val;
                }
            }
        }
    }
    all
}

/// The messages that a whole replay of `full()` has after VF_RESET.
fn wishes() -> Vec<[u32; 3]> {
    let (lo, hi) = words_of(MAC);
    let (filter_lo, filter_hi) = words_of(UNICAST);
    vec![
        [5, 9000, 0],
        [0x1_0004, 100, 0],
        [0x1_0004, 0xfff, 0],
        [0x2_0003, 0x123, 0],
        [0x1_0002, lo, hi],
        [0x2_0002, filter_lo, filter_hi],
        [0x2_0006, 0, 0],
    ]
}

fn yes(messages: &[[u32; 3]]) -> Vec<[u32; 3]> {
    let yes = |message: &[u32; 3]| [message[0] | YES, 0, 0];
    messages.iter().map(yes).collect()
}

#[test]
fn all_but_the_address_is_asked_of_a_pf_that_gives_none() {
    let reset = [VF_RESET | MSG_NACK, 0x0403_0202, 0x0605];
    let mut hw = pf(&[&[reset][..], &yes(&wishes())].concat());
    assert_eq!(full().replay(&mut hw), Ok(false));
    assert_eq!(sent(&hw), [&[[VF_RESET, 0, 0]][..], &wishes()].concat());
}

#[test]
fn an_address_that_the_vf_has_already_is_not_asked_for() {
    let (lo, hi) = words_of(MAC);
    let mut hw = pf(&[&[[VF_RESET | MSG_ACK, lo, hi]][..], &yes(&wishes())].concat());
    assert_eq!(full().replay(&mut hw), Ok(true));
    assert_eq!(sent(&hw).len(), 1 + wishes().len());
}

#[test]
fn where_the_vf_has_another_address_the_guest_s_is_asked_for_at_once() {
    let (lo, hi) = words_of(UNICAST);
    let (mac_lo, mac_hi) = words_of(MAC);
    let reset = [VF_RESET | MSG_ACK, lo, hi];
    let address = [SET_MAC_ADDR, mac_lo, mac_hi];
    let mut hw = pf(&[&[reset][..], &yes(&[address]), &yes(&wishes())].concat());
    assert_eq!(full().replay(&mut hw), Ok(true));
    assert_eq!(sent(&hw)[1], address);
    // And a refusal ends it there.
    let mut hw = pf(&[reset, [SET_MAC_ADDR | NO, 0, 0]]);
    let refused = full().replay(&mut hw).unwrap_err();
    assert_eq!(refused.0, "the PF pinned another MAC address to this VF");
    assert_eq!(sent(&hw).len(), 2);
}

#[test]
fn no_address_of_a_pf_is_one_that_a_vf_may_not_have() {
    for (lo, hi) in [(0, 0), words_of(GROUP)] {
        let reset = [VF_RESET | MSG_ACK, lo, hi];
        let mut hw = pf(&[&[reset][..], &yes(&wishes())].concat());
        assert_eq!(full().replay(&mut hw), Ok(false));
    }
}

#[test]
fn a_guest_without_an_address_asks_for_none() {
    let mut record = Record::new();
    record.live = true;
    message(&mut record, &address(FILTER_ADD, UNICAST), YES);
    let clear = [0x1_0002, 2, 0x100];
    let (lo, hi) = words_of(UNICAST);
    // Even if that is refused there is nothing left to clear.
    let answers = [
        [VF_RESET | MSG_NACK, 0, 0],
        [SET_MAC_ADDR | NO, 0, 0],
        [SET_MAC_ADDR | YES, 0, 0],
    ];
    let mut hw = pf(&answers);
    assert_eq!(record.replay(&mut hw), Ok(true));
    assert_eq!(sent(&hw)[1..], [clear, [0x2_0002, lo, hi]]);
    let mut hw = pf(&[]);
    assert_eq!(record.replay_mac(&mut hw), Ok(()));
    assert!(hw.writes.is_empty());
}

#[test]
fn vlans_are_asked_for_in_an_order_that_leaves_tags_as_they_were() {
    // What was asked for last decides; 0 leaves tags in place.
    let record = |vids: &[u32]| {
        let mut record = Record::new();
        for vid in vids {
            message(&mut record, &[SET_VLAN | 1 << 16, *vid], YES);
        }
        record
    };
    let asked = |record: &Record| {
        let mut hw = pf(&yes(&[[SET_VLAN, 0, 0]; 4]));
        record.replay_vlans(&mut hw).unwrap();
        let of = |message: &[u32; 3]| (message[0] >> 16, message[1]);
        sent(&hw).iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(asked(&record(&[5, 0, 7])), [(1, 0), (1, 5), (1, 7)]);
    assert_eq!(asked(&record(&[0, 5, 7, 0])), [(1, 5), (1, 7), (1, 0)]);
    assert_eq!(asked(&record(&[5])), [(1, 5)]);
    assert_eq!(asked(&record(&[0])), [(1, 0)]);
    // Nothing but 0, and tags are removed: one that is not there goes.
    let mut removes = record(&[5, 0]);
    message(&mut removes, &[SET_VLAN, 5], YES);
    assert_eq!(asked(&removes), [(1, 0), (0, 1)]);
    message(&mut removes, &[SET_VLAN | 1 << 16, 5], YES);
    assert_eq!(asked(&removes), [(1, 0), (1, 5)]);
}

#[test]
fn whatever_the_pf_refuses_is_named_but_for_promiscuous_modes() {
    let reset = [VF_RESET | MSG_NACK, 0, 0];
    for (n, part) in [
        (0, Some("length")),
        (1, Some("VLAN")),
        (2, Some("VLAN")),
        (3, Some("multicast")),
        (4, None),
        (5, Some("unicast")),
        (6, None),
    ] {
        let mut answers = yes(&wishes());
        answers[n] = [wishes()[n][0] | NO, 0, 0];
        let mut hw = pf(&[&[reset][..], &answers].concat());
        let refused = full().replay(&mut hw).err();
        assert_eq!(refused.is_some(), part.is_some(), "{n}");
        if let (Some(refused), Some(part)) = (refused, part) {
            assert!(refused.0.contains(part), "{}", refused.0);
        }
    }
}

#[test]
fn only_an_ack_of_a_pf_that_knows_the_vf_and_no_nack_is_a_yes() {
    for (answer, good) in [
        (MSG_ACK | MSG_CTS, true),
        (MSG_ACK, false),
        (MSG_NACK | MSG_CTS, false),
        (MSG_ACK | MSG_NACK | MSG_CTS, false),
    ] {
        let mut hw = pf(&[[SET_LPE | answer, 0, 0]]);
        hw.answers.entry(V2PMAILBOX).or_default().pop_front();
        assert_eq!(ask(&mut hw, &[SET_LPE, 1], "no").is_ok(), good);
    }
}
