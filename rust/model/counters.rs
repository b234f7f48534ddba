// SPDX-License-Identifier: GPL-2.0

//! What happened to the frames of one device while it was emulated.

/// One counter for every way a frame can end. All wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames taken from the guest and sent.
    pub tx_frames: u64,
    /// Frames received and delivered to the guest.
    pub rx_frames: u64,
    /// Frames received while stopped and kept for later.
    pub held_frames: u64,
    /// Sent nothing: the guest's descriptors make no sense.
    pub dropped_tx_malformed: u64,
    /// Sent nothing: a buffer or descriptor lies outside guest memory.
    pub dropped_tx_unmapped: u64,
    /// Delivered nothing: a buffer or descriptor lies outside guest memory.
    pub dropped_rx_unmapped: u64,
    /// Delivered nothing: the frame does not fit, or nobody has room to hold it.
    pub dropped_rx_no_room: u64,
    /// Delivered nothing: the real VF's descriptor makes no sense.
    pub dropped_rx_malformed: u64,
    /// Guest queues that were stopped because their registers make no sense.
    pub bad_rings: u64,
    /// Times the real VF was found reset behind the guest's back and was set up again.
    pub repaired: u64,
}

impl Counters {
    /// All at 0.
    pub const fn new() -> Self {
        Self {
            tx_frames: 0,
            rx_frames: 0,
            held_frames: 0,
            dropped_tx_malformed: 0,
            dropped_tx_unmapped: 0,
            dropped_rx_unmapped: 0,
            dropped_rx_no_room: 0,
            dropped_rx_malformed: 0,
            bad_rings: 0,
            repaired: 0,
        }
    }

    /// Calls `f` with each counter's name and value.
    pub fn for_each(&self, mut f: impl FnMut(&'static str, u64)) {
        let Self {
            tx_frames,
            rx_frames,
            held_frames,
            dropped_tx_malformed,
            dropped_tx_unmapped,
            dropped_rx_unmapped,
            dropped_rx_no_room,
            dropped_rx_malformed,
            bad_rings,
            repaired,
        } = self;
        f("tx_frames", *tx_frames);
        f("rx_frames", *rx_frames);
        f("held_frames", *held_frames);
        f("dropped_tx_malformed", *dropped_tx_malformed);
        f("dropped_tx_unmapped", *dropped_tx_unmapped);
        f("dropped_rx_unmapped", *dropped_rx_unmapped);
        f("dropped_rx_no_room", *dropped_rx_no_room);
        f("dropped_rx_malformed", *dropped_rx_malformed);
        f("bad_rings", *bad_rings);
        f("repaired", *repaired);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    #[test]
    fn every_counter_is_shown_once_by_its_own_name() {
        assert_eq!(Counters::new(), Counters::default());
        let counters = Counters {
            tx_frames: 1,
            rx_frames: 2,
            held_frames: 3,
            dropped_tx_malformed: 4,
            dropped_tx_unmapped: 5,
            dropped_rx_unmapped: 6,
            dropped_rx_no_room: 7,
            dropped_rx_malformed: 8,
            bad_rings: 9,
            repaired: 10,
        };
        let mut shown = BTreeMap::new();
        counters.for_each(|name, val| assert_eq!(shown.insert(name, val), None));
        assert_eq!(shown.len(), size_of::<Counters>() / size_of::<u64>());
        assert_eq!((shown["tx_frames"], shown["dropped_rx_no_room"]), (1, 7));
        let mut values: Vec<_> = shown.into_values().collect();
        values.sort_unstable();
        assert!(values.into_iter().eq(1..=10));
    }
}
