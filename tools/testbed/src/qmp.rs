// SPDX-License-Identifier: GPL-2.0
//! A QMP client for one machine. The `qapi` crate parses events into closed enums and fails on states that QEMU 11.1
//! has and its schema lacks (`pre-copy-p2p-prepare`); here values stay JSON, and each event keeps the time it was sent.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{anyhow, bail, Context, Result};
use serde_json::{json, Value};

use crate::{clock, kernel};

#[derive(Clone, Debug)]
pub struct Event {
    pub at_ns: u64,
    pub name: String,
    pub data: Value,
}

pub struct Qmp {
    stream: File,
    replies: Receiver<Value>,
    events: Arc<Mutex<Vec<Event>>>,
    last_id: u64,
}

impl Qmp {
    pub fn connect(path: &Path) -> Result<Self> {
        Self::over(OwnedFd::from(UnixStream::connect(path)?).into())
    }

    /// Over whatever carries bytes both ways.
    pub fn over(stream: File) -> Result<Self> {
        let reader = BufReader::new(stream.try_clone()?);
        let (sender, replies) = channel();
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        // Ends by itself when QEMU closes its side.
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let Ok(message) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                if let Some(event) = parse_event(&message) {
                    if let Ok(mut list) = sink.lock() {
                        list.push(event);
                    }
                } else if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let mut qmp = Self {
            stream,
            replies,
            events,
            last_id: 0,
        };
        // Whatever a line has echoed so far is no command: this byte has QEMU forget it.
        qmp.stream.write_all(b"\xff")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.last_id += 1;
        let line = json!({ "execute": command, "arguments": arguments, "id": self.last_id });
        // In one piece: a monitor takes what comes when it comes.
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("QEMU is gone before `{command}`"))?;
        let reply = loop {
            // A command may wait for the big lock behind a slow state change, but not for ever.
            let reply = self
                .replies
                .recv_timeout(Duration::from_secs(120) * kernel::patience())
                .map_err(|error| match error {
                    RecvTimeoutError::Timeout => anyhow!("no answer to `{command}`"),
                    RecvTimeoutError::Disconnected => {
                        anyhow!("QEMU ended instead of answering `{command}`")
                    }
                })?;
            // Others are the greeting, and what it says to an echo.
            if reply["id"] == self.last_id {
                break reply;
            }
        };
        match (reply.get("return"), reply.get("error")) {
            (Some(value), _) => Ok(value.clone()),
            (_, Some(error)) => bail!(
                "`{command}`: {}",
                error["desc"].as_str().unwrap_or("unknown error")
            ),
            _ => bail!("`{command}`: odd reply {reply}"),
        }
    }

    /// A handle on the events that outlives a borrow of the machine.
    pub fn event_list(&self) -> Arc<Mutex<Vec<Event>>> {
        Arc::clone(&self.events)
    }
}

fn parse_event(message: &Value) -> Option<Event> {
    let name = message.get("event")?.as_str()?.to_owned();
    let stamp = &message["timestamp"];
    let us = stamp["seconds"].as_u64()? * 1_000_000 + stamp["microseconds"].as_u64()?;
    Some(Event {
        at_ns: clock::from_realtime_us(us),
        name,
        data: message["data"].clone(),
    })
}
