// SPDX-License-Identifier: GPL-2.0
//! One program in three places: in the build root it boots L1, in L1 it is the init that runs scenarios, in L2 it is the guest.

mod agent;
mod bench;
mod cable;
mod clock;
mod command;
mod downtime;
mod guest;
mod host;
mod inside;
mod job;
mod kernel;
mod l1;
mod l1_qemu;
mod l2;
mod load;
mod migration;
mod mmio;
mod namespace;
mod ping;
mod probe;
mod qmp;
mod rings;
mod scenario;
mod soak;
mod status;
mod stream;
mod suite;
mod tap;
mod timeline;
mod trace;
mod vmm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "bed", about = "The test bed of semiassign")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot L1, run a shell script in it and pass its exit status on
    L1 {
        /// The script; without one, show what L1 has
        #[arg(
            long,
            default_value = "uname -r; ip -br link; lspci | grep -i ethernet"
        )]
        script: String,
        /// Give up after this many seconds
        #[arg(long, default_value_t = 600)]
        timeout: u64,
    },
    /// The main job: migrate a guest between VFs of two PFs under traffic and judge it
    Demo,
    /// The same between two hosts on one segment, there and back, and a migration that is cancelled
    DemoTwoHosts,
    /// Run the end-to-end scenarios, or those whose name contains NAME, or one of several with commas between; "stock" and
    /// "debug" are those that the whole test runs on that kernel
    Test { name: Option<String> },
    /// Migrate a guest to and fro COUNT times in all; what was done before counts
    Soak {
        count: u32,
        /// Cancel each migration at a random time
        #[arg(long)]
        cancel: bool,
    },
    /// Measure semiassign beside what users would pick instead, or only the parts whose names contain PART
    Bench {
        part: Option<String>,
        /// How often each subject of a part is measured
        #[arg(long, default_value_t = 10)]
        rounds: u32,
    },
    /// List the end-to-end scenarios
    List,
    /// The init of L1
    #[command(hide = true)]
    Inside,
    /// In L1: bring a VF to a state, say so, and stay there until killed
    #[command(hide = true)]
    Hold { vf: String, state: String },
}

fn main() -> ExitCode {
    // As /init of L2 there is nobody to pass arguments.
    if std::env::args().next().as_deref() == Some("/init") {
        guest::main();
    }
    let run = || -> Result<bool> {
        match Cli::parse().command {
            Command::L1 { script, timeout } => l1::run_script(&script, timeout),
            Command::Demo => suite::demo(),
            Command::DemoTwoHosts => suite::two_hosts(),
            Command::Test { name } => suite::test(name.as_deref()),
            Command::Soak { count, cancel } => soak::soak(count, cancel),
            Command::Bench { part, rounds } => bench::bench(part.as_deref(), rounds),
            Command::List => {
                scenario::ALL
                    .iter()
                    .for_each(|s| println!("{:37} {:12} {}", s.name, s.on.join(" "), s.about));
                Ok(true)
            }
            Command::Inside => inside::main(),
            Command::Hold { vf, state } => scenario::hold(&vf, &state),
        }
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
