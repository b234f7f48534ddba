// SPDX-License-Identifier: GPL-2.0
//! The suites that only the kernel can run, each on a VF that was opened just now and whose rings are enabled.

use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};

use super::bed::Bed;
use super::vmm_bed::{memory, peer, require_usable, vfs, QuietConsole, LAP, MAC};
use crate::command;
use crate::vmm::guest::Guest;
use crate::vmm::traffic::exchange;
use crate::vmm::Machine;

const KUNIT: &str = "/sys/kernel/debug/kunit";

pub fn kunit_suites(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let mut suites: Vec<String> = fs::read_dir(KUNIT)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("semiassign"))
        .collect();
    suites.sort();
    if suites.is_empty() {
        ensure!(
            !Path::new(KUNIT).exists(),
            "this kernel has KUnit, and the module brings no suite"
        );
        println!("    this kernel has no KUnit: nothing to run");
        return Ok(());
    }
    let peer = peer(bed)?;
    let memory = memory()?;
    let mut passed = 0;
    for suite in suites {
        {
            let machine = Machine::open(&vfs.a, &memory)?;
            let mut guest = Guest::start(&machine.device, &memory, MAC)?;
            exchange(&mut guest, &peer, LAP)?;
            // Its tests provoke what the log warns of.
            let _quiet = QuietConsole::new()?;
            passed += run(&suite)?;
        }
        // Whatever was done to it, the next user finds a VF that works.
        let machine = Machine::open(&vfs.a, &memory)?;
        require_usable(&vfs.a, &machine, &memory, &peer)
            .with_context(|| format!("after {suite}"))?;
    }
    println!("    {passed} tests of KUnit passed");
    memory.check_canaries()
}

/// Runs a suite by KUnit's debugfs: how many tests passed.
fn run(suite: &str) -> Result<usize> {
    let folder = Path::new(KUNIT).join(suite);
    command::write(folder.join("run"), "1")?;
    let results = command::read(folder.join("results"))?;
    let is_result = |line: &&str| line.starts_with("    ok ") || line.starts_with("    not ok ");
    let tests = || results.lines().filter(is_result).map(str::trim);
    for line in tests() {
        println!("    {suite}: {line}");
    }
    ensure!(
        !results.contains("not ok") && tests().all(|line| !line.contains("# SKIP")),
        "{suite}: not all tests passed; the kernel's log has `kunit:` lines"
    );
    let passed = tests().count();
    ensure!(passed > 0, "{suite} ran no test: {results}");
    Ok(passed)
}
