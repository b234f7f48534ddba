// SPDX-License-Identifier: GPL-2.0

//! The log of guest pages written while emulated, for kernels that report DMA logging: the model's set, in a tree.

use core::ops::{Range, RangeInclusive};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use model::dirty::{Chunk, Chunks, DirtySet, PAGE_BYTES};
use model::io::Iova;
use vfio::dma_log::Report;

const _: () = assert!(PAGE_BYTES == PAGE_SIZE as u64);

/// Chunks by their number: 9 MB at most. Charged to the VM where its VMM allocates, not where the worker does.
struct Tree(RBTree<u64, Chunk>);

impl Chunks for Tree {
    fn get(&mut self, number: u64) -> Option<&mut Chunk> {
        self.0.get_mut(&number)
    }

    fn insert(&mut self, number: u64) -> bool {
        RBTreeNode::new(number, Chunk::new(), GFP_KERNEL_ACCOUNT)
            .map(|node| self.0.insert(node))
            .is_ok()
    }

    fn for_each(&mut self, numbers: RangeInclusive<u64>, f: &mut dyn FnMut(u64, &mut Chunk)) {
        let mut cursor = self.0.cursor_lower_bound_mut(numbers.start());
        while let Some(mut at) = cursor {
            let (number, chunk) = at.current_mut();
            if number > numbers.end() {
                return;
            }
            f(*number, chunk);
            cursor = at.move_next();
        }
    }
}

/// What was written since it was last reported.
pub(crate) struct DirtyLog(DirtySet<Tree>);

impl DirtyLog {
    pub(crate) fn new() -> Self {
        Self(DirtySet::new(Tree(RBTree::new())))
    }

    /// Notes that `len_bytes` at `at` were written.
    pub(crate) fn mark(&mut self, at: Iova, len_bytes: usize) {
        self.0.mark(at, len_bytes);
    }

    /// Reports and forgets what was written in `range`.
    pub(crate) fn report(&mut self, range: Range<u64>, out: &mut Report<'_>) {
        self.0.take(range, |piece| {
            let bytes = piece.end.saturating_sub(piece.start);
            out.mark(piece.start, usize::try_from(bytes).unwrap_or(usize::MAX));
        });
    }
}
