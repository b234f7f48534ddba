// SPDX-License-Identifier: GPL-2.0

//! A VF that lives: acts happen to it, and after each of them the record is right.

mod guest;
mod host;
mod rules;

use model::adapter::Adapter;
use model::mock::Memory;

use super::act::{Act, Address, Host};
use crate::driver::tx::Packet;
use crate::driver::{Driver, Setup, MEMORY_BYTES};
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::transfer::Transfer;
use crate::vf::GUEST;

/// Turns in which a model notices whatever there is to notice.
const NOTICE_TURNS: u32 = 300;
/// Turns in which everything comes to rest.
const REST_TURNS: u32 = 2000;
/// Turns without anything until it has.
const QUIET_TURNS: u32 = 20;

pub struct Life {
    pub m: Machine,
    driver: Driver,
    pub ledger: Ledger,
    /// The VM is paused.
    paused: bool,
    /// An image was taken over, and the VM has not run since.
    loaded: bool,
    transfer: Option<Transfer>,
    /// The PF was reset while the VF is emulated: the guest sees nothing, and all is well before long.
    lost: bool,
    /// The PF was reset while the VF is the guest's: it will see that.
    exposed: bool,
    /// The guest has set its interrupts up, and the model may not have looked yet.
    unnoticed: bool,
    /// RX rings that the guest knows to have more.
    again: [bool; 2],
    /// What is explained of `dropped_rx_no_room`, at least and at most.
    dropped: (u64, u64),
    /// `bad_rings` since the guest's rings are good.
    bad_rings: u64,
    /// Announcements that may come, from one of these addresses.
    announcements: usize,
    macs: [Option<[u8; 6]>; 2],
}

fn machine(host: &Host, mac: Option<[u8; 6]>) -> Machine {
    let m = Machine::with_memory(Memory::new(GUEST, 0));
    let mut w = m.world.borrow_mut();
    w.offloads = Some(Default::default());
    w.fixed_heads = host.fixed_heads;
    match host.address {
        Address::None => {}
        Address::Other => w.filters.mac = Some([2, 0, 0, 0, 0, 1]),
        Address::Pinned => (w.pinned, w.filters.mac) = (mac, mac),
    }
    for at in (0xf10..0xf60).chain(0x1680..0x168c).step_by(4) {
        *w.reg(at) = host.stale;
    }
    for (at, mask) in [
        (0x1524, 7),
        (0x152c, 7),
        (0x1530, 7),
        (0x1700, 0x8383_8383),
        (0x1740, 0x83),
    ] {
        *w.reg(at) = host.stale & mask;
    }
    drop(w);
    m
}

impl Life {
    pub fn begin(host: &Host, setup: &Setup) -> Self {
        Self::begin_in(MEMORY_BYTES, host, setup)
    }

    /// Begins with so many bytes of guest memory.
    pub fn begin_in(memory: usize, host: &Host, setup: &Setup) -> Self {
        let driver = Driver::default();
        let mut m = machine(host, Some(driver.mac));
        m.world.borrow_mut().memory = Memory::new(GUEST, memory);
        m.model.reset(&mut m.hw(), None);
        let mut new = Self {
            m,
            driver,
            ledger: Ledger::default(),
            paused: false,
            loaded: false,
            transfer: None,
            lost: false,
            exposed: false,
            unnoticed: false,
            again: [false; 2],
            dropped: (0, 0),
            bad_rings: 0,
            announcements: 0,
            macs: [None; 2],
        };
        new.open(setup);
        new.check();
        new
    }

    /// Lets `act` happen.
    pub fn act(&mut self, act: &Act) {
        match act {
            Act::Send(q, packets, steps) => self.send(*q, packets, *steps),
            Act::Look(most, slots, steps) => self.look(*most, *slots, *steps),
            Act::Open(setup) => {
                self.close();
                self.open(setup);
            }
            Act::Close => self.close(),
            Act::Reset => self.reset(),
            Act::Restart(q) => self.restart(*q),
            Act::Ask(ask) => {
                self.post(ask);
                self.driver.answer(&mut self.m);
            }
            Act::Post(ask) => self.post(ask),
            Act::LinkCheck => self.link_check(),
            Act::Statistics => self.read_statistics(),

            Act::Turns(budget, turns) => self.turns(*budget, *turns),
            Act::Capture => self.capture(),
            Act::Release(anyway) => self.release(*anyway),
            Act::Pause => self.pause(),
            Act::PreCopy(host) => self.pre_copy(host),
            Act::Migrate(host) => self.migrate(host),
            Act::Abandon(host) => {
                self.arrival(host);
            }
            Act::Flr => self.flr(),
            Act::Busy(accesses) if self.m.captured => {
                self.m.world.borrow_mut().memory.busy_after = Some(*accesses);
            }
            Act::Busy(_) => {}
            Act::Ping => self.ping(),
            Act::PfReset(away) => self.pf_reset(*away),
            Act::PfBack => self.pf_back(),
            Act::Slow(looks) => self.m.world.borrow_mut().delay = *looks,

            Act::Arrive(q, lens) => {
                for len in lens {
                    self.arrive(*q, *len);
                }
            }
            Act::Burst(q, n, len) => {
                for _ in 0..*n {
                    self.arrive(*q, *len);
                }
            }
            Act::Stall(after) => {
                let mut w = self.m.world.borrow_mut();
                (w.stalled, w.stall_after) = (*after == 0, Some(*after).filter(|n| *n > 0));
            }
            Act::Unstall => self.unstall(),
        }
        self.check();
    }

    /// Lets everything come to rest, and sees that nothing is missing and all works.
    pub fn end(&mut self) {
        self.m.world.borrow_mut().memory.busy_after = None;
        self.pf_back();
        self.run();
        self.driver.answer(&mut self.m);
        self.unstall();
        self.check();
        self.transfer = None;
        if self.exposed {
            self.link_check();
            self.check();
        }
        self.rest();
        let packet = Packet {
            pieces: 1,
            task: None,
        };
        for q in 0..2 {
            let arrives = self.arrive(q, 60);
            let open = self.driver.pairs[q as usize].is_some();
            assert_eq!(arrives, open, "queue {q} takes a frame");
            self.act(&Act::Send(q, vec![(60, packet)], 1));
        }
        self.rest();
        for pair in self.driver.pairs.iter().flatten() {
            assert_eq!(pair.tx.owed(), 0, "packets were sent and not reported");
        }
        self.read_statistics();
        self.link_check();
        self.assert_dropped();
    }

    fn rest(&mut self) {
        let mut settled = 0;
        for _ in 0..REST_TURNS {
            self.turns(64, 1);
            self.look(usize::MAX, u32::MAX, 1);
            settled = match !self.lost && self.ledger.is_settled() {
                true => settled + 1,
                false => 0,
            };
            // What comes too late comes twice.
            if settled == QUIET_TURNS {
                return self.check();
            }
            self.drain_wire();
            self.lost = self.lost && !self.is_repaired();
        }
        self.check();
        self.ledger.assert_settled();
        assert!(!self.lost, "the reset of the PF was not noticed");
    }
}
