// SPDX-License-Identifier: GPL-2.0
//! A VMM that dies: what it leaves behind in every state of its device.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use super::bed::Bed;
use super::vmm_bed::{memory, peer, require_usable, vfs, MAC};
use crate::clock::now_ns;
use crate::vmm::guest::Guest;
use crate::vmm::migration::{save, State};
use crate::vmm::traffic::{drain, new_numbers, Peer};
use crate::vmm::{Machine, Random};

/// What a VMM is doing when it is killed.
const HELD: [&str; 10] = [
    "running",
    "pre-copy",
    "running-with-file",
    "pre-copy-p2p",
    "stop-copy",
    "running-p2p",
    "stop",
    "resuming",
    "resuming-half",
    "resuming-whole",
];
/// Kills at a random moment of a walk through all states.
const KILLS: usize = 6;
const MOST_MS_TO_LIVE: usize = 400;

pub fn closed_in_every_state(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let peer = peer(bed)?;
    let memory = memory()?;
    let mut random = Random::new(now_ns());
    let moments = HELD.into_iter().chain([&"all"; KILLS].into_iter().copied());
    for moment in moments {
        let kill_after = if moment == "all" {
            Duration::from_millis(random.below(MOST_MS_TO_LIVE) as u64)
        } else {
            Duration::ZERO
        };
        let wrap = || format!("killed in {moment}, {} ms later", kill_after.as_millis());
        kill(&vfs.a, moment, kill_after, &peer).with_context(wrap)?;
        let machine = Machine::open(&vfs.a, &memory).with_context(wrap)?;
        require_usable(&vfs.a, &machine, &memory, &peer).with_context(wrap)?;
    }
    memory.check_canaries()
}

/// Starts a VMM, lets it get where it is to die, and kills it with frames under way.
fn kill(vf: &str, moment: &str, after: Duration, peer: &Peer) -> Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .args(["hold", vf, moment])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a VMM")?;
    let waited = wait_held(&mut child);
    if waited.is_ok() {
        let numbers = new_numbers(100);
        for number in numbers {
            peer.send(&peer.frame_to(MAC, number))?;
        }
        std::thread::sleep(after);
    }
    let early = child.try_wait()?;
    child.kill()?;
    let status = child.wait()?;
    waited?;
    ensure!(early.is_none(), "the VMM ended by itself: {status}");
    Ok(())
}

fn wait_held(child: &mut Child) -> Result<()> {
    let mut line = String::new();
    let words = child.stdout.take().context("no words of the VMM")?;
    // Ends when the child does, at the latest.
    BufReader::new(words).read_line(&mut line)?;
    ensure!(line.trim() == "held", "the VMM did not get there");
    Ok(())
}

/// The VMM that is killed: brings a VF to a state, says so, and serves its rings until the end.
pub fn hold(vf: &str, moment: &str) -> Result<bool> {
    let memory = memory()?;
    let machine = Machine::open(vf, &memory)?;
    let device = &machine.device;
    let mut guest = Guest::start(device, &memory, MAC)?;
    let mut files = Vec::new();
    match moment {
        "running" | "all" => {}
        "pre-copy" => files.push(device.open_data(State::PreCopy)?),
        "running-with-file" => {
            files.push(device.open_data(State::PreCopy)?);
            device.go(State::Running)?;
        }
        "pre-copy-p2p" => {
            files.push(device.open_data(State::PreCopy)?);
            device.go(State::PreCopyP2p)?;
        }
        "stop-copy" => files.push(save(device, || Ok(()))?.1),
        "running-p2p" => device.go(State::RunningP2p)?,
        "stop" => device.go(State::Stop)?,
        "resuming" | "resuming-half" | "resuming-whole" => {
            let (image, file) = save(device, || Ok(()))?;
            drop(file);
            let mut file = device.open_data(State::Resuming)?;
            let bytes = match moment {
                "resuming" => 0,
                "resuming-half" => image.len() / 2,
                _ => image.len(),
            };
            file.write_all(&image[..bytes])?;
            files.push(file);
        }
        _ => bail!("no state is called {moment}"),
    }
    println!("held");
    std::io::stdout().flush()?;
    loop {
        if moment == "all" {
            let (_, file) = save(device, || Ok(()))?;
            device.go(State::Running)?;
            drop(file);
        }
        drain(&mut guest)?;
        std::thread::sleep(Duration::from_micros(200));
    }
}
