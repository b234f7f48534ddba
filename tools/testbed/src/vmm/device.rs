// SPDX-License-Identifier: GPL-2.0
//! A VFIO device: configuration space, BAR 0 (the control page by read and write, the rest mapped), reset and features.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::mman::{mmap, mmap_anonymous, mremap, munmap, MRemapFlags, MapFlags, ProtFlags};
use vfio_bindings::bindings::vfio;

use super::container::Container;
use super::memory::PAGE;
use crate::clock::wait_for;

mod ioctl {
    use nix::{ioctl_none_bad, ioctl_readwrite_bad, request_code_none};
    use vfio_bindings::bindings::vfio;

    const fn code(number: u32) -> u64 {
        request_code_none!(vfio::VFIO_TYPE, vfio::VFIO_BASE + number)
    }

    ioctl_readwrite_bad!(region_info, code(8), super::RegionInfo);
    ioctl_readwrite_bad!(set_irqs, code(10), super::IrqSet);
    ioctl_none_bad!(reset, code(11));
    ioctl_readwrite_bad!(feature, code(17), vfio::vfio_device_feature);
}

pub const BAR_BYTES: usize = 0x4000;
/// What is not mapped: it traps.
pub const CONTROL_PAGE: Range<usize> = 0..PAGE;
const COMMAND: u64 = 4;
// Bits of it.
pub const MEMORY_SPACE: u16 = 1 << 1;
pub const BUS_MASTER: u16 = 1 << 2;
const CAPABILITIES: u64 = 0x34;
const PCI_EXPRESS: u8 = 0x10;
/// Of the PCI Express capability, and its bit for a function level reset.
const DEVICE_CONTROL: u64 = 8;
const FLR: u16 = 1 << 15;

/// `vfio_region_info` with room for a sparse-mmap capability of a few areas.
#[repr(C)]
pub struct RegionInfo {
    info: vfio::vfio_region_info,
    caps: [u32; 64],
}

/// `vfio_irq_set` with one event.
#[repr(C)]
pub struct IrqSet {
    irqs: vfio::vfio_irq_set,
    event: i32,
}

/// The kernel's wish to have the device back.
pub struct Requests(EventFd);

impl Requests {
    pub fn is_asked(&self) -> Result<bool> {
        match self.0.read() {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// A feature and its payload.
#[repr(C)]
struct Feature<T> {
    argsz: u32,
    flags: u32,
    payload: T,
}

pub struct Device {
    // Unmapped before the file is closed: a mapping keeps a device open.
    rings: Mapping,
    bar: u64,
    config: u64,
    file: File,
}

impl Device {
    pub fn open(container: &Container, bdf: &str) -> Result<Self> {
        let file = container.device(bdf)?;
        let bar = region(&file, vfio::VFIO_PCI_BAR0_REGION_INDEX)?;
        ensure!(
            bar.info.size == BAR_BYTES as u64,
            "BAR 0 has {:#x} bytes",
            bar.info.size
        );
        let areas = bar.sparse_areas();
        ensure!(
            matches!(&areas[..], [area] if *area == (PAGE as u64..BAR_BYTES as u64)),
            "BAR 0 is to be mapped at {areas:x?}"
        );
        let config = region(&file, vfio::VFIO_PCI_CONFIG_REGION_INDEX)?
            .info
            .offset;
        let rings = Mapping::new(&file, bar.info.offset, PAGE..BAR_BYTES)
            .context("cannot map the rings' pages")?;
        Ok(Self {
            rings,
            bar: bar.info.offset,
            config,
            file,
        })
    }

    /// Reads a register the way a guest's access gets there: trapped in the control page, else by the mapping.
    pub fn read32(&self, at: usize) -> Result<u32> {
        if !CONTROL_PAGE.contains(&at) {
            return Ok(self.rings.read32(at));
        }
        self.read32_by_file(at)
    }

    pub fn write32(&self, at: usize, value: u32) -> Result<()> {
        if !CONTROL_PAGE.contains(&at) {
            self.rings.write32(at, value);
            return Ok(());
        }
        self.file
            .write_all_at(&value.to_le_bytes(), self.bar + at as u64)
            .with_context(|| format!("cannot write register {at:#x}"))
    }

    /// Memory decoding and bus mastering on, as a driver's probe does.
    pub fn enable(&self) -> Result<()> {
        self.set_command(MEMORY_SPACE | BUS_MASTER, true)
    }

    /// Sets or clears bits of the command register.
    pub fn set_command(&self, bits: u16, on: bool) -> Result<()> {
        let command = self.read_config(COMMAND)?;
        let command = if on { command | bits } else { command & !bits };
        self.write_config(COMMAND, command)
    }

    /// A function level reset, as a guest asks for it.
    pub fn flr(&self) -> Result<()> {
        let mut at = self.read_config(CAPABILITIES)? & 0xfc;
        // 48 capabilities fill a configuration space.
        for _ in 0..48 {
            let [id, next] = self.read_config(at.into())?.to_le_bytes();
            if id == PCI_EXPRESS {
                let control = u64::from(at) + DEVICE_CONTROL;
                return self.write_config(control, self.read_config(control)? | FLR);
            }
            at = u16::from(next & 0xfc);
        }
        bail!("the VF has no PCI Express capability")
    }

    fn read_config(&self, at: u64) -> Result<u16> {
        let mut word = [0; 2];
        self.file.read_exact_at(&mut word, self.config + at)?;
        Ok(u16::from_le_bytes(word))
    }

    fn write_config(&self, at: u64, word: u16) -> Result<()> {
        self.file
            .write_all_at(&word.to_le_bytes(), self.config + at)
            .with_context(|| format!("cannot write {at:#x} of the configuration space"))
    }

    /// Has the kernel say when it wants the device back.
    pub fn requests(&self) -> Result<Requests> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let mut irqs = IrqSet {
            irqs: vfio::vfio_irq_set {
                argsz: size_of::<IrqSet>() as u32,
                flags: vfio::VFIO_IRQ_SET_DATA_EVENTFD | vfio::VFIO_IRQ_SET_ACTION_TRIGGER,
                index: vfio::VFIO_PCI_REQ_IRQ_INDEX,
                start: 0,
                count: 1,
                ..Default::default()
            },
            event: event.as_fd().as_raw_fd(),
        };
        // SAFETY: The structure is as long as it says, and has one descriptor.
        unsafe { ioctl::set_irqs(self.file.as_raw_fd(), &mut irqs) }
            .context("cannot ask for requests")?;
        Ok(Requests(event))
    }

    /// `VFIO_DEVICE_RESET`; the lock of the device may be taken for the moment.
    pub fn reset(&self) -> Result<()> {
        wait_for("VFIO_DEVICE_RESET", Duration::from_secs(10), || {
            // SAFETY: Takes nothing.
            match unsafe { ioctl::reset(self.file.as_raw_fd()) } {
                Ok(_) => Ok(Some(())),
                Err(Errno::EAGAIN) => Ok(None),
                Err(error) => Err(error).context("VFIO_DEVICE_RESET failed"),
            }
        })
    }

    /// Reads a register by the file, wherever it is.
    pub fn read32_by_file(&self, at: usize) -> Result<u32> {
        let mut bytes = [0; 4];
        self.file
            .read_exact_at(&mut bytes, self.bar + at as u64)
            .with_context(|| format!("cannot read register {at:#x}"))?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// The same file by another descriptor, for mappings alone.
    pub fn duplicate(&self) -> Result<Descriptor> {
        Ok(Descriptor {
            bar: self.bar,
            file: self.file.try_clone()?,
        })
    }

    /// Maps a part of BAR 0, whether that is wise or not.
    pub fn map(&self, part: Range<usize>) -> nix::Result<Mapping> {
        Mapping::new(&self.file, self.bar, part)
    }

    /// `VFIO_DEVICE_FEATURE` with its flags; `payload` goes in and comes out.
    ///
    /// # Safety
    ///
    /// `T` must be what the kernel expects for the feature.
    pub unsafe fn feature<T>(&self, flags: u32, payload: &mut T) -> nix::Result<()>
    where
        T: Copy,
    {
        const { assert!(align_of::<T>() <= 8) };
        let mut feature = Feature {
            argsz: size_of::<Feature<T>>() as u32,
            flags,
            payload: *payload,
        };
        // SAFETY: The structure starts as the kernel's does and is as long as it says.
        let result = unsafe { ioctl::feature(self.file.as_raw_fd(), (&raw mut feature).cast()) };
        *payload = feature.payload;
        result.map(drop)
    }
}

fn region(file: &File, index: u32) -> Result<RegionInfo> {
    let mut region = RegionInfo {
        info: vfio::vfio_region_info {
            argsz: size_of::<RegionInfo>() as u32,
            index,
            ..Default::default()
        },
        caps: [0; 64],
    };
    // SAFETY: The structure is as long as it says.
    unsafe { ioctl::region_info(file.as_raw_fd(), &mut region) }
        .with_context(|| format!("no region {index}"))?;
    Ok(region)
}

impl RegionInfo {
    /// What may be mapped, as the sparse-mmap capability says.
    fn sparse_areas(&self) -> Vec<Range<u64>> {
        let word = |at: usize| {
            let at = at.checked_sub(size_of::<vfio::vfio_region_info>());
            at.and_then(|at| self.caps.get(at / 4)).copied()
        };
        let wide = |at| Some(u64::from(word(at)?) | u64::from(word(at + 4)?) << 32);
        let mut areas = Vec::new();
        let mut at = self.info.cap_offset as usize;
        // id u16, version u16, next u32; then the number of areas, reserved, and offset and size of each.
        while let (Some(id), Some(next)) = (word(at), word(at + 4)) {
            if id & 0xffff == vfio::VFIO_REGION_INFO_CAP_SPARSE_MMAP {
                for n in 0..word(at + 8).unwrap_or(0) as usize {
                    let area = at + 16 + 16 * n;
                    if let (Some(offset), Some(size)) = (wide(area), wide(area + 8)) {
                        areas.push(offset..offset + size);
                    }
                }
            }
            if next == 0 {
                break;
            }
            at = next as usize;
        }
        areas
    }
}

/// Another descriptor of a device.
pub struct Descriptor {
    bar: u64,
    file: File,
}

impl Descriptor {
    pub fn map(&self, part: Range<usize>) -> nix::Result<Mapping> {
        Mapping::new(&self.file, self.bar, part)
    }
}

/// A part of BAR 0 in our address space.
pub struct Mapping {
    base: std::ptr::NonNull<u32>,
    part: Range<usize>,
}

// SAFETY: Registers are only accessed one volatile word at a time, which any thread may do.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: &File, bar: u64, part: Range<usize>) -> nix::Result<Self> {
        // SAFETY: A new shared mapping of a device's registers; it aliases nothing of this program.
        let base = unsafe {
            mmap(
                None,
                NonZeroUsize::new(part.len()).ok_or(Errno::EINVAL)?,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                file,
                (bar + part.start as u64) as i64,
            )
        }?;
        Ok(Self {
            base: base.cast(),
            part,
        })
    }

    pub fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// The first register of it.
    pub fn start(&self) -> usize {
        self.part.start
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.part.len()
    }

    /// The same by `mremap()`, to an address that the kernel chooses.
    pub fn moved(self) -> nix::Result<Self> {
        let this = std::mem::ManuallyDrop::new(self);
        let (len, part) = (this.part.len(), this.part.clone());
        let size = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // SAFETY: The room is new; the mapping moves there, and its old address is not used any more.
        let base = unsafe {
            let room = mmap_anonymous(None, size, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE)?;
            let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
            mremap(this.base.cast(), len, len, flags, Some(room))
        }?;
        Ok(Self {
            base: base.cast(),
            part,
        })
    }

    fn at(&self, at: usize) -> *mut u32 {
        assert!(
            at % 4 == 0 && self.part.contains(&at),
            "no register at {at:#x}"
        );
        // SAFETY: Within the mapping, as just checked.
        unsafe { self.base.as_ptr().add((at - self.part.start) / 4) }
    }

    pub fn read32(&self, at: usize) -> u32 {
        // SAFETY: Within the mapping and aligned.
        unsafe { self.at(at).read_volatile() }
    }

    pub fn write32(&self, at: usize, value: u32) {
        // SAFETY: Within the mapping and aligned.
        unsafe { self.at(at).write_volatile(value) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: Made by `new`, and nobody has its addresses.
        unsafe {
            let _ = munmap(self.base.cast(), self.part.len());
        }
    }
}
