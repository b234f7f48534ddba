// SPDX-License-Identifier: GPL-2.0

//! Reading all registers, and what they may differ in.

use igbvf::regs::TABLE;

use crate::compare::{self, equal, Same};
use crate::deviations as known;
use crate::guest::RX;
use crate::play::Player;

const PSRTYPE: u32 = 0xf0c;
const EIMS: u32 = 0x1524;
const EICR: u32 = 0x1580;
const EITR: u32 = 0x1680;
const LAST_EITR: u32 = EITR + 8;

impl Player {
    /// Statistics count from here.
    pub(crate) fn note_statistics(&mut self) {
        self.now.unheard = false;
        for row in TABLE.iter().filter(|row| (0xf10..0xf54).contains(&row.at)) {
            let now = self.sides.load(row.at);
            self.now.statistics.insert(row.at, now);
        }
    }

    pub(crate) fn read_all(&mut self) -> Same {
        for row in &TABLE {
            for n in 0..row.count {
                self.read(row.at + n * row.stride)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, at: u32) -> Same {
        self.done.registers += 1;
        let (mut direct, mut ours) = self.sides.load(at);
        if let Some((from, ours_from)) = self.now.statistics.get(&at) {
            direct = direct.wrapping_sub(*from);
            ours = ours.wrapping_sub(*ours_from);
            if self.now.unheard && ours > direct {
                self.tally.forgive(&known::UNHEARD);
                return Ok(());
            }
        }
        // What was written last is known, so that reading 0 like QEMU is not enough.
        if direct == ours && (at != PSRTYPE || ours == self.now.psrtype) {
            return Ok(());
        }
        if self.now.loose.contains(&at) {
            self.tally.forgive(match at {
                _ if at >= RX => &known::RESET_HEADS,
                _ => &known::FLR_KEEPS,
            });
            return Ok(());
        }
        if self.now.migrated {
            let known = match at {
                EIMS => Some((&known::EIMS_READ, 0)),
                EICR => Some((&known::EICR_READ, 0)),
                EITR..=LAST_EITR => Some((&known::EITR_READ, 0x7ffc)),
                _ => None,
            };
            if let Some((known, mask)) = known {
                self.tally.forgive(known);
                return equal("a register after a migration", direct & mask, ours & mask);
            }
        }
        compare::register(at, direct, ours, self.now.psrtype, &mut self.tally)
    }
}
