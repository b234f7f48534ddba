// SPDX-License-Identifier: GPL-2.0
//! RAM of the test machine. It lies between canaries that no IOMMU maps, and can keep a copy as the destination of a migration would:
//! what the CPU writes goes to both, what the device writes gets there only by a page being reported dirty.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{ensure, Context, Result};
use nix::sys::mman::{mmap_anonymous, munmap, MapFlags, ProtFlags};

pub const PAGE: usize = 4096;
/// Before and behind the RAM, in bytes.
const CANARY_BYTES: usize = 16 * PAGE;
const CANARY: u8 = 0xc5;

pub struct Memory {
    base: std::ptr::NonNull<u8>,
    len: usize,
    copy: Mutex<Option<Vec<u8>>>,
}

// SAFETY: The memory is only touched by raw copies of bytes; a device writes to it at any time anyway.
unsafe impl Send for Memory {}
// SAFETY: As above.
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` bytes, each page with a pattern of its own.
    pub fn new(len: usize) -> Result<Self> {
        let whole = NonZeroUsize::new(len + 2 * CANARY_BYTES).context("no size")?;
        // SAFETY: New anonymous memory, which aliases nothing.
        let start = unsafe {
            mmap_anonymous(
                None,
                whole,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        }?;
        // SAFETY: Within the mapping, which has canaries on both sides of `len` bytes.
        let base = unsafe {
            start.cast::<u8>().as_ptr().write_bytes(CANARY, whole.get());
            start.cast::<u8>().add(CANARY_BYTES)
        };
        let memory = Self {
            base,
            len,
            copy: Mutex::new(None),
        };
        for page in 0..len / PAGE {
            let mut bytes = [(page % 251) as u8; PAGE];
            bytes[..8].copy_from_slice(&(page as u64).to_le_bytes());
            memory.write(page * PAGE, &bytes);
        }
        Ok(memory)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn address(&self, at: usize) -> u64 {
        self.base.as_ptr() as u64 + at as u64
    }

    fn at(&self, at: usize, len: usize) -> *mut u8 {
        assert!(
            at.checked_add(len).is_some_and(|end| end <= self.len),
            "{len} bytes at {at:#x} are no RAM"
        );
        // SAFETY: Within the mapping, as just checked.
        unsafe { self.base.as_ptr().add(at) }
    }

    pub fn read(&self, at: usize, bytes: &mut [u8]) {
        // SAFETY: Within the mapping; a device may write meanwhile, and any bytes are valid.
        unsafe {
            self.at(at, bytes.len())
                .copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len());
        }
    }

    /// A write of the CPU: the copy gets it too.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let mut copy = self.copy();
        if let Some(copy) = copy.as_mut() {
            copy[at..at + bytes.len()].copy_from_slice(bytes);
        }
        // SAFETY: Within the mapping; whoever reads meanwhile is the device.
        unsafe {
            self.at(at, bytes.len())
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    /// One aligned word, in one access.
    pub fn load32(&self, at: usize) -> u32 {
        assert!(at % 4 == 0, "{at:#x} is not aligned");
        // SAFETY: Within the mapping and aligned.
        unsafe { self.at(at, 4).cast::<u32>().read_volatile() }
    }

    /// Whether nobody wrote beside the RAM.
    pub fn check_canaries(&self) -> Result<()> {
        for (name, offset) in [
            ("before", -(CANARY_BYTES as isize)),
            ("behind", self.len as isize),
        ] {
            // SAFETY: The canaries are part of the mapping.
            let bytes = unsafe {
                std::slice::from_raw_parts(self.base.as_ptr().offset(offset), CANARY_BYTES)
            };
            ensure!(
                bytes.iter().all(|byte| *byte == CANARY),
                "somebody wrote {name} the RAM"
            );
        }
        Ok(())
    }

    fn copy(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first pass of a migration: the copy is what the RAM is now.
    pub fn copy_all(&self) {
        let mut copy = self.copy();
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes);
        *copy = Some(bytes);
    }

    /// The CPU's writes go to the RAM alone again.
    pub fn forget_copy(&self) {
        *self.copy() = None;
    }

    /// A page that was reported goes over: whether it had changed.
    pub fn copy_page(&self, page: usize) -> bool {
        let mut copy = self.copy();
        let mut bytes = [0; PAGE];
        self.read(page * PAGE, &mut bytes);
        let Some(old) = copy.as_mut().map(|copy| &mut copy[page_bytes(page)]) else {
            return false;
        };
        let changed = *old != bytes;
        old.copy_from_slice(&bytes);
        changed
    }

    /// The pages that the copy lacks.
    pub fn differing(&self) -> Vec<usize> {
        let copy = self.copy();
        let Some(copy) = copy.as_ref() else {
            return Vec::new();
        };
        let mut bytes = [0; PAGE];
        (0..self.len / PAGE)
            .filter(|page| {
                self.read(page * PAGE, &mut bytes);
                copy[page_bytes(*page)] != bytes
            })
            .collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The whole mapping of `new`; containers that map it keep its pages, not its addresses.
        unsafe {
            let start = self.base.sub(CANARY_BYTES);
            let _ = munmap(start.cast(), self.len + 2 * CANARY_BYTES);
        }
    }
}

fn page_bytes(page: usize) -> Range<usize> {
    page * PAGE..(page + 1) * PAGE
}
