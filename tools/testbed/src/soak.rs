// SPDX-License-Identifier: GPL-2.0
//! Many migrations in a row, in legs of a life of L1 each. What is done is kept, so that a soak that was interrupted goes on.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use crate::bench::percentile;
use crate::command;
use crate::job::{self, Job};
use crate::kernel;
use crate::l1::{boot, host_path, BUILD};

/// Migrations of a leg: enough to see memory go, few enough to start anew often.
const LEG: u32 = 100;
/// Migrations of a leg until its caches are full.
const WARM_UP: usize = 5;
/// A migration takes about 5 s, and has to take less than this.
const LIMIT_EACH: Duration = Duration::from_secs(60);
const LIMIT_BOOT: Duration = Duration::from_secs(300);

/// One of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Migration {
    /// How it ended: completed, or cancelled.
    pub status: String,
    pub downtime_ms: u64,
    /// The longest time between two answers to pings, which are 10 ms apart.
    pub gap_ms: u64,
    pub lost: u64,
    pub device_bytes: u64,
    /// From the source's stop until the destination listened.
    pub deaf_us: u64,
    /// Datagrams to the guest that were lost: in the capture, then, and in the release. From the guest none may be.
    pub lost_datagrams: [u32; 3],
    /// And others, because their guest did not run.
    #[serde(default)]
    pub lost_stalled: u32,
    /// What L1's kernel had for itself afterwards.
    pub kernel_kib: u64,
}

impl Migration {
    pub fn file(share: &Path) -> PathBuf {
        share.join("migrations.json")
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Soak {
    /// The checksum of semiassign.ko.
    module: String,
    legs: Vec<Vec<Migration>>,
    /// A leg runs, or was interrupted.
    running: bool,
    failure: Option<String>,
}

/// Goes on until `count` migrations are done, or cancelled, or one fails.
pub fn soak(count: u32, cancel: bool) -> Result<bool> {
    let kind = if cancel { "cancels" } else { "soak" };
    let name = format!("{kind}-{}", kernel::release());
    let file = Path::new(BUILD).join(format!("{name}.json"));
    let share = Path::new(BUILD).join("run").join(&name);
    let mut soak: Soak = if file.exists() {
        job::load(&file).context("delete it to begin anew")?
    } else {
        Soak {
            module: module()?,
            ..Soak::default()
        }
    };
    if soak.module != module()? {
        bail!(
            "{} is of another semiassign.ko; delete it to begin anew",
            host_path(&file)
        );
    }
    if std::mem::take(&mut soak.running) {
        println!("soak: the last leg was interrupted; what it had done counts");
        soak.legs.push(migrations(&share));
        job::save(&file, &soak)?;
    }
    loop {
        let done = soak.done();
        let cancelled = soak
            .legs
            .iter()
            .flatten()
            .filter(|m| m.status == "cancelled");
        println!(
            "soak: {done} of {count} migrations, {} of them cancelled",
            cancelled.count()
        );
        soak.print();
        if let Some(failure) = &soak.failure {
            println!(
                "soak: FAILED: {failure}\nsoak: delete {} to begin anew",
                host_path(&file)
            );
            return Ok(false);
        }
        let left = count.saturating_sub(done);
        if left == 0 {
            let leaks = soak.growth().is_some_and(|growth| growth.is_leak());
            if leaks {
                println!("soak: FAILED: the kernel's memory is not flat");
            }
            return Ok(!leaks);
        }
        let leg = left.min(LEG);
        // Or one that is interrupted before it begins would count what another has done.
        match fs::remove_file(Migration::file(&share)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => soak.running = true,
        }
        job::save(&file, &soak)?;
        let run = boot(
            &name,
            &Job::Soak { count: leg, cancel },
            (LIMIT_BOOT + LIMIT_EACH * leg) * kernel::patience(),
        )?;
        soak.running = false;
        let done = migrations(&run.folder);
        let short = || {
            (done.len() != leg as usize)
                .then(|| format!("passed, and noted {} of {leg} migrations", done.len()))
        };
        soak.failure = run
            .failure()
            .or_else(short)
            .map(|why| format!("{why}; logs: {}", host_path(&run.folder)));
        soak.legs.push(done);
        job::save(&file, &soak)?;
    }
}

/// What is soaked, or measured: its checksum.
pub fn module() -> Result<String> {
    let file = Path::new(BUILD)
        .join(kernel::release())
        .join("semiassign.ko");
    let line = command::run(&format!("sha256sum {}", file.display()))?;
    Ok(line
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

fn migrations(share: &Path) -> Vec<Migration> {
    job::load(&Migration::file(share)).unwrap_or_default()
}

impl Soak {
    fn done(&self) -> u32 {
        self.legs.iter().map(|leg| leg.len() as u32).sum()
    }

    fn print(&self) {
        let row = |what: &str, unit: &str, of: fn(&Migration) -> u64| {
            let mut values: Vec<u64> = self.legs.iter().flatten().map(of).collect();
            values.sort_unstable();
            if let [.., max] = values.as_slice() {
                let rank = |percent| percentile(&values, percent).unwrap_or_default();
                let (p50, p99) = (rank(50), rank(99));
                println!("  {what:<14} p50 {p50}, p99 {p99}, max {max} {unit}");
            }
        };
        row("downtime", "ms", |m| m.downtime_ms);
        row("longest gap", "ms", |m| m.gap_ms);
        row("pings lost", "", |m| m.lost);
        row("device state", "bytes", |m| m.device_bytes);
        row("deaf", "us", |m| m.deaf_us);
        row("lost, capture", "datagrams", |m| m.lost_datagrams[0].into());
        row("lost, switch", "datagrams", |m| m.lost_datagrams[1].into());
        row("lost, release", "datagrams", |m| m.lost_datagrams[2].into());
        row("lost, stalled", "datagrams", |m| m.lost_stalled.into());
        for (number, leg) in self.legs.iter().enumerate() {
            if let [.., last] = leg.as_slice() {
                println!(
                    "  leg {:<3} {:>3} migrations, kernel memory {} KiB after the last",
                    number + 1,
                    leg.len(),
                    last.kernel_kib
                );
            }
        }
        if let Some(Growth { kib, error }) = self.growth() {
            println!("  kernel memory  {kib:+.1} KiB a migration, standard error {error:.1}");
        }
    }

    /// By least squares: the legs have a slope in common, and each where it begins.
    fn growth(&self) -> Option<Growth> {
        let (mut points, mut legs) = (Vec::new(), 0);
        for leg in &self.legs {
            // Without its first migrations: caches fill.
            let steady = leg.get(WARM_UP..).unwrap_or_default();
            if steady.len() < 2 {
                continue;
            }
            legs += 1;
            let kib = || steady.iter().map(|m| m.kernel_kib as f64);
            let (count, sum) = (steady.len() as f64, kib().sum::<f64>());
            let from_middle = |at: usize| at as f64 - (count - 1.0) / 2.0;
            points.extend(
                kib()
                    .enumerate()
                    .map(|(at, kib)| (from_middle(at), kib - sum / count)),
            );
        }
        let free = points
            .len()
            .checked_sub(legs + 1)
            .filter(|free| *free > 0)?;
        let total = |of: fn(f64, f64) -> f64| points.iter().map(|(x, y)| of(*x, *y)).sum::<f64>();
        let squares = total(|x, _| x * x);
        let kib = total(|x, y| x * y) / squares;
        let left = points
            .iter()
            .map(|(x, y)| (y - kib * x).powi(2))
            .sum::<f64>();
        let error = (left / free as f64 / squares).sqrt();
        Some(Growth { kib, error })
    }
}

/// Of the kernel's memory with each migration.
struct Growth {
    kib: f64,
    /// Of that, by chance.
    error: f64,
}

impl Growth {
    /// More than a page, and that is hardly chance.
    fn is_leak(&self) -> bool {
        self.kib - 3.0 * self.error > 4.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Legs of 100 migrations, with what each has and some noise.
    fn soak(kib: fn(leg: u64, migration: u64) -> u64) -> Soak {
        let noise = |n: u64| n * 7919 % 10_007;
        let migration = |leg: u64, number: u64| Migration {
            status: "completed".to_owned(),
            downtime_ms: 0,
            gap_ms: 0,
            lost: 0,
            device_bytes: 0,
            deaf_us: 0,
            lost_datagrams: [0; 3],
            lost_stalled: 0,
            kernel_kib: 80_000 + noise(100 * leg + number) + kib(leg, number),
        };
        let leg = |leg| (0..100).map(|number| migration(leg, number)).collect();
        Soak {
            legs: (0..5).map(leg).collect(),
            ..Soak::default()
        }
    }

    #[test]
    fn memory_that_grows_with_each_migration_is_a_leak_however_noisy() {
        let growth = soak(|_, number| 64 * number).growth().unwrap();
        assert!((growth.kib - 64.0).abs() < 3.0 * growth.error);
        assert!(growth.is_leak());
    }

    #[test]
    fn memory_that_differs_from_leg_to_leg_or_grows_at_first_is_none() {
        for kib in [
            |leg, _| 20_000 * leg,
            |_, number: u64| number.min(WARM_UP as u64) * 3000,
        ] {
            let growth = soak(kib).growth().unwrap();
            assert!(growth.kib.abs() < 3.0 * growth.error, "{}", growth.kib);
            assert!(!growth.is_leak());
        }
    }

    #[test]
    fn of_too_few_migrations_nothing_is_known() {
        assert!(Soak::default().growth().is_none());
    }
}
