// SPDX-License-Identifier: GPL-2.0
//! The two things a user asks for, seen from L0: the demo, and the end-to-end scenarios over as few boots of L1 as is fair.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, Result};

use crate::job::{Job, Verdict};
use crate::l1::{boot, boot_two, host_path, Run};
use crate::{kernel, scenario};

/// Per scenario, with room for a machine that does other things too.
const SCENARIO_LIMIT: Duration = Duration::from_secs(240);

pub fn demo() -> Result<bool> {
    let run = boot(
        "demo",
        &Job::Demo,
        Duration::from_secs(400) * kernel::patience(),
    )?;
    Ok(passed("demo", &run))
}

/// The demo between two hosts.
pub fn two_hosts() -> Result<bool> {
    let runs = boot_two(
        "two-hosts",
        [&Job::FirstHost, &Job::SecondHost],
        Duration::from_secs(600) * kernel::patience(),
    )?;
    // Each of them is told.
    Ok(runs
        .map(|run| passed("two hosts", &run))
        .iter()
        .all(|good| *good))
}

/// Tells how a run of `what` ended.
fn passed(what: &str, run: &Run) -> bool {
    let logs = host_path(&run.folder);
    match run.failure() {
        None => println!("{what}: passed; logs: {logs}"),
        Some(why) => {
            println!("{what}: FAILED: {why}\n{what}: logs of L1 and the guests: {logs}");
            return false;
        }
    }
    true
}

/// Runs the scenarios, or those with one of the comma-separated words in their name.
pub fn test(name: Option<&str>) -> Result<bool> {
    let names: Vec<String> = scenario::ALL
        .iter()
        .filter(|s| name.is_none_or(|words| words.split(',').any(|word| s.is_called(word))))
        .map(|s| s.name.to_owned())
        .collect();
    if names.is_empty() {
        bail!(
            "no scenario is called {:?}; `bed list` shows them",
            name.unwrap_or("")
        );
    }
    let series = Series {
        // A comma in a path is one too many for QEMU.
        title: format!("test-{}", name.unwrap_or("all").replace(',', "+")),
        job: &Job::Scenarios,
        limit_each: SCENARIO_LIMIT,
    };
    let results = series.run(names)?;
    results.print();
    let failed = results.failed().len();
    println!(
        "{} passed, {failed} failed",
        results.verdicts.len() - failed
    );
    Ok(failed == 0)
}

/// What L1 does one after the other: scenarios, or parts of the benchmark.
pub struct Series<'a> {
    /// Of the runs' folders.
    pub title: String,
    pub job: &'a dyn Fn(Vec<String>) -> Job,
    /// For each that is left to do, on a kernel that is quick.
    pub limit_each: Duration,
}

/// How each of them ended.
#[derive(Default)]
pub struct Results {
    /// With the folder of the run that counts.
    pub verdicts: Vec<(Verdict, PathBuf)>,
    /// With what failed at first.
    tried_again: Vec<(String, String)>,
}

impl Series<'_> {
    /// Does all that is `left`; L1 is booted anew only after a failure.
    pub fn run(&self, mut left: Vec<String>) -> Result<Results> {
        let mut results = Results::default();
        for number in 1.. {
            if left.is_empty() {
                break;
            }
            println!(
                "bed: {} to go, booting L1 with {}",
                left.len(),
                kernel::release()
            );
            let run = boot(
                &format!("{}-{number}", self.title),
                &(self.job)(left.clone()),
                self.limit_each * left.len() as u32 * kernel::patience(),
            )?;
            results.take(run, &mut left);
        }
        Ok(results)
    }
}

impl Results {
    /// What this run has done is no longer left, but for a failure that may be one of the machine.
    fn take(&mut self, run: Run, left: &mut Vec<String>) {
        let mut verdicts = run.outcome.verdicts;
        left.drain(..verdicts.len());
        let failed = verdicts.last().is_some_and(|v| v.failure.is_some());
        // L1 died in the middle of one: that one has failed, or it would be tried for ever.
        if !run.outcome.finished && !failed && !left.is_empty() {
            let why = "L1 ended or hung in it".to_owned();
            let verdict = Verdict {
                name: left.remove(0),
                failure: Some(run.fatal.first().cloned().unwrap_or(why)),
                seconds: 0.0,
            };
            println!("test {} ... FAILED", verdict.name);
            verdicts.push(verdict);
        }
        // Also of a complaint that came when it was over.
        if let (Some(last), Some(line)) = (verdicts.last_mut(), run.fatal.first()) {
            let complaint = || format!("{}: {line}", scenario::KERNEL_COMPLAINED);
            last.failure.get_or_insert_with(complaint);
        }
        // Two cores that carry three machines are late now and then. What fails once is tried once more, in an L1 of its own,
        // and is named at the end; a complaint of the kernel is final.
        let once_more = |Verdict { name, failure, .. }: &Verdict| {
            let complained = |why: &str| why.contains(scenario::KERNEL_COMPLAINED);
            failure.as_deref().is_some_and(|why| !complained(why))
                && run.fatal.is_empty()
                && self.tried_again.iter().all(|(tried, _)| tried != name)
        };
        let again = verdicts.last().is_some_and(once_more);
        if let Some(Verdict { name, failure, .. }) = again.then(|| verdicts.pop()).flatten() {
            let why = failure.unwrap_or_default();
            let logs = host_path(&run.folder);
            println!("test {name} ... once more: {why}\n        logs: {logs}");
            left.insert(0, name.clone());
            self.tried_again.push((name, why));
        }
        let of_run = verdicts.into_iter();
        self.verdicts
            .extend(of_run.map(|verdict| (verdict, run.folder.clone())));
    }

    pub fn failed(&self) -> Vec<&(Verdict, PathBuf)> {
        let all = self.verdicts.iter();
        all.filter(|(v, _)| v.failure.is_some()).collect()
    }

    pub fn print(&self) {
        for (name, why) in &self.tried_again {
            println!("needed a second try: {name}: {why}");
        }
        for (verdict, folder) in self.failed() {
            let logs = host_path(folder);
            println!(
                "failed: {}: {}\n        logs: {logs}/logs/{} and {logs}/l1-console.log",
                verdict.name,
                verdict.failure.as_deref().unwrap_or(""),
                verdict.name
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Outcome;

    /// One that was to do all that is left, and did these.
    fn run(left: &[String], done: &[(&str, Option<&str>)], fatal: &[&str]) -> Run {
        let verdict = |(name, failure): &(&str, Option<&str>)| Verdict {
            name: (*name).to_owned(),
            failure: failure.map(str::to_owned),
            seconds: 1.0,
        };
        Run {
            outcome: Outcome {
                verdicts: done.iter().map(verdict).collect(),
                finished: done.len() == left.len(),
            },
            folder: "/run".into(),
            fatal: fatal.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn failed(results: &Results) -> Vec<&str> {
        let failed = results.failed().into_iter();
        failed.map(|(verdict, _)| verdict.name.as_str()).collect()
    }

    #[test]
    fn what_fails_is_tried_once_more_and_not_twice() {
        let (mut results, mut left) = (Results::default(), names(&["a", "b", "c"]));
        results.take(
            run(&left, &[("a", None), ("b", Some("late"))], &[]),
            &mut left,
        );
        assert_eq!(left, ["b", "c"]);
        assert!(failed(&results).is_empty());
        results.take(run(&left, &[("b", Some("late"))], &[]), &mut left);
        assert_eq!(left, ["c"]);
        results.take(run(&left, &[("c", None)], &[]), &mut left);
        assert!(left.is_empty());
        assert_eq!(failed(&results), ["b"]);
        assert_eq!(results.verdicts.len(), 3);
    }

    #[test]
    fn a_complaint_of_the_kernel_is_final() {
        let (mut results, mut left) = (Results::default(), names(&["a", "b", "c"]));
        let why = format!("{}: leaked", scenario::KERNEL_COMPLAINED);
        results.take(run(&left, &[("a", Some(&why))], &[]), &mut left);
        results.take(run(&left, &[("b", Some("late"))], &["BUG:"]), &mut left);
        assert_eq!(left, ["c"]);
        assert_eq!(failed(&results), ["a", "b"]);
    }

    #[test]
    fn a_complaint_that_comes_last_is_one_of_the_last() {
        let (mut results, mut left) = (Results::default(), names(&["a", "b"]));
        results.take(
            run(&left, &[("a", None), ("b", None)], &["WARNING:"]),
            &mut left,
        );
        assert_eq!(failed(&results), ["b"]);
        assert!(left.is_empty());
    }

    #[test]
    fn an_l1_that_dies_has_failed_what_it_was_in() {
        let (mut results, mut left) = (Results::default(), names(&["a", "b", "c"]));
        let why = format!("{}: leaked", scenario::KERNEL_COMPLAINED);
        results.take(run(&left, &[("a", Some(&why))], &[]), &mut left);
        for left_after in [&["b", "c"][..], &["c"], &["c"], &[]] {
            results.take(run(&left, &[], &[]), &mut left);
            assert_eq!(left, left_after);
        }
        assert_eq!(failed(&results), ["a", "b", "c"]);
    }
}
