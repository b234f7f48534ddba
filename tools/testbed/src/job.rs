// SPDX-License-Identifier: GPL-2.0
//! What L0 asks of L1, and what L1 answers: two JSON files in the share.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{de::DeserializeOwned, Deserialize, Serialize};

/// Where L1 sees the share.
pub const SHARE: &str = "/share";

#[derive(Serialize, Deserialize)]
pub enum Job {
    Shell(String),
    Demo,
    Scenarios(Vec<String>),
    /// So many migrations, each to be cancelled at a random time or none.
    Soak {
        count: u32,
        cancel: bool,
    },
    /// These parts of the benchmark, each in so many rounds.
    Bench {
        parts: Vec<String>,
        rounds: u32,
    },
    /// The first of two hosts: it has the client, and says what the second does.
    FirstHost,
    SecondHost,
}

impl Job {
    /// Memory that L1 needs for it.
    pub fn memory(&self) -> &'static str {
        match self {
            // Seven guests that migrate, or two of 2 GiB, which VFIO pins.
            Self::Bench { .. } => "8G",
            _ => "4G",
        }
    }
}

#[derive(Serialize, Deserialize, Clone)]
pub struct Verdict {
    pub name: String,
    pub failure: Option<String>,
    pub seconds: f64,
}

/// Written after each scenario, so that what passed before a crash still counts.
#[derive(Serialize, Deserialize, Default)]
pub struct Outcome {
    pub verdicts: Vec<Verdict>,
    pub finished: bool,
}

pub fn job_file(share: &Path) -> PathBuf {
    share.join("job.json")
}

pub fn outcome_file(share: &Path) -> PathBuf {
    share.join("outcome.json")
}

/// Whole or not at all: a reader may come at any time, and a writer may be killed.
pub fn save<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec_pretty(value)?)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not what was expected", path.display()))
}
