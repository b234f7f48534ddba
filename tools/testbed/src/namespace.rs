// SPDX-License-Identifier: GPL-2.0
//! The client's network namespace. A socket stays in the namespace it was made in, so only its making happens there.

use std::fs::File;

use anyhow::{anyhow, Context, Result};
use nix::sched::{setns, CloneFlags};

pub const CLIENT: &str = "client";

/// Runs `make` on a thread of its own inside the client's namespace.
pub fn within<T: Send>(make: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let file = File::open(format!("/run/netns/{CLIENT}"))
                    .context("no namespace of the client")?;
                setns(file, CloneFlags::CLONE_NEWNET)
                    .context("cannot enter the client's namespace")?;
                make()
            })
            .join()
            .map_err(|_| anyhow!("a thread in the client's namespace panicked"))?
    })
}

/// A command line inside the namespace.
pub fn run(line: &str) -> Result<String> {
    crate::command::run(&format!("ip netns exec {CLIENT} {line}"))
}
