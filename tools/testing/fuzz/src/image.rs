// SPDX-License-Identifier: GPL-2.0

//! Migration images from an enemy: garbage, and images of a VF at work that were altered and sealed again.
//!
//! What is refused changes nothing. What is accepted is saved again the same way by whoever takes it over, and the
//! VF runs, stops, and goes back to its guest or is reset.

use std::sync::OnceLock;

use conformance::bench::{Bench, Image, Mode};
use igbvf::LAYOUT;
use model::image::{Decoder, Encoder, Full, Step, Tag, MAX_SECTION_BYTES, SECTION_OVERHEAD_BYTES};
use model::io::Registers;
use model::mock::Memory;

use crate::acts;
use crate::driver::How;
use crate::input;
use crate::life::{Life, Reached};
use crate::traffic::Traffic;

/// Most sections of an image: each is checked against the whole state.
const MAX_SECTIONS: usize = 24;
/// Most bytes of a payload.
const MAX_PAYLOAD: usize = MAX_SECTION_BYTES - SECTION_OVERHEAD_BYTES;
/// Bytes before the payload of a held frame.
const HELD_HEAD: usize = 15;

acts! {
    /// What is done to an image, and to whom it is given.
    pub enum Act {
        /// Begins with the image of a VF at work: 0 is one that was never used.
        Begin { which: u8 },
        /// Overwrites a byte of a payload.
        Set { section: u8, at: u16, val: u8 },
        /// Overwrites four.
        Word { section: u8, at: u16, val: u32 },
        /// Shortens a payload, or makes it longer.
        Resize { section: u8, len: u16 },
        /// Leaves a section out.
        Drop { section: u8 },
        /// Sends a section twice.
        Twice { section: u8 },
        /// Exchanges two sections.
        Swap { section: u8, other: u8 },
        /// Adds a section.
        Section { tag: u8, payload: Vec<u8> },
        /// Adds a held frame.
        Frame { q: u8, len: u16 },
        /// Alters a byte of the sealed image.
        Damage { at: u16, bits: u8 },
        /// Cuts the end off.
        Cut { bytes: u16 },
        /// Puts these bytes in the place of all that.
        Raw { bytes: Vec<u8> },
        /// So many bytes come at once, in turn with the other numbers of that kind.
        Read { bytes: u16 },
        /// The PF refuses, has another address for the VF, or does not answer.
        Pf { refuses: bool, pins: bool, is_silent: bool },
        /// The VF that takes it over has held frames of its own.
        Used,
    }
}

/// An image on its way.
#[derive(Default)]
struct Stream {
    sections: Image,
    memory: Option<&'static Memory>,
    /// Nobody has altered a section or its place.
    is_genuine: bool,
    damage: Vec<(u16, u8)>,
    cut: usize,
    raw: Option<Vec<u8>>,
    reads: Vec<usize>,
}

/// Images, each with the memory of its guest.
pub fn images() -> &'static [(Image, Memory)] {
    static IMAGES: OnceLock<Vec<(Image, Memory)>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let mut fresh = Life::new();
        fresh.capture();
        fresh.stop();
        let mut all = vec![(fresh.bench.save(), fresh.bench.mem.inner)];
        for how in [0, How::FEW | How::SPLIT, How::FEW | How::HEAD_WB] {
            let mut t = Traffic::new();
            for words in [
                [3 | 1 << 16, 0x1234, 0],
                [4 | 1 << 16, 100, 0],
                [5, 9000, 0],
                [6 | 2 << 16, 0, 0],
                [2 | 2 << 16, 0x0200_5452, 0x0302],
            ] {
                t.say(&words);
            }
            for driver in &mut t.drivers {
                driver.up(&mut t.life.bench, How(how));
            }
            t.capture();
            for (q, len) in [(0, 3000), (1, 60), (0, 60), (1, 9000)] {
                t.send(q, len, 3, Some(len as u32));
                t.inject(q, len);
            }
            if how & How::HEAD_WB != 0 {
                // Busy in the middle of a frame: the image says how far its delivery has come.
                t.life.bench.mem.inner.busy_after = Some(60);
                t.life.bench.mem.inner.busy_always = true;
            }
            t.life.stop();
            let mut memory = t.life.bench.mem.inner.clone();
            (memory.busy_after, memory.busy_always) = (None, false);
            all.push((t.life.bench.save(), memory));
        }
        all
    })
}

impl Stream {
    fn new(which: usize) -> Self {
        let (image, memory) = &images()[which % images().len()];
        Self {
            sections: image.clone(),
            memory: Some(memory),
            is_genuine: true,
            ..Self::default()
        }
    }

    fn section(&mut self, section: u8) -> Option<&mut (Tag, Vec<u8>)> {
        self.is_genuine = false;
        let n = usize::from(section).checked_rem(self.sections.len())?;
        self.sections.get_mut(n)
    }

    fn overwrite(&mut self, section: u8, at: u16, bytes: &[u8]) {
        if let Some((_, payload)) = self.section(section) {
            let at = usize::from(at).checked_rem(payload.len()).unwrap_or(0);
            for (old, new) in payload[at..].iter_mut().zip(bytes) {
                *old = *new;
            }
        }
    }

    fn add(&mut self, (tag, mut payload): (Tag, Vec<u8>)) {
        self.is_genuine = false;
        payload.truncate(MAX_PAYLOAD);
        if self.sections.len() < MAX_SECTIONS {
            self.sections.push((tag, payload));
        }
    }

    fn alter(&mut self, act: &Act) {
        match *act {
            Act::Set { section, at, val } => self.overwrite(section, at, &[val]),
            Act::Word { section, at, val } => self.overwrite(section, at, &val.to_le_bytes()),
            Act::Resize { section, len } => {
                if let Some((_, payload)) = self.section(section) {
                    payload.resize(usize::from(len).min(MAX_PAYLOAD), 0);
                }
            }
            Act::Drop { section } => {
                if self.section(section).is_some() {
                    let n = usize::from(section) % self.sections.len();
                    self.sections.remove(n);
                }
            }
            Act::Twice { section } => {
                if let Some(section) = self.section(section).cloned() {
                    self.add(section);
                    // Beside the first.
                    self.sections.sort_by_key(|(tag, _)| *tag as u8);
                }
            }
            Act::Swap { section, other } => {
                if self.section(section).is_some() {
                    let n = self.sections.len();
                    self.sections
                        .swap(usize::from(section) % n, usize::from(other) % n);
                }
            }
            Act::Section { tag, ref payload } => {
                let tag = [Tag::Control, Tag::State, Tag::Held][usize::from(tag % 3)];
                self.add((tag, payload.clone()));
            }
            Act::Frame { q, len } => {
                let mut payload = vec![q; HELD_HEAD];
                payload.resize(HELD_HEAD + usize::from(len), 0x5a);
                self.add((Tag::Held, payload));
            }
            Act::Damage { at, bits } => self.damage.push((at, bits)),
            Act::Cut { bytes } => self.cut += usize::from(bytes),
            Act::Raw { ref bytes } => self.raw = Some(bytes.clone()),
            Act::Read { bytes } => self.reads.push(usize::from(bytes).max(1)),
            Act::Begin { .. } | Act::Pf { .. } | Act::Used => {}
        }
    }

    /// Whether the sections are those of an image, in their order.
    fn is_ordered(&self) -> bool {
        let tags: Vec<u8> = self.sections.iter().map(|(tag, _)| *tag as u8).collect();
        let (control, state) = (Tag::Control as u8, Tag::State as u8);
        tags.is_sorted()
            && tags.first() == Some(&control)
            && tags.iter().filter(|tag| **tag == state).count() == 1
    }

    /// The bytes of it, and whether they are those that were sealed.
    fn seal(&self) -> (Vec<u8>, bool) {
        if let Some(raw) = &self.raw {
            return (raw.clone(), false);
        }
        let (mut encoder, mut buf) = (Encoder::new(&LAYOUT), vec![0; MAX_SECTION_BYTES]);
        let mut bytes = Vec::new();
        let mut add = |part: Result<usize, Full>, buf: &[u8]| {
            bytes.extend_from_slice(&buf[..part.expect("a payload that fits")]);
        };
        add(encoder.header(&mut buf), &buf);
        for (tag, payload) in &self.sections {
            let part = encoder.section(&mut buf, *tag, |w| w.put_bytes(payload));
            add(part, &buf);
        }
        add(encoder.end(&mut buf), &buf);
        let sealed = bytes.clone();
        for (at, bits) in &self.damage {
            let at = usize::from(*at) % bytes.len();
            bytes[at] ^= bits;
        }
        bytes.truncate(bytes.len().saturating_sub(self.cut));
        let is_sealed = bytes == sealed;
        (bytes, is_sealed)
    }
}

/// Runs one input.
pub fn image(data: &[u8]) -> Reached {
    let mut life = Life::new();
    let mut stream = Stream::new(1);
    let mut pf_is_kind = true;
    let mut is_used = false;
    for act in input::acts(data) {
        match act {
            Act::Begin { which } => {
                let reads = std::mem::take(&mut stream.reads);
                stream = Stream::new(which.into());
                stream.reads = reads;
            }
            Act::Pf {
                refuses,
                pins,
                is_silent,
            } => {
                let mut world = life.world.borrow_mut();
                (world.refusing, world.silent) = (refuses, is_silent);
                world.pinned = pins.then_some([2, 0, 0, 0, 0, 9]);
                world.filters.mac = world.pinned;
                pf_is_kind = !(refuses || pins || is_silent);
            }
            Act::Used => is_used = true,
            act => stream.alter(&act),
        }
    }
    life.bench.await_image();
    life.reached.captures += 1;
    if is_used {
        for (tag, payload) in &images()[1].0 {
            let _ = life.bench.load(*tag, payload);
        }
    }
    let is_complete = receive(&mut life, &stream);
    if stream.is_genuine && stream.raw.is_none() && stream.damage.is_empty() && stream.cut == 0 {
        assert!(is_complete || !pf_is_kind, "a good image was refused");
        assert!(
            !is_complete || life.bench.save() == stream.sections,
            "loaded, and saved in another way"
        );
    }
    let replayed = is_complete && replay(&mut life);
    if let Some(memory) = stream.memory {
        life.bench.mem.inner = memory.clone();
    }
    run(&mut life, replayed);
    life.end()
}

/// Gives the stream to the VF, as many bytes at a time as come: whether it was believed to its end.
fn receive(life: &mut Life, stream: &Stream) -> bool {
    let (bytes, is_sealed) = stream.seal();
    let mut decoder = Decoder::new(&LAYOUT);
    let mut have = Vec::new();
    let mut rest = &bytes[..];
    let mut reads = stream.reads.iter().copied().cycle();
    let mut believed = Vec::new();
    let (mut is_refused, mut is_misframed) = (false, false);
    while !is_refused && !is_misframed && !decoder.is_complete() {
        let (consumed, section) = match decoder.step(&have) {
            Ok(Step::NeedMore) => {
                assert!(have.len() < MAX_SECTION_BYTES, "no section is that long");
                let n = reads.next().unwrap_or(usize::MAX).min(rest.len());
                if n == 0 {
                    break;
                }
                let (now, later) = rest.split_at(n.min(MAX_SECTION_BYTES - have.len()));
                have.extend_from_slice(now);
                rest = later;
                continue;
            }
            Ok(Step::Header { consumed }) => (consumed, None),
            Ok(Step::Section {
                tag,
                start,
                end,
                consumed,
            }) => (consumed, Some((tag, have[start..end].to_vec()))),
            Err(_) => {
                is_misframed = true;
                continue;
            }
        };
        assert!((1..=have.len()).contains(&consumed));
        have.drain(..consumed);
        if let Some((tag, payload)) = section.filter(|(tag, _)| *tag != Tag::End) {
            is_refused = !load(life, tag, &payload);
            believed.push((tag, payload));
        }
    }
    let is_complete = decoder.is_complete() && !is_refused;
    if stream.raw.is_none() {
        assert!(
            stream.sections.starts_with(&believed),
            "a section that nobody has sealed"
        );
        assert!(
            is_sealed || !decoder.is_complete(),
            "an image that nobody has sealed"
        );
        assert!(
            !(is_sealed && stream.is_ordered() && is_misframed),
            "a sealed image is misframed"
        );
    }
    is_complete
}

/// A section is taken over, or nothing has changed.
fn load(life: &mut Life, tag: Tag, payload: &[u8]) -> bool {
    let before = life.bench.save();
    let loaded = life.bench.load(tag, payload);
    let after = life.bench.save();
    let Ok(()) = loaded else {
        assert!(
            after == before,
            "{tag:?}: {loaded:?}, and something changed"
        );
        life.reached.refused += 1;
        return false;
    };
    life.reached.accepted += 1;
    if tag == Tag::Held {
        assert_eq!(after.len(), before.len() + 1);
        let is_kept = after.iter().any(|(_, saved)| {
            saved[..1] == payload[..1] && saved.get(HELD_HEAD..) == payload.get(HELD_HEAD..)
        });
        assert!(is_kept, "a held frame has other bytes now");
    }
    // Another one takes over what this one saves, and saves it the same.
    let mut other = Life::new();
    if other.bench.take_over(&after).is_ok() {
        assert!(other.bench.save() == after, "{tag:?}: saved in another way");
    }
    true
}

/// What the image says is asked of the PF: whether it agrees.
fn replay(life: &mut Life) -> bool {
    let (replayed, _) = life.bench.call(|model, io| model.replay_control(io.hw));
    replayed.is_ok()
}

/// The VF goes on from what it was given.
fn run(life: &mut Life, replayed: bool) {
    life.inspect();
    for (head, len, tail) in [(0x2810, 0x2808, 0x2818), (0x2910, 0x2908, 0x2918)] {
        // The guest has room for what is held.
        let slots = life.bench.read32(len) / 16;
        let last = life.bench.read32(head).wrapping_add(slots.wrapping_sub(1));
        life.bench
            .write32(tail, last.checked_rem(slots).unwrap_or(0));
    }
    life.start();
    for budget in [1, 64, 64] {
        life.poll(budget);
        life.transmit();
        for q in 0..2 {
            let frame = vec![0x5a; 60 + usize::from(q == 0) * 3000];
            life.device(|world| world.receive(q, &frame));
        }
    }
    life.stop();
    life.still();
    let Bench { mode, .. } = life.bench;
    assert_eq!(mode, Mode::Stopped);
    life.bench.save();
    if replayed {
        life.release();
    }
    life.reset();
    assert_eq!(life.bench.model.held(), 0);
}
