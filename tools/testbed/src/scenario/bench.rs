// SPDX-License-Identifier: GPL-2.0
//! What L1 measures for `bed bench`: the subjects of a part are measured in turn, in the same life of the bed, so that a
//! machine that is slower for a while is so for all.

mod emulated;
mod guest;
mod memory;
mod migrations;
mod profile;
mod rings;
mod steady;
mod together;

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{bail, Result};

use super::bed::{require_ping, Bed};
use super::loss::Deaf;
use crate::bench::{figures_file, Figures};
use crate::host;
use crate::job::{self, Job, SHARE};
use crate::l2::L2;
use crate::load::{self, Load};
use crate::namespace;
use crate::status::Status;
use crate::tap::Tap;

pub use emulated::{captures, emulated};
pub use memory::memory;
pub use migrations::migrations;
pub use profile::profile;
pub use rings::rings;
pub use steady::steady;
pub use together::together;

/// Long enough for a TCP connection to find its speed.
const LOAD_TIME: Duration = Duration::from_secs(2);

pub const SEMIASSIGN: &str = "semiassign";
pub const VFIO_PCI: &str = "vfio-pci";
pub const VHOST: &str = "virtio-net, vhost";
pub const FAILOVER: &str = "failover pair";

/// What has been measured so far, kept in the share after each round: an L1 that dies leaves what it had.
struct Record {
    part: &'static str,
    rounds: u32,
    figures: Figures,
}

impl Record {
    fn begin(part: &'static str) -> Result<Self> {
        let Job::Bench { rounds, .. } = job::load(&job::job_file(Path::new(SHARE)))? else {
            bail!("L1 was not asked for a benchmark");
        };
        Ok(Self {
            part,
            rounds,
            figures: Figures::default(),
        })
    }

    fn note(&mut self, what: &str, unit: &str, subject: &str, value: f64) {
        self.figures.note(self.part, what, unit, subject, value);
    }

    /// What of a migration from VF `left` to VF `arrived` was ours.
    fn note_phases(&mut self, subject: &str, left: &str, arrived: &str) -> Result<()> {
        let (source, destination) = (Status::read(left)?, Status::read(arrived)?);
        let deaf = Deaf::between(&source, &destination)?.switch;
        for (what, ns) in [
            ("deaf", deaf.end.saturating_sub(deaf.start)),
            ("capture", source.number("capture_ns")?),
            ("stop", source.number("stop_ns")?),
            ("resume", destination.number("resume_ns")?),
            ("release", destination.number("release_ns")?),
        ] {
            self.note(what, "ms", subject, ms(ns));
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        job::save(&figures_file(Path::new(SHARE), self.part), &self.figures)
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// One of the guest's interfaces, in a network of its own.
struct Subject {
    name: &'static str,
    network: u8,
}

impl Subject {
    fn ip(&self) -> String {
        format!("10.0.{}.2", self.network)
    }

    /// Gives the guest's interface and the client their addresses. The first one has them from the start.
    fn connect(&self, bed: &Bed, guest: &mut L2, netdev: &str) -> Result<()> {
        if self.network != 0 {
            // Or each interface would answer for the addresses of the others.
            guest.agent.sh(&format!(
                "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore; echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce; \
                 ip addr add {}/24 dev {netdev} && ip link set {netdev} up",
                self.ip()
            ))?;
            join_network(bed, self.network)?;
        }
        require_ping(&self.ip(), 56)
    }
}

/// The client's address in a network.
fn join_network(bed: &Bed, network: u8) -> Result<()> {
    namespace::run(&format!(
        "ip addr replace 10.0.{network}.1/24 dev {}",
        bed.host.client_netdev
    ))
    .map(drop)
}

/// A VF of the first PF with a driver and a MAC.
fn vf(bed: &Bed, number: usize, driver: &str, mac: &str) -> Result<String> {
    bed.host.pin_mac(0, number, mac)?;
    let vf = bed.host.vf(0, number)?;
    host::bind(&vf, driver)?;
    Ok(vf)
}

/// The VFs of that number of both PFs, for a guest that goes from one to the other.
fn bind_both(bed: &Bed, number: usize, driver: &str, mac: &str) -> Result<()> {
    for pf in 0..bed.host.pfs.len() {
        bed.host.pin_mac(pf, number, mac)?;
        host::bind(&bed.host.vf(pf, number)?, driver)?;
    }
    Ok(())
}

fn tap(bed: &Bed, pf: usize, name: &str, mac: &str) -> Result<Rc<Tap>> {
    let tap = Tap::create(&bed.host.pfs[pf], name, mac)?;
    tap.set_up(true)?;
    Ok(Rc::new(tap))
}

/// All loads of one round; who comes first changes from round to round.
fn run_loads(record: &mut Record, round: u32, subjects: &[Subject]) -> Result<()> {
    for load in Load::ALL {
        for turn in 0..subjects.len() {
            let subject = &subjects[(turn + round as usize) % subjects.len()];
            for (what, unit, value) in load::measure(&subject.ip(), load, LOAD_TIME)? {
                record.note(what, unit, subject.name, value);
            }
        }
    }
    record.save()
}
