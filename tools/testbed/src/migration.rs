// SPDX-License-Identifier: GPL-2.0
//! A migration by QMP from one QEMU to another, and what QEMU says of it afterwards.

use std::fs;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::clock::wait_for;
use crate::l2::L2;

const LIMIT: Duration = Duration::from_secs(120);

/// QEMU's own figures.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Report {
    pub status: String,
    pub error: String,
    pub downtime_ms: u64,
    pub total_ms: u64,
    pub device_bytes: u64,
    pub ram_bytes: u64,
    /// Pages found dirty by each bitmap synchronisation.
    pub dirty_pages: Vec<u64>,
}

/// Prepares both ends as libvirt does: events, and a return path so that the source learns of a refusal.
pub fn connect(source: &mut L2, destination: &mut L2) -> Result<String> {
    prepare(source)?;
    let uri = format!("unix:{}", destination.file("incoming.sock").display());
    listen(destination, &uri)?;
    Ok(uri)
}

/// Prepares the source.
pub fn prepare(machine: &mut L2) -> Result<()> {
    set_capabilities(machine, true)
}

/// Prepares a source whose migration nobody receives: it would wait for an answer when it is cancelled.
pub fn prepare_for_nobody(machine: &mut L2) -> Result<()> {
    set_capabilities(machine, false)
}

fn set_capabilities(machine: &mut L2, return_path: bool) -> Result<()> {
    let capabilities = json!({ "capabilities": [
        { "capability": "events", "state": true },
        { "capability": "return-path", "state": return_path },
    ]});
    machine
        .cmd_with("migrate-set-capabilities", capabilities)
        .map(drop)
}

/// Prepares the destination, and has it wait for what comes.
pub fn listen(destination: &mut L2, uri: &str) -> Result<()> {
    prepare(destination)?;
    destination
        .cmd_with("migrate-incoming", json!({ "uri": uri }))
        .map(drop)
}

pub fn start(source: &mut L2, uri: &str) -> Result<()> {
    source.cmd_with("migrate", json!({ "uri": uri })).map(drop)
}

/// Keeps a migration in pre-copy long enough to do things to it.
pub fn slow_down(source: &mut L2) -> Result<()> {
    limit(source, 1 << 20, 1)
}

/// Ends what `slow_down` began. QEMU reads the device only while its quota lasts, so a slow one may not learn of an end.
pub fn speed_up(source: &mut L2) -> Result<()> {
    limit(source, 1 << 30, 300)
}

/// Bytes a second, and milliseconds.
pub fn limit(source: &mut L2, bandwidth: u64, downtime: u64) -> Result<()> {
    let limits = json!({ "max-bandwidth": bandwidth, "downtime-limit": downtime });
    source.cmd_with("migrate-set-parameters", limits).map(drop)
}

pub fn status(source: &mut L2) -> Result<String> {
    Ok(source.cmd("query-migrate")?["status"]
        .as_str()
        .unwrap_or("none")
        .to_owned())
}

/// Waits until the source's migration has ended, however.
pub fn wait(source: &mut L2) -> Result<Report> {
    let answer = wait_for("the migration to end", LIMIT, || {
        let answer = source.cmd("query-migrate")?;
        Ok(matches!(
            answer["status"].as_str(),
            Some("completed" | "failed" | "cancelled")
        )
        .then_some(answer))
    })?;
    Ok(report(
        &answer,
        &fs::read_to_string(source.file("trace.log")).unwrap_or_default(),
    ))
}

fn report(answer: &Value, trace: &str) -> Report {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    Report {
        status: answer["status"].as_str().unwrap_or("none").to_owned(),
        error: answer["error-desc"].as_str().unwrap_or("").to_owned(),
        downtime_ms: number(&answer["downtime"]),
        total_ms: number(&answer["total-time"]),
        device_bytes: number(&answer["vfio"]["transferred"]),
        ram_bytes: number(&answer["ram"]["transferred"]),
        dirty_pages: trace
            .lines()
            .filter_map(|line| {
                line.split_once("migration_bitmap_sync_end dirty_pages ")?
                    .1
                    .trim()
                    .parse()
                    .ok()
            })
            .collect(),
    }
}

/// The whole way, which must succeed, up to a destination that runs.
pub fn migrate(source: &mut L2, destination: &mut L2) -> Result<Report> {
    let uri = connect(source, destination)?;
    start(source, &uri)?;
    let report = wait(source)?;
    if report.status != "completed" {
        bail!(
            "migration {}: {}; destination: {}",
            report.status,
            report.error,
            destination.last_words()
        );
    }
    wait_running(destination)?;
    Ok(report)
}

pub fn wait_running(machine: &mut L2) -> Result<()> {
    wait_for("the destination to run", Duration::from_secs(60), || {
        let answer = machine
            .cmd("query-status")
            .with_context(|| machine.last_words())?;
        Ok((answer["running"] == json!(true)).then_some(()))
    })
}
