// SPDX-License-Identifier: GPL-2.0

//! The model in front of QEMU's VF, against QEMU's VF alone.
//!
//! `DIFFERENTIAL_RUNS` makes it longer, `DIFFERENTIAL_SEED` is the first sequence, so that one alone is run by
//! `DIFFERENTIAL_RUNS=1`.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use differential::deviations::{self, Rule, Tally};
use differential::done::Done;
use differential::generate::generate;
use differential::play::Player;
use differential::shrink::shrink;

/// Sequences of a full run.
const RUNS: u64 = 1000;
/// Each worker has two QEMUs, of which one is busy at a time.
const WORKERS: usize = 2;

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

/// Names the sequence that panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("in sequence {}", self.0);
        }
    }
}

#[test]
fn a_guest_sees_of_ours_what_it_sees_of_qemu_s_vf() {
    let since = Instant::now();
    let first = setting("DIFFERENTIAL_SEED").unwrap_or(1);
    let runs = setting("DIFFERENTIAL_RUNS").unwrap_or(RUNS);
    let next = AtomicU64::new(first);
    let failure = Mutex::new(None);
    let total = Mutex::new((Done::default(), Tally::default()));
    let work = || {
        let mut player = Player::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + runs || failure.lock().unwrap().is_some() {
                break;
            }
            let sequence = generate(seed);
            let _named = Named(seed);
            if player.play(&sequence).is_err() {
                *failure.lock().unwrap() = Some(seed);
                let (shortest, why) = shrink(&mut player, &sequence);
                panic!("sequence {seed}: {why}\nby {shortest}");
            }
        }
        let mut total = total.lock().unwrap();
        total.0.add(&player.done);
        total.1.add(&player.tally);
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
    let (done, tally) = total.into_inner().unwrap();
    println!("{} s, from {first} on: {done:?}", since.elapsed().as_secs());
    for known in deviations::all().filter(|known| known.rule == Rule::Forgiven) {
        println!("{:6} {}: {}", tally.of(known), known.name, known.seen);
    }
    if (first, runs) == (1, RUNS) {
        check_that_it_does_something(&done, &tally);
    }
}

/// A run without frames would find no difference either, and what is never forgiven need not be.
fn check_that_it_does_something(done: &Done, tally: &Tally) {
    assert_eq!(done.sequences, RUNS);
    assert!(done.sent > 50_000, "{done:?}");
    assert!(
        done.received[0] > 10_000 && done.received[1] > 2_000,
        "{done:?}"
    );
    assert!(
        done.interrupts > 5_000 && done.registers > 80_000,
        "{done:?}"
    );
    assert!(done.captures > 1_000 && done.migrations > 300, "{done:?}");
    for known in deviations::all().filter(|known| known.rule == Rule::Forgiven) {
        assert!(
            tally.of(known) > 0,
            "{} is not needed: {known:?}",
            known.name
        );
    }
}
