// SPDX-License-Identifier: GPL-2.0
//! The figures as tables: Markdown for people, JSON for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::figures::{Figures, Median, Row};
use super::plot;
use crate::job;

/// Writes `bench.json`, `bench.md`, and pictures of each part.
pub fn write(folder: &Path, environment: &str, figures: &Figures) -> Result<()> {
    job::save(&folder.join("bench.json"), figures)?;
    let text = format!("{environment}\n{}", markdown(figures));
    print!("{text}");
    let file = folder.join("bench.md");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    for part in figures.parts() {
        let rows = figures.of(part);
        plot::ratios(&folder.join(format!("{part}-ratios.svg")), part, &rows)?;
        plot::distributions(&folder.join(format!("{part}-times.svg")), part, &rows)?;
    }
    Ok(())
}

fn markdown(figures: &Figures) -> String {
    let mut text = String::new();
    for part in figures.parts() {
        let rows = figures.of(part);
        let _ = writeln!(text, "\n## {part}\n");
        let _ = writeln!(
            text,
            "| | | median | between | p99 | max | rounds | to the first | between |\n|---|---|---|---|---|---|---|---|---|"
        );
        rows.iter().for_each(|row| lines(&mut text, row));
    }
    text
}

fn lines(text: &mut String, row: &Row) {
    for (number, subject) in row.subjects.iter().enumerate() {
        let what = if number == 0 {
            format!("{}, {}", row.what, row.unit)
        } else {
            String::new()
        };
        let ratio = (number > 0)
            .then(|| subject.ratio_to(&row.subjects[0]))
            .flatten();
        let (median, between) = cells(subject.median(), short);
        let (ratio, ratio_between) = cells(ratio, |ratio| format!("{ratio:.3}"));
        let rank = |percent| subject.percentile(percent).map_or("–".to_owned(), short);
        let _ = writeln!(
            text,
            "| {what} | {} | {median} | {between} | {} | {} | {} | {ratio} | {ratio_between} |",
            subject.name,
            rank(99),
            rank(100),
            subject.values.len()
        );
    }
}

fn cells(median: Option<Median>, show: impl Fn(f64) -> String) -> (String, String) {
    let Some(Median { value, between }) = median else {
        return ("–".to_owned(), "–".to_owned());
    };
    let between = between.map_or("–".to_owned(), |(from, to)| {
        format!("{} to {}", show(from), show(to))
    });
    (show(value), between)
}

/// Three digits that say something.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_subject_and_ratios_to_the_first() {
        let mut figures = Figures::default();
        for round in 1..=6 {
            figures.note("steady", "TCP in", "Mbit/s", "vfio-pci", f64::from(round));
            figures.note(
                "steady",
                "TCP in",
                "Mbit/s",
                "semiassign",
                f64::from(2 * round),
            );
        }
        let text = markdown(&figures);
        assert!(text.contains(
            "| TCP in, Mbit/s | vfio-pci | 3.50 | 1.00 to 6.00 | – | 6.00 | 6 | – | – |"
        ));
        assert!(text.contains(
            "|  | semiassign | 7.00 | 2.00 to 12.00 | – | 12.00 | 6 | 2.000 | 2.000 to 2.000 |"
        ));
    }
}
