// SPDX-License-Identifier: GPL-2.0

//! What only the kernel can test, on the VF that was opened last.
//!
//! `make kunit` opens a VF, has a small driver enable its rings, and runs one suite through KUnit's debugfs; then it opens
//! the next. A suite that leaves the VF dead is one of its own.

use crate::capture::{Mode, Motion};
use crate::lend::{RamPages, RealVf};
use crate::session::Session;
use crate::vf::Vf;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::time::{delay::fsleep, Delta};
use vfio::migration::State;
use vfio::{Device, Operations};

kernel::sync::global_lock! {
    // SAFETY: Initialised as the module is loaded, before any device can be bound.
    pub(crate) unsafe(uninit) static UNDER_TEST: Mutex<Option<ARef<Device<Vf>>>> = None;
}

/// To be called once, as the module is loaded.
pub(crate) fn init() {
    // SAFETY: Called once, before any device can be bound.
    unsafe { UNDER_TEST.init() };
}

/// What is to be waited for comes within so many milliseconds, also on a slow machine.
const PATIENCE_MS: u32 = 60_000;

/// All states that can be asked for.
const STATES: [State; 7] = [
    State::Running,
    State::PreCopy,
    State::PreCopyP2p,
    State::RunningP2p,
    State::Stop,
    State::StopCopy,
    State::Resuming,
];

type DataFile = Option<ARef<File>>;

/// The side effects of a state, read under the lock of the VF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    state: State,
    mode: &'static str,
    running: bool,
    session: &'static str,
    /// The private domain is attached.
    private: bool,
    /// The user's domain is attached, or ours: not none at all.
    domain: bool,
    /// Mappings show the RAM pages.
    ram_shown: bool,
    worker: bool,
    sessions: u64,
    saving_files: u32,
}

fn device() -> Result<ARef<Device<Vf>>> {
    UNDER_TEST.lock().clone().ok_or(ENODEV)
}

fn see(dev: &Device<Vf>) -> Seen {
    let vf = dev.data().get_ref();
    let inner = vf.lock(dev);
    let (running, private) = match &inner.mode {
        Mode::Emulated(e) => (e.motion == Motion::Running, e.private.is_attached()),
        Mode::Assigned | Mode::Dead(_) => (false, false),
    };
    let ram_shown = vf.shown.lock().is_some();
    Seen {
        state: inner.state,
        mode: inner.mode.name(),
        running,
        session: match inner.session {
            Session::None => "none",
            Session::Saving(_) => "saving",
            Session::Resuming(_) => "resuming",
        },
        private,
        domain: dev.has_paging_domain(),
        ram_shown,
        worker: inner.worker.is_some(),
        sessions: inner.sessions,
        saving_files: inner.saving_files,
    }
}

fn require(holds: bool, what: &str, seen: Seen) -> Result {
    if holds {
        return Ok(());
    }
    pr_err!("kunit: {what}: {seen:?}\n");
    Err(EINVAL)
}

fn go(dev: &Device<Vf>, to: State) -> Result<DataFile> {
    dev.data().get_ref().lock(dev).set_state(dev, to)
}

/// Waits until `f` holds.
fn wait(dev: &Device<Vf>, what: &str, f: impl Fn(&Seen) -> bool) -> Result {
    for _ in 0..PATIENCE_MS {
        if f(&see(dev)) {
            return Ok(());
        }
        fsleep(Delta::from_millis(1));
    }
    require(false, what, see(dev))
}

/// Whether the guest's rings are enabled where they are served.
fn is_active(dev: &Device<Vf>) -> bool {
    let inner = dev.data().get_ref().lock(dev);
    match inner.pages() {
        Some(pages) => inner.adapter.is_active(&mut RamPages(&pages)),
        None => inner.adapter.is_active(&mut RealVf(dev)),
    }
}

/// Ends whatever goes on, as a user does whose migration has ended: the VF is assigned again.
fn end(dev: &Device<Vf>, file: DataFile) -> Result {
    go(dev, State::Running)?;
    drop(file);
    // A stop in between may have made it look as if somebody tracked: a session that ends says that nobody does.
    let file = go(dev, State::PreCopy)?;
    go(dev, State::Running)?;
    drop(file);
    // Files are released by a worker of the kernel, and the VF by its own.
    wait(dev, "not assigned in the end", |seen| {
        seen.mode == "assigned" && seen.saving_files == 0
    })
}

/// What goes together, whatever the state: the mode, its domain, its pages, its worker.
fn require_consistent(seen: Seen) -> Result {
    let emulated = seen.mode == "emulated";
    require(seen.private == emulated, "mode and domain differ", seen)?;
    require(seen.ram_shown == emulated, "mode and pages differ", seen)?;
    require(seen.worker || !emulated, "emulated without worker", seen)?;
    require(seen.domain, "no domain is attached", seen)
}

/// What a VF with enabled rings is like in `state`, whatever way it came there.
fn require_effects(seen: Seen, state: State) -> Result {
    require(seen.state == state, "another state", seen)?;
    require_consistent(seen)?;
    let (session, running) = match state {
        State::Running => ("none", true),
        State::PreCopy => ("saving", true),
        State::PreCopyP2p | State::StopCopy => ("saving", false),
        State::Resuming => ("resuming", false),
        State::RunningP2p | State::Stop | State::Error => ("none", false),
    };
    require(seen.session == session, "another session", seen)?;
    if state == State::Running && seen.mode == "assigned" {
        return Ok(());
    }
    require(seen.mode == "emulated", "not captured", seen)?;
    require(seen.running == running, "runs, or does not", seen)
}

/// From `from` to `to`, by whatever arcs VFIO has between them; neither is RESUMING.
fn check_way(dev: &Device<Vf>, from: State, to: State) -> Result {
    let first = go(dev, from)?;
    let before = see(dev);
    require_effects(before, from)?;
    let result = go(dev, to);
    let after = see(dev);
    let second = match result {
        Ok(file) => {
            require_effects(after, to)?;
            let opened = after.sessions != before.sessions;
            require(file.is_some() == opened, "a file without session", after)?;
            file
        }
        Err(e) => {
            // VFIO has no way from one to the other, and nothing has happened.
            require(e == EINVAL, "failed in another way", after)?;
            require(after == before, "refused, and changed", after)?;
            let none = matches!(
                (from, to),
                (State::StopCopy, State::PreCopy | State::PreCopyP2p)
            );
            require(none, "refused a way that there is", after)?;
            None
        }
    };
    drop(first);
    end(dev, second)
}

#[kunit_tests(semiassign_arcs)]
mod arcs {
    use super::*;

    #[test]
    fn every_arc_has_its_side_effects() -> Result {
        let dev = device()?;
        assert!(is_active(&dev));
        for from in STATES {
            for to in STATES {
                if from != State::Resuming && to != State::Resuming {
                    check_way(&dev, from, to).inspect_err(|_| {
                        pr_err!("kunit: {} -> {}\n", from.name(), to.name());
                    })?;
                    assert!(is_active(&dev));
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_vf_that_never_migrated_is_never_captured() -> Result {
        let dev = device()?;
        let captures = || dev.data().get_ref().lock(&dev).stats.captures;
        let before = captures();
        go(&dev, State::Running)?;
        assert_eq!(captures(), before);
        require_consistent(see(&dev))
    }

    #[test]
    fn resuming_without_an_image_ends_only_by_a_reset() -> Result {
        let dev = device()?;
        let file = go(&dev, State::Resuming)?;
        assert!(file.is_some());
        require_effects(see(&dev), State::Resuming)?;
        for to in STATES {
            if to != State::Resuming {
                assert!(matches!(go(&dev, to), Err(e) if e == EINVAL));
                require_effects(see(&dev), State::Resuming)?;
            }
        }
        Vf::reset_done(&dev);
        drop(file);
        let seen = see(&dev);
        require(seen.state == State::Running, "not RUNNING", seen)?;
        wait(&dev, "not released", |seen| seen.mode == "assigned")
    }
}

#[kunit_tests(semiassign_reset)]
mod reset {
    use super::*;

    #[test]
    fn a_reset_is_noted_at_once_and_looked_after_by_the_next_to_take_the_lock() -> Result {
        let dev = device()?;
        assert!(is_active(&dev));
        let file = go(&dev, State::PreCopyP2p)?;
        let before = see(&dev);
        {
            // Whoever resets may hold what the holder of the lock waits for.
            let inner = dev.data().get_ref().peek();
            Vf::reset_done(&dev);
            assert!(inner.state == State::PreCopyP2p);
        }
        let seen = see(&dev);
        require(seen.state == State::Running, "not RUNNING", seen)?;
        require(seen.session == "none", "a session", seen)?;
        // The file is open: somebody may be tracking.
        require(seen.mode == "emulated", "not emulated", seen)?;
        require(seen.running, "does not run", seen)?;
        require_consistent(seen)?;
        assert_eq!(seen.saving_files, before.saving_files);
        assert!(!is_active(&dev));
        drop(file);
        wait(&dev, "not released", |seen| seen.mode == "assigned")
    }
}

#[kunit_tests(semiassign_reset_in_release)]
mod reset_in_release {
    use super::*;

    #[test]
    fn a_reset_during_a_release_is_not_undone_by_it() -> Result {
        let dev = device()?;
        assert!(is_active(&dev));
        {
            let mut inner = dev.data().get_ref().lock(&dev);
            inner.capture(&dev, true)?;
            Vf::reset_done(&dev);
            inner.release(&dev)?;
        }
        require(see(&dev).mode == "assigned", "not assigned", see(&dev))?;
        // As after any reset: the guest's old rings are not served.
        assert!(!is_active(&dev));
        Ok(())
    }
}

#[kunit_tests(semiassign_swap)]
mod swap {
    use super::*;
    use vfio::iommu::inject;

    #[test]
    fn a_domain_that_is_busy_for_a_while_is_attached_in_the_end() -> Result {
        let dev = device()?;
        inject::attach_fails(10, EBUSY);
        let file = go(&dev, State::PreCopy)?;
        assert_eq!(inject::left(), 0);
        require_effects(see(&dev), State::PreCopy)?;
        end(&dev, file)
    }

    #[test]
    fn a_release_waits_for_memory_to_attach_the_users_domain() -> Result {
        let dev = device()?;
        let file = go(&dev, State::PreCopy)?;
        inject::attach_fails(10, ENOMEM);
        end(&dev, file)?;
        assert_eq!(inject::left(), 0);
        assert!(is_active(&dev));
        Ok(())
    }

    #[test]
    fn a_private_domain_that_cannot_be_attached_leaves_the_vf_assigned() -> Result {
        let dev = device()?;
        inject::attach_fails(1, ENODEV);
        assert!(go(&dev, State::PreCopy).is_err());
        let seen = see(&dev);
        require(seen.state == State::Running, "not RUNNING", seen)?;
        require(seen.mode == "assigned", "not assigned", seen)?;
        require_consistent(seen)?;
        // The guest has its rings back, and the next one works.
        assert!(is_active(&dev));
        let file = go(&dev, State::PreCopy)?;
        require_effects(see(&dev), State::PreCopy)?;
        end(&dev, file)
    }
}

/// No domain can be attached: dead, and the device reaches nothing.
fn require_dead(dev: &Device<Vf>) -> Result {
    let seen = see(dev);
    require(seen.mode == "dead", "not dead", seen)?;
    require(!seen.domain, "a domain is attached", seen)?;
    for to in STATES {
        let refused = matches!(go(dev, to), Err(e) if e == EIO);
        require(refused, "an arc of a dead VF", see(dev))?;
    }
    Vf::reset_done(dev);
    let seen = see(dev);
    require(seen.state == State::Error, "not in ERROR", seen)
}

#[kunit_tests(semiassign_capture_blocked)]
mod capture_blocked {
    use super::*;
    use vfio::iommu::inject;

    #[test]
    fn a_capture_that_finds_no_domain_at_all_leaves_the_vf_dead_and_blocked() -> Result {
        let dev = device()?;
        inject::attach_fails(2, ENODEV);
        assert!(go(&dev, State::PreCopy).is_err());
        require_dead(&dev)
    }
}

#[kunit_tests(semiassign_release_blocked)]
mod release_blocked {
    use super::*;
    use vfio::iommu::inject;

    #[test]
    fn a_release_that_finds_no_domain_leaves_the_vf_dead_and_blocked() -> Result {
        let dev = device()?;
        let file = go(&dev, State::PreCopy)?;
        inject::attach_fails(1, ENODEV);
        go(&dev, State::Running)?;
        drop(file);
        wait(&dev, "not dead", |seen| seen.mode == "dead")?;
        require_dead(&dev)
    }
}

#[kunit_tests(semiassign_pages)]
mod pages {
    use super::*;
    use vfio::iommu::Private;
    use vfio::memory::Pages;

    #[test]
    fn pages_are_zeroed_and_answer_only_in_their_range() -> Result {
        let dev = device()?;
        let pages = Pages::<Vf>::new(&dev, 0x2000, 0x4000)?;
        for at in (0x2000..0x4000).step_by(4) {
            assert_eq!(pages.read32(at), 0);
        }
        pages.write32(0x2000, 1);
        pages.write32(0x3ffc, 2);
        pages.write32(0x1ffc, 3);
        pages.write32(0x4000, 4);
        pages.write32(0x2002, 5);
        assert_eq!((pages.read32(0x2000), pages.read32(0x3ffc)), (1, 2));
        assert_eq!((pages.read32(0x1ffc), pages.read32(0x4000)), (0, 0));
        assert_eq!(pages.read32(0x2002), 0);
        Ok(())
    }

    #[test]
    fn a_mirror_area_is_zeroed_whatever_the_last_one_held() -> Result {
        const BYTES: usize = 1 << 16;
        let dev = device()?;
        for _ in 0..8 {
            let private = Private::<Vf>::new(&dev, BYTES)?;
            let area = private.area().ok_or(EINVAL)?;
            for at in (0..BYTES).step_by(64) {
                let mut bytes = [1; 64];
                area.read(at, &mut bytes);
                assert_eq!(bytes, [0; 64]);
                area.write(at, &[0xa5; 64]);
            }
        }
        Ok(())
    }

    #[test]
    fn odd_and_large_ranges_are_refused() -> Result {
        let dev = device()?;
        for (start, end) in [
            (0x2000, 0x2800),
            (0x2800, 0x4000),
            (0, 0x5000),
            (0x4000, 0x2000),
        ] {
            let made = Pages::<Vf>::new(&dev, start, end);
            assert!(matches!(made, Err(e) if e == EINVAL));
        }
        Ok(())
    }
}
