// SPDX-License-Identifier: GPL-2.0

//! A VF with its model, as the kernel side drives it.

use std::cell::RefCell;
use std::rc::Rc;

use igbvf::{Igbvf, LAYOUT};
use model::adapter::{Adapter, Io, Stuck};
use model::image::{Decoder, Encoder, Refused, Step, Tag, MAX_SECTION_BYTES};
use model::io::Registers;
use model::mock::{Memory, Page};

use crate::vf::{Mem, Shared, Vf, World, GUEST};

/// Bytes of guest memory.
pub const MEMORY_BYTES: usize = 1 << 22;

pub struct Machine {
    pub world: Rc<RefCell<World>>,
    pub model: Igbvf,
    pub page: Page,
    pub captured: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    pub fn new() -> Self {
        Self::with_memory(Memory::new(GUEST, MEMORY_BYTES))
    }

    pub fn with_memory(memory: Memory) -> Self {
        let world = World::new(memory);
        let mut new = Self {
            world,
            model: Igbvf::new(),
            page: Page::new(0x2000, 0x4000),
            captured: false,
        };
        new.model.reset(&mut new.hw(), None);
        new
    }

    pub fn hw(&self) -> Vf {
        Vf(self.world.clone())
    }

    /// Runs `f` with all that the model may touch.
    pub fn with<R>(&mut self, f: impl FnOnce(&mut Igbvf, &mut Io<'_>) -> R) -> R {
        let (mut hw, mut mem, mut mirror) = (
            self.hw(),
            Mem(self.world.clone()),
            Shared(self.world.clone()),
        );
        let mut io = Io {
            hw: &mut hw,
            page: &mut self.page,
            mem: &mut mem,
            mirror: &mut mirror,
        };
        f(&mut self.model, &mut io)
    }

    /// A load of the guest.
    pub fn load(&mut self, at: u32) -> u32 {
        let page: Option<&mut dyn Registers> = if self.captured {
            Some(&mut self.page)
        } else {
            None
        };
        match at {
            0..0x1000 => self.model.read(at, &mut Vf(self.world.clone()), page),
            0x2000.. if self.captured => self.page.read32(at),
            _ => self.hw().read32(at),
        }
    }

    /// A store of the guest.
    pub fn store(&mut self, at: u32, val: u32) {
        let page: Option<&mut dyn Registers> = if self.captured {
            Some(&mut self.page)
        } else {
            None
        };
        match at {
            0..0x1000 => self.model.write(at, val, &mut Vf(self.world.clone()), page),
            0x2000.. if self.captured => self.page.write32(at, val),
            _ => self.hw().write32(at, val),
        }
    }

    pub fn capture(&mut self) {
        let mut hw = self.hw();
        self.model.snapshot(&mut hw, &mut self.page);
        self.captured = true;
        self.model.quiesce(&mut hw, &mut self.page).unwrap();
        self.world.borrow_mut().captured = true;
        self.with(|model, io| model.start(io));
    }

    pub fn release(&mut self) -> Result<(), Stuck> {
        self.with(|model, io| model.stop(io)).unwrap();
        if !self.model.may_hand_back() {
            self.with(|model, io| model.start(io));
            return Err(Stuck);
        }
        let mut hw = self.hw();
        self.world.borrow_mut().captured = false;
        if let Err(stuck) = self.model.hand_back(&mut hw, &mut self.page) {
            self.world.borrow_mut().captured = true;
            self.with(|model, io| model.start(io));
            return Err(stuck);
        }
        self.captured = false;
        self.model.raise_all(&mut hw);
        Ok(())
    }

    /// Polls until nothing moves.
    pub fn poll(&mut self) {
        if self.captured {
            for _ in 0..100 {
                let progress = self.with(|model, io| model.poll(io, 16));
                if progress.frames == 0 && !progress.more {
                    return;
                }
            }
            panic!("never comes to rest");
        }
    }

    pub fn turns(&mut self, n: u32) {
        for _ in 0..n {
            self.with(|model, io| model.poll(io, 16));
        }
    }

    /// Time passes, enough for a turn.
    pub fn wait(&mut self) {
        if self.captured {
            self.with(|model, io| model.poll(io, 64));
        }
    }

    /// Frames move again, after a stop, as in the kernel; `loaded` says that an image was taken over.
    pub fn resume(&mut self, loaded: bool) {
        self.with(|model, io| {
            model.start(io);
            if loaded {
                model.announce(io);
            }
            model.poll(io, 64);
            model.raise_all(io.hw);
        });
    }

    /// The user resets the function.
    pub fn reset(&mut self) {
        self.world.borrow_mut().vf_reset();
        let mut hw = self.hw();
        let page: Option<&mut dyn Registers> = if self.captured {
            Some(&mut self.page)
        } else {
            None
        };
        self.model.reset(&mut hw, page);
        if self.captured {
            self.with(|model, io| model.start(io));
        }
    }

    /// The image of the captured and stopped device.
    pub fn save(&mut self) -> Vec<u8> {
        let mut hw = self.hw();
        let mut mirror = Shared(self.world.clone());
        let (mut e, mut buf, mut image) = (
            Encoder::new(&LAYOUT),
            vec![0; MAX_SECTION_BYTES],
            Vec::new(),
        );
        let n = e.header(&mut buf).unwrap();
        image.extend_from_slice(&buf[..n]);
        let n = e
            .section(&mut buf, Tag::Control, |w| self.model.save_control(w))
            .unwrap();
        image.extend_from_slice(&buf[..n]);
        let n = e
            .section(&mut buf, Tag::State, |w| {
                self.model.save_state(&mut hw, &mut self.page, w)
            })
            .unwrap();
        image.extend_from_slice(&buf[..n]);
        for i in 0..self.model.held() {
            let n = e
                .section(&mut buf, Tag::Held, |w| {
                    self.model.save_held(i, &mut mirror, w)
                })
                .unwrap();
            image.extend_from_slice(&buf[..n]);
        }
        let n = e.end(&mut buf).unwrap();
        image.extend_from_slice(&buf[..n]);
        image
    }

    /// Takes over an image, as a VF that has just been reset.
    pub fn restore(&mut self, image: &[u8]) -> Result<(), Refused> {
        self.restore_while(image, |_, _| {})
    }

    /// The same, while something happens before each of its parts.
    pub fn restore_while(
        &mut self,
        image: &[u8],
        mut happen: impl FnMut(Tag, &mut World),
    ) -> Result<(), Refused> {
        let mut hw = self.hw();
        let mut mirror = Shared(self.world.clone());
        if !self.captured {
            self.model.snapshot(&mut hw, &mut self.page);
            self.model.quiesce(&mut hw, &mut self.page).unwrap();
            self.captured = true;
            self.world.borrow_mut().captured = true;
        }
        let (mut d, mut have) = (Decoder::new(&LAYOUT), image.to_vec());
        loop {
            let used = match d.step(&have)? {
                Step::NeedMore => return Err(Refused("truncated")),
                Step::Header { consumed } => consumed,
                Step::Section {
                    tag,
                    start,
                    end,
                    consumed,
                } => {
                    let mut r = model::image::Reader::new(&have[start..end]);
                    happen(tag, &mut self.world.borrow_mut());
                    match tag {
                        Tag::Control => self.model.load_control(&mut r, &mut hw)?,
                        Tag::State => self.model.load_state(&mut r, &mut hw, &mut self.page)?,
                        Tag::Held => self.model.load_held(&mut r, &mut mirror)?,
                        Tag::End => {
                            assert!(d.is_complete());
                            self.model.replay_control(&mut hw)?;
                            self.model.listen(&mut hw, &mut self.page, &mut mirror);
                            return Ok(());
                        }
                    }
                    consumed
                }
            };
            have.drain(..used);
        }
    }

    /// Stops the device, and has the VF of another host take it over with the guest's memory: captured and stopped.
    pub fn migrate(mut self) -> Self {
        self.with(|model, io| model.stop(io)).unwrap();
        self.migrate_stopped()
    }

    /// The same for a device that is stopped.
    pub fn migrate_stopped(mut self) -> Self {
        let image = self.save();
        let (memory, wire) = {
            let mut w = self.world.borrow_mut();
            (w.memory.clone(), std::mem::take(&mut w.wire))
        };
        let mut to = Self::with_memory(memory);
        // Another host's counters.
        to.world.borrow_mut().regs[0xf10 / 4] = 0xffff_fff0;
        to.restore(&image).unwrap();
        to.world.borrow_mut().wire = wire;
        to
    }
}
