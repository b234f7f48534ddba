// SPDX-License-Identifier: GPL-2.0

//! What the guest, its host and its PF do.

use crate::acts;
use crate::input::Word;

acts! {
    /// What happens.
    pub enum Act {
        /// The guest sends a message as a driver does, and reads the reply.
        Message { kind: u8, arg: u16 },
        /// The guest reads V2PMAILBOX.
        Look,
        /// The guest writes V2PMAILBOX: REQ, ACK, VFU.
        Control { val: u8 },
        /// The guest writes a word of VMBMEM.
        Write { index: u8, val: Word },
        /// The guest reads any register of the page.
        Read { at: u16 },
        /// The guest looks as its watchdog does: mailbox, link, statistics.
        Watchdog,
        /// The guest resets its VF.
        Rst,
        /// The guest's first queue pair is set up.
        Up,
        /// The PF pings.
        Ping,
        /// The PF answers, or does not.
        Silent { on: bool },
        /// The PF answers what it has not answered.
        Answer,
        /// The PF refuses all but VF_RESET, or does not.
        Refuse { on: bool },
        /// The PF is reset.
        PfReset,
        /// The PF goes down, and does not answer.
        PfDown,
        /// It comes back.
        PfUp,
        /// Frames were received, which the statistics count.
        Count { n: u16 },
        /// The VF is captured.
        Capture,
        /// The guest gets it back.
        Release,
        /// The mirror stops and starts.
        Restart,
        /// Turns.
        Turns { n: u8 },
        /// The function is reset from outside.
        Flr,
        /// Another VF takes over, whose PF may refuse (bit 0), or have pinned an address (bit 1).
        Migrate { how: u8 },
    }
}

/// The words of VMBMEM.
pub(super) type Message = [u32; 16];

/// The words of a message.
pub(super) fn words(kind: u8, arg: u16) -> Message {
    let (arg, mac) = (u32::from(arg), 0x0100_5452 ^ u32::from(arg) << 24);
    let mut words = [0; 16];
    let message = match kind % 11 {
        0 => [1, 0, 0],
        1 => [2, mac, arg >> 8],
        // No address.
        2 => [2, mac | 1, 0],
        3 => [3 | (arg & 3) << 16, arg | arg << 16, arg ^ 0xfff],
        4 => [4 | 1 << 16, arg & 0x3f, 0],
        5 => [4, arg & 0x3f, 0],
        6 => [5, arg, 0],
        7 => [6 | (arg & 0xff) << 16, 0, 0],
        8 => [2 | 1 << 16, mac, 0],
        9 => [2 | 2 << 16, mac, arg & 7],
        _ => [arg, arg, arg],
    };
    words[..3].copy_from_slice(&message);
    words
}
