// SPDX-License-Identifier: GPL-2.0

//! The VF: registers that keep what is written to them, and a mirror area whose descriptors are done at once.
//!
//! No frame is copied anywhere on the device's side. That takes a look at where a descriptor is, and a store.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use model::io::{Area, Iova, Registers};

/// Where the mirror area starts, as the device sees it.
const MIRROR: u64 = 0x7f_0000_0000;
/// Bytes of a descriptor.
const DESC_BYTES: usize = 16;
/// What the device writes back: RSS and packet type, RSS hash, status with DD and EOP.
const RECEIVED: [u32; 3] = [0x11, 0x1234_5678, 0x33];

/// The bytes of the mirror area, which guest memory copies from and to without a copy in between.
pub type Bytes = Rc<RefCell<Vec<u8>>>;

/// The mirror area of a VF that sends and receives in no time.
pub struct Mirror {
    pub bytes: Bytes,
    /// Where the descriptors to send are.
    tx: Range<usize>,
    /// Where the descriptors to receive are.
    rx: Range<usize>,
    /// Bytes of the frame that arrives in every buffer; 0 for none.
    frame_bytes: u32,
}

impl Mirror {
    pub fn new(len_bytes: usize) -> Self {
        Self {
            bytes: Rc::new(RefCell::new(vec![0; len_bytes])),
            tx: 0..0,
            rx: 0..0,
            frame_bytes: 0,
        }
    }

    /// From now on the rings that `hw` was given are served.
    pub fn serve(&mut self, hw: &mut dyn Registers) {
        let mut ring = |base: u32, bytes: u32| {
            let start = (hw.read32(base) - MIRROR as u32) as usize;
            start..start + hw.read32(bytes) as usize
        };
        (self.tx, self.rx) = (ring(0x3800, 0x3808), ring(0x2800, 0x2808));
    }

    /// The first `frames` buffers fill with frames of `frame_bytes`; if `on` is set, so does every buffer that is
    /// handed over later.
    pub fn receive(&mut self, frames: usize, frame_bytes: u32, on: bool) {
        let mut bytes = self.bytes.borrow_mut();
        for slot in self.rx.clone().step_by(DESC_BYTES).take(frames) {
            write_back(&mut bytes[slot..slot + DESC_BYTES], frame_bytes);
        }
        self.frame_bytes = if on { frame_bytes } else { 0 };
    }
}

fn write_back(desc: &mut [u8], frame_bytes: u32) {
    let [types, hash, status] = RECEIVED;
    for (dw, val) in desc
        .chunks_exact_mut(4)
        .zip([types, hash, status, frame_bytes])
    {
        dw.copy_from_slice(&val.to_le_bytes());
    }
}

impl Area for Mirror {
    fn iova(&self) -> Iova {
        Iova(MIRROR)
    }

    fn len(&self) -> usize {
        self.bytes.borrow().len()
    }

    fn read(&mut self, at: usize, buf: &mut [u8]) {
        buf.copy_from_slice(&self.bytes.borrow()[at..at + buf.len()]);
    }

    fn write(&mut self, at: usize, buf: &[u8]) {
        let mut bytes = self.bytes.borrow_mut();
        let to = &mut bytes[at..at + buf.len()];
        to.copy_from_slice(buf);
        if self.tx.contains(&at) {
            to[12] |= 1;
        } else if self.frame_bytes != 0 && self.rx.contains(&at) {
            write_back(to, self.frame_bytes);
        }
    }
}
