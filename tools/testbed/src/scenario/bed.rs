// SPDX-License-Identifier: GPL-2.0
//! What every scenario starts with and checks: fresh VFs on two PFs, guests on them, traffic from the client.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use crate::host::{self, Host, GUEST_IP};
use crate::l2::{Options, L2, RAM_PAGES};
use crate::migration::{self, Report};
use crate::namespace;
use crate::ping::Pinger;
use crate::status::{self, Status};
use crate::{command, kernel, stream};

use super::KERNEL_COMPLAINED;

/// Generous: two cores under TCG carry three machines.
pub const SOON: Duration = Duration::from_secs(30);

pub const GUEST_MAC: &str = "52:54:00:aa:00:01";
pub const OTHER_MAC: &str = "52:54:00:aa:00:02";

/// What a healthy kernel never says.
const COMPLAINTS: [&str; 10] = [
    "BUG:",
    "WARNING:",
    "Oops",
    "DMAR: [DMA",
    "refcount_t",
    "blocked for more than",
    "lockup",
    "general protection",
    "UBSAN:",
    "suspicious RCU usage",
];

pub struct Bed<'a> {
    pub host: &'a Host,
    pub folder: PathBuf,
    kernel_log_from: usize,
}

/// The two VFs of a scenario: A of the first PF, B of the second.
pub struct Vfs {
    pub a: String,
    pub b: String,
}

impl<'a> Bed<'a> {
    pub fn new(host: &'a Host, name: &str) -> Self {
        let kernel_log_from = host::kernel_log().map_or(0, |log| log.len());
        Self {
            host,
            folder: Path::new("/run/bed").join(name),
            kernel_log_from,
        }
    }

    /// New VFs, their MACs pinned or not by the PFs' administrators, bound to semiassign.
    pub fn vfs(&self, pin_a: Option<&str>, pin_b: Option<&str>) -> Result<Vfs> {
        host::load_semiassign()?;
        self.host.create_vfs(1)?;
        for (pf, pin) in [(0, pin_a), (1, pin_b)] {
            if let Some(mac) = pin {
                self.host.pin_mac(pf, 0, mac)?;
            }
            host::bind(&self.host.vf(pf, 0)?, "semiassign")?;
        }
        Ok(Vfs {
            a: self.host.vf(0, 0)?,
            b: self.host.vf(1, 0)?,
        })
    }

    pub fn pinned_vfs(&self) -> Result<Vfs> {
        self.vfs(Some(GUEST_MAC), Some(GUEST_MAC))
    }

    pub fn source(&self, vf: &str, options: &Options) -> Result<L2> {
        // The last scenario's guest may have had the same address and another MAC.
        namespace::run("ip neigh flush all")?;
        println!("@progress {}: guest boots", self.name());
        let mut guest = L2::start(&self.folder, "source", vf, options)?;
        guest.wait_booted()?;
        Ok(guest)
    }

    pub fn destination(&self, vf: &str) -> Result<L2> {
        self.destination_named("destination", vf, &Options::default())
    }

    pub fn destination_named(&self, name: &str, vf: &str, options: &Options) -> Result<L2> {
        println!("@progress {}: destination starts", self.name());
        L2::start(
            &self.folder,
            name,
            vf,
            &Options {
                incoming: true,
                ..options.clone()
            },
        )
    }

    pub fn migrate(&self, source: &mut L2, destination: &mut L2) -> Result<Report> {
        println!("@progress {}: migrating", self.name());
        migration::migrate(source, destination)
    }

    fn name(&self) -> String {
        self.folder
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// A scenario that passed on a kernel that complained has failed. It is not over before leaks were searched for, if that is
    /// due; those of scenarios before it are found as well.
    pub fn check_kernel_after(&self, result: Result<()>, search: bool) -> Result<()> {
        let leaks = if search || result.is_err() {
            kernel::check_leaks()
        } else {
            Ok(String::new())
        };
        let _ = fs::create_dir_all(&self.folder);
        let _ = fs::write(
            self.folder.join("kmemleak.log"),
            leaks
                .as_ref()
                .map_or_else(|e| format!("{e:#}"), Clone::clone),
        );
        let result = result.and(leaks.map(drop).context(KERNEL_COMPLAINED));
        let log = host::kernel_log()?;
        let new = log.get(self.kernel_log_from..).unwrap_or(&log);
        let complaint = new
            .lines()
            .find(|line| COMPLAINTS.iter().any(|word| line.contains(word)));
        match (result, complaint) {
            (Ok(()), Some(line)) => bail!("{KERNEL_COMPLAINED}: {line}"),
            (Err(error), Some(line)) => Err(error.context(format!("{KERNEL_COMPLAINED}: {line}"))),
            (result, None) => result,
        }
    }

    /// Copies logs to the share, where they outlive L1.
    pub fn save_logs(&self, to: &Path) {
        let copy = || -> Result<()> {
            fs::create_dir_all(to)?;
            for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().ends_with(".log") {
                    fs::copy(entry.path(), to.join(entry.file_name()))?;
                }
            }
            let log = host::kernel_log()?;
            fs::write(
                to.join("l1-dmesg.log"),
                log.get(self.kernel_log_from..).unwrap_or(&log),
            )?;
            for vf in fs::read_dir("/sys/kernel/debug/semiassign")
                .into_iter()
                .flatten()
                .flatten()
            {
                let bdf = vf.file_name().to_string_lossy().into_owned();
                fs::write(
                    to.join(format!("status-{bdf}.log")),
                    command::read(status::path(&bdf)).unwrap_or_default(),
                )?;
            }
            Ok(())
        };
        if let Err(error) = copy() {
            println!("bed: cannot save logs: {error:#}");
        }
    }
}

/// Pings and the TCP stream, from the client to the guest.
pub struct Traffic {
    log: PathBuf,
    pub pinger: Pinger,
    pub stream: stream::Client,
}

impl Traffic {
    pub fn start(bed: &Bed) -> Result<Self> {
        let pinger = Pinger::start(GUEST_IP)?;
        pinger
            .require_answers(20, SOON)
            .context("the guest does not answer")?;
        let traffic = Self {
            log: bed.folder.join("pings.log"),
            pinger,
            stream: stream::Client::connect(GUEST_IP)?,
        };
        traffic.require()?;
        Ok(traffic)
    }

    /// Both still work, now.
    pub fn require(&self) -> Result<()> {
        self.pinger
            .require_sound(SOON)
            .and_then(|()| self.stream.require_flow(32 * 1024, SOON))
            .inspect_err(|_| autopsy(self.log.parent().unwrap_or(Path::new("/"))))
    }

    /// Ends the traffic; the stream must have been whole.
    pub fn finish(mut self) -> Result<(crate::ping::Summary, stream::Progress)> {
        let progress = self.stream.finish()?;
        let pings = self.pinger.finish()?;
        if pings.lost * 4 > pings.sent {
            println!("    more than a quarter of the pings is lost: see autopsy.log");
            autopsy(self.log.parent().unwrap_or(Path::new("/")));
        }
        if let Some(failure) = &progress.failure {
            bail!("the TCP stream: {failure}");
        }
        ensure!(
            progress.received_sum == progress.expected_sum,
            "the stream's checksum is wrong"
        );
        println!(
            "    {} pings, {} lost, longest gap {} ms, median {:.1} ms; {} KiB of TCP, longest stall {} ms",
            pings.sent,
            pings.lost,
            pings.longest_gap.as_millis(),
            pings.median.as_secs_f64() * 1e3,
            progress.bytes / 1024,
            progress.longest_stall.as_millis()
        );
        Ok((pings, progress))
    }
}

/// What a path that is dead looks like while it is: registers, and where the threads of the VMMs are.
fn autopsy(folder: &Path) {
    let script = "for n in 1 2; do head -v -n 200 /sys/kernel/debug/semiassign/*/registers; \
         for t in /proc/[0-9]*/task/*; do case $(cat $t/comm) in CPU*|semiassign*|qemu*) \
         cat $t/comm $t/stack; grep State $t/status;; esac; done; sleep 1; done";
    if let Ok(output) = std::process::Command::new("sh")
        .args(["-c", script])
        .output()
    {
        let _ = fs::write(folder.join("autopsy.log"), output.stdout);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = fs::write(&self.log, self.pinger.log());
    }
}

/// One ping of one size, with patience: the interface may just be coming up.
pub fn require_ping(ip: &str, size: usize) -> Result<()> {
    let mut pinger = Pinger::start_with(ip, size)?;
    pinger
        .require_answers(5, SOON)
        .with_context(|| format!("{ip} does not answer pings of {size} bytes"))?;
    pinger.finish().map(drop)
}

/// A VF that nobody migrates is assigned, and no untracked DMA happened on the way there.
pub fn require_assigned(vf: &str) -> Result<Status> {
    let status = status::wait_mode(vf, "assigned", SOON)?;
    require_tracked(vf, &status)?;
    Ok(status)
}

/// Nobody has tracked the VF while its DMA was the device's.
pub fn require_tracked(vf: &str, status: &Status) -> Result<()> {
    ensure!(
        status.number("direct_while_tracking")? == 0,
        "{vf}: direct DMA while it was tracked"
    );
    Ok(())
}

/// Percent of the guest's RAM.
pub fn share(pages: u64) -> f64 {
    pages as f64 * 100.0 / RAM_PAGES as f64
}

/// After the first sync, which is of everything, only what was written was reported.
pub fn require_narrow(report: &Report) -> Result<()> {
    let syncs = &report.dirty_pages;
    ensure!(syncs.len() > 1, "QEMU traced {} syncs", syncs.len());
    for pages in &syncs[1..] {
        ensure!(
            share(*pages) < 10.0,
            "{pages} pages ({:.1} % of RAM) reported dirty in one sync",
            share(*pages)
        );
    }
    Ok(())
}

/// Waits until the VF is in pre-copy: the guest runs, emulated.
pub fn wait_precopy(source: &mut L2) -> Result<()> {
    crate::clock::wait_for("pre-copy", SOON, || {
        let status = migration::status(source)?;
        ensure!(
            matches!(status.as_str(), "none" | "setup" | "active"),
            "migration is {status} before pre-copy was seen: {}",
            source.last_words()
        );
        Ok((Status::read(&source.vf)?.state() == "pre-copy").then_some(()))
    })?;
    let status = Status::read(&source.vf)?;
    ensure!(
        status.mode() == "emulated",
        "in pre-copy the VF is {}, not emulated",
        status.mode()
    );
    Ok(())
}
