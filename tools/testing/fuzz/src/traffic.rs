// SPDX-License-Identifier: GPL-2.0

//! A VF under the traffic of a guest whose two queue pairs work, as long as nobody interferes.

use conformance::bench::Mode;
use model::io::Registers;

use crate::driver::{Driver, How};
use crate::life::{Life, Reached};

/// Rounds until all that is under way has to have arrived.
const ROUNDS: u32 = 100;

/// A VF, its guest's drivers, and what they may expect.
pub struct Traffic {
    /// The VF.
    pub life: Life,
    /// Its guest's drivers.
    pub drivers: [Driver; 2],
    /// Guest memory and registers are as the drivers have left them: the model writes where they expect it, and
    /// what is received is what came from the wire.
    pub is_orderly: bool,
    /// Nothing was reset, and no buffer given up: no frame may be missing.
    pub is_lossless: bool,
}

impl Default for Traffic {
    fn default() -> Self {
        Self::new()
    }
}

impl Traffic {
    /// A guest that is known to its PF.
    pub fn new() -> Self {
        let mut new = Self {
            life: Life::new(),
            drivers: [Driver::new(0), Driver::new(1)],
            is_orderly: true,
            is_lossless: true,
        };
        new.handshake();
        for (at, val) in [(0x1700, 0x8081_8081), (0x1740, 0x82), (0x152c, 7)] {
            new.life.bench.write32(at, val);
        }
        new
    }

    /// Resets the VF and makes it known, as a driver does.
    pub fn handshake(&mut self) {
        self.life.bench.write32(0, 1 << 26);
        self.say(&[1]);
        self.say(&[2, 0x0100_5452, 0x0302]);
        for driver in &mut self.drivers {
            driver.forget();
        }
        self.judge();
    }

    /// Says `words` to the PF.
    pub fn say(&mut self, words: &[u32]) {
        let bar = &mut self.life.bench;
        bar.read32(0xc40);
        bar.write32(0xc40, 4);
        for (at, word) in (0x800..).step_by(4).zip(words) {
            bar.write32(at, *word);
        }
        bar.write32(0xc40, 1);
        bar.read32(0xc40);
        bar.write32(0xc40, 2);
    }

    /// The drivers' rings were reset, and what is in them may be lost.
    pub fn forget(&mut self) {
        for driver in &mut self.drivers {
            driver.forget();
        }
        self.is_lossless = false;
    }

    /// Judges what the model has done since the last time.
    pub fn judge(&mut self) {
        self.life.inspect();
        let log = &mut self.life.bench.mem.inner.log;
        for (at, bytes) in log.replace(Vec::new()).unwrap_or_default() {
            let is_done = matches!(bytes[..], [_, _, _, _, _, _, _, _, status, ..] if bytes.len() % 16 == 0 && status & 1 != 0);
            assert!(!is_done || self.life.rings.spoiled, "{at:#x}: DD not last");
            if self.is_orderly && !bytes.is_empty() {
                assert!(
                    self.drivers
                        .iter_mut()
                        .any(|driver| driver.judge(at, &bytes)),
                    "{} bytes at {at:#x}, which is no buffer",
                    bytes.len()
                );
            }
        }
    }

    /// Sets a queue pair up, which may run, as a driver does that waits in between: for a turn, so not while
    /// there is none.
    pub fn set_up(&mut self, q: usize, how: How) {
        if self.life.bench.mode == Mode::Stopped {
            return;
        }
        self.is_lossless &= self.drivers[q].is_done();
        self.drivers[q].down(&mut self.life.bench);
        self.poll(1);
        self.drivers[q].up(&mut self.life.bench, how);
        self.judge();
    }

    /// The guest sends a frame.
    pub fn send(&mut self, q: usize, len: usize, pieces: usize, context: Option<u32>) {
        self.drivers[q].send(&mut self.life.bench, len, pieces, context);
        self.judge();
    }

    /// Whether the device can make sense of its rings: a guest that makes none is its own business.
    fn is_sane(&self) -> bool {
        self.is_orderly || self.life.is_captured()
    }

    /// The device sends what it was told to send.
    pub fn transmit(&mut self) {
        self.judge();
        if !self.is_sane() {
            return;
        }
        self.life.transmit();
        // Not the model's writes.
        self.forget_log();
        loop {
            let frame = self.life.world.borrow_mut().wire.pop_front();
            let Some((frame, _)) = frame else { break };
            let announces = frame.starts_with(&[0xff; 6]);
            if !self.is_orderly || self.life.rings.spoiled || announces {
                continue;
            }
            let q = usize::from(frame[0] / 2);
            let driver = self.drivers.get_mut(q);
            assert!(
                driver.is_some_and(|driver| driver.is_next(&frame)),
                "a frame of {} bytes that nobody sent, or not now",
                frame.len()
            );
            self.life.reached.sent += 1;
        }
    }

    /// A frame comes from the wire.
    pub fn inject(&mut self, q: usize, len: usize) {
        self.judge();
        if !self.is_sane() {
            return;
        }
        let frame = self.drivers[q].from_wire(len);
        if self.life.device(|world| world.receive(q as u32, &frame)) {
            self.drivers[q].injected.push_back(frame);
        }
        self.forget_log();
    }

    fn forget_log(&mut self) {
        self.life.bench.mem.inner.log = Some(Vec::new());
    }

    /// The guest looks at its rings.
    pub fn clean(&mut self, q: usize) {
        let driver = &mut self.drivers[q];
        driver.clean(&mut self.life.bench);
        let frames = driver.receive(&mut self.life.bench);
        if self.is_orderly && !self.life.rings.spoiled {
            assert!(
                driver.are_expected(&frames),
                "received what did not come from the wire, or not now"
            );
            self.life.reached.received += frames.len() as u32;
        }
        self.judge();
    }

    /// Starts to count the bytes of frames that the guest gets in a turn: those of the turn before.
    pub fn take_delivered_bytes(&mut self) -> u64 {
        let drivers = self.drivers.iter_mut();
        drivers.map(Driver::take_delivered_bytes).sum()
    }

    /// A turn of the model.
    pub fn poll(&mut self, budget: u32) {
        self.life.poll(budget);
        self.judge();
    }

    /// Captures the VF.
    pub fn capture(&mut self) {
        if !self.life.is_captured() {
            self.transmit();
            self.life.capture();
            self.judge();
        }
    }

    /// Gives the hardware back.
    pub fn release(&mut self) {
        // Held frames are dropped.
        self.is_lossless &= !self.life.is_captured();
        self.life.release();
        self.judge();
    }

    /// Stops, and starts again.
    pub fn restart(&mut self) {
        // The device sends while the model waits for it.
        self.transmit();
        self.life.stop();
        self.judge();
        self.life.start();
        self.judge();
    }

    /// Another VF takes over.
    pub fn migrate(&mut self) {
        if self.life.is_captured() {
            self.transmit();
            self.life.stop();
            self.judge();
            let migrated = self.life.migrate(|_| {});
            assert!(migrated.is_ok(), "a PF that refuses: {migrated:?}");
            self.life.start();
            self.judge();
        }
    }

    /// Lets all that is under way arrive, and looks for what is missing.
    pub fn finish(&mut self) -> Reached {
        let bench = &mut self.life.bench;
        for meanwhile in [
            &mut bench.mem.meanwhile,
            &mut bench.page.meanwhile,
            &mut bench.mirror.meanwhile,
        ] {
            meanwhile.clear();
        }
        bench.mem.inner.busy_after = None;
        bench.mem.inner.holes.clear();
        for driver in &mut self.drivers {
            driver.make_room(&mut self.life.bench);
        }
        self.life.start();
        for round in 0..ROUNDS {
            self.poll(64);
            self.transmit();
            let before = self.life.end();
            for q in 0..2 {
                self.clean(q);
            }
            let now = self.life.end();
            if round > 2 && (before.received, before.sent) == (now.received, now.sent) {
                break;
            }
        }
        let reached = self.life.end();
        if self.is_orderly && self.is_lossless && !self.life.rings.spoiled && reached.dropped == 0 {
            for driver in &self.drivers {
                assert!(driver.is_done(), "a frame has not arrived");
            }
        }
        reached
    }
}
