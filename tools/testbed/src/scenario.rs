// SPDX-License-Identifier: GPL-2.0
//! The end-to-end scenarios: a table, and the running of some of them in one L1.

mod adversary;
mod allocations;
mod basic;
mod bed;
mod bench;
mod cell;
mod control_page;
mod demo;
mod faults;
mod garbage;
mod interruptions;
mod killed;
mod kunit;
mod loss;
mod mappings;
mod network;
mod races;
mod selftests;
mod soak;
mod stream;
mod tracking;
mod two_hosts;
mod vmm_bed;
mod walk;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::job::{self, Outcome, Verdict};
use crate::kernel;
use bed::Bed;
pub use killed::hold;

pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    /// The kernels that the whole test runs it on: `stock`, where a guest and its programs keep time, `debug`, which sees what a
    /// small VMM has the module do wrong, or both, for what shows that the module does its job.
    pub on: &'static [&'static str],
    run: fn(&Bed) -> Result<()>,
}

impl Scenario {
    /// Whether `word` is of its name, or a kernel that the whole test runs it on.
    pub fn is_called(&self, word: &str) -> bool {
        self.name.contains(word) || self.on.contains(&word)
    }
}

macro_rules! scenarios {
    (@on both) => { &["stock", "debug"] };
    (@on $kernel:ident) => { &[stringify!($kernel)] };
    ($($module:ident::$name:ident on $on:ident: $about:literal,)*) => {
        &[$(Scenario {
            name: stringify!($name),
            about: $about,
            on: scenarios!(@on $on),
            run: $module::$name,
        }),*]
    };
}

pub const ALL: &[Scenario] = scenarios! {
    basic::assigned_without_us on stock: "the bed itself: a guest with a VF on plain vfio-pci answers",
    basic::migrate_and_back on both: "A to B and back to A under pings and a TCP stream",
    basic::interface_down on stock: "the guest has its interface down while it migrates",
    basic::driver_never_loaded on stock: "the guest never touched the VF",
    interruptions::cancel_in_precopy on both: "a cancelled migration leaves the guest assigned on the source",
    interruptions::destination_killed on stock: "the destination's QEMU is killed: the guest goes on where it was",
    interruptions::source_killed_on_arrival on stock: "the source's QEMU is killed as soon as the guest runs elsewhere",
    interruptions::guest_reboot_ends_precopy on stock: "a reboot in pre-copy ends the migration, cleanly",
    interruptions::stop_cont_under_traffic on stock: "stop and cont lose no data",
    interruptions::stop_cont_during_migration on stock: "emulated until the saving file is closed",
    interruptions::close_while_emulated on both: "QEMU killed in pre-copy, the VF is usable afterwards",
    adversary::rings_inside_own_bar on both: "descriptors and buffers in the VF's own BAR, captured, released and reset",
    adversary::captures_fault_free on stock: "many captures and releases under traffic, without an IOMMU fault",
    network::mac_pinned_same_on_both on stock: "both administrators pinned the same MAC",
    network::mac_unpinned on stock: "the MAC is the guest's own choice",
    network::mac_pinned_differently_is_refused on stock: "the destination refuses, the source's guest is unharmed",
    network::vlan_100_survives on stock: "a VLAN set in the guest works after the migration",
    network::jumbo_frames on stock: "frames of 8 KiB before and after",
    stream::altered_images_are_refused on both: "images cut, altered, foreign: refused with a reason, the VF is usable",
    tracking::dirty_bitmap_is_exact on both: "every page that the device wrote is reported, and no other",
    tracking::dma_log_is_exact on debug: "the same by the device's own log, where the kernel can report it",
    tracking::paused_guest_is_tracked_unasked on both: "a VM that is paused, tracked and run again without a word is captured all the same",
    tracking::direct_dma_is_missed_by_both_trackers on debug: "the oracle of these two sees what a device writes that nobody tracks",
    mappings::every_mapping_follows on both: "several mappings, descriptors and processes see the same pages, whatever they are",
    races::unmap_races_pin on debug: "unmapping the page that is being pinned",
    races::captures_race_vcpu on both: "captures and releases while a virtual CPU stores to the page that comes and goes",
    races::resets_race_guest_memory on debug: "resets while the worker writes to RAM, or to the BAR that is being reset",
    killed::closed_in_every_state on both: "a VMM killed in every state of its device",
    walk::every_arc_from_every_state on both: "a random walk over states, files and resets",
    allocations::every_allocation_may_fail on debug: "open, capture, save and resume without each of their allocations, where it can be made to fail",
    allocations::leaks_are_found on debug: "the search for leaks that follows scenarios, where there is one, finds those of a module that leaks",
    faults::cable_pulled_in_every_phase on debug: "the PF's cable is pulled and plugged in again",
    faults::pf_reset_in_every_phase on debug: "the PF goes down and up, or gets another MTU",
    faults::destination_pf_is_down on debug: "the destination refuses what its PF does not answer",
    faults::vf_reset_in_every_phase on debug: "resets of the VF by its host, its VMM and its guest",
    faults::guest_driver_in_every_phase on debug: "the guest's driver is loaded again, or plays with the command register",
    faults::cancelled_in_every_phase on debug: "a migration is cancelled in each state that saves",
    faults::module_stays_in_every_phase on debug: "rmmod while the VF is open",
    faults::vfs_go_in_every_phase on both: "VFs are removed, or their PF is unbound, while they are open",
    garbage::garbage_rings_hurt_only_their_queue on debug: "rings, tails and descriptors that make no sense",
    selftests::vfio_selftests on debug: "VFIO's own tests, before and after a capture, where they were built with the kernel",
    kunit::kunit_suites on debug: "what only the kernel can test, where it has KUnit",
    control_page::control_page_mapped_is_unmigratable on both: "a VMM that maps all of BAR 0",
};

/// A search for leaks takes half a minute on the debug kernel, so that so many scenarios have one together.
const SEARCH_EVERY: usize = 6;

/// How the failure of a scenario begins after which L1's kernel log has a warning or worse.
pub const KERNEL_COMPLAINED: &str = "the kernel complained";

const DEMO: Scenario = Scenario {
    name: "demo",
    about: "",
    on: &[],
    run: demo::demo,
};

const SOAK: Scenario = Scenario {
    name: "soak",
    about: "",
    on: &[],
    run: soak::soak,
};

macro_rules! benches {
    ($($part:ident,)*) => {
        [$(Scenario { name: stringify!($part), about: "", on: &[], run: bench::$part }),*]
    };
}

/// The parts of the benchmark.
pub const BENCHES: [Scenario; 8] = benches! {
    steady,
    emulated,
    captures,
    migrations,
    together,
    memory,
    rings,
    profile,
};

const TWO_HOSTS: [Scenario; 2] = [
    Scenario {
        name: "two_hosts",
        about: "",
        on: &[],
        run: two_hosts::two_hosts,
    },
    Scenario {
        name: two_hosts::SECOND,
        about: "",
        on: &[],
        run: two_hosts::second_host,
    },
];

/// Runs scenarios in this L1 until one fails: after a failure the machine is no fair ground for the next.
pub fn run_in_l1(names: &[String], share: &Path) -> Result<()> {
    let host = if names.iter().any(|name| name == two_hosts::SECOND) {
        Host::boot_without_client()?
    } else {
        Host::boot()?
    };
    let mut outcome = Outcome::default();
    for (number, name) in names.iter().enumerate() {
        let scenario = [DEMO, SOAK]
            .iter()
            .chain(&TWO_HOSTS)
            .chain(&BENCHES)
            .chain(ALL)
            .find(|s| s.name == name)
            .with_context(|| format!("no scenario {name}"))?;
        println!("@progress {name}");
        let start = Instant::now();
        let bed = Bed::new(&host, name);
        let done = number + 1;
        let search = done == names.len() || done % SEARCH_EVERY == 0;
        let result = bed.check_kernel_after((scenario.run)(&bed), search);
        bed.save_logs(&share.join("logs").join(name));
        drop(bed);
        let failure = result.err().map(|error| format!("{error:#}"));
        let failed = failure.is_some();
        outcome.verdicts.push(Verdict {
            name: name.clone(),
            failure,
            seconds: start.elapsed().as_secs_f64(),
        });
        outcome.finished = outcome.verdicts.len() == names.len();
        job::save(&job::outcome_file(share), &outcome)?;
        if ![DEMO.name, TWO_HOSTS[0].name, TWO_HOSTS[1].name].contains(&name.as_str()) {
            let kernel = kernel::release();
            let last = &outcome.verdicts[outcome.verdicts.len() - 1];
            match &last.failure {
                None => println!("test {name} on {kernel} ... ok ({:.1} s)", last.seconds),
                Some(why) => println!(
                    "test {name} on {kernel} ... FAILED ({:.1} s)\n    {why}",
                    last.seconds
                ),
            }
        }
        if failed {
            break;
        }
    }
    Ok(())
}
