// SPDX-License-Identifier: GPL-2.0

//! `bench_model list`: the names of all cases.
//! `bench_model count CASE RUN`: as many steps of it as run 1 or 2 has, and nothing else, for callgrind.
//! `bench_model table DIR`: the table of what criterion and callgrind have left below DIR.

use std::env;
use std::path::Path;

use anyhow::{bail, Context, Result};
use bench_model::{case, table};

fn count(name: &str, run: u32) -> Result<()> {
    let case = case::all()
        .into_iter()
        .find(|case| case.name() == name)
        .with_context(|| format!("there is no case {name}"))?;
    case.measure(|step| {
        for _ in 0..run * table::STEPS {
            step();
        }
    });
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["list"] => {
            for case in case::all() {
                println!("{}", case.name());
            }
            Ok(())
        }
        ["count", name, run] => count(name, run.parse()?),
        ["table", dir] => {
            print!("{}", table::of(Path::new(dir))?);
            Ok(())
        }
        _ => bail!("usage: bench_model list | count CASE RUN | table DIR"),
    }
}
