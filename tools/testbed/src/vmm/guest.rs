// SPDX-License-Identifier: GPL-2.0
//! A small driver of the 82576 VF, by polling: RX and TX ring of queue 0. IOVAs are offsets in [`Memory`].

use std::ops::Range;
use std::time::Duration;

use anyhow::{ensure, Result};

use super::device::Device;
use super::mailbox::{SET_LPE, SET_MULTICAST, SET_VLAN};
use super::memory::{Memory, PAGE};

pub type Mac = [u8; 6];

/// Registers by the datasheet's names; those of rings are queue 0's.
pub mod regs {
    pub const RDBAL: usize = 0x2800;
    pub const RDBAH: usize = 0x2804;
    pub const RDLEN: usize = 0x2808;
    pub const SRRCTL: usize = 0x280c;
    pub const RDH: usize = 0x2810;
    pub const RDT: usize = 0x2818;
    pub const RXDCTL: usize = 0x2828;
    pub const TDBAL: usize = 0x3800;
    pub const TDBAH: usize = 0x3804;
    pub const TDLEN: usize = 0x3808;
    pub const TDH: usize = 0x3810;
    pub const TDT: usize = 0x3818;
    pub const TXDCTL: usize = 0x3828;
    /// RXDCTL and TXDCTL.
    pub const ENABLE: u32 = 1 << 25;
    /// SRRCTL: one buffer of 2 KiB a descriptor, drop what finds none.
    pub const ONE_BUFFER: u32 = 0x8200_0002;
}
use regs::*;

// Descriptors
pub const DD: u32 = 1;
const RX_EOP: u32 = 2;
/// TX: end of packet, insert the checksum, report the status; an advanced data descriptor.
pub const TX_DATA: u32 = 1 << 24 | 1 << 25 | 1 << 27 | 1 << 29 | 3 << 20;

pub const SLOTS: usize = 64;
pub const DESC_BYTES: usize = 16;
/// Where everything is. Buffers begin in one page and end in the next.
pub const RX_RING: usize = 0x10000;
pub const TX_RING: usize = 0x11000;
const RX_BUFFERS: usize = 0x0010_0c00;
const TX_BUFFERS: usize = 0x0040_0e00;
const BUFFER_STRIDE: usize = PAGE;
const BUFFER_BYTES: usize = 2048;
const LONGEST_FRAME: u32 = 1522;

pub struct Guest<'a> {
    device: &'a Device,
    memory: &'a Memory,
    pub mac: Mac,
    /// Where its memory begins.
    base: usize,
    rx_next: usize,
    tx_next: usize,
    tx_clean: usize,
}

impl<'a> Guest<'a> {
    /// Resets the VF, agrees on an address with the PF (its administrator's, if there is one) and starts both rings.
    pub fn start(device: &'a Device, memory: &'a Memory, mac: Mac) -> Result<Self> {
        Self::start_at(device, memory, 0, mac)
    }

    /// As [`start`](Self::start), with all that the device is to reach behind `base`.
    pub fn start_at(device: &'a Device, memory: &'a Memory, base: usize, mac: Mac) -> Result<Self> {
        device.enable()?;
        let mut guest = Self {
            device,
            memory,
            mac,
            base,
            rx_next: 0,
            tx_next: 0,
            tx_clean: 0,
        };
        guest.mac = device.reset_vf(mac)?;
        device.ask(&[SET_LPE, LONGEST_FRAME])?;
        guest.start_rings()?;
        Ok(guest)
    }

    /// Goes on with another VF, which was loaded with the state of this one.
    pub fn move_to(&mut self, device: &'a Device) -> Result<()> {
        self.device = device;
        device.enable()
    }

    pub fn add_vlan(&self, vid: u16) -> Result<()> {
        self.device.ask(&[SET_VLAN | 1 << 16, vid.into()])
    }

    /// Hashes of multicast addresses.
    pub fn set_multicast(&self, hashes: &[u16]) -> Result<()> {
        let mut message = [0; 16];
        message[0] = SET_MULTICAST | (hashes.len() as u32) << 16;
        for (index, hash) in hashes.iter().enumerate() {
            message[1 + index / 2] |= u32::from(*hash) << (16 * (index % 2));
        }
        self.device.ask(&message)
    }

    /// Sets both rings up anew, as after a reset.
    pub fn start_rings(&mut self) -> Result<()> {
        let device = self.device;
        device.write32(TXDCTL, 0)?;
        device.write32(RXDCTL, 0)?;
        // The driver of Linux waits as long for a queue to stop.
        std::thread::sleep(Duration::from_millis(10));
        (self.rx_next, self.tx_next, self.tx_clean) = (0, 0, 0);
        for slot in 0..SLOTS {
            self.post(slot);
            // Done, as in a ring that was emptied.
            self.memory.write(self.tx_slot(slot), &desc(0, 0, DD));
        }
        let bytes = (SLOTS * DESC_BYTES) as u32;
        for (at, value) in [
            (TDLEN, bytes),
            (TDBAL, self.tx_slot(0) as u32),
            (TDBAH, 0),
            (TDH, 0),
            (TDT, 0),
            (TXDCTL, ENABLE),
            (SRRCTL, ONE_BUFFER),
            (RDBAL, self.rx_slot(0) as u32),
            (RDBAH, 0),
            (RDLEN, bytes),
            (RDH, 0),
            (RDT, 0),
            (RXDCTL, ENABLE | 0x10810),
            (RDT, SLOTS as u32 - 1),
        ] {
            device.write32(at, value)?;
        }
        Ok(())
    }

    fn rx_slot(&self, slot: usize) -> usize {
        self.base + RX_RING + slot * DESC_BYTES
    }

    fn tx_slot(&self, slot: usize) -> usize {
        self.base + TX_RING + slot * DESC_BYTES
    }

    fn rx_buffer(&self, slot: usize) -> usize {
        self.base + RX_BUFFERS + slot * BUFFER_STRIDE
    }

    fn post(&self, slot: usize) {
        let buffer = self.rx_buffer(slot) as u64;
        self.memory.write(self.rx_slot(slot), &desc(buffer, 0, 0));
    }

    /// The next frame that has arrived; its buffer is given back.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        let slot = self.rx_next;
        let at = self.rx_slot(slot);
        let status = self.memory.load32(at + 8);
        if status & DD == 0 {
            return Ok(None);
        }
        ensure!(
            status & RX_EOP != 0,
            "slot {slot} has a part of a frame: {status:#x}"
        );
        let length = (self.memory.load32(at + 12) & 0xffff) as usize;
        ensure!(
            length <= BUFFER_BYTES,
            "slot {slot} has {length} bytes: more than a buffer"
        );
        let mut frame = vec![0; length];
        self.memory.read(self.rx_buffer(slot), &mut frame);
        self.post(slot);
        self.device.write32(RDT, slot as u32)?;
        self.rx_next = (slot + 1) % SLOTS;
        Ok(Some(frame))
    }

    /// Gives back what has arrived, unseen.
    pub fn skip_arrived(&mut self) -> Result<()> {
        while self.receive()?.is_some() {}
        Ok(())
    }

    /// Sends a frame, unless the ring is full.
    pub fn send(&mut self, frame: &[u8]) -> Result<bool> {
        self.clean();
        let slot = self.tx_next;
        if (slot + 1) % SLOTS == self.tx_clean {
            return Ok(false);
        }
        let buffer = self.base + TX_BUFFERS + slot * BUFFER_STRIDE;
        self.memory.write(buffer, frame);
        let length = frame.len() as u32;
        self.memory.write(
            self.tx_slot(slot),
            &desc(buffer as u64, TX_DATA | length, length << 14),
        );
        self.tx_next = (slot + 1) % SLOTS;
        self.device.write32(TDT, self.tx_next as u32)?;
        Ok(true)
    }

    /// Frees the slots whose frames were sent.
    fn clean(&mut self) {
        while self.tx_clean != self.tx_next {
            let status = self.memory.load32(self.tx_slot(self.tx_clean) + 12);
            if status & DD == 0 {
                break;
            }
            self.tx_clean = (self.tx_clean + 1) % SLOTS;
        }
    }

    /// Frames that are not known to be sent.
    pub fn unsent(&mut self) -> usize {
        self.clean();
        (self.tx_next + SLOTS - self.tx_clean) % SLOTS
    }
}

/// Whether the device has any business in a page: rings, and buffers to receive into.
pub fn may_be_written(page: usize) -> bool {
    let pages = |bytes: Range<usize>| bytes.start / PAGE..bytes.end.div_ceil(PAGE);
    let rx = RX_BUFFERS..RX_BUFFERS + SLOTS * BUFFER_STRIDE;
    pages(RX_RING..TX_RING + PAGE).contains(&page) || pages(rx).contains(&page)
}

/// A descriptor of either kind.
pub fn desc(address: u64, low: u32, high: u32) -> [u8; DESC_BYTES] {
    let mut bytes = [0; DESC_BYTES];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&low.to_le_bytes());
    bytes[12..].copy_from_slice(&high.to_le_bytes());
    bytes
}
