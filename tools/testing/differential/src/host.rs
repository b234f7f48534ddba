// SPDX-License-Identifier: GPL-2.0

//! One host: a QEMU, the PF's driver, and the VF with the memory that it reaches.

use std::cell::RefCell;
use std::rc::Rc;

use igbvf::LAYOUT;
use model::io::{Area, Fault, GuestMemory, Hardware, Iova, Registers};

use crate::pci::{self, MESSAGES, VECTORS, VF};
use crate::pf::{Mode, Pf};
use crate::qemu::Qemu;
use crate::ram::HIGH;

/// Where the guest's memory starts.
pub const GUEST: u64 = HIGH;
/// Bytes of it.
pub const GUEST_BYTES: usize = 1 << 20;
/// Where the mirror area starts.
const MIRROR: u64 = HIGH + (1 << 24);

const CTRL: u32 = 0;
const V2PMAILBOX: u32 = 0xc40;
const EICS: u32 = 0x1520;

pub struct Host {
    qemu: Qemu,
    pf: Pf,
    /// Guest memory as it has to be while only guest and model write it; none while the VF does.
    pub kept: Option<Vec<u8>>,
    /// Vectors that the model has raised, and those that came by themselves.
    raised: u32,
    came: u32,
}

/// A handle.
pub type Shared = Rc<RefCell<Host>>;

impl Host {
    pub fn start() -> Shared {
        let mut qemu = Qemu::start();
        pci::set_up(&mut qemu.qtest);
        let mode = Mode {
            rss: false,
            hashes: false,
        };
        let pf = Pf::start(&mut qemu, mode);
        Rc::new(RefCell::new(Self {
            qemu,
            pf,
            kept: None,
            raised: 0,
            came: 0,
        }))
    }

    /// Makes all new: PF, VF and guest memory.
    pub fn renew(&mut self, mode: Mode) {
        pci::reset_vf(&mut self.qemu.qtest);
        for vector in 0..3 {
            self.qemu.qtest.write32(VF + 0x1680 + 4 * vector, 0);
        }
        self.pf = Pf::start(&mut self.qemu, mode);
        // What a sequence that failed has left on the wire.
        self.sent();
        self.kept = None;
        self.qemu.ram.write(GUEST, &vec![0; GUEST_BYTES]);
        self.fired();
    }

    /// Resets the VF as VFIO does.
    pub fn flr(&mut self) {
        pci::reset_vf(&mut self.qemu.qtest);
        self.pf.serve(&mut self.qemu);
    }

    /// Makes the VF one of another host, as far as that can be told.
    pub fn leave(&mut self) {
        self.flr();
        self.pf.forget(&mut self.qemu);
    }

    /// Makes the VF, whose queues are off, forget its contexts.
    pub fn spoil_contexts(&mut self) {
        self.pf.spoil_contexts(&mut self.qemu);
    }

    pub fn read(&mut self, at: u32) -> u32 {
        self.qemu.qtest.read32(VF + u64::from(at))
    }

    pub fn write(&mut self, at: u32, val: u32) {
        self.qemu.qtest.write32(VF + u64::from(at), val);
        if at == V2PMAILBOX && val & 3 != 0 || at <= CTRL + 4 && val & 1 << 26 != 0 {
            self.pf.serve(&mut self.qemu);
        }
    }

    /// Waits until the device has done what it was told: nothing else makes its memory what it is to be.
    fn settle(&mut self) {
        self.qemu.qtest.settle();
    }

    /// What is in guest memory.
    pub fn memory(&mut self, at: u64, len: usize) -> Vec<u8> {
        self.settle();
        let mut bytes = vec![0; len];
        assert!(self.qemu.ram.read(at, &mut bytes));
        bytes
    }

    /// Guest or model write to guest memory.
    pub fn set_memory(&mut self, at: u64, bytes: &[u8]) {
        self.settle();
        assert!(self.qemu.ram.write(at, bytes));
        if let Some(kept) = &mut self.kept {
            let start = (at - GUEST) as usize;
            kept[start..start + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// From now on only guest and model write guest memory.
    pub fn keep(&mut self) {
        self.kept = Some(self.memory(GUEST, GUEST_BYTES));
    }

    /// Frames come in from the wire.
    pub fn receive(&mut self, frames: &[Vec<u8>]) {
        self.settle();
        for frame in frames {
            self.qemu.wire.send(frame);
        }
        self.pf.mark_received(&mut self.qemu);
    }

    /// Frames that went out since this was asked last.
    pub fn sent(&mut self) -> Vec<Vec<u8>> {
        self.pf.mark_sent(&mut self.qemu)
    }

    /// Lets the device's time pass.
    pub fn pass(&mut self, us: u32) {
        self.qemu.qtest.pass(us);
    }

    fn messages(&mut self) -> u32 {
        self.settle();
        let mut words = [0; 4 * VECTORS];
        self.qemu.ram.read(MESSAGES, &mut words);
        if words == [0; 4 * VECTORS] {
            return 0;
        }
        self.qemu.ram.write(MESSAGES, &[0; 4 * VECTORS]);
        let of = |vector: usize| u32::from(words[4 * vector] != 0) << vector;
        (0..VECTORS).map(of).sum()
    }

    /// Vectors whose message came since this was asked last: those that the model has raised, and the others.
    pub fn fired(&mut self) -> (u32, u32) {
        self.came |= self.messages();
        (
            std::mem::take(&mut self.raised),
            std::mem::take(&mut self.came),
        )
    }

    /// What the PF has been asked for.
    pub fn asked(&self) -> Vec<(u32, u32)> {
        self.pf.registers()
    }
}

/// The VF as the model has it.
#[derive(Clone)]
pub struct Vf(pub Shared);
/// Guest memory as the model has it.
pub struct Memory(pub Shared);
/// The mirror area.
pub struct Mirror(pub Shared);

impl Registers for Vf {
    fn read32(&mut self, at: u32) -> u32 {
        self.0.borrow_mut().read(at)
    }

    fn write32(&mut self, at: u32, val: u32) {
        let mut host = self.0.borrow_mut();
        if at != EICS {
            return host.write(at, val);
        }
        // What came before was not raised by this.
        host.came |= host.messages();
        host.write(at, val);
        host.raised |= host.messages();
    }
}

impl Hardware for Vf {
    fn pause(&mut self, _us: u32) {}
}

/// The guest's part of an access.
fn within(at: Iova, len: usize) -> Result<u64, Fault> {
    let start = at.0.checked_sub(GUEST).ok_or(Fault::Unmapped)?;
    let end = start.checked_add(len as u64).ok_or(Fault::Unmapped)?;
    if end > GUEST_BYTES as u64 {
        return Err(Fault::Unmapped);
    }
    Ok(at.0)
}

impl GuestMemory for Memory {
    fn read(&mut self, at: Iova, buf: &mut [u8]) -> Result<(), Fault> {
        let at = within(at, buf.len())?;
        let bytes = self.0.borrow_mut().memory(at, buf.len());
        buf.copy_from_slice(&bytes);
        Ok(())
    }

    fn write(&mut self, at: Iova, buf: &[u8]) -> Result<(), Fault> {
        self.0.borrow_mut().set_memory(within(at, buf.len())?, buf);
        Ok(())
    }
}

impl Area for Mirror {
    fn iova(&self) -> Iova {
        Iova(MIRROR)
    }

    fn len(&self) -> usize {
        LAYOUT.mirror_bytes
    }

    fn read(&mut self, at: usize, buf: &mut [u8]) {
        let mut host = self.0.borrow_mut();
        host.settle();
        if at + buf.len() > self.len() || !host.qemu.ram.read(MIRROR + at as u64, buf) {
            buf.fill(0);
        }
    }

    fn write(&mut self, at: usize, buf: &[u8]) {
        let mut host = self.0.borrow_mut();
        host.settle();
        if at + buf.len() <= self.len() {
            host.qemu.ram.write(MIRROR + at as u64, buf);
        }
    }
}
