// SPDX-License-Identifier: GPL-2.0

//! A VF in plain memory that behaves as QEMU's, with its PF, and the memories it reaches.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use model::io::{Area, Fault, GuestMemory, Hardware, Iova, Registers};
use model::mock::{Memory, Mirror};

use crate::replica::Replica;

/// Where the guest's memory starts, as the device sees it.
pub const GUEST: u64 = 0x1_0000_0000;
/// Where the mirror area starts, as the device sees it.
pub const MIRROR: u64 = 0x7f_0000_0000;
const ENABLE: u32 = 1 << 25;

/// What the PF knows of the VF.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    pub mac: Option<[u8; 6]>,
    pub vlans: Vec<u16>,
    /// Tags are removed.
    pub strip: bool,
    pub multicast: Vec<u32>,
    pub lpe: u32,
    pub promisc: u32,
    pub unicast: Vec<[u8; 6]>,
}

/// What the device was told about a frame that it has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    pub q: u32,
    /// Dwords 2 and 3 of the frame's first descriptor, less what is of that descriptor alone.
    pub cmd: u32,
    pub opts: u32,
    /// The context that these name, if the device ever got one.
    pub context: Option<[u32; 4]>,
}

/// Dword 2 of a data descriptor: MAC, IFCS, VLE, TSE.
pub const CMD_OF_FRAME: u32 = 3 << 18 | 1 << 25 | 3 << 30;
/// Dword 3: all but the status.
pub const OPTS_OF_FRAME: u32 = !0xf;

/// The VF, its PF and everything that it can reach.
pub struct World {
    pub regs: Vec<u32>,
    pub memory: Memory,
    /// Kept up to date from the dirty set.
    pub replica: Option<Replica>,
    pub mirror: Mirror,
    /// The device reaches the mirror area, and nothing else; else guest memory.
    pub captured: bool,
    /// Frames that were sent, with the context they were sent by.
    pub wire: VecDeque<(Vec<u8>, [u32; 2])>,
    /// Of each frame that went to `wire` since this is there.
    pub offloads: Option<VecDeque<Offload>>,
    pub contexts: [[Option<[u32; 4]>; 2]; 2],
    pub filters: Filters,
    pub pinned: Option<[u8; 6]>,
    pub cts: bool,
    /// VFRE and VFTE.
    pub alive: bool,
    /// DMA accesses that the IOMMU has stopped.
    pub faults: u32,
    /// Frames that were dropped for want of a descriptor.
    pub overruns: u32,
    /// Vectors that were raised: by EICS, and by the device for rings that are the guest's own.
    pub raised: u32,
    /// Head registers can only be read.
    pub fixed_heads: bool,
    /// Nothing can be sent: pause frames, or no link.
    pub stalled: bool,
    /// Frames until that happens.
    pub stall_after: Option<u32>,
    /// The PF does not answer.
    pub silent: bool,
    /// It did not answer a message, and still could.
    pub unanswered: bool,
    /// It refuses whatever is not a VF_RESET, or a SET_PROMISC: no igb refuses all of that.
    pub refusing: bool,
    /// Reads of V2PMAILBOX until the PF answers.
    pub delay: u32,
    /// The PF serves the event of a reset behind the first VF_RESET that follows, and forgets the VF again.
    pub late_event: bool,
    answer_in: Option<u32>,
    pub messages: Vec<u32>,
}

/// A handle.
#[derive(Clone)]
pub struct Vf(pub Rc<RefCell<World>>);
/// Guest memory, by way of the world.
pub struct Mem(pub Rc<RefCell<World>>);
/// The mirror area, by way of the world.
pub struct Shared(pub Rc<RefCell<World>>);

impl World {
    pub fn new(memory: Memory) -> Rc<RefCell<Self>> {
        let mut world = Self {
            regs: vec![0; 0x1000],
            memory,
            replica: None,
            mirror: Mirror::new(MIRROR, igbvf::LAYOUT.mirror_bytes),
            captured: false,
            wire: VecDeque::new(),
            offloads: None,
            contexts: [[None; 2]; 2],
            filters: Filters::default(),
            pinned: None,
            cts: false,
            alive: false,
            faults: 0,
            overruns: 0,
            raised: 0,
            fixed_heads: false,
            stalled: false,
            stall_after: None,
            silent: false,
            unanswered: false,
            refusing: false,
            delay: 0,
            late_event: false,
            answer_in: None,
            messages: Vec::new(),
        };
        *world.reg(0x8) = 0x8008_0483;
        Rc::new(RefCell::new(world))
    }

    pub fn reg(&mut self, at: u32) -> &mut u32 {
        &mut self.regs[at as usize / 4]
    }

    /// A reset of the VF, by its guest or by FLR.
    pub fn vf_reset(&mut self) {
        for at in [0x2828, 0x2928, 0x3828, 0x3928] {
            *self.reg(at) &= !ENABLE;
        }
        self.alive = false;
        self.cts = false;
        let Filters {
            mac,
            vlans,
            multicast,
            promisc,
            ..
        } = &mut self.filters;
        (*mac, *promisc) = (self.pinned, 0);
        vlans.clear();
        multicast.clear();
    }

    /// A reset of the PF: all of the VF's registers are wiped.
    pub fn pf_reset(&mut self) {
        self.vf_reset();
        self.unanswered = false;
        for at in (0x1000..0x4000)
            .step_by(4)
            .filter(|at| !(0x1680..0x1690).contains(at))
        {
            *self.reg(at) = 0;
        }
        for at in (0xf10..0xf60).step_by(4) {
            *self.reg(at) = 0;
        }
        *self.reg(0x2828) = ENABLE;
        *self.reg(0xc40) |= 1 << 7;
        // A ping without CTS.
        *self.reg(0x800) = 0x100;
        *self.reg(0xc40) |= 1 << 4;
    }

    /// A ping of the PF.
    pub fn ping(&mut self) {
        *self.reg(0x800) = 0x100 | if self.cts { 1 << 29 } else { 0 };
        *self.reg(0xc40) |= 1 << 4;
    }

    /// A store of the guest's CPU, to its memory.
    pub fn store(&mut self, at: u64, bytes: &[u8]) {
        self.memory.set(at, bytes);
        if let Some(replica) = &mut self.replica {
            replica.stored(at, bytes);
        }
    }

    /// Raises the vector that byte `n` of IVAR0 names.
    fn interrupt(&mut self, n: u32) {
        let entry = *self.reg(0x1700) >> (8 * n);
        if !self.captured && entry & 0x80 != 0 {
            self.raised |= 1 << (entry & 3);
        }
    }

    /// The PF answers late.
    pub fn answer(&mut self) {
        if std::mem::take(&mut self.unanswered) {
            self.message();
        }
    }

    fn message(&mut self) {
        let m: Vec<u32> = (0..16).map(|i| *self.reg(0x800 + 4 * i)).collect();
        self.messages.push(m[0]);
        if m[0] & (1 << 31 | 1 << 30) != 0 {
            // igb takes that for a reply of its own.
            *self.reg(0xc40) |= 1 << 5;
            return;
        }
        let mac = || {
            let (lo, hi) = (m[1].to_le_bytes(), m[2].to_le_bytes());
            [lo[0], lo[1], lo[2], lo[3], hi[0], hi[1]]
        };
        let valid = |mac: [u8; 6]| mac[0] & 1 == 0 && mac != [0; 6];
        let f = &mut self.filters;
        if m[0] == 1 {
            self.cts = !std::mem::take(&mut self.late_event);
            self.alive = true;
            f.vlans.clear();
            f.strip = true;
            f.multicast.clear();
            f.promisc = 0;
            let word = if let Some(mac) = f.mac {
                self.regs[0x201] = u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]);
                self.regs[0x202] = u32::from_le_bytes([mac[4], mac[5], 0, 0]);
                1 << 31
            } else {
                1 << 30
            };
            self.regs[0x200] = 1 | word;
        } else {
            let ok = self.cts
                && (!self.refusing || m[0] & 0xffff == 6)
                && match (m[0] & 0xffff, m[0] >> 16 & 0xff) {
                    (2, info) if self.pinned.is_some() || !valid(mac()) => {
                        let _ = info;
                        false
                    }
                    (2, 0) => {
                        f.mac = Some(mac());
                        true
                    }
                    (2, 1) => {
                        f.unicast.clear();
                        true
                    }
                    (2, 2) => {
                        f.unicast.push(mac());
                        true
                    }
                    (3, n) => {
                        f.multicast = m[1..]
                            .iter()
                            .copied()
                            .take((n as usize).div_ceil(2))
                            .collect();
                        true
                    }
                    // igb ignores that.
                    (4, 0) if m[1] == 0 => true,
                    (4, add) => {
                        f.vlans.retain(|vid| u32::from(*vid) != m[1]);
                        if add != 0 {
                            f.vlans.push(m[1] as u16);
                            f.vlans.sort_unstable();
                        }
                        f.strip = m[1] != 0;
                        true
                    }
                    (5, _) => {
                        f.lpe = m[1];
                        true
                    }
                    // As igb: all multicasts it knows, and says no if anything else is asked as well.
                    (6, info) => {
                        f.promisc = info & 2;
                        info & !2 == 0
                    }
                    _ => false,
                };
            let cts = if self.cts { 1 << 29 } else { 0 };
            self.regs[0x200] = m[0] | cts | if ok { 1 << 31 } else { 1 << 30 };
        }
        *self.reg(0xc40) |= 1 << 4 | 1 << 5;
    }

    fn dma_read(&mut self, at: u64, buf: &mut [u8]) {
        let done = if self.captured {
            at.checked_sub(MIRROR)
                .filter(|at| *at as usize + buf.len() <= self.mirror.bytes.len())
                .map(|at| self.mirror.read(at as usize, buf))
                .is_some()
        } else {
            self.memory.read(Iova(at), buf).is_ok()
        };
        if !done {
            self.faults += 1;
        }
    }

    fn dma_write(&mut self, at: u64, buf: &[u8]) {
        let done = if self.captured {
            at.checked_sub(MIRROR)
                .filter(|at| *at as usize + buf.len() <= self.mirror.bytes.len())
                .map(|at| self.mirror.write(at as usize, buf))
                .is_some()
        } else {
            self.memory.write(Iova(at), buf).is_ok()
        };
        if !done {
            self.faults += 1;
        }
    }

    fn desc(&mut self, base: u64, index: u32) -> [u32; 4] {
        let mut bytes = [0; 16];
        self.dma_read(base.wrapping_add(u64::from(index) * 16), &mut bytes);
        std::array::from_fn(|i| u32::from_le_bytes(bytes[i * 4..i * 4 + 4].try_into().unwrap()))
    }

    fn write_desc(&mut self, base: u64, index: u32, dw: [u32; 4]) {
        let bytes: Vec<u8> = dw.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.dma_write(base.wrapping_add(u64::from(index) * 16), &bytes);
    }

    fn base(&mut self, at: u32) -> u64 {
        u64::from(*self.reg(at + 4)) << 32 | u64::from(*self.reg(at) & !0x1f)
    }

    /// Descriptors of a ring: its length in bytes has bits 19:7.
    fn slots(&mut self, at: u32) -> u32 {
        (*self.reg(at) & 0xf_ff80) / 16
    }

    /// Runs a TX ring until it is empty, as QEMU does in the write of the tail.
    pub fn transmit(&mut self, q: u32) {
        let o = q * 0x100;
        let (base, len) = (self.base(0x3800 + o), self.slots(0x3808 + o));
        let mut frame = Vec::new();
        let mut first = None;
        while self.alive && !self.stalled && *self.reg(0x3828 + o) & ENABLE != 0 {
            let (head, tail) = (*self.reg(0x3810 + o), *self.reg(0x3818 + o));
            if head == tail || head >= len || tail >= len {
                break;
            }
            let mut dw = self.desc(base, head);
            if dw[2] >> 20 & 0xf == 2 {
                self.contexts[q as usize][(dw[3] >> 4 & 1) as usize] = Some(dw);
            } else {
                let mut part = vec![0; (dw[2] & 0xffff) as usize];
                self.dma_read(u64::from(dw[1]) << 32 | u64::from(dw[0]), &mut part);
                frame.append(&mut part);
                let offload = *first.get_or_insert(dw);
                if dw[2] >> 24 & 1 != 0 {
                    let index = (offload[3] >> 4 & 1) as usize;
                    let context = self.contexts[q as usize][index].map_or(0, |c| c[0]);
                    *self.reg(0xf14) = self.reg(0xf14).wrapping_add(1);
                    let flags = offload[2] >> 30 | u32::from(offload[3] & 0x3fff != 0) << 4;
                    self.wire
                        .push_back((std::mem::take(&mut frame), [flags, context]));
                    first = None;
                    self.sent(q, offload);
                }
            }
            *self.reg(0x3810 + o) = (head + 1) % len;
            if dw[2] >> 27 & 1 != 0 {
                self.interrupt(2 * q + 1);
                let wb = *self.reg(0x3838 + o);
                if wb & 1 != 0 {
                    let at = u64::from(*self.reg(0x383c + o)) << 32 | u64::from(wb & !3);
                    self.dma_write(at, &((head + 1) % len).to_le_bytes());
                } else {
                    dw[3] |= 1;
                    self.write_desc(base, head, dw);
                }
            }
        }
    }

    fn sent(&mut self, q: u32, first: [u32; 4]) {
        let index = (first[3] >> 4 & 1) as usize;
        let offload = Offload {
            q,
            cmd: first[2] & CMD_OF_FRAME,
            opts: first[3] & OPTS_OF_FRAME,
            context: self.contexts[q as usize][index],
        };
        self.offloads
            .iter_mut()
            .for_each(|log| log.push_back(offload));
        if let Some(n) = &mut self.stall_after {
            *n = n.saturating_sub(1);
            if *n == 0 {
                (self.stalled, self.stall_after) = (true, None);
            }
        }
    }

    /// A frame comes in from the wire: whether it was taken.
    pub fn receive(&mut self, q: u32, frame: &[u8]) -> bool {
        let o = q * 0x100;
        let srrctl = *self.reg(0x280c + o);
        let buffer = match srrctl & 0x7f {
            // What the PF says: RCTL.BSIZE.
            0 => 2048,
            kib => kib as usize * 1024,
        };
        let header_buffer = (srrctl >> 8 & 0x3f) as usize * 64;
        let header = match srrctl >> 25 & 7 {
            5 => header_buffer.min(frame.len()),
            2 if *self.reg(0xf0c) != 0 => header_of(frame)
                .filter(|n| *n <= header_buffer)
                .unwrap_or(0),
            _ => 0,
        };
        let (base, len) = (self.base(0x2800 + o), self.slots(0x2808 + o));
        if !self.alive || *self.reg(0x2828 + o) & ENABLE == 0 {
            return false;
        }
        let (head, tail) = (*self.reg(0x2810 + o), *self.reg(0x2818 + o));
        let need = (frame.len() - header).div_ceil(buffer).max(1) as u32;
        if head >= len || tail >= len || (tail + len - head) % len < need {
            self.overruns += 1;
            return false;
        }
        for n in 0..need {
            let slot = (head + n) % len;
            let dw = self.desc(base, slot);
            let mut hdr = 0;
            if n == 0 && header > 0 {
                self.dma_write(u64::from(dw[3]) << 32 | u64::from(dw[2]), &frame[..header]);
                hdr = header as u32;
            }
            let start = header + n as usize * buffer;
            let part = &frame[start..frame.len().min(start + buffer)];
            self.dma_write(u64::from(dw[1]) << 32 | u64::from(dw[0]), part);
            let last = n + 1 == need;
            let status = if last { 0x33 } else { 1 };
            let hash = if last { 0x1234_5678 } else { 0 };
            let vlan = if last { 77 << 16 } else { 0 };
            self.write_desc(
                base,
                slot,
                [0x11 | hdr << 21, hash, status, part.len() as u32 | vlan],
            );
        }
        *self.reg(0x2810 + o) = (head + need) % len;
        *self.reg(0xf10) = self.reg(0xf10).wrapping_add(1);
        self.interrupt(2 * q);
        true
    }
}

/// Bytes of the headers of a frame, if the device knows its kind: Ethernet, IPv4 and TCP without options.
fn header_of(frame: &[u8]) -> Option<usize> {
    (frame.get(12..14) == Some(&[8, 0]) && frame.len() > 54).then_some(54)
}

impl Registers for Vf {
    fn read32(&mut self, at: u32) -> u32 {
        let mut w = self.0.borrow_mut();
        match at {
            0xc40 => {
                if let Some(n) = w.answer_in {
                    w.answer_in = n.checked_sub(1);
                    if w.answer_in.is_none() {
                        w.message();
                    }
                }
                let val = *w.reg(at);
                *w.reg(at) &= !0xb0;
                val
            }
            0 | 4 => 0,
            _ if at < 0x4000 && at % 4 == 0 => *w.reg(at),
            _ => 0,
        }
    }

    fn write32(&mut self, at: u32, val: u32) {
        let mut w = self.0.borrow_mut();
        let q = at >> 8 & 1;
        match at & !0x100 {
            0 if val & 1 << 26 != 0 => w.vf_reset(),
            0xc40 => {
                let kept = *w.reg(at) & !4;
                *w.reg(at) = kept | val & 4;
                if val & 1 != 0 && w.silent {
                    w.unanswered = true;
                } else if val & 1 != 0 {
                    w.answer_in = Some(w.delay);
                    if w.delay == 0 {
                        w.answer_in = None;
                        w.message();
                    }
                }
            }
            0x1420 => w.raised |= val,
            0x2810 | 0x3810 if w.fixed_heads => {}
            0x2828 | 0x3828 if w.fixed_heads => {
                if val & ENABLE != 0 && *w.reg(at) & ENABLE == 0 {
                    let head = at - 0x18;
                    *w.reg(head) = 0;
                }
                *w.reg(at) = val;
            }
            0x3818 => {
                *w.reg(at) = val & 0xffff;
                w.transmit(q);
            }
            // QEMU has no PSRTYPE; a guest's rings must do with what silicon has, too.
            _ if at == 0xf0c => *w.reg(at) = val,
            _ if (0x800..0x840).contains(&at) || (0x1000..0x4000).contains(&at) => *w.reg(at) = val,
            _ => {}
        }
    }
}

impl Hardware for Vf {
    fn pause(&mut self, _us: u32) {}
}

impl GuestMemory for Mem {
    fn read(&mut self, at: Iova, buf: &mut [u8]) -> Result<(), Fault> {
        self.0.borrow_mut().memory.read(at, buf)
    }

    fn write(&mut self, at: Iova, buf: &[u8]) -> Result<(), Fault> {
        let w = &mut *self.0.borrow_mut();
        let result = w.memory.write(at, buf);
        if let Some(replica) = &mut w.replica {
            replica.written(at.0, buf.len());
        }
        result
    }
}

impl Area for Shared {
    fn iova(&self) -> Iova {
        Iova(MIRROR)
    }

    fn len(&self) -> usize {
        self.0.borrow().mirror.bytes.len()
    }

    fn read(&mut self, at: usize, buf: &mut [u8]) {
        self.0.borrow_mut().mirror.read(at, buf);
    }

    fn write(&mut self, at: usize, buf: &[u8]) {
        self.0.borrow_mut().mirror.write(at, buf);
    }
}
