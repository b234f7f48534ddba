// SPDX-License-Identifier: GPL-2.0
//! Where the kernel can make an allocation fail, each one of a migration does, once: the request is refused or goes on without,
//! and the device works afterwards. Where it finds leaks, it finds some.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;

use super::bed::{require_assigned, Bed};
use super::cell::CHUNK;
use super::vmm_bed::{memory, overfill, peer, require_usable, vfs, QuietConsole, LAP, MAC};
use crate::vmm::device::Device;
use crate::vmm::guest::Guest;
use crate::vmm::memory::Memory;
use crate::vmm::migration::{errno, save, State};
use crate::vmm::traffic::{drain, exchange, Peer};
use crate::vmm::Machine;
use crate::{command, kernel};

const FAIL_NTH: &str = "/proc/thread-self/fail-nth";
/// One after the other up to here, then fewer: what allocates more often does so in a loop.
const EACH: usize = 100;
/// No request of ours allocates so often.
const MOST: usize = 20_000;
/// Frames each way to see that the guest is alive.
const FEW: usize = 3;
/// Frames that wait while an image is read: some 43 KB, more than it has room for from PRE_COPY on.
const WAITING: usize = 64;
/// Of 13 that kmemleak-test leaks, 8 from slabs and 5 from vmalloc, this many are found: whoever has allocated or freed
/// memory before may have left pointers to the rest.
const LEAKS_FOUND: usize = 8;
/// Such pointers go as the kernel works on.
const SEARCHES: usize = 10;

/// How many allocations of this thread succeed until one fails.
struct FailNth(File);

impl FailNth {
    fn new() -> Result<Self> {
        for (name, value) in [
            ("failslab/ignore-gfp-wait", "N"),
            ("fail_page_alloc/ignore-gfp-wait", "N"),
            ("fail_page_alloc/min-order", "0"),
            // The log would be longer than the scenario.
            ("failslab/verbose", "0"),
            ("fail_page_alloc/verbose", "0"),
        ] {
            command::write(Path::new("/sys/kernel/debug").join(name), value)?;
        }
        let file = File::options().read(true).write(true).open(FAIL_NTH)?;
        Ok(Self(file))
    }

    /// Runs `request` with its `n`th allocation failing: whether there was one.
    fn during(&self, n: usize, request: &mut dyn FnMut()) -> Result<bool> {
        self.0.write_all_at(n.to_string().as_bytes(), 0)?;
        request();
        let mut left = [0; 8];
        let bytes = self.0.read_at(&mut left, 0);
        // Whatever is left fails nothing of what comes now.
        self.0.write_all_at(b"0", 0)?;
        Ok(left[..bytes?].trim_ascii() == b"0")
    }
}

/// What came of one request with each of its allocations failing once.
#[derive(Default)]
struct Tally {
    tried: usize,
    refused: usize,
}

impl Tally {
    /// Fails the allocations of one request after the other. `request` runs it by what it is given, and says if it was refused.
    fn of(
        what: &str,
        fail: &FailNth,
        mut request: impl FnMut(&dyn Fn(&mut dyn FnMut()) -> Result<()>) -> Result<bool>,
    ) -> Result<Self> {
        let (mut tally, mut last) = (Self::default(), 0);
        let mut n = 1;
        loop {
            let failed = Cell::new(false);
            let run = |part: &mut dyn FnMut()| {
                failed.set(fail.during(n, part)?);
                Ok(())
            };
            let refused =
                request(&run).with_context(|| format!("{what}, allocation {n} failed"))?;
            if !failed.get() {
                ensure!(!refused, "{what}: refused, and no allocation failed");
                break;
            }
            tally.tried += 1;
            tally.refused += usize::from(refused);
            last = n;
            n += if n < EACH { 1 } else { n / 8 };
            ensure!(n < MOST, "{what}: allocates for ever");
        }
        println!(
            "    {what}: up to {last} allocations, {} of them failed once: {} times refused",
            tally.tried, tally.refused
        );
        Ok(tally)
    }

    /// Where nothing was ever refused, nothing was tested.
    fn require_refusals(self) -> Result<()> {
        ensure!(self.refused > 0, "no allocation mattered");
        Ok(())
    }
}

pub fn every_allocation_may_fail(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    if !Path::new(FAIL_NTH).exists() {
        println!("    no allocation fails on demand with this kernel: nothing to run");
        return Ok(());
    }
    let (peer, memory) = (peer(bed)?, memory()?);
    let fail = FailNth::new()?;
    let _quiet = QuietConsole::new()?;
    opens(&vfs.a, &memory, &fail)?;
    let image = {
        let machine = Machine::open(&vfs.a, &memory)?;
        let mut source = Source {
            vf: &vfs.a,
            device: &machine.device,
            guest: Guest::start(&machine.device, &memory, MAC)?,
            peer: &peer,
        };
        exchange(&mut source.guest, &peer, LAP)?;
        source.captures(&fail)?;
        source.saves(&fail)?;
        source.reads(&fail)?;
        source.releases(&fail)?;
        source.image()?
    };
    // As at a destination, which has never saved, and is captured for each image anew.
    let machine = Machine::open(&vfs.a, &memory)?;
    resumes(&vfs.a, &machine.device, &image, &fail)?;
    starts(&machine.device, &image, &fail)?;
    drop(machine);
    let machine = Machine::open(&vfs.a, &memory)?;
    require_usable(&vfs.a, &machine, &memory, &peer)?;
    memory.check_canaries()
}

/// Every scenario is checked for leaks where kmemleak is; this one checks kmemleak, with a module of the kernel that leaks.
pub fn leaks_are_found(_: &Bed) -> Result<()> {
    if !kernel::finds_leaks() {
        println!("    this kernel does not look for leaks: nothing to run");
        return Ok(());
    }
    // What was leaked before is somebody else's.
    kernel::check_leaks()?;
    // It stays: frames of a module that is gone have the names of what is loaded in its place, and one of its leaks that is
    // found late would be ours.
    command::run("modprobe kmemleak-test")?;
    let mut found = 0;
    for search in 1..=SEARCHES {
        let leaks = kernel::leaks()?;
        let of_module = leaks.iter().filter(|leak| leak.contains("kmemleak_test"));
        found += of_module.count();
        println!("    {found} leaks of the module found after {search} searches");
        if found >= LEAKS_FOUND {
            return Ok(());
        }
    }
    bail!("only {found} of 13 leaks found")
}

/// Opening a VF; one that was refused opens the next time.
fn opens(vf: &str, memory: &Memory, fail: &FailNth) -> Result<()> {
    Tally::of("open", fail, |run| {
        let mut opened = None;
        run(&mut || opened = Some(Machine::open(vf, memory)))?;
        Ok(match opened.context("not asked")? {
            Ok(_) => false,
            Err(_) => {
                Machine::open(vf, memory).context("the next open")?;
                true
            }
        })
    })?
    .require_refusals()
}

/// A VF whose guest has traffic.
struct Source<'a> {
    vf: &'a str,
    device: &'a Device,
    guest: Guest<'a>,
    peer: &'a Peer,
}

impl Source<'_> {
    /// Back in RUNNING, it is assigned again and its guest has noticed nothing.
    fn require_unharmed(&mut self) -> Result<()> {
        let state = self.device.state()?;
        ensure!(state == State::Running, "it is {state:?}");
        require_assigned(self.vf)?;
        exchange(&mut self.guest, self.peer, FEW).map(drop)
    }

    fn image(&mut self) -> Result<Vec<u8>> {
        let (image, _) = save(self.device, || Ok(()))?;
        Ok(image)
    }

    fn captures(&mut self, fail: &FailNth) -> Result<()> {
        Tally::of("capture", fail, |run| {
            let mut result = Ok(None);
            run(&mut || result = self.device.try_state(State::PreCopy as u32))?;
            let refused = match result {
                Ok(file) => {
                    exchange(&mut self.guest, self.peer, FEW)?;
                    self.device.go(State::Running)?;
                    drop(file);
                    false
                }
                Err(error) => is_out_of_memory(error)?,
            };
            self.require_unharmed().map(|()| refused)
        })?
        .require_refusals()
    }

    /// What a save needs may be there since PRE_COPY: then nothing can fail.
    fn saves(&mut self, fail: &FailNth) -> Result<()> {
        Tally::of("save", fail, |run| {
            let file = self.device.open_data(State::PreCopy)?;
            let mut result = Ok(None);
            run(&mut || result = self.device.try_state(State::StopCopy as u32))?;
            let refused = match result {
                Ok(None) => false,
                Ok(Some(_)) => bail!("a second data file"),
                Err(error) => is_out_of_memory(error)?,
            };
            self.device.go(State::Running)?;
            drop(file);
            self.require_unharmed().map(|()| refused)
        })
        .map(drop)
    }
}

impl Source<'_> {
    fn reads(&mut self, fail: &FailNth) -> Result<()> {
        for state in [State::PreCopy, State::PreCopyP2p, State::StopCopy] {
            self.reads_in(state, 0, fail)?;
        }
        let tally = self.reads_in(State::StopCopy, WAITING, fail)?;
        ensure!(tally.tried > 0, "many frames took no memory");
        Ok(())
    }

    /// A read that was refused ends the migration, in whichever state. In STOP_COPY the whole image is read, with the frames that
    /// wait for a guest that takes none.
    fn reads_in(&mut self, state: State, waiting: usize, fail: &FailNth) -> Result<Tally> {
        let what = format!("read in {state:?}, {waiting} frames waiting");
        Tally::of(&what, fail, |run| {
            let mut file = self.device.open_data(State::PreCopy)?;
            if waiting > 0 {
                drain(&mut self.guest)?;
                overfill(self.vf, &self.guest, self.peer, waiting)?;
            }
            if state != State::PreCopy {
                self.device.go(state)?;
            }
            // Touched before, or the allocation that fails is one of a page for it.
            let (mut result, mut part) = (Ok(0), vec![1; CHUNK]);
            run(&mut || loop {
                result = file.read(&mut part);
                if state != State::StopCopy || !matches!(result, Ok(1..)) {
                    break;
                }
            })?;
            let refused = match result {
                Ok(_) => false,
                Err(error) => is_out_of_memory(errno(&error))?,
            };
            self.device.go(State::Running)?;
            // Also what has waited.
            exchange(&mut self.guest, self.peer, FEW)?;
            drop(file);
            self.require_unharmed().map(|()| refused)
        })
    }

    /// Nobody hears of a release that was not possible: it is tried again.
    fn releases(&mut self, fail: &FailNth) -> Result<()> {
        Tally::of("release", fail, |run| {
            let mut file = Some(self.device.open_data(State::PreCopy)?);
            self.device.go(State::Running)?;
            run(&mut || drop(file.take()))?;
            self.require_unharmed().map(|()| false)
        })
        .map(drop)
    }
}

/// The whole of `image`, up to STOP.
fn load(device: &Device, image: &[u8]) -> nix::Result<()> {
    let file = device.try_state(State::Resuming as u32)?;
    let mut file = file.ok_or(Errno::EPROTO)?;
    file.write_all(image).map_err(|e| errno(&e))?;
    device.try_state(State::Stop as u32).map(drop)
}

/// Running what was loaded.
fn starts(device: &Device, image: &[u8], fail: &FailNth) -> Result<()> {
    Tally::of("start", fail, |run| {
        load(device, image).context("all of it")?;
        let mut result = Ok(None);
        run(&mut || result = device.try_state(State::Running as u32))?;
        let refused = match result {
            Ok(_) => false,
            Err(error) => is_out_of_memory(error)?,
        };
        device.reset()?;
        Ok(refused)
    })
    .map(drop)
}

/// A device that cannot take an image takes it the next time.
fn resumes(vf: &str, device: &Device, image: &[u8], fail: &FailNth) -> Result<()> {
    Tally::of("resume", fail, |run| {
        require_assigned(vf)?;
        let mut result = Ok(());
        run(&mut || result = load(device, image))?;
        let refused = match result {
            Ok(()) => false,
            Err(error) => {
                // As QEMU does with a device that has failed.
                device.reset()?;
                load(device, image).context("the next time")?;
                is_out_of_memory(error)?
            }
        };
        device.reset()?;
        Ok(refused)
    })?
    .require_refusals()
}

/// That is the only reason to refuse anything here.
fn is_out_of_memory(error: Errno) -> Result<bool> {
    ensure!(
        matches!(error, Errno::ENOMEM | Errno::ENFILE),
        "refused with {error}"
    );
    Ok(true)
}
