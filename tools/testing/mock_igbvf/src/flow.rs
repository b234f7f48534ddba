// SPDX-License-Identifier: GPL-2.0

//! Numbered frames each way, and whether all of them arrive, once, in order and whole.

use model::adapter::Adapter;
use model::mock::Random;

use crate::guest::{Cut, Guest};
use crate::machine::Machine;

pub fn machine(q: u32, srrctl: u32) -> (Machine, Guest) {
    let mut m = Machine::new();
    let mut g = Guest::new(q, srrctl);
    g.probe(&mut m);
    g.up(&mut m);
    (m, g)
}

/// Frame number `n`, of `len` bytes.
pub fn frame(n: u32, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| (i as u32 * 7 + n) as u8).collect();
    frame[..4].copy_from_slice(&n.to_le_bytes());
    frame
}

/// Sends and receives at random, numbering the frames, and checks them.
pub struct Flow {
    pub q: u32,
    pub sent: u32,
    pub seen: u32,
    pub injected: Vec<Vec<u8>>,
    pub next: u32,
    /// The guest does not look at its RX ring.
    pub lazy: bool,
}

impl Flow {
    pub fn new(q: u32) -> Self {
        Self {
            q,
            sent: 0,
            seen: 0,
            injected: Vec::new(),
            next: 0,
            lazy: false,
        }
    }

    pub fn step(&mut self, m: &mut Machine, g: &mut Guest, r: &mut Random) {
        g.clean(m);
        for _ in 0..r.below(4) {
            let pieces = 1 + r.below(4) as usize;
            if g.room() > pieces as u32 + 1 {
                let context = (r.below(2) == 0).then(|| r.next());
                let len = 60 + r.below(3000) as usize;
                g.queue(
                    m,
                    &frame(self.sent, len),
                    Cut {
                        pieces,
                        context,
                        tso: false,
                    },
                );
                self.sent += 1;
            }
        }
        g.doorbell(m);
        for _ in 0..r.below(4) {
            let f = frame(self.next, 60 + r.below(5000) as usize);
            if m.world.borrow_mut().receive(self.q, &f) {
                self.injected.push(f);
                self.next += 1;
            }
        }
        if r.below(3) != 0 {
            m.poll();
        }
        g.receive(m, self.lazy || r.below(4) == 0);
        self.check_wire(m);
    }

    pub fn check_wire(&mut self, m: &mut Machine) {
        while let Some((f, _)) = m.world.borrow_mut().wire.pop_front() {
            assert_eq!(f, frame(self.seen, f.len()), "frame {}", self.seen);
            self.seen += 1;
        }
    }

    /// Lets everything come to rest and checks that nothing is missing.
    pub fn finish(&mut self, m: &mut Machine, g: &mut Guest) {
        for _ in 0..200 {
            m.poll();
            g.clean(m);
            g.receive(m, false);
        }
        self.check_wire(m);
        assert_eq!(self.seen, self.sent);
        assert_eq!(g.in_flight(), 0);
        assert_eq!(g.received.len(), self.injected.len());
        assert!(g.received == self.injected);
        assert_eq!(m.world.borrow().faults, 0);
        let c = m.model.counters();
        let dropped = [
            c.dropped_tx_malformed,
            c.dropped_tx_unmapped,
            c.dropped_rx_unmapped,
            c.dropped_rx_no_room,
            c.dropped_rx_malformed,
            c.bad_rings,
        ];
        assert_eq!(dropped, [0; 6]);
    }
}
