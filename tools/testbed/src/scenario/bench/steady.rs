// SPDX-License-Identifier: GPL-2.0
//! A guest that nobody migrates: what it costs that its VF could.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result};

use super::{run_loads, tap, vf, Record, Subject, SEMIASSIGN, VFIO_PCI, VHOST};
use crate::command;
use crate::host;
use crate::l2::{Options, L2};
use crate::load::{self, Load};
use crate::scenario::bed::{require_assigned, Bed, GUEST_MAC, OTHER_MAC};
use crate::trace::{self, Event};

/// The first page of BAR 0 has the mailbox, and traps.
const PAGE: u64 = 0x1000;
const TAP_MAC: &str = "52:54:00:aa:00:03";

pub fn steady(bed: &Bed) -> Result<()> {
    let mut record = Record::begin("steady")?;
    host::load_semiassign()?;
    let rounds = record.rounds;
    // An emulated PF is not equally fast for each of its VFs, nor the guest for each of its interfaces, so that each is
    // somebody else's as often.
    let lives = [(0, true), (1, true), (0, false), (1, false)];
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
    for round in rounds {
        println!("@progress steady state, round {}", round + 1);
        run_loads(record, round, &subjects)?;
    }
    let [by_vfio_pci, by_us, _] = &subjects;
    let slots = [
        (by_vfio_pci, plain.as_str(), "03"),
        (by_us, &ours, if first { "02" } else { "04" }),
    ];
    count_exits(record, &mut guest, slots)?;
    let captures = require_assigned(&ours)?.number("captures")?;
    record.note(
        "captures while nobody migrated",
        "",
        SEMIASSIGN,
        captures as f64,
    );
    guest.quit()
}

/// What the host is called for while packets flow. Counted apart: that takes time of its own.
fn count_exits(
    record: &mut Record,
    guest: &mut L2,
    slots: [(&Subject, &str, &str); 2],
) -> Result<()> {
    for (subject, vf, slot) in slots {
        let (start, end) = bar0(guest, slot)?;
        let events = [
            Event {
                name: "kvm/kvm_mmio",
                filter: format!("gpa >= {} && gpa <= {end}", start + PAGE),
            },
            // Proves that exits are counted.
            Event {
                name: "kvm/kvm_exit",
                filter: String::new(),
            },
        ];
        let (before, started) = (accesses(guest, vf)?, Instant::now());
        let (packets, hits) = trace::count(&events, || {
            let mut packets = 0.0;
            for load in [Load::SmallIn, Load::SmallOut] {
                let figures = load::measure(&subject.ip(), load, super::LOAD_TIME)?;
                packets += figures[0].2 * super::LOAD_TIME.as_secs_f64();
            }
            Ok(packets)
        })?;
        let a_packet = |count: u64| count as f64 / packets;
        let seconds = started.elapsed().as_secs_f64();
        // The driver looks at its statistics and its mailbox now and then, whatever it sends.
        let calls = (accesses(guest, vf)? - before) as f64 / seconds;
        for (what, unit, value) in [
            (
                "exits by pages 1 to 3 of BAR 0",
                "a packet",
                a_packet(hits[0]),
            ),
            ("exits of all kinds", "a packet", a_packet(hits[1])),
            ("calls of the VFIO driver", "a second", calls),
        ] {
            record.note(what, unit, subject.name, value);
        }
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
