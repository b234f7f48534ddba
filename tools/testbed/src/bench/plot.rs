// SPDX-License-Identifier: GPL-2.0
//! The figures as pictures.

use std::path::Path;

use anyhow::{anyhow, Result};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::figures::{Row, Subject};
use crate::command;

/// Of what is drawn, in pixels.
const WIDTH: u32 = 570;
/// Of one line of a picture of ratios.
const LINE: u32 = 26;
/// Of one distribution.
const PANEL: u32 = 200;
/// Of a letter of what is to the left of them.
const LETTER: u32 = 6;
const COLOURS: [RGBColor; 5] = [
    RGBColor(0x22, 0x22, 0x22),
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0x94, 0x67, 0xbd),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// How many times what the first subject has, with its interval: a line for each row and other subject.
pub fn ratios(file: &Path, part: &str, rows: &[&Row]) -> Result<()> {
    let lines: Vec<(String, usize, f64, (f64, f64))> = rows
        .iter()
        .flat_map(|row| {
            let base = &row.subjects[0];
            let others = row.subjects.iter().enumerate().skip(1);
            others.filter_map(|(number, subject)| {
                let ratio = subject.ratio_to(base)?;
                let between = ratio.between.unwrap_or((ratio.value, ratio.value));
                let title = format!("{}: {} / {}", row.what, subject.name, base.name);
                Some((title, number, ratio.value, between))
            })
        })
        .collect();
    let from = lines.iter().map(|(_, _, _, (from, _))| *from);
    let to = lines.iter().map(|(_, _, _, (_, to))| *to);
    // 1 is always there, and a ratio of 0 has no place on this scale.
    let (least, most) = (from.fold(0.5, f64::min).max(0.01), to.fold(2.0, f64::max));
    if lines.is_empty() {
        return Ok(());
    }
    let letters = lines.iter().map(|(title, ..)| title.len() as u32).max();
    let titles = LETTER * letters.unwrap_or_default();
    let size = (WIDTH + titles, LINE * (lines.len() as u32 + 4));
    let backend = SVGBackend::new(file, size).into_drawing_area();
    let draw = |area: &Area<'_>| -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let count = lines.len() as f64;
        let title = format!("{part}: medians of the rounds' ratios, and 95 %");
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .margin_left(titles)
            .x_label_area_size(24)
            .build_cartesian_2d((least * 0.95..most * 1.05).log_scale(), -0.5..count)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .light_line_style(TRANSPARENT)
            .draw()?;
        chart.draw_series(LineSeries::new([(1.0, -0.5), (1.0, count)], BLACK))?;
        for (at, (title, number, value, (from, to))) in lines.iter().enumerate() {
            let y = count - 1.0 - at as f64;
            let colour = COLOURS[number % COLOURS.len()];
            let between = PathElement::new(vec![(*from, y), (*to, y)], colour.stroke_width(2));
            chart.draw_series([between])?;
            chart.draw_series([Circle::new((*value, y), 4, colour.filled())])?;
            let (_, line) = chart.backend_coord(&(1.0, y));
            area.draw(&Text::new(title.clone(), (8, line - 6), ("sans-serif", 13)))?;
        }
        Ok(())
    };
    finish(file, &backend, draw)
}

/// Which share of the rounds needed at most so long: a panel for each row that is measured in ms, a curve for each subject.
pub fn distributions(file: &Path, part: &str, rows: &[&Row]) -> Result<()> {
    let rows: Vec<&&Row> = rows.iter().filter(|row| row.unit == "ms").collect();
    if rows.is_empty() {
        return Ok(());
    }
    let size = (3 * WIDTH / 2, PANEL * rows.len() as u32);
    let backend = SVGBackend::new(file, size).into_drawing_area();
    let draw = |area: &Area<'_>| -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let panels = area.split_evenly((rows.len(), 1));
        for (panel, row) in panels.iter().zip(&rows) {
            distribution(panel, &format!("{part}: {}, ms", row.what), &row.subjects)?;
        }
        Ok(())
    };
    finish(file, &backend, draw)
}

fn distribution(
    panel: &Area<'_>,
    title: &str,
    subjects: &[Subject],
) -> Result<(), Box<dyn std::error::Error>> {
    let bound = |percent, choose: fn(f64, f64) -> f64| {
        let values = subjects.iter().filter_map(|s| s.percentile(percent));
        values.reduce(choose)
    };
    let (Some(least), Some(most)) = (bound(1, f64::min), bound(100, f64::max)) else {
        return Ok(());
    };
    let least = least.max(0.001);
    let mut chart = ChartBuilder::on(panel)
        .caption(title, ("sans-serif", 14))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(40)
        .build_cartesian_2d((least * 0.8..most.max(least) * 1.25).log_scale(), 0.0..1.0)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|ms| format!("{}", (ms * 1e3).round() / 1e3))
        .y_labels(5)
        .draw()?;
    for (number, subject) in subjects.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points = (1..=100)
            .filter_map(|percent| Some((subject.percentile(percent)?, percent as f64 / 100.0)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(subject.name.clone())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .position(SeriesLabelPosition::UpperLeft)
        .draw()?;
    Ok(())
}

fn finish(
    file: &Path,
    backend: &Area<'_>,
    draw: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<()> {
    draw(backend).map_err(|error| anyhow!("cannot draw: {error}"))?;
    backend
        .present()
        .map_err(|error| anyhow!("cannot write a picture: {error}"))?;
    // As every file that may be kept here begins.
    let picture = command::read(file)?;
    let licence = "<!-- SPDX-License-Identifier: GPL-2.0 -->";
    command::write(file, &format!("{licence}\n{picture}"))
}
