// SPDX-License-Identifier: GPL-2.0
//! The account of a switch-over, datagram by datagram: what the guest sends arrives exactly once, and what it does not get
//! was sent while nobody received for it.

use std::ops::Range;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

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

/// When nobody received for the guest, by CLOCK_MONOTONIC.
#[derive(Clone, Debug)]
pub struct Deaf {
    /// While the source was captured: from before its allocations.
    capture: Range<u64>,
    /// From the source's stop until the destination listened, or, after a cancel, the source again; nothing if it was cancelled
    /// before.
    pub switch: Range<u64>,
    /// While the VF where the guest ended was released.
    release: Range<u64>,
}

/// Datagrams to the guest that were lost, by when they were sent.
#[derive(Default)]
pub struct Loss {
    pub capture: u32,
    pub switch: u32,
    pub release: u32,
}

impl Deaf {
    /// For a migration from `source` to `destination`.
    pub fn between(source: &Status, destination: &Status) -> Result<Self> {
        Ok(Self {
            capture: ending(source, "captured_at_ns", "capture_ns")?,
            switch: source.time("stopped_at_ns")?..destination.time("listening_at_ns")?,
            release: ending(destination, "released_at_ns", "release_ns")?,
        })
    }

    /// For one that was begun at `from` and cancelled.
    pub fn while_cancelled(source: &Status, from: u64) -> Result<Self> {
        let stopped = source.time("stopped_at_ns")?..source.time("started_at_ns")?;
        Ok(Self {
            capture: ending(source, "captured_at_ns", "capture_ns")?,
            // It may have been stopped by then, and started again.
            switch: if stopped.start > from {
                stopped
            } else {
                from..from
            },
            release: ending(source, "released_at_ns", "release_ns")?,
        })
    }
}

fn ending(status: &Status, at: &str, duration: &str) -> Result<Range<u64>> {
    let end = status.time(at)?;
    Ok(end.saturating_sub(status.number(duration)?)..end)
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
        let report = settled(&ledger.probe, guest)?;
        ledger.settled = (report.arrived.end(), ledger.probe.arrived().end());
        Ok(ledger)
    }

    /// Waits until what was sent so far is there, and settles the account since the last time.
    ///
    /// # Errors
    ///
    /// A datagram was lost, doubled or late that must not have been.
    pub fn settle(&mut self, guest: &mut L2, deaf: &Deaf) -> Result<Loss> {
        let report = settled(&self.probe, guest)?;
        let (to_guest, to_client) = self.settled;
        let mut lost = report.arrived.gaps(to_guest).context("to the guest")?;
        let arrived = self.probe.arrived();
        let unsent = arrived.gaps(to_client).context("to the client")?;
        ensure!(
            unsent.is_empty(),
            "the guest has sent {unsent:?}, and nobody got them"
        );
        self.settled = (report.arrived.end(), arrived.end());
        let mut loss = Loss::default();
        // The largest piece first: the times are close to each other, give or take what is under way.
        lost.sort_by_key(|numbers| std::cmp::Reverse(numbers.len()));
        let mut open = vec![
            (&deaf.switch, &mut loss.switch),
            (&deaf.capture, &mut loss.capture),
            (&deaf.release, &mut loss.release),
        ];
        for numbers in lost {
            let sent = self.probe.sent_between(&numbers)?;
            let slack = (UNDER_WAY * kernel::patience()).as_nanos() as u64;
            let explains = |deaf: &Range<u64>| {
                sent.start + slack >= deaf.start && sent.end <= deaf.end + slack
            };
            let Some(at) = open.iter().position(|(deaf, _)| explains(deaf)) else {
                bail!(
                    "{numbers:?} were lost, sent from {:.1} to {:.1} ms, and nobody was deaf then or only once: {deaf:?}",
                    ms(sent.start),
                    ms(sent.end)
                );
            };
            // Each is one piece: frames keep their order.
            *open.swap_remove(at).1 = numbers.len() as u32;
        }
        Ok(loss)
    }

    pub fn finish(self) -> Result<()> {
        self.probe.finish()
    }
}

/// What the guest says, once all that either has sent so far has arrived or is known to be lost.
pub fn settled(probe: &Probe, guest: &mut L2) -> Result<Report> {
    let sent = probe.sent();
    let report = wait_for("what was sent to the guest", SOON, || {
        let report: Report = serde_json::from_str(&guest.agent.sh("@probe")?)?;
        Ok((report.arrived.end() >= sent).then_some(report))
    })?;
    wait_for("what the guest has sent", SOON, || {
        Ok((probe.arrived().end() >= report.sent).then_some(()))
    })?;
    Ok(report)
}
