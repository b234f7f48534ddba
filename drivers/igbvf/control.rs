// SPDX-License-Identifier: GPL-2.0

//! The control record: what the guest asked of its PF, and how to ask another PF for the same.
//!
//! It can be learned in no other way than from the messages in the mailbox.

use model::image::{Full, Reader, Refused, Writer};
use model::io::Hardware;

use crate::mailbox::{self, Message, Reply, MSG_ACK, MSG_CTS, MSG_INFO, MSG_NACK, MSG_TYPE, WORDS};

/// Message: the VF starts anew.
pub(crate) const VF_RESET: u32 = 0x01;
/// Message: an address; INFO says what for.
const SET_MAC_ADDR: u32 = 0x02;
/// Message: multicast hashes; INFO says how many.
const SET_MULTICAST: u32 = 0x03;
/// Message: a VLAN; INFO 1 adds it.
const SET_VLAN: u32 = 0x04;
/// Message: the longest frame.
const SET_LPE: u32 = 0x05;
/// Message: promiscuous modes in INFO.
const SET_PROMISC: u32 = 0x06;

/// SET_MAC_ADDR: no unicast filters.
const FILTER_CLR: u32 = 1 << 16;
/// SET_MAC_ADDR: one more unicast filter.
const FILTER_ADD: u32 = 2 << 16;

/// VLANs that the hardware has filters for.
const MAX_VLANS: usize = 32;
/// Unicast filters that the hardware has, all VFs together.
const MAX_UNICAST: usize = 16;
/// Version of the record in the image.
const VERSION: u16 = 2;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// Whether a VF may have `mac`.
fn is_unicast(mac: &Mac) -> bool {
    let [first, ..] = mac;
    first & 1 == 0 && *mac != [0; 6]
}

/// The address in words 1 and 2 of a message.
fn mac_of(lo: u32, hi: u32) -> Mac {
    let ([a, b, c, d], [e, f, ..]) = (lo.to_le_bytes(), hi.to_le_bytes());
    [a, b, c, d, e, f]
}

/// Words 1 and 2 of a message with an address.
fn words_of(mac: Mac) -> (u32, u32) {
    let [a, b, c, d, e, f] = mac;
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, 0, 0]),
    )
}

/// A list with a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct List<T, const N: usize> {
    items: [T; N],
    len: u8,
}

impl<T: Copy + PartialEq, const N: usize> List<T, N> {
    const fn new(none: T) -> Self {
        Self {
            items: [none; N],
            len: 0,
        }
    }

    fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.items.iter().copied().take(self.len.into())
    }

    /// Adds `item` unless it is there; false if there is no room.
    fn insert(&mut self, item: T) -> bool {
        if self.iter().any(|other| other == item) {
            return true;
        }
        let Some(free) = self.items.get_mut(usize::from(self.len)) else {
            return false;
        };
        *free = item;
        self.len = self.len.saturating_add(1);
        true
    }

    fn remove(&mut self, item: T, none: T) {
        let mut left = Self::new(none);
        for other in self.iter().filter(|other| *other != item) {
            left.insert(other);
        }
        *self = left;
    }
}

/// What the guest asked of its PF, and got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The PF knows the VF: VF_RESET was answered since the last reset.
    live: bool,
    /// The guest's address, if one was ever agreed on.
    mac: Option<Mac>,
    /// VLANs.
    vlans: List<u16, MAX_VLANS>,
    /// The PF removes tags: the VLAN that it heard of last was not 0 (or there was none).
    strips: bool,
    /// The last SET_MULTICAST, or nothing.
    multicast: Option<Message>,
    /// The longest frame, if it was said.
    lpe: Option<u32>,
    /// Promiscuous modes, as in INFO.
    promisc: u32,
    /// Unicast filters.
    unicast: List<Mac, MAX_UNICAST>,
    /// The guest got more than we can keep in mind.
    overflow: bool,
}

impl Record {
    pub(crate) const fn new() -> Self {
        Self {
            live: false,
            mac: None,
            vlans: List::new(0),
            strips: true,
            multicast: None,
            lpe: None,
            promisc: 0,
            unicast: List::new([0; 6]),
            overflow: false,
        }
    }

    /// Whether the PF knows the VF.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    pub(crate) fn mac(&self) -> Option<Mac> {
        self.mac
    }

    /// The VLANs that the guest is a member of.
    pub(crate) fn vlans(&self) -> impl Iterator<Item = u16> + '_ {
        self.vlans.iter()
    }

    /// Whether it can be repeated elsewhere.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.overflow {
            return Err("the guest has more VLANs or unicast filters than can be recorded");
        }
        Ok(())
    }

    /// The VF was reset: the PF forgets what it forgets then, which is not all.
    pub(crate) fn vf_reset(&mut self) {
        let Self {
            live,
            mac,
            vlans,
            strips,
            multicast,
            lpe: _,
            promisc,
            unicast: _,
            overflow: _,
        } = self;
        (*live, *mac, *multicast, *promisc) = (false, None, None, 0);
        (*vlans, *strips) = (List::new(0), true);
    }

    /// The PF has answered `request` with `reply`.
    pub(crate) fn answered(&mut self, request: &Message, reply: &Reply) {
        let [asked, lo, hi, ..] = *request;
        let [answer, reply_lo, reply_hi] = *reply;
        let accepted = answer & MSG_ACK != 0;
        if asked & MSG_TYPE == VF_RESET {
            self.vf_reset();
            self.live = true;
            if accepted {
                self.mac = Some(mac_of(reply_lo, reply_hi)).filter(is_unicast);
            }
            return;
        }
        // The PF does what it can of this one, and refuses if that is not all.
        if asked & MSG_TYPE == SET_PROMISC && answer & MSG_CTS != 0 {
            self.promisc = asked & MSG_INFO;
        }
        if !accepted {
            return;
        }
        match (asked & MSG_TYPE, asked & MSG_INFO) {
            (SET_MAC_ADDR, 0) => self.mac = Some(mac_of(lo, hi)).filter(is_unicast),
            (SET_MAC_ADDR, FILTER_CLR) => self.unicast = List::new([0; 6]),
            (SET_MAC_ADDR, FILTER_ADD) => {
                let mac = mac_of(lo, hi);
                if is_unicast(&mac) {
                    self.overflow |= !self.unicast.insert(mac);
                }
            }
            (SET_MULTICAST, _) => {
                let mut message = *request;
                if let Some(first) = message.first_mut() {
                    *first &= MSG_TYPE | MSG_INFO;
                }
                self.multicast = Some(message);
            }
            (SET_VLAN, 0) => {
                let vid = lo as u16 & 0xfff;
                // The PF ignores that.
                if vid != 0 {
                    self.vlans.remove(vid, 0);
                    self.strips = true;
                }
            }
            (SET_VLAN, _) => {
                let vid = lo as u16 & 0xfff;
                self.overflow |= !self.vlans.insert(vid);
                self.strips = vid != 0;
            }
            (SET_LPE, _) => self.lpe = Some(lo),
            _ => {}
        }
    }

    /// Asks the PF of another VF, or of this one after a reset, for all of it but the address: whether the
    /// address is the guest's already.
    ///
    /// # Errors
    ///
    /// Why the PF refused.
    pub(crate) fn replay(&self, hw: &mut dyn Hardware) -> Result<bool, Refused> {
        mailbox::wait_for_pf(hw)?;
        let [answer, lo, hi] = mailbox::exchange(hw, &[VF_RESET])?;
        let given = Some(mac_of(lo, hi)).filter(|mac| answer & MSG_ACK != 0 && is_unicast(mac));
        let mut is_set = self.mac.is_none() || self.mac == given;
        if !is_set && given.is_some() {
            // Ask now: an address that the PF's administrator has pinned is a reason to refuse early.
            self.replay_mac(hw)?;
            is_set = true;
        }
        if let Some(lpe) = self.lpe {
            ask(
                hw,
                &[SET_LPE, lpe],
                "the PF refused the length of the guest's frames",
            )?;
        }
        self.replay_vlans(hw)?;
        if let Some(message) = &self.multicast {
            ask(hw, message, "the PF refused the guest's multicast filters")?;
        }
        self.replay_unicast(hw)?;
        if self.promisc != 0 {
            // It may have been refused, or half refused, to begin with.
            mailbox::exchange(hw, &[SET_PROMISC | self.promisc])?;
        }
        Ok(is_set)
    }

    /// Asks for the VLANs, in an order that leaves tags removed or not as they were.
    fn replay_vlans(&self, hw: &mut dyn Hardware) -> Result<(), Refused> {
        for zero in [self.strips, !self.strips] {
            for vid in self.vlans.iter().filter(|vid| (*vid == 0) == zero) {
                ask(
                    hw,
                    &[SET_VLAN | 1 << 16, vid.into()],
                    "the PF refused a VLAN of the guest",
                )?;
            }
        }
        if self.strips && self.vlans.len == 1 && self.vlans.iter().any(|vid| vid == 0) {
            // A VLAN that is not there goes, and with it the memory of 0.
            mailbox::exchange(hw, &[SET_VLAN, 1])?;
        }
        Ok(())
    }

    /// VF_RESET leaves those of an earlier record, or of another guest, so they are cleared first.
    fn replay_unicast(&self, hw: &mut dyn Hardware) -> Result<(), Refused> {
        // The PF wants a valid address even here, and may refuse: there is nothing to clear then.
        let (lo, hi) = words_of(self.mac.unwrap_or([2, 0, 0, 0, 0, 1]));
        mailbox::exchange(hw, &[SET_MAC_ADDR | FILTER_CLR, lo, hi])?;
        for mac in self.unicast.iter() {
            let (lo, hi) = words_of(mac);
            ask(
                hw,
                &[SET_MAC_ADDR | FILTER_ADD, lo, hi],
                "the PF refused a unicast filter of the guest",
            )?;
        }
        Ok(())
    }

    /// Asks the PF for the guest's address.
    ///
    /// # Errors
    ///
    /// Why the PF refused.
    pub(crate) fn replay_mac(&self, hw: &mut dyn Hardware) -> Result<(), Refused> {
        let Some(mac) = self.mac else { return Ok(()) };
        let (lo, hi) = words_of(mac);
        ask(
            hw,
            &[SET_MAC_ADDR, lo, hi],
            "the PF pinned another MAC address to this VF",
        )
    }

    pub(crate) fn save(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        let Self {
            live,
            mac,
            vlans,
            strips,
            multicast,
            lpe,
            promisc,
            unicast,
            overflow,
        } = self;
        w.put_u16(VERSION)?;
        w.put_u8((*live).into())?;
        w.put_u8((*overflow).into())?;
        w.put_u8(mac.is_some().into())?;
        w.put_bytes(&mac.unwrap_or([0; 6]))?;
        w.put_u8(vlans.len)?;
        for vid in vlans.iter() {
            w.put_u16(vid)?;
        }
        w.put_u8((*strips).into())?;
        w.put_u8(multicast.is_some().into())?;
        for word in multicast.iter().flatten() {
            w.put_u32(*word)?;
        }
        w.put_u8(lpe.is_some().into())?;
        w.put_u32(lpe.unwrap_or(0))?;
        w.put_u32(*promisc)?;
        w.put_u8(unicast.len)?;
        for mac in unicast.iter() {
            w.put_bytes(&mac)?;
        }
        Ok(())
    }

    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, Refused> {
        const MAC: Refused = Refused("a control record with an impossible address");
        if r.take_u16()? != VERSION {
            return Err(Refused("a control record of another version"));
        }
        let mut new = Self::new();
        new.live = r.take_bool()?;
        if r.take_bool()? {
            return Err(Refused("a control record that is not complete"));
        }
        let has_mac = r.take_bool()?;
        let mac: Mac = r.take_array()?;
        if has_mac {
            new.mac = Some(mac).filter(is_unicast);
            new.mac.ok_or(MAC)?;
        }
        for _ in 0..r.take_u8()? {
            let vid = r.take_u16()?;
            if vid > 0xfff || !new.vlans.insert(vid) {
                return Err(Refused("a control record with impossible VLANs"));
            }
        }
        new.strips = r.take_bool()?;
        if r.take_bool()? {
            let mut message = [0; WORDS];
            for word in &mut message {
                *word = r.take_u32()?;
            }
            let [first, ..] = message;
            if first & !MSG_INFO != SET_MULTICAST {
                return Err(Refused(
                    "a control record with impossible multicast filters",
                ));
            }
            new.multicast = Some(message);
        }
        let has_lpe = r.take_bool()?;
        let lpe = r.take_u32()?;
        new.lpe = has_lpe.then_some(lpe);
        new.promisc = r.take_u32()?;
        if new.promisc & !MSG_INFO != 0 {
            return Err(Refused("a control record with impossible modes"));
        }
        for _ in 0..r.take_u8()? {
            let mac = r.take_array()?;
            if !is_unicast(&mac) || !new.unicast.insert(mac) {
                return Err(MAC);
            }
        }
        Ok(new)
    }
}

/// Sends `message`, which the PF has to accept.
fn ask(hw: &mut dyn Hardware, message: &[u32], otherwise: &'static str) -> Result<(), Refused> {
    let [answer, ..] = mailbox::exchange(hw, message)?;
    if answer & MSG_NACK != 0 || answer & (MSG_ACK | MSG_CTS) != MSG_ACK | MSG_CTS {
        return Err(Refused(otherwise));
    }
    Ok(())
}

/// How much of the record the PF of this VF has got from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeated {
    /// Not all of it.
    No,
    /// All but the address.
    AllButMac,
    /// All of it.
    All,
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
