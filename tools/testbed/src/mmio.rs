// SPDX-License-Identifier: GPL-2.0
//! A guest without manners: writes the VF's registers from user space, with the stock driver out of the way.

use std::fs::{self, File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;

use anyhow::{bail, Context, Result};
use nix::sys::mman::{mmap, MapFlags, ProtFlags};

const VF: &str = "/sys/bus/pci/devices/0000:00:02.0";
const BAR_SIZE: usize = 0x4000;
const COMMAND: u64 = 4;
const MEMORY_AND_MASTER: u16 = 6;

/// One word of a script: `w OFF VAL` writes a register, `b OFF N` the address of our own BAR plus N. All in hexadecimal.
pub fn run(script: &str) -> Result<String> {
    let config = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("{VF}/config"))?;
    let mut command = [0; 2];
    config.read_exact_at(&mut command, COMMAND)?;
    config.write_all_at(
        &(u16::from_le_bytes(command) | MEMORY_AND_MASTER).to_le_bytes(),
        COMMAND,
    )?;
    let base = bar_address()?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("{VF}/resource0"))?;
    let bar = Bar::map(&file)?;
    for step in script
        .split(';')
        .map(str::trim)
        .filter(|step| !step.is_empty())
    {
        let words: Vec<&str> = step.split_whitespace().collect();
        let [kind, at, value] = words[..] else {
            bail!("odd step {step:?}")
        };
        let at = usize::from_str_radix(at, 16)?;
        let value = u32::from_str_radix(value, 16)?;
        match kind {
            "w" => bar.write(at, value)?,
            "b" => bar.write(at, base + value)?,
            _ => bail!("odd step {step:?}"),
        }
    }
    Ok(String::new())
}

fn bar_address() -> Result<u32> {
    let resources = fs::read_to_string(format!("{VF}/resource"))?;
    let start = resources.split_whitespace().next().context("no BAR0")?;
    let start = u64::from_str_radix(start.trim_start_matches("0x"), 16)?;
    u32::try_from(start).context("BAR0 lies above 4 GiB")
}

struct Bar {
    base: *mut u32,
}

impl Bar {
    fn map(file: &File) -> Result<Self> {
        let size = NonZeroUsize::new(BAR_SIZE).context("no size")?;
        // SAFETY: a new shared mapping of a file; it aliases nothing of this program and is never unmapped.
        let base = unsafe {
            mmap(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                file,
                0,
            )
        }?;
        Ok(Self {
            base: base.as_ptr().cast(),
        })
    }

    fn write(&self, at: usize, value: u32) -> Result<()> {
        if at % 4 != 0 || at >= BAR_SIZE {
            bail!("no register at {at:#x}");
        }
        // SAFETY: within the mapping and aligned, as just checked; device registers want exactly one access.
        unsafe { self.base.add(at / 4).write_volatile(value) };
        Ok(())
    }
}
