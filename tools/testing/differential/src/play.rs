// SPDX-License-Identifier: GPL-2.0

//! Plays a sequence to both sides: rings, frames, and what happens to our side alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::compare::{self, equal, Layout, Same};
use crate::deviations::Tally;
use crate::done::Done;
use crate::frame::Frame;
use crate::guest::{at, Guest, Ring, Sides, BUFFERS, DCTL, ENABLE, HEAD, RX, TAIL, TX};
use crate::sequence::{Host, Report, Sequence, Step};
use crate::side::Side;

const PSRTYPE: u32 = 0xf0c;

/// Both sides, and what is known of them.
pub struct Player {
    pub(crate) sides: Sides,
    pub(crate) now: Now,
    pub tally: Tally,
    pub done: Done,
}

/// Where a sequence has got to.
#[derive(Debug, Default)]
pub(crate) struct Now {
    pub(crate) guest: Guest,
    /// The PF spreads frames over both queues.
    pub(crate) rss: bool,
    /// IVAR0 and IVAR_MISC.
    pub(crate) ivar: [u32; 2],
    /// Registers that the sides have reset differently, until the guest writes them.
    pub(crate) loose: BTreeSet<u32>,
    pub(crate) psrtype: u32,
    /// Vectors that the guest has unmasked, and those that it has throttled.
    pub(crate) eims: u32,
    pub(crate) throttled: u32,
    /// Vectors that ours may still raise, because its hardware was used differently.
    pub(crate) pending: u32,
    /// Where the statistics began, and whether frames came for a queue that was off.
    pub(crate) statistics: BTreeMap<u32, (u32, u32)>,
    pub(crate) unheard: bool,
    pub(crate) migrated: bool,
    /// The worker was late: not all is at rest.
    pub(crate) is_late: bool,
    pub(crate) since: Since,
}

/// What has happened since all was last at rest. Queues are bytes as in IVAR0: RX 0, TX 0, RX 1, TX 1.
#[derive(Debug, Default)]
pub(crate) struct Since {
    /// Queues with traffic.
    pub(crate) traffic: u32,
    /// Queues in whose hardware something may have moved that the guest knows nothing of.
    pub(crate) noise: u32,
    /// Queues, of the second pair, that the guest has to be told of.
    pub(crate) due: u32,
    /// Descriptors of each RX queue that frames on their way will take.
    pub(crate) reserved: [u32; 2],
    /// The hardware of our side has changed hands.
    pub(crate) switched: bool,
    /// Frames came while it did: the hardware has delivered them itself.
    pub(crate) went_past: bool,
}

impl Player {
    pub fn new() -> Self {
        Self {
            sides: Sides {
                direct: Side::direct(),
                ours: Side::ours(),
            },
            now: Now::default(),
            tally: Tally::default(),
            done: Done::default(),
        }
    }

    /// Plays `sequence` from the beginning.
    ///
    /// # Errors
    ///
    /// Where the sides differ.
    pub fn play(&mut self, sequence: &Sequence) -> Same {
        self.sides.direct.renew(sequence.mode);
        self.sides.ours.renew(sequence.mode);
        self.now = Now {
            rss: sequence.mode.rss,
            ivar: sequence.ivar,
            ..Now::default()
        };
        self.note_statistics();
        self.probe()?;
        self.done.sequences += 1;
        for (n, step) in sequence.steps.iter().enumerate() {
            self.done.steps += 1;
            self.step(step)
                .map_err(|why| format!("step {n}, {step:x?}: {why}"))?;
        }
        self.now.since.switched = true;
        self.rest()?;
        let asked = |side: &Side| side.host.borrow().asked();
        let (direct, ours) = (asked(&self.sides.direct), asked(&self.sides.ours));
        for ((at, direct), (_, ours)) in direct.into_iter().zip(ours) {
            equal(&format!("the PF's register {at:#x}"), direct, ours)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Same {
        match step {
            // The host does not wait for the worker either.
            Step::Host(_) | Step::CaptureUnder { .. } => {}
            Step::Send { .. } | Step::Receive { .. } | Step::Refill { .. } => {}
            _ if self.now.is_late => self.rest()?,
            _ => {}
        }
        self.now.is_late = true;
        match step {
            Step::SetUpTx(s) => {
                self.touch(TX, s.q);
                self.now.guest.set_up_tx(&mut self.sides, s);
            }
            Step::SetUpRx(s) => {
                self.touch(RX, s.q);
                self.now.guest.set_up_rx(&mut self.sides, s);
            }
            Step::Switch { q, tx, on } => self.switch(*q, *tx, *on)?,
            Step::Send {
                q,
                packets,
                tails,
                garbage,
                late,
            } => {
                if let (Some(ring), true) = (self.now.guest.tx[*q as usize].ring, *garbage) {
                    self.sides.store(at(TX, *q, TAIL), ring.len + 5);
                }
                let sent = self.now.guest.send(&mut self.sides, *q, packets, *tails);
                if sent > 0 {
                    self.now.since.traffic |= 0xff00 << (16 * q);
                    let reports = packets[..sent].iter().any(|p| p.report != Report::None);
                    self.now.since.due |= if reports && *q == 1 { 0xff << 24 } else { 0 };
                } else if let Some(ring) = self.now.guest.tx[*q as usize].ring {
                    self.sides.store(at(TX, *q, TAIL), ring.tail);
                }
                if *late {
                    return Ok(());
                }
            }
            Step::Receive { frames, late } => {
                let frames = self.fitting(frames, false);
                self.sides.direct.host.borrow_mut().receive(&frames);
                self.sides.ours.host.borrow_mut().receive(&frames);
                if *late {
                    return Ok(());
                }
            }
            Step::ReceiveEarly { frames, meanwhile } => self.receive_early(frames, *meanwhile)?,
            Step::Refill { q, posted, tails } => {
                self.now.guest.look(*q);
                self.now.guest.refill(&mut self.sides, *q, *posted, *tails);
                return Ok(());
            }
            Step::Scribble { q, tx, words } => self.scribble(*q, *tx, words),
            Step::Interrupts { at, val } => self.interrupts(*at, *val),
            Step::Message(words) => {
                self.message(words)?;
            }
            Step::Psrtype(val) => {
                self.now.psrtype = *val;
                self.sides.store(PSRTYPE, *val);
            }
            Step::Read => self.read_all()?,
            Step::Reset { flr } => self.reset(*flr)?,
            Step::Host(host) => self.host(*host),
            Step::CaptureUnder { frames } => {
                if !self.sides.ours.is_captured() {
                    let frames = self.fitting(frames, false);
                    self.sides.direct.host.borrow_mut().receive(&frames);
                    self.sides.ours.capture(&frames);
                    self.done.captures += 1;
                    self.now.since.switched = true;
                    self.now.since.went_past = true;
                }
            }
        }
        self.rest()
    }

    /// The guest writes the registers of a ring.
    fn touch(&mut self, group: u32, q: u32) {
        // A mirror ring that starts is given the contexts.
        self.now.since.noise |= 0xff00 << (16 * q);
        for reg in [0, 4, 8, 0x0c, HEAD, TAIL, DCTL, 0x38, 0x3c] {
            self.now.loose.remove(&at(group, q, reg));
        }
    }

    fn switch(&mut self, q: u32, tx: bool, on: bool) -> Same {
        let (group, ring) = if tx {
            (TX, &mut self.now.guest.tx[q as usize].ring)
        } else {
            (RX, &mut self.now.guest.rx[q as usize].ring)
        };
        let Some(ring) = ring else { return Ok(()) };
        ring.on = on;
        self.now.since.noise |= 0xff00 << (16 * q);
        let at = at(group, q, DCTL);
        let (val, ours) = self.sides.load(at);
        compare::register(at, val, ours, 0, &mut self.tally)?;
        let enable = if on { ENABLE } else { 0 };
        self.sides.store(at, val & !ENABLE | enable);
        Ok(())
    }

    /// The frames that the guest has room for, or will have; those for nobody among them.
    fn fitting(&mut self, frames: &[Frame], will_refill: bool) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        for frame in frames {
            let q = usize::from(self.now.rss && frame.is_ip() && frame.queue == 1);
            let queue = &self.now.guest.rx[q];
            let bytes = frame.bytes();
            let Some(ring) = queue.ring.filter(|ring| ring.on) else {
                self.now.unheard = true;
                self.now.since.noise |= 0xff << (16 * q);
                taken.push(bytes);
                continue;
            };
            let room = if will_refill {
                (BUFFERS - 1).min(ring.len - 1)
            } else {
                ring.pending()
            } - self.now.since.reserved[q];
            let layout = Layout::new(queue.srrctl);
            let headers = frame.is_ip().then(|| frame.header_len());
            // Without its tag it is shorter.
            let lens: &[usize] = if frame.vlan.is_some() { &[0, 4] } else { &[0] };
            let need: Option<Vec<u32>> = lens
                .iter()
                .map(|less| {
                    layout.need(
                        (bytes.len() - less).max(60),
                        headers.map(|headers| headers - less),
                    )
                })
                .collect();
            let Some(need) = need.and_then(|all| all.into_iter().max()) else {
                continue;
            };
            if need > room || bytes.len() > room as usize * layout.packet {
                continue;
            }
            self.now.since.reserved[q] += need.max(bytes.len().div_ceil(layout.packet) as u32);
            self.now.since.traffic |= 0xff << (16 * q);
            taken.push(bytes);
        }
        taken
    }

    fn receive_early(&mut self, frames: &[Frame], meanwhile: Host) -> Same {
        if !self.sides.ours.is_captured() {
            return Ok(());
        }
        self.now.guest.look(0);
        self.now.guest.look(1);
        let frames = self.fitting(frames, true);
        self.sides.ours.host.borrow_mut().receive(&frames);
        self.sides.ours.poll()?;
        self.host(meanwhile);
        for q in 0..2 {
            self.now.guest.refill(&mut self.sides, q, u32::MAX, 1);
        }
        self.sides.direct.host.borrow_mut().receive(&frames);
        Ok(())
    }

    fn scribble(&mut self, q: u32, tx: bool, words: &[u32; 9]) {
        let regs: &[u32] = if tx {
            &[0, 4, 8, 0x10, 0x14, 0x18, 0x28, 0x38, 0x3c]
        } else {
            &[0, 4, 8, 0x0c, 0x10, 0x14, 0x18, 0x28]
        };
        let (group, ring) = if tx {
            (TX, &mut self.now.guest.tx[q as usize].ring)
        } else {
            (RX, &mut self.now.guest.rx[q as usize].ring)
        };
        if ring.is_some_and(|ring| ring.on) {
            return;
        }
        *ring = None;
        self.touch(group, q);
        for (reg, word) in regs.iter().zip(words) {
            let val = if *reg == DCTL { word & !ENABLE } else { *word };
            self.sides.store(at(group, q, *reg), val);
        }
    }

    fn host(&mut self, what: Host) {
        let is_active = (0..2).any(|q| {
            let on = |ring: Option<Ring>| ring.is_some_and(|ring| ring.on);
            on(self.now.guest.tx[q].ring) || on(self.now.guest.rx[q].ring)
        });
        let ours = &mut self.sides.ours;
        // What has moved before a capture went past us.
        self.now.since.went_past |= !ours.is_captured() && self.now.since.traffic != 0;
        match what {
            Host::Nothing => return,
            Host::Capture => {
                ours.capture(&[]);
                self.done.captures += 1;
            }
            Host::Release => ours.release(),
            Host::StopStart => {
                ours.stop();
                ours.start();
            }
            // Which vectors are masked cannot be read back from QEMU.
            Host::Migrate if self.now.eims != if is_active { 7 } else { 0 } => return,
            Host::Migrate => {
                ours.migrate();
                self.now.migrated = true;
                self.done.migrations += 1;
            }
        }
        self.now.since.switched = true;
    }
}

impl Default for Player {
    fn default() -> Self {
        Self::new()
    }
}
