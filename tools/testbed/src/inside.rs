// SPDX-License-Identifier: GPL-2.0
//! The init of L1: makes the machine usable, does its job, leaves the answer in the share and powers off.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{anyhow, bail, Context, Result};
use nix::mount::{mount, MsFlags};
use nix::sys::reboot::{reboot, RebootMode};

use crate::host::Host;
use crate::job::{self, Job, Outcome, Verdict, SHARE};
use crate::{command, scenario};

pub fn main() -> Result<bool> {
    if std::process::id() != 1 {
        bail!(
            "`inside` is what L1 runs as its init; you want `make demo`, `make test` or `make l1`"
        );
    }
    // Whatever happens, the machine must end and L0 must see why: init must not return or panic.
    let ended = catch_unwind(AssertUnwindSafe(|| prepare().and_then(|()| work())));
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => println!("bed: L1: {error:#}"),
        Err(_) => println!("bed: L1: init panicked"),
    }
    if let Ok(log) = command::run("dmesg") {
        let _ = fs::write(Path::new(SHARE).join("logs/l1-dmesg.log"), log);
    }
    nix::unistd::sync();
    reboot(RebootMode::RB_POWER_OFF).context("cannot power off")?;
    Ok(false)
}

fn prepare() -> Result<()> {
    let none: Option<&str> = None;
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("debugfs", "/sys/kernel/debug"),
    ] {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), none)
            .with_context(|| format!("cannot mount {at}"))?;
    }
    let words = File::options().read(true).write(true).open("/dev/ttyS1")?;
    for fd in 0..=2 {
        // SAFETY: both descriptors are open, and the standard ones are ours to replace.
        if unsafe { nix::libc::dup2(words.as_raw_fd(), fd) } < 0 {
            bail!("cannot talk to L0 on /dev/ttyS1");
        }
    }
    std::env::set_var(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    std::env::set_var("HOME", "/root");
    // The modules of this run, quick to read: the root's own lie compressed behind 9p.
    mount(
        Some("tmpfs"),
        "/lib/modules",
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )
    .context("cannot cover /lib/modules")?;
    command::run(&format!(
        "cp -r {SHARE}/modules/lib/modules/. /lib/modules/"
    ))?;
    command::run("ip link set lo up")?;
    command::run("hostname l1")?;
    Ok(())
}

fn work() -> Result<()> {
    let share = Path::new(SHARE);
    match job::load(&job::job_file(share))? {
        Job::Shell(script) => {
            let start = Instant::now();
            let failure = shell(&script).err().map(|error| format!("{error:#}"));
            let verdict = Verdict {
                name: "l1".into(),
                failure,
                seconds: start.elapsed().as_secs_f64(),
            };
            job::save(
                &job::outcome_file(share),
                &Outcome {
                    verdicts: vec![verdict],
                    finished: true,
                },
            )
        }
        Job::Demo => scenario::run_in_l1(&["demo".to_owned()], share),
        Job::Scenarios(names) => scenario::run_in_l1(&names, share),
        Job::Soak { .. } => scenario::run_in_l1(&["soak".to_owned()], share),
        Job::Bench { parts, .. } => scenario::run_in_l1(&parts, share),
        Job::FirstHost => scenario::run_in_l1(&["two_hosts".to_owned()], share),
        Job::SecondHost => scenario::run_in_l1(&["second_host".to_owned()], share),
    }
}

/// What a kernel developer wants to find: PFs up, two VFs each, nobody bound to them, the client behind its namespace.
fn shell(script: &str) -> Result<()> {
    Host::boot()?.create_vfs(2)?;
    let status = Command::new("bash")
        .arg("-c")
        .arg(script)
        .current_dir(SHARE)
        .status()
        .map_err(|e| anyhow!("cannot start bash: {e}"))?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}
