// SPDX-License-Identifier: GPL-2.0

//! What may happen in the life of a VF: what its guest does, its host, and the world.

use crate::driver::tx::Packet;
use crate::driver::Setup;

/// One thing that happens. What makes no sense at its time, does not happen.
#[derive(Clone, Debug)]
pub enum Act {
    /// The guest sends packets of these lengths, and moves its tail in so many steps.
    Send(u32, Vec<(usize, Packet)>, u64),
    /// The guest looks after its rings, or after those that a vector was raised for: it takes at most so many frames
    /// from each, and fills at most so many slots, in so many steps.
    Look(usize, u32, u64),
    /// The guest opens its interface, or opens it anew.
    Open(Setup),
    Close,
    /// The guest resets the device, whatever that is doing.
    Reset,
    /// The guest stops a queue pair and starts it again.
    Restart(u32),
    /// The guest asks its PF for something.
    Ask(Ask),
    /// It does, and reads the answer the next time it has to do with its PF.
    Post(Ask),
    /// The guest's watchdog looks at the mailbox.
    LinkCheck,
    /// The guest reads its statistics.
    Statistics,

    /// So many turns with a budget.
    Turns(u32, u32),
    Capture,
    /// The hardware gets the rings back. Frames that the guest has no room for keep it from that, or are dropped.
    Release(bool),
    /// The VM is paused; it runs again when the guest is to do something.
    Pause,
    /// A migration begins; what the guest asked its PF for travels early.
    PreCopy(Host),
    /// The guest moves to the host that was chosen, or to this one.
    Migrate(Host),
    /// The same, but the other host gives up in the end.
    Abandon(Host),
    /// The user resets the function, and the guest starts anew.
    Flr,
    /// Guest memory is busy for a moment, after so many accesses.
    Busy(u32),
    /// The PF tells all of its VFs that it is there.
    Ping,
    /// The PF is reset, and does not tell; then it may be away for a while.
    PfReset(bool),
    /// The PF answers again. The guest waits for that before it asks for anything.
    PfBack,
    /// The PF answers after so many looks at the mailbox.
    Slow(u32),

    /// Frames of these lengths arrive for a queue.
    Arrive(u32, Vec<usize>),
    /// Many of one length do.
    Burst(u32, u32, usize),
    /// Nothing can be sent any more after so many frames.
    Stall(u32),
    Unstall,
}

/// What a guest wants of its PF.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    Vlan(u16, bool),
    Multicast(u32),
    Unicast(u8),
    Promisc(bool),
    LongestFrame(u32),
    Mac(u8),
}

/// A host as it is before the guest comes.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub address: Address,
    /// Head registers can only be read.
    pub fixed_heads: bool,
    /// What is in its statistics and its interrupt registers.
    pub stale: u32,
}

/// The address that a PF has given to a VF.
#[derive(Clone, Copy, Debug)]
pub enum Address {
    None,
    Other,
    /// The guest's, which its driver cannot change.
    Pinned,
}
