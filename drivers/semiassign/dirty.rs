// SPDX-License-Identifier: GPL-2.0

//! The log of guest pages written while emulated, for kernels that report DMA logging.

use core::ops::Range;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use vfio::dma_log::Report;

/// Pages in one chunk.
const CHUNK_PAGES: u64 = 4096;
/// Chunks of one log: 256 GiB of memory written. A guest chooses the addresses, so there must be a bound.
const MAX_CHUNKS: usize = 16_384;
const WORDS: usize = (CHUNK_PAGES / 64) as usize;

/// A sparse bitmap of pages: one bit for each page, in chunks of 16 MiB of address space.
pub(crate) struct DirtyLog {
    chunks: RBTree<u64, [u64; WORDS]>,
    /// A chunk could not be allocated: from then on everything is reported.
    overflown: bool,
    nr_chunks: usize,
}

impl DirtyLog {
    pub(crate) fn new() -> Self {
        Self {
            chunks: RBTree::new(),
            overflown: false,
            nr_chunks: 0,
        }
    }

    /// Notes that page number `page` was written.
    pub(crate) fn mark(&mut self, page: u64) {
        let (key, bit) = (page / CHUNK_PAGES, page % CHUNK_PAGES);
        let (word, mask) = ((bit / 64) as usize, 1u64 << (bit % 64));
        if self.chunks.get(&key).is_none() {
            if self.nr_chunks >= MAX_CHUNKS {
                self.overflown = true;
                return;
            }
            match RBTreeNode::new(key, [0; WORDS], GFP_KERNEL_ACCOUNT) {
                Ok(node) => {
                    self.chunks.insert(node);
                    self.nr_chunks += 1;
                }
                Err(_) => self.overflown = true,
            }
        }
        if let Some(word) = self
            .chunks
            .get_mut(&key)
            .and_then(|words| words.get_mut(word))
        {
            *word |= mask;
        }
    }

    /// Reports and forgets what was written in `range`.
    pub(crate) fn report(&mut self, range: Range<u64>, out: &mut Report<'_>) {
        let page_bytes = PAGE_SIZE as u64;
        if self.overflown {
            let bytes =
                usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
            out.mark(range.start, bytes);
        }
        for (key, words) in self.chunks.iter_mut() {
            let first = key.saturating_mul(CHUNK_PAGES);
            if first.saturating_mul(page_bytes) >= range.end
                || first.saturating_add(CHUNK_PAGES).saturating_mul(page_bytes) <= range.start
            {
                continue;
            }
            for (i, word) in words.iter_mut().enumerate() {
                let mut left = *word;
                while left != 0 {
                    let bit = left.trailing_zeros();
                    left &= left - 1;
                    let iova = (first + i as u64 * 64 + u64::from(bit)).saturating_mul(page_bytes);
                    if range.contains(&iova) {
                        out.mark(iova, PAGE_SIZE);
                        *word &= !(1 << bit);
                    }
                }
            }
        }
    }
}
