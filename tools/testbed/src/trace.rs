// SPDX-License-Identifier: GPL-2.0
//! How often the kernel passes its trace points while something runs, and how long its functions take.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use nix::mount::{mount, MsFlags};

use crate::command::{read, write};

const TRACEFS: &str = "/sys/kernel/tracing";

/// A trace point, and the condition on which it counts.
pub struct Event {
    /// `group/name`.
    pub name: String,
    /// Nothing, if it always does.
    pub filter: String,
}

impl Event {
    fn file(&self, what: &str) -> PathBuf {
        Path::new(TRACEFS)
            .join("events")
            .join(&self.name)
            .join(what)
    }

    fn trigger(&self) -> String {
        let condition = if self.filter.is_empty() {
            String::new()
        } else {
            format!(" if {}", self.filter)
        };
        format!("hist:keys=common_cpu{condition}")
    }

    fn hits(&self) -> Result<u64> {
        let text = read(self.file("hist"))?;
        let hits = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Hits:"));
        hits.and_then(|hits| hits.trim().parse().ok())
            .with_context(|| format!("no count of {} in {text:?}", self.name))
    }
}

/// Counts events while `run` runs.
pub fn count<T>(events: &[Event], run: impl FnOnce() -> Result<T>) -> Result<(T, Vec<u64>)> {
    prepare()?;
    for event in events {
        write(event.file("trigger"), &event.trigger())?;
    }
    let result = run();
    let hits: Result<Vec<u64>> = events.iter().map(Event::hits).collect();
    for event in events {
        write(event.file("trigger"), &format!("!{}", event.trigger()))?;
    }
    Ok((result?, hits?))
}

/// Counts calls of `functions` of the kernel while `run` runs.
pub fn count_calls<T>(
    functions: &[&str],
    run: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<u64>)> {
    prepare()?;
    let probes = Path::new(TRACEFS).join("kprobe_events");
    let lines: Vec<String> = functions
        .iter()
        .map(|function| format!("p:bed/{function} {function}"))
        .collect();
    write(&probes, &lines.join("\n"))?;
    let events: Vec<Event> = functions
        .iter()
        .map(|function| Event {
            name: format!("bed/{function}"),
            filter: String::new(),
        })
        .collect();
    let result = count(&events, run);
    write(&probes, "")?;
    result
}

/// Takes the time of calls of one function of the kernel. Tracing is part of it.
///
/// Made once for all that is to be measured: the kernel patches itself for it, and one under TCG that does so while it is busy
/// may stumble over its own breakpoint, `Oops: int3`.
pub struct Stopwatch(());

/// What of a call counts.
#[derive(Clone, Copy)]
pub enum Time {
    All,
    /// Without what it slept, or waited for a processor.
    OnProcessor,
}

impl Stopwatch {
    /// For calls by one of the threads `pids`, or by any.
    pub fn of(function: &str, pids: &[u32], time: Time) -> Result<Self> {
        prepare()?;
        let this = Self(());
        set("tracing_on", "0")?;
        set("buffer_size_kb", "40000")?;
        set("set_ftrace_filter", function)?;
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        set("set_ftrace_pid", &pids.join(" "))?;
        set("current_tracer", "function_graph")?;
        let option = match time {
            Time::All => "sleep-time",
            Time::OnProcessor => "nosleep-time",
        };
        set("trace_options", option)?;
        Ok(this)
    }

    /// How long each call took while `run` ran, in microseconds.
    pub fn during(&self, run: impl FnOnce() -> Result<()>) -> Result<Vec<f64>> {
        set("trace", "")?;
        set("tracing_on", "1")?;
        let result = run();
        set("tracing_on", "0")?;
        result?;
        require_whole()?;
        let text = read(Path::new(TRACEFS).join("trace"))?;
        let calls = text.lines().filter_map(|line| {
            let (time, _) = line.split_once(" us")?;
            time.split_whitespace().last()?.parse().ok()
        });
        Ok(calls.collect())
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        for (file, value) in [
            ("current_tracer", "nop"),
            ("set_ftrace_filter", ""),
            ("set_ftrace_pid", ""),
            ("tracing_on", "1"),
        ] {
            let _ = set(file, value);
        }
    }
}

/// # Errors
///
/// There was more than the buffers hold.
fn require_whole() -> Result<()> {
    for processor in fs::read_dir(Path::new(TRACEFS).join("per_cpu"))? {
        let stats = read(processor?.path().join("stats"))?;
        ensure!(is_whole(&stats), "the trace has holes: {stats}");
    }
    Ok(())
}

/// By what the kernel says of the buffer of a processor.
fn is_whole(stats: &str) -> bool {
    ["overrun:", "dropped events:"].iter().all(|what| {
        let count = stats.lines().find_map(|line| line.strip_prefix(what));
        count.is_some_and(|count| count.trim() == "0")
    })
}

fn set(file: &str, value: &str) -> Result<()> {
    write(Path::new(TRACEFS).join(file), value)
}

fn prepare() -> Result<()> {
    if Path::new(TRACEFS).join("events").exists() {
        return Ok(());
    }
    let none: Option<&str> = None;
    mount(
        Some("tracefs"),
        TRACEFS,
        Some("tracefs"),
        MsFlags::empty(),
        none,
    )
    .context("cannot mount tracefs")
}

#[cfg(test)]
mod tests {
    use super::is_whole;

    #[test]
    fn a_trace_is_whole_if_nothing_was_overwritten_or_dropped() {
        let whole =
            "entries: 7\noverrun: 0\ncommit overrun: 3\ndropped events: 0\nread events: 0\n";
        assert!(is_whole(whole));
        assert!(!is_whole(&whole.replace("\noverrun: 0", "\noverrun: 12")));
        assert!(!is_whole(
            &whole.replace("events: 0\nread", "events: 5\nread")
        ));
        assert!(!is_whole("entries: 7\n"));
    }
}
