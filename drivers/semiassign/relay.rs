// SPDX-License-Identifier: GPL-2.0

//! The worker: moves frames while the VF is emulated.
//!
//! All vectors of the VF belong to the guest and may bypass the host, so nothing wakes us when a frame
//! arrives, and the guest's stores to its tails land in RAM without a trap. One timer serves both
//! directions: short while there is traffic, long when there was none for a while.

use crate::vf::Vf;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Relaxed};
use vfio::worker::Turn;
use vfio::Device;

/// Frames each way in one turn: bounds how long anybody waits for the lock of the VF.
const BUDGET: u32 = 64;
/// More is waiting: just let others have the lock.
const SLEEP_MORE_NS: u64 = 1_000;
/// There was traffic a moment ago.
const SLEEP_BUSY_NS: u64 = 50_000;
/// There was none for [`BUSY_TURNS`]: a first frame waits so long.
const SLEEP_IDLE_NS: u64 = 1_000_000;
/// Turns without a frame until the long sleep: 10 ms.
const BUSY_TURNS: u32 = 200;

pub(crate) struct Relay {
    dev: ARef<Device<Vf>>,
    idle_turns: Atomic<u32>,
}

impl Relay {
    pub(crate) fn new(dev: &Device<Vf>) -> Self {
        Self {
            dev: dev.into(),
            idle_turns: Atomic::new(0),
        }
    }
}

impl Turn for Relay {
    fn turn(&self) -> u64 {
        let mut vf = self.dev.data().get_ref().lock(&self.dev);
        let Some(progress) = vf.poll(&self.dev, BUDGET) else {
            return 0;
        };
        vf.settle(&self.dev);
        self.dev.data().get_ref().tell(&vf);
        if progress.more {
            return SLEEP_MORE_NS;
        }
        let idle = if progress.frames > 0 {
            0
        } else {
            self.idle_turns.load(Relaxed).saturating_add(1)
        };
        self.idle_turns.store(idle, Relaxed);
        if idle < BUSY_TURNS {
            SLEEP_BUSY_NS
        } else {
            SLEEP_IDLE_NS
        }
    }
}
