// SPDX-License-Identifier: GPL-2.0
//! A guest that goes to and fro between the VFs of its number, one of each PF, and has an address of its own.

use anyhow::Result;

use super::{bind_both, Record};
use crate::l2::{Options, L2};
use crate::migration;
use crate::scenario::bed::{require_assigned, require_ping, Bed};

pub struct Guest {
    number: usize,
    ram_mib: u64,
    /// On which PF it is.
    side: usize,
    pub machine: L2,
}

impl Guest {
    pub fn boot(bed: &Bed, number: usize, side: usize, ram_mib: u64) -> Result<Self> {
        bind_both(
            bed,
            number,
            "semiassign",
            &format!("52:54:00:aa:02:0{number}"),
        )?;
        println!("@progress guest {number} boots");
        let mut machine = start(bed, number, side, ram_mib, false)?;
        machine.wait_booted()?;
        require_ping(&ip(number), 56)?;
        Ok(Self {
            number,
            ram_mib,
            side,
            machine,
        })
    }

    pub fn ip(&self) -> String {
        ip(self.number)
    }

    /// Where it can go.
    pub fn destination(&self, bed: &Bed) -> Result<L2> {
        start(bed, self.number, 1 - self.side, self.ram_mib, true)
    }

    /// Its migration to `destination` was begun: what it took, once the guest is there and its VF assigned.
    pub fn arrive(&mut self, record: &mut Record, subject: &str, destination: L2) -> Result<()> {
        let report = migration::wait(&mut self.machine)?;
        anyhow::ensure!(
            report.status == "completed",
            "{}: migration {}: {}",
            self.machine.name,
            report.status,
            report.error
        );
        let left = std::mem::replace(&mut self.machine, destination);
        self.side = 1 - self.side;
        migration::wait_running(&mut self.machine)?;
        require_assigned(&self.machine.vf)?;
        record.note("QEMU's downtime", "ms", subject, report.downtime_ms as f64);
        record.note("QEMU's total time", "ms", subject, report.total_ms as f64);
        record.note_phases(subject, &left.vf, &self.machine.vf)?;
        left.quit()
    }
}

fn ip(number: usize) -> String {
    format!("10.0.0.{}", 2 + number)
}

fn start(bed: &Bed, number: usize, side: usize, ram_mib: u64, incoming: bool) -> Result<L2> {
    let options = Options {
        incoming,
        ram_mib,
        words: format!("bed.ip={}", ip(number)),
        ..Options::default()
    };
    let name = format!("guest{number}-{}", ["a", "b"][side]);
    L2::start(&bed.folder, &name, &bed.host.vf(side, number)?, &options)
}
