// SPDX-License-Identifier: GPL-2.0
//! Migration images that were cut, altered or made for something else, written by hand to a VF that resumes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;

use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;

use super::bed::{require_assigned, Bed, SOON};
use super::vmm_bed::{memory, overfill, peer, vfs, QuietConsole, LAP, MAC};
use crate::clock::wait_for;
use crate::host::VLAN;
use crate::status::Status;
use crate::vmm::device::Device;
use crate::vmm::guest::{Guest, SLOTS};
use crate::vmm::image::{boundaries, reseal, CRC_BYTES, HEADER_BYTES, HEAD_BYTES};
use crate::vmm::memory::Memory;
use crate::vmm::migration::{errno, load, read_precopy, save, wait_readable, State, Taken};
use crate::vmm::traffic::{drain, exchange, new_numbers, Peer};
use crate::vmm::{Machine, Random};

const SEED: u64 = 0x5e31_a551;
/// A VLAN that the guest asks for in PRE_COPY.
const LATE_VLAN: u16 = 101;
/// Frames that find the guest's ring full and have to travel.
const HELD: usize = 8;
/// As QEMU writes.
const CHUNK: usize = 32 * 1024;
const ALTERED: usize = 300;
const RESEALED: usize = 100;
const CUT_AT_RANDOM: usize = 20;

/// Who has read all in PRE_COPY may sleep until there is more: what the guest asks of its PF, or the end of the session.
fn require_news(device: &Device, guest: &Guest) -> Result<()> {
    const LIMIT_MS: u16 = 30_000;
    let file = device.open_data(State::PreCopy)?;
    read_precopy(&file, &mut Vec::new())?;
    std::thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| wait_readable(&file, LIMIT_MS));
        guest.add_vlan(LATE_VLAN)?;
        let woken = reader.join().expect("the reader's thread panicked")?;
        ensure!(woken, "the guest has a VLAN more, and nobody was told");
        Ok(())
    })?;
    let mut news = Vec::new();
    read_precopy(&file, &mut news)?;
    ensure!(!news.is_empty(), "poll() promised more than there was");
    device.go(State::Running)?;
    ensure!(
        wait_readable(&file, 0)?,
        "the session has ended, and a reader would sleep on"
    );
    Ok(())
}

pub fn altered_images_are_refused(bed: &Bed) -> Result<()> {
    let vfs = vfs(bed)?;
    let peer = peer(bed)?;
    let memory = memory()?;
    let source = Machine::open(&vfs.a, &memory)?;
    let mut guest = Guest::start(&source.device, &memory, MAC)?;
    guest.add_vlan(VLAN)?;
    guest.set_multicast(&[0x123, 0xabc])?;
    exchange(&mut guest, &peer, LAP)?;
    require_news(&source.device, &guest)?;
    let (image, held) = save_with_held_frames(&vfs.a, &source.device, &guest, &peer)?;
    let ends = boundaries(&image)?;
    println!(
        "    the image has {} bytes in {} parts",
        image.len(),
        ends.len()
    );

    let _quiet = QuietConsole::new()?;
    {
        // What an altered image makes a device write must not be what the good one is tried with.
        let other = Memory::new(4 << 20)?;
        let target = Machine::open(&vfs.b, &other)?;
        let mut tally = Tally::default();
        refuse_all(&target.device, &image, &ends, &mut tally)?;
        survive_resealed(&target.device, &image, &ends, &peer)?;
        other.check_canaries()?;
        println!("    refused: {tally}");
    }

    let target = Machine::open(&vfs.b, &memory)?;
    for chunk in [1, 7, CHUNK] {
        let taken = load(&target.device, &image, chunk)?;
        ensure!(
            taken == Taken::Accepted,
            "the good image by {chunk} bytes: {taken:?}"
        );
        if chunk != CHUNK {
            target.device.reset()?;
        }
    }
    let resaved = require_same_again(&target.device, &image, &ends)?;
    guest.move_to(&target.device)?;
    target.device.go(State::Running)?;
    drop(resaved);
    let mut arrived = BTreeSet::new();
    wait_for("the frames that travelled", SOON, || {
        arrived.extend(drain(&mut guest)?);
        Ok(held.is_subset(&arrived).then_some(()))
    })
    .with_context(|| format!("{} of {} arrived", arrived.len(), held.len()))?;
    exchange(&mut guest, &peer, LAP).context("on the destination")?;
    require_assigned(&vfs.b)?;
    exchange(&mut guest, &peer, LAP).context("on the destination, assigned")?;
    drop(source);
    memory.check_canaries()
}

/// The image of a guest whose ring is full: the frames in its ring and behind it, by number.
fn save_with_held_frames(
    vf: &str,
    device: &Device,
    guest: &Guest<'_>,
    peer: &Peer,
) -> Result<(Vec<u8>, BTreeSet<u32>)> {
    let before = Status::read(vf)?.number("held_frames")?;
    let mut numbers = 0..0;
    let (image, _file) = save(device, || {
        numbers = overfill(vf, guest, peer, HELD)?;
        Ok(())
    })?;
    let held = Status::read(vf)?.number("held_frames")? - before;
    ensure!(held > 0, "no frame was held");
    Ok((image, numbers.take(SLOTS - 1 + held as usize).collect()))
}

/// What was loaded and did not run yet yields the same image, but for what lives in the VF itself. The file is of that session.
fn require_same_again(device: &Device, image: &[u8], ends: &[usize]) -> Result<File> {
    let mut file = device.open_data(State::StopCopy)?;
    let mut again = Vec::new();
    file.read_to_end(&mut again)?;
    device.go(State::Stop)?;
    let ends_again = boundaries(&again)?;
    ensure!(
        ends_again == ends,
        "its parts end at {ends_again:?}, not at {ends:?}"
    );
    for (number, part) in ends.windows(2).enumerate() {
        let payload = part[0]..part[1] - CRC_BYTES;
        let differs = image[payload.clone()]
            .iter()
            .zip(&again[payload])
            .enumerate()
            .filter(|(_, (a, b))| a != b);
        let places: Vec<usize> = differs.map(|(at, _)| at).collect();
        ensure!(
            places.is_empty(),
            "section {number} differs at {places:?} when it is saved again"
        );
    }
    Ok(file)
}

/// How images were refused.
#[derive(Default)]
struct Tally(BTreeMap<String, usize>);

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(how, n)| format!("{n} {how}")).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Everything whose checksums are wrong, or that is not whole.
fn refuse_all(device: &Device, image: &[u8], ends: &[usize], tally: &mut Tally) -> Result<()> {
    let mut random = Random::new(SEED);
    let mut cuts: BTreeSet<usize> = ends
        .iter()
        .copied()
        .filter(|end| *end < image.len())
        .collect();
    cuts.extend([0, 1, HEADER_BYTES - 1, image.len() - 1]);
    cuts.extend((0..CUT_AT_RANDOM).map(|_| random.below(image.len())));
    for cut in cuts {
        refuse(device, &image[..cut], tally).with_context(|| format!("cut to {cut} bytes"))?;
    }

    // Each byte of the framing of the first parts, and others anywhere.
    let mut places: BTreeSet<usize> = (0..HEADER_BYTES).collect();
    for pair in ends.windows(2).take(3) {
        places.extend(pair[0]..pair[0] + HEAD_BYTES);
        places.extend(pair[1] - CRC_BYTES..pair[1]);
    }
    while places.len() < ALTERED {
        places.insert(random.below(image.len()));
    }
    for place in places {
        let mut altered = image.to_vec();
        altered[place] ^= 1 << random.below(8);
        refuse(device, &altered, tally).with_context(|| format!("byte {place} altered"))?;
    }

    let longer = [image, &[0][..]].concat();
    refuse(device, &longer, tally).context("a byte too many")?;
    let mut swapped = image.to_vec();
    let second = image[ends[0]..ends[1]].to_vec();
    let third = image[ends[1]..ends[2]].to_vec();
    swapped.splice(ends[0]..ends[2], [third, second].concat());
    refuse(device, &swapped, tally).context("parts in another order")?;

    // Right checksums, wrong contents.
    for (what, place) in [
        ("another version", 8),
        ("unknown flags", 10),
        ("another adapter", 12),
        ("another geometry", 17),
    ] {
        let mut foreign = image.to_vec();
        foreign[place] ^= 0x20;
        reseal(&mut foreign, ends);
        refuse(device, &foreign, tally).context(what)?;
    }
    Ok(())
}

/// One image that nobody may take; afterwards the device is as new.
fn refuse(device: &Device, image: &[u8], tally: &mut Tally) -> Result<()> {
    let (how, error) = match load(device, image, CHUNK)? {
        Taken::RefusedByWrite(error) => ("by write()", error),
        Taken::RefusedByArc(error) => ("by RESUMING -> STOP", error),
        Taken::Accepted => bail!("it was accepted"),
    };
    ensure!(
        matches!(error, Errno::EINVAL | Errno::EOPNOTSUPP),
        "refused {how} with {error}"
    );
    *tally.0.entry(format!("{how} with {error:?}")).or_default() += 1;
    device.reset()?;
    let state = device.state()?;
    ensure!(state == State::Running, "after a reset it is {state:?}");
    Ok(())
}

/// Altered, and sealed again by somebody who knows how: the contents themselves are the attack. They may be refused or make a strange
/// guest, which is served while captured.
fn survive_resealed(device: &Device, image: &[u8], ends: &[usize], peer: &Peer) -> Result<()> {
    // As long as this file is open the device stays emulated: what a strange guest asks of hardware is the IOMMU's business.
    let tracked = device.open_data(State::PreCopy)?;
    device.go(State::Running)?;
    let mut random = Random::new(SEED + 1);
    let (mut refused, mut accepted) = (0, 0);
    for _ in 0..RESEALED {
        let mut altered = image.to_vec();
        for _ in 0..=random.below(3) {
            let part = random.below(ends.len() - 1);
            let bytes = ends[part] + HEAD_BYTES..ends[part + 1] - CRC_BYTES;
            altered[bytes.start + random.below(bytes.len())] = random.number() as u8;
        }
        reseal(&mut altered, ends);
        match load(device, &altered, CHUNK)? {
            Taken::Accepted => {
                accepted += 1;
                // A refusal to go on is as good.
                match device.try_state(State::Running as u32) {
                    Ok(_) => {
                        for number in new_numbers(16) {
                            peer.send(&peer.frame_to(MAC, number))?;
                        }
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                    Err(error) => ensure!(error == Errno::EOPNOTSUPP, "RUNNING: {error}"),
                }
            }
            Taken::RefusedByWrite(Errno::EINVAL | Errno::EOPNOTSUPP) => refused += 1,
            other => bail!("an altered image with right checksums: {other:?}"),
        }
        device.reset()?;
        ensure!(device.state()? == State::Running, "after a reset");
    }
    ensure!(
        accepted > 0,
        "no strange guest was accepted: nothing was tested"
    );
    println!("    with right checksums: {refused} refused, {accepted} accepted and survived");
    let read = (&tracked).read(&mut [0]);
    ensure!(
        read.is_err_and(|error| errno(&error) == Errno::ENODEV),
        "a file of before the resets can be read"
    );
    Ok(())
}
