// SPDX-License-Identifier: GPL-2.0

//! Arithmetic of descriptor rings.
//!
//! The producer moves the tail, the device moves the head. `head == tail` is empty, so a ring of `len`
//! slots never holds more than `len - 1`. All of these numbers may come from a guest.

/// A ring whose head and tail lie inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    len: u32,
    head: u32,
    tail: u32,
}

impl Ring {
    /// A ring of `len` slots, or `None` if head or tail lie outside: then nothing in it can be believed.
    pub fn new(len: u32, head: u32, tail: u32) -> Option<Self> {
        (head < len && tail < len).then_some(Self { len, head, tail })
    }

    /// The slot the device uses next.
    pub fn head(&self) -> u32 {
        self.head
    }

    /// Slots that were handed to the device and are not used yet; always below the length.
    pub fn pending(&self) -> u32 {
        distance(self.len, self.head, self.tail)
    }

    /// The slot `n` after the head.
    pub fn slot(&self, n: u32) -> u32 {
        step(self.len, self.head, n)
    }

    /// Moves the head over `n` slots, or up to the tail if that is nearer.
    pub fn advance(&mut self, n: u32) {
        self.head = self.slot(n.min(self.pending()));
    }
}

/// Slots from `from` on to `to` in a ring of `len`; 0 unless both lie inside.
pub fn distance(len: u32, from: u32, to: u32) -> u32 {
    if from >= len || to >= len {
        return 0;
    }
    match to.checked_sub(from) {
        Some(n) => n,
        None => len.saturating_sub(from).saturating_add(to),
    }
}

/// The slot `n` after `from` in a ring of `len`; 0 in a ring without slots.
pub fn step(len: u32, from: u32, n: u32) -> u32 {
    let sum = u64::from(from).saturating_add(u64::from(n));
    let slot = sum.checked_rem(u64::from(len)).unwrap_or(0);
    u32::try_from(slot).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_is_refused_when_an_index_is_garbage() {
        assert_eq!(Ring::new(0, 0, 0), None);
        assert_eq!(Ring::new(8, 8, 0), None);
        assert_eq!(Ring::new(8, 0, u32::MAX), None);
        assert!(Ring::new(8, 7, 0).is_some());
    }

    #[test]
    fn pending_is_below_the_length() {
        for len in 1..20 {
            for head in 0..len {
                for tail in 0..len {
                    let mut ring = Ring::new(len, head, tail).unwrap();
                    let n = ring.pending();
                    assert!(n < len);
                    assert_eq!(ring.slot(n), tail);
                    ring.advance(u32::MAX);
                    assert_eq!((ring.head(), ring.pending()), (tail, 0));
                }
            }
        }
    }

    #[test]
    fn arithmetic_holds_at_the_edges() {
        assert_eq!(step(0, 5, 5), 0);
        assert_eq!(step(u32::MAX, u32::MAX, u32::MAX), 0);
        assert_eq!([distance(4, 4, 0), distance(4, 9, 2)], [0, 0]);
        assert_eq!([distance(4, 0, 4), distance(4, 0, 9)], [0, 0]);
        assert_eq!(distance(u32::MAX, u32::MAX - 1, 0), 1);
    }
}
