// SPDX-License-Identifier: GPL-2.0
//! What a benchmark has measured: a value for each round of each of the things that are compared.

use serde::{Deserialize, Serialize};

/// By what is measured, then by whose it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The heading that it is under.
    pub part: String,
    pub what: String,
    pub unit: String,
    /// The first is what the others are compared with.
    pub subjects: Vec<Subject>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    pub name: String,
    /// Those with the same place in two subjects were measured one after the other, if both have as many.
    pub values: Vec<f64>,
}

/// A middle, and between which values that of all rounds that could have been lies in 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Median {
    pub value: f64,
    /// Nothing, if there are too few values to say.
    pub between: Option<(f64, f64)>,
}

impl Figures {
    pub fn note(&mut self, part: &str, what: &str, unit: &str, subject: &str, value: f64) {
        let rows = &mut self.rows;
        let at = rows
            .iter()
            .position(|row| row.part == part && row.what == what);
        let at = at.unwrap_or_else(|| {
            rows.push(Row {
                part: part.to_owned(),
                what: what.to_owned(),
                unit: unit.to_owned(),
                subjects: Vec::new(),
            });
            rows.len() - 1
        });
        let subjects = &mut rows[at].subjects;
        match subjects.iter_mut().find(|s| s.name == subject) {
            Some(known) => known.values.push(value),
            None => subjects.push(Subject {
                name: subject.to_owned(),
                values: vec![value],
            }),
        }
    }

    /// Takes over what another run has measured.
    pub fn append(&mut self, other: Self) {
        for row in other.rows {
            for subject in row.subjects {
                for value in subject.values {
                    self.note(&row.part, &row.what, &row.unit, &subject.name, value);
                }
            }
        }
    }

    /// What is under a heading.
    pub fn of(&self, part: &str) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.part == part).collect()
    }

    /// The headings, in the order in which they came.
    pub fn parts(&self) -> Vec<&str> {
        let mut parts: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !parts.contains(&row.part.as_str()) {
                parts.push(&row.part);
            }
        }
        parts
    }
}

impl Subject {
    /// Round by round, how many times what `base` has. The middle of logarithms, so that it is the same whoever is the base.
    pub fn ratio_to(&self, base: &Self) -> Option<Median> {
        let pairs = self.values.iter().zip(&base.values);
        let ratios: Vec<f64> = pairs.map(|(own, base)| (own / base).ln()).collect();
        if self.values.len() != base.values.len() || ratios.iter().any(|r| !r.is_finite()) {
            return None;
        }
        median(&ratios).map(|Median { value, between }| Median {
            value: value.exp(),
            between: between.map(|(from, to)| (from.exp(), to.exp())),
        })
    }

    pub fn median(&self) -> Option<Median> {
        median(&self.values)
    }

    /// Nothing, if there are so few values that it would be the largest.
    pub fn percentile(&self, percent: usize) -> Option<f64> {
        let sorted = sorted(&self.values);
        let enough = percent == 100 || sorted.len() * (100 - percent) >= 100;
        enough.then(|| percentile(&sorted, percent)).flatten()
    }
}

/// By nearest rank; of sorted values.
pub fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// The interval is between two of the values, and assumes nothing of how they are distributed: how many of n lie below the
/// median that they have in common is as many heads as n coins show.
fn median(values: &[f64]) -> Option<Median> {
    let sorted = sorted(values);
    let n = sorted.len();
    let value = match n {
        0 => return None,
        _ if n % 2 == 1 => sorted[n / 2],
        _ => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    };
    // P(fewer than k heads) is at most 2.5 % for this k and no larger one.
    let (mut k, mut ways, mut below) = (0, 1.0_f64, 0.0);
    while k < n / 2 && below + ways <= 0.025 * 2_f64.powi(n as i32) {
        below += ways;
        ways *= (n - k) as f64 / (k + 1) as f64;
        k += 1;
    }
    Some(Median {
        value,
        between: (k > 0).then(|| (sorted[k - 1], sorted[n - k])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_between_the_values_of_the_binomial_table() {
        let of = |n: u32| median(&(1..=n).map(f64::from).collect::<Vec<_>>()).unwrap();
        // Of 10 the second and the ninth, of 6 all, of 100 the 40th and the 61st; five are too few.
        assert_eq!(
            [of(10), of(6), of(100), of(5)].map(|m| m.between),
            [Some((2.0, 9.0)), Some((1.0, 6.0)), Some((40.0, 61.0)), None]
        );
        assert_eq!([of(10), of(5)].map(|m| m.value), [5.5, 3.0]);
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_percentile_is_the_value_of_its_rank() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(
            [1, 50, 99, 100].map(|p| percentile(&hundred, p)),
            [Some(1), Some(50), Some(99), Some(100)]
        );
        assert_eq!([50, 99].map(|p| percentile(&[7], p)), [Some(7); 2]);
        assert_eq!(percentile::<u64>(&[], 50), None);
    }

    #[test]
    fn ratios_are_those_of_each_round() {
        let mut figures = Figures::default();
        for round in 1..=7 {
            // The machine gets slower from round to round, both alike.
            let speed = 100.0 / f64::from(round);
            figures.note("steady", "speed", "m/s", "hare", 3.0 * speed);
            figures.note("steady", "speed", "m/s", "tortoise", speed);
        }
        let [hare, tortoise] = figures.rows[0].subjects.as_slice() else {
            panic!("two subjects");
        };
        let ratio = hare.ratio_to(tortoise).unwrap();
        let (from, to) = ratio.between.unwrap();
        assert!([ratio.value, from, to]
            .iter()
            .all(|r| (r - 3.0).abs() < 1e-9));
    }

    #[test]
    fn subjects_of_which_one_has_more_values_have_no_ratio() {
        let of = |count: u32| Subject {
            name: String::new(),
            values: (1..=count).map(f64::from).collect(),
        };
        assert!(of(4).ratio_to(&of(4)).is_some());
        assert!(of(1).ratio_to(&of(2)).is_none());
        assert!(of(8).ratio_to(&of(4)).is_none());
    }

    #[test]
    fn a_ratio_is_one_by_its_other_way_round() {
        let of = |values: &[f64]| Subject {
            name: String::new(),
            values: values.to_vec(),
        };
        let (one, two) = (of(&[1.0, 1.0]), of(&[1.0, 4.0]));
        let [there, back] = [two.ratio_to(&one), one.ratio_to(&two)];
        let [there, back] = [there, back].map(|ratio| ratio.unwrap().value);
        assert!((there - 2.0).abs() < 1e-9 && (there * back - 1.0).abs() < 1e-9);
        // Nothing can be said of times nothing.
        assert!(of(&[1.0, 0.0]).ratio_to(&one).is_none());
        assert!(one.ratio_to(&of(&[1.0, 0.0])).is_none());
    }

    #[test]
    fn a_percentile_of_few_values_is_none() {
        let of = |count: u32| Subject {
            name: String::new(),
            values: (1..=count).map(f64::from).collect(),
        };
        assert_eq!([99, 100].map(|p| of(99).percentile(p)), [None, Some(99.0)]);
        assert_eq!(of(200).percentile(99), Some(198.0));
    }

    #[test]
    fn what_two_runs_have_measured_is_appended() {
        let mut one = Figures::default();
        one.note("a", "x", "s", "us", 1.0);
        let mut both = one.clone();
        both.append(one);
        assert_eq!(both.rows[0].subjects[0].values, [1.0, 1.0]);
        assert_eq!(both.parts(), ["a"]);
    }
}
