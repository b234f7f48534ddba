// SPDX-License-Identifier: GPL-2.0
//! Where the kernel can make an allocation fail, each one of a migration does, once: the request is refused or goes on without,
//! and the device works afterwards. Where it finds leaks, it finds some.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;

use super::bed::{require_assigned, Bed};
use super::vmm_bed::{memory, peer, require_usable, vfs, QuietConsole, LAP, MAC};
use crate::vmm::guest::Guest;
use crate::vmm::memory::Memory;
use crate::vmm::migration::{errno, save, State};
use crate::vmm::traffic::{exchange, Peer};
use crate::vmm::Machine;
use crate::{command, kernel};

const FAIL_NTH: &str = "/proc/thread-self/fail-nth";
/// One after the other up to here, then fewer: what allocates more often does so in a loop.
const EACH: usize = 100;
/// No request of ours allocates so often.
const MOST: usize = 20_000;
/// Frames each way to see that the guest is alive.
const FEW: usize = 3;

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

    /// Runs `request` with the `n`th allocation failing; says whether there was one.
    fn during<R>(&self, n: usize, request: impl FnOnce() -> R) -> Result<(R, bool)> {
        self.0.write_all_at(n.to_string().as_bytes(), 0)?;
        let result = request();
        let mut left = [0; 8];
        // With the count used up this is 0, and nothing of it fails.
        let bytes = self.0.read_at(&mut left, 0);
        self.0.write_all_at(b"0", 0)?;
        let left = String::from_utf8_lossy(&left[..bytes?]).into_owned();
        Ok((result, left.trim() == "0"))
    }
}

/// What came of one request with each of its allocations failing once.
#[derive(Default)]
struct Tally {
    allocations: usize,
    tried: usize,
    refused: usize,
}

impl Tally {
    /// Fails the allocations of `request` one by one; `request` gets the switch for what is to fail, and says if it was refused.
    fn of(
        what: &str,
        fail: &FailNth,
        mut request: impl FnMut(&dyn Fn(&mut dyn FnMut()) -> Result<bool>) -> Result<bool>,
    ) -> Result<Self> {
        let mut tally = Self::default();
        let mut n = 1;
        loop {
            let failed = std::cell::Cell::new(false);
            let switch = |part: &mut dyn FnMut()| {
                let ((), hit) = fail.during(n, part)?;
                failed.set(hit);
                Ok(hit)
            };
            let refused =
                request(&switch).with_context(|| format!("{what}, allocation {n} failed"))?;
            if !failed.get() {
                ensure!(!refused, "{what}: refused, and no allocation failed");
                break;
            }
            tally.tried += 1;
            tally.refused += usize::from(refused);
            tally.allocations = n;
            n += if n < EACH { 1 } else { n / 8 };
            ensure!(n < MOST, "{what}: allocates for ever");
        }
        println!(
            "    {what}: up to {} allocations, {} of them failed once: {} times refused",
            tally.allocations, tally.tried, tally.refused
        );
        Ok(tally)
    }
}

impl Tally {
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
    {
        let machine = Machine::open(&vfs.a, &memory)?;
        let mut guest = Guest::start(&machine.device, &memory, MAC)?;
        exchange(&mut guest, &peer, LAP)?;
        captures(&vfs.a, &machine, &mut guest, &peer, &fail)?;
        saves(&vfs.a, &machine, &mut guest, &peer, &fail)?;
        let (image, _) = save(&machine.device, || Ok(()))?;
        machine.device.go(State::Running)?;
        resumes(&machine, &image, &fail)?;
    }
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
    kernel::leaks(true)?;
    command::run("modprobe kmemleak-test")?;
    command::run("rmmod kmemleak_test")?;
    let leaks = kernel::leaks(true)?;
    let found = leaks.iter().filter(|leak| leak.contains("kmemleak_test"));
    let found = found.count();
    println!("    {found} of 25 leaks found");
    // A stale pointer on a stack may hide one or two.
    ensure!(found >= 15, "only {found} of 25 leaks found");
    Ok(())
}

/// Opening a VF; one that was refused opens the next time.
fn opens(vf: &str, memory: &Memory, fail: &FailNth) -> Result<()> {
    Tally::of("open", fail, |switch| {
        let mut opened = None;
        switch(&mut || opened = Some(Machine::open(vf, memory)))?;
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

/// A refused capture leaves the guest with its VF.
fn captures(
    vf: &str,
    machine: &Machine,
    guest: &mut Guest<'_>,
    peer: &Peer,
    fail: &FailNth,
) -> Result<()> {
    let device = &machine.device;
    Tally::of("capture", fail, |switch| {
        let mut result = Ok(None);
        switch(&mut || result = device.try_state(State::PreCopy as u32))?;
        let refused = match result {
            Ok(file) => {
                exchange(guest, peer, FEW)?;
                device.go(State::Running)?;
                drop(file);
                false
            }
            Err(error) => {
                require_out_of_memory(error)?;
                ensure!(
                    device.state()? == State::Running,
                    "it is {:?}",
                    device.state()?
                );
                true
            }
        };
        require_assigned(vf)?;
        exchange(guest, peer, FEW)?;
        Ok(refused)
    })?
    .require_refusals()
}

/// A device whose last state cannot be saved goes on running. What it needs for that may be there since PRE_COPY.
fn saves(
    vf: &str,
    machine: &Machine,
    guest: &mut Guest<'_>,
    peer: &Peer,
    fail: &FailNth,
) -> Result<()> {
    let device = &machine.device;
    Tally::of("save", fail, |switch| {
        let file = device.open_data(State::PreCopy)?;
        let mut result = Ok(None);
        switch(&mut || result = device.try_state(State::StopCopy as u32))?;
        let refused = match result {
            Ok(None) => false,
            Ok(Some(_)) => bail!("a second data file"),
            Err(error) => {
                require_out_of_memory(error)?;
                true
            }
        };
        device.go(State::Running)?;
        drop(file);
        require_assigned(vf)?;
        exchange(guest, peer, FEW)?;
        Ok(refused)
    })
    .map(drop)
}

/// A device that cannot take an image takes it the next time.
fn resumes(machine: &Machine, image: &[u8], fail: &FailNth) -> Result<()> {
    let device = &machine.device;
    let load = || -> nix::Result<()> {
        let file = device.try_state(State::Resuming as u32)?;
        let mut file = file.ok_or(Errno::EPROTO)?;
        file.write_all(image).map_err(|e| errno(&e))?;
        device.try_state(State::Stop as u32).map(drop)
    };
    Tally::of("resume", fail, |switch| {
        let mut result = Ok(());
        switch(&mut || result = load())?;
        if let Err(error) = result {
            require_out_of_memory(error)?;
            // As QEMU does with a device that has failed.
            device.reset()?;
            load().context("the next time")?;
        }
        device.reset()?;
        Ok(result.is_err())
    })
    .and_then(Tally::require_refusals)
}

fn require_out_of_memory(error: Errno) -> Result<()> {
    ensure!(
        matches!(error, Errno::ENOMEM | Errno::ENFILE),
        "refused with {error}"
    );
    Ok(())
}
