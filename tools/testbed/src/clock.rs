// SPDX-License-Identifier: GPL-2.0
//! CLOCK_MONOTONIC, the clock of the driver's debugfs, in one unit; and waiting on conditions, never on time alone.

use std::time::{Duration, Instant};

use anyhow::{bail, Result};
use nix::time::{clock_gettime, ClockId};

use crate::kernel;

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Converts QMP's wall-clock timestamp (microseconds since 1970) to CLOCK_MONOTONIC.
pub fn from_realtime_us(us: u64) -> u64 {
    let offset = read(ClockId::CLOCK_REALTIME).saturating_sub(now_ns());
    (us * 1000).saturating_sub(offset)
}

fn read(id: ClockId) -> u64 {
    clock_gettime(id).map_or(0, |t| {
        t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
    })
}

pub fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Polls `probe` until it yields a value; an error of the probe ends the wait at once. `limit` is for a stock kernel.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    wait_looking_every(Duration::from_millis(20), what, limit, probe)
}

/// The same for what must not be noticed late.
pub fn wait_looking_every<T>(
    period: Duration,
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let (start, limit) = (Instant::now(), limit * kernel::patience());
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        std::thread::sleep(period);
    }
}
