// SPDX-License-Identifier: GPL-2.0

//! The memory of a QEMU: a file that it has mapped, so that reading and writing it takes no round trip.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of it; the upper half starts at 4 GiB.
pub const BYTES: u64 = 64 << 20;
const HALF: u64 = BYTES / 2;
/// Where the upper half starts.
pub const HIGH: u64 = 1 << 32;

pub struct Ram(File);

impl Ram {
    pub fn create(path: &Path) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        file.set_len(BYTES).unwrap();
        Self(file)
    }

    /// Where physical address `at` is in the file, if `len` bytes of memory are there.
    fn offset(at: u64, len: usize) -> Option<u64> {
        let (base, first) = if at < HIGH { (0, 0) } else { (HIGH, HALF) };
        let from = at - base;
        (from.checked_add(len as u64)? <= HALF).then_some(first + from)
    }

    /// Copies from memory; false if there is none.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> bool {
        let offset = Self::offset(at, buf.len());
        if let Some(offset) = offset {
            self.0.read_exact_at(buf, offset).unwrap();
        }
        offset.is_some()
    }

    /// Copies to memory; false if there is none.
    pub fn write(&self, at: u64, buf: &[u8]) -> bool {
        let offset = Self::offset(at, buf.len());
        if let Some(offset) = offset {
            self.0.write_all_at(buf, offset).unwrap();
        }
        offset.is_some()
    }
}
