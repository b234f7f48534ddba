// SPDX-License-Identifier: GPL-2.0

//! Memory that changes while the model looks, as memory does that a guest or a device can reach.

use std::collections::VecDeque;

/// Writes of somebody else, each between two accesses of the model to the same memory.
#[derive(Clone, Debug, Default)]
pub struct Meanwhile(VecDeque<Change>);

#[derive(Clone, Copy, Debug)]
struct Change {
    after: u32,
    at: u64,
    val: u64,
}

impl Meanwhile {
    /// Writes `val` to `at`, which has to exist, before the model's access number `after`, counted from the
    /// write that was added before. As many bytes are written as an access has at most: 4 in a register, else 8.
    pub fn add(&mut self, after: u32, at: u64, val: u64) {
        self.0.push_back(Change { after, at, val });
    }

    /// Nothing happens any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Writes that are still to come.
    pub fn left(&self) -> usize {
        self.0.len()
    }

    /// The model is about to look: calls `write` with place and value of what happens before.
    pub(crate) fn access(&mut self, mut write: impl FnMut(u64, u64)) {
        while let Some(change) = self.0.front_mut() {
            if let Some(left) = change.after.checked_sub(1) {
                change.after = left;
                return;
            }
            write(change.at, change.val);
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_come_in_order_each_before_its_access() {
        let mut meanwhile = Meanwhile::default();
        for (after, at) in [(1, 10), (0, 11), (2, 12)] {
            meanwhile.add(after, at, 0);
        }
        let mut seen = Vec::new();
        for access in 0..5 {
            meanwhile.access(|at, _| seen.push((access, at)));
        }
        assert_eq!(seen, [(1, 10), (1, 11), (3, 12)]);
        assert_eq!(meanwhile.left(), 0);
    }
}
