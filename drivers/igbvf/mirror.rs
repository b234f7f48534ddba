// SPDX-License-Identifier: GPL-2.0

//! Where things are in the mirror area, and the hardware rings in it.
//!
//! One geometry serves every guest ring, whatever its length. Rings start at index 0, so capture
//! needs no head register that can be written.

use model::adapter::Stuck;
use model::io::{Area, Hardware, Iova, Registers};

use crate::desc::DESC_BYTES;
use crate::regs::{self, nth};

/// Slots of a TX ring.
pub(crate) const TX_SLOTS: u32 = 256;
/// Slots of an RX ring.
pub(crate) const RX_SLOTS: u32 = 512;
/// Bytes of an RX buffer, one per slot.
pub(crate) const RX_BUFFER_BYTES: usize = 2048;
/// Bytes for payload to be sent, per queue.
pub(crate) const POOL_BYTES: usize = 512 * 1024;
/// Bytes for held frames, per queue.
pub(crate) const HELD_BYTES: usize = 256 * 1024;

const TX_RING_BYTES: usize = TX_SLOTS as usize * DESC_BYTES;
const RX_RING_BYTES: usize = RX_SLOTS as usize * DESC_BYTES;
const RX_BUFFERS_BYTES: usize = RX_SLOTS as usize * RX_BUFFER_BYTES;

const TX_RING: usize = 0;
const RX_RING: usize = TX_RING + TX_RING_BYTES;
const POOL: usize = RX_RING + RX_RING_BYTES;
const RX_BUFFERS: usize = POOL + POOL_BYTES;
const HELD: usize = RX_BUFFERS + RX_BUFFERS_BYTES;
const QUEUE_BYTES: usize = HELD + HELD_BYTES;

/// Bytes of the whole area.
pub(crate) const BYTES: usize = QUEUE_BYTES * regs::QUEUES;
const _: () = assert!(BYTES <= 16 << 20 && QUEUE_BYTES % 4096 == 0);

/// SRRCTL: one-buffer, 2 KiB, drop when there is none.
const SRRCTL: u32 = 0x8200_0002;
/// RXDCTL: PTHRESH 16, HTHRESH 8, WTHRESH 1 (anything else may stall write-backs in an 82576 VF).
const RXDCTL: u32 = 0x0001_0810;
/// TXDCTL: PTHRESH 8, HTHRESH 1, WTHRESH 1.
const TXDCTL: u32 = 0x0001_0108;
/// TXCTL: as after a reset, but descriptors are written back in order.
const TXCTL: u32 = 0x2200;

/// Pauses of [`PAUSE_US`] until a queue has to have started or stopped: 20 ms.
const TRIES: u32 = 400;
/// Microseconds between two looks at a register.
const PAUSE_US: u32 = 50;
/// Looks until the last packets have to be sent.
pub(crate) const DRAIN_TRIES: u32 = 600;

/// Waits between looks `n` and `n + 1`: short at first, and about 100 ms in 600 looks. A pause may take much
/// longer than asked, so looks are few rather than pauses short.
pub(crate) fn pause(hw: &mut dyn Hardware, n: u32) {
    hw.pause(if n < 100 { PAUSE_US } else { 200 });
}

fn of_queue(q: usize, offset: usize) -> usize {
    if q == 0 {
        offset
    } else {
        offset.saturating_add(QUEUE_BYTES)
    }
}

fn nth_of(q: usize, offset: usize, index: usize, size: usize) -> usize {
    of_queue(q, offset).saturating_add(index.saturating_mul(size))
}

/// Offset of a TX descriptor.
pub(crate) fn tx_slot(q: usize, slot: u32) -> usize {
    nth_of(q, TX_RING, slot as usize, DESC_BYTES)
}

/// Offset of an RX descriptor.
pub(crate) fn rx_slot(q: usize, slot: u32) -> usize {
    nth_of(q, RX_RING, slot as usize, DESC_BYTES)
}

/// Offset of the buffer of an RX slot.
pub(crate) fn rx_buffer(q: usize, slot: u32) -> usize {
    nth_of(q, RX_BUFFERS, slot as usize, RX_BUFFER_BYTES)
}

/// Offset of a byte in the TX pool.
pub(crate) fn pool(q: usize, byte: usize) -> usize {
    nth_of(q, POOL, byte, 1)
}

/// Offset of a byte among the held frames.
pub(crate) fn held(q: usize, byte: usize) -> usize {
    nth_of(q, HELD, byte, 1)
}

/// Where the device sees `offset`.
pub(crate) fn iova(area: &dyn Area, offset: usize) -> Iova {
    Iova(area.iova().0.saturating_add(offset as u64))
}

/// Waits, bounded, until ENABLE of the queue control register at `at` reads as `on`.
pub(crate) fn wait_enable(hw: &mut dyn Hardware, at: u32, on: bool) -> Result<(), Stuck> {
    for _ in 0..TRIES {
        if (hw.read32(at) & regs::ENABLE != 0) == on {
            return Ok(());
        }
        hw.pause(PAUSE_US);
    }
    Err(Stuck)
}

/// Switches the queue with the control register at `at` off.
pub(crate) fn switch_off(hw: &mut dyn Hardware, at: u32) -> Result<(), Stuck> {
    let val = hw.read32(at);
    if val & regs::ENABLE == 0 {
        return Ok(());
    }
    hw.write32(at, val & !(regs::ENABLE | regs::SWFLSH));
    wait_enable(hw, at, false)
}

/// Has the queue with the control register at `at` write back what is completed.
fn flush(hw: &mut dyn Hardware, at: u32) {
    let val = hw.read32(at) & !regs::SWFLSH;
    hw.write32(at, val | regs::SWFLSH);
    hw.read32(at);
    // Some of the family clear the bit themselves, others keep it.
    hw.write32(at, val);
}

/// Switches the TX mirror ring of queue `q` on, empty, at index 0.
pub(crate) fn start_tx(q: usize, hw: &mut dyn Hardware, area: &dyn Area) -> Result<(), Stuck> {
    let at = |reg| nth(reg, q);
    switch_off(hw, at(regs::TXDCTL))?;
    let base = iova(area, tx_slot(q, 0)).0;
    hw.write32(at(regs::TDBAL), base as u32);
    hw.write32(at(regs::TDBAH), (base >> 32) as u32);
    hw.write32(at(regs::TDLEN), TX_RING_BYTES as u32);
    hw.write32(at(regs::TXCTL), TXCTL);
    // The guest's write-back address means nothing in our domain.
    hw.write32(at(regs::TDWBAL), 0);
    hw.write32(at(regs::TDWBAH), 0);
    hw.write32(at(regs::TDH), 0);
    hw.write32(at(regs::TDT), 0);
    hw.write32(at(regs::TXDCTL), TXDCTL | regs::ENABLE);
    wait_enable(hw, at(regs::TXDCTL), true)
}

/// Switches the RX mirror ring of queue `q`, whose descriptors are filled, on at index 0.
pub(crate) fn start_rx(q: usize, hw: &mut dyn Hardware, area: &dyn Area) -> Result<(), Stuck> {
    let at = |reg| nth(reg, q);
    switch_off(hw, at(regs::RXDCTL))?;
    let base = iova(area, rx_slot(q, 0)).0;
    hw.write32(at(regs::RDBAL), base as u32);
    hw.write32(at(regs::RDBAH), (base >> 32) as u32);
    hw.write32(at(regs::RDLEN), RX_RING_BYTES as u32);
    hw.write32(at(regs::SRRCTL), SRRCTL);
    hw.write32(at(regs::RDH), 0);
    hw.write32(at(regs::RDT), 0);
    hw.write32(at(regs::RXDCTL), RXDCTL | regs::ENABLE);
    wait_enable(hw, at(regs::RXDCTL), true)?;
    // Some drivers of the family find the head writable only now, and the tail is ignored before.
    hw.write32(at(regs::RDH), 0);
    hw.write32(at(regs::RDT), RX_SLOTS - 1);
    Ok(())
}

/// Whether the hardware still has the ring that [`start_tx`] gave it.
pub(crate) fn has_tx(q: usize, hw: &mut dyn Hardware, area: &dyn Area) -> bool {
    hw.read32(nth(regs::TDBAL, q)) == iova(area, tx_slot(q, 0)).0 as u32
        && hw.read32(nth(regs::TXDCTL, q)) & regs::ENABLE != 0
}

/// Whether the hardware still has the ring that [`start_rx`] gave it.
pub(crate) fn has_rx(q: usize, hw: &mut dyn Hardware, area: &dyn Area) -> bool {
    hw.read32(nth(regs::RDBAL, q)) == iova(area, rx_slot(q, 0)).0 as u32
        && hw.read32(nth(regs::RXDCTL, q)) & regs::ENABLE != 0
}

/// Waits, bounded, until the hardware has sent what is in the guest's TX ring `q`, and has said so.
///
/// What is not sent by then stays in the guest's ring and is sent by us.
pub(crate) fn drain_guest(q: usize, hw: &mut dyn Hardware) {
    let at = |reg| nth(reg, q);
    let txdctl = hw.read32(at(regs::TXDCTL));
    if txdctl & regs::ENABLE == 0 {
        return;
    }
    for n in 0..DRAIN_TRIES {
        if hw.read32(at(regs::TDH)) == hw.read32(at(regs::TDT)) {
            break;
        }
        pause(hw, n);
    }
    if txdctl & regs::WTHRESH != 0 || hw.read32(at(regs::TDWBAL)) & regs::HEAD_WB_EN != 0 {
        flush(hw, at(regs::TXDCTL));
    }
}

/// Takes the final heads of queue `q`, which is off, over into `page`.
pub(crate) fn take_heads(q: usize, hw: &mut dyn Hardware, page: &mut dyn Registers) {
    if hw.read32(nth(regs::RXDCTL, q)) & regs::WTHRESH > 1 << 16 {
        flush(hw, nth(regs::RXDCTL, q));
    }
    for head in [regs::RDH, regs::TDH] {
        page.write32(nth(head, q), hw.read32(nth(head, q)));
    }
}

/// Puts the guest's rings of queue `q`, as `page` has them, into the hardware, whose queues are off. They are empty
/// until [`hand_back_tails`]: if another ring cannot be handed back, nothing of this one may have moved.
///
/// # Errors
///
/// [`Stuck`] if a queue does not start, or not where the guest's head is.
pub(crate) fn hand_back(
    q: usize,
    hw: &mut dyn Hardware,
    page: &mut dyn Registers,
) -> Result<(), Stuck> {
    let rx = [
        regs::RDBAL,
        regs::RDBAH,
        regs::RDLEN,
        regs::SRRCTL,
        regs::RXCTL,
    ];
    let tx = [
        regs::TDBAL,
        regs::TDBAH,
        regs::TDLEN,
        regs::TXCTL,
        regs::TDWBAL,
        regs::TDWBAH,
    ];
    for reg in rx.into_iter().chain(tx) {
        let at = nth(reg, q);
        hw.write32(at, page.read32(at));
    }
    hand_back_ring(
        hw,
        page,
        [regs::RDH, regs::RDT, regs::RXDCTL].map(|reg| nth(reg, q)),
    )?;
    hand_back_ring(
        hw,
        page,
        [regs::TDH, regs::TDT, regs::TXDCTL].map(|reg| nth(reg, q)),
    )
}

fn hand_back_ring(
    hw: &mut dyn Hardware,
    page: &mut dyn Registers,
    [head_at, tail_at, dctl_at]: [u32; 3],
) -> Result<(), Stuck> {
    let head = page.read32(head_at) & 0xffff;
    let dctl = page.read32(dctl_at) & !regs::SWFLSH;
    hw.write32(head_at, head);
    hw.write32(tail_at, head);
    hw.write32(dctl_at, dctl);
    if dctl & regs::ENABLE != 0 {
        wait_enable(hw, dctl_at, true)?;
        if hw.read32(head_at) != head {
            hw.write32(head_at, head);
            if hw.read32(head_at) != head {
                return Err(Stuck);
            }
        }
    }
    Ok(())
}

/// Has the hardware run the rings of queue `q`, which it has.
pub(crate) fn hand_back_tails(q: usize, hw: &mut dyn Hardware, page: &mut dyn Registers) {
    for tail_at in [regs::RDT, regs::TDT].map(|reg| nth(reg, q)) {
        // Mandatory even if it is the head: the queue does nothing before.
        hw.write32(tail_at, page.read32(tail_at) & 0xffff);
    }
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
