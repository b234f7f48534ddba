// SPDX-License-Identifier: GPL-2.0
//! What QEMU's downtime was spent on, by what it traces at either end, each line with the time of day.

use anyhow::{ensure, Context, Result};

use crate::command;
use crate::l2::L2;

const BEGIN: &str = "src-downtime-start";
/// The phases, each by the checkpoint that ends it.
const PHASES: [(&str, &str); 5] = [
    ("source stops", "src-vm-stopped"),
    (
        "source saves memory, and the devices that save in parts",
        "src-iterable-saved",
    ),
    ("source saves the other devices", "src-non-iterable-saved"),
    ("destination has loaded", "dst-precopy-loadvm-completed"),
    ("destination is ready", "dst-precopy-bh-vm-started"),
];
/// What the guest's interfaces are called in the stream.
const INTERFACES: [&str; 2] = ["/vfio ", "/virtio-net "];
const DAY_MS: f64 = 86_400_000.0;

/// Milliseconds of each phase of a migration, and of the guest's interfaces in them.
pub fn phases(source: &L2, destination: &L2) -> Result<Vec<(&'static str, f64)>> {
    let trace = |end: &L2| command::read(end.file("trace.log"));
    of_traces(&trace(source)?, &trace(destination)?)
}

fn of_traces(source: &str, destination: &str) -> Result<Vec<(&'static str, f64)>> {
    let at = |checkpoint: &str| {
        // The source may have been a destination before.
        let trace = if checkpoint.starts_with("src-") {
            source
        } else {
            destination
        };
        let line = trace.lines().rfind(|line| line.ends_with(checkpoint));
        line.and_then(time_of_day)
            .with_context(|| format!("QEMU has not traced {checkpoint}"))
    };
    let mut phases = Vec::new();
    let mut last = at(BEGIN)?;
    for (name, end) in PHASES {
        let now = at(end)?;
        let ms = (now - last).rem_euclid(DAY_MS);
        ensure!(ms < DAY_MS / 2.0, "QEMU has traced {end} too early");
        phases.push((name, ms));
        last = now;
    }
    phases.push(("interfaces are saved", interfaces(source, "_save ")?));
    phases.push(("interfaces are loaded", interfaces(destination, "_load ")?));
    Ok(phases)
}

/// Of a line such as `2026-11-30T06:00:47.212137Z event …`, in milliseconds.
fn time_of_day(line: &str) -> Option<f64> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    let (hours, minutes, seconds) = (next()?, next()?, next()?);
    Some(((hours * 60.0 + minutes) * 60.0 + seconds) * 1e3)
}

/// The time of all that an event tells of the interfaces, in milliseconds; QEMU gives it in microseconds.
fn interfaces(trace: &str, event: &str) -> Result<f64> {
    let mut lines = trace
        .lines()
        .filter(|line| {
            line.contains(event) && INTERFACES.iter().any(|interface| line.contains(interface))
        })
        .peekable();
    ensure!(
        lines.peek().is_some(),
        "QEMU has traced no{event}of an interface"
    );
    let ms = lines.map(|line| {
        let us = line
            .split_once("downtime=")
            .map(|(_, us)| us.parse::<f64>());
        Ok(us.with_context(|| format!("no time in {line:?}"))?? / 1e3)
    });
    ms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_between_checkpoints_also_of_two_days() {
        let source = "\
            2026-11-29T23:59:59.900000Z vmstate_downtime_checkpoint src-downtime-start\n\
            2026-11-29T23:59:59.950000Z vmstate_downtime_checkpoint src-vm-stopped\n\
            2026-11-29T23:59:59.960000Z vmstate_downtime_save type=iterable idstr=ram instance_id=0 downtime=8000\n\
            2026-11-29T23:59:59.970000Z vmstate_downtime_save type=iterable idstr=0000:00:02.0/vfio instance_id=0 downtime=9000\n\
            2026-11-29T23:59:59.980000Z vmstate_downtime_checkpoint src-iterable-saved\n\
            2026-11-30T00:00:00.010000Z vmstate_downtime_save type=non-iterable idstr=0000:00:02.0/vfio instance_id=0 downtime=500\n\
            2026-11-30T00:00:00.030000Z vmstate_downtime_checkpoint src-non-iterable-saved\n";
        let destination = "\
            2026-11-30T00:00:00.040000Z vmstate_downtime_load type=iterable idstr=0000:00:02.0/vfio instance_id=0 downtime=4000\n\
            2026-11-30T00:00:00.060000Z vmstate_downtime_checkpoint dst-precopy-loadvm-completed\n\
            2026-11-30T00:00:01.060000Z vmstate_downtime_checkpoint dst-precopy-bh-vm-started\n";
        let rounded = |source: &str| {
            let phases = of_traces(source, destination).unwrap().into_iter();
            phases
                .map(|(_, ms)| (ms * 10.0).round() as i64)
                .collect::<Vec<_>>()
        };
        let expected = [500, 300, 500, 300, 10_000, 95, 40];
        assert_eq!(rounded(source), expected);
        // It was a destination before.
        let arrived = "\
            2026-11-29T23:59:58.000000Z vmstate_downtime_load type=non-iterable idstr=0000:00:08.0/virtio-net instance_id=0 downtime=9\n\
            2026-11-29T23:59:59.000000Z vmstate_downtime_checkpoint dst-precopy-loadvm-completed\n";
        assert_eq!(rounded(&format!("{arrived}{source}")), expected);
        assert!(of_traces(source, "").is_err());
        // No interface, and an end before its beginning.
        assert!(of_traces(&source.replace("/vfio", ""), destination).is_err());
        assert!(of_traces(source, &destination.replace("11-30T00", "11-29T23")).is_err());
    }
}
