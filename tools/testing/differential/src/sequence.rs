// SPDX-License-Identifier: GPL-2.0

//! What a guest, its peers and the host do to a VF.
//!
//! A step is complete in itself and does nothing where it makes no sense, so any part of a sequence is one.

use std::fmt;

use crate::frame::Frame;
use crate::pf::Mode;

/// The guest's address, to begin with.
pub const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

#[derive(Clone)]
pub struct Sequence {
    pub seed: u64,
    pub mode: Mode,
    /// The vectors of the causes, as in IVAR0 and IVAR_MISC.
    pub ivar: [u32; 2],
    pub steps: Vec<Step>,
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}, IVAR {:x?}", self.mode, self.ivar)?;
        self.steps
            .iter()
            .try_for_each(|step| writeln!(f, "  {step:x?}"))
    }
}

#[derive(Clone, Debug)]
pub enum Step {
    SetUpTx(SetUp),
    SetUpRx(SetUp),
    /// ENABLE = 0, or 1 again.
    Switch {
        q: u32,
        tx: bool,
        on: bool,
    },
    Send {
        q: u32,
        packets: Vec<Packet>,
        /// Writes of the tail.
        tails: u32,
        /// A tail outside the ring before those.
        garbage: bool,
        /// The worker is late.
        late: bool,
    },
    Receive {
        frames: Vec<Frame>,
        late: bool,
    },
    /// Frames arrive on our side before the guest has room for them, and on the other when it has.
    ReceiveEarly {
        frames: Vec<Frame>,
        meanwhile: Host,
    },
    /// The guest looks at its RX ring, and posts buffers again until so many are posted.
    Refill {
        q: u32,
        posted: u32,
        tails: u32,
    },
    /// Values for the registers of a queue that is off.
    Scribble {
        q: u32,
        tx: bool,
        words: [u32; 9],
    },
    /// A write to an interrupt register.
    Interrupts {
        at: u32,
        val: u32,
    },
    /// A message to the PF.
    Message(Vec<u32>),
    Psrtype(u32),
    /// All registers are read.
    Read,
    /// The guest resets its VF, or its VMM does.
    Reset {
        flr: bool,
    },
    Host(Host),
    /// Our side is captured while frames arrive.
    CaptureUnder {
        frames: Vec<Frame>,
    },
}

/// A ring.
#[derive(Clone, Copy, Debug)]
pub struct SetUp {
    pub q: u32,
    /// Slots, by the power of two.
    pub slots: u32,
    /// Where it is in the memory that is set aside for it, in 128 bytes.
    pub place: u32,
    /// Bits of the base that the device ignores.
    pub low: u32,
    /// Head and tail to begin with.
    pub start: u32,
    /// RXDCTL or TXDCTL without ENABLE.
    pub thresholds: u32,
    /// SRRCTL.
    pub srrctl: u32,
    /// Buffers that are posted.
    pub posted: u32,
    /// The head is written to memory in place of DD.
    pub head_wb: bool,
    /// The head is written after ENABLE, as DPDK does.
    pub head_late: bool,
}

/// What only our side does: the guest is to notice nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    Nothing,
    Capture,
    Release,
    StopStart,
    Migrate,
}

/// What a guest sends.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub frame: Frame,
    /// Descriptors.
    pub pieces: u32,
    /// A tag that the device inserts.
    pub tag: Option<u16>,
    /// The device computes checksums.
    pub sums: bool,
    /// The device cuts it into segments of so many bytes.
    pub mss: Option<u32>,
    /// Which of the two contexts.
    pub context: u32,
    /// The context is sent again although the device may still have it.
    pub resend: bool,
    pub report: Report,
}

/// Which descriptors of a packet have RS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    None,
    End,
    Data,
    All,
}
