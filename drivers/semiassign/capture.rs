// SPDX-License-Identifier: GPL-2.0

//! Capture and release.
//!
//! The order of every step matters: never is a domain attached while a queue that belongs to the other one
//! may be enabled, and never does the guest reach a register that is being moved.

use crate::lend::{Guest, LockedVf, Mirror, RamPages, RealVf};
use crate::relay::Relay;
use crate::session::Session;
use crate::status::elapsed_ns;
use crate::vf::{Inner, Vf};
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::Instant;
use model::adapter::{Io, Progress, Stuck};
use vfio::iommu::{AttachError, Private};
use vfio::memory::Pages;
use vfio::migration::State;
use vfio::worker::Worker;
use vfio::Device;

/// Who serves the guest's rings.
pub(crate) enum Mode {
    /// The hardware.
    Assigned,
    /// We do.
    Emulated(Emulated),
    /// Nobody: no domain could be attached, or the hardware does not stop. The VF was reset and may not master the
    /// bus; what it could reach of ours is kept until it is closed. The migration state is ERROR.
    Dead(Option<Emulated>),
}

impl Mode {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Emulated(_) => "emulated",
            Self::Dead(_) => "dead",
        }
    }
}

/// What only a captured VF has.
pub(crate) struct Emulated {
    pub(crate) private: Private<Vf>,
    pub(crate) pages: Arc<Pages<Vf>>,
    pub(crate) motion: Motion,
}

/// What the mirror rings do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Motion {
    /// Nothing.
    Still,
    /// They receive, and the guest sees nothing of it.
    Listening,
    /// They move frames both ways.
    Running,
}

impl Inner {
    /// Why the VF cannot be captured, if so. Its registers can be reached afterwards, unless it is dead.
    pub(crate) fn refusal(&self, dev: &Device<Vf>) -> Option<&'static str> {
        let vf = dev.data().get_ref();
        if !matches!(self.mode, Mode::Dead(_)) {
            // Whatever the guest has done to its command register.
            dev.decode_memory();
        }
        let possible = match self.mode {
            Mode::Dead(_) => Err("the VF is dead until it is closed"),
            _ if vf.trapped_page_is_mapped() => Err("its control page was mapped by the user"),
            Mode::Emulated(_) => Ok(()),
            Mode::Assigned => Private::check(dev),
        };
        let possible = possible.and_then(|()| match &self.mode {
            Mode::Emulated(e) => self.adapter.check_migratable(&mut RamPages(&e.pages)),
            _ => self.adapter.check_migratable(&mut RealVf(dev)),
        });
        possible.err()
    }

    /// Whether the VF can be captured.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`; the reason was logged.
    pub(crate) fn check_capture(&self, dev: &Device<Vf>) -> Result {
        match self.refusal(dev) {
            None => Ok(()),
            Some(reason) => {
                dev_warn_ratelimited!(dev, "semiassign: cannot migrate: {}\n", reason);
                Err(EOPNOTSUPP)
            }
        }
    }

    /// Assigned → emulated. Frames move at once if `run`.
    ///
    /// # Errors
    ///
    /// The VF is assigned as before, or dead.
    pub(crate) fn capture(&mut self, dev: &Device<Vf>, run: bool) -> Result {
        match self.mode {
            Mode::Emulated(_) => return Ok(()),
            Mode::Dead(_) => return Err(EIO),
            Mode::Assigned => (),
        }
        let since = Instant::now();
        // All that can fail for want of memory fails before the guest notices anything.
        let (private, pages) = self.allocate(dev).inspect_err(|e| {
            dev_warn_ratelimited!(dev, "semiassign: cannot capture: {:?}\n", e);
        })?;
        dev.decode_memory();
        dev.data().get_ref().look_for_master(dev);
        self.take_over(dev, private, pages)?;
        if run {
            self.run(dev);
        }
        self.stats.captures += 1;
        self.stats.capture_ns = elapsed_ns(since);
        self.stats.captured_at_ns = self.stats.now_ns();
        dev_info_ratelimited!(
            dev,
            "semiassign: captured in {} us\n",
            self.stats.capture_ns / 1000
        );
        Ok(())
    }

    fn allocate(&mut self, dev: &Device<Vf>) -> Result<(Private<Vf>, Arc<Pages<Vf>>)> {
        let layout = dev.data().get_ref().layout();
        let private = Private::new(dev, layout.mirror_bytes)?;
        let (start, end) = layout.substituted;
        let pages = Arc::new(Pages::new(dev, start.into(), end.into())?, GFP_KERNEL)?;
        if self.worker.is_none() {
            self.worker = Some(Worker::new(c"semiassign", Relay::new(dev))?);
        }
        Ok((private, pages))
    }

    /// Moves the guest's ring registers to RAM, stops the hardware and swaps the domain.
    fn take_over(
        &mut self,
        dev: &Device<Vf>,
        mut private: Private<Vf>,
        pages: Arc<Pages<Vf>>,
    ) -> Result {
        let (start, end) = dev.data().get_ref().layout().substituted;
        {
            let memory = dev.memory();
            let mut shown = dev.data().get_ref().shown.lock();
            if dev.data().get_ref().trapped_page_is_mapped() {
                // Since it was checked; from here on it cannot be mapped any more.
                return Err(EBUSY);
            }
            dev.zap(start.into(), end.into());
            self.adapter
                .snapshot(&mut LockedVf(&memory), &mut RamPages(&pages));
            *shown = Some(pages.clone());
        }
        // The guest writes to RAM now; the hardware still works off what it was told before.
        if self
            .adapter
            .quiesce(&mut RealVf(dev), &mut RamPages(&pages))
            .is_err()
        {
            let parts = Emulated {
                private,
                pages,
                motion: Motion::Still,
            };
            return Err(self.force_off(dev, "a queue does not stop", Some(parts)));
        }
        match private.attach() {
            Ok(()) => {
                self.mode = Mode::Emulated(Emulated {
                    private,
                    pages,
                    motion: Motion::Still,
                });
                Ok(())
            }
            Err(AttachError::Undone(e)) => {
                dev_warn_ratelimited!(
                    dev,
                    "semiassign: cannot capture: no private domain: {:?}\n",
                    e
                );
                if self.show_hardware(dev, &pages).is_err() {
                    let parts = Emulated {
                        private,
                        pages,
                        motion: Motion::Still,
                    };
                    return Err(self.force_off(
                        dev,
                        "it does not take its rings back",
                        Some(parts),
                    ));
                }
                self.adapter.raise_all(&mut RealVf(dev));
                Err(e)
            }
            Err(AttachError::Blocked(_)) => {
                let parts = Emulated {
                    private,
                    pages,
                    motion: Motion::Still,
                };
                Err(self.force_off(dev, "no IOMMU domain can be attached", Some(parts)))
            }
        }
    }

    /// Gives the guest's rings back to the hardware and shows it its pages; the user's domain is attached.
    fn show_hardware(&mut self, dev: &Device<Vf>, pages: &Pages<Vf>) -> Result<(), Stuck> {
        let (start, end) = dev.data().get_ref().layout().substituted;
        let memory = dev.memory();
        let mut shown = dev.data().get_ref().shown.lock();
        // From here the guest waits in its fault, so that no store to a tail is lost.
        dev.zap(start.into(), end.into());
        if dev.data().get_ref().was_reset() {
            // Since we have the lock of the VF. What the rings were before must not come back; the rest is done by whoever
            // has the lock next.
            self.adapter
                .reset(&mut LockedVf(&memory), Some(&mut RamPages(pages)));
        }
        self.adapter
            .hand_back(&mut LockedVf(&memory), &mut RamPages(pages))?;
        *shown = None;
        Ok(())
    }

    /// Emulated → assigned.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: the VF is still emulated. `EIO`: it is dead.
    pub(crate) fn release(&mut self, dev: &Device<Vf>) -> Result {
        if !matches!(self.mode, Mode::Emulated(_)) {
            return Ok(());
        }
        let since = Instant::now();
        if self.is_tracking() {
            self.stats.direct_while_tracking += 1;
        }
        self.halt(dev)?;
        // The hardware could not deliver what the guest has no room for, nor end what was begun.
        if self.has_held_frames() || !self.adapter.may_hand_back() {
            self.run(dev);
            return Err(EAGAIN);
        }
        let Mode::Emulated(mut emulated) = core::mem::replace(&mut self.mode, Mode::Dead(None))
        else {
            return Ok(());
        };
        if self.adapter.queues_off(&mut RealVf(dev)).is_err() {
            return Err(self.force_off(dev, "a queue does not stop", Some(emulated)));
        }
        if emulated.private.detach().is_err() {
            return Err(self.force_off(
                dev,
                "the domain of its user cannot be attached",
                Some(emulated),
            ));
        }
        if self.show_hardware(dev, &emulated.pages).is_err() {
            // The hardware refuses a head: serve the guest on, until it sets its rings up anew.
            let off = self.adapter.queues_off(&mut RealVf(dev));
            if off.is_err() || emulated.private.attach().is_err() {
                return Err(self.force_off(dev, "no IOMMU domain can be attached", Some(emulated)));
            }
            self.mode = Mode::Emulated(emulated);
            self.run(dev);
            self.release_refused = true;
            dev_info_ratelimited!(
                dev,
                "semiassign: the hardware does not take the rings back: emulated until they are set up anew\n"
            );
            return Err(EAGAIN);
        }
        self.mode = Mode::Assigned;
        drop(emulated);
        self.adapter.raise_all(&mut RealVf(dev));
        self.stats.releases += 1;
        self.stats.release_ns = elapsed_ns(since);
        self.stats.released_at_ns = self.stats.now_ns();
        dev_info_ratelimited!(
            dev,
            "semiassign: released in {} us\n",
            self.stats.release_ns / 1000
        );
        Ok(())
    }

    /// Releases the VF if it runs and nobody can be tracking; otherwise, or if that is not possible now,
    /// the worker tries again.
    pub(crate) fn settle(&mut self, dev: &Device<Vf>) {
        let emulated = matches!(&self.mode, Mode::Emulated(e) if e.motion == Motion::Running);
        if !emulated || self.state != State::Running || self.is_tracking() {
            return;
        }
        if self.release_refused {
            let Mode::Emulated(e) = &self.mode else {
                return;
            };
            if self.adapter.is_active(&mut RamPages(&e.pages)) {
                return;
            }
            self.release_refused = false;
        }
        // Known before anything is stopped for it.
        if !self.adapter.may_hand_back() {
            return;
        }
        self.release_tries = self.release_tries.saturating_add(1);
        if self.has_held_frames() {
            return;
        }
        match self.release(dev) {
            Ok(()) => self.release_tries = 0,
            Err(e) => dev_dbg!(dev.as_dev(), "semiassign: not released: {:?}\n", e),
        }
    }

    /// Whether frames wait for the guest to post buffers, and not so long that they are dropped.
    fn has_held_frames(&self) -> bool {
        self.adapter.held() > 0 && self.release_tries < HELD_TRIES
    }

    /// Lends everything to `f`, if the VF is captured.
    pub(crate) fn with_io<R>(
        &mut self,
        dev: &Device<Vf>,
        f: impl FnOnce(&mut dyn model::adapter::Adapter, &mut Io<'_>) -> R,
    ) -> Option<R> {
        let Self {
            adapter,
            mode,
            log,
            stats,
            ..
        } = self;
        let Mode::Emulated(emulated) = mode else {
            return None;
        };
        let area = emulated.private.area()?;
        let mut io = Io {
            hw: &mut RealVf(dev),
            page: &mut RamPages(&emulated.pages),
            mem: &mut Guest {
                dev,
                area,
                log: log.as_mut(),
                pages_written: &mut stats.dirty_pages,
            },
            mirror: &mut Mirror(area),
        };
        Some(f(&mut **adapter, &mut io))
    }

    /// Starts the mirror rings.
    pub(crate) fn run(&mut self, dev: &Device<Vf>) {
        if matches!(&self.mode, Mode::Emulated(e) if e.motion != Motion::Running) {
            dev.decode_memory();
            self.with_io(dev, |adapter, io| adapter.start(io));
            if let Mode::Emulated(e) = &mut self.mode {
                e.motion = Motion::Running;
            }
            self.stats.started_at_ns = self.stats.now_ns();
            if let Some(worker) = &self.worker {
                worker.wake();
            }
        }
    }

    /// Stops all that the guest could see; what is received stays with us.
    ///
    /// # Errors
    ///
    /// `EIO`: the hardware does not stop, the VF is dead.
    pub(crate) fn pause(&mut self, dev: &Device<Vf>) -> Result {
        if !matches!(&self.mode, Mode::Emulated(e) if e.motion == Motion::Running) {
            return Ok(());
        }
        dev.decode_memory();
        let paused = self.with_io(dev, |adapter, io| adapter.pause(io));
        self.slow_down(dev, paused, Motion::Listening)
    }

    /// Stops the mirror rings: afterwards nothing moves.
    ///
    /// # Errors
    ///
    /// `EIO`: the hardware does not stop, the VF is dead.
    pub(crate) fn halt(&mut self, dev: &Device<Vf>) -> Result {
        if !matches!(&self.mode, Mode::Emulated(e) if e.motion != Motion::Still) {
            return Ok(());
        }
        dev.decode_memory();
        let stopped = self.with_io(dev, |adapter, io| adapter.stop(io));
        self.slow_down(dev, stopped, Motion::Still)
    }

    fn slow_down(
        &mut self,
        dev: &Device<Vf>,
        done: Option<Result<(), Stuck>>,
        to: Motion,
    ) -> Result {
        if let Mode::Emulated(e) = &mut self.mode {
            e.motion = to;
        }
        match done {
            Some(Err(Stuck)) => {
                let parts = match core::mem::replace(&mut self.mode, Mode::Dead(None)) {
                    Mode::Emulated(e) => Some(e),
                    _ => None,
                };
                Err(self.force_off(dev, "a queue does not stop", parts))
            }
            _ => Ok(()),
        }
    }

    /// One turn of the worker; `None` if there is nothing to do until it is woken.
    pub(crate) fn poll(&mut self, dev: &Device<Vf>, budget: u32) -> Option<Progress> {
        if matches!(&self.mode, Mode::Emulated(e) if e.motion == Motion::Running) {
            self.with_io(dev, |adapter, io| adapter.poll(io, budget))
        } else {
            None
        }
    }

    /// The last resort: no bus mastering, reset, dead until closed. What the device may still reach stays
    /// allocated and attached, and the guest's stores go to RAM.
    fn force_off(&mut self, dev: &Device<Vf>, reason: &str, parts: Option<Emulated>) -> Error {
        dev_err!(
            dev.as_dev(),
            "semiassign: {}: resetting the VF, it is dead until closed\n",
            reason
        );
        dev.clear_master();
        let _ = dev.flr();
        self.mode = Mode::Dead(parts);
        self.state = State::Error;
        self.session = Session::None;
        EIO
    }

    /// The user is gone: everything back as it was at open, nothing of the guest's is kept.
    pub(crate) fn abandon(&mut self, dev: &Device<Vf>) {
        let (start, end) = dev.data().get_ref().layout().substituted;
        {
            let mut shown = dev.data().get_ref().shown.lock();
            *shown = None;
            dev.zap(start.into(), end.into());
        }
        let off = self.adapter.queues_off(&mut RealVf(dev));
        dev.clear_master();
        if off.is_err() {
            let _ = dev.flr();
        }
        let parts = match core::mem::replace(&mut self.mode, Mode::Assigned) {
            Mode::Emulated(parts) | Mode::Dead(Some(parts)) => Some(parts),
            Mode::Assigned | Mode::Dead(None) => None,
        };
        if let Some(mut parts) = parts {
            if parts.private.detach().is_err() {
                dev_err!(
                    dev.as_dev(),
                    "semiassign: the domain of its user cannot be attached: blocked\n"
                );
                // Reset before the mirror is freed: no domain is attached, but nothing is left to chance.
                let _ = dev.flr();
            }
        }
        self.adapter.drop_held();
    }
}

/// Turns of the worker that held frames wait for buffers of the guest before a release drops them.
const HELD_TRIES: u32 = 100;
