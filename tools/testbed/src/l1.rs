// SPDX-License-Identifier: GPL-2.0
//! L1, the host under test: one QEMU with a vIOMMU, two 82576 PFs and a third NIC on one segment.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use nix::fcntl::{Flock, FlockArg};

use crate::job::{self, Job, Outcome};
use crate::kernel;
use crate::l1_qemu::{self, images, is_emulated, Place, EMULATOR};

pub const BUILD: &str = "/build";
/// What guests start from: always the stock kernel's.
pub const GUEST_IMAGES: &str = "/src/images";
/// How the driver begins what it has to say.
const DRIVER: &str = ": semiassign: ";
/// Console lines worth a place on the user's screen; all are in the log.
const ALARMING: [&str; 9] = [
    "BUG:",
    "WARNING:",
    "Oops",
    "Kernel panic",
    "Call Trace",
    DRIVER,
    "DMAR:",
    "bed:",
    "rust_kernel",
];
/// One of these and the host under test is broken, whatever the scenario thought.
const FATAL: [&str; 6] = [
    "BUG:",
    "WARNING:",
    "Oops",
    "Kernel panic",
    "general protection",
    "UBSAN:",
];

pub struct Run {
    pub outcome: Outcome,
    pub folder: PathBuf,
    /// Kernel lines that condemn the run even if every scenario passed.
    pub fatal: Vec<String>,
}

impl Run {
    /// Why the one thing that L1 was to do has failed, if it has. What its kernel complains of is the cause rather than what came
    /// of it.
    pub fn failure(&self) -> Option<String> {
        let unanswered = || "L1 ended or hung in it".to_owned();
        let verdict = self.outcome.verdicts.first();
        let failure = verdict.map_or_else(|| Some(unanswered()), |v| v.failure.clone());
        self.fatal.first().cloned().or(failure)
    }
}

/// The build folder under the name that the user of the host knows.
pub fn host_path(path: &Path) -> String {
    match (
        std::env::var("SEMIASSIGN_HOST_BUILD"),
        path.strip_prefix(BUILD),
    ) {
        (Ok(build), Ok(rest)) => Path::new(&build).join(rest).display().to_string(),
        _ => path.display().to_string(),
    }
}

pub fn run_script(script: &str, timeout: u64) -> Result<bool> {
    let run = boot(
        "l1",
        &Job::Shell(script.to_owned()),
        Duration::from_secs(timeout),
    )?;
    let verdict = run.outcome.verdicts.first();
    let Some(verdict) = verdict else {
        bail!(
            "L1 ended without an answer; its console: {}/l1-console.log",
            host_path(&run.folder)
        )
    };
    if let Some(failure) = &verdict.failure {
        eprintln!(
            "bed: the script failed: {failure}; logs: {}",
            host_path(&run.folder)
        );
    }
    Ok(verdict.failure.is_none())
}

/// Boots L1, waits until it has powered itself off, and reads its answer from the share.
pub fn boot(name: &str, job: &Job, limit: Duration) -> Result<Run> {
    let _lock = lock()?;
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}")?);
    bar.set_message("booting L1");
    bar.enable_steady_tick(Duration::from_millis(250));
    run(name, job, Place::Alone, limit, &bar)
}

/// Boots two, on one segment, and waits until the first has powered itself off, and the second soon after it.
pub fn boot_two(name: &str, jobs: [&Job; 2], limit: Duration) -> Result<[Run; 2]> {
    let _lock = lock()?;
    let (first, second) = (format!("{name}-first"), format!("{name}-second"));
    let hidden = ProgressBar::hidden();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| run(&second, jobs[1], Place::Second, limit, &hidden));
        let run = run(&first, jobs[0], Place::First, limit, &hidden);
        let other = other.join().expect("the second L1's thread panicked");
        Ok([run?, other?])
    })
}

/// One L1, from its start to its end.
fn run(name: &str, job: &Job, place: Place, limit: Duration, bar: &ProgressBar) -> Result<Run> {
    let folder = Path::new(BUILD).join("run").join(name);
    prepare_share(&folder, job)?;
    let start = Instant::now();
    if is_emulated() && !Path::new(EMULATOR).exists() {
        say(
            bar,
            "bed: the root has no QEMU of its own: guests will hang now and then",
        );
    }
    let mut qemu = l1_qemu::start(&folder, place, job.memory())?;
    let stdout = qemu.stdout.take().context("QEMU has no stdout")?;
    let screen = bar.clone();
    let quiet = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&quiet);
    let relay = std::thread::spawn(move || relay_lines(stdout, &screen, &flag));
    let mut console = Tail::new(folder.join("l1-console.log"));
    let mut fatal = Vec::new();
    let ended = loop {
        for line in console.lines() {
            let provoked = quiet.load(Ordering::Relaxed) && line.contains(DRIVER);
            if !provoked && ALARMING.iter().any(|word| line.contains(word)) {
                say(bar, &format!("  {}| {line}", place.title()));
            }
            if FATAL.iter().any(|word| line.contains(word)) {
                fatal.push(line);
            }
        }
        if let Some(status) = qemu.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > limit {
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if let Some(status) = ended.filter(|status| !status.success()) {
        say(
            bar,
            &format!("bed: L1's QEMU ended with {status}; see l1-qemu.log"),
        );
    }
    if ended.is_none() {
        say(
            bar,
            &format!("bed: L1 did not finish in {} s, ending it", limit.as_secs()),
        );
        qemu.kill()?;
        qemu.wait()?;
    }
    let _ = relay.join();
    bar.finish_and_clear();
    let outcome = job::load(&job::outcome_file(&folder)).unwrap_or_default();
    Ok(Run {
        outcome,
        folder,
        fatal,
    })
}

/// Two L1 machines on two cores would starve each other into timeouts.
fn lock() -> Result<Flock<File>> {
    let path = Path::new(BUILD).join("bed.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, _)) => {
            eprintln!(
                "bed: waiting for another L1 on this machine to end ({})",
                host_path(&path)
            );
            Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, error)| error)
                .context("cannot lock the bed")
        }
    }
}

fn prepare_share(folder: &Path, job: &Job) -> Result<()> {
    let release = kernel::release();
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder.join("logs"))?;
    job::save(&job::job_file(folder), job)?;
    fs::copy("/proc/self/exe", folder.join("bed"))?;
    let mut initramfs =
        fs::read(format!("{GUEST_IMAGES}/l2.cpio")).context("no guest image: run `make root`")?;
    append_init(&mut initramfs, &fs::read("/proc/self/exe")?)?;
    fs::write(folder.join("l2.cpio"), initramfs)?;

    let modules = folder.join("modules");
    crate::command::run(&format!(
        "cp -r {}/modules {}",
        images()?,
        modules.display()
    ))?;
    let built = Path::new(BUILD).join(&release).join("semiassign.ko");
    if built.exists() {
        let updates = modules.join("lib/modules").join(&release).join("updates");
        fs::create_dir_all(&updates)?;
        fs::copy(&built, updates.join("semiassign.ko"))?;
    }
    crate::command::run(&format!("depmod -b {} {release}", modules.display()))?;
    Ok(())
}

/// Appends `/init` to a cpio archive (newc). The kernel unpacks concatenated archives one after the other.
fn append_init(archive: &mut Vec<u8>, program: &[u8]) -> Result<()> {
    for (name, mode, data) in [("init", 0o100_755_u32, program), ("TRAILER!!!", 0, &[][..])] {
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let fields = [
            0,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(data.len())?,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        archive.write_all(b"070701")?;
        fields
            .iter()
            .try_for_each(|field| write!(archive, "{field:08X}"))?;
        archive.write_all(name.as_bytes())?;
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.write_all(data)?;
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    Ok(())
}

fn relay_lines(from: impl Read, screen: &ProgressBar, quiet: &AtomicBool) {
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        if let Some(message) = line.strip_prefix("@progress ") {
            screen.set_message(message.to_owned());
        } else if let Some(on) = line.strip_prefix("@quiet ") {
            quiet.store(on == "true", Ordering::Relaxed);
        } else {
            say(screen, line);
        }
    }
}

/// A line above the spinner, or a plain one where there is no terminal.
fn say(bar: &ProgressBar, line: &str) {
    bar.suspend(|| println!("{line}"));
}

/// New whole lines of a growing file.
struct Tail {
    path: PathBuf,
    read: u64,
    rest: String,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: 0,
            rest: String::new(),
        }
    }

    fn lines(&mut self) -> Vec<String> {
        use std::os::unix::fs::FileExt;
        let Ok(file) = File::open(&self.path) else {
            return Vec::new();
        };
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = file.read_at(&mut buffer, self.read) {
            self.read += count as u64;
            self.rest
                .push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        let Some(end) = self.rest.rfind('\n') else {
            return Vec::new();
        };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        whole
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }
}
