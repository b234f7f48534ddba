// SPDX-License-Identifier: GPL-2.0

//! Another copy of guest memory, brought up to date from the dirty set alone, as a VMM does for a migration.

use model::dirty::{self, DirtySet};
use model::io::Iova;
use model::mock::{BTreeChunks, Memory, Random};

use crate::vf::GUEST;

/// The copy.
///
/// The guest's own stores are in it at once: KVM tracks those, and they must not hide what we forget.
pub struct Replica {
    bytes: Vec<u8>,
    set: DirtySet<BTreeChunks>,
    /// Pages that were written, each write counted.
    pub page_writes: u64,
    /// One mark in so many is forgotten, to see that it is missed.
    pub forgets: Option<(Random, u32)>,
    /// How many were.
    pub forgotten: u64,
}

impl Replica {
    /// Of memory as it is now.
    pub fn of(memory: &Memory) -> Self {
        Self::from(memory.bytes().to_vec())
    }

    /// The model has written to memory: noted as the kernel does.
    pub(crate) fn written(&mut self, at: u64, len: usize) {
        let pages = dirty::pages(Iova(at), len).map_or(0, Iterator::count);
        self.page_writes += pages as u64;
        if let Some((random, one_in)) = &mut self.forgets {
            if random.below(*one_in) == 0 {
                self.forgotten += 1;
                return;
            }
        }
        self.set.mark(Iova(at), len);
    }

    /// The guest has stored to memory.
    pub(crate) fn stored(&mut self, at: u64, bytes: &[u8]) {
        let start = (at - GUEST) as usize;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Copies the pages that are dirty: the first page that differs for all that.
    pub fn sync(&mut self, memory: &Memory) -> Option<u64> {
        let (set, bytes) = (&mut self.set, &mut self.bytes);
        set.take(GUEST..GUEST + bytes.len() as u64, |range| {
            let (start, end) = (range.start - GUEST, range.end - GUEST);
            let range = start as usize..end as usize;
            bytes[range.clone()].copy_from_slice(&memory.bytes()[range]);
        });
        if self.bytes == memory.bytes() {
            return None;
        }
        let mut pages = self.bytes.chunks(4096).zip(memory.bytes().chunks(4096));
        pages
            .position(|(copy, original)| copy != original)
            .map(|n| n as u64)
    }

    /// Becomes `memory`, as on the host that a guest has come to, and begins anew as a replica of that.
    pub fn swap(&mut self, memory: &mut Memory) {
        assert_eq!(self.sync(memory), None, "a page was written and not marked");
        let bytes = memory.replace(std::mem::take(&mut self.bytes));
        *self = Self::from(bytes);
    }
}

impl From<Vec<u8>> for Replica {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            set: DirtySet::new(BTreeChunks::default()),
            page_writes: 0,
            forgets: None,
            forgotten: 0,
        }
    }
}
