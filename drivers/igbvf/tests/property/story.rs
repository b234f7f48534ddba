// SPDX-License-Identifier: GPL-2.0

//! Lives at random.

use std::fmt;

use conformance::proptest::prelude::*;

use super::act::{Act, Address, Ask, Host};
use crate::driver::rx::{Format, RxSetup};
use crate::driver::tx::{Packet, Report, Task, TxSetup};
use crate::driver::{Manner, PairSetup, Setup};

/// A life: of a VF on its first host, whose guest opens its interface first of all.
#[derive(Clone)]
pub struct Story {
    pub host: Host,
    pub setup: Setup,
    pub acts: Vec<Act>,
}

/// A line each, which can be read.
impl fmt::Debug for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}\n{:?}", self.host, self.setup)?;
        self.acts.iter().try_for_each(|act| write!(f, "\n{act:?}"))
    }
}

/// How much there is of: traffic, moves, messages, trouble, resets by the guest or the user, resets of the PF.
type Theme = [u32; 6];

const ALL: Theme = [60, 14, 9, 10, 5, 2];
/// Rings live long, and fill.
const TRAFFIC: Theme = [70, 10, 4, 14, 1, 1];
const PF_RESETS: Theme = [50, 16, 12, 10, 4, 8];

/// Any of fewer than so many acts.
pub fn story(acts: usize) -> impl Strategy<Value = Story> {
    let acts = prop_oneof![
        2 => prop::collection::vec(act(ALL), 1..acts),
        1 => prop::collection::vec(act(TRAFFIC), 1..acts),
        1 => prop::collection::vec(act(PF_RESETS), 1..acts),
    ];
    (host(), setup(), acts).prop_map(|(host, setup, acts)| Story { host, setup, acts })
}

fn slots() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => (1..=4u32).prop_map(|n| n * 8),
        3 => (1..=32u32).prop_map(|n| n * 8),
        1 => (1..=512u32).prop_map(|n| n * 8),
        1 => Just(4096),
    ]
}

fn format() -> impl Strategy<Value = Format> {
    let split = (1..=15u32, 1..=2u32);
    prop_oneof![
        2 => prop::sample::select(vec![2, 1, 3, 0]).prop_map(|kib| Format::OneBuffer { kib }),
        1 => split.clone().prop_map(|(header, kib)| Format::Split { header, kib }),
        2 => split.prop_map(|(header, kib)| Format::SplitAlways { header, kib }),
    ]
}

fn pair() -> impl Strategy<Value = PairSetup> {
    let report = prop_oneof![
        2 => Just(Report::Packets),
        1 => Just(Report::Descriptors),
        1 => (2..=32u32).prop_map(Report::Every),
    ];
    (slots(), slots(), format(), report, any::<bool>()).prop_map(
        |(tx_slots, rx_slots, format, report, head_write_back)| {
            let report = match report {
                Report::Every(n) => Report::Every(n.min(tx_slots / 4)),
                other => other,
            };
            PairSetup {
                tx: TxSetup {
                    slots: tx_slots,
                    head_write_back,
                    report,
                },
                rx: RxSetup {
                    slots: rx_slots,
                    format,
                },
            }
        },
    )
}

fn setup() -> impl Strategy<Value = Setup> {
    let pairs = prop_oneof![
        2 => pair().prop_map(|pair| [Some(pair), None]),
        1 => pair().prop_map(|pair| [None, Some(pair)]),
        2 => (pair(), pair()).prop_map(|(a, b)| [Some(a), Some(b)]),
    ];
    let entry = prop_oneof![1 => Just(0), 5 => 0x80..=0x82u8];
    let ivar0 = prop_oneof![
        2 => Just(0),
        1 => Just(0x8081_8081),
        2 => prop::array::uniform4(entry).prop_map(u32::from_le_bytes),
    ];
    let manner = prop_oneof![Just(Manner::Linux), Just(Manner::Dpdk)];
    let sizes = prop::sample::select(vec![1 << 16, 1 << 18, 600 << 10]);
    (manner, pairs, ivar0, any::<u8>(), any::<bool>(), sizes).prop_map(
        |(manner, pairs, ivar0, eitr, splits, tx_bytes)| Setup {
            manner,
            pairs,
            longest_frame: 9234,
            ivar0,
            ivar_misc: 0x80 | u32::from(eitr % 3),
            eitr: u32::from(eitr) << 2,
            psrtype: if splits { 0x12 } else { 0 },
            tx_bytes,
        },
    )
}

fn task() -> impl Strategy<Value = Task> {
    (0..2u8, 0..3u32, 0..3u32, any::<bool>()).prop_map(|(index, flow, popts, vlan)| Task {
        index,
        lengths: 14 << 9 | 20 | if vlan { (flow + 1) << 16 } else { 0 },
        mss: 1448 << 16 | (20 + flow) << 8,
        kind: 1 << 10 | 1 << 11,
        cmd: if vlan { 1 << 30 } else { 0 },
        popts: popts << 8,
    })
}

/// Packets and their lengths: small ones, or large ones that are to be cut into segments.
fn packets() -> impl Strategy<Value = Vec<(usize, Packet)>> {
    let len = prop_oneof![4 => 20..1515usize, 1 => 20..9235usize];
    let plain = (len, 1..5usize, prop::option::of(task()))
        .prop_map(|(len, pieces, task)| (len, Packet { pieces, task }));
    let large = (1000..61_000usize, 1..20usize, task()).prop_map(|(len, pieces, task)| {
        let cmd = task.cmd | 1 << 31;
        let task = Some(Task { cmd, ..task });
        (len, Packet { pieces, task })
    });
    prop_oneof![
        6 => prop::collection::vec(plain, 1..12),
        1 => prop::collection::vec(large, 1..24),
    ]
}

fn frame() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 60..1515usize, 1 => 60..9235usize]
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        3 => (0..8u16, any::<bool>()).prop_map(|(vid, add)| Ask::Vlan(vid, add)),
        1 => (0..30u32).prop_map(Ask::Multicast),
        1 => (0..4u8).prop_map(Ask::Unicast),
        1 => any::<bool>().prop_map(Ask::Promisc),
        1 => (1500..9235u32).prop_map(Ask::LongestFrame),
        1 => (0..4u8).prop_map(Ask::Mac),
    ]
}

fn host() -> impl Strategy<Value = Host> {
    let address = prop_oneof![
        Just(Address::None),
        Just(Address::Other),
        Just(Address::Pinned)
    ];
    (address, prop::bool::weighted(0.2), any::<u32>()).prop_map(|(address, fixed_heads, stale)| {
        Host {
            address,
            fixed_heads,
            stale,
        }
    })
}

fn act(theme: Theme) -> impl Strategy<Value = Act> {
    let [traffic_weight, move_weight, message_weight, trouble_weight, reset_weight, pf_weight] =
        theme;
    let q = 0..2u32;
    let most = prop_oneof![3 => Just(usize::MAX), 1 => 0..4usize];
    let slots = prop_oneof![3 => Just(u32::MAX), 1 => 0..16u32];
    let frames = prop::collection::vec(frame(), 1..24);
    let traffic = prop_oneof![
        4 => (q.clone(), packets(), 1..4u64).prop_map(|(q, packets, steps)| Act::Send(q, packets, steps)),
        5 => (most, slots, 1..4u64).prop_map(|(most, slots, steps)| Act::Look(most, slots, steps)),
        4 => (1..65u32, 1..8u32).prop_map(|(budget, turns)| Act::Turns(budget, turns)),
        4 => (q.clone(), frames).prop_map(|(q, lens)| Act::Arrive(q, lens)),
        1 => (q.clone(), 1..600u32, frame()).prop_map(|(q, n, len)| Act::Burst(q, n, len)),
    ];
    let moves = prop_oneof![
        5 => Just(Act::Capture),
        3 => prop::bool::weighted(0.2).prop_map(Act::Release),
        2 => Just(Act::Pause),
        1 => host().prop_map(Act::PreCopy),
        3 => host().prop_map(Act::Migrate),
        1 => host().prop_map(Act::Abandon),
    ];
    let messages = prop_oneof![
        2 => ask().prop_map(Act::Ask),
        2 => ask().prop_map(Act::Post),
        2 => Just(Act::LinkCheck),
        2 => Just(Act::Statistics),
        1 => Just(Act::Ping),
        1 => prop_oneof![5 => 0..8u32, 1 => Just(250)].prop_map(Act::Slow),
    ];
    let trouble = prop_oneof![
        4 => (0..60u32).prop_map(Act::Busy),
        2 => (0..20u32).prop_map(Act::Stall),
        3 => Just(Act::Unstall),
    ];
    let resets = prop_oneof![
        1 => setup().prop_map(Act::Open),
        1 => Just(Act::Close),
        1 => Just(Act::Reset),
        2 => q.prop_map(Act::Restart),
        1 => Just(Act::Flr),
    ];
    prop_oneof![
        traffic_weight => traffic,
        move_weight => moves,
        message_weight => messages,
        trouble_weight => trouble,
        reset_weight => resets,
        pf_weight => prop_oneof![any::<bool>().prop_map(Act::PfReset), Just(Act::PfBack)],
    ]
}
