// SPDX-License-Identifier: GPL-2.0
//! The cables of L1's PFs, by the monitor of the machine that L1 runs on.

use std::fs::File;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg};
use serde_json::json;

use crate::qmp::Qmp;

/// L1's third serial port: see [`crate::l1`].
const MONITOR: &str = "/dev/ttyS2";

/// Plugs the cable of a PF in, or pulls it.
pub fn plug(pf: usize, plugged: bool) -> Result<()> {
    static CONNECTED: Mutex<Option<Qmp>> = Mutex::new(None);
    let mut connected = CONNECTED.lock().unwrap_or_else(PoisonError::into_inner);
    let monitor = match &mut *connected {
        Some(monitor) => monitor,
        none => none.insert(connect().context("no monitor of L1's machine")?),
    };
    let name = format!("n{}", pf + 1);
    monitor
        .execute("set_link", json!({ "name": name, "up": plugged }))
        .map(drop)
}

fn connect() -> Result<Qmp> {
    let port = File::options().read(true).write(true).open(MONITOR)?;
    let mut settings = tcgetattr(&port)?;
    cfmakeraw(&mut settings);
    tcsetattr(&port, SetArg::TCSANOW, &settings)?;
    Qmp::over(port)
}
