// SPDX-License-Identifier: GPL-2.0
//! The init of L2: a plain Linux guest with the stock igbvf, a TCP server, and an agent on its second serial port.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::mount::{mount, MsFlags};
use nix::sys::reboot::{reboot, RebootMode};
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg};
use serde_json::{json, Value};

use crate::host::GUEST_IP;
use crate::{load, mmio, probe, rings, stream};

pub fn main() -> ! {
    if let Err(error) = run() {
        println!("bed: guest: {error:#}");
    }
    // Init must not return; the kernel would panic and hide the reason.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    loop {
        std::thread::park();
    }
}

fn run() -> Result<()> {
    let none: Option<&str> = None;
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
    ] {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), none)
            .with_context(|| format!("cannot mount {at}"))?;
    }
    std::env::set_var("PATH", "/bin");
    let options = fs::read_to_string("/proc/cmdline")?;
    let option = |name: &str| {
        options.split_whitespace().find_map(|word| {
            word.strip_prefix(name)?
                .strip_prefix('=')
                .map(str::to_owned)
        })
    };
    sh("ip link set lo up");
    if !options.contains("bed.nodriver") {
        load_driver()?;
        if let Some(mac) = option("bed.mac") {
            sh(&format!("ip link set eth0 address {mac}"));
        }
        if let Some(mtu) = option("bed.mtu") {
            sh(&format!("ip link set eth0 mtu {mtu}"));
        }
        let ip = option("bed.ip").unwrap_or_else(|| GUEST_IP.to_owned());
        sh(&format!(
            "ip addr add {ip}/24 dev eth0; ip link set eth0 up"
        ));
    }
    stream::serve().context("cannot serve the stream")?;
    probe::serve().context("cannot serve the probe")?;
    load::serve().context("cannot serve loads")?;
    println!("bed: guest is up");
    agent()
}

fn load_driver() -> Result<()> {
    for module in fs::read_to_string("/order")?.lines() {
        sh(&format!("insmod {module}"));
    }
    Ok(())
}

/// One JSON object a line: `{"id":1,"sh":"ip link"}` is answered by `{"id":1,"rc":0,"out":"…"}`.
/// A serial port survives what is done to the network, and its state migrates.
fn agent() -> Result<()> {
    let port = File::options()
        .read(true)
        .write(true)
        .open("/dev/ttyS1")
        .context("no second serial port")?;
    let mut settings = tcgetattr(&port)?;
    cfmakeraw(&mut settings);
    tcsetattr(&port, SetArg::TCSANOW, &settings)?;
    let mut answers = port.try_clone()?;
    let mut requests = BufReader::new(port);
    let mut line = Vec::new();
    loop {
        line.clear();
        requests.read_until(b'\n', &mut line)?;
        let Ok(request) = serde_json::from_slice::<Value>(&line) else {
            continue;
        };
        let answer = match request["sh"].as_str() {
            Some("@reboot") => {
                let _ = reboot(RebootMode::RB_AUTOBOOT);
                continue;
            }
            Some("@probe") => answer(&request, probe::report()),
            Some(script) if script.starts_with("@mmio ") => {
                answer(&request, mmio::run(&script[6..]))
            }
            Some(script) if script.starts_with("@rings ") => {
                answer(&request, rings::run(&script[7..]))
            }
            Some(script) => {
                let (rc, out) = sh(script);
                json!({ "id": request["id"], "rc": rc, "out": out })
            }
            None => json!({ "id": request["id"], "rc": -1, "out": "no command" }),
        };
        answers.write_all(format!("{answer}\n").as_bytes())?;
    }
}

fn answer(request: &Value, result: Result<String>) -> Value {
    let (rc, out) = match result {
        Ok(out) => (0, out),
        Err(error) => (-1, format!("{error:#}")),
    };
    json!({ "id": request["id"], "rc": rc, "out": out })
}

fn sh(script: &str) -> (i32, String) {
    match Command::new("/bin/busybox")
        .args(["sh", "-c", script])
        .stdin(Stdio::null())
        .output()
    {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let mut text = String::from_utf8_lossy(&text).into_owned();
            if let Some(signal) = output.status.signal() {
                text += &format!("killed by signal {signal}");
            }
            (output.status.code().unwrap_or(-1), text)
        }
        Err(error) => (-1, error.to_string()),
    }
}
