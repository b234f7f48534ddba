// SPDX-License-Identifier: GPL-2.0
//! The two things a user asks for, seen from L0: the demo, and the end-to-end scenarios over as few boots of L1 as is fair.

use std::time::Duration;

use anyhow::{bail, Result};

use crate::job::{Job, Verdict};
use crate::l1::{boot, boot_two, host_path};
use crate::{kernel, scenario};

/// Per scenario, with room for a machine that does other things too.
const SCENARIO_LIMIT: Duration = Duration::from_secs(240);

pub fn demo() -> Result<bool> {
    let run = boot(
        "demo",
        &Job::Demo,
        Duration::from_secs(400) * kernel::patience(),
    )?;
    let logs = host_path(&run.folder);
    let failure = match run.outcome.verdicts.first() {
        None => Some("L1 ended without a verdict".to_owned()),
        Some(verdict) => verdict.failure.clone(),
    };
    match failure.or_else(|| run.fatal.first().cloned()) {
        None => println!("demo: passed; logs: {logs}"),
        Some(why) => {
            println!("demo: FAILED: {why}\ndemo: logs of L1 and the guests: {logs}");
            return Ok(false);
        }
    }
    Ok(true)
}

/// The demo between two hosts.
pub fn two_hosts() -> Result<bool> {
    let runs = boot_two(
        "two-hosts",
        [&Job::FirstHost, &Job::SecondHost],
        Duration::from_secs(600) * kernel::patience(),
    )?;
    let mut good = true;
    for run in runs {
        let failure = match run.outcome.verdicts.first() {
            None => Some("L1 ended without a verdict".to_owned()),
            Some(verdict) => verdict.failure.clone(),
        };
        let logs = host_path(&run.folder);
        match failure.or_else(|| run.fatal.first().cloned()) {
            None => println!("two hosts: passed; logs: {logs}"),
            Some(why) => {
                println!("two hosts: FAILED: {why}\ntwo hosts: logs: {logs}");
                good = false;
            }
        }
    }
    Ok(good)
}

/// Runs the scenarios, or those with one of the comma-separated words in their name; L1 is booted anew only after a failure.
pub fn test(name: Option<&str>) -> Result<bool> {
    let mut left: Vec<String> = scenario::ALL
        .iter()
        .filter(|s| name.is_none_or(|words| words.split(',').any(|word| s.is_called(word))))
        .map(|s| s.name.to_owned())
        .collect();
    if left.is_empty() {
        bail!(
            "no scenario is called {:?}; `bed list` shows them",
            name.unwrap_or("")
        );
    }
    let mut verdicts: Vec<(Verdict, String)> = Vec::new();
    let mut tried_again: Vec<(String, String)> = Vec::new();
    for number in 1.. {
        if left.is_empty() {
            break;
        }
        println!(
            "bed: {} scenario(s) to go, booting L1 with {}",
            left.len(),
            kernel::release()
        );
        let run = boot(
            // A comma in a path is one too many for QEMU.
            &format!("test-{}-{number}", name.unwrap_or("all").replace(',', "+")),
            &Job::Scenarios(left.clone()),
            SCENARIO_LIMIT * left.len() as u32 * kernel::patience(),
        )?;
        let logs = host_path(&run.folder);
        let done = run.outcome.verdicts.len();
        for verdict in run.outcome.verdicts {
            verdicts.push((verdict, logs.clone()));
        }
        left.drain(..done);
        // L1 died in the middle of a scenario: that one has failed, or it would be tried for ever.
        if !run.outcome.finished
            && verdicts.last().is_none_or(|(v, _)| v.failure.is_none())
            && !left.is_empty()
        {
            let why = run
                .fatal
                .first()
                .cloned()
                .unwrap_or_else(|| "L1 ended or hung in it".into());
            println!("test {} ... FAILED\n    {why}", left[0]);
            verdicts.push((
                Verdict {
                    name: left.remove(0),
                    failure: Some(why),
                    seconds: 0.0,
                },
                logs,
            ));
        }
        // Two cores that carry three machines are late now and then. What fails once is tried once more, in an L1 of its own,
        // and is named at the end; a complaint of the kernel is final.
        let Some((
            Verdict {
                name,
                failure: Some(why),
                ..
            },
            logs,
        )) = verdicts.last().cloned()
        else {
            continue;
        };
        let first = tried_again.iter().all(|(tried, _)| *tried != name);
        if first && run.fatal.is_empty() && !why.contains(scenario::KERNEL_COMPLAINED) {
            println!("test {name} ... once more: {why}\n        logs: {logs}");
            verdicts.pop();
            left.insert(0, name.clone());
            tried_again.push((name, why));
        }
    }
    for (name, why) in &tried_again {
        println!("needed a second try: {name}: {why}");
    }
    let failed: Vec<_> = verdicts
        .iter()
        .filter(|(v, _)| v.failure.is_some())
        .collect();
    for (verdict, logs) in &failed {
        println!(
            "failed: {}: {}\n        logs: {logs}/logs/{} and {logs}/l1-console.log",
            verdict.name,
            verdict.failure.as_deref().unwrap_or(""),
            verdict.name
        );
    }
    println!(
        "{} passed, {} failed",
        verdicts.len() - failed.len(),
        failed.len()
    );
    Ok(failed.is_empty())
}
