// SPDX-License-Identifier: GPL-2.0

//! An image on its way from one machine to another, in the order of the kernel: the control record early, and again
//! when it changes; the rest once the device is stopped.

use igbvf::LAYOUT;
use model::adapter::Adapter;
use model::image::{Decoder, Encoder, Full, Reader, Step, Tag, Writer, MAX_SECTION_BYTES};

use crate::machine::Machine;
use crate::vf::Shared;

/// A migration that has begun. The other machine is captured, and does not run.
pub struct Transfer {
    encoder: Encoder,
    decoder: Decoder,
    /// The control record that was sent last.
    generation: u32,
    bytes: Vec<u8>,
    to: Machine,
}

impl Transfer {
    /// Begins it.
    pub fn begin(from: &mut Machine, mut to: Machine) -> Self {
        let mut hw = to.hw();
        to.model.snapshot(&mut hw, &mut to.page);
        to.captured = true;
        to.model.quiesce(&mut hw, &mut to.page).unwrap();
        to.world.borrow_mut().captured = true;
        let mut new = Self {
            encoder: Encoder::new(&LAYOUT),
            decoder: Decoder::new(&LAYOUT),
            generation: 0,
            bytes: vec![0; MAX_SECTION_BYTES],
            to,
        };
        let written = new.encoder.header(&mut new.bytes).unwrap();
        new.arrive(written);
        new.send_control(from);
        new
    }

    /// Sends the control record again, if it has changed.
    pub fn refresh(&mut self, from: &mut Machine) {
        if from.model.control_generation() != self.generation {
            self.send_control(from);
        }
    }

    /// Sends the rest of `from`, which is stopped.
    pub fn finish(mut self, from: &mut Machine) -> Machine {
        self.refresh(from);
        let (mut hw, mut mirror) = (from.hw(), Shared(from.world.clone()));
        let Machine { model, page, .. } = from;
        self.section(Tag::State, |w| model.save_state(&mut hw, page, w));
        for n in 0..model.held() {
            self.section(Tag::Held, |w| model.save_held(n, &mut mirror, w));
        }
        let written = self.encoder.end(&mut self.bytes).unwrap();
        self.arrive(written);
        assert!(self.decoder.is_complete());
        self.to
    }

    fn send_control(&mut self, from: &mut Machine) {
        self.generation = from.model.control_generation();
        self.section(Tag::Control, |w| from.model.save_control(w));
    }

    fn section(&mut self, tag: Tag, fill: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>) {
        let written = self.encoder.section(&mut self.bytes, tag, fill).unwrap();
        self.arrive(written);
    }

    /// So many bytes arrive on the other side.
    fn arrive(&mut self, written: usize) {
        let Machine {
            world, model, page, ..
        } = &mut self.to;
        let (mut hw, mut mirror) = (crate::vf::Vf(world.clone()), Shared(world.clone()));
        match self.decoder.step(&self.bytes[..written]).unwrap() {
            Step::NeedMore => panic!("a piece of a section"),
            Step::Header { consumed } => assert_eq!(consumed, written),
            Step::Section {
                tag,
                start,
                end,
                consumed,
            } => {
                assert_eq!(consumed, written);
                let mut r = Reader::new(&self.bytes[start..end]);
                match tag {
                    Tag::Control => model.load_control(&mut r, &mut hw),
                    Tag::State => model.load_state(&mut r, &mut hw, page),
                    Tag::Held => model.load_held(&mut r, &mut mirror),
                    Tag::End => {
                        let replayed = model.replay_control(&mut hw);
                        model.listen(&mut hw, page, &mut mirror);
                        replayed
                    }
                }
                .unwrap();
            }
        }
    }
}
