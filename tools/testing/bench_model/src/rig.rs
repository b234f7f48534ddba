// SPDX-License-Identifier: GPL-2.0

//! The model between a guest and a VF, captured and started, with one queue pair.

use igbvf::{Igbvf, LAYOUT};
use model::adapter::{Adapter, Io};
use model::image::{Decoder, Encoder, Reader, Step, Tag, MAX_SECTION_BYTES};
use model::io::Registers;
use model::mock::Page;

use crate::guest::{Ram, BASE, BYTES};
use crate::vf::Mirror;

/// Frames of a turn.
pub const FRAMES: u32 = 64;
/// Slots of each ring of the guest.
const SLOTS: u32 = 256;
const TX_RING: usize = 0x1000;
const RX_RING: usize = 0x3000;
const HEADERS: usize = 0x8_0000;
const BUFFERS: usize = 0x10_0000;
/// Bytes of a frame's headers, where they have a descriptor of their own.
const HEADER_BYTES: u32 = 54;
const DESC_BYTES: usize = 16;
const ENABLE: u32 = 1 << 25;
/// SRRCTL: 2 KiB, one buffer.
const ONE_BUFFER: u32 = 0x8200_0002;
/// SRRCTL: split always, 128 B and 2 KiB.
const SPLIT: u32 = 0x8a00_0202;

/// What a rig is set up for.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The guest sends; else it receives.
    pub sends: bool,
    pub frame_bytes: u32,
    /// Headers have a buffer of their own.
    pub split: bool,
    /// The dirty log is on.
    pub tracked: bool,
}

pub struct Rig {
    setup: Setup,
    model: Igbvf,
    hw: Page,
    page: Page,
    ram: Ram,
    mirror: Mirror,
    /// The guest's descriptors as it hands them over.
    ring: Vec<u8>,
    tail: u32,
}

impl Rig {
    pub fn new(setup: Setup) -> Self {
        let mirror = Mirror::new(LAYOUT.mirror_bytes);
        let mut new = Self {
            setup,
            model: Igbvf::new(),
            hw: Page::new(0, LAYOUT.bar_bytes),
            page: Page::new(0x2000, 0x4000),
            ram: Ram::new(mirror.bytes.clone(), setup.tracked),
            mirror,
            ring: Vec::new(),
            tail: 0,
        };
        // Vectors 0 for TX and 1 for RX.
        new.hw.write32(0x1700, 0x8081);
        new.model.reset(&mut new.hw, None);
        new.model
            .quiesce(&mut new.hw, &mut new.page)
            .expect("registers that keep what is written");
        new.set_up();
        new.with(|model, io| model.start(io));
        new.mirror.serve(&mut new.hw);
        new
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut Igbvf, &mut Io<'_>) -> R) -> R {
        let mut io = Io {
            hw: &mut self.hw,
            page: &mut self.page,
            mem: &mut self.ram,
            mirror: &mut self.mirror,
        };
        f(&mut self.model, &mut io)
    }

    /// What the guest's driver does: one ring, with its descriptors.
    fn set_up(&mut self) {
        let (registers, at) = if self.setup.sends {
            (0x3800, TX_RING)
        } else {
            (0x2800, RX_RING)
        };
        let base = BASE + at as u64;
        for (offset, val) in [
            (0x0, base as u32),
            (0x4, (base >> 32) as u32),
            (0x8, SLOTS * DESC_BYTES as u32),
            (0x28, ENABLE),
        ] {
            self.page.write32(registers + offset, val);
        }
        let srrctl = if self.setup.split { SPLIT } else { ONE_BUFFER };
        self.page.write32(0x280c, srrctl);
        self.ring = (0..SLOTS)
            .flat_map(|slot| self.desc(slot))
            .flat_map(u32::to_le_bytes)
            .collect();
        self.ram.bytes[at..at + self.ring.len()].copy_from_slice(&self.ring);
    }

    /// The guest's descriptor `slot`.
    fn desc(&self, slot: u32) -> [u32; 4] {
        let Setup {
            sends,
            frame_bytes,
            split,
            ..
        } = self.setup;
        let at = |start: usize| (BASE + start as u64 + u64::from(slot) * 0x800) as u32;
        let hi = (BASE >> 32) as u32;
        if !sends {
            let header = if split { [at(HEADERS), hi] } else { [0, 0] };
            return [at(BUFFERS), hi, header[0], header[1]];
        }
        // Data, DEXT, IFCS; EOP and RS with the last one.
        let (bytes, end) = match (split, slot % 2) {
            (true, 0) => (HEADER_BYTES, 0),
            (true, _) => (frame_bytes - HEADER_BYTES, 9 << 24),
            (false, _) => (frame_bytes, 9 << 24),
        };
        [
            at(BUFFERS),
            hi,
            bytes | 3 << 20 | 0x22 << 24 | end,
            frame_bytes << 14,
        ]
    }

    /// Everything of a turn but the model's part: the guest hands over descriptors.
    pub fn hand_over(&mut self) {
        let descs = if self.setup.sends && self.setup.split {
            2 * FRAMES
        } else {
            FRAMES
        };
        if !self.setup.sends {
            // Where the last turn has written back.
            let from = self.tail as usize * DESC_BYTES;
            let range = from..from + descs as usize * DESC_BYTES;
            let to = RX_RING + range.start..RX_RING + range.end;
            self.ram.bytes[to].copy_from_slice(&self.ring[range]);
        }
        self.tail = (self.tail + descs) % SLOTS;
        let register = if self.setup.sends { 0x3818 } else { 0x2818 };
        self.page.write32(register, self.tail);
    }

    /// A frame waits in every buffer of the mirror ring, now and later.
    pub fn receive_on(&mut self) {
        self.mirror
            .receive(usize::MAX, self.setup.frame_bytes, true);
    }

    /// [`FRAMES`] frames go from the guest to the VF or back, and are completed.
    pub fn turn(&mut self) {
        self.hand_over();
        let progress = self.with(|model, io| model.poll(io, FRAMES));
        assert_eq!(progress.frames, FRAMES);
    }

    /// Turns so far, by the model's counters; and that nothing was dropped.
    pub fn check(&self, turns: u64) {
        let (mut moved, mut rest) = (0, 0);
        self.model.counters().for_each(|name, val| match name {
            "tx_frames" | "rx_frames" => moved += val,
            _ => rest += val,
        });
        assert_eq!((moved, rest), (turns * u64::from(FRAMES), 0));
        assert_eq!(self.ram.dirty_pages() > 0, self.setup.tracked);
        assert!(self.ram.bytes.len() == BYTES);
    }

    /// Stops with `frames` frames held.
    pub fn hold(&mut self, frames: usize) {
        self.mirror.receive(frames, self.setup.frame_bytes, false);
        self.with(|model, io| model.stop(io))
            .expect("registers that keep what is written");
        assert_eq!(self.model.held() as usize, frames);
    }

    /// Writes the whole image to `out`: its bytes.
    pub fn save(&mut self, out: &mut [u8]) -> usize {
        let mut e = Encoder::new(&LAYOUT);
        let full = "room for every section";
        let mut len = e.header(out).expect(full);
        let Self {
            model,
            hw,
            page,
            mirror,
            ..
        } = self;
        len += e
            .section(&mut out[len..], Tag::Control, |w| model.save_control(w))
            .expect(full);
        len += e
            .section(&mut out[len..], Tag::State, |w| {
                model.save_state(hw, page, w)
            })
            .expect(full);
        for index in 0..model.held() {
            len += e
                .section(&mut out[len..], Tag::Held, |w| {
                    model.save_held(index, mirror, w)
                })
                .expect(full);
        }
        len + e.end(&mut out[len..]).expect(full)
    }

    /// Takes over a whole image.
    pub fn load(&mut self, mut image: &[u8]) {
        let mut d = Decoder::new(&LAYOUT);
        let refused = "an image that was just saved";
        let Self {
            model,
            hw,
            page,
            mirror,
            ..
        } = self;
        while !d.is_complete() {
            let used = match d.step(image).expect(refused) {
                Step::NeedMore => panic!("{refused}"),
                Step::Header { consumed } => consumed,
                Step::Section {
                    tag,
                    start,
                    end,
                    consumed,
                } => {
                    let mut r = Reader::new(&image[start..end]);
                    match tag {
                        Tag::Control => model.load_control(&mut r, hw),
                        Tag::State => model.load_state(&mut r, hw, page),
                        Tag::Held => model.load_held(&mut r, mirror),
                        Tag::End => Ok(()),
                    }
                    .expect(refused);
                    consumed
                }
            };
            image = &image[used..];
        }
    }

    /// Bytes that are enough for an image with `frames` held frames.
    pub fn image_bytes(frames: usize) -> usize {
        (4 + frames) * MAX_SECTION_BYTES
    }
}
