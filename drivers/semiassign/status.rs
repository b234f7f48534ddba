// SPDX-License-Identifier: GPL-2.0

//! What can be seen from outside, in debugfs: `semiassign/<function>/status` and `registers`.

use crate::vf::Vf;
use kernel::debugfs::{Dir, File};
use kernel::fmt;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::time::{Instant, Monotonic};
use model::register::{Access, Register};
use vfio::Device;

/// What happened since the VF was opened. Durations are from entry to return, of the last such step.
pub(crate) struct Stats {
    opened: Instant<Monotonic>,
    pub(crate) captures: u64,
    pub(crate) releases: u64,
    pub(crate) capture_ns: u64,
    pub(crate) release_ns: u64,
    pub(crate) stop_ns: u64,
    pub(crate) resume_ns: u64,
    /// Of the user's request for PRE_COPY, with its wait for the lock, the capture, the pin and the file.
    pub(crate) precopy_ns: u64,
    /// The guest stands still for them: the end of an image that is saved, and of one that is loaded.
    pub(crate) save_ns: u64,
    pub(crate) load_ns: u64,
    /// When the last capture, and the last release, was complete, since open.
    pub(crate) captured_at_ns: u64,
    pub(crate) released_at_ns: u64,
    /// When PRE_COPY was last entered, since open.
    pub(crate) precopy_at_ns: u64,
    /// When a source was last stopped for the end of its image, and when mirror rings were last started: in between nothing
    /// is received. Since open, from before the stop to after the start.
    pub(crate) stopped_at_ns: u64,
    pub(crate) started_at_ns: u64,
    /// When a complete image let frames in, ahead of its guest. Since open.
    pub(crate) listening_at_ns: u64,
    /// Pages of the guest written while emulated, each write counted.
    pub(crate) dirty_pages: u64,
    /// Releases while somebody was tracking: always 0.
    pub(crate) direct_while_tracking: u64,
    /// Bytes of the last image that was saved.
    pub(crate) state_bytes: u64,
}

impl Stats {
    /// Those of a device that is being opened.
    pub(crate) fn new() -> Self {
        Self {
            opened: Instant::now(),
            captures: 0,
            releases: 0,
            capture_ns: 0,
            release_ns: 0,
            stop_ns: 0,
            resume_ns: 0,
            precopy_ns: 0,
            save_ns: 0,
            load_ns: 0,
            captured_at_ns: 0,
            released_at_ns: 0,
            precopy_at_ns: 0,
            stopped_at_ns: 0,
            started_at_ns: 0,
            listening_at_ns: 0,
            dirty_pages: 0,
            direct_while_tracking: 0,
            state_bytes: 0,
        }
    }

    /// Nanoseconds since the device was opened.
    pub(crate) fn now_ns(&self) -> u64 {
        elapsed_ns(self.opened)
    }
}

/// Nanoseconds since `start`.
pub(crate) fn elapsed_ns(start: Instant<Monotonic>) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(0)
}

/// The files of one VF; gone when dropped.
pub(crate) struct StatusFile {
    _status: Pin<KBox<File<Shown>>>,
    _registers: Pin<KBox<File<Shown>>>,
    _dir: Dir,
}

/// What the file shows.
struct Shown(ARef<Device<Vf>>);

impl StatusFile {
    /// `None` if there is no memory for it: nothing depends on it.
    pub(crate) fn new(dev: &Device<Vf>) -> Option<Self> {
        let dir = crate::debugfs_root()?.subdir(dev.name());
        let shown = || Ok::<_, Error>(Shown(dev.into()));
        let status = dir.read_callback_file(c"status", shown(), &show);
        let registers = dir.read_callback_file(c"registers", shown(), &show_registers);
        Some(Self {
            _status: KBox::pin_init(status, GFP_KERNEL).ok()?,
            _registers: KBox::pin_init(registers, GFP_KERNEL).ok()?,
            _dir: dir,
        })
    }
}

/// A line for each register that can be read without changing it: name, offset, value of the hardware and,
/// while captured, what the guest has in its place.
fn show_registers(shown: &Shown, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let dev = &*shown.0;
    let vf = dev.data().get_ref();
    let inner = vf.peek();
    let pages = inner.pages();
    for register in inner.adapter.registers() {
        let Register {
            name,
            at,
            count,
            stride,
            access,
            reset: _,
        } = *register;
        if access == Access::ReadClears || access == Access::WriteOnly {
            continue;
        }
        for n in 0..count {
            let at = at.wrapping_add(n.wrapping_mul(stride));
            write!(f, "{name} {at:#06x} {:#010x}", dev.memory().read32(at))?;
            match &pages {
                Some(pages) if vf.is_substituted(at) => writeln!(f, " {:#010x}", pages.read32(at))?,
                _ => writeln!(f)?,
            }
        }
    }
    Ok(())
}

fn show(shown: &Shown, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let dev = &*shown.0;
    let inner = dev.data().get_ref().peek();
    let Stats {
        captures,
        releases,
        capture_ns,
        release_ns,
        stop_ns,
        resume_ns,
        precopy_ns,
        save_ns,
        load_ns,
        captured_at_ns,
        released_at_ns,
        precopy_at_ns,
        stopped_at_ns,
        started_at_ns,
        listening_at_ns,
        dirty_pages,
        direct_while_tracking,
        state_bytes,
        opened: _,
    } = &inner.stats;
    let now_ns = &inner.stats.now_ns();
    writeln!(f, "mode {}", inner.mode.name())?;
    writeln!(f, "state {}", inner.state.name())?;
    for (name, value) in [
        ("captures", captures),
        ("releases", releases),
        ("capture_ns", capture_ns),
        ("release_ns", release_ns),
        ("stop_ns", stop_ns),
        ("resume_ns", resume_ns),
        ("precopy_ns", precopy_ns),
        ("save_ns", save_ns),
        ("load_ns", load_ns),
        ("captured_at_ns", captured_at_ns),
        ("released_at_ns", released_at_ns),
        ("precopy_at_ns", precopy_at_ns),
        ("stopped_at_ns", stopped_at_ns),
        ("started_at_ns", started_at_ns),
        ("listening_at_ns", listening_at_ns),
        ("now_ns", now_ns),
        ("dirty_pages", dirty_pages),
        ("direct_while_tracking", direct_while_tracking),
        ("state_bytes", state_bytes),
    ] {
        writeln!(f, "{name} {value}")?;
    }
    writeln!(f, "pinned {}", u8::from(inner.narrowed))?;
    writeln!(f, "held_now {}", inner.adapter.held())?;
    let mut result = Ok(());
    inner.adapter.counters().for_each(|name, value| {
        if result.is_ok() {
            result = writeln!(f, "{name} {value}");
        }
    });
    result
}
