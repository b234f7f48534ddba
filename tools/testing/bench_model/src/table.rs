// SPDX-License-Identifier: GPL-2.0

//! The results, as Markdown.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::case::{self, Case};

/// Steps of the first run under callgrind; the second has twice as many.
pub const STEPS: u32 = 100;

/// One case.
struct Cost {
    nanoseconds: f64,
    instructions: f64,
}

impl Cost {
    /// What criterion and callgrind have left below `dir`, for one frame or image.
    fn read(dir: &Path, case: Case) -> Result<Self> {
        let (name, units) = (case.name(), f64::from(case.units()));
        let estimates = dir.join(format!("criterion/model/{name}/new/estimates.json"));
        let text = fs::read_to_string(&estimates)
            .with_context(|| format!("no result of criterion in {}", estimates.display()))?;
        let estimates: serde_json::Value = serde_json::from_str(&text)?;
        let nanoseconds = estimates["median"]["point_estimate"]
            .as_f64()
            .context("a result of criterion without a median")?;
        // Whatever comes before and after the steps is in both runs.
        let (once, twice) = (total(dir, &name, 1)?, total(dir, &name, 2)?);
        let steps = f64::from(STEPS);
        Ok(Self {
            nanoseconds: nanoseconds / units,
            instructions: (twice - once) / steps / units,
        })
    }
}

/// Instructions of a whole run.
fn total(dir: &Path, name: &str, run: u32) -> Result<f64> {
    let path = dir.join(format!("callgrind/{name}.{run}"));
    let text = fs::read_to_string(&path)
        .with_context(|| format!("no result of callgrind in {}", path.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.context("a run without a total")?.trim().parse()?)
}

/// The table of what was measured below `dir`.
///
/// # Errors
///
/// A result is missing.
pub fn of(dir: &Path) -> Result<String> {
    let (mut frames, mut images, mut harness) = (String::new(), String::new(), Vec::new());
    for case in case::all() {
        let Cost {
            nanoseconds,
            instructions,
        } = Cost::read(dir, case)?;
        let cost = format!("{nanoseconds:.0} | {instructions:.0} |");
        match case {
            Case::Relay(setup) => writeln!(
                frames,
                "| {} | {} | {} | {} | {cost}",
                if setup.sends { "TX" } else { "RX" },
                setup.frame_bytes,
                if setup.split { "split" } else { "one" },
                if setup.tracked { "on" } else { "off" },
            )?,
            Case::Harness(setup) => harness.push(format!(
                "{nanoseconds:.1} ns and {instructions:.1} instructions of a {} frame",
                if setup.sends { "TX" } else { "RX" }
            )),
            Case::Save(held) => writeln!(images, "| saved | {held} | {cost}")?,
            Case::Load(held) => writeln!(images, "| loaded | {held} | {cost}")?,
        }
    }
    Ok(format!(
        "| frames | bytes | buffers | dirty log | ns/frame | instructions/frame |\n\
         |---|---|---|---|---|---|\n{frames}\n\
         Of these, the guest's part is {}.\n\n\
         | image | held frames | ns | instructions |\n|---|---|---|---|\n{images}",
        harness.join(", ")
    ))
}
