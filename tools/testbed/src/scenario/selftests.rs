// SPDX-License-Identifier: GPL-2.0
//! The kernel's own tests of VFIO, unmodified, on a VF that is bound to us.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};

use super::bed::Bed;
use super::vmm_bed::{memory, peer, require_usable, vfs, LAP, MAC};
use crate::command;
use crate::kernel;
use crate::vmm::guest::Guest;
use crate::vmm::migration::State;
use crate::vmm::traffic::exchange;
use crate::vmm::Machine;

const PROGRAMS: [&str; 5] = [
    "vfio_pci_device_test",
    "vfio_dma_mapping_test",
    "vfio_dma_mapping_mmio_test",
    "vfio_iommufd_setup_test",
    "vfio_pci_device_init_perf_test",
];
/// What cannot apply, and why.
const NOT_RUN: [(&str, &str); 2] = [
    (
        "vfio_pci_driver_test",
        "has drivers for IOAT, DSA, one GPU and the PF of the 82576, for no VF",
    ),
    (
        "vfio_pci_sriov_uapi_test",
        "makes VFs of a PF that is bound to vfio-pci",
    ),
];

/// Test by name, and what became of it: `ok`, `not ok` or `skipped`.
type Results = BTreeMap<String, &'static str>;

pub fn vfio_selftests(bed: &Bed) -> Result<()> {
    let Some(folder) = folder() else {
        println!("    no VFIO selftests were built with this kernel: nothing to run");
        return Ok(());
    };
    // Some tests map them, and skip where there are none.
    command::write("/proc/sys/vm/nr_hugepages", "8")?;
    let vfs = vfs(bed)?;
    let peer = peer(bed)?;
    let memory = memory()?;
    let before = run_all(bed, &folder, &vfs.a, "before")?;
    {
        let machine = Machine::open(&vfs.a, &memory)?;
        let mut guest = Guest::start(&machine.device, &memory, MAC)?;
        exchange(&mut guest, &peer, LAP)?;
        let file = machine.device.open_data(State::PreCopy)?;
        exchange(&mut guest, &peer, LAP)?;
        machine.device.go(State::Running)?;
        drop(file);
    }
    let after = run_all(bed, &folder, &vfs.a, "after")?;
    println!("    {:<74} {:<8} after a capture", "test", "before");
    for (name, result) in &before {
        let then = after.get(name).copied().unwrap_or("missing");
        println!("    {name:<74} {result:<8} {then}");
    }
    for (program, why) in NOT_RUN {
        println!("    {program:<74} not run: {why}");
    }
    let failed: Vec<_> = before
        .iter()
        .chain(&after)
        .filter(|(_, result)| **result == "not ok")
        .map(|(name, _)| name.as_str())
        .collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    ensure!(
        before == after,
        "not the same before and after a capture: see the table"
    );
    let machine = Machine::open(&vfs.a, &memory)?;
    require_usable(&vfs.a, &machine, &memory, &peer)
}

/// Where the tests of L1's kernel are: they were built with it.
fn folder() -> Option<PathBuf> {
    let release = kernel::release();
    let name = release.rsplit_once("-semiassign-")?.1;
    let folder = Path::new("/src")
        .join(format!("kernel-{name}"))
        .join("selftests");
    folder.exists().then_some(folder)
}

fn run_all(bed: &Bed, folder: &Path, vf: &str, when: &str) -> Result<Results> {
    let mut results = Results::new();
    for program in PROGRAMS {
        let output = Command::new(folder.join(program))
            .arg(vf)
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        std::fs::create_dir_all(&bed.folder)?;
        std::fs::write(
            bed.folder.join(format!("{program}-{when}.log")),
            [&output.stdout[..], &output.stderr[..]].concat(),
        )?;
        let tests = parse(&said);
        ensure!(
            !tests.is_empty(),
            "{program} ran no test: {}, {}",
            output.status,
            said.lines().last().unwrap_or_default()
        );
        results.extend(
            tests
                .into_iter()
                .map(|(test, result)| (format!("{program} {test}"), result)),
        );
    }
    Ok(results)
}

/// The lines of a TAP report that have a result.
fn parse(report: &str) -> Vec<(String, &'static str)> {
    report
        .lines()
        .filter_map(|line| {
            let line = line.trim();
            let (result, rest) = match line.strip_prefix("not ok ") {
                Some(rest) => ("not ok", rest),
                None => ("ok", line.strip_prefix("ok ")?),
            };
            let (_, test) = rest.split_once(' ')?;
            Some(match test.split_once(" # SKIP") {
                Some((test, _)) => (test.to_owned(), "skipped"),
                None => (test.to_owned(), result),
            })
        })
        .collect()
}
