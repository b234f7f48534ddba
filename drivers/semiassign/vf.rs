// SPDX-License-Identifier: GPL-2.0

//! One VF: its state, its lock, and the callbacks of VFIO.
//!
//! Lock order: the lock of the VF, then the memory lock, then [`Vf::shown`]. The lock of the VF is held
//! while guest memory is touched, hence never waited for where a page fault, an unmap or a reset is served:
//! `fault` takes only `shown`, `reset_done` only leaves a note that the next holder of the lock finds.

use crate::capture::{Emulated, Mode, Motion};
use crate::dirty::DirtyLog;
use crate::lend::{RamPages, RealVf};
use crate::registry;
use crate::relay::Relay;
use crate::scope::Pinning;
use crate::session::Session;
use crate::status::{elapsed_ns, Stats, StatusFile};
use core::ops::Range;
use kernel::fs::File;
use kernel::new_poll_condvar;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Acquire, AtomicFlag, Full, Release};
use kernel::sync::lock::{mutex::MutexBackend, Guard};
use kernel::sync::poll::PollCondVar;
use kernel::sync::{new_mutex, Arc, Mutex};
use kernel::time::Instant;
use kernel::{device, pci};
use model::adapter::{Adapter, Layout};
use model::io::Registers;
use vfio::dma_log::Report;
use vfio::memory::Pages;
use vfio::migration::{Flags, State};
use vfio::region::{Fault, FaultResult};
use vfio::worker::Worker;
use vfio::{Device, Operations};

/// The data of one VF.
#[pin_data]
pub(crate) struct Vf {
    #[pin]
    inner: Mutex<Inner>,
    /// What mappings of the substituted pages show: the RAM pages while captured. The page lock.
    #[pin]
    pub(crate) shown: Mutex<Option<Arc<Pages<Vf>>>>,
    /// There may be more to read of an image, or its session has ended.
    #[pin]
    pub(crate) news: PollCondVar,
    #[pin]
    status: Mutex<Option<StatusFile>>,
    layout: &'static Layout,
    /// The VF was reset and nobody has looked after it yet.
    reset_noted: AtomicFlag,
    /// The user mapped the page that must trap: what the guest asks of its PF may go unseen.
    trapped_page_mapped: AtomicFlag,
    /// Bus mastering is on by our hand, not by the user's.
    mastering: AtomicFlag,
    /// The VF may master the bus: what is done in its name has to ask.
    is_master: AtomicFlag,
}

/// What the lock of the VF protects.
pub(crate) struct Inner {
    pub(crate) adapter: KBox<dyn Adapter>,
    pub(crate) mode: Mode,
    pub(crate) state: State,
    pub(crate) session: Session,
    /// Distinguishes sessions, so that the file of an old one cannot touch a new one.
    pub(crate) sessions: u64,
    /// Saving files that were not released yet: their user may still be tracking.
    pub(crate) saving_files: u32,
    /// The first session of this life of the device; files of an earlier one do not count.
    pub(crate) first_session: u64,
    /// The dirty scope of the container was narrowed.
    pub(crate) narrowed: bool,
    /// An image was loaded and the device has not run since.
    pub(crate) loaded: bool,
    /// Turns that a release has waited for held frames.
    pub(crate) release_tries: u32,
    /// The user may be tracking though we were not told: see `resume`.
    pub(crate) maybe_tracked: bool,
    /// It ran assigned meanwhile: memory that was copied without a word to us may be stale.
    pub(crate) unseen: bool,
    /// The hardware did not take the guest's rings back: not before the guest sets them up anew.
    pub(crate) release_refused: bool,
    pub(crate) log: Option<DirtyLog>,
    pub(crate) worker: Option<Worker<Relay>>,
    /// Pins a page for longer than its user had time for.
    pub(crate) pinning: Option<Pinning>,
    pub(crate) stats: Stats,
}

/// The lock of a VF, held.
pub(crate) type Locked<'a> = Guard<'a, Inner, MutexBackend>;

impl Vf {
    /// Takes the lock, and first of all looks after a reset that happened meanwhile.
    pub(crate) fn lock(&self, dev: &Device<Vf>) -> Locked<'_> {
        let mut inner = self.inner.lock();
        // Nothing is left of a device that is closed: whoever opens it next begins anew.
        if dev.is_open() && self.reset_noted.xchg(false, Full) {
            inner.after_reset(dev);
            self.news.notify_all();
        }
        inner
    }

    /// Takes the lock only to look: a thread that is neither the VMM's nor the worker can do no more, because
    /// it has no access to guest memory.
    pub(crate) fn peek(&self) -> Locked<'_> {
        self.inner.lock()
    }

    /// Whether the VF was reset and nobody has looked after it yet.
    pub(crate) fn was_reset(&self) -> bool {
        self.reset_noted.load(Acquire)
    }

    pub(crate) fn layout(&self) -> &'static Layout {
        self.layout
    }

    /// Switches bus mastering on for a device that is being loaded: its user restores the configuration space later.
    pub(crate) fn set_master(&self, dev: &Device<Self>) {
        // A reset that comes before this leaves nothing to load, one that comes later takes it back.
        dev.set_master(|| {
            let load = !self.was_reset();
            self.mastering.store(load, Release);
            load
        });
    }

    /// It has done so by now.
    pub(crate) fn keep_master(&self, dev: &Device<Self>) {
        self.mastering.store(false, Release);
        self.look_for_master(dev);
    }

    /// The flag is right once somebody with the lock of the VF has looked.
    pub(crate) fn look_for_master(&self, dev: &Device<Self>) {
        self.is_master.store(dev.is_master(), Release);
    }

    /// Whether guest memory may be accessed in the VF's name.
    pub(crate) fn is_master(&self) -> bool {
        self.is_master.load(Acquire)
    }

    pub(crate) fn trapped_page_is_mapped(&self) -> bool {
        self.trapped_page_mapped.load(Acquire)
    }
}

impl Inner {
    /// Whether a direct write of the device could go unreported.
    pub(crate) fn is_tracking(&self) -> bool {
        let saving = matches!(
            self.state,
            State::PreCopy | State::PreCopyP2p | State::StopCopy
        );
        saving || self.saving_files > 0 || self.log.is_some() || self.maybe_tracked
    }

    /// The VF was reset by its user: no guest state is left, and the state is RUNNING unless the VF is dead.
    fn after_reset(&mut self, dev: &Device<Vf>) {
        self.session = Session::None;
        self.loaded = false;
        self.release_refused = false;
        if matches!(self.mode, Mode::Dead(_)) {
            return;
        }
        // He may have been tracking one that was stopped. Nobody does one that is being loaded.
        let stopped = matches!(
            core::mem::replace(&mut self.state, State::Running),
            State::RunningP2p | State::PreCopyP2p | State::Stop | State::StopCopy
        );
        dev.data().get_ref().look_for_master(dev);
        // The user clears the command register before it resets.
        dev.decode_memory();
        let Self { adapter, mode, .. } = self;
        match mode {
            Mode::Emulated(Emulated { pages, motion, .. }) => {
                adapter.reset(&mut RealVf(dev), Some(&mut RamPages(pages)));
                *motion = Motion::Still;
                self.run(dev);
            }
            _ => adapter.reset(&mut RealVf(dev), None),
        }
        if stopped && self.narrowed && self.log.is_none() {
            // If that kills it, its state says so.
            let _ = self.serve_on(dev);
        }
    }

    /// RAM pages, while captured.
    pub(crate) fn pages(&self) -> Option<Arc<Pages<Vf>>> {
        match &self.mode {
            Mode::Emulated(e) | Mode::Dead(Some(e)) => Some(e.pages.clone()),
            Mode::Assigned | Mode::Dead(None) => None,
        }
    }
}

impl Operations for Vf {
    type Module = crate::Semiassign;

    const NAME: &'static CStr = c"semiassign";
    const BAR: u32 = 0;
    const MIGRATION: Flags = Flags::STOP_COPY.and(Flags::P2P).and(Flags::PRE_COPY);

    fn new(pdev: &pci::Device<device::Bound>) -> impl PinInit<Self, Error> {
        let vendor = pdev.vendor_id().as_raw();
        let adapter = registry::adapter(vendor, pdev.device_id());
        pin_init::pin_init_scope(move || {
            let adapter = adapter?;
            let layout = adapter.layout();
            Ok(try_pin_init!(Self {
                inner <- new_mutex!(Inner {
                    adapter,
                    mode: Mode::Assigned,
                    state: State::Running,
                    session: Session::None,
                    sessions: 0,
                    saving_files: 0,
                    first_session: 1,
                    narrowed: false,
                    loaded: false,
                    release_tries: 0,
                    maybe_tracked: false,
                    unseen: false,
                    release_refused: false,
                    log: None,
                    worker: None,
                    pinning: None,
                    stats: Stats::new(),
                }, "semiassign:vf"),
                shown <- new_mutex!(None, "semiassign:shown"),
                news <- new_poll_condvar!("semiassign:news"),
                status <- new_mutex!(None, "semiassign:status"),
                layout,
                reset_noted: AtomicFlag::new(false),
                trapped_page_mapped: AtomicFlag::new(false),
                mastering: AtomicFlag::new(false),
                is_master: AtomicFlag::new(false),
            }? Error))
        })
    }

    fn bound(dev: &Device<Self>) {
        let vf = dev.data().get_ref();
        dev_info!(
            dev.as_dev(),
            "semiassign: {} bound, assigned until its guest migrates\n",
            vf.layout.name
        );
        *vf.status.lock() = StatusFile::new(dev);
    }

    fn unbind(dev: &Device<Self>) {
        let status = dev.data().get_ref().status.lock().take();
        drop(status);
    }

    fn open(dev: &Device<Self>) -> Result {
        let vf = dev.data().get_ref();
        if dev.bar_bytes() != u64::from(vf.layout.bar_bytes) {
            dev_warn_ratelimited!(
                dev,
                "semiassign: BAR 0 has {} bytes, not those of {}\n",
                dev.bar_bytes(),
                vf.layout.name
            );
            return Err(ENODEV);
        }
        let mut inner = vf.inner.lock();
        vf.reset_noted.store(false, Release);
        vf.trapped_page_mapped.store(false, Release);
        vf.mastering.store(false, Release);
        vf.look_for_master(dev);
        inner.mode = Mode::Assigned;
        inner.state = State::Running;
        inner.maybe_tracked = false;
        inner.unseen = false;
        inner.release_refused = false;
        inner.stats = Stats::new();
        inner.first_session = inner.sessions + 1;
        // Of a container that outlives the device's file, which no VMM is known to keep, we would not know.
        inner.narrowed = false;
        inner.loaded = false;
        inner.release_tries = 0;
        inner.adapter.reset(&mut RealVf(dev), None);
        #[cfg(CONFIG_KUNIT = "y")]
        crate::kunit::UNDER_TEST.lock().replace(dev.into());
        Ok(())
    }

    fn close(dev: &Device<Self>) {
        let vf = dev.data().get_ref();
        #[cfg(CONFIG_KUNIT = "y")]
        let _tested = crate::kunit::UNDER_TEST.lock().take();
        // The threads end first; the worker needs the lock to end its turn.
        let threads = {
            let mut inner = vf.inner.lock();
            // Whoever looks after a reset meanwhile must not capture it for what is over, and start another one.
            inner.narrowed = false;
            (inner.worker.take(), inner.pinning.take())
        };
        drop(threads);
        let mut inner = vf.inner.lock();
        vf.reset_noted.store(false, Release);
        inner.session = Session::None;
        inner.saving_files = 0;
        inner.log = None;
        inner.state = State::Running;
        inner.abandon(dev);
        vf.news.notify_all();
    }

    fn reset_done(dev: &Device<Self>) {
        let vf = dev.data().get_ref();
        // The reset has kept what a load that is given up by it had switched on.
        if vf.mastering.xchg(false, Full) {
            dev.clear_master_in_reset();
        }
        // May run under the memory lock, which the holder of our lock may wait for.
        vf.reset_noted.store(true, Release);
    }

    fn returning(dev: &Device<Self>, configured: bool) {
        let vf = dev.data().get_ref();
        if !configured && !vf.was_reset() {
            return;
        }
        if configured {
            // At once, for a turn of the worker that this has met.
            vf.look_for_master(dev);
        }
        // That turn ends first, so that nothing is written any more that must not be.
        let _inner = vf.lock(dev);
        if configured {
            // The user has had his say.
            vf.keep_master(dev);
        }
    }

    fn mappable(dev: &Device<Self>) -> Range<u64> {
        let layout = dev.data().get_ref().layout;
        layout.trapped.1.into()..layout.bar_bytes.into()
    }

    fn mmap(dev: &Device<Self>, range: Range<u64>) -> Result {
        let vf = dev.data().get_ref();
        let (start, end) = vf.layout.trapped;
        if range.start < u64::from(end) && range.end > u64::from(start) {
            let shown = vf.shown.lock();
            if shown.is_some() {
                return Err(EBUSY);
            }
            if !vf.trapped_page_mapped.xchg(true, Full) {
                dev_warn_ratelimited!(
                    dev,
                    "semiassign: the control page was mapped: not migratable until closed\n"
                );
            }
        }
        Ok(())
    }

    fn fault(dev: &Device<Self>, fault: Fault<'_, Self>) -> FaultResult {
        let shown = dev.data().get_ref().shown.lock();
        match &*shown {
            Some(pages) => fault.insert_page(pages),
            None => fault.insert_bar(),
        }
    }

    fn read32(dev: &Device<Self>, at: u32) -> u32 {
        let vf = dev.data().get_ref();
        let mut inner = vf.lock(dev);
        let pages = inner.pages();
        let mut ram = pages.as_deref().map(RamPages);
        if vf.is_trapped(at) {
            let page = ram.as_mut().map(|ram| ram as &mut dyn Registers);
            let val = inner.adapter.read(at, &mut RealVf(dev), page);
            vf.tell(&inner);
            return val;
        }
        match &mut ram {
            Some(ram) if vf.is_substituted(at) => ram.read32(at),
            _ => RealVf(dev).read32(at),
        }
    }

    fn write32(dev: &Device<Self>, at: u32, val: u32) {
        let vf = dev.data().get_ref();
        let mut inner = vf.lock(dev);
        let pages = inner.pages();
        let mut ram = pages.as_deref().map(RamPages);
        if vf.is_trapped(at) {
            let page = ram.as_mut().map(|ram| ram as &mut dyn Registers);
            inner.adapter.write(at, val, &mut RealVf(dev), page);
            return vf.tell(&inner);
        }
        match &mut ram {
            Some(ram) if vf.is_substituted(at) => ram.write32(at, val),
            _ => RealVf(dev).write32(at, val),
        }
    }

    fn set_state(dev: &Device<Self>, to: State) -> Result<Option<ARef<File>>> {
        let since = Instant::now();
        let vf = dev.data().get_ref();
        let mut inner = vf.lock(dev);
        let result = inner.set_state(dev, to);
        if to == State::PreCopy {
            inner.stats.precopy_ns = elapsed_ns(since);
        }
        drop(inner);
        vf.news.notify_all();
        result
    }

    fn state(dev: &Device<Self>) -> State {
        let vf = dev.data().get_ref();
        match vf.peek().state {
            State::Error => State::Error,
            _ if vf.was_reset() => State::Running,
            state => state,
        }
    }

    fn data_bytes(dev: &Device<Self>) -> usize {
        let vf = dev.data().get_ref();
        vf.lock(dev).data_bytes(vf.layout)
    }

    fn log_start(dev: &Device<Self>) -> Result {
        let mut inner = dev.data().get_ref().lock(dev);
        if inner.log.is_some() {
            return Err(EINVAL);
        }
        inner.log = Some(DirtyLog::new());
        inner.begin_tracking(dev).inspect_err(|_| inner.log = None)
    }

    fn log_stop(dev: &Device<Self>) {
        let mut inner = dev.data().get_ref().lock(dev);
        inner.log = None;
        inner.settle(dev);
    }

    fn log_read(dev: &Device<Self>, range: Range<u64>, out: &mut Report<'_>) -> Result {
        let mut inner = dev.data().get_ref().lock(dev);
        inner.log.as_mut().ok_or(EINVAL)?.report(range, out);
        Ok(())
    }
}

impl Vf {
    /// Wakes whoever waits for more of an image, if there is more.
    pub(crate) fn tell(&self, inner: &Inner) {
        if inner.has_news() {
            self.news.notify_all();
        }
    }

    fn is_trapped(&self, at: u32) -> bool {
        let (start, end) = self.layout.trapped;
        (start..end).contains(&at)
    }

    pub(crate) fn is_substituted(&self, at: u32) -> bool {
        let (start, end) = self.layout.substituted;
        (start..end).contains(&at)
    }
}
