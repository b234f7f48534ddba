// SPDX-License-Identifier: GPL-2.0

//! An igbvf between a guest, a PF and a device that moves frames, all of which are watched.

use std::cell::RefCell;
use std::mem::swap;
use std::rc::Rc;

use conformance::bench::{Bench, Count, Image, Mode};
use igbvf::Igbvf;
use mock_igbvf::vf::{Vf, World, GUEST};
use model::adapter::Stuck;
use model::counters::Counters;
use model::image::Refused;
use model::io::Registers;
use model::mock::Memory;

use crate::rings::Rings;

const ENABLE: u32 = 1 << 25;
/// Heads of all rings, whose lengths are 8 bytes before.
const HEADS: [u32; 4] = [0x2810, 0x2910, 0x3810, 0x3910];

/// What an input got to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    /// Times the VF was captured.
    pub captures: u32,
    /// Times the guest got its hardware back.
    pub releases: u32,
    /// Times another VF took it over.
    pub migrations: u32,
    /// Writes of somebody else while the model looked.
    pub races: u32,
    /// Frames that the model took from the guest.
    pub tx: u64,
    /// Frames that it delivered.
    pub rx: u64,
    /// Frames that it held.
    pub held: u64,
    /// Frames that it dropped, for whatever reason.
    pub dropped: u64,
    /// Rings that were none.
    pub bad_rings: u64,
    /// Resets of the PF that were undone.
    pub repaired: u64,
    /// Frames that the guest had sent, on the wire and right.
    pub sent: u32,
    /// Frames from the wire that the guest has got, and right.
    pub received: u32,
    /// Messages of the guest that its PF answered.
    pub answered: u32,
    /// Sections of images that were believed.
    pub accepted: u32,
    /// Those that were not.
    pub refused: u32,
}

impl Reached {
    fn add(&mut self, counters: &Counters) {
        counters.for_each(|name, n| match name {
            "tx_frames" => self.tx += n,
            "rx_frames" => self.rx += n,
            "held_frames" => self.held += n,
            "bad_rings" => self.bad_rings += n,
            "repaired" => self.repaired += n,
            _ => self.dropped += n,
        });
    }
}

/// One VF.
pub struct Life {
    /// The model, and all that it touches.
    pub bench: Bench,
    /// The VF and its PF. Its memories are lent to it whenever it may move frames.
    pub world: Rc<RefCell<World>>,
    /// What the device was told.
    pub rings: Rings,
    /// What came of it.
    pub reached: Reached,
    /// The most slots that each of the guest's rings has had, at turns.
    longest: [u32; 4],
}

impl Default for Life {
    fn default() -> Self {
        Self::new()
    }
}

impl Life {
    /// A VF that was opened just now.
    pub fn new() -> Self {
        let world = World::new(Memory::new(GUEST, 0));
        world.borrow_mut().stalled = true;
        let (rings, bell) = Rings::new(&world);
        let mut bench = Bench::on(Box::new(Igbvf::new()), Box::new(bell), |_| {});
        bench.mirror.log = Some(Vec::new());
        bench.mem.inner.log = Some(Vec::new());
        Self {
            bench,
            world,
            rings,
            reached: Reached::default(),
            longest: [0; 4],
        }
    }

    /// Whether the model is between the guest and the hardware.
    pub fn is_captured(&self) -> bool {
        self.bench.mode != Mode::Assigned
    }

    /// Whether the VF can migrate.
    pub fn is_migratable(&mut self) -> bool {
        let mut vf = Vf(self.world.clone());
        self.bench.model.check_migratable(&mut vf).is_ok()
    }

    /// Lets the device do `f` with the memories that it can reach now.
    pub fn device<R>(&mut self, f: impl FnOnce(&mut World) -> R) -> R {
        let mut world = self.world.borrow_mut();
        let mut lend = |world: &mut World| {
            swap(&mut world.mirror, &mut self.bench.mirror.inner);
            swap(&mut world.memory, &mut self.bench.mem.inner);
        };
        lend(&mut world);
        world.captured = self.bench.mode != Mode::Assigned;
        world.stalled = false;
        // Only the kernel's accesses find a mapping busy.
        let busy = world.memory.busy_after.take();
        let result = f(&mut world);
        world.memory.busy_after = busy;
        world.stalled = true;
        lend(&mut world);
        let faults = std::mem::take(&mut world.faults);
        assert!(
            faults == 0 || !world.captured || self.rings.spoiled,
            "the device has left the mirror area"
        );
        result
    }

    /// The device sends what it was told to send.
    pub fn transmit(&mut self) {
        self.inspect();
        self.device(|world| {
            world.transmit(0);
            world.transmit(1);
        });
    }

    /// Looks at what the model has told the device.
    pub fn inspect(&mut self) {
        let Bench { mirror, mode, .. } = &mut self.bench;
        let mut log = mirror.log.replace(Vec::new()).unwrap_or_default();
        if *mode == Mode::Assigned {
            self.rings.clear();
        } else {
            let world = self.world.borrow();
            self.rings.judge(&world, &mirror.inner.bytes, &mut log);
        }
    }

    /// Captures the VF.
    pub fn capture(&mut self) {
        if !self.is_captured() {
            self.inspect();
            self.bench.capture();
            self.inspect();
            self.reached.captures += 1;
        }
    }

    /// Starts the mirror.
    pub fn start(&mut self) {
        if self.bench.mode == Mode::Stopped {
            self.bench.start();
            self.inspect();
        }
    }

    /// Stops the mirror.
    pub fn stop(&mut self) {
        if self.bench.mode != Mode::Running {
            return;
        }
        self.bench.stop();
        self.inspect();
        for dctl in [0x2828, 0x2928, 0x3828, 0x3928] {
            let on = *self.world.borrow_mut().reg(dctl) & ENABLE != 0;
            assert!(!on || self.rings.is_lying, "stopped, and {dctl:#x} is on");
        }
    }

    /// Gives the hardware back, if it takes it.
    pub fn release(&mut self) {
        if !self.is_captured() {
            return;
        }
        self.stop();
        let (result, _) = self.bench.call(|model, io| model.hand_back(io.hw, io.page));
        // The guest's own rings.
        self.rings.clear();
        match result {
            Ok(()) => {
                self.bench.mode = Mode::Assigned;
                self.bench.call(|model, io| model.raise_all(io.hw));
                self.reached.releases += 1;
            }
            Err(Stuck) => self.start(),
        }
    }

    /// A reset of the function.
    pub fn reset(&mut self) {
        self.world.borrow_mut().vf_reset();
        self.bench.reset();
        self.inspect();
    }

    /// Heads of the guest's rings, and the slots of each.
    fn heads(&mut self) -> [(u32, u32); 4] {
        HEADS.map(|at| {
            let bytes = self.bench.read32(at - 8);
            let valid = bytes % 128 == 0 && bytes <= 0x8_0000;
            (
                self.bench.read32(at) & 0xffff,
                if valid { bytes / 16 } else { 0 },
            )
        })
    }

    /// Frames move, at most `budget` each way.
    pub fn poll(&mut self, budget: u32) {
        if self.bench.mode != Mode::Running {
            self.still();
            return;
        }
        let races = self.races_left();
        let stores = self.bench.page.meanwhile.left();
        let before = self.heads();
        self.bench.poll(budget);
        self.inspect();
        let heads = before.into_iter().zip(self.heads());
        for (((was, len), (is, now)), longest) in heads.zip(&mut self.longest) {
            *longest = len.max(now).max(*longest);
            // A ring that has changed is still ended as it was begun, and the guest may have changed it in the middle.
            assert!(
                is == was || is < *longest || stores > 0,
                "head {is} in a ring of {len}"
            );
        }
        self.reached.races += (races - self.races_left()) as u32;
    }

    fn races_left(&self) -> usize {
        let Bench {
            mem, page, mirror, ..
        } = &self.bench;
        mem.meanwhile.left() + page.meanwhile.left() + mirror.meanwhile.left()
    }

    /// A model that does not run touches nothing.
    pub fn still(&mut self) {
        let ((), count) = self.bench.call(|model, io| {
            assert_eq!(model.poll(io, 64).frames, 0);
            model.announce(io);
        });
        let Count {
            hw_writes,
            page_writes,
            guest,
            mirror_writes,
            ..
        } = count;
        assert_eq!(
            (hw_writes, page_writes, guest, mirror_writes),
            (0, 0, 0, 0),
            "what is stopped moves"
        );
    }

    /// Stops, and has another VF take over: that is `self` then, stopped. The guest's memory goes along.
    ///
    /// # Errors
    ///
    /// The other one's PF refused; nothing has changed then.
    pub fn migrate(&mut self, prepare: impl FnOnce(&mut World)) -> Result<Image, Refused> {
        self.stop();
        // Its virtual CPUs are stopped by now.
        self.bench.mem.meanwhile.clear();
        self.bench.page.meanwhile.clear();
        let image = self.bench.save();
        let mut other = Self::new();
        prepare(&mut other.world.borrow_mut());
        other.rings.spoiled = self.rings.spoiled;
        other.bench.take_over(&image)?;
        other.inspect();
        if !self.rings.spoiled {
            assert!(
                other.bench.save() == image,
                "saved, and saved in another way"
            );
        }
        swap(&mut other.bench.mem.inner, &mut self.bench.mem.inner);
        other.reached = self.end();
        other.reached.migrations += 1;
        *self = other;
        Ok(image)
    }

    /// What was reached in all.
    pub fn end(&self) -> Reached {
        let mut reached = self.reached;
        reached.add(self.bench.model.counters());
        reached
    }
}
