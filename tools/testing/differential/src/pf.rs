// SPDX-License-Identifier: GPL-2.0

//! The PF's driver, as far as its VF can tell it from Linux's igb.
//!
//! It also marks where the traffic of one step ends: see [`Pf::mark_sent`] and [`Pf::mark_received`].

use crate::asked::Asked;
use crate::frame::{Frame, Kind, To};
use crate::pci::PF;
use crate::qemu::Qemu;
use crate::ram::Ram;

const CTRL: u32 = 0x0000;
const STATUS: u32 = 0x0008;
const CTRL_EXT: u32 = 0x0018;
const MDIC: u32 = 0x0020;
const RCTL: u32 = 0x0100;
const TCTL: u32 = 0x0400;
const VMBMEM: u32 = 0x0800;
const P2VMAILBOX: u32 = 0x0c00;
const MBVFICR: u32 = 0x0c80;
const VFLRE: u32 = 0x0c88;
const VFRE: u32 = 0x0c8c;
const VFTE: u32 = 0x0c90;
const GPIE: u32 = 0x1514;
const RXCSUM: u32 = 0x5000;
const RLPML: u32 = 0x5004;
const RAL: u32 = 0x5400;
const MRQC: u32 = 0x5818;
const VT_CTL: u32 = 0x581c;
const VMOLR: u32 = 0x5ad0;
const RETA: u32 = 0x5c00;
const RSSRK: u32 = 0x5c80;

/// The PF's own pool and ring, far from those of the VF.
const POOL: u32 = 7;
const RX: u32 = 0xc000 + 0x40 * POOL;
const TX: u32 = 0xe000 + 0x40 * POOL;
const SLOTS: u32 = 64;
const TX_RING: u64 = 0x10_0000;
const RX_RING: u64 = 0x10_1000;
const TX_BUFFER: u64 = 0x10_2000;
const SPOILED: u64 = 0x10_3000;
const RX_BUFFERS: u64 = 0x11_0000;
const RX_BUFFER_BYTES: u64 = 2048;
const ENABLE: u32 = 1 << 25;

/// VMOLR: untagged frames.
const AUPE: u32 = 1 << 24;
/// Longest frame that igb lets a VF ask for.
pub(crate) const MAX_FRAME: u32 = 0x3f00;

const ACK: u32 = 1 << 31;
const NACK: u32 = 1 << 30;
const CTS: u32 = 1 << 29;

pub type Mac = [u8; 6];
/// The PF's address.
const MAC: Mac = [0x52, 0x54, 0, 0xff, 0xff, 1];

/// How the PF has its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Frames are spread over both queues of the VF by their hash. QEMU can do that without pools only.
    pub rss: bool,
    /// Descriptors tell hashes; else the identification of IPv4 packets.
    pub hashes: bool,
}

pub struct Pf {
    mode: Mode,
    asked: Asked,
    /// What the hardware has been told of it.
    told: Vec<(u32, u32)>,
    /// Next slot of the PF's RX ring, and its TX tail.
    rx: u32,
    tx: u32,
    marks: u32,
}

fn write(qemu: &mut Qemu, at: u32, val: u32) {
    qemu.qtest.write32(PF + u64::from(at), val);
}

fn read(qemu: &mut Qemu, at: u32) -> u32 {
    qemu.qtest.read32(PF + u64::from(at))
}

pub(crate) fn words(mac: Mac) -> (u32, u32) {
    let [a, b, c, d, e, f] = mac;
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, 0, 0]),
    )
}

impl Pf {
    /// Resets the PF, with all that its VF has, and sets it up.
    pub fn start(qemu: &mut Qemu, mode: Mode) -> Self {
        let mut new = Self {
            mode,
            asked: Asked::default(),
            told: Vec::new(),
            rx: 0,
            tx: 0,
            marks: 0,
        };
        write(qemu, CTRL, 1 << 26);
        // Set link up; in QEMU a PF without pools strips tags by CTRL.VME alone.
        write(qemu, CTRL, 1 << 6 | 1 << 30);
        // The PHY negotiates anew, which takes half a second of the device's time.
        write(qemu, MDIC, 1 << 26 | 1 << 21 | 0x1200);
        qemu.qtest.pass(600_000);
        write(qemu, GPIE, 0xc000_0010);
        new.start_rings(qemu);
        new.start_filters(qemu);
        // All of it is 0 after the reset.
        new.told = new.registers().iter().map(|(at, _)| (*at, 0)).collect();
        new.program(qemu);
        write(qemu, TCTL, 2);
        // Enabled, long frames, broadcasts, VLAN filter, without CRC.
        write(qemu, RCTL, 1 << 26 | 1 << 18 | 1 << 15 | 1 << 5 | 1 << 1);
        // The VF may start.
        write(qemu, CTRL_EXT, 1 << 14);
        assert_ne!(read(qemu, STATUS) & 2, 0, "the link does not come up");
        new
    }

    fn start_rings(&self, qemu: &mut Qemu) {
        let marker = self.marker(0).bytes();
        qemu.ram.write(TX_BUFFER, &marker);
        for slot in 0..SLOTS {
            let cmd = 0x2330_0000 | marker.len() as u32;
            let data = [TX_BUFFER as u32, 0, cmd, (marker.len() as u32) << 14];
            put(&qemu.ram, TX_RING, slot, data);
            put(&qemu.ram, RX_RING, slot, [buffer(slot) as u32, 0, 0, 0]);
        }
        for (ring, base) in [(RX, RX_RING), (TX, TX_RING)] {
            write(qemu, ring, base as u32);
            write(qemu, ring + 4, 0);
            write(qemu, ring + 8, SLOTS * 16);
            write(qemu, ring + 0x10, 0);
            write(qemu, ring + 0x18, 0);
            write(qemu, ring + 0x28, ENABLE);
        }
        write(qemu, RX + 0x0c, 0x0200_0002);
        write(qemu, RX + 0x18, SLOTS - 1);
        write(qemu, VFRE, 1 << POOL);
        write(qemu, VFTE, 1 << POOL);
    }

    fn start_filters(&self, qemu: &mut Qemu) {
        let (lo, hi) = words(MAC);
        write(qemu, RAL, lo);
        write(qemu, RAL + 4, hi | 1 << 31 | 1 << (18 + POOL));
        write(qemu, RLPML, MAX_FRAME);
        write(qemu, VMOLR + 4 * POOL, AUPE);
        // No pool for what nobody wants; replication.
        write(qemu, VT_CTL, POOL << 7 | 1 << 29 | 1 << 30);
        let hashes = if self.mode.hashes { 1 << 13 } else { 0 };
        write(qemu, RXCSUM, hashes | 1 << 9 | 1 << 8);
        if !self.mode.rss {
            write(qemu, MRQC, 3);
            return;
        }
        // Bit 62 of the key alone: bit n of a hash is then bit 31 + n of what is hashed, so the last bit of an IPv4 source
        // address says which queue it is, and the marker's destination has a place of its own in the table.
        write(qemu, RSSRK + 4, 2 << 24);
        for entry in 0..32 {
            let queues = if entry == self.marker(0).rss_place() / 4 {
                0x0707_0800
            } else {
                0x0800_0800
            };
            write(qemu, RETA + 4 * entry, queues);
        }
        // TCP and UDP and the rest of IPv4 and IPv6.
        write(qemu, MRQC, 2 | 0x00f7_0000);
    }

    /// Does what a driver does in its interrupt: the VF has rung.
    pub fn serve(&mut self, qemu: &mut Qemu) {
        if read(qemu, VFLRE) & 1 != 0 {
            write(qemu, VFLRE, 1);
            self.asked.reset();
            self.program(qemu);
        }
        let rung = read(qemu, MBVFICR) & 0x1_0001;
        write(qemu, MBVFICR, rung);
        if rung & 1 != 0 {
            self.answer(qemu);
        }
    }

    /// Becomes the PF of another host, which knows nothing of the VF.
    pub fn forget(&mut self, qemu: &mut Qemu) {
        self.asked = Asked::default();
        self.program(qemu);
        self.spoil_contexts(qemu);
    }

    fn answer(&mut self, qemu: &mut Qemu) {
        write(qemu, P2VMAILBOX, 1 << 3);
        let first = read(qemu, VMBMEM);
        let len = match first & 0xff {
            2 => 3,
            3 => 16,
            4 | 5 => 2,
            _ => 1,
        };
        let mut message = vec![first];
        message.extend((1..len).map(|n| read(qemu, VMBMEM + 4 * n)));
        write(qemu, P2VMAILBOX, 2);
        let reply = if first == 1 {
            self.vf_reset(qemu)
        } else {
            let cts = if self.asked.cts { CTS } else { 0 };
            let done = self.asked.cts && self.asked.ask(&message);
            self.program(qemu);
            vec![first | cts | if done { ACK } else { NACK }]
        };
        write(qemu, P2VMAILBOX, 1 << 3);
        for (n, word) in reply.into_iter().enumerate() {
            write(qemu, VMBMEM + 4 * n as u32, word);
        }
        write(qemu, P2VMAILBOX, 1);
    }

    fn vf_reset(&mut self, qemu: &mut Qemu) -> Vec<u32> {
        self.asked.start();
        self.program(qemu);
        let own = 1 << POOL;
        write(qemu, VFRE, own | 1);
        write(qemu, VFTE, own | 1);
        match self.asked.mac {
            Some(mac) => {
                let (lo, hi) = words(mac);
                vec![1 | ACK, lo, hi]
            }
            None => vec![1 | NACK, 0, 0],
        }
    }

    /// Tells the hardware what the VF has asked for.
    fn program(&mut self, qemu: &mut Qemu) {
        let registers = self.registers();
        for (n, (at, val)) in registers.iter().enumerate() {
            if self.told.get(n) != Some(&(*at, *val)) {
                write(qemu, *at, *val);
            }
        }
        self.told = registers;
    }

    /// What the VF has asked for, as registers and their values.
    pub fn registers(&self) -> Vec<(u32, u32)> {
        self.asked.registers()
    }

    /// Gives both TX queues of the VF, which are off, contexts that are nobody's. QEMU keeps them for ever, other
    /// hosts have others, and hardware may forget them when a queue is switched off.
    pub fn spoil_contexts(&self, qemu: &mut Qemu) {
        for index in 0..2 {
            let context = [0x0fff_0000, 0, 2 << 20 | 1 << 29, 99 << 16 | index << 4];
            put(&qemu.ram, SPOILED, index, context);
        }
        let allowed = read(qemu, VFTE);
        write(qemu, VFTE, allowed | 1);
        for queue in [0, 8] {
            let ring = 0xe000 + 0x40 * queue;
            for (reg, val) in [
                (0x00, SPOILED as u32),
                (0x04, 0),
                (0x08, 128),
                (0x10, 0),
                (0x28, ENABLE),
                (0x18, 2),
                (0x28, 0),
            ] {
                write(qemu, ring + reg, val);
            }
        }
        write(qemu, VFTE, allowed);
    }

    fn marker(&self, number: u32) -> Frame {
        Frame {
            to: To::Mac(MAC),
            kind: Kind::Marker,
            len: 64,
            number,
            ..Frame::default()
        }
    }

    /// Sends a marker after all that the VF has sent: what it has sent.
    pub fn mark_sent(&mut self, qemu: &mut Qemu) -> Vec<Vec<u8>> {
        self.tx = (self.tx + 1) % SLOTS;
        write(qemu, TX + 0x18, self.tx);
        qemu.qtest.settle();
        let marker = self.marker(0).bytes();
        let mut frames = Vec::new();
        loop {
            let frame = qemu.wire.receive();
            if frame == marker {
                return frames;
            }
            frames.push(frame);
        }
    }

    /// Puts a marker behind the frames that wait on the wire, and waits until it is there.
    pub fn mark_received(&mut self, qemu: &mut Qemu) {
        self.marks += 1;
        let marker = self.marker(self.marks).bytes();
        qemu.wire.send(&marker);
        for _ in 0..1_000_000 {
            while self.rx != read(qemu, RX + 0x10) {
                let mut bytes = vec![0; marker.len()];
                qemu.ram.read(buffer(self.rx), &mut bytes);
                put(
                    &qemu.ram,
                    RX_RING,
                    self.rx,
                    [buffer(self.rx) as u32, 0, 0, 0],
                );
                write(qemu, RX + 0x18, self.rx);
                self.rx = (self.rx + 1) % SLOTS;
                if bytes == marker {
                    return;
                }
            }
        }
        panic!("the PF does not get its own frame");
    }
}

fn buffer(slot: u32) -> u64 {
    RX_BUFFERS + u64::from(slot) * RX_BUFFER_BYTES
}

fn put(ram: &Ram, ring: u64, slot: u32, desc: [u32; 4]) {
    let bytes: Vec<u8> = desc.iter().flat_map(|word| word.to_le_bytes()).collect();
    ram.write(ring + u64::from(slot) * 16, &bytes);
}
