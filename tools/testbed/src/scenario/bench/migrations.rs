// SPDX-License-Identifier: GPL-2.0
//! The ways to migrate a guest with a fast interface: an assigned VF of ours, virtio-net with vhost, and the failover pair,
//! whose VF the guest gives up for the time. Each has a guest that goes to and fro; all are done as libvirt does it.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use super::{bind_both, join_network, ms, Record, Subject, FAILOVER, SEMIASSIGN, VHOST};
use crate::clock::{self, wait_for, wait_looking_every};
use crate::downtime;
use crate::host;
use crate::l2::{Options, L2};
use crate::migration;
use crate::ping::Pinger;
use crate::probe::Probe;
use crate::scenario::bed::{require_assigned, Bed, SOON};
use crate::scenario::loss::settled;
use crate::tap::Tap;

/// A migration takes less time than the loads of another part's round, and says less.
const TIMES: u32 = 3;
/// The guest's PCI hotplug takes seconds, twice.
const HOTPLUG: Duration = Duration::from_secs(60);
/// How often somebody looks whether the source has completed: QEMU says so, and one would wait for that.
const LOOK: Duration = Duration::from_millis(1);

struct Contender {
    subject: Subject,
    guest: L2,
    /// On which PF it is.
    side: usize,
    taps: Vec<Rc<Tap>>,
}

pub fn migrations(bed: &Bed) -> Result<()> {
    let mut record = Record::begin("migrations")?;
    host::load_semiassign()?;
    bed.host.create_vfs(2)?;
    let mut contenders = [(SEMIASSIGN, 0), (VHOST, 1), (FAILOVER, 2)]
        .into_iter()
        .map(|(name, network)| Contender::start(bed, Subject { name, network }))
        .collect::<Result<Vec<_>>>()?;
    for round in 0..record.rounds * TIMES {
        let first = round as usize % contenders.len();
        contenders.rotate_left(first);
        for contender in &mut contenders {
            let name = contender.subject.name;
            println!("@progress migrations, round {}: {name}", round + 1);
            contender
                .migrate(bed, &mut record)
                .with_context(|| format!("{name}, round {}", round + 1))?;
        }
        contenders.rotate_right(first);
        record.save()?;
    }
    Ok(())
}

impl Contender {
    fn start(bed: &Bed, subject: Subject) -> Result<Self> {
        let mac = mac(&subject);
        let taps = match subject.name {
            SEMIASSIGN => Vec::new(),
            _ => (0..2)
                .map(|pf| tap(bed, &subject, pf))
                .collect::<Result<_>>()?,
        };
        match subject.name {
            SEMIASSIGN => bind_both(bed, 0, "semiassign", &mac)?,
            FAILOVER => bind_both(bed, 1, "vfio-pci", &mac)?,
            _ => {}
        }
        join_network(bed, subject.network)?;
        if let Some(tap) = taps.first() {
            tap.set_up(true)?;
        }
        println!("@progress {}: guest boots", subject.name);
        let mut guest = machine(bed, &subject, 0, &taps, false)?;
        guest.wait_booted()?;
        let mut contender = Self {
            subject,
            guest,
            side: 0,
            taps,
        };
        contender.wait_ready()?;
        Ok(contender)
    }

    /// The guest has all that it is to have.
    fn wait_ready(&mut self) -> Result<()> {
        match self.subject.name {
            SEMIASSIGN => require_assigned(&self.guest.vf).map(drop),
            FAILOVER => wait_for("the pair's VF to be up in the guest", HOTPLUG, || {
                let script = "for n in /sys/class/net/*; do case $(readlink $n/device/driver) in \
                              */igbvf) cat $n/operstate;; esac; done";
                let up = self.guest.agent.sh(script)?.trim() == "up";
                Ok(up.then_some(()))
            }),
            _ => Ok(()),
        }
    }

    fn migrate(&mut self, bed: &Bed, record: &mut Record) -> Result<()> {
        let (name, ip) = (self.subject.name, self.subject.ip());
        let other = 1 - self.side;
        if !self.taps.is_empty() {
            // What waits in one that was used before would reach the guest. It goes before the next one gets its name.
            drop(self.taps.remove(other));
            self.taps.insert(other, tap(bed, &self.subject, other)?);
        }
        let mut next = machine(bed, &self.subject, other, &self.taps, true)?;
        let mut pinger = Pinger::start(&ip)?;
        pinger.require_answers(50, SOON)?;
        let probe = Probe::start(&ip)?;
        wait_for("numbers from the guest", SOON, || {
            Ok((probe.arrived().end() > 0).then_some(()))
        })?;
        let before = settled(&probe, &mut self.guest)?;
        let (to_guest, to_client) = (before.arrived.end(), probe.arrived().end());

        let from = clock::now_ns();
        let uri = migration::connect(&mut self.guest, &mut next)?;
        migration::start(&mut self.guest, &uri)?;
        self.wait_completed()?;
        for (pf, tap) in self.taps.iter().enumerate() {
            tap.set_up(pf == other)?;
        }
        next.cmd("cont")?;
        let report = migration::wait(&mut self.guest)?;
        migration::wait_running(&mut next)?;
        let left = std::mem::replace(&mut self.guest, next);
        self.side = other;
        self.wait_ready()?;
        pinger.require_sound(SOON)?;
        let gap_out = probe.longest_gap(from);

        let after = settled(&probe, &mut self.guest)?;
        let (lost_in, again_in) = after.arrived.account(to_guest);
        let (lost_out, again_out) = probe.arrived().account(to_client);
        let gap_in = longest_loss(&probe, &lost_in)?;
        let count =
            |lost: &[Range<u32>]| lost.iter().map(ExactSizeIterator::len).sum::<usize>() as f64;
        probe.finish()?;
        let pings = pinger.finish()?;
        for (what, unit, value) in [
            ("QEMU's downtime", "ms", report.downtime_ms as f64),
            ("QEMU's total time", "ms", report.total_ms as f64),
            ("longest gap of what the guest sends", "ms", ms(gap_out)),
            (
                "longest gap between answers to pings",
                "ms",
                ms(pings.longest_gap.as_nanos() as u64),
            ),
            (
                "longest time in which all that was sent to the guest was lost",
                "ms",
                ms(gap_in),
            ),
            ("lost to the guest", "datagrams", count(&lost_in)),
            (
                "of these by the guest's own socket",
                "datagrams",
                f64::from(after.overflowed.saturating_sub(before.overflowed)),
            ),
            ("lost from the guest", "datagrams", count(&lost_out)),
            (
                "doubled or late, to the guest",
                "datagrams",
                f64::from(again_in),
            ),
            (
                "doubled or late, from the guest",
                "datagrams",
                f64::from(again_out),
            ),
        ] {
            record.note(what, unit, name, value);
        }
        for (phase, ms) in downtime::phases(&left, &self.guest)? {
            record.note(&format!("QEMU's downtime: {phase}"), "ms", name, ms);
        }
        if name == SEMIASSIGN {
            record.note_phases(name, &left.vf, &self.guest.vf)?;
            record.note("device state", "bytes", name, report.device_bytes as f64);
        }
        left.quit()
    }

    fn wait_completed(&self) -> Result<()> {
        let events = self.guest.qmp.event_list();
        wait_looking_every(LOOK, "the migration to end", HOTPLUG + SOON, || {
            let last = events.lock().ok().and_then(|events| {
                let of = events.iter().rev().find(|event| event.name == "MIGRATION");
                of.and_then(|event| event.data["status"].as_str().map(str::to_owned))
            });
            match last.as_deref() {
                Some("completed") => Ok(Some(())),
                Some(status @ ("failed" | "cancelled")) => {
                    bail!("migration {status}: {}", self.guest.last_words())
                }
                _ => Ok(None),
            }
        })
    }
}

/// By the time at which they were sent, from the first that was lost to the next one that arrived, in nanoseconds.
fn longest_loss(probe: &Probe, lost: &[Range<u32>]) -> Result<u64> {
    let mut longest = 0;
    for piece in lost {
        // With the one behind it, which was sent and has arrived.
        let sent = probe.sent_between(&(piece.start..piece.end + 1))?;
        longest = longest.max(sent.end - sent.start);
    }
    Ok(longest)
}

/// One that is down, as its guest is elsewhere.
fn tap(bed: &Bed, subject: &Subject, pf: usize) -> Result<Rc<Tap>> {
    let name = format!("tap{}{pf}", subject.network);
    let tap = Tap::create(&bed.host.pfs[pf], &name, &mac(subject))?;
    Ok(Rc::new(tap))
}

fn mac(subject: &Subject) -> String {
    format!("52:54:00:aa:01:0{}", subject.network)
}

fn machine(
    bed: &Bed,
    subject: &Subject,
    side: usize,
    taps: &[Rc<Tap>],
    incoming: bool,
) -> Result<L2> {
    let (vf, failover) = match subject.name {
        SEMIASSIGN => (bed.host.vf(side, 0)?, false),
        FAILOVER => (bed.host.vf(side, 1)?, true),
        _ => (String::new(), false),
    };
    let options = Options {
        incoming,
        paused: incoming,
        migratable: !failover,
        failover,
        taps: taps.get(side).cloned().into_iter().collect(),
        words: format!("bed.ip={}", subject.ip()),
        ..Options::default()
    };
    let name = format!("network{}-{}", subject.network, ["a", "b"][side]);
    L2::start(&bed.folder, &name, &vf, &options)
}
