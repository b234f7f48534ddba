// SPDX-License-Identifier: GPL-2.0

//! The mailbox between the guest's driver and the PF's, with us in between.
//!
//! The guest's messages go to the PF as they are. What the guest reads is a copy: our own messages, which
//! repeat the control record, use the same mailbox and must leave no trace in it.

use model::image::{Full, Reader, Refused, Writer};
use model::io::Hardware;

use crate::mirror::pause;
use crate::regs::{ACK, PFSTS, READ_CLEARS, REQ, RSTD, RSTI, V2PMAILBOX, VFU, VMBMEM};

/// Words of VMBMEM.
pub(crate) const WORDS: usize = 16;
/// Words of the longest reply.
pub(crate) const REPLY_WORDS: usize = 3;

/// Word 0: the PF did what was asked.
pub(crate) const MSG_ACK: u32 = 1 << 31;
/// Word 0: the PF refused.
pub(crate) const MSG_NACK: u32 = 1 << 30;
/// Word 0: the PF knows the VF since its last reset.
pub(crate) const MSG_CTS: u32 = 1 << 29;
/// Word 0: what the message is.
pub(crate) const MSG_TYPE: u32 = 0xffff;
/// Word 0: a number that belongs to the type.
pub(crate) const MSG_INFO: u32 = 0xff << 16;

/// A message.
pub(crate) type Message = [u32; WORDS];
/// A reply.
pub(crate) type Reply = [u32; REPLY_WORDS];

/// The PF is being reset, or its interface is down.
const PF_AWAY: Refused = Refused("the PF is in reset: its interface has to be up");
/// The VF does not react at all, or the PF died with the buffer in its hands.
const NO_BUFFER: Refused = Refused("the mailbox of this VF cannot be taken");
/// The PF's interrupt handler did not run.
const NO_REPLY: Refused = Refused("the PF does not answer: its interface has to be up");

/// Looks at the mailbox until the PF has to have answered.
const TRIES: u32 = 600;

/// What a look at the mailbox has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing that matters here.
    Nothing,
    /// The PF's reply to a message of the guest.
    Reply(Reply),
    /// The PF does not know the VF any more.
    Lost,
}

/// The mailbox as the guest sees it.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    /// VMBMEM.
    words: Message,
    /// Bits that a read clears and that the guest has not read yet.
    unread: u32,
    /// The guest holds the buffer.
    owned: bool,
    /// The guest waits for a reply to what is in `request`.
    waiting: bool,
    /// The last message of the guest.
    request: Message,
    /// VMBMEM of the hardware has other words than the guest has written.
    overwritten: bool,
    /// What the guest holds and waits for was another VF's, and has yet to be put into this one.
    moved: bool,
}

impl Mailbox {
    pub(crate) const fn new() -> Self {
        Self {
            words: [0; WORDS],
            unread: 0,
            owned: false,
            waiting: false,
            request: [0; WORDS],
            overwritten: false,
            moved: false,
        }
    }

    /// The last message of the guest.
    pub(crate) fn request(&self) -> &Message {
        &self.request
    }

    /// A VF reset or another message ends what was under way; the memory stays.
    pub(crate) fn give_up(&mut self) {
        self.waiting = false;
    }

    /// Word `index` of VMBMEM.
    pub(crate) fn word(&self, index: usize) -> u32 {
        self.words.get(index).copied().unwrap_or(0)
    }

    /// The guest writes word `index` of VMBMEM.
    pub(crate) fn set_word(&mut self, index: usize, val: u32, hw: &mut dyn Hardware) {
        if let Some(word) = self.words.get_mut(index) {
            *word = val;
            hw.write32(word_at(index), val);
        }
    }

    /// Messages of our own have been where the guest's words were.
    pub(crate) fn overwritten(&mut self) {
        self.overwritten = true;
    }

    /// The guest writes V2PMAILBOX.
    pub(crate) fn control(&mut self, val: u32, hw: &mut dyn Hardware) {
        self.owned = val & VFU != 0;
        self.moved = false;
        if val & REQ != 0 {
            if core::mem::take(&mut self.overwritten) {
                put(hw, &self.words);
            }
            self.request = self.words;
            self.waiting = true;
        }
        hw.write32(V2PMAILBOX, val);
    }

    /// Reads V2PMAILBOX on behalf of the guest: the value, and what has happened.
    ///
    /// `hide` says that the guest is to see nothing of a reset of its PF.
    pub(crate) fn look(&mut self, hw: &mut dyn Hardware, hide: bool) -> (u32, Seen) {
        let mut val = hw.read32(V2PMAILBOX);
        let mut seen = Seen::Nothing;
        if hide && val & (RSTI | RSTD) != 0 {
            val &= !(RSTI | RSTD);
            seen = Seen::Lost;
        }
        self.owned = self.owned && (self.moved || val & VFU != 0);
        if val & PFSTS != 0 {
            let reply = [
                hw.read32(VMBMEM),
                hw.read32(word_at(1)),
                hw.read32(word_at(2)),
            ];
            let [first, ..] = reply;
            let [asked, ..] = self.request;
            let answers = self.waiting && answers(first, asked);
            let resets = answers && asked & MSG_TYPE == crate::control::VF_RESET;
            if hide && first & MSG_CTS == 0 && !resets {
                // The PF was reset behind the guest's back. A message that was refused for that is
                // repeated once the PF knows the VF again.
                val &= !PFSTS;
                seen = Seen::Lost;
            } else {
                let words = if resets { REPLY_WORDS } else { 1 };
                for (word, new) in self.words.iter_mut().zip(reply).take(words) {
                    *word = new;
                }
                if answers {
                    self.waiting = false;
                    seen = Seen::Reply(reply);
                }
            }
        }
        self.unread |= val & READ_CLEARS;
        (val, seen)
    }

    /// What the guest gets for a read of V2PMAILBOX when the hardware reads as `val`.
    pub(crate) fn take(&mut self, val: u32) -> u32 {
        let val = val & !READ_CLEARS | self.unread;
        self.unread = 0;
        val
    }

    /// Bits that a read clears and that the guest has not read yet.
    pub(crate) fn unread(&self) -> u32 {
        self.unread
    }

    /// Whether the guest waits for a reply.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Puts the guest's side back into the hardware after messages of our own, or on another VF: the buffer
    /// that it holds, and the message that it waits for.
    pub(crate) fn restore(&mut self, hw: &mut dyn Hardware) {
        self.moved = false;
        if !self.owned && !self.waiting {
            return;
        }
        let words = if self.waiting {
            &self.request
        } else {
            &self.words
        };
        let _ = own(hw);
        put(hw, words);
        if self.waiting {
            hw.write32(V2PMAILBOX, REQ);
        }
    }

    pub(crate) fn save(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        let Self {
            words,
            unread,
            owned,
            waiting,
            request,
            // Another VF's memory has other words in any case, and its buffer is nobody's.
            overwritten: _,
            moved: _,
        } = self;
        for word in words.iter().chain(request) {
            w.put_u32(*word)?;
        }
        w.put_u8(*unread as u8)?;
        w.put_u8((*owned).into())?;
        w.put_u8((*waiting).into())
    }

    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, Refused> {
        let mut new = Self::new();
        for word in new.words.iter_mut().chain(&mut new.request) {
            *word = r.take_u32()?;
        }
        new.unread = u32::from(r.take_u8()?) & READ_CLEARS;
        new.owned = r.take_bool()?;
        new.waiting = r.take_bool()?;
        (new.overwritten, new.moved) = (true, true);
        Ok(new)
    }
}

/// Where word `index` of VMBMEM is.
fn word_at(index: usize) -> u32 {
    VMBMEM.wrapping_add((index as u32).wrapping_mul(4))
}

/// Writes `words` to VMBMEM.
fn put(hw: &mut dyn Hardware, words: &[u32]) {
    for (index, word) in words.iter().enumerate().take(WORDS) {
        hw.write32(word_at(index), *word);
    }
}

/// Whether `reply` answers `asked`.
fn answers(reply: u32, asked: u32) -> bool {
    reply & MSG_TYPE == asked & MSG_TYPE && reply & (MSG_ACK | MSG_NACK) != 0
}

/// Waits, bounded, until the buffer is the VF's.
fn own(hw: &mut dyn Hardware) -> Result<(), Refused> {
    for n in 0..TRIES {
        hw.write32(V2PMAILBOX, VFU);
        if hw.read32(V2PMAILBOX) & VFU != 0 {
            return Ok(());
        }
        pause(hw, n);
    }
    Err(NO_BUFFER)
}

/// Waits, bounded, until the PF is not being reset.
///
/// # Errors
///
/// It still is.
pub(crate) fn wait_for_pf(hw: &mut dyn Hardware) -> Result<(), Refused> {
    for n in 0..TRIES {
        // RSTD is cleared by this very read.
        let val = hw.read32(V2PMAILBOX);
        if val & (RSTI | RSTD) == 0 {
            return Ok(());
        }
        if val & RSTI != 0 {
            pause(hw, n);
        }
    }
    Err(PF_AWAY)
}

/// Whether the PF was reset since this was asked last. Bits that a read clears are lost: before an image is complete,
/// what this VF's PF has to say is none of its guest's.
pub(crate) fn was_reset(hw: &mut dyn Hardware) -> bool {
    hw.read32(V2PMAILBOX) & (RSTI | RSTD) != 0
}

/// Sends a message of our own: the reply.
///
/// # Errors
///
/// None comes.
pub(crate) fn exchange(hw: &mut dyn Hardware, message: &[u32]) -> Result<Reply, Refused> {
    own(hw)?;
    put(hw, message);
    hw.write32(V2PMAILBOX, REQ);
    let asked = message.first().copied().unwrap_or(0);
    for n in 0..TRIES {
        if hw.read32(V2PMAILBOX) & PFSTS != 0 {
            let reply = [
                hw.read32(VMBMEM),
                hw.read32(word_at(1)),
                hw.read32(word_at(2)),
            ];
            hw.write32(V2PMAILBOX, ACK);
            let [first, ..] = reply;
            if answers(first, asked) {
                return Ok(reply);
            }
        } else if n > 0 {
            pause(hw, n);
        }
    }
    Err(NO_REPLY)
}

#[cfg(test)]
#[path = "mailbox_tests.rs"]
mod tests;
