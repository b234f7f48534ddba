// SPDX-License-Identifier: GPL-2.0
//! L1's end of the guest's agent: the guest's second serial port, which QEMU shows as a unix socket.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};

use crate::kernel;

const ANSWER_LIMIT: Duration = Duration::from_secs(60);

pub struct Agent {
    path: PathBuf,
    stream: Option<UnixStream>,
    received: Vec<u8>,
    next_id: u64,
}

impl Agent {
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            stream: None,
            received: Vec::new(),
            next_id: 1,
        }
    }

    /// Waits until the guest has booted far enough to answer.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let (start, first) = (Instant::now(), self.next_id);
        while start.elapsed() < limit {
            // Asked again each second: what was sent before the guest opened its port is lost. A guest that takes longer
            // to answer is there as well: any of the answers will do.
            let asked = self.send_next("true");
            if asked.is_ok() && self.answer(first, Duration::from_secs(1)).is_ok() {
                // And read what it says to the others: a socket takes some 280 bytes that nobody reads, then QEMU's UART
                // waits. One that migrates while it waits does so for ever, and the guest is mute.
                let last = self.send_next("true")?;
                return self.answer(last, limit).map(drop);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!(
            "the guest's agent did not answer within {} s",
            limit.as_secs()
        )
    }

    /// Runs a shell command in the guest; its output, or an error if it failed.
    pub fn sh(&mut self, script: &str) -> Result<String> {
        self.sh_within(script, ANSWER_LIMIT)
    }

    /// The same, for who does not want to wait so long; `limit` is for a stock kernel.
    pub fn sh_within(&mut self, script: &str, limit: Duration) -> Result<String> {
        let (rc, out) = self
            .send_next(script)
            .and_then(|id| self.answer(id, limit * kernel::patience()))
            .with_context(|| format!("guest: `{script}`"))?;
        if rc != 0 {
            bail!("guest: `{script}` ended with {rc}: {}", out.trim());
        }
        Ok(out)
    }

    /// Sends a command that will not be answered, such as a reboot.
    pub fn tell(&mut self, script: &str) -> Result<()> {
        self.send(0, script)
    }

    fn send_next(&mut self, script: &str) -> Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(id, script).map(|()| id)
    }

    /// The next answer to question number `first` or a later one.
    fn answer(&mut self, first: u64, limit: Duration) -> Result<(i64, String)> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(line) = self.next_line()? {
                // Answers to questions given up earlier, and line noise of a boot, are not ours. Until the agent has its port,
                // the guest's terminal echoes what it is asked: an echo has no `rc`.
                let Ok(answer) = serde_json::from_slice::<Value>(&line) else {
                    continue;
                };
                if let (Some(id), Some(rc)) = (answer["id"].as_u64(), answer["rc"].as_i64()) {
                    if id >= first {
                        return Ok((rc, answer["out"].as_str().unwrap_or("").to_owned()));
                    }
                }
            }
        }
        bail!("no answer within {} s", limit.as_secs())
    }

    fn send(&mut self, id: u64, script: &str) -> Result<()> {
        let line = format!("\n{}\n", json!({ "id": id, "sh": script }));
        self.stream()?
            .write_all(line.as_bytes())
            .context("cannot talk to the guest's agent")
    }

    fn stream(&mut self) -> Result<&mut UnixStream> {
        if self.stream.is_none() {
            let stream = UnixStream::connect(&self.path)?;
            stream.set_read_timeout(Some(Duration::from_millis(100)))?;
            self.stream = Some(stream);
        }
        self.stream.as_mut().context("no stream")
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            return Ok(Some(self.received.drain(..=end).collect()));
        }
        let mut buffer = [0; 4096];
        match self.stream()?.read(&mut buffer) {
            Ok(0) => bail!("QEMU closed the agent's socket"),
            Ok(count) => self.received.extend_from_slice(&buffer[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(None)
    }
}
