// SPDX-License-Identifier: GPL-2.0
//! A guest that nobody migrates: what it costs that its VF could.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result};

use super::{in_turn, run_loads, tap, vf, Record, Subject, SEMIASSIGN, VFIO_PCI, VHOST};
use crate::command;
use crate::host;
use crate::l2::{Options, L2};
use crate::load::{self, Load};
use crate::scenario::bed::{require_assigned, Bed, GUEST_MAC, OTHER_MAC};
use crate::trace::{self, Event};

/// The first page of BAR 0 has the mailbox, and traps.
const PAGE: u64 = 0x1000;
const TAP_MAC: &str = "52:54:00:aa:00:03";
/// What a user's read, write or ioctl of a VFIO device comes to first.
const REQUESTS: [&str; 3] = [
    "vfio_device_fops_read",
    "vfio_device_fops_write",
    "vfio_device_fops_unl_ioctl",
];

pub fn steady(bed: &Bed) -> Result<()> {
    let mut record = Record::begin("steady")?;
    host::load_semiassign()?;
    let rounds = record.rounds;
    // An emulated PF is not equally fast for each of its VFs, nor the guest for each of its interfaces, so that each is
    // somebody else's as often, also if the rounds are not a multiple of four.
    let lives = [(0, true), (1, true), (1, false), (0, false)];
    for (number, (ours, first)) in (0..).zip(lives) {
        let rounds = rounds * number / 4..rounds * (number + 1) / 4;
        if !rounds.is_empty() {
            live(bed, &mut record, ours, first, rounds)?;
        }
    }
    record.save()
}

/// The life of a guest in which VF `ours` is on semiassign, and its `first` interface or its second.
fn live(
    bed: &Bed,
    record: &mut Record,
    ours: usize,
    first: bool,
    rounds: Range<u32>,
) -> Result<()> {
    bed.host.create_vfs(2)?;
    let plain = vf(bed, 1 - ours, "vfio-pci", OTHER_MAC)?;
    let ours = vf(bed, ours, "semiassign", GUEST_MAC)?;
    let options = Options {
        plain_vfs: vec![plain.clone()],
        vf_slot: if first { 2 } else { 4 },
        taps: vec![tap(bed, 0, "tap0", TAP_MAC)?],
        ..Options::default()
    };
    let mut guest = bed.source(&ours, &options)?;
    let subjects = [VFIO_PCI, SEMIASSIGN, VHOST];
    let subjects = subjects.map(|name| {
        let (network, netdev) = match name {
            VHOST => (2, "eth2"),
            name if (name == SEMIASSIGN) == first => (0, "eth0"),
            _ => (1, "eth1"),
        };
        (Subject { name, network }, netdev)
    });
    for (subject, netdev) in &subjects {
        subject
            .connect(bed, &mut guest, netdev)
            .with_context(|| format!("the interface of {}", subject.name))?;
    }
    let subjects = subjects.map(|(subject, _)| subject);
    for vf in [&plain, &ours] {
        host::spread_interrupts(vf)?;
    }
    let [by_vfio_pci, by_us, _] = &subjects;
    let counted = [
        Counted {
            subject: by_vfio_pci,
            vf: &plain,
            bar: bar0(&mut guest, "03")?,
        },
        Counted {
            subject: by_us,
            vf: &ours,
            bar: bar0(&mut guest, if first { "02" } else { "04" })?,
        },
    ];
    for round in rounds {
        println!("@progress steady state, round {}", round + 1);
        run_loads(record, round, &subjects)?;
        count_exits(record, round, &guest, &counted)?;
    }
    count_requests(record, &counted)?;
    let captures = require_assigned(&ours)?.number("captures")?;
    record.note(
        "captures while nobody migrated",
        "",
        SEMIASSIGN,
        captures as f64,
    );
    guest.quit()
}

/// A VF of the guest, with whose interface it is.
struct Counted<'a> {
    subject: &'a Subject,
    vf: &'a str,
    /// Where the guest has BAR 0, first byte and last.
    bar: (u64, u64),
}

/// What the host is called for while packets flow. Counted apart: that takes time of its own.
fn count_exits(
    record: &mut Record,
    round: u32,
    guest: &L2,
    counted: &[Counted<'_>; 2],
) -> Result<()> {
    for load in [Load::SmallIn, Load::SmallOut] {
        for Counted { subject, vf, bar } in in_turn(counted, round) {
            let events = [
                Event {
                    name: "kvm/kvm_mmio".to_owned(),
                    filter: format!("gpa >= {} && gpa <= {}", bar.0 + PAGE, bar.1),
                },
                // Proves that exits are counted.
                Event {
                    name: "kvm/kvm_exit".to_owned(),
                    filter: String::new(),
                },
            ];
            let (before, started) = (accesses(guest, vf)?, Instant::now());
            let (figures, hits) = trace::count(&events, || {
                load::measure(&subject.ip(), load, super::LOAD_TIME)
            })?;
            let seconds = started.elapsed().as_secs_f64();
            // The driver looks at its statistics and its mailbox now and then, whatever it sends.
            let calls = (accesses(guest, vf)? - before) as f64 / seconds;
            let (what, _, rate) = figures[0];
            let packets = rate * super::LOAD_TIME.as_secs_f64();
            for (of, unit, value) in [
                (
                    "exits by pages 1 to 3 of BAR 0",
                    "a packet",
                    hits[0] as f64 / packets,
                ),
                ("exits of all kinds", "a packet", hits[1] as f64 / packets),
                ("packets meanwhile", "a second", rate),
                ("QEMU's accesses to the VF's regions", "a second", calls),
            ] {
                record.note(&format!("{what}: {of}"), unit, subject.name, value);
            }
        }
    }
    Ok(())
}

/// Requests of any kind that reach VFIO, of all devices, while packets flow both ways.
fn count_requests(record: &mut Record, counted: &[Counted<'_>; 2]) -> Result<()> {
    for Counted { subject, .. } in counted {
        let started = Instant::now();
        let ((), calls) = trace::count_calls(&REQUESTS, || {
            for load in [Load::SmallIn, Load::SmallOut] {
                load::measure(&subject.ip(), load, super::LOAD_TIME)?;
            }
            Ok(())
        })?;
        let rate = calls.iter().sum::<u64>() as f64 / started.elapsed().as_secs_f64();
        record.note(
            "requests to VFIO, of both VFs",
            "a second",
            subject.name,
            rate,
        );
    }
    Ok(())
}

/// How often QEMU has read or written a region of the VF: what traps, and each of them is a call into its driver.
fn accesses(guest: &L2, vf: &str) -> Result<u64> {
    let trace = command::read(guest.file("trace.log"))?;
    let of = |line: &&str| line.contains("vfio_region_") && line.contains(vf);
    Ok(trace.lines().filter(of).count() as u64)
}

/// Where the guest has it, first byte and last.
fn bar0(guest: &mut L2, slot: &str) -> Result<(u64, u64)> {
    let text = guest.agent.sh(&format!(
        "head -n 1 /sys/bus/pci/devices/0000:00:{slot}.0/resource"
    ))?;
    let mut words = text.split_whitespace().map(|word| {
        let digits = word.trim_start_matches("0x");
        u64::from_str_radix(digits, 16).with_context(|| format!("BAR 0 is {text:?}"))
    });
    let mut next = || words.next().context("no BAR 0")?;
    Ok((next()?, next()?))
}
