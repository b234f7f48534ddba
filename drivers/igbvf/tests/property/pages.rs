// SPDX-License-Identifier: GPL-2.0

//! Page writes by the million: a copy of guest memory that is brought up to date from the dirty set alone, at random
//! moments, is guest memory each time.

use model::mock::Random;

use super::act::{Act, Address, Host};
use super::life::Life;
use crate::driver::rx::{Format, RxSetup};
use crate::driver::tx::{Packet, Report, TxSetup};
use crate::driver::{Manner, PairSetup, Setup};

/// Bytes of guest memory.
const MEMORY_BYTES: usize = 1 << 20;
/// Page writes of one life.
const LIFE_WRITES: u64 = 200_000;
/// A mark in so many is forgotten, where any is.
const FORGETS_ONE_IN: u32 = 1_000_000;
/// Marks in a million, for short.
const MILLION: u64 = 1_000_000;

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    page_writes: u64,
    frames: u64,
    syncs: u64,
    migrations: u64,
    forgotten: u64,
    missed: u64,
}

fn pair(r: &mut Random) -> PairSetup {
    let kib = 3;
    let header = 1 + r.below(15);
    let format = match r.below(3) {
        0 => Format::OneBuffer { kib },
        1 => Format::Split { header, kib },
        _ => Format::SplitAlways { header, kib },
    };
    let report = [Report::Packets, Report::Descriptors][r.below(2) as usize];
    PairSetup {
        tx: TxSetup {
            slots: 64,
            head_write_back: r.below(4) == 0,
            report,
        },
        rx: RxSetup { slots: 64, format },
    }
}

fn setup(r: &mut Random) -> Setup {
    Setup {
        manner: [Manner::Linux, Manner::Dpdk][r.below(2) as usize],
        pairs: [Some(pair(r)), Some(pair(r))],
        longest_frame: 9234,
        ivar0: 0,
        ivar_misc: 0x80,
        eitr: 0,
        psrtype: 0,
        tx_bytes: 1 << 16,
    }
}

const HOST: Host = Host {
    address: Address::None,
    fixed_heads: false,
    stale: 0,
};

/// Small frames, most of the time.
fn len(r: &mut Random) -> usize {
    match r.below(64) {
        0 => 60 + r.below(9000) as usize,
        _ => 60 + r.below(180) as usize,
    }
}

fn act(r: &mut Random) -> Act {
    let q = r.below(2);
    match r.below(100) {
        0..30 => Act::Burst(q, 1 + r.below(24), len(r)),
        30..45 => {
            let packet = |r: &mut Random| {
                let pieces = 1 + r.below(3) as usize;
                (len(r), Packet { pieces, task: None })
            };
            Act::Send(q, (0..1 + r.below(8)).map(|_| packet(r)).collect(), 1)
        }
        45..75 => Act::Turns(1 + r.below(64), 1),
        75..98 => Act::Look(usize::MAX, u32::MAX, 1),
        98 => Act::Busy(r.below(60)),
        _ => Act::Pause,
    }
}

/// Lives until there were so many page writes, or one is missed.
fn write_pages(page_writes: u64, seed: u64, forgets: Option<u32>) -> Tally {
    let (mut r, mut tally) = (Random(seed), Tally::default());
    while tally.page_writes < page_writes && tally.missed == 0 {
        let mut life = Life::begin_in(MEMORY_BYTES, &HOST, &setup(&mut r));
        life.act(&Act::Capture);
        let goal = LIFE_WRITES.min(page_writes - tally.page_writes);
        write_in_life(&mut life, &mut r, goal, forgets, &mut tally);
    }
    tally
}

/// The part of one life; it ends on another host, which has the copy for memory.
fn write_in_life(
    life: &mut Life,
    r: &mut Random,
    goal: u64,
    forgets: Option<u32>,
    tally: &mut Tally,
) {
    let forgets = forgets.map(|one_in| (Random(u64::from(r.next()) | 1), one_in));
    life.replica(|replica| replica.forgets = forgets);
    let mut written = 0;
    while written < goal {
        life.act(&act(r));
        if r.below(3) == 0 {
            tally.syncs += 1;
            if life.missed().is_some() {
                tally.missed += 1;
                break;
            }
        }
        written = life.replica(|replica| replica.page_writes);
    }
    tally.page_writes += written;
    tally.forgotten += life.replica(|replica| replica.forgotten);
    if forgets_nothing(life) {
        life.act(&Act::Migrate(HOST));
        life.end();
        tally.migrations += 1;
    }
    tally.frames += life.ledger.sent + life.ledger.received;
}

fn forgets_nothing(life: &mut Life) -> bool {
    life.replica(|replica| replica.forgets.is_none())
}

#[test]
fn ten_million_page_writes_are_all_dirty() {
    let page_writes = match std::env::var("SEMIASSIGN_PAGE_WRITES") {
        Ok(number) => number.parse().expect("SEMIASSIGN_PAGE_WRITES is a number"),
        Err(_) => 10 * MILLION,
    };
    let tally = write_pages(page_writes, 1, None);
    println!("{tally:?}");
    assert!(tally.page_writes >= page_writes && tally.missed == 0);
    assert!(tally.syncs > page_writes / 1000 && tally.frames > page_writes / 10);
}

#[test]
fn one_forgotten_mark_in_a_million_is_found() {
    let tally = write_pages(20 * MILLION, 2, Some(FORGETS_ONE_IN));
    println!("{tally:?}");
    assert!(tally.missed == 1 && tally.forgotten > 0);
}
