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

/// The guest's ring has 256 descriptors: what the bed sends to it, 1.25 frames a millisecond, takes longer than this to fill it.
const RING: Duration = Duration::from_millis(150);

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
    /// While the guest did not run, by its own account, and its ring was full.
    pub stalled: u32,
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
        let lost = report.arrived.gaps(to_guest).context("to the guest")?;
        let arrived = self.probe.arrived();
        let unsent = arrived.gaps(to_client).context("to the client")?;
        ensure!(
            unsent.is_empty(),
            "the guest has sent {unsent:?}, and nobody got them"
        );
        self.settled = (report.arrived.end(), arrived.end());
        let lost = lost.into_iter().map(|numbers| {
            let sent = self.probe.sent_between(&numbers)?;
            // Who does not run is not heard of.
            let silence = self.probe.silence(sent.start.midpoint(sent.end));
            Ok(Piece {
                numbers,
                sent,
                silence,
            })
        });
        explain(
            lost.collect::<Result<_>>()?,
            deaf,
            report.paused,
            kernel::patience(),
        )
    }

    pub fn finish(self) -> Result<()> {
        self.probe.finish()
    }
}

/// Consecutive datagrams to the guest that were lost.
struct Piece {
    numbers: Range<u32>,
    /// When the first and the last of them were sent.
    sent: Range<u64>,
    /// The time around that in which nothing came from the guest.
    silence: Range<u64>,
}

/// Each piece has its reason: a time in which nobody received, once each, or the one in which the guest did not run and its
/// ring was full. `paused` is the longest such time by its own account.
///
/// # Errors
///
/// One has none.
fn explain(mut lost: Vec<Piece>, deaf: &Deaf, paused: Duration, patience: u32) -> Result<Loss> {
    let slack = (UNDER_WAY * patience).as_nanos() as u64;
    let mut loss = Loss::default();
    // The largest piece first: the times are close to each other, give or take what is under way.
    lost.sort_by_key(|piece| std::cmp::Reverse(piece.numbers.len()));
    let mut open = vec![
        (&deaf.switch, &mut loss.switch),
        (&deaf.capture, &mut loss.capture),
        (&deaf.release, &mut loss.release),
    ];
    let mut stall = None;
    for piece in lost {
        let count = piece.numbers.len() as u32;
        let within = |time: &Range<u64>| {
            piece.sent.start + slack >= time.start && piece.sent.end <= time.end + slack
        };
        if let Some(at) = open.iter().position(|(deaf, _)| within(deaf)) {
            // Each is one piece: frames keep their order.
            *open.swap_remove(at).1 = count;
            continue;
        }
        let silent = length(&piece.silence);
        let full = silent.min(paused) > length(&piece.sent) + RING * patience;
        // The guest may have emptied its ring in between, and no program of it have run: several pieces, of one silence.
        let same = *stall.get_or_insert_with(|| piece.silence.clone()) == piece.silence;
        ensure!(
            full && within(&piece.silence) && same,
            "{:?} were lost, sent from {:.1} to {:.1} ms, and nobody was deaf then or only once: {deaf:?}; \
             the guest was silent for {silent:?} then, and says that it did not run for {paused:?} at most",
            piece.numbers,
            ms(piece.sent.start),
            ms(piece.sent.end),
        );
        println!(
            "    the guest did not run for {silent:?}, and lost {:?}",
            piece.numbers
        );
        loss.stalled += count;
    }
    Ok(loss)
}

fn length(time: &Range<u64>) -> Duration {
    Duration::from_nanos(time.end.saturating_sub(time.start))
}

/// What the guest says, once all that either has sent so far has arrived or is known to be lost.
pub fn settled(probe: &Probe, guest: &mut L2) -> Result<Report> {
    let sent = probe.sent();
    let mut paused = Duration::ZERO;
    let mut report = wait_for("what was sent to the guest", SOON, || {
        let report: Report = serde_json::from_str(&guest.agent.sh("@probe")?)?;
        paused = paused.max(report.paused);
        Ok((report.arrived.end() >= sent).then_some(report))
    })?;
    report.paused = paused;
    wait_for("what the guest has sent", SOON, || {
        Ok((probe.arrived().end() >= report.sent).then_some(()))
    })?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn range(ms: Range<u64>) -> Range<u64> {
        ms.start * MS..ms.end * MS
    }

    /// One a millisecond, with the number of the millisecond it was sent in.
    fn piece(sent: Range<u64>, silence: Range<u64>) -> Piece {
        Piece {
            numbers: sent.start as u32..sent.end as u32,
            sent: range(sent.start..sent.end - 1),
            silence: range(silence),
        }
    }

    fn explained(lost: Vec<Piece>, paused_ms: u64) -> Result<[u32; 4]> {
        let deaf = Deaf {
            capture: range(5000..5010),
            switch: range(6000..6030),
            release: range(7000..7003),
        };
        let loss = explain(lost, &deaf, Duration::from_millis(paused_ms), 1)?;
        Ok([loss.capture, loss.switch, loss.release, loss.stalled])
    }

    #[test]
    fn each_deaf_time_explains_one_piece() {
        let pieces = |times: &[Range<u64>]| {
            let times = times.iter().cloned();
            times.map(|sent| piece(sent, 0..1)).collect::<Vec<_>>()
        };
        let once = pieces(&[5001..5003, 6000..6028, 7000..7001]);
        assert_eq!(explained(once, 0).unwrap(), [2, 28, 1, 0]);
        assert!(explained(pieces(&[6000..6010, 6020..6028]), 0).is_err());
        assert!(explained(vec![piece(3000..3001, 0..1)], 0).is_err());
    }

    #[test]
    fn a_guest_that_did_not_run_lost_what_its_ring_did_not_hold() {
        // 217 ms, 200 after it had stopped; and one that was still lost when its kernel ran again.
        let silence = 3000..3420;
        let lost = || piece(3200..3417, silence.clone());
        assert_eq!(explained(vec![lost()], 420).unwrap(), [0, 0, 0, 217]);
        let more = piece(3419..3420, silence.clone());
        let both = vec![more, lost()];
        assert_eq!(explained(both, 420).unwrap(), [0, 0, 0, 218]);
    }

    #[test]
    fn a_loss_without_such_a_silence_is_ours() {
        let lost = || piece(3200..3417, 3000..3420);
        // It ran, by its own account.
        assert!(explained(vec![lost()], 300).is_err());
        // It was heard of, so that its ring was not full before; or only later.
        assert!(explained(vec![piece(3200..3417, 3190..3420)], 420).is_err());
        assert!(explained(vec![piece(3200..3417, 3300..4000)], 900).is_err());
        // A lone one, between two that arrived.
        assert!(explained(vec![piece(3200..3201, 3199..3202)], 900).is_err());
        // And another one, of another silence.
        let later = piece(4300..4301, 4000..4420);
        assert!(explained(vec![lost(), later], 420).is_err());
    }
}
