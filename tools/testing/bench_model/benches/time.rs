// SPDX-License-Identifier: GPL-2.0

//! Nanoseconds of each case.

use std::time::Duration;

use bench_model::case;
use criterion::{Criterion, Throughput};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(40)
        .configure_from_args();
    for case in case::all() {
        let mut group = criterion.benchmark_group("model");
        group.throughput(Throughput::Elements(case.units().into()));
        case.measure(|step| {
            group.bench_function(case.name(), |b| b.iter(&mut *step));
        });
        group.finish();
    }
    criterion.final_summary();
}
