// SPDX-License-Identifier: GPL-2.0

//! Statistics registers that never run backwards.
//!
//! The guest's driver adds 2^32 whenever a counter goes backwards, so what it reads is a sum of our own:
//! it grows by what the hardware's counter grew, on whichever VF that is.

use model::io::Registers;

use crate::regs::STATISTICS;

const COUNT: usize = STATISTICS.len();

/// The guest's statistics.
#[derive(Clone, Debug)]
pub(crate) struct Statistics {
    /// What the guest sees.
    value: [u32; COUNT],
    /// The hardware's counters when `value` was right.
    raw: [u32; COUNT],
}

impl Statistics {
    pub(crate) const fn new() -> Self {
        Self {
            value: [0; COUNT],
            raw: [0; COUNT],
        }
    }

    /// Reads the counter at `at`, if one is there.
    pub(crate) fn read<R: Registers + ?Sized>(&mut self, at: u32, hw: &mut R) -> Option<u32> {
        let index = STATISTICS.iter().position(|reg| *reg == at)?;
        let (value, raw) = (self.value.get_mut(index)?, self.raw.get_mut(index)?);
        let now = hw.read32(at);
        *value = value.wrapping_add(now.wrapping_sub(*raw));
        *raw = now;
        Some(*value)
    }

    /// Brings all of them up to date: what the guest sees.
    pub(crate) fn read_all<R: Registers + ?Sized>(&mut self, hw: &mut R) -> [u32; COUNT] {
        for at in STATISTICS {
            self.read(at, hw);
        }
        self.value
    }

    /// Goes on from the hardware's counters as they are now: they may have been cleared.
    pub(crate) fn rebase<R: Registers + ?Sized>(&mut self, hw: &mut R) {
        for (raw, at) in self.raw.iter_mut().zip(STATISTICS) {
            *raw = hw.read32(at);
        }
    }

    /// Goes on from `value`, on this hardware.
    pub(crate) fn restore<R: Registers + ?Sized>(&mut self, value: [u32; COUNT], hw: &mut R) {
        self.value = value;
        self.rebase(hw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::mock::Page;

    #[test]
    fn counters_go_on_across_hardware_and_wrap() {
        let mut hw = Page::new(0, 0x1000);
        let mut stats = Statistics::new();
        let at = STATISTICS[2];
        hw.write32(at, 1000);
        stats.restore([u32::MAX - 1; COUNT], &mut hw);
        hw.write32(at, 1003);
        assert_eq!(stats.read(at, &mut hw), Some(1));
        hw.write32(at, 0);
        stats.rebase(&mut hw);
        assert_eq!(stats.read(at, &mut hw), Some(1));
        hw.write32(at, 5);
        assert_eq!(stats.read(at, &mut hw), Some(6));
        assert_eq!(stats.read(0x0f20, &mut hw), None);
    }
}
