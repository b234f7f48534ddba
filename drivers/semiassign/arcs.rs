// SPDX-License-Identifier: GPL-2.0

//! The arcs of the migration protocol.

use crate::capture::Mode;
use crate::lend::RealVf;
use crate::session::Session;
use crate::status::elapsed_ns;
use crate::vf::{Inner, Vf};
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::time::Instant;
use vfio::migration::{walk, State};
use vfio::Device;

/// Frames that are served at once when a device resumes, before anything else.
const RESUME_BUDGET: u32 = 64;

impl Inner {
    /// Moves to `to`.
    ///
    /// # Errors
    ///
    /// The state is then the last one that was reached, or ERROR if the VF is dead.
    pub(crate) fn set_state(&mut self, dev: &Device<Vf>, to: State) -> Result<Option<ARef<File>>> {
        let mut state = self.state;
        let result = walk(dev, &mut state, to, |from, to| {
            let file = self.step(dev, from, to).inspect_err(|e| {
                dev_warn_ratelimited!(
                    dev,
                    "semiassign: {} -> {} failed: {:?}\n",
                    from.name(),
                    to.name(),
                    e
                );
            })?;
            self.state = to;
            Ok(file)
        });
        if result.is_ok() {
            self.settle(dev);
        }
        if self.state == State::Error {
            return Err(EIO);
        }
        result
    }

    fn step(&mut self, dev: &Device<Vf>, from: State, to: State) -> Result<Option<ARef<File>>> {
        use State::*;

        match (from, to) {
            (Running, PreCopy) => self.running_to_pre_copy(dev).map(Some),
            (RunningP2p, PreCopyP2p) => self.running_p2p_to_pre_copy_p2p(dev).map(Some),
            (PreCopy, Running) | (PreCopyP2p, RunningP2p) => {
                // The file stays, and with it the mode, until its user has closed it.
                self.session = Session::None;
                Ok(None)
            }
            (Running, RunningP2p) | (PreCopy, PreCopyP2p) => self.quiet(dev),
            (RunningP2p, Running) | (PreCopyP2p, PreCopy) => self.resume(dev),
            (RunningP2p, Stop) | (Stop, RunningP2p) => Ok(None),
            // What the image has of frames is what has come until it is read.
            (PreCopyP2p, StopCopy) => Ok(None),
            (Stop, StopCopy) => self.stop_to_stop_copy(dev).map(Some),
            (StopCopy, Stop) => {
                self.session = Session::None;
                Ok(None)
            }
            (Stop, Resuming) => self.stop_to_resuming(dev).map(Some),
            (Resuming, Stop) => self.resuming_to_stop(dev),
            _ => Err(EINVAL),
        }
    }

    /// From here no write of the device to guest memory goes unseen.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the VF cannot migrate, or what capture returned.
    pub(crate) fn begin_tracking(&mut self, dev: &Device<Vf>) -> Result {
        self.check_capture(dev)?;
        let run = matches!(self.state, State::Running | State::PreCopy);
        self.capture(dev, run)
    }

    fn running_to_pre_copy(&mut self, dev: &Device<Vf>) -> Result<ARef<File>> {
        self.begin_tracking(dev)?;
        self.narrow(dev);
        let file = self.open_saving(dev)?;
        self.unseen = false;
        self.stats.precopy_at_ns = self.stats.now_ns();
        Ok(file)
    }

    fn running_p2p_to_pre_copy_p2p(&mut self, dev: &Device<Vf>) -> Result<ARef<File>> {
        self.check_seen(dev)?;
        self.begin_tracking(dev)?;
        self.narrow(dev);
        self.open_saving(dev)
    }

    /// Stops all DMA to the guest. A VF with live rings is captured for that: frames that arrive wait, and are not lost. One
    /// that cannot be captured cannot migrate either, and is left alone, as plain vfio-pci does.
    fn quiet(&mut self, dev: &Device<Vf>) -> Result<Option<ARef<File>>> {
        let since = Instant::now();
        // Whatever the guest has done to its command register: its rings go on all the same.
        dev.decode_memory();
        let live = matches!(self.mode, Mode::Assigned) && self.adapter.is_active(&mut RealVf(dev));
        if live && self.refusal(dev).is_none() {
            // Runs for a moment: only a ring that is served yields its contexts and its cut frame.
            self.capture(dev, true)?;
        } else if live {
            // It writes on, and its user may begin to track.
            self.unseen |= self.narrowed && self.log.is_none();
        }
        self.pause(dev)?;
        self.stats.stop_ns = elapsed_ns(since);
        Ok(None)
    }

    /// Starts DMA again, the frames that were held first.
    fn resume(&mut self, dev: &Device<Vf>) -> Result<Option<ARef<File>>> {
        let since = Instant::now();
        let loaded = core::mem::take(&mut self.loaded);
        dev.data().get_ref().keep_master(dev);
        // A user that stopped the device may have begun to track meanwhile, without a word to us. Once the
        // scope is narrowed a direct write would stay unseen, so serve on until a migration has ended.
        if self.narrowed && self.log.is_none() {
            self.serve_on(dev)?;
        }
        self.run(dev);
        if loaded {
            self.with_io(dev, |adapter, io| adapter.announce(io));
        }
        if let Mode::Emulated(_) = self.mode {
            let _ = self.poll(dev, RESUME_BUDGET);
            self.adapter.raise_all(&mut RealVf(dev));
        }
        self.stats.resume_ns = elapsed_ns(since);
        Ok(None)
    }

    /// Sees to it that nothing is written directly, also by a VF that had no ring as it was stopped and gets one now. If it
    /// cannot be captured, what its user has copied meanwhile must not become an image.
    pub(crate) fn serve_on(&mut self, dev: &Device<Vf>) -> Result {
        let known = core::mem::replace(&mut self.maybe_tracked, true);
        if matches!(self.mode, Mode::Assigned) {
            self.unseen |= self.refusal(dev).is_some() || self.capture(dev, true).is_err();
        }
        if matches!(self.mode, Mode::Dead(_)) {
            return Err(EIO);
        }
        if !known && self.saving_files == 0 && !self.unseen {
            dev_info_ratelimited!(
                dev,
                "semiassign: stopped after a migration that did not happen: emulated until the next one ends\n"
            );
        }
        Ok(())
    }

    /// Whether what a user who has never entered PRE_COPY has copied can be the whole.
    fn check_seen(&self, dev: &Device<Vf>) -> Result {
        if !self.unseen || self.log.is_some() {
            return Ok(());
        }
        dev_warn_ratelimited!(
            dev,
            "semiassign: cannot migrate: ran assigned while its user may have been tracking\n"
        );
        Err(EOPNOTSUPP)
    }

    fn stop_to_stop_copy(&mut self, dev: &Device<Vf>) -> Result<ARef<File>> {
        self.check_seen(dev)?;
        // A paused VM: should it run again, it runs emulated until the file is gone. A container reports all of its memory,
        // once more than it has to: nobody waits for this VM, and whoever never enters PRE_COPY comes this way, too.
        self.begin_tracking(dev)?;
        self.open_saving(dev)
    }

    fn stop_to_resuming(&mut self, dev: &Device<Vf>) -> Result<ARef<File>> {
        self.check_capture(dev)?;
        self.capture(dev, false)?;
        self.halt(dev)?;
        self.open_resuming(dev)
    }

    fn resuming_to_stop(&mut self, dev: &Device<Vf>) -> Result<Option<ARef<File>>> {
        let complete = matches!(&self.session, Session::Resuming(r) if r.is_complete());
        if !complete {
            dev_warn_ratelimited!(dev, "semiassign: the image did not arrive whole\n");
            return Err(EINVAL);
        }
        self.session = Session::None;
        self.loaded = true;
        Ok(None)
    }
}
