// SPDX-License-Identifier: GPL-2.0
//! The kernel that L1 runs: which one it is, how slow it may be, what it has leaked.

use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Result};

use crate::command;

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";
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

/// Has kmemleak look for memory that nobody points to; each leak with the frames that allocated it. `last` waits until no
/// object is too young to be found.
pub fn leaks(last: bool) -> Result<Vec<String>> {
    if !finds_leaks() {
        return Ok(Vec::new());
    }
    if last {
        std::thread::sleep(YOUNG);
    }
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

/// Fails if any memory was leaked that we, or VFIO for us, had allocated.
///
/// Returns all that was found, whoever leaked it.
pub fn check_leaks(last: bool) -> Result<String> {
    let found = leaks(last)?;
    for leak in &found {
        if ["semiassign", "vfio"].iter().any(|who| leak.contains(who)) {
            bail!("leaked: {leak}");
        }
    }
    Ok(found.join("\n"))
}
