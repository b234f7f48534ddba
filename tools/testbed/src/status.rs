// SPDX-License-Identifier: GPL-2.0
//! The driver's own account of a VF: debugfs, one `key value` a line. Unknown keys are kept, missing ones are an error only when asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{clock, command};

#[derive(Clone, Debug, Default)]
pub struct Status {
    values: BTreeMap<String, String>,
    /// When it was read.
    read_ns: u64,
}

pub fn path(bdf: &str) -> String {
    format!("/sys/kernel/debug/semiassign/{bdf}/status")
}

impl Status {
    pub fn read(bdf: &str) -> Result<Self> {
        let before = clock::now_ns();
        let text = command::read(path(bdf))?;
        let read_ns = before.midpoint(clock::now_ns());
        let pairs = text.lines().filter_map(|line| {
            let (key, value) = line.trim().split_once([' ', ':', '='])?;
            Some((key.to_owned(), value.trim().to_owned()))
        });
        Ok(Self {
            values: pairs.collect(),
            read_ns,
        })
    }

    pub fn text(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    pub fn number(&self, key: &str) -> Result<u64> {
        let text = self.text(key);
        text.parse()
            .with_context(|| format!("debugfs: {key} is {text:?}, not a number"))
    }

    /// A time that it gives since the open, by CLOCK_MONOTONIC.
    pub fn time(&self, key: &str) -> Result<u64> {
        let opened = self.read_ns.saturating_sub(self.number("now_ns")?);
        Ok(opened + self.number(key)?)
    }

    pub fn mode(&self) -> &str {
        self.text("mode")
    }

    pub fn state(&self) -> &str {
        self.text("state")
    }

    /// The reasons for drops that happened at all.
    pub fn drops(&self) -> String {
        let drops: Vec<String> = self
            .values
            .iter()
            .filter(|(k, v)| k.starts_with("dropped") && *v != "0")
            .map(|(k, v)| format!("{k} {v}"))
            .collect();
        if drops.is_empty() {
            "none".into()
        } else {
            drops.join(", ")
        }
    }
}

/// Waits until the VF is in a mode.
pub fn wait_mode(bdf: &str, mode: &str, limit: Duration) -> Result<Status> {
    let mut last = String::new();
    clock::wait_for(&format!("{bdf} to be {mode}"), limit, || {
        let status = Status::read(bdf)?;
        last = format!("{} / {}", status.mode(), status.state());
        Ok((status.mode() == mode).then_some(status))
    })
    .with_context(|| format!("{bdf} is {last}"))
}
