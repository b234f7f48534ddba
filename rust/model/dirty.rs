// SPDX-License-Identifier: GPL-2.0

//! The set of guest pages that were written while emulated: sparse, exact, bounded.
//!
//! A page is 4 KiB at an [`Iova`]. Mark after the write, also after one that failed: marking first would lose the page to
//! a report in between, and what failed may have written its beginning.

use core::ops::{Range, RangeInclusive};

use crate::io::Iova;

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;
/// Pages of one chunk: 16 MiB of address space.
pub const CHUNK_PAGES: u64 = 4096;
/// Chunks of one set: 256 GiB of memory written. A guest chooses the addresses, so there must be a bound.
pub const MAX_CHUNKS: usize = 16_384;

const WORD_PAGES: u64 = 64;
const WORDS: usize = (CHUNK_PAGES / WORD_PAGES) as usize;

/// The pages that a write of `len_bytes` at `at` touches, or `None` if it has no byte.
pub fn pages(at: Iova, len_bytes: usize) -> Option<RangeInclusive<u64>> {
    let last = at.0.saturating_add((len_bytes as u64).checked_sub(1)?);
    Some(at.0 / PAGE_BYTES..=last / PAGE_BYTES)
}

/// A bit for each page of a chunk.
#[derive(Clone, Debug)]
pub struct Chunk {
    words: [u64; WORDS],
    /// A bit for each word that is not 0, so that a report costs what is dirty and not what there is.
    used: u64,
}

impl Default for Chunk {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunk {
    /// Nothing is dirty.
    pub const fn new() -> Self {
        Self {
            words: [0; WORDS],
            used: 0,
        }
    }

    /// Marks page `n` of the chunk.
    fn mark(&mut self, n: u64) {
        let word = n / WORD_PAGES;
        if let Some(bits) = self.words.get_mut(word as usize) {
            *bits |= 1 << (n % WORD_PAGES);
            self.used |= 1 << word;
        }
    }

    /// Calls `f` with each marked page in `range`, counted within the chunk, and forgets it.
    fn take(&mut self, range: &Range<u64>, mut f: impl FnMut(u64)) {
        let mut used = self.used;
        while used != 0 {
            let word = used.trailing_zeros();
            used &= used.wrapping_sub(1);
            let first = u64::from(word).saturating_mul(WORD_PAGES);
            let Some(bits) = self.words.get_mut(word as usize) else {
                return;
            };
            let mut left = *bits & within(first, range);
            *bits &= !left;
            if *bits == 0 {
                self.used &= !(1 << word);
            }
            while left != 0 {
                f(first.saturating_add(left.trailing_zeros().into()));
                left &= left.wrapping_sub(1);
            }
        }
    }
}

/// The bits of a word, whose first page is `first`, that lie in `range`.
fn within(first: u64, range: &Range<u64>) -> u64 {
    let upto = |page: u64| match page.saturating_sub(first) {
        n @ 0..WORD_PAGES => (1u64 << n).wrapping_sub(1),
        _ => u64::MAX,
    };
    upto(range.end) & !upto(range.start)
}

/// Where the chunks of a set are kept, by their number: what allocates is not the model's.
pub trait Chunks {
    /// The chunk of this number, if it is there.
    fn get(&mut self, number: u64) -> Option<&mut Chunk>;

    /// Makes a chunk of this number, which is not there yet: whether there was memory for it.
    fn insert(&mut self, number: u64) -> bool;

    /// Calls `f` with each chunk whose number is in `numbers`, in ascending order.
    fn for_each(&mut self, numbers: RangeInclusive<u64>, f: &mut dyn FnMut(u64, &mut Chunk));
}

/// The set.
#[derive(Clone, Debug)]
pub struct DirtySet<C> {
    chunks: C,
    nr_chunks: usize,
    /// A page could not be noted: from then on everything is reported.
    overflown: bool,
}

impl<C: Chunks> DirtySet<C> {
    /// An empty one, which keeps its chunks in `chunks`, where none is yet.
    pub fn new(chunks: C) -> Self {
        Self {
            chunks,
            nr_chunks: 0,
            overflown: false,
        }
    }

    /// Notes that `len_bytes` at `at` were written.
    pub fn mark(&mut self, at: Iova, len_bytes: usize) {
        for page in pages(at, len_bytes).into_iter().flatten() {
            self.mark_page(page);
        }
    }

    fn mark_page(&mut self, page: u64) {
        let number = page / CHUNK_PAGES;
        if self.chunks.get(number).is_none() {
            if self.nr_chunks >= MAX_CHUNKS || !self.chunks.insert(number) {
                self.overflown = true;
                return;
            }
            self.nr_chunks = self.nr_chunks.saturating_add(1);
        }
        if let Some(chunk) = self.chunks.get(number) {
            chunk.mark(page % CHUNK_PAGES);
        }
    }

    /// Calls `report` with every piece of `range`, in bytes, that was written since it was last taken, in ascending
    /// order; pages next to each other are one piece.
    pub fn take(&mut self, range: Range<u64>, mut report: impl FnMut(Range<u64>)) {
        if range.is_empty() {
            return;
        }
        if self.overflown {
            report(range);
            return;
        }
        let (first, last) = (range.start / PAGE_BYTES, (range.end - 1) / PAGE_BYTES);
        let mut piece = 0..0;
        let mut add = |page: u64| {
            let start = page.saturating_mul(PAGE_BYTES).max(range.start);
            let end = page.saturating_add(1).saturating_mul(PAGE_BYTES);
            let end = end.min(range.end);
            if piece.is_empty() {
                piece = start..end;
            } else if piece.end == start {
                piece.end = end;
            } else {
                report(core::mem::replace(&mut piece, start..end));
            }
        };
        self.chunks.for_each(
            first / CHUNK_PAGES..=last / CHUNK_PAGES,
            &mut |number, chunk| {
                let base = number.saturating_mul(CHUNK_PAGES);
                let end = last.saturating_add(1).saturating_sub(base);
                let inside = first.saturating_sub(base)..end.min(CHUNK_PAGES);
                chunk.take(&inside, |n| add(base.saturating_add(n)));
            },
        );
        if !piece.is_empty() {
            report(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;
    use std::vec::Vec;

    use super::*;
    use crate::mock::{BTreeChunks, Random};

    fn set() -> DirtySet<BTreeChunks> {
        DirtySet::new(BTreeChunks::default())
    }

    fn taken(set: &mut DirtySet<BTreeChunks>, range: Range<u64>) -> Vec<(u64, u64)> {
        let mut pieces = Vec::new();
        set.take(range, |piece| pieces.push((piece.start, piece.end)));
        pieces
    }

    #[test]
    fn a_write_touches_every_page_it_has_a_byte_in() {
        assert_eq!(pages(Iova(0x1000), 0), None);
        assert_eq!(pages(Iova(0x1000), 1), Some(1..=1));
        assert_eq!(pages(Iova(0x1fff), 2), Some(1..=2));
        assert_eq!(pages(Iova(0x1000), 0x1000), Some(1..=1));
        assert_eq!(
            pages(Iova(u64::MAX), 9),
            Some(u64::MAX >> 12..=u64::MAX >> 12)
        );
    }

    #[test]
    fn a_page_is_reported_once_and_only_where_it_was_asked_for() {
        let mut set = set();
        set.mark(Iova(0x5_0ff0), 0x20);
        assert_eq!(taken(&mut set, 0..0x5_0000), []);
        assert_eq!(taken(&mut set, 0x5_1000..0x6_0000), [(0x5_1000, 0x5_2000)]);
        assert_eq!(taken(&mut set, 0..u64::MAX), [(0x5_0000, 0x5_1000)]);
        assert_eq!(taken(&mut set, 0..u64::MAX), []);
    }

    #[test]
    fn pages_next_to_each_other_are_one_piece_also_across_chunks() {
        let mut set = set();
        let edge = CHUNK_PAGES * PAGE_BYTES;
        set.mark(Iova(edge - 0x2000), 0x5000);
        assert_eq!(
            taken(&mut set, 0..u64::MAX),
            [(edge - 0x2000, edge + 0x3000)]
        );
    }

    #[test]
    fn a_range_that_starts_or_ends_in_a_page_gets_its_part_of_it() {
        let mut set = set();
        set.mark(Iova(0x1000), 0x1000);
        assert_eq!(taken(&mut set, 0x1800..0x1900), [(0x1800, 0x1900)]);
        set.mark(Iova(u64::MAX - 1), 2);
        assert_eq!(taken(&mut set, 0..u64::MAX), [(u64::MAX - 0xfff, u64::MAX)]);
        assert_eq!(taken(&mut set, 0x10..0x10), []);
    }

    #[test]
    fn a_set_that_is_full_reports_everything() {
        let mut set = set();
        for n in 0..MAX_CHUNKS as u64 {
            set.mark(Iova(n * CHUNK_PAGES * PAGE_BYTES), 1);
        }
        // What has its chunk is still noted.
        set.mark(Iova(PAGE_BYTES), 1);
        assert_eq!(taken(&mut set, 0..0x10_0000), [(0, 0x2000)]);
        set.mark(Iova(u64::MAX), 1);
        assert_eq!(taken(&mut set, 0x7000..0x9000), [(0x7000, 0x9000)]);
    }

    #[test]
    fn a_set_that_cannot_grow_reports_everything() {
        let mut set = DirtySet::new(BTreeChunks::at_most(1));
        set.mark(Iova(0), 1);
        assert_eq!(taken(&mut set, 0..0x4000), [(0, 0x1000)]);
        set.mark(Iova(1 << 40), 1);
        assert_eq!(taken(&mut set, 0..0x4000), [(0, 0x4000)]);
    }

    #[test]
    fn random_marks_and_reports_agree_with_a_plain_set() {
        let mut random = Random(5);
        let (mut set, mut plain) = (set(), BTreeSet::new());
        for _ in 0..20_000 {
            let at = u64::from(random.next()) >> random.below(20);
            if random.below(8) != 0 {
                let len = random.below(20_000) as usize;
                set.mark(Iova(at), len);
                plain.extend(pages(Iova(at), len).into_iter().flatten());
                continue;
            }
            let (first, count) = (at >> 12, u64::from(random.below(0x4_0000)));
            let range = first * PAGE_BYTES..(first + count) * PAGE_BYTES;
            let mut found = BTreeSet::new();
            set.take(range, |piece| {
                assert_eq!((piece.start % PAGE_BYTES, piece.end % PAGE_BYTES), (0, 0));
                for page in piece.start / PAGE_BYTES..piece.end / PAGE_BYTES {
                    assert!(found.insert(page), "reported twice");
                }
            });
            let inside = |page: &u64| (first..first + count).contains(page);
            let expected: BTreeSet<u64> = plain.iter().copied().filter(inside).collect();
            assert_eq!(found, expected);
            plain.retain(|page| !inside(page));
        }
    }
}
