// SPDX-License-Identifier: GPL-2.0

//! What of the device travels, besides the control record and the held frames.

use model::image::{Full, Reader, Refused, Writer};
use model::io::Registers;

use crate::desc::{Desc, Tx, DESC_BYTES, RUN};
use crate::irq::Interrupts;
use crate::mailbox::Mailbox;
use crate::regs::{nth, QUEUES, RX_RING, STATISTICS, TX_RING};
use crate::rx::Partial;

/// Version of the section.
const VERSION: u16 = 1;

/// One queue pair.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pair {
    /// RX ring registers, in the order of [`RX_RING`].
    rx: [u32; RX_RING.len()],
    /// TX ring registers, in the order of [`TX_RING`].
    tx: [u32; TX_RING.len()],
    /// TX offload contexts.
    pub(crate) contexts: [Option<Desc>; 2],
    /// How far the oldest held frame was delivered.
    pub(crate) partial: Partial,
}

impl Pair {
    /// Reads the ring registers of queue `q`.
    pub(crate) fn read<R: Registers + ?Sized>(q: usize, page: &mut R) -> Self {
        let mut new = Self::default();
        for (val, at) in new.rx.iter_mut().zip(RX_RING) {
            *val = page.read32(nth(at, q));
        }
        for (val, at) in new.tx.iter_mut().zip(TX_RING) {
            *val = page.read32(nth(at, q));
        }
        new
    }

    /// Writes the ring registers of queue `q`.
    pub(crate) fn write<R: Registers + ?Sized>(&self, q: usize, page: &mut R) {
        for (val, at) in self.rx.iter().zip(RX_RING) {
            page.write32(nth(at, q), *val);
        }
        for (val, at) in self.tx.iter().zip(TX_RING) {
            page.write32(nth(at, q), *val);
        }
    }

    fn save(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        let Self {
            rx,
            tx,
            contexts,
            partial,
        } = self;
        for val in rx.iter().chain(tx) {
            w.put_u32(*val)?;
        }
        for context in contexts {
            w.put_u8(context.is_some().into())?;
            w.put_bytes(&context.unwrap_or_default().to_bytes())?;
        }
        w.put_u8(partial.descs)?;
        w.put_u8(partial.written)
    }

    /// Ring registers may hold anything: a guest can write anything to them, and whoever uses them checks. An
    /// image is not refused for what the guest itself may do at any time.
    fn load(r: &mut Reader<'_>) -> Result<Self, Refused> {
        let mut new = Self::default();
        for val in new.rx.iter_mut().chain(&mut new.tx) {
            *val = r.take_u32()?;
        }
        for (index, context) in new.contexts.iter_mut().enumerate() {
            let known = r.take_bool()?;
            let desc = Desc::from_bytes(r.take_array::<DESC_BYTES>()?);
            if known {
                if desc.parse_tx() != (Tx::Context { index }) {
                    return Err(Refused("a transmit context that is none"));
                }
                *context = Some(desc);
            }
        }
        new.partial = Partial {
            descs: r.take_u8()?,
            written: r.take_u8()?,
        };
        if usize::from(new.partial.descs) > crate::frame::MAX_PIECES {
            return Err(Refused("a frame in more pieces than there are"));
        }
        let Partial { descs, written } = new.partial;
        if u32::from(written) > RUN {
            return Err(Refused("more descriptors written than are at once"));
        }
        if descs > 0 && written > 1 {
            return Err(Refused("frames delivered together, and one of them apart"));
        }
        Ok(new)
    }
}

/// All that travels in the section.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) pairs: [Pair; QUEUES],
    pub(crate) interrupts: Interrupts,
    pub(crate) psrtype: u32,
    pub(crate) mailbox: Mailbox,
    pub(crate) statistics: [u32; STATISTICS.len()],
}

impl State {
    pub(crate) fn save(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        let Self {
            pairs,
            interrupts,
            psrtype,
            mailbox,
            statistics,
        } = self;
        w.put_u16(VERSION)?;
        for pair in pairs {
            pair.save(w)?;
        }
        interrupts.save(w)?;
        w.put_u32(*psrtype)?;
        mailbox.save(w)?;
        for val in statistics {
            w.put_u32(*val)?;
        }
        Ok(())
    }

    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, Refused> {
        if r.take_u16()? != VERSION {
            return Err(Refused("a state of another version"));
        }
        let pairs = [Pair::load(r)?, Pair::load(r)?];
        let interrupts = Interrupts::load(r)?;
        let psrtype = r.take_u32()?;
        let mailbox = Mailbox::load(r)?;
        let mut statistics = [0; STATISTICS.len()];
        for val in &mut statistics {
            *val = r.take_u32()?;
        }
        Ok(Self {
            pairs,
            interrupts,
            psrtype,
            mailbox,
            statistics,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::mock::Page;

    const PAIR_BYTES: usize = 4 * 17 + 2 * 17 + 2;

    #[test]
    fn a_pair_is_loaded_as_it_was_saved_and_written_as_it_was_read() {
        for q in 0..QUEUES {
            let mut page = Page::new(0x2000, 0x4000);
            for at in (0x2000..0x4000).step_by(4) {
                page.write32(at, at * 3);
            }
            let mut pair = Pair::read(q, &mut page);
            pair.contexts = [None, Some(Desc([1, 2, 1 << 29 | 2 << 20, 0x10]))];
            pair.partial = Partial {
                descs: 3,
                written: 1,
            };
            let mut buf = [0; PAIR_BYTES];
            let mut w = Writer::new(&mut buf);
            pair.save(&mut w).unwrap();
            assert_eq!(w.written(), PAIR_BYTES);
            let loaded = Pair::load(&mut Reader::new(&buf)).unwrap();
            assert_eq!((loaded.rx, loaded.tx), (pair.rx, pair.tx));
            assert_eq!(loaded.contexts, pair.contexts);
            assert_eq!(loaded.partial, pair.partial);
            let mut other = Page::new(0x2000, 0x4000);
            loaded.write(q, &mut other);
            for at in RX_RING.into_iter().chain(TX_RING) {
                let at = nth(at, q);
                assert_eq!(other.read32(at), at * 3, "{at:#x}");
            }
        }
    }

    #[test]
    fn a_frame_has_no_more_pieces_than_there_are() {
        for (descs, good) in [(0, true), (16, true), (17, false), (255, false)] {
            let mut buf = [0; PAIR_BYTES];
            buf[PAIR_BYTES - 2] = descs;
            assert_eq!(Pair::load(&mut Reader::new(&buf)).is_ok(), good);
        }
    }

    #[test]
    fn frames_are_delivered_together_or_one_of_them_apart() {
        for (descs, written, good) in [
            (0, 16, true),
            (0, 17, false),
            (0, 255, false),
            (1, 1, true),
            (16, 1, true),
            (1, 2, false),
        ] {
            let mut buf = [0; PAIR_BYTES];
            [buf[PAIR_BYTES - 2], buf[PAIR_BYTES - 1]] = [descs, written];
            let loaded = Pair::load(&mut Reader::new(&buf));
            assert_eq!(loaded.is_ok(), good, "{descs} {written}");
            if let Ok(pair) = loaded {
                assert_eq!(pair.partial, Partial { descs, written });
            }
        }
    }

    #[test]
    fn a_context_is_one_and_in_its_own_place() {
        for (index, opts, good) in [
            (0, 0, true),
            (0, 0x10, false),
            (1, 0, false),
            (1, 0x10, true),
        ] {
            let mut buf = [0; PAIR_BYTES];
            let at = 4 * 17 + 17 * index;
            buf[at] = 1;
            let desc = Desc([0, 0, 1 << 29 | 2 << 20, opts]).to_bytes();
            buf[at + 1..at + 17].copy_from_slice(&desc);
            assert_eq!(Pair::load(&mut Reader::new(&buf)).is_ok(), good);
        }
    }
}
