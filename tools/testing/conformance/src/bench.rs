// SPDX-License-Identifier: GPL-2.0

//! The model between a guest, a device and memory, driven as the kernel drives it and watched at every access.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use model::adapter::{Adapter, Io, Layout, Stuck, MAX_BURST};
use model::image::{Reader, Refused, Tag, Writer, MAX_SECTION_BYTES};
use model::io::{Area, Fault, GuestMemory, Hardware, Iova, Registers};
use model::mock::{Memory, Mirror, Page, Random};

use crate::meanwhile::Meanwhile;
use crate::{Subject, GUEST, GUEST_BYTES, MIRROR};

/// Most accesses in one call of the model: far more than any needs.
const MAX_ACCESSES: u64 = 1 << 18;
/// Most microseconds that one call may wait.
const MAX_PAUSE_US: u64 = 2_000_000;
/// Pieces of the mirror area that are remembered, in the order they were written.
const MAX_PIECES: usize = 4096;

/// What the model did in the current call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Accesses of all kinds.
    pub accesses: u64,
    /// Microseconds of pauses.
    pub pause_us: u64,
    /// Writes to the hardware.
    pub hw_writes: u64,
    /// Writes to the substituted pages.
    pub page_writes: u64,
    /// Accesses to guest memory.
    pub guest: u64,
    /// Writes to the mirror area.
    pub mirror_writes: u64,
}

/// Counts, and ends what has no end.
#[derive(Clone, Debug, Default)]
struct Meter(Rc<Cell<Count>>);

impl Meter {
    fn add(&self, f: impl FnOnce(&mut Count)) {
        let mut count = self.0.get();
        count.accesses += 1;
        f(&mut count);
        self.0.set(count);
        assert!(count.accesses <= MAX_ACCESSES, "a call goes on and on");
        assert!(count.pause_us <= MAX_PAUSE_US, "a call waits and waits");
    }
}

/// What the real VF answers.
#[derive(Clone, Debug)]
pub enum Mind {
    /// What it is meant to.
    Sane,
    /// Random numbers.
    Random(Random),
    /// The same number to everything.
    Constant(u32),
}

/// The real VF.
pub struct Device {
    inner: Box<dyn Hardware>,
    /// What reads give.
    pub mind: Mind,
    meter: Meter,
}

impl Registers for Device {
    fn read32(&mut self, at: u32) -> u32 {
        self.meter.add(|_| {});
        match &mut self.mind {
            Mind::Sane => self.inner.read32(at),
            Mind::Random(random) => random.next(),
            Mind::Constant(val) => *val,
        }
    }

    fn write32(&mut self, at: u32, val: u32) {
        self.meter.add(|count| count.hw_writes += 1);
        self.inner.write32(at, val);
    }
}

impl Hardware for Device {
    fn pause(&mut self, us: u32) {
        self.meter.add(|count| count.pause_us += u64::from(us));
        self.inner.pause(us);
    }
}

/// The RAM behind the substituted pages.
pub struct Ram {
    inner: Page,
    /// What the guest stores there while the model looks.
    pub meanwhile: Meanwhile,
    meter: Meter,
}

impl Ram {
    fn change(&mut self) {
        self.meanwhile
            .access(|at, val| self.inner.write32(at as u32, val as u32));
    }
}

impl Registers for Ram {
    fn read32(&mut self, at: u32) -> u32 {
        self.meter.add(|_| {});
        self.change();
        self.inner.read32(at)
    }

    fn write32(&mut self, at: u32, val: u32) {
        self.meter.add(|count| count.page_writes += 1);
        self.change();
        self.inner.write32(at, val);
    }
}

/// The guest's memory.
pub struct Guest {
    /// As it is.
    pub inner: Memory,
    /// What the guest writes there while the model looks.
    pub meanwhile: Meanwhile,
    meter: Meter,
}

impl Guest {
    fn change(&mut self) {
        self.meanwhile
            .access(|at, val| self.inner.set(at, &val.to_le_bytes()));
    }
}

impl GuestMemory for Guest {
    fn read(&mut self, at: Iova, buf: &mut [u8]) -> Result<(), Fault> {
        self.meter.add(|count| count.guest += 1);
        self.change();
        self.inner.read(at, buf)
    }

    fn write(&mut self, at: Iova, buf: &[u8]) -> Result<(), Fault> {
        self.meter.add(|count| count.guest += 1);
        self.change();
        self.inner.write(at, buf)
    }
}

/// The mirror area.
pub struct Shared {
    /// As it is.
    pub inner: Mirror,
    /// Where the model wrote what may be descriptors, since the last start.
    pub pieces: Vec<usize>,
    /// Every write of the model, in order.
    pub log: Option<Vec<Range<usize>>>,
    /// What the device or a peer writes there while the model looks.
    pub meanwhile: Meanwhile,
    meter: Meter,
}

impl Shared {
    fn change(&mut self) {
        self.meanwhile
            .access(|at, val| self.inner.write(at as usize, &val.to_le_bytes()));
    }
}

impl Area for Shared {
    fn iova(&self) -> Iova {
        self.inner.iova()
    }

    fn len(&self) -> usize {
        self.inner.len()
    }

    fn read(&mut self, at: usize, buf: &mut [u8]) {
        self.meter.add(|_| {});
        self.change();
        self.inner.read(at, buf);
    }

    fn write(&mut self, at: usize, buf: &[u8]) {
        self.meter.add(|count| count.mirror_writes += 1);
        assert!(
            at.checked_add(buf.len())
                .is_some_and(|end| end <= self.inner.len()),
            "{at:#x} is outside of the mirror area"
        );
        if buf.len() <= 16 && self.pieces.len() < MAX_PIECES {
            self.pieces.push(at);
        }
        if let Some(log) = &mut self.log {
            log.push(at..at + buf.len());
        }
        self.change();
        self.inner.write(at, buf);
    }
}

/// Where the VF is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The guest has the hardware.
    Assigned,
    /// Captured, and frames move.
    Running,
    /// Captured, and nothing moves.
    Stopped,
}

/// The sections of an image, without their frame.
pub type Image = Vec<(Tag, Vec<u8>)>;

/// One VF.
pub struct Bench {
    /// The model under test.
    pub model: Box<dyn Adapter>,
    /// Its fixed facts.
    pub layout: &'static Layout,
    /// The real VF.
    pub hw: Device,
    /// RAM behind the substituted pages.
    pub page: Ram,
    /// Guest memory.
    pub mem: Guest,
    /// The mirror area.
    pub mirror: Shared,
    /// Where in its life it is.
    pub mode: Mode,
    /// What the guest does to begin with, and may do again.
    pub set_up: fn(&mut Bench),
    meter: Meter,
}

impl Bench {
    /// A VF that was opened just now.
    pub fn new(subject: &Subject) -> Self {
        let model = (subject.new)();
        let hardware = (subject.hardware)(model.layout());
        Self::on(model, hardware, subject.set_up)
    }

    /// A VF with this hardware, that was opened just now.
    pub fn on(
        mut model: Box<dyn Adapter>,
        hardware: Box<dyn Hardware>,
        set_up: fn(&mut Bench),
    ) -> Self {
        let layout = model.layout();
        let meter = Meter::default();
        let mut hw = Device {
            inner: hardware,
            mind: Mind::Sane,
            meter: meter.clone(),
        };
        model.reset(&mut hw, None);
        let (start, end) = layout.substituted;
        Self {
            model,
            layout,
            hw,
            page: Ram {
                inner: Page::new(start, end),
                meanwhile: Meanwhile::default(),
                meter: meter.clone(),
            },
            mem: Guest {
                inner: Memory::new(GUEST, GUEST_BYTES),
                meanwhile: Meanwhile::default(),
                meter: meter.clone(),
            },
            mirror: Shared {
                inner: Mirror::new(MIRROR, layout.mirror_bytes),
                pieces: Vec::new(),
                log: None,
                meanwhile: Meanwhile::default(),
                meter: meter.clone(),
            },
            mode: Mode::Assigned,
            set_up,
            meter,
        }
    }

    /// A VF whose guest has set it up, with descriptors and payload by `seed`, and that was captured.
    pub fn captured(subject: &Subject, seed: u64) -> Self {
        let mut new = Self::new(subject);
        new.fill_memory(&mut Random(seed | 1));
        (subject.set_up)(&mut new);
        new.capture();
        new
    }

    /// Runs `f`: what it returns, and what the model did.
    pub fn call<R>(&mut self, f: impl FnOnce(&mut dyn Adapter, &mut Io<'_>) -> R) -> (R, Count) {
        self.meter.0.set(Count::default());
        let mut io = Io {
            hw: &mut self.hw,
            page: &mut self.page,
            mem: &mut self.mem,
            mirror: &mut self.mirror,
        };
        let result = f(self.model.as_mut(), &mut io);
        (result, self.meter.0.take())
    }

    /// Descriptors, most of which point into memory, and payload that looks the same.
    fn fill_memory(&mut self, random: &mut Random) {
        for at in (GUEST..).step_by(16).take(GUEST_BYTES / 16) {
            let mut words = [random.next(), random.next(), random.next(), random.next()];
            let places = random.next();
            for n in [0, 2] {
                if places >> n & 3 != 0 {
                    words[n] %= GUEST_BYTES as u32;
                    words[n + 1] = (GUEST >> 32) as u32;
                }
            }
            if places & 0x10 != 0 {
                // A length, and whatever commands are above it.
                words[2] = words[2] & 0xffff_0000 | random.below(2048);
            }
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.mem.inner.set(at, &bytes);
        }
    }

    /// Locks the guest out of the hardware and starts the mirror.
    pub fn capture(&mut self) {
        self.call(|model, io| model.snapshot(io.hw, io.page));
        let (result, _) = self.call(|model, io| model.quiesce(io.hw, io.page));
        self.mode = Mode::Stopped;
        self.unless_stuck(result);
        self.start();
    }

    /// Starts the mirror.
    pub fn start(&mut self) {
        self.mirror.pieces.clear();
        self.call(|model, io| model.start(io));
        self.mode = Mode::Running;
    }

    /// Stops the mirror.
    pub fn stop(&mut self) {
        if self.mode == Mode::Running {
            let (result, _) = self.call(|model, io| model.stop(io));
            self.mode = Mode::Stopped;
            self.unless_stuck(result);
        }
    }

    /// Gives the hardware back to the guest, if it takes it.
    pub fn release(&mut self) {
        self.stop();
        match self.call(|model, io| model.hand_back(io.hw, io.page)).0 {
            Ok(()) => {
                self.mode = Mode::Assigned;
                self.call(|model, io| model.raise_all(io.hw));
            }
            Err(Stuck) => self.start(),
        }
    }

    /// Resets the function.
    pub fn reset(&mut self) {
        if self.mode == Mode::Assigned {
            self.call(|model, io| model.reset(io.hw, None));
        } else {
            self.call(|model, io| model.reset(io.hw, Some(io.page)));
        }
    }

    /// What the kernel does about hardware that does not stop.
    fn unless_stuck(&mut self, result: Result<(), Stuck>) {
        if result.is_err() {
            self.hw.mind = Mind::Sane;
            self.reset();
            // A reset stops every queue, and the model has to know of it.
            let _ = self.call(|model, io| model.queues_off(io.hw));
        }
    }

    /// Frames move, at most `budget` each way, but for the end of a burst.
    pub fn poll(&mut self, budget: u32) {
        let (progress, _) = self.call(|model, io| model.poll(io, budget));
        let most = 2 * u64::from(budget) + u64::from(MAX_BURST) - 1;
        assert!(
            u64::from(progress.frames) <= most,
            "{} frames with a budget of {budget} each way",
            progress.frames
        );
    }

    /// What travels, of a device that is stopped.
    pub fn save(&mut self) -> Image {
        assert_eq!(self.mode, Mode::Stopped);
        let mut buf = vec![0; MAX_SECTION_BYTES];
        let mut image = Image::new();
        let mut add = |tag, result: Result<usize, _>, buf: &[u8]| {
            let len = result.unwrap_or_else(|full| panic!("{tag:?}: {full:?}"));
            image.push((tag, buf[..len].to_vec()));
        };
        let (len, _) = self.call(|model, _| {
            let mut w = Writer::new(&mut buf);
            model.save_control(&mut w).map(|()| w.written())
        });
        add(Tag::Control, len, &buf);
        let (len, _) = self.call(|model, io| {
            let mut w = Writer::new(&mut buf);
            model
                .save_state(io.hw, io.page, &mut w)
                .map(|()| w.written())
        });
        add(Tag::State, len, &buf);
        for index in 0..self.model.held() {
            let (len, _) = self.call(|model, io| {
                let mut w = Writer::new(&mut buf);
                model
                    .save_held(index, io.mirror, &mut w)
                    .map(|()| w.written())
            });
            // The device can reach what is held: what it has spoiled cannot be saved.
            if len.is_ok() {
                add(Tag::Held, len, &buf);
            }
        }
        image
    }

    /// Takes one section over.
    ///
    /// # Errors
    ///
    /// The reason why the model refused.
    pub fn load(&mut self, tag: Tag, payload: &[u8]) -> Result<(), Refused> {
        let (result, _) = self.call(|model, io| {
            let mut r = Reader::new(payload);
            match tag {
                Tag::Control => model.load_control(&mut r, io.hw),
                Tag::State => model.load_state(&mut r, io.hw, io.page),
                Tag::Held => model.load_held(&mut r, io.mirror),
                Tag::End => Ok(()),
            }
        });
        result
    }

    /// Another VF that took `image` over: captured and stopped.
    ///
    /// # Errors
    ///
    /// The reason why its PF refused; the model itself may not.
    pub fn restored(subject: &Subject, image: &Image) -> Result<Self, Refused> {
        let mut new = Self::new(subject);
        new.take_over(image)?;
        Ok(new)
    }

    /// Takes `image` over, on a VF that is new.
    ///
    /// # Errors
    ///
    /// As [`Bench::restored`].
    pub fn take_over(&mut self, image: &Image) -> Result<(), Refused> {
        self.await_image();
        for (tag, payload) in image {
            match (tag, self.load(*tag, payload)) {
                (_, Ok(())) => {}
                (Tag::Control, Err(why)) => return Err(why),
                (_, Err(why)) => panic!("{tag:?} was saved, and is refused: {why:?}"),
            }
        }
        self.call(|model, io| model.replay_control(io.hw)).0?;
        self.call(|model, io| model.listen(io.hw, io.page, io.mirror));
        Ok(())
    }

    /// Captures a VF that is new, for an image.
    pub fn await_image(&mut self) {
        self.call(|model, io| model.snapshot(io.hw, io.page));
        let (off, _) = self.call(|model, io| model.quiesce(io.hw, io.page));
        assert_eq!(off, Ok(()), "a new VF that does not stop");
        self.mode = Mode::Stopped;
    }

    /// The pages of guest memory that differ from those of `before`.
    pub fn changed_pages(&self, before: &Memory) -> BTreeSet<u64> {
        let page = 1usize << 12;
        (GUEST..GUEST + GUEST_BYTES as u64)
            .step_by(page)
            .filter(|at| self.mem.inner.get(*at, page) != before.get(*at, page))
            .map(|at| at >> 12)
            .collect()
    }
}

/// BAR 0 as the guest sees it.
impl Registers for Bench {
    fn read32(&mut self, at: u32) -> u32 {
        let inside = |(start, end): (u32, u32)| (start..end).contains(&at);
        let assigned = self.mode == Mode::Assigned;
        if inside(self.layout.trapped) && assigned {
            self.call(|model, io| model.read(at, io.hw, None)).0
        } else if inside(self.layout.trapped) {
            self.call(|model, io| model.read(at, io.hw, Some(io.page)))
                .0
        } else if inside(self.layout.substituted) && !assigned {
            self.page.inner.read32(at)
        } else {
            self.hw.inner.read32(at)
        }
    }

    fn write32(&mut self, at: u32, val: u32) {
        let inside = |(start, end): (u32, u32)| (start..end).contains(&at);
        let assigned = self.mode == Mode::Assigned;
        if inside(self.layout.trapped) && assigned {
            self.call(|model, io| model.write(at, val, io.hw, None));
        } else if inside(self.layout.trapped) {
            self.call(|model, io| model.write(at, val, io.hw, Some(io.page)));
        } else if inside(self.layout.substituted) && !assigned {
            self.page.inner.write32(at, val);
        } else {
            self.hw.inner.write32(at, val);
        }
    }
}
