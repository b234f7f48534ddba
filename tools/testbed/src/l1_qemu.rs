// SPDX-License-Identifier: GPL-2.0
//! The QEMU that plays L1: its processor, its PFs, and the segment that they are on.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::kernel;
use crate::l1::BUILD;

/// Which of the machines on a segment an L1 is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Alone,
    First,
    Second,
}

impl Place {
    pub fn title(self) -> &'static str {
        match self {
            Self::Alone => "L1",
            Self::First => "L1, first",
            Self::Second => "L1, second",
        }
    }

    /// A byte that its addresses and sockets have and those of another place have not.
    fn number(self) -> u8 {
        u8::from(self == Self::Second)
    }

    /// What joins the segments of two machines.
    fn wire(self) -> Option<String> {
        let end = match self {
            Self::Alone => return None,
            Self::First => "server=on",
            // Whoever comes first waits for the other.
            Self::Second => "server=off,reconnect-ms=200",
        };
        Some(format!(
            "stream,id=wire,{end},addr.type=unix,addr.path={BUILD}/l1-wire"
        ))
    }
}

/// What L1 starts from.
pub fn images() -> Result<String> {
    std::env::var("SEMIASSIGN_IMAGES").context("run me through tools/root/enter")
}

/// The QEMU that `tools/root/make-qemu` builds: what it mends in emulated SVM stops guests otherwise.
pub const EMULATOR: &str = "/usr/local/lib/semiassign/qemu-system-x86_64";

/// Whether L1's processor has to be emulated. /dev/kvm alone proves nothing: L1 needs virtualisation that it can pass on.
pub fn is_emulated() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let nested = flags
        .split_whitespace()
        .any(|flag| flag == "svm" || flag == "vmx");
    !nested || !Path::new("/dev/kvm").exists() || std::env::var_os("SEMIASSIGN_TCG").is_some()
}

/// QEMU with its accelerator.
fn accelerated() -> Command {
    if !is_emulated() {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "kvm", "-cpu", "host"]);
        return qemu;
    }
    let mut qemu = if Path::new(EMULATOR).exists() {
        let mut qemu = Command::new(EMULATOR);
        for firmware in [
            "/usr/share/qemu",
            "/usr/share/seabios",
            "/usr/lib/ipxe/qemu",
        ] {
            qemu.args(["-L", firmware]);
        }
        qemu
    } else {
        Command::new("qemu-system-x86_64")
    };
    qemu.args(["-accel", "tcg,thread=multi"])
        .args(["-cpu", "EPYC-v4,+svm,+npt,+x2apic"]);
    qemu
}

fn command_line() -> String {
    // What a debug kernel warns of is never harmless.
    let panic = if kernel::is_debug() {
        "panic_on_warn=1"
    } else {
        ""
    };
    format!(
        "console=ttyS0 intel_iommu=on iommu=pt quiet loglevel=5 panic=-1 log_buf_len=4M no_timer_check kunit.autorun=0 {panic}"
    )
}

/// `memory` as QEMU takes it.
pub fn start(folder: &Path, place: Place, memory: &str) -> Result<Child> {
    let (share, images) = (folder.display(), images()?);
    let number = place.number();
    let monitor = format!("{BUILD}/l1-monitor-{number}");
    let mut qemu = accelerated();
    qemu.args([
        "-machine",
        "q35,kernel-irqchip=split",
        "-smp",
        "2",
        "-m",
        memory,
        "-nodefaults",
        "-nographic",
        "-no-reboot",
    ])
    .args(["-device", "intel-iommu,intremap=on,device-iotlb=off"])
    .args([
        "-kernel",
        &format!("{images}/vmlinuz"),
        "-initrd",
        &format!("{images}/l1.cpio"),
    ])
    .args(["-append", &command_line()])
    // A triple fault of L1 would leave no other trace.
    .args(["-d", "cpu_reset"])
    .args(["-serial", &format!("file:{share}/l1-console.log")])
    .args([
        "-chardev",
        "stdio,id=words,signal=off",
        "-serial",
        "chardev:words",
    ])
    // L1 has the monitor of its own machine, to pull cables.
    .args([
        "-chardev",
        &format!("socket,id=monitor,path={monitor},server=on,wait=off"),
        "-mon",
        "chardev=monitor,mode=control",
        "-chardev",
        &format!("socket,id=to-monitor,path={monitor}"),
        "-serial",
        "chardev:to-monitor",
    ])
    .args([
        "-fsdev",
        "local,id=root,path=/export,security_model=none,readonly=on,multidevs=remap",
    ])
    .args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"])
    .args([
        "-fsdev",
        &format!("local,id=share,path={share},security_model=none"),
    ])
    .args(["-device", "virtio-9p-pci,fsdev=share,mount_tag=share"])
    .args(["-device", "virtio-rng-pci"]);
    for (index, slot) in [(1, 4), (2, 5)] {
        qemu.args(["-netdev", &format!("hubport,id=n{index},hubid=0")])
            .args([
                "-device",
                &format!("pcie-root-port,id=rp{index},chassis={index},addr={slot}"),
            ])
            .args([
                "-device",
                &format!("igb,netdev=n{index},bus=rp{index},mac=52:54:00:0{number}:0{index}:00"),
            ]);
    }
    if let Some(wire) = place.wire() {
        qemu.args(["-netdev", &wire])
            .args(["-netdev", "hubport,id=n4,hubid=0,netdev=wire"]);
    }
    qemu.args(["-netdev", "hubport,id=n3,hubid=0"])
        .args([
            "-device",
            &format!("virtio-net-pci,netdev=n3,addr=6,mac=52:54:00:0{number}:03:00"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(folder.join("l1-qemu.log"))?);
    // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        qemu.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
    }
    qemu.spawn().context("cannot start qemu-system-x86_64")
}
