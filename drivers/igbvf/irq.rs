// SPDX-License-Identifier: GPL-2.0

//! Interrupts. Their page stays the hardware's in both modes; we raise them by EICS.

use model::image::{Full, Reader, Refused, Writer};
use model::io::Registers;

use crate::regs::{EIAC, EIAM, EICR, EICS, EIMC, EIMS, EITR, IVAR0, IVAR_MISC};

/// Vectors of a VF.
const VECTORS: usize = 3;
const VECTOR_MASK: u32 = (1 << VECTORS) - 1;
/// EITR of each vector.
const EITRS: [u32; VECTORS] = [EITR, EITR + 4, EITR + 8];
/// EITR: the interval and LLI_EN; the rest is counters in flight.
const EITR_MASK: u32 = 0xfffc;
/// IVAR: vector and valid bit of four causes.
const IVAR_MASK: u32 = 0x8383_8383;
const IVAR_MISC_MASK: u32 = 0x83;

/// The guest's interrupt registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupts {
    eitr: [u32; VECTORS],
    ivar0: u32,
    ivar_misc: u32,
    eiac: u32,
    eiam: u32,
    eims: u32,
}

impl Interrupts {
    pub(crate) const fn new() -> Self {
        Self {
            eitr: [0; VECTORS],
            ivar0: 0,
            ivar_misc: 0,
            eiac: 0,
            eiam: 0,
            eims: 0,
        }
    }

    /// Reads them from the hardware.
    pub(crate) fn read<R: Registers + ?Sized>(hw: &mut R, active: bool) -> Self {
        let mut eitr = [0; VECTORS];
        for (val, at) in eitr.iter_mut().zip(EITRS) {
            *val = hw.read32(at) & EITR_MASK;
        }
        let new = Self {
            eitr,
            ivar0: hw.read32(IVAR0) & IVAR_MASK,
            ivar_misc: hw.read32(IVAR_MISC) & IVAR_MISC_MASK,
            eiac: hw.read32(EIAC) & VECTOR_MASK,
            eiam: hw.read32(EIAM) & VECTOR_MASK,
            eims: hw.read32(EIMS) & VECTOR_MASK,
        };
        new.as_meant(active)
    }

    /// QEMU reads EIMS as the last value written: while a queue is enabled every vector that is cleared by
    /// itself is one the guest waits for, and without a queue none is.
    pub(crate) fn as_meant(self, active: bool) -> Self {
        let eims = if active { self.eims | self.eiac } else { 0 };
        Self { eims, ..self }
    }

    /// Writes them to the hardware, masked until all is in place.
    pub(crate) fn write<R: Registers + ?Sized>(&self, hw: &mut R) {
        let Self {
            eitr,
            ivar0,
            ivar_misc,
            eiac,
            eiam,
            eims,
        } = *self;
        hw.write32(EIMC, u32::MAX);
        // Writing ones clears; reading does not in QEMU.
        hw.write32(EICR, VECTOR_MASK);
        for (val, at) in eitr.iter().zip(EITRS) {
            hw.write32(at, *val);
        }
        hw.write32(IVAR0, ivar0);
        hw.write32(IVAR_MISC, ivar_misc);
        hw.write32(EIAC, eiac);
        hw.write32(EIAM, eiam);
        hw.write32(EIMS, eims);
    }

    /// Lets the vectors through again that were masked at once.
    pub(crate) fn unmask<R: Registers + ?Sized>(&self, hw: &mut R) {
        hw.write32(EIMS, self.eims);
    }

    /// Whether a cause has a vector.
    pub(crate) fn is_set_up(&self) -> bool {
        self.ivar0 | self.ivar_misc != 0
    }

    pub(crate) fn save(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        let Self {
            eitr,
            ivar0,
            ivar_misc,
            eiac,
            eiam,
            eims,
        } = *self;
        for val in eitr.into_iter().chain([ivar0, ivar_misc, eiac, eiam, eims]) {
            w.put_u32(val)?;
        }
        Ok(())
    }

    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, Refused> {
        let mut take = |mask: u32| match r.take_u32()? {
            val if val & !mask == 0 => Ok(val),
            _ => Err(Refused(
                "an interrupt register with bits that it does not have",
            )),
        };
        Ok(Self {
            eitr: [take(EITR_MASK)?, take(EITR_MASK)?, take(EITR_MASK)?],
            ivar0: take(IVAR_MASK)?,
            ivar_misc: take(IVAR_MISC_MASK)?,
            eiac: take(VECTOR_MASK)?,
            eiam: take(VECTOR_MASK)?,
            eims: take(VECTOR_MASK)?,
        })
    }
}

/// Causes to be raised together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Causes {
    /// Bytes of IVAR0 that say which vectors.
    ivar0: u32,
}

impl Causes {
    /// Frames were received on queue `q`.
    pub(crate) fn rx(&mut self, q: usize) {
        self.ivar0 |= if q == 0 { 0xff } else { 0xff << 16 };
    }

    /// Frames were sent on queue `q`.
    pub(crate) fn tx(&mut self, q: usize) {
        self.ivar0 |= if q == 0 { 0xff << 8 } else { 0xff << 24 };
    }

    /// Raises them.
    pub(crate) fn raise<R: Registers + ?Sized>(self, hw: &mut R) {
        if self.ivar0 == 0 {
            return;
        }
        let bits = vectors(hw.read32(IVAR0) & self.ivar0);
        if bits != 0 {
            hw.write32(EICS, bits);
        }
    }
}

/// Raises every vector that a queue has, and the mailbox's if that has `news`. Not without: the driver of Linux
/// takes its link for lost until it has looked there, and resets a VF that has frames to send if its watchdog sees that.
pub(crate) fn raise_all<R: Registers + ?Sized>(hw: &mut R, news: bool) {
    let mut bits = vectors(hw.read32(IVAR0));
    if news {
        bits |= vectors(hw.read32(IVAR_MISC) & 0xff);
    }
    if bits != 0 {
        hw.write32(EICS, bits);
    }
}

/// The EICS bits of the vectors that `ivar` names.
fn vectors(ivar: u32) -> u32 {
    ivar.to_le_bytes()
        .iter()
        .filter(|byte| **byte & 0x80 != 0)
        .fold(0, |bits, byte| bits | 1 << (byte & 3))
        & VECTOR_MASK
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::mock::Page;

    #[test]
    fn causes_raise_the_vectors_of_valid_entries_only() {
        let mut hw = Page::new(0x1000, 0x2000);
        hw.write32(IVAR0, 0x0100_8081);
        let mut causes = Causes::default();
        causes.rx(0);
        causes.tx(1);
        causes.raise(&mut hw);
        assert_eq!(hw.read32(EICS), 1 << 1);
        hw.write32(IVAR_MISC, 0x82);
        raise_all(&mut hw, false);
        assert_eq!(hw.read32(EICS), 3);
        raise_all(&mut hw, true);
        assert_eq!(hw.read32(EICS), 7);
    }

    #[test]
    fn a_vector_that_does_not_exist_is_not_raised() {
        assert_eq!(vectors(0x83), 0);
    }

    #[test]
    fn masks_are_taken_as_the_guest_means_them() {
        let mut hw = Page::new(0x1000, 0x2000);
        hw.write32(EIMS, 2);
        hw.write32(EIAC, 7);
        hw.write32(EITR, 0x7fff_81e8);
        assert_eq!(Interrupts::read(&mut hw, true).eims, 7);
        assert_eq!(Interrupts::read(&mut hw, true).eitr[0], 0x81e8);
        assert_eq!(Interrupts::read(&mut hw, false).eims, 0);
    }

    #[test]
    fn unknown_bits_are_refused() {
        let mut buf = [0; 32];
        Interrupts::new().save(&mut Writer::new(&mut buf)).unwrap();
        assert!(Interrupts::load(&mut Reader::new(&buf)).is_ok());
        for at in 0..32 {
            let mut bad = buf;
            bad[at] = 0x44;
            assert!(Interrupts::load(&mut Reader::new(&bad)).is_err() || at / 4 < 3);
        }
    }

    #[test]
    fn each_cause_has_its_own_vector_however_often_it_is_noted() {
        let causes: [fn(&mut Causes); 4] = [
            |causes| causes.rx(0),
            |causes| causes.tx(0),
            |causes| causes.rx(1),
            |causes| causes.tx(1),
        ];
        for (n, note) in causes.into_iter().enumerate() {
            let mut hw = Page::new(0x1000, 0x2000);
            // Vector 0 for all but one.
            hw.write32(IVAR0, 0x8080_8080 | 2 << (8 * n));
            let mut both = Causes::default();
            for _ in 0..2 {
                note(&mut both);
                hw.write32(EICS, 0);
                both.raise(&mut hw);
                assert_eq!(hw.read32(EICS), 1 << 2, "{n}");
            }
        }
    }

    #[test]
    fn registers_are_read_without_the_bits_that_are_not_theirs() {
        let mut hw = Page::new(0x1000, 0x2000);
        for at in (0x1000..0x2000).step_by(4) {
            hw.write32(at, u32::MAX);
        }
        let all = Interrupts {
            eitr: [0xfffc; VECTORS],
            ivar0: 0x8383_8383,
            ivar_misc: 0x83,
            eiac: 7,
            eiam: 7,
            eims: 7,
        };
        assert_eq!(Interrupts::read(&mut hw, true), all);
        hw.write32(EIMS, 0x7ffc);
        hw.write32(EIAC, 0);
        assert_eq!(Interrupts::read(&mut hw, true).eims, 4);
    }

    #[test]
    fn what_is_written_is_read_back_and_loaded_as_saved() {
        let one = Interrupts {
            eitr: [4, 8, 12],
            ivar0: 0x8081_8082,
            ivar_misc: 0x81,
            eiac: 1,
            eiam: 2,
            eims: 5,
        };
        let mut hw = Page::new(0x1000, 0x2000);
        one.write(&mut hw);
        assert_eq!(Interrupts::read(&mut hw, true), one);
        let eitr = [0x1680, 0x1684, 0x1688].map(|at| hw.read32(at));
        assert_eq!(eitr, one.eitr);
        // All masked and nothing pending before that.
        assert_eq!((hw.read32(EIMC), hw.read32(EICR)), (u32::MAX, 7));
        let mut buf = [0; 32];
        one.save(&mut Writer::new(&mut buf)).unwrap();
        assert_eq!(Interrupts::load(&mut Reader::new(&buf)), Ok(one));
    }

    #[test]
    fn interrupts_are_set_up_if_a_cause_has_a_vector() {
        let mut one = Interrupts::new();
        assert!(!one.is_set_up());
        one.ivar0 = 0x80;
        assert!(one.is_set_up());
        // A driver that polls its queues wants to hear of its mailbox only.
        (one.ivar0, one.ivar_misc) = (0, 0x80);
        assert!(one.is_set_up());
    }
}
