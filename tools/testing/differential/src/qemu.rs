// SPDX-License-Identifier: GPL-2.0

//! A QEMU without a guest: its process, its memory and its sockets.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::qtest::Qtest;
use crate::ram::Ram;
use crate::wire::Wire;

const PROGRAM: &str = "qemu-system-x86_64";
/// Whatever QEMU has not done by then it will not do.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Qemu {
    pub qtest: Qtest,
    pub wire: Wire,
    pub ram: Ram,
    _process: Process,
}

/// Ends, and its files go, when this is dropped; or with us, if we are killed.
struct Process {
    child: Child,
    folder: PathBuf,
}

impl Qemu {
    pub fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "semiassign-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let listen = |name| UnixListener::bind(folder.join(name)).unwrap();
        let (qtest, wire) = (listen("qtest"), listen("wire"));
        let ram = Ram::create(&folder.join("ram"));
        let child = command(&folder).spawn().expect("setpriv, of util-linux");
        let mut process = Process { child, folder };
        let mut accept = |from: &UnixListener| {
            accept(from, &mut process.child).unwrap_or_else(|error| {
                panic!("{PROGRAM} does not come up ({error}): it is in the build root, see tools/root/enter")
            })
        };
        let (qtest, wire) = (accept(&qtest), accept(&wire));
        Self {
            qtest: Qtest::new(qtest),
            wire: Wire::new(wire),
            ram,
            _process: process,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // What it complained of.
            eprint!(
                "{}",
                fs::read_to_string(self.folder.join("log")).unwrap_or_default()
            );
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Waits until QEMU connects.
fn accept(from: &UnixListener, child: &mut Child) -> io::Result<UnixStream> {
    from.set_nonblocking(true)?;
    let since = Instant::now();
    loop {
        match from.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(error) if since.elapsed() > PATIENCE => return Err(error),
            Err(_) => {}
        }
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(status.to_string()));
        }
        sleep(Duration::from_millis(2));
    }
}

/// A machine with one 82576 behind a root port, whose memory is a file and whose wire is a socket.
fn command(folder: &Path) -> Command {
    let path = |name: &str| folder.join(name).display().to_string();
    let log = File::create(folder.join("log")).unwrap();
    // A test that is killed drops nothing; this is for then.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", PROGRAM])
        .args(["-accel", "qtest", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-m", "64M", "-machine"])
        .arg("q35,memory-backend=ram,max-ram-below-4g=32M,sata=off,smbus=off,i8042=off")
        .arg("-object")
        .arg(format!(
            "memory-backend-file,id=ram,size=64M,share=on,mem-path={}",
            path("ram")
        ))
        .args(["-qtest", &format!("unix:{}", path("qtest"))])
        .args(["-qtest-log", "none"])
        .arg("-netdev")
        .arg(format!(
            "stream,id=wire,server=off,addr.type=unix,addr.path={}",
            path("wire")
        ))
        .args(["-device", "pcie-root-port,id=slot1,chassis=1,addr=1"])
        .args(["-device", "igb,bus=slot1,netdev=wire,romfile="])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_ends_with_its_owner_and_leaves_nothing() {
        let qemu = Qemu::start();
        let (pid, folder) = (qemu._process.child.id(), qemu._process.folder.clone());
        let process = PathBuf::from(format!("/proc/{pid}"));
        assert!(process.exists() && folder.join("ram").exists());
        drop(qemu);
        assert!(!process.exists() && !folder.exists());
    }
}
