// SPDX-License-Identifier: GPL-2.0
//! L2, the guest: stock QEMU started as a user would, with one VF, watched over QMP and the guest's agent.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};

use crate::agent::Agent;
use crate::clock::wait_for;
use crate::job::SHARE;
use crate::kernel;
use crate::l1::GUEST_IMAGES;
use crate::qmp::Qmp;
use crate::tap::Tap;

pub const RAM_MIB: u64 = 256;
pub const RAM_PAGES: u64 = RAM_MIB * 256;
/// A guest boots in 13 to 20 s on two idle cores under TCG.
const BOOT_LIMIT: Duration = Duration::from_secs(150);
/// A guest whose agent says nothing for so long has hung.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Options {
    /// Waits for a migration instead of booting.
    pub incoming: bool,
    /// Does not run before it is told to.
    pub paused: bool,
    /// A guest's reboot reboots it; otherwise it ends QEMU.
    pub reboots: bool,
    /// The VF's driver can migrate it; plain vfio-pci cannot.
    pub migratable: bool,
    /// Its VF, on plain vfio-pci, is the primary of a failover pair with its first tap.
    pub failover: bool,
    /// More VFs, on plain vfio-pci.
    pub plain_vfs: Vec<String>,
    /// Where its VF is; the others are from 3 on, and the guest counts its interfaces in that order.
    pub vf_slot: u8,
    /// Interfaces of virtio-net, with vhost.
    pub taps: Vec<Rc<Tap>>,
    pub ram_mib: u64,
    /// Words for the guest's init, `bed.…`.
    pub words: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            incoming: false,
            paused: false,
            reboots: false,
            migratable: true,
            failover: false,
            plain_vfs: Vec::new(),
            vf_slot: 2,
            taps: Vec::new(),
            ram_mib: RAM_MIB,
            words: String::new(),
        }
    }
}

pub struct L2 {
    pub name: String,
    pub vf: String,
    pub qmp: Qmp,
    pub agent: Agent,
    folder: PathBuf,
    process: Child,
    /// They go with the last machine that has them.
    _taps: Vec<Rc<Tap>>,
    /// Somebody wanted it to end.
    ends: bool,
}

impl L2 {
    /// Starts QEMU; `vf` is empty for a guest without one. Its files lie in L1's memory while it runs: a console that waits
    /// for 9p would slow the guest down.
    pub fn start(folder: &Path, name: &str, vf: &str, options: &Options) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let file = |what: &str| folder.join(format!("{name}-{what}"));
        let (control, agent) = (file("qmp.sock"), file("agent.sock"));
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-machine",
            "q35",
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-smp",
            "1",
            "-nodefaults",
            "-nographic",
        ])
        .args([
            "-m",
            &options.ram_mib.to_string(),
            "-name",
            name,
            "-msg",
            "timestamp=on",
        ])
        .args([
            "-kernel",
            &format!("{GUEST_IMAGES}/vmlinuz"),
            "-initrd",
            &format!("{SHARE}/l2.cpio"),
        ])
        .args([
            "-append",
            &format!("console=ttyS0 quiet nokaslr panic=-1 {}", options.words),
        ])
        .args([
            "-serial",
            &format!("file:{}", file("console.log").display()),
        ])
        .args([
            "-chardev",
            &format!(
                "socket,id=agent,path={},server=on,wait=off",
                agent.display()
            ),
            "-serial",
            "chardev:agent",
        ])
        .args([
            "-qmp",
            &format!("unix:{},server=on,wait=off", control.display()),
        ])
        .args(interfaces(vf, options))
        .args(["-D", &file("trace.log").display().to_string()]);
        for event in [
            "migration_bitmap_sync_end",
            "vfio_migration_set_state",
            "vmstate_downtime_checkpoint",
            "vmstate_downtime_save",
            "vmstate_downtime_load",
            "vfio_save_complete_precopy",
            // What traps: the page of the mailbox.
            "vfio_region_read",
            "vfio_region_write",
        ] {
            qemu.args(["-trace", event]);
        }
        if !options.reboots {
            qemu.arg("-no-reboot");
        }
        if options.incoming {
            qemu.args(["-incoming", "defer"]);
        }
        if options.paused {
            qemu.arg("-S");
        }
        let errors = file("qemu.log");
        let process = qemu
            .stdin(Stdio::null())
            .stdout(File::create(file("stdout.log"))?)
            .stderr(File::create(&errors)?)
            .spawn()
            .context("cannot start the guest's QEMU")?;
        let mut process = Some(process);
        let connected = wait_for("QEMU's monitor", Duration::from_secs(60), || {
            if let Some(status) = process
                .as_mut()
                .and_then(|p| p.try_wait().transpose())
                .transpose()?
            {
                bail!(
                    "{name}: QEMU ended with {status}: {}",
                    fs::read_to_string(&errors).unwrap_or_default().trim()
                );
            }
            Ok(Qmp::connect(&control).ok())
        });
        let process = process.take().context("no process")?;
        match connected {
            Ok(qmp) => Ok(Self {
                name: name.to_owned(),
                vf: vf.to_owned(),
                qmp,
                agent: Agent::new(&agent),
                folder: folder.to_owned(),
                process,
                _taps: options.taps.clone(),
                ends: false,
            }),
            Err(error) => {
                end(process);
                Err(error)
            }
        }
    }

    pub fn wait_booted(&mut self) -> Result<()> {
        let ready = self.agent.wait_ready(BOOT_LIMIT);
        if ready.is_err() && matches!(self.process.try_wait(), Ok(None)) {
            self.note_registers();
        }
        ready.with_context(|| format!("{}: {}", self.name, self.last_words()))
    }

    /// Where a guest hangs: its registers and interrupt controllers, and its stack. The addresses are those of System.map.
    fn note_registers(&mut self) {
        let mut all = String::new();
        for line in [
            "info registers",
            "info lapic",
            "info pic",
            // IER, LSR and IIR of the agent's serial port, and whether anybody listens.
            "i /b 0x2f9",
            "i /b 0x2fd",
            "i /b 0x2fa",
            "info chardev",
            "info registers",
            "info lapic",
            "x /160gx $rsp",
        ] {
            let command = json!({ "command-line": line });
            let Ok(registers) = self.cmd_with("human-monitor-command", command) else {
                break;
            };
            all.push_str(registers.as_str().unwrap_or_default());
            all.push('\n');
        }
        let _ = fs::write(self.file("registers.log"), all);
    }

    /// What its kernel has said. One that does not run, as a source that has completed, would be waited for in vain.
    fn note_kernel_log(&mut self) {
        let runs = self.cmd("query-status").is_ok_and(|s| s["running"] == true);
        if !runs {
            return;
        }
        if let Ok(log) = self.agent.sh_within("dmesg", LAST_WORDS_LIMIT) {
            let _ = fs::write(self.file("dmesg.log"), log);
        }
    }

    pub fn cmd(&mut self, command: &str) -> Result<Value> {
        self.qmp.execute(command, json!({}))
    }

    pub fn cmd_with(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.qmp.execute(command, arguments)
    }

    pub fn file(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{}-{what}", self.name))
    }

    /// What QEMU said last, for an error message.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(self.file("qemu.log")).unwrap_or_default();
        text.lines()
            .last()
            .unwrap_or("QEMU said nothing")
            .to_owned()
    }

    /// Ends QEMU and waits, so that its VF is free for the next one.
    pub fn quit(mut self) -> Result<()> {
        self.ends = true;
        let _ = self.cmd("quit");
        wait_for("QEMU to end", Duration::from_secs(60), || {
            Ok(self.process.try_wait()?)
        })?;
        Ok(())
    }

    /// SIGKILL, as the OOM killer would.
    pub fn kill(mut self) -> Result<()> {
        self.ends = true;
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for L2 {
    fn drop(&mut self) {
        // For a scenario that failed: whether its guest was alive, or how it ended.
        match self.process.try_wait() {
            Ok(None) => {
                self.note_kernel_log();
                self.note_registers();
            }
            Ok(Some(status)) if !status.success() && !self.ends => {
                println!("{}: QEMU had ended with {status}", self.name);
            }
            _ => {}
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the guest has on the segment, in the slots from 2 on.
fn interfaces(vf: &str, options: &Options) -> Vec<String> {
    let mut args = Vec::new();
    let mut add = |kind: &str, value: String| args.extend([format!("-{kind}"), value]);
    for (number, tap) in options.taps.iter().enumerate() {
        add(
            "netdev",
            format!("tap,id=tap{number},fd={},vhost=on", tap.fd()),
        );
        let standby = if options.failover && number == 0 {
            ",failover=on"
        } else {
            ""
        };
        add(
            "device",
            format!(
                "virtio-net-pci,netdev=tap{number},id=net{number},mac={},addr={},romfile={standby}",
                tap.mac,
                8 + number
            ),
        );
    }
    let mut device = format!("vfio-pci,host={vf},id=vf0");
    if options.failover {
        // QEMU unplugs it for a migration, which takes a slot that has a switch.
        add("device", "pcie-root-port,id=port0,addr=2".to_owned());
        device.push_str(",bus=port0,failover_pair_id=net0");
    } else {
        device.push_str(&format!(",addr={}", options.vf_slot));
    }
    if options.migratable {
        device.push_str(",migration-events=on");
        if !kernel::reports_logs() {
            device.push_str(",enable-migration=on");
        }
    }
    if !vf.is_empty() {
        add("device", device);
    }
    for (number, vf) in options.plain_vfs.iter().enumerate() {
        add("device", format!("vfio-pci,host={vf},addr={}", 3 + number));
    }
    args
}

fn end(mut process: Child) {
    let _ = process.kill();
    let _ = process.wait();
}
