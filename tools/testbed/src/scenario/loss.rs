// SPDX-License-Identifier: GPL-2.0
//! The account of a switch-over, datagram by datagram: what the guest sends arrives exactly once, and what it does not get
//! was sent while nobody received for it.

use std::ops::Range;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::bed::SOON;
use crate::clock::{ms, wait_for};
use crate::host::GUEST_IP;
use crate::kernel;
use crate::l2::L2;
use crate::probe::{Probe, Report};
use crate::status::Status;

/// From the client's send to the VF there is another QEMU with its threads; longer than that is nothing under way.
const UNDER_WAY: Duration = Duration::from_millis(50);

pub struct Ledger {
    probe: Probe,
    /// Numbers that the account so far is about: of the client, of the guest.
    settled: (u32, u32),
}

/// When nobody received for the guest, by CLOCK_MONOTONIC: from the source's stop until the destination listens.
pub fn deaf_between(source: &Status, destination: &Status) -> Result<Range<u64>> {
    Ok(source.time("stopped_at_ns")?..destination.time("listening_at_ns")?)
}

/// The same for a migration that was cancelled after `from`, if it came so far.
pub fn deaf_while(source: &Status, from: u64) -> Result<Option<Range<u64>>> {
    let deaf = source.time("stopped_at_ns")?..source.time("started_at_ns")?;
    Ok((deaf.start > from && deaf.start < deaf.end).then_some(deaf))
}

impl Ledger {
    pub fn start(guest: &mut L2) -> Result<Self> {
        let mut ledger = Self {
            probe: Probe::start(GUEST_IP)?,
            settled: (0, 0),
        };
        wait_for("numbers from the guest", SOON, || {
            Ok((ledger.probe.arrived().end() > 0).then_some(()))
        })?;
        // What was lost until both ends were there is not ours.
        let report = ledger.report(guest)?;
        ledger.settled = (report.arrived.end(), ledger.probe.arrived().end());
        Ok(ledger)
    }

    /// Waits until what was sent so far is there, and settles the account since the last time: how many datagrams to the
    /// guest were lost. `deaf` is when nobody received.
    ///
    /// # Errors
    ///
    /// A datagram was lost, doubled or late that must not have been.
    pub fn settle(&mut self, guest: &mut L2, deaf: Option<Range<u64>>) -> Result<u32> {
        let report = self.report(guest)?;
        let (to_guest, to_client) = self.settled;
        let lost = report.arrived.gaps(to_guest).context("to the guest")?;
        let arrived = self.probe.arrived();
        let unsent = arrived.gaps(to_client).context("to the client")?;
        ensure!(
            unsent.is_empty(),
            "the guest has sent {unsent:?}, and nobody got them"
        );
        self.settled = (report.arrived.end(), arrived.end());
        let Some(numbers) = lost.first() else {
            return Ok(0);
        };
        ensure!(lost.len() == 1, "lost in more than one piece: {lost:?}");
        let sent = self.probe.sent_between(numbers)?;
        let deaf = deaf.with_context(|| format!("{numbers:?} were lost, and nobody was deaf"))?;
        let slack = (UNDER_WAY * kernel::patience()).as_nanos() as u64;
        ensure!(
            sent.start + slack >= deaf.start && sent.end <= deaf.end + slack,
            "{numbers:?} were lost, sent from {:.1} to {:.1} ms, and nobody received from {:.1} to {:.1} ms",
            ms(sent.start),
            ms(sent.end),
            ms(deaf.start),
            ms(deaf.end)
        );
        Ok(numbers.end - numbers.start)
    }

    /// What the guest says, once all that either has sent so far has arrived or is known to be lost.
    fn report(&self, guest: &mut L2) -> Result<Report> {
        let sent = self.probe.sent();
        let report = wait_for("what was sent to the guest", SOON, || {
            let report: Report = serde_json::from_str(&guest.agent.sh("@probe")?)?;
            Ok((report.arrived.end() >= sent).then_some(report))
        })?;
        wait_for("what the guest has sent", SOON, || {
            Ok((self.probe.arrived().end() >= report.sent).then_some(()))
        })?;
        Ok(report)
    }

    pub fn finish(self) -> Result<()> {
        self.probe.finish()
    }
}
