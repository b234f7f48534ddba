// SPDX-License-Identifier: GPL-2.0
//! `bed bench`: what semiassign costs and gives, measured beside what users would pick instead, and the report of it.

mod figures;
mod plot;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, Context, Result};

use crate::command;
use crate::job::{self, Job};
use crate::kernel;
use crate::l1::{host_path, BUILD};
use crate::l1_qemu;
use crate::scenario;
use crate::soak;
use crate::suite::Series;
pub use figures::{percentile, Figures};

/// One round of whichever part, ten times what it takes.
const LIMIT_ROUND: Duration = Duration::from_secs(600);
/// The guests of a part boot.
const LIMIT_BOOTS: Duration = Duration::from_secs(600);

/// Where L1 leaves the figures of a part.
pub fn figures_file(share: &Path, part: &str) -> PathBuf {
    share.join(format!("figures-{part}.json"))
}

/// What the figures are of.
fn environment() -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let version = |program: &str| -> Result<String> {
        let text = command::run(&format!("{program} --version"))?;
        let line = text.lines().next().unwrap_or_default();
        Ok(line.trim_start_matches("QEMU emulator version ").to_owned())
    };
    let l2 = version("qemu-system-x86_64")?;
    let l1 = if l1_qemu::is_emulated() {
        let own = version(l1_qemu::EMULATOR).unwrap_or_else(|_| l2.clone());
        format!("under TCG of QEMU {own}")
    } else {
        "under KVM".to_owned()
    };
    let date = command::run("date -u +%F")?;
    Ok(format!(
        "{}, {cores} cores{}; L1 {l1}, with {}; the guest under KVM of QEMU {l2}; semiassign.ko {}. The adapters are emulated, and the guest is \
         nested: compare what is in one table, the times are not those of hardware.",
        date.trim(),
        processor().map_or(String::new(), |name| format!(" of {name}")),
        kernel::release(),
        &soak::module()?[..8],
    ))
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(": ")?.1.to_owned())
}

/// Measures the parts whose names contain `word`, and writes the report of these.
pub fn bench(word: Option<&str>, rounds: u32) -> Result<bool> {
    let all = scenario::BENCHES.map(|part| part.name);
    let mut parts = all.map(str::to_owned).to_vec();
    parts.retain(|part| word.is_none_or(|word| part.contains(word)));
    if parts.is_empty() {
        bail!("no part is called {word:?}, only {all:?}");
    }
    let series = Series {
        title: "bench".to_owned(),
        job: &|parts| Job::Bench { parts, rounds },
        limit_each: LIMIT_BOOTS + LIMIT_ROUND * rounds,
    };
    let results = series.run(parts)?;
    let mut figures = Figures::default();
    for (part, folder) in &results.verdicts {
        let file = figures_file(folder, &part.name);
        if file.exists() {
            figures.append(job::load(&file)?);
        }
    }
    let folder = Path::new(BUILD).join("bench");
    // Or pictures of another run would seem to be of this one.
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    report::write(&folder, &environment()?, &figures)?;
    println!("bench: the report: {}", host_path(&folder));
    results.print();
    Ok(results.failed().is_empty())
}
