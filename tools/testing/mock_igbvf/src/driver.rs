// SPDX-License-Identifier: GPL-2.0

//! A guest's driver with all that the datasheet lets one do, after the manner of Linux's or DPDK's.
//!
//! It checks what a driver may rely on, such as that nobody writes to its descriptors; whether frames arrive is for
//! others to know.

pub mod mailbox;
mod ring;
pub mod rx;
pub mod tx;

use crate::driver::mailbox::{Mailbox, Reply};
use crate::driver::rx::{Rx, RxSetup};
use crate::driver::tx::{Tx, TxSetup};
use crate::guest::{mac_words, MAC};
use crate::machine::Machine;
use crate::vf::GUEST;

const ENABLE: u32 = 1 << 25;
/// Bytes of guest memory that are enough for any setup.
pub const MEMORY_BYTES: usize = 0x20_0000;

/// What drivers do in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Heads are written before ENABLE, slots are cleared when they are cleaned, each packet brings its context.
    Linux,
    /// RX heads are written after ENABLE, slots stay as they are, a context serves many packets.
    Dpdk,
}

/// A queue pair.
#[derive(Clone, Copy, Debug)]
pub struct PairSetup {
    pub tx: TxSetup,
    pub rx: RxSetup,
}

/// All of the interface.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub manner: Manner,
    pub pairs: [Option<PairSetup>; 2],
    /// SET_LPE.
    pub longest_frame: u32,
    /// IVAR0; 0 polls.
    pub ivar0: u32,
    pub ivar_misc: u32,
    pub eitr: u32,
    pub psrtype: u32,
    /// Bytes for payload to be sent, per queue.
    pub tx_bytes: usize,
}

/// Guest memory, given out from the start on.
pub struct Space {
    next: u64,
    tx_bytes: usize,
}

impl Space {
    fn take(&mut self, bytes: usize, align: u64) -> u64 {
        let at = self.next.next_multiple_of(align);
        self.next = at + bytes as u64;
        at
    }
}

/// What the PF has to do with.
#[derive(Clone, Debug)]
pub enum Asked {
    /// CTRL.RST.
    Reset,
    /// A message, and its answer.
    Message(Vec<u32>, Reply),
}

/// A queue pair that is open.
pub struct Pair {
    pub tx: Tx,
    pub rx: Rx,
}

/// The driver.
pub struct Driver {
    mailbox: Mailbox,
    /// The message that is under way.
    message: Vec<u32>,
    /// All that the PF was asked, for whoever wants to know.
    pub asked: Vec<Asked>,
    pub pairs: [Option<Pair>; 2],
    pub setup: Option<Setup>,
    /// The PF knows the VF.
    pub known: bool,
    /// The address that the PF has agreed to, or is to agree to.
    pub mac: [u8; 6],
}

impl Default for Driver {
    fn default() -> Self {
        Self {
            mailbox: Mailbox::default(),
            message: Vec::new(),
            asked: Vec::new(),
            pairs: [None, None],
            setup: None,
            known: false,
            mac: MAC,
        }
    }
}

/// The address in words 1 and 2 of a message.
pub(crate) fn mac_of(lo: u32, hi: u32) -> [u8; 6] {
    let ([a, b, c, d], [e, f, ..]) = (lo.to_le_bytes(), hi.to_le_bytes());
    [a, b, c, d, e, f]
}

/// The register of queue `q` that queue 0 has at `reg`.
fn at(reg: u32, q: u32) -> u32 {
    reg + q * 0x100
}

impl Driver {
    /// Sends a message to the PF; [`Self::answer`] is due.
    pub fn post(&mut self, m: &mut Machine, words: &[u32]) {
        self.answer(m);
        self.message = words.to_vec();
        self.mailbox.post(m, words);
    }

    /// Reads the answer to the last message, if there is one under way.
    pub fn answer(&mut self, m: &mut Machine) -> Option<Reply> {
        if !self.mailbox.waiting {
            return None;
        }
        let reply = self.mailbox.reply(m).expect("the PF does not answer");
        let words = std::mem::take(&mut self.message);
        assert_eq!(
            reply[0] & 0xffff,
            words[0] & 0xffff,
            "another message's answer"
        );
        if words[0] == 2 && reply[0] >> 31 != 0 {
            self.mac = mac_of(words[1], words[2]);
        }
        self.asked.push(Asked::Message(words, reply));
        Some(reply)
    }

    /// Whether a message is under way.
    pub fn is_waiting(&self) -> bool {
        self.mailbox.waiting
    }

    pub fn ask(&mut self, m: &mut Machine, words: &[u32]) {
        self.post(m, words);
        self.answer(m);
    }

    pub fn link_check(&mut self, m: &mut Machine) -> bool {
        self.answer(m);
        self.mailbox.link_check(m) && m.load(8) & 2 != 0
    }

    /// Resets the VF, whatever it does, and makes it known to its PF. The rings are gone.
    pub fn reset(&mut self, m: &mut Machine) {
        self.answer(m);
        self.forget();
        m.store(0, 1 << 26);
        self.asked.push(Asked::Reset);
        self.mailbox.wait_for_pf(m);
        self.ask(m, &[1]);
        let (lo, hi) = mac_words(self.mac);
        self.ask(m, &[2, lo, hi]);
        self.known = true;
    }

    /// The guest was reset: the driver does not know any more that there was a device.
    pub fn forget(&mut self) {
        self.pairs = [None, None];
        self.setup = None;
        self.known = false;
        self.mailbox = Mailbox::default();
    }

    /// Brings the interface up.
    pub fn open(&mut self, m: &mut Machine, setup: &Setup) {
        if !self.known {
            self.reset(m);
        }
        // No unicast filters; the address only has to be a valid one.
        let (lo, hi) = mac_words(self.mac);
        self.ask(m, &[2 | 1 << 16, lo, hi]);
        m.store(0xf0c, setup.psrtype);
        for q in 0..2 {
            self.open_pair(m, q, setup, setup.manner);
        }
        self.ask(m, &[5, setup.longest_frame]);
        for vector in 0..3 {
            m.store(0x1680 + 4 * vector, setup.eitr);
        }
        m.store(0x1700, setup.ivar0);
        m.store(0x1740, setup.ivar_misc);
        for reg in [0x152c, 0x1530, 0x1524] {
            m.store(reg, 7);
        }
        self.setup = Some(*setup);
    }

    fn open_pair(&mut self, m: &mut Machine, q: u32, setup: &Setup, rx: Manner) {
        let half = m.world.borrow().memory.bytes().len() as u64 / 2;
        let mut space = Space {
            next: GUEST + u64::from(q) * half,
            tx_bytes: setup.tx_bytes,
        };
        let end = space.next + half;
        self.pairs[q as usize] = setup.pairs[q as usize].map(|pair| Pair {
            tx: Tx::open(m, q, pair.tx, setup.manner, &mut space),
            rx: Rx::open(m, q, pair.rx, rx, &mut space),
        });
        assert!(space.next <= end, "too little memory");
    }

    fn switch_off(&self, m: &mut Machine, q: u32) {
        for reg in [0x2828, 0x3828] {
            let val = m.load(at(reg, q));
            m.store(at(reg, q), val & !ENABLE);
        }
    }

    /// Takes the interface down.
    pub fn close(&mut self, m: &mut Machine) {
        for (q, _) in (0..).zip(&self.pairs).filter(|(_, pair)| pair.is_some()) {
            self.switch_off(m, q);
        }
        // Linux waits for 10 ms.
        m.wait();
        m.store(0x1528, u32::MAX);
        m.store(0x152c, 0);
        self.reset(m);
        for reg in [0x2810, 0x2818, 0x3810, 0x3818] {
            m.store(reg, 0);
        }
    }

    /// Stops a queue pair and starts it again in the same place; all else goes on.
    pub fn restart(&mut self, m: &mut Machine, q: u32) {
        let Some(setup) = self.setup else { return };
        self.switch_off(m, q);
        m.wait();
        // Without a reset the tail is not 0: it is written before ENABLE, whatever the manner.
        self.open_pair(m, q, &setup, Manner::Linux);
    }

    /// Vectors of the causes of queue `q`: RX, TX.
    pub fn vectors(&self, q: usize) -> [u32; 2] {
        let ivar0 = self.setup.map_or(0, |setup| setup.ivar0);
        [2 * q, 2 * q + 1].map(|n| match ivar0 >> (8 * n) & 0xff {
            entry if entry & 0x80 != 0 => 1 << (entry & 3),
            _ => 0,
        })
    }

    /// Panics if the device wrote where it must not.
    pub fn assert_untouched(&self, m: &Machine) {
        for pair in self.pairs.iter().flatten() {
            pair.tx.assert_untouched(m);
            pair.rx.assert_untouched(m);
        }
    }
}
