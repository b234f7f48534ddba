// SPDX-License-Identifier: GPL-2.0
//! The kernel that L1 runs: which one it is, how slow it may be, what it has leaked.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use crate::command;

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";
const STACK_DEPOT: &str = "/sys/kernel/debug/stackdepot/stats";
/// Of a pool of it: DEPOT_POOL_ORDER is 2 (lib/stackdepot.c).
const DEPOT_POOL_KIB: u64 = 16;
/// kmemleak takes no object for leaked that is younger.
const YOUNG: Duration = Duration::from_secs(5);
/// Processes that take the stacks of those that are gone: each CPU keeps two.
const NEW_STACKS: usize = 60;

/// The release of L1's kernel, in the build root as in L1.
pub fn release() -> String {
    std::env::var("SEMIASSIGN_KERNEL").unwrap_or_else(|_| {
        let name = nix::sys::utsname::uname();
        name.map_or(String::new(), |name| {
            name.release().to_string_lossy().into_owned()
        })
    })
}

/// One that checks every access and every lock.
pub fn is_debug() -> bool {
    release().ends_with("-debug")
}

/// One that reports what a driver logs: QEMU migrates a VF by default there.
pub fn reports_logs() -> bool {
    release().contains("-semiassign-")
}

/// How many times longer than on a stock kernel things may take.
pub fn patience() -> u32 {
    if is_debug() {
        5
    } else {
        1
    }
}

/// Whether memory that nobody points to can be found.
pub fn finds_leaks() -> bool {
    Path::new(KMEMLEAK).exists()
}

/// Has kmemleak look for memory that nobody points to; each leak with the frames that allocated it.
pub fn leaks() -> Result<Vec<String>> {
    if !finds_leaks() {
        return Ok(Vec::new());
    }
    std::thread::sleep(YOUNG);
    // Stacks of processes that are gone are kept for the next ones, and what they point to is not taken for leaked.
    for _ in 0..NEW_STACKS {
        command::run("true")?;
    }
    // The first scan sees an object for the first time, and takes it for one that has just changed.
    for _ in 0..2 {
        command::write(KMEMLEAK, "scan")?;
    }
    let found = command::read(KMEMLEAK)?;
    command::write(KMEMLEAK, "clear")?;
    let leaks = found.split("unreferenced object").skip(1);
    Ok(leaks.map(|leak| leak.trim().to_owned()).collect())
}

/// Fails if any memory was leaked since the last search that we, or VFIO for us, had allocated.
///
/// Returns all that was found, whoever leaked it.
pub fn check_leaks() -> Result<String> {
    let found = leaks()?;
    for leak in &found {
        if ["semiassign", "vfio"].iter().any(|who| leak.contains(who)) {
            bail!("leaked: {leak}");
        }
    }
    Ok(found.join("\n"))
}

/// Memory that is neither free nor a process's nor a cache's: slabs, stacks, page tables, and pages that drivers took. Without the
/// stack traces that a debug kernel keeps.
pub fn memory_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let of = |key: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
            .with_context(|| format!("/proc/meminfo has no {key}"))
    };
    let known = [
        "MemFree:",
        "Buffers:",
        "Cached:",
        "AnonPages:",
        "SReclaimable:",
    ];
    let total = of("MemTotal:")?.saturating_sub(stack_traces_kib()?);
    known
        .into_iter()
        .try_fold(total, |left, key| Ok(left.saturating_sub(of(key)?)))
}

/// What a debug kernel knows of who has allocated what: each new trace is kept for good.
fn stack_traces_kib() -> Result<u64> {
    if !Path::new(STACK_DEPOT).exists() {
        return Ok(0);
    }
    let text = command::read(Path::new(STACK_DEPOT))?;
    let pools = text.lines().find_map(|line| line.strip_prefix("pools:"));
    let pools: u64 = pools
        .with_context(|| format!("{STACK_DEPOT} has no pools"))?
        .trim()
        .parse()?;
    Ok(pools * DEPOT_POOL_KIB)
}
