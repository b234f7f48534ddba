// SPDX-License-Identifier: GPL-2.0
//! What goes wrong on a host while a VF migrates: the rows of Documentation/faults.md that need no virtual machine, each in
//! every phase in which it can happen.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::bed::{Bed, SOON};
use super::cell::{
    row, switch, Cell, End, Outcome::*, Phase, Phase::*, CHUNK, EVERYWHERE, FEW, GUEST_RUNS, KNOWN,
    SAVING,
};
use super::vmm_bed::{bounded, memory, peer, require_usable, vfs, QuietConsole, MAC};
use crate::clock::wait_for;
use crate::host::device;
use crate::status::Status;
use crate::vmm::device::{Device, BUS_MASTER, MEMORY_SPACE};
use crate::vmm::guest::Guest;
use crate::vmm::memory::Memory;
use crate::vmm::migration::{load, save, State, Taken};
use crate::vmm::traffic::{exchange, Peer};
use crate::vmm::Machine;
use crate::{cable, command, host, kernel};

pub fn cable_pulled_in_every_phase(bed: &Bed) -> Result<()> {
    row(
        bed,
        "the PF's cable pulled, plugged",
        pull_cable,
        &EVERYWHERE,
        |_| GoOn,
    )
}

pub fn pf_reset_in_every_phase(bed: &Bed) -> Result<()> {
    // A guest that has the VF for itself has to see that its PF was reset.
    let outcome = |phase| match phase {
        Assigned | Switching => SetUpAnew,
        _ => GoOn,
    };
    row(bed, "the PF down, up", pf_down_up, &KNOWN, outcome)?;
    row(bed, "the PF's MTU changed", pf_mtu, &KNOWN, outcome)
}

pub fn vf_reset_in_every_phase(bed: &Bed) -> Result<()> {
    let anew = |_| SetUpAnew;
    row(bed, "reset by sysfs", reset_by_sysfs, &EVERYWHERE, anew)?;
    row(bed, "reset by the VMM", reset_by_vmm, &EVERYWHERE, anew)?;
    row(bed, "FLR by the guest", flr, &GUEST_RUNS, anew)
}

pub fn guest_driver_in_every_phase(bed: &Bed) -> Result<()> {
    let go_on = |_| GoOn;
    row(bed, "driver loaded again", load_driver, &GUEST_RUNS, go_on)?;
    row(bed, "bus mastering off, on", bus_master, &GUEST_RUNS, go_on)?;
    row(bed, "memory decoding off, on", decoding, &GUEST_RUNS, go_on)?;
    let phases = [Assigned, PreCopy, Emulated];
    row(
        bed,
        "stopped with decoding off",
        stop_undecoded,
        &phases,
        go_on,
    )?;
    // In the others, with a virtual CPU and QEMU: `stop_cont_under_traffic` and `stop_cont_during_migration`.
    let phases = [Assigned, Arrived];
    row(bed, "stopped, continued", stop_cont, &phases, go_on)
}

pub fn cancelled_in_every_phase(bed: &Bed) -> Result<()> {
    row(bed, "cancelled", cancel, &SAVING, |_| GoOn)
}

pub fn module_stays_in_every_phase(bed: &Bed) -> Result<()> {
    row(bed, "rmmod semiassign", rmmod, &EVERYWHERE, |_| GoOn)
}

fn pull_cable<'a>(end: &End<'a>) -> Result<Option<Guest<'a>>> {
    for plugged in [false, true] {
        cable::plug(end.pf, plugged)?;
        wait_carrier(end, plugged)?;
    }
    Ok(None)
}

fn pf_down_up<'a>(end: &End<'a>) -> Result<Option<Guest<'a>>> {
    for to in ["down", "up"] {
        command::run(&format!("ip link set {} {to}", end.pf_netdev()))?;
    }
    wait_carrier(end, true).map(|()| None)
}

fn pf_mtu<'a>(end: &End<'a>) -> Result<Option<Guest<'a>>> {
    for mtu in [2000, 1500] {
        command::run(&format!("ip link set {} mtu {mtu}", end.pf_netdev()))?;
    }
    wait_carrier(end, true).map(|()| None)
}

/// A VF sends and receives nothing before its PF has a link.
fn wait_carrier(end: &End<'_>, on: bool) -> Result<()> {
    let carrier = format!("/sys/class/net/{}/carrier", end.pf_netdev());
    wait_for(&format!("{carrier} to be {}", u8::from(on)), SOON, || {
        Ok(((command::read(&carrier)?.trim() == "1") == on).then_some(()))
    })
}

fn reset_by_sysfs<'a>(end: &End<'a>) -> Result<Option<Guest<'a>>> {
    command::write(device(end.vf).join("reset"), "1").map(|()| None)
}

fn reset_by_vmm<'a>(end: &End<'a>) -> Result<Option<Guest<'a>>> {
    end.device.reset().map(|()| None)
}

fn flr<'a>(end: &End<'a>) -> Result<Option<Guest<'a>>> {
    end.device.flr().map(|()| None)
}

fn load_driver<'a>(end: &End<'a>) -> Result<Option<Guest<'a>>> {
    Guest::start(end.device, end.memory, MAC).map(Some)
}

fn bus_master<'a>(end: &End<'a>) -> Result<Option<Guest<'a>>> {
    blink(end.device, BUS_MASTER)
}

fn decoding<'a>(end: &End<'a>) -> Result<Option<Guest<'a>>> {
    blink(end.device, MEMORY_SPACE)
}

/// As a guest that is in the middle of finding out the size of a BAR. A function of silicon decodes all the same.
fn stop_undecoded<'a>(end: &End<'a>) -> Result<Option<Guest<'a>>> {
    let (stopped, running) = match end.device.state()? {
        State::PreCopy => (State::PreCopyP2p, State::PreCopy),
        _ => (State::Stop, State::Running),
    };
    end.device.set_command(MEMORY_SPACE, false)?;
    end.device.go(stopped)?;
    let mode = Status::read(end.vf)?.mode().to_owned();
    ensure!(mode == "emulated", "stopped, and its VF {mode}");
    end.device.go(running)?;
    end.device.set_command(MEMORY_SPACE, true).map(|()| None)
}

fn stop_cont<'a>(end: &End<'a>) -> Result<Option<Guest<'a>>> {
    end.device.go(State::Stop)?;
    end.device.go(State::Running).map(|()| None)
}

/// Clears a bit of the command register for as long as a worker that idles takes to notice, and sets it again.
fn blink<'a>(device: &Device, bit: u16) -> Result<Option<Guest<'a>>> {
    device.set_command(bit, false)?;
    std::thread::sleep(Duration::from_millis(30));
    device.set_command(bit, true)?;
    Ok(None)
}

fn cancel<'a>(end: &End<'a>) -> Result<Option<Guest<'a>>> {
    end.device.go(State::Running).map(|()| None)
}

fn rmmod<'a>(_: &End<'a>) -> Result<Option<Guest<'a>>> {
    let refused = command::run("rmmod semiassign");
    ensure!(
        refused
            .as_ref()
            .is_err_and(|why| format!("{why:#}").contains("in use")),
        "rmmod of a module in use: {refused:?}"
    );
    Ok(None)
}

/// The PF of the destination is down for longer than the migration waits: the guest stays where it is.
pub fn destination_pf_is_down(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let (memory, peer) = (memory()?, peer(bed)?);
    let cell = Cell {
        host: bed.host,
        vfs: &vfs,
        memory: &memory,
        peer: &peer,
        phase: Resuming,
    };
    let source = Machine::open(&vfs.a, &memory)?;
    let mut guest = Guest::start(&source.device, &memory, MAC)?;
    exchange(&mut guest, &peer, FEW)?;
    let (image, file) = save(&source.device, || Ok(()))?;
    let destination = Machine::open(&vfs.b, &memory)?;
    let end = cell.end(&destination.device);
    command::run(&format!("ip link set {} down", end.pf_netdev()))?;
    let taken = load(&destination.device, &image, CHUNK)?;
    ensure!(
        matches!(taken, Taken::RefusedByWrite(_)),
        "with its PF down, the destination: {taken:?}"
    );
    command::run(&format!("ip link set {} up", end.pf_netdev()))?;
    wait_carrier(&end, true)?;
    drop(destination);
    cell.stay(&source, guest, file)?;
    // The next one has its rings in the same memory.
    drop(source);
    let again = Machine::open(&vfs.b, &memory)?;
    require_usable(&vfs.b, &again, &memory, &peer)
}

/// VFs that go away, by `sriov_numvfs` or with their PF's driver: the VMM is asked to let go, does, and they are gone.
pub fn vfs_go_in_every_phase(bed: &Bed) -> Result<()> {
    let _quiet = QuietConsole::new()?;
    let (memory, peer) = (memory()?, peer(bed)?);
    // What the VF sees is the same either way: with the whole PF only where it matters what else goes. And not under lockdep:
    // igb takes its VFs away without pci_rescan_remove_lock when it is unbound, whoever has them.
    let unbound: &[Phase] = if kernel::is_debug() {
        &[]
    } else {
        &[Assigned, PreCopy, Loaded]
    };
    for (unbind, phases) in [(false, &KNOWN[..]), (true, unbound)] {
        for phase in phases {
            println!("@progress VFs go, {phase:?}");
            go_away(bed, &memory, &peer, *phase, unbind)
                .with_context(|| format!("PF unbound: {unbind}, {phase:?}"))?;
        }
        println!("    VFs go, PF unbound {unbind}: {phases:?}");
    }
    memory.check_canaries()
}

fn go_away(bed: &Bed, memory: &Memory, peer: &Peer, phase: Phase, unbind: bool) -> Result<()> {
    let vfs = vfs(bed)?;
    let source = Machine::open(&vfs.a, memory)?;
    let mut guest = Guest::start(&source.device, memory, MAC)?;
    exchange(&mut guest, peer, FEW)?;
    let (mut files, mut destination) = (Vec::new(), None);
    if phase.is_at_destination() {
        let (image, file) = save(&source.device, || Ok(()))?;
        let machine = destination.insert(Machine::open(&vfs.b, memory)?);
        files.extend([file, phase.load_part(&machine.device, &image)?]);
    } else if !matches!(phase, Assigned | Switching) {
        files.push(phase.save_part(&source.device)?.1);
    }
    let pf = bed.host.pfs[usize::from(destination.is_some())].bdf;
    let device = &destination.as_ref().unwrap_or(&source).device;
    let asked = device.requests()?;
    let going = std::thread::spawn(move || {
        if unbind {
            command::write("/sys/bus/pci/drivers/igb/unbind", pf)
        } else {
            command::write(host::device(pf).join("sriov_numvfs"), "0")
        }
    });
    wait_for("the VMM to be asked", SOON, || {
        if phase == Switching {
            switch(device);
        }
        Ok(asked.is_asked()?.then_some(()))
    })?;
    ensure!(!going.is_finished(), "the VF went while it was open");
    drop(files);
    if destination.take().is_some() {
        source.device.go(State::Running)?;
        exchange(&mut guest, peer, FEW).context("at the source again")?;
    } else {
        drop(source);
    }
    bounded("the VF to go", move || {
        going.join().map_err(|_| anyhow::anyhow!("panicked"))?
    })?;
    if unbind {
        bed.host.rebind_pf(pf)?;
    }
    Ok(())
}
