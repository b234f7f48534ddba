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

    /// Of a part whose rounds take long: half of them, of the usual ones the fewest that leave an interval.
    fn begin_long(part: &'static str) -> Result<Self> {
        let record = Self::begin(part)?;
        Ok(Self {
            rounds: (record.rounds + 2) / 2,
            ..record
        })
    }

    fn note(&mut self, what: &str, unit: &str, subject: &str, value: f64) {
        self.figures.note(self.part, what, unit, subject, value);
    }

    /// What of a migration from VF `left` to VF `arrived` was ours.
    fn note_phases(&mut self, subject: &str, left: &str, arrived: &str) -> Result<()> {
        let (source, destination) = (Status::read(left)?, Status::read(arrived)?);
        let deaf = Deaf::between(&source, &destination)?.switch;
        let mut standing = 0;
        for (what, status, key) in [
            ("request for PRE_COPY", &source, "precopy_ns"),
            ("capture", &source, "capture_ns"),
            ("stop", &source, "stop_ns"),
            ("save", &source, "save_ns"),
            ("load", &destination, "load_ns"),
            ("resume", &destination, "resume_ns"),
            ("release", &destination, "release_ns"),
        ] {
            let ns = status.number(key)?;
            self.note(what, "ms", subject, ms(ns));
            if ["stop", "save", "load", "resume"].contains(&what) {
                standing += ns;
            }
        }
        self.note(
            "stop, save, load and resume together",
            "ms",
            subject,
            ms(standing),
        );
        let ns = deaf.end.saturating_sub(deaf.start);
        self.note("deaf", "ms", subject, ms(ns));
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

/// All loads of one round.
fn run_loads(record: &mut Record, round: u32, subjects: &[Subject]) -> Result<()> {
    for load in Load::ALL {
        for subject in in_turn(subjects, round) {
            run_load(record, subject, load)?;
        }
    }
    record.save()
}

fn run_load(record: &mut Record, subject: &Subject, load: Load) -> Result<()> {
    for (what, unit, value) in load::measure(&subject.ip(), load, LOAD_TIME)? {
        record.note(what, unit, subject.name, value);
    }
    Ok(())
}

/// All of them, in another order from round to round: each comes first, and after each other one, as often.
fn in_turn<T>(all: &[T], round: u32) -> Vec<&T> {
    let round = round as usize;
    let (first, back) = (round % all.len(), round / all.len() % 2 == 1);
    let mut order: Vec<&T> = all[first..].iter().chain(&all[..first]).collect();
    if back {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::in_turn;

    #[test]
    fn whoever_is_measured_comes_first_and_after_each_other_one_as_often() {
        let mut orders: Vec<Vec<&u8>> = (0..6).map(|round| in_turn(&[1, 2, 3], round)).collect();
        orders.sort();
        orders.dedup();
        assert_eq!(orders.len(), 6);
        let two: Vec<Vec<&u8>> = (0..4).map(|round| in_turn(&[1, 2], round)).collect();
        assert_eq!(two, [[&1, &2], [&2, &1], [&2, &1], [&1, &2]]);
    }
}
