// SPDX-License-Identifier: GPL-2.0

//! A driver's side of a transmit ring.

use std::collections::VecDeque;

use super::ring::Ring;
use super::{at, Manner, Space, ENABLE};
use crate::machine::Machine;
use crate::vf::{Offload, CMD_OF_FRAME};

const DD: u32 = 1 << 0;
const EOP: u32 = 1 << 24;
const IFCS: u32 = 1 << 25;
const RS: u32 = 1 << 27;
const DEXT: u32 = 1 << 29;
const CONTEXT: u32 = 2 << 20;
const DATA: u32 = 3 << 20;
/// Most slots since a context for it to be used again: it is looked for so far back.
const CONTEXT_REACH: u64 = 256;

/// When a driver asks for a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// At the end of each packet.
    Packets,
    /// At every descriptor with data.
    Descriptors,
    /// At the end of a packet when so many descriptors have gone without.
    Every(u32),
}

#[derive(Clone, Copy, Debug)]
pub struct TxSetup {
    /// A multiple of 8.
    pub slots: u32,
    /// The head is written to memory, no DD is.
    pub head_write_back: bool,
    pub report: Report,
}

/// What of a packet the device is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Which of the two contexts.
    pub index: u8,
    /// Dwords 0 and 3 of the context, and the bits of dword 2 that say what it is for.
    pub lengths: u32,
    pub mss: u32,
    pub kind: u32,
    /// VLE and TSE.
    pub cmd: u32,
    /// POPTS.
    pub popts: u32,
}

impl Task {
    fn context(&self) -> [u32; 4] {
        let kind = CONTEXT | DEXT | self.kind;
        [self.lengths, 0, kind, self.mss | u32::from(self.index) << 4]
    }
}

/// How a packet is sent.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Data descriptors.
    pub pieces: usize,
    pub task: Option<Task>,
}

impl Packet {
    /// What the device has to be told about a frame of `len` bytes on queue `q`.
    pub fn told(&self, q: u32, len: usize) -> Offload {
        let task = self.task;
        Offload {
            q,
            cmd: (IFCS | task.map_or(0, |task| task.cmd)) & CMD_OF_FRAME,
            opts: (len as u32) << 14 | task.map_or(0, |t| t.popts | u32::from(t.index) << 4),
            context: task.map(|task| task.context()),
        }
    }
}

/// A packet that was posted and not cleaned.
struct Posted {
    end: u64,
    /// Its descriptors with RS.
    reports: Vec<u64>,
    /// The context it needs.
    needs: Option<u64>,
    /// Bytes of the arena.
    cost: usize,
}

/// Where the bytes of a packet are.
struct Payload {
    at: u64,
    len: usize,
    cost: usize,
}

pub struct Tx {
    q: u32,
    setup: TxSetup,
    manner: Manner,
    ring: Ring,
    /// Where the device writes its head.
    head_at: u64,
    /// Payload, given out in a circle.
    arena: u64,
    arena_bytes: usize,
    next_byte: usize,
    used_bytes: usize,
    posted: u64,
    /// The tail.
    pub rung: u64,
    cleaned: u64,
    in_flight: VecDeque<Posted>,
    /// As last given to the device, and where.
    contexts: [Option<([u32; 4], u64)>; 2],
    /// Descriptors since the last RS.
    unreported: u32,
    /// Descriptors with RS of the packet that is being written.
    reports: Vec<u64>,
}

impl Tx {
    /// Sets the ring up and switches it on.
    pub fn open(
        m: &mut Machine,
        q: u32,
        setup: TxSetup,
        manner: Manner,
        space: &mut Space,
    ) -> Self {
        let ring = Ring::new(m, space.take(setup.slots as usize * 16, 128), setup.slots);
        let head_at = space.take(4, 64);
        m.world.borrow_mut().store(head_at, &[0; 4]);
        let dctl = m.load(at(0x3828, q)) & !ENABLE;
        m.store(at(0x3828, q), dctl);
        m.store(at(0x3808, q), setup.slots * 16);
        m.store(at(0x3800, q), ring.at as u32);
        m.store(at(0x3804, q), (ring.at >> 32) as u32);
        let write_back = u32::from(setup.head_write_back);
        m.store(at(0x3838, q), head_at as u32 | write_back);
        m.store(at(0x383c, q), (head_at >> 32) as u32);
        m.store(at(0x3810, q), 0);
        m.store(at(0x3818, q), 0);
        m.store(at(0x3828, q), dctl | ENABLE);
        let arena_bytes = space.tx_bytes;
        Self {
            q,
            setup,
            manner,
            ring,
            head_at,
            arena: space.take(arena_bytes, 1),
            arena_bytes,
            next_byte: 0,
            used_bytes: 0,
            posted: 0,
            rung: 0,
            cleaned: 0,
            in_flight: VecDeque::new(),
            contexts: [None; 2],
            unreported: 0,
            reports: Vec::new(),
        }
    }

    /// Descriptors that were posted and not shown to the device.
    pub fn unrung(&self) -> u64 {
        self.posted - self.rung
    }

    /// Packets that the device owes a report for.
    pub fn owed(&self) -> usize {
        let reported = self.in_flight.iter().filter(|p| !p.reports.is_empty());
        reported.count()
    }

    /// Writes a packet into the ring, if there is room; the device does not know of it yet.
    pub fn post(&mut self, m: &mut Machine, frame: &[u8], packet: &Packet) -> bool {
        let size = frame.len().div_ceil(packet.pieces).max(1);
        let pieces = frame.len().div_ceil(size) as u64;
        let context = self.new_context(packet);
        let descs = pieces + u64::from(context.is_some());
        let needs = packet
            .task
            .map(|task| match self.contexts[usize::from(task.index)] {
                Some((_, slot)) if context.is_none() => slot,
                _ => self.posted,
            });
        let end = self.posted + descs;
        let oldest = self
            .in_flight
            .iter()
            .filter_map(|p| p.needs)
            .chain(needs)
            .min();
        // The slot of a context that is still needed must not be written over.
        let reach = oldest.is_none_or(|slot| end - slot < u64::from(self.setup.slots));
        if end - self.cleaned >= u64::from(self.setup.slots) || !reach {
            return false;
        }
        let Some(payload) = self.claim(frame.len()) else {
            return false;
        };
        m.world.borrow_mut().store(payload.at, frame);
        if let Some(task) = packet.task {
            self.write_context(m, &task, context);
        }
        self.write(m, &payload, size, packet);
        true
    }

    /// The context that has to go before `packet`.
    fn new_context(&self, packet: &Packet) -> Option<[u32; 4]> {
        let task = packet.task?;
        let context = task.context();
        let known = self.contexts[usize::from(task.index)].is_some_and(|(last, slot)| {
            let reach = CONTEXT_REACH.min(u64::from(self.setup.slots) / 2);
            last == context && self.posted + 1 - slot <= reach
        });
        (self.manner == Manner::Linux || !known).then_some(context)
    }

    /// Takes `len` bytes in one piece.
    fn claim(&mut self, len: usize) -> Option<Payload> {
        let left = self.arena_bytes - self.next_byte;
        let (start, skip) = if left < len {
            (0, left)
        } else {
            (self.next_byte, 0)
        };
        let cost = skip + len;
        if self.used_bytes + cost > self.arena_bytes {
            return None;
        }
        self.used_bytes += cost;
        self.next_byte = start + len;
        let at = self.arena + start as u64;
        Some(Payload { at, len, cost })
    }

    /// Without RS: no driver waits for a context alone.
    fn write_context(&mut self, m: &Machine, task: &Task, context: Option<[u32; 4]>) {
        let Some(dw) = context else { return };
        self.contexts[usize::from(task.index)] = Some((dw, self.posted));
        self.ring.set(m, self.posted, dw);
        self.posted += 1;
    }

    fn write(&mut self, m: &Machine, payload: &Payload, size: usize, packet: &Packet) {
        let len = payload.len;
        let told = packet.told(self.q, len);
        for start in (0..len).step_by(size) {
            let bytes = size.min(len - start);
            let last = start + bytes == len;
            self.unreported += 1;
            let report = match self.setup.report {
                Report::Packets => last,
                Report::Descriptors => true,
                Report::Every(n) => last && self.unreported >= n,
            };
            let mut cmd = bytes as u32 | DATA | DEXT | told.cmd;
            if last {
                cmd |= EOP;
            }
            if report {
                cmd |= RS;
                self.reports.push(self.posted);
                self.unreported = 0;
            }
            // What holds for the whole packet is taken from its first descriptor; Linux says it in each.
            let first = start == 0 || self.manner == Manner::Linux;
            let opts = if first { told.opts } else { 0 };
            let at = payload.at + start as u64;
            let dw = [at as u32, (at >> 32) as u32, cmd, opts];
            self.ring.set(m, self.posted, dw);
            self.posted += 1;
        }
        let context = |task: Task| self.contexts[usize::from(task.index)];
        self.in_flight.push_back(Posted {
            end: self.posted,
            reports: std::mem::take(&mut self.reports),
            needs: packet.task.and_then(context).map(|(_, slot)| slot),
            cost: payload.cost,
        });
    }

    /// Shows the device `descs` descriptors more.
    pub fn ring(&mut self, m: &mut Machine, descs: u64) {
        self.rung = self.posted.min(self.rung.saturating_add(descs));
        m.store(at(0x3818, self.q), self.ring.index(self.rung) as u32);
    }

    /// How many of the oldest packets the device has reported, and those before a reported one.
    pub fn done(&self, m: &Machine) -> usize {
        if self.setup.head_write_back {
            let word = m
                .world
                .borrow()
                .memory
                .get(self.head_at, 4)
                .try_into()
                .unwrap();
            let head = u64::from(u32::from_le_bytes(word));
            let slots = u64::from(self.setup.slots);
            assert!(head < slots, "a head of {head} in a ring of {slots}");
            let gone = (head + slots - self.ring.index(self.cleaned) as u64) % slots;
            assert!(
                gone <= self.rung - self.cleaned,
                "the head is beyond the tail"
            );
            return self
                .in_flight
                .iter()
                .take_while(|p| p.end - self.cleaned <= gone)
                .count();
        }
        let mut done = 0;
        for (n, packet) in self.in_flight.iter().enumerate() {
            match packet.reports.last() {
                Some(last) if self.has_dd(m, *last) => done = n + 1,
                Some(_) => break,
                None => {}
            }
        }
        done
    }

    fn has_dd(&self, m: &Machine, slot: u64) -> bool {
        self.ring.get(m, slot)[3] & DD != 0
    }

    /// Frees what the device is done with: how many packets.
    pub fn clean(&mut self, m: &Machine) -> usize {
        let done = self.done(m);
        for packet in self.in_flight.drain(..done).collect::<Vec<_>>() {
            for slot in &packet.reports {
                let dd = self.has_dd(m, *slot);
                assert_eq!(dd, !self.setup.head_write_back, "slot {slot} is done");
            }
            self.used_bytes -= packet.cost;
            for slot in self.cleaned..packet.end {
                if packet.reports.contains(&slot) {
                    self.ring.learn(m, slot);
                }
                if self.manner == Manner::Linux {
                    let [lo, hi, cmd, _] = self.ring.get(m, slot);
                    self.ring.set(m, slot, [lo, hi, cmd, 0]);
                }
            }
            self.cleaned = packet.end;
        }
        done
    }

    /// Panics if the device wrote anything but the DD that it owes.
    pub fn assert_untouched(&self, m: &Machine) {
        let free = self.cleaned + u64::from(self.setup.slots);
        self.ring.assert_untouched(m, self.posted, free);
        let mut from = self.cleaned;
        for slot in self.in_flight.iter().flat_map(|p| &p.reports) {
            self.ring.assert_untouched(m, from, *slot);
            from = *slot + 1;
            if self.setup.head_write_back || *slot >= self.rung {
                self.ring.assert_untouched(m, *slot, from);
            } else {
                self.ring.assert_reported(m, *slot);
            }
        }
        self.ring.assert_untouched(m, from, self.posted);
    }
}
