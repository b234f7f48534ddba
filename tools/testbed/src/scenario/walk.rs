// SPDX-License-Identifier: GPL-2.0
//! A random walk over states, data files, resets and traffic, beside a model of what is legal; others look on and read.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{anyhow, bail, ensure, Context, Result};
use nix::errno::Errno;

use super::bed::{require_assigned, Bed, SOON};
use super::vmm_bed::{memory, peer, require_usable, vfs, QuietConsole, LAP, MAC};
use crate::clock::{now_ns, wait_for};
use crate::vmm::guest::Guest;
use crate::vmm::memory::Memory;
use crate::vmm::migration::{errno, precopy_info, read_precopy, save, State};
use crate::vmm::odd::{self, Odd};
use crate::vmm::traffic::{exchange, Peer};
use crate::vmm::{Machine, Random};

/// Each ends with its device closed, whatever state it is in and whoever holds its files.
const LIVES: usize = 6;
/// In one life.
const STEPS: usize = 150;
/// A number here repeats a walk.
const SEED: Option<u64> = None;
/// Frames each way to see that the guest is alive.
const FEW: usize = 3;

/// Where `vfio_mig_get_next_state()` goes first on the way from one state to another, by VFIO's numbers; 0 is no way.
const NEXT: [[u32; 8]; 8] = [
    [0; 8],
    [0, 1, 5, 3, 4, 5, 5, 5],
    [0, 5, 2, 5, 5, 5, 6, 5],
    [0, 1, 1, 3, 1, 1, 0, 0],
    [0, 1, 1, 1, 4, 1, 1, 1],
    [0, 1, 2, 1, 1, 5, 2, 7],
    [0, 2, 2, 7, 2, 2, 6, 7],
    [0, 5, 5, 3, 5, 5, 6, 7],
];

/// What the device must be like after all that was done to it.
struct Walk<'a> {
    vf: &'a str,
    machine: &'a Machine,
    memory: &'a Memory,
    peer: &'a Peer,
    image: &'a [u8],
    random: &'a mut Random,
    state: State,
    /// The guest's rings are set up, and nobody loaded others.
    guest: Option<Guest<'a>>,
    files: &'a Files,
    /// The file of the session, if there is one.
    session: Option<usize>,
    /// Bytes of the image that the session has taken; none if it took something else.
    loaded: Option<usize>,
    opened: usize,
    /// It was stopped and went on since the last saving file was closed: somebody may be tracking, and it stays emulated.
    stopped: bool,
    trace: &'a mut Vec<String>,
}

struct Data {
    file: File,
    id: usize,
    saving: bool,
}

/// The data files that are open; whoever reads beside us borrows one at a time.
#[derive(Default)]
struct Files(Mutex<Vec<Arc<Data>>>);

impl Files {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Data>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nth(&self, n: usize) -> Option<Arc<Data>> {
        let files = self.lock();
        files.get(n % files.len().max(1)).cloned()
    }

    fn has_saving(&self) -> bool {
        self.lock().iter().any(|data| data.saving)
    }
}

/// Closes a file, and returns when that has happened.
fn close(data: Arc<Data>) -> Result<()> {
    let mut data = Some(data);
    wait_for("whoever reads the file", SOON, || {
        match data.take().map(Arc::try_unwrap) {
            Some(Err(shared)) => {
                data = Some(shared);
                Ok(None)
            }
            _ => Ok(Some(())),
        }
    })
}

pub fn every_arc_from_every_state(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let peer = peer(bed)?;
    let memory = memory()?;
    let image = {
        let machine = Machine::open(&vfs.a, &memory)?;
        let mut guest = Guest::start(&machine.device, &memory, MAC)?;
        exchange(&mut guest, &peer, LAP)?;
        save(&machine.device, || Ok(()))?.0
    };
    let seed = SEED.unwrap_or_else(now_ns);
    println!("    seed {seed}");
    let _quiet = QuietConsole::new()?;
    let (mut random, mut trace) = (Random::new(seed), Vec::new());
    for life in 0..LIVES {
        trace.push("open".to_owned());
        live(&vfs.a, &memory, &peer, &image, &mut random, &mut trace).with_context(|| {
            let last = trace.iter().rev().take(12).rev();
            let last: Vec<&str> = last.map(String::as_str).collect();
            format!(
                "seed {seed}, life {life}, at the end of: {}",
                last.join(", ")
            )
        })?;
    }
    println!("    {}", tally(&trace));
    let machine = Machine::open(&vfs.a, &memory)?;
    require_usable(&vfs.a, &machine, &memory, &peer)?;
    memory.check_canaries()
}

/// One life of the device, from open to close.
fn live(
    vf: &str,
    memory: &Memory,
    peer: &Peer,
    image: &[u8],
    random: &mut Random,
    trace: &mut Vec<String>,
) -> Result<()> {
    let machine = Machine::open(vf, memory)?;
    let files = Files::default();
    let stop = AtomicBool::new(false);
    let mut walk = Walk {
        vf,
        machine: &machine,
        memory,
        peer,
        image,
        random,
        state: State::Running,
        guest: None,
        files: &files,
        session: None,
        loaded: None,
        opened: 0,
        stopped: false,
        trace,
    };
    std::thread::scope(|scope| {
        // Whoever looks on must neither see nonsense nor be in the way.
        let looking = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                machine.device.state()?;
                ensure!(
                    machine.device.data_bytes()? > 0,
                    "STOP_COPY is said to yield nothing"
                );
                crate::status::Status::read(vf)?;
            }
            Ok(())
        });
        let reading = scope.spawn(|| {
            let mut buf = [0; 77];
            for turn in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let Some(data) = files.nth(turn) else {
                    std::thread::yield_now();
                    continue;
                };
                let result = (&data.file).read(&mut buf).map_err(|e| errno(&e));
                ensure!(
                    matches!(
                        result,
                        Ok(_) | Err(Errno::ENOMSG | Errno::ENODEV | Errno::EBADF | Errno::EINVAL)
                    ),
                    "reading beside: {result:?}"
                );
            }
            Ok(())
        });
        let walked = (0..STEPS).try_for_each(|_| walk.step());
        stop.store(true, Ordering::Relaxed);
        let onlookers = [looking, reading].map(|thread| {
            let joined = thread.join();
            joined.unwrap_or_else(|_| Err(anyhow!("an onlooker panicked")))
        });
        onlookers.into_iter().fold(walked, Result::and)
    })?;
    drop(machine);
    // What is left of a session when its device is closed.
    for data in files.lock().drain(..) {
        let result = (&data.file).read(&mut [0; 9]).map_err(|e| errno(&e));
        let expected = if data.saving {
            Errno::ENODEV
        } else {
            Errno::EBADF
        };
        ensure!(
            result == Err(expected),
            "file {} of a closed device: {result:?}",
            data.id
        );
    }
    Ok(())
}

fn tally(trace: &[String]) -> String {
    let count = |word: &str| trace.iter().filter(|t| t.starts_with(word)).count();
    format!(
        "{} steps in {LIVES} lives: {} arcs, {} refused, {} files closed, {} odd requests, {} resets, {} times traffic",
        LIVES * STEPS,
        count("-> "),
        count("refused"),
        count("close"),
        count("odd"),
        count("reset"),
        count("traffic")
    )
}

impl Walk<'_> {
    fn step(&mut self) -> Result<()> {
        match self.random.below(20) {
            0..=9 => self.arc()?,
            10 | 11 => self.close()?,
            12 | 13 => self.read()?,
            14 | 15 => self.write()?,
            16 => self.odd()?,
            17 => self.reset()?,
            _ => self.traffic()?,
        }
        let state = self.machine.device.state()?;
        ensure!(
            state == self.state,
            "it says {state:?} where it is {:?}",
            self.state
        );
        Ok(())
    }

    fn arc(&mut self) -> Result<()> {
        let to = self.random.below(9) as u32;
        let from = self.state as u32;
        let result = self.machine.device.try_state(to);
        let mut state = from;
        let mut opens = false;
        let mut expected = Ok(());
        while state != to {
            let next = NEXT[state as usize].get(to as usize).copied().unwrap_or(0);
            if next == 0 {
                expected = Err(Errno::EINVAL);
                break;
            }
            let arc = (State::from_number(state), State::from_number(next));
            if arc == (Some(State::Resuming), Some(State::Stop))
                && self.loaded != Some(self.image.len())
            {
                expected = Err(Errno::EINVAL);
                break;
            }
            opens = self.pass(arc);
            state = next;
        }
        self.trace.push(match expected {
            Ok(()) => format!("-> {to}"),
            Err(_) => format!("refused {to}"),
        });
        self.state = State::from_number(state).context("no state")?;
        match (result, expected) {
            (Ok(file), Ok(())) => {
                ensure!(
                    file.is_some() == opens,
                    "{from} -> {to}: a data file: {}",
                    file.is_some()
                );
                if let Some(file) = file {
                    let saving = self.state != State::Resuming;
                    self.opened += 1;
                    self.files.lock().push(Arc::new(Data {
                        file,
                        id: self.opened,
                        saving,
                    }));
                    self.session = Some(self.opened);
                    self.loaded = (!saving).then_some(0);
                }
                Ok(())
            }
            (Err(error), Err(wanted)) => {
                ensure!(error == wanted, "{from} -> {to}: {error}, not {wanted}");
                Ok(())
            }
            (result, expected) => bail!("{from} -> {to}: {result:?}, expected {expected:?}"),
        }
    }

    /// What an arc does to a session: whether it yields a file.
    fn pass(&mut self, arc: (Option<State>, Option<State>)) -> bool {
        use State::*;
        match arc {
            (Some(PreCopy), Some(Running))
            | (Some(PreCopyP2p), Some(RunningP2p))
            | (Some(StopCopy), Some(Stop)) => self.session = None,
            (Some(Resuming), Some(Stop)) => {
                self.session = None;
                // The rings of the image are those of another time.
                self.guest = None;
            }
            (Some(Running), Some(PreCopy))
            | (Some(RunningP2p), Some(PreCopyP2p))
            | (Some(Stop), Some(StopCopy | Resuming)) => return true,
            (Some(RunningP2p), Some(Running)) | (Some(PreCopyP2p), Some(PreCopy)) => {
                self.stopped = true;
            }
            _ => {}
        }
        false
    }

    fn close(&mut self) -> Result<()> {
        let data = {
            let mut files = self.files.lock();
            if files.is_empty() {
                return Ok(());
            }
            let at = self.random.below(files.len());
            files.swap_remove(at)
        };
        self.trace.push(format!("close {}", data.id));
        let saving = data.saving;
        close(data)?;
        self.stopped &= !saving || self.files.has_saving();
        Ok(())
    }

    /// A request that makes no sense changes nothing.
    fn odd(&mut self) -> Result<()> {
        let n = self.random.below(Odd::ALL.len());
        let Some(odd) = Odd::ALL.get(n) else {
            return Ok(());
        };
        self.trace.push(format!("odd {odd:?}"));
        let result = odd.ask(&self.machine.device);
        ensure!(result == odd.answer(), "{odd:?}: {result:?}");
        if let Some(data) = self.files.nth(n) {
            odd::ask_file(&data.file)?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let Some(data) = self.files.nth(self.random.below(1 << 16)) else {
            return Ok(());
        };
        let length = 1 + self.random.below(300);
        self.trace.push(format!("read {}", data.id));
        let live = self.session == Some(data.id);
        let result = (&data.file)
            .read(&mut vec![0; length])
            .map_err(|e| errno(&e));
        let precopy = matches!(self.state, State::PreCopy | State::PreCopyP2p);
        let legal = match (data.saving, live) {
            (false, _) => result == Err(Errno::EBADF),
            (true, false) => result == Err(Errno::ENODEV),
            (true, true) if precopy => {
                matches!(result, Ok(1..) | Err(Errno::ENOMSG))
            }
            (true, true) => result.is_ok(),
        };
        ensure!(legal, "file {} in {:?}: {result:?}", data.id, self.state);
        let info = precopy_info(&data.file);
        let legal = match (data.saving, live) {
            (false, _) => info == Err(Errno::ENOTTY),
            (true, true) if precopy => info.is_ok(),
            (true, _) => matches!(info, Err(Errno::EINVAL | Errno::ENODEV)),
        };
        ensure!(legal, "info of {} in {:?}: {info:?}", data.id, self.state);
        if live && precopy && length % 2 == 0 {
            read_precopy(&data.file, &mut Vec::new())?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        // The file of a session more often than one that is dead.
        let session = {
            let files = self.files.lock();
            files.iter().find(|f| Some(f.id) == self.session).cloned()
        };
        let session = session.filter(|_| self.random.below(4) > 0);
        let Some(data) = session.or_else(|| self.files.nth(self.random.below(1 << 16))) else {
            return Ok(());
        };
        self.trace.push(format!("write {}", data.id));
        let live = self.session == Some(data.id);
        let good = self.loaded.filter(|_| self.random.below(8) > 0);
        let bytes = match good {
            Some(from) if self.random.below(2) > 0 => &self.image[from..],
            Some(from) => {
                let to = from + self.random.below(self.image.len() - from + 1);
                &self.image[from..to]
            }
            None => &[0xee; 100],
        };
        let bytes = bytes.to_vec();
        if bytes.is_empty() {
            return Ok(());
        }
        let result = (&data.file).write(&bytes).map_err(|e| errno(&e));
        let legal = match (data.saving, live) {
            (true, _) => result == Err(Errno::EBADF),
            (false, false) => result == Err(Errno::ENODEV),
            // A part is taken at a time.
            (false, true) if good.is_some() => matches!(result, Ok(1..)),
            // A length that garbage says may be waited for.
            (false, true) => matches!(result, Ok(_) | Err(Errno::EINVAL)),
        };
        ensure!(legal, "file {} in {:?}: {result:?}", data.id, self.state);
        if live && !data.saving {
            self.loaded = good.map(|from| from + result.unwrap_or(0));
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<()> {
        self.trace.push("reset".into());
        self.machine.device.reset()?;
        // Its user may have begun to track one that did not run, as far as the driver knows.
        let ran = [State::Running, State::PreCopy, State::Resuming].contains(&self.state);
        self.stopped |= !ran;
        self.state = State::Running;
        (self.session, self.loaded, self.guest) = (None, None, None);
        Ok(())
    }

    fn traffic(&mut self) -> Result<()> {
        // In the other states no vCPU runs.
        if !matches!(self.state, State::Running | State::PreCopy) {
            return Ok(());
        }
        self.trace.push("traffic".into());
        let (device, memory) = (&self.machine.device, self.memory);
        let mut guest = match self.guest.take() {
            Some(guest) => guest,
            None => Guest::start(device, memory, MAC)?,
        };
        exchange(&mut guest, self.peer, FEW)?;
        self.guest = Some(guest);
        if self.state == State::Running && !self.files.has_saving() && !self.stopped {
            require_assigned(self.vf)?;
        }
        Ok(())
    }
}
