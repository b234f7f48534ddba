// SPDX-License-Identifier: GPL-2.0
//! A cell of the table of faults: a VF in some phase of a migration, between a small VMM and a client, and what has to come of it.

use std::fs::File;
use std::io::{Read, Write};

use anyhow::{ensure, Context, Result};
use nix::errno::Errno;

use super::bed::{require_assigned, Bed, Vfs};
use super::vmm_bed::{memory, peer, require_usable, vfs, QuietConsole, MAC};
use crate::host::Host;
use crate::vmm::device::Device;
use crate::vmm::guest::Guest;
use crate::vmm::memory::Memory;
use crate::vmm::migration::{errno, load, read_precopy, save, State, Taken};
use crate::vmm::traffic::{exchange, Peer};
use crate::vmm::Machine;

/// Frames each way that show that a guest's driver works.
pub const FEW: usize = 24;
/// As QEMU writes an image.
pub const CHUNK: usize = 4096;

/// Where a migration is when something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Assigned,
    /// Captures and releases, one after the other, at whatever moment of them.
    Switching,
    PreCopy,
    P2p,
    StopCopy,
    /// RUNNING again, and not yet released.
    Emulated,
    /// At the destination, with half of the image.
    Resuming,
    /// At the destination, with all of it.
    Loaded,
    /// At the destination, where the guest runs; the VF is released at any moment.
    Arrived,
}
use Phase::*;

pub const EVERYWHERE: [Phase; 9] = [
    Assigned, Switching, PreCopy, P2p, StopCopy, Emulated, Resuming, Loaded, Arrived,
];
/// Where it is known whether the VF is assigned.
pub const KNOWN: [Phase; 8] = [
    Assigned, Switching, PreCopy, P2p, StopCopy, Emulated, Resuming, Loaded,
];
/// A virtual CPU runs.
pub const GUEST_RUNS: [Phase; 5] = [Assigned, Switching, PreCopy, Emulated, Arrived];
pub const SAVING: [Phase; 3] = [PreCopy, P2p, StopCopy];

impl Phase {
    pub fn is_at_destination(self) -> bool {
        matches!(self, Resuming | Loaded | Arrived)
    }

    /// Brings the source of a migration to a phase that saves: what was read of the image so far, and its file.
    pub fn save_part(self, device: &Device) -> Result<(Vec<u8>, File)> {
        let (mut image, file) = (Vec::new(), device.open_data(State::PreCopy)?);
        read_precopy(&file, &mut image)?;
        match self {
            P2p => device.go(State::PreCopyP2p)?,
            StopCopy => device.go(State::StopCopy)?,
            Emulated => device.go(State::Running)?,
            _ => {}
        }
        Ok((image, file))
    }

    /// Brings the destination to a phase of its own.
    pub fn load_part(self, device: &Device, image: &[u8]) -> Result<File> {
        let mut file = device.open_data(State::Resuming)?;
        if self == Loaded {
            file.write_all(image)?;
            device.go(State::Stop)?;
        } else {
            file.write_all(&image[..image.len() / 2])?;
        }
        Ok(file)
    }
}

/// A capture and a release, each of which may be refused while the device is out of order.
pub fn switch(device: &Device) {
    let saving = device.try_state(State::PreCopy as u32);
    drop((device.try_state(State::Running as u32), saving));
}

/// What has to come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest's driver notices nothing, and a migration under way succeeds.
    GoOn,
    /// The guest's driver finds a VF that was reset; a migration under way has ended.
    SetUpAnew,
}
use Outcome::*;

/// The end of a migration that is struck.
pub struct End<'a> {
    pub host: &'a Host,
    pub pf: usize,
    pub vf: &'a str,
    pub device: &'a Device,
    pub memory: &'a Memory,
}

impl End<'_> {
    pub fn pf_netdev(&self) -> &str {
        &self.host.pfs[self.pf].netdev
    }
}

/// What goes wrong. A guest's driver that is started on the way is the guest's from then on.
pub type Strike = for<'a> fn(&End<'a>) -> Result<Option<Guest<'a>>>;

/// The fault in each of its phases, one after the other on the same two VFs; so each is also the next migration of the last.
pub fn row(
    bed: &Bed,
    what: &str,
    strike: Strike,
    phases: &[Phase],
    outcome: fn(Phase) -> Outcome,
) -> Result<()> {
    let vfs = vfs(bed)?;
    let (memory, peer) = (memory()?, peer(bed)?);
    let _quiet = QuietConsole::new()?;
    for phase in phases {
        println!("@progress {what}, {phase:?}");
        let cell = Cell {
            host: bed.host,
            vfs: &vfs,
            memory: &memory,
            peer: &peer,
            phase: *phase,
        };
        cell.run(strike, outcome(*phase))
            .with_context(|| format!("{what}, {phase:?}"))?;
    }
    for vf in [&vfs.a, &vfs.b] {
        require_usable(vf, &Machine::open(vf, &memory)?, &memory, &peer)
            .with_context(|| format!("{vf} after {what}"))?;
    }
    println!("    {what}: {phases:?}");
    memory.check_canaries()
}

pub struct Cell<'a> {
    pub host: &'a Host,
    pub vfs: &'a Vfs,
    pub memory: &'a Memory,
    pub peer: &'a Peer,
    pub phase: Phase,
}

impl Cell<'_> {
    pub fn end<'a>(&'a self, device: &'a Device) -> End<'a> {
        let at_destination = self.phase.is_at_destination();
        End {
            host: self.host,
            pf: usize::from(at_destination),
            vf: if at_destination {
                &self.vfs.b
            } else {
                &self.vfs.a
            },
            device,
            memory: self.memory,
        }
    }

    fn run(&self, strike: Strike, outcome: Outcome) -> Result<()> {
        let source = Machine::open(&self.vfs.a, self.memory)?;
        let mut guest =
            Guest::start(&source.device, self.memory, MAC).context("the driver cannot start")?;
        exchange(&mut guest, self.peer, FEW).context("before")?;
        if self.phase.is_at_destination() {
            return self.run_at_destination(&source, guest, strike, outcome);
        }
        let device = &source.device;
        let end = self.end(device);
        let mut image = Vec::new();
        let mut file = None;
        let started = match self.phase {
            Assigned => strike(&end)?,
            Switching => std::thread::scope(|scope| {
                let striking = scope.spawn(|| strike(&end));
                while !striking.is_finished() {
                    switch(device);
                }
                striking.join().expect("a strike does not panic")
            })?,
            _ => {
                let (part, saving) = self.phase.save_part(device)?;
                (image, file) = (part, Some(saving));
                strike(&end)?
            }
        };
        guest = started.unwrap_or(guest);
        if outcome == SetUpAnew {
            self.require_ended(&source, file)?;
            guest =
                Guest::start(device, self.memory, MAC).context("the driver cannot start again")?;
        } else if device.state()? != State::Running {
            return self.finish(&source, guest, image, file.context("no file")?);
        } else {
            exchange(&mut guest, self.peer, FEW).context("afterwards")?;
            drop(file);
        }
        exchange(&mut guest, self.peer, FEW).context("afterwards, assigned")?;
        require_assigned(&self.vfs.a).map(drop)
    }

    /// The device is RUNNING and knows nothing of a migration.
    fn require_ended(&self, machine: &Machine, file: Option<File>) -> Result<()> {
        if self.phase == Switching {
            machine.device.go(State::Running)?;
        }
        let state = machine.device.state()?;
        ensure!(state == State::Running, "{state:?}, not RUNNING");
        let Some(mut file) = file else { return Ok(()) };
        let ended = if self.phase.is_at_destination() {
            file.write(&[0]).map_err(|e| errno(&e))
        } else {
            file.read(&mut [0]).map_err(|e| errno(&e))
        };
        ensure!(
            ended == Err(Errno::ENODEV),
            "the data file goes on: {ended:?}"
        );
        Ok(())
    }

    /// Migrates to the destination after all.
    fn finish(
        &self,
        source: &Machine,
        mut guest: Guest<'_>,
        mut image: Vec<u8>,
        mut file: File,
    ) -> Result<()> {
        let device = &source.device;
        if device.state()? == State::PreCopy {
            exchange(&mut guest, self.peer, FEW).context("in PRE_COPY")?;
            read_precopy(&file, &mut image)?;
            device.go(State::PreCopyP2p)?;
        }
        if device.state()? == State::PreCopyP2p {
            device.go(State::StopCopy)?;
        }
        file.read_to_end(&mut image)
            .context("cannot read in STOP_COPY")?;
        let destination = Machine::open(&self.vfs.b, self.memory)?;
        let taken = load(&destination.device, &image, CHUNK)?;
        ensure!(taken == Taken::Accepted, "the destination: {taken:?}");
        self.arrive(source, &destination, guest)
    }

    fn run_at_destination(
        &self,
        source: &Machine,
        guest: Guest<'_>,
        strike: Strike,
        outcome: Outcome,
    ) -> Result<()> {
        let (image, saving) = save(&source.device, || Ok(()))?;
        let destination = Machine::open(&self.vfs.b, self.memory)?;
        let device = &destination.device;
        if self.phase == Arrived {
            let taken = load(device, &image, CHUNK)?;
            ensure!(taken == Taken::Accepted, "the destination: {taken:?}");
            self.strike_arrived(device, guest, strike, outcome)?;
            return source.device.go(State::Stop);
        }
        let mut file = self.phase.load_part(device, &image)?;
        strike(&self.end(device))?;
        if outcome == SetUpAnew {
            self.require_ended(&destination, Some(file))?;
            drop(destination);
            return self.stay(source, guest, saving);
        }
        if self.phase == Resuming {
            file.write_all(&image[image.len() / 2..])
                .context("the rest of the image")?;
            device.go(State::Stop)?;
        }
        self.arrive(source, &destination, guest)
    }

    /// The guest runs at the destination, where it has just been loaded.
    fn strike_arrived<'m>(
        &'m self,
        device: &'m Device,
        mut guest: Guest<'m>,
        strike: Strike,
        outcome: Outcome,
    ) -> Result<()> {
        guest.move_to(device)?;
        device.go(State::Running)?;
        guest = strike(&self.end(device))?.unwrap_or(guest);
        if outcome == SetUpAnew {
            guest = Guest::start(device, self.memory, MAC)
                .context("the driver cannot start at the destination")?;
        }
        exchange(&mut guest, self.peer, FEW).context("at the destination")?;
        require_assigned(&self.vfs.b)?;
        exchange(&mut guest, self.peer, FEW)
            .context("at the destination, assigned")
            .map(drop)
    }

    /// The guest goes on at the destination, where the image was loaded.
    fn arrive<'m>(
        &self,
        source: &Machine,
        destination: &'m Machine,
        mut guest: Guest<'m>,
    ) -> Result<()> {
        guest.move_to(&destination.device)?;
        destination.device.go(State::Running)?;
        exchange(&mut guest, self.peer, FEW).context("at the destination")?;
        require_assigned(&self.vfs.b)?;
        source.device.go(State::Stop)
    }

    /// The migration was given up: the guest goes on at the source.
    pub fn stay(&self, source: &Machine, mut guest: Guest<'_>, file: File) -> Result<()> {
        source.device.go(State::Running)?;
        drop(file);
        exchange(&mut guest, self.peer, FEW).context("at the source again")?;
        require_assigned(&self.vfs.a).map(drop)
    }
}
