// SPDX-License-Identifier: GPL-2.0

//! Sequences at random, the same for the same seed.

use model::mock::Random;

use crate::frame::{Frame, Kind, To, L4};
use crate::pf::Mode;
use crate::sequence::{Host, Packet, Report, Sequence, SetUp, Step, MAC};

/// VLANs that a guest asks for.
const VLANS: [u16; 3] = [0, 7, 0x123];

/// Sequence number `seed`, which is not 0.
pub fn generate(seed: u64) -> Sequence {
    let mut g = Generator {
        random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        number: 0,
    };
    // The first numbers of a generator that starts with similar ones are similar.
    for _ in 0..16 {
        g.random.next();
    }
    let mode = Mode {
        rss: g.one_in(2),
        hashes: g.one_in(2),
    };
    // QEMU spreads frames only if descriptors tell hashes.
    let mode = Mode {
        hashes: mode.hashes || mode.rss,
        ..mode
    };
    let ivar = g.ivar();
    let mut steps = vec![
        Step::SetUpTx(g.set_up(0)),
        Step::SetUpRx(g.set_up(0)),
        Step::SetUpTx(g.set_up(1)),
        Step::SetUpRx(g.set_up(1)),
        Step::Message(vec![5, 9728]),
        Step::Host(if g.one_in(4) {
            Host::Nothing
        } else {
            Host::Capture
        }),
    ];
    let messages = g.below(7);
    steps.extend((0..messages).map(|_| Step::Message(g.message())));
    // Some sequences begin without one of these.
    if g.one_in(3) {
        let n = g.below(steps.len() as u32) as usize;
        steps.remove(n);
    }
    let more = 10 + g.below(30);
    steps.extend((0..more).map(|_| g.step()));
    steps.push(Step::Read);
    Sequence {
        seed,
        mode,
        ivar,
        steps,
    }
}

struct Generator {
    random: Random,
    /// Of the next frame.
    number: u32,
}

impl Generator {
    fn below(&mut self, n: u32) -> u32 {
        self.random.below(n)
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }

    fn ivar(&mut self) -> [u32; 2] {
        let mut causes = [0; 4];
        for cause in &mut causes {
            *cause = self.below(3) | if self.one_in(6) { 0 } else { 0x80 };
        }
        let misc = self.below(3) | if self.one_in(2) { 0 } else { 0x80 };
        [u32::from_le_bytes(causes.map(|cause| cause as u8)), misc]
    }

    fn step(&mut self) -> Step {
        let q = self.below(2);
        match self.below(100) {
            0..30 => self.send(q),
            30..52 => Step::Receive {
                frames: self.received(),
                late: self.one_in(3),
            },
            52..57 => Step::ReceiveEarly {
                frames: self.received(),
                meanwhile: self.pick(&[Host::Nothing, Host::StopStart, Host::Migrate]),
            },
            57..70 => Step::Refill {
                q,
                posted: self.pick(&[0, 3, 12, 31, 31, 31]),
                tails: 1 + self.below(3),
            },
            70..74 => Step::SetUpTx(self.set_up(q)),
            74..78 => Step::SetUpRx(self.set_up(q)),
            78..81 => Step::Switch {
                q,
                tx: self.one_in(2),
                on: !self.one_in(3),
            },
            81..83 => Step::Scribble {
                q,
                tx: self.one_in(2),
                words: std::array::from_fn(|_| self.random.next()),
            },
            83..87 => self.interrupts(),
            87..91 => Step::Message(self.message()),
            91 => Step::Psrtype(self.random.next()),
            92 => Step::Read,
            93 => Step::Reset {
                flr: self.one_in(2),
            },
            94 => Step::CaptureUnder {
                frames: self.received(),
            },
            _ => Step::Host(self.pick(&[
                Host::Capture,
                Host::Capture,
                Host::Release,
                Host::StopStart,
                Host::Migrate,
            ])),
        }
    }

    fn set_up(&mut self, q: u32) -> SetUp {
        let slots = self.pick(&[3, 4, 5, 5, 6, 7, 9]);
        let one_buffer = 1 << 25;
        let kind = self.pick(&[one_buffer, one_buffer, 2 << 25, 5 << 25, 5 << 25]);
        let packet = self.pick(&[0, 1, 1, 2, 2, 2, 3, 4, 8, 10, 16]);
        let header = self.pick(&[1, 2, 2, 4, 8, 15]) << 8;
        SetUp {
            q,
            slots,
            place: self.below(63),
            low: self.below(32),
            start: if self.one_in(3) {
                self.random.next()
            } else {
                0
            },
            thresholds: self.random.next() & 0x001f_1f1f,
            srrctl: kind | packet | header | self.below(2) << 31,
            posted: self.pick(&[1, 5, 31, 31, 31]),
            head_wb: self.one_in(4),
            head_late: self.one_in(2),
        }
    }

    fn send(&mut self, q: u32) -> Step {
        let count = match self.below(10) {
            0 => 20 + self.below(60),
            1..4 => 1,
            _ => 1 + self.below(8),
        };
        let large = count < 12;
        Step::Send {
            q,
            packets: (0..count).map(|_| self.packet(q, large)).collect(),
            tails: 1 + self.below(3),
            garbage: self.one_in(8),
            late: self.one_in(3),
        }
    }

    fn packet(&mut self, q: u32, large: bool) -> Packet {
        let kind = self.kind();
        let tso = matches!(kind, Kind::Ip4(L4::Tcp) | Kind::Ip6(L4::Tcp)) && self.one_in(2);
        let most = match (large, tso) {
            (false, _) => 200,
            (true, false) => 3000,
            (true, true) => 20_000,
        };
        let frame = Frame {
            to: if self.one_in(8) {
                To::Broadcast
            } else {
                To::Mac([2, 0, 0, 0, 0, 9])
            },
            from: 1 + q as u8,
            vlan: self.one_in(8).then(|| self.random.next() as u16),
            kind,
            len: 60 + self.below(most) as usize,
            number: self.next(),
            queue: 0,
            bad_sum: self.one_in(4),
        };
        Packet {
            frame,
            pieces: self.pick(&[1, 1, 2, 3, 4]),
            tag: self.one_in(4).then(|| self.random.next() as u16),
            sums: self.one_in(2),
            mss: tso.then(|| 200 + self.below(1261)),
            context: self.below(2),
            resend: self.one_in(2),
            report: self.pick(&[
                Report::None,
                Report::End,
                Report::End,
                Report::End,
                Report::Data,
                Report::All,
            ]),
        }
    }

    fn next(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    fn kind(&mut self) -> Kind {
        let l4 = self.pick(&[L4::Tcp, L4::Tcp, L4::Udp, L4::Other]);
        self.pick(&[Kind::Raw, Kind::Ip4(l4), Kind::Ip4(l4), Kind::Ip6(l4)])
    }

    fn received(&mut self) -> Vec<Frame> {
        let count = if self.one_in(4) {
            1 + self.below(30)
        } else {
            1 + self.below(4)
        };
        (0..count).map(|_| self.incoming()).collect()
    }

    fn incoming(&mut self) -> Frame {
        let most = self.pick(&[70, 400, 1460, 1460, 3000, 8958]);
        Frame {
            to: match self.below(12) {
                0 => To::Broadcast,
                1 => To::Group(self.below(8) as u8),
                2 => To::Mac([2, 0, 0, 0, 0, self.below(4) as u8]),
                _ => To::Mac(MAC),
            },
            from: 9,
            vlan: self.one_in(4).then(|| {
                let vid = self.pick(&VLANS);
                vid | (self.random.next() as u16 & 0xe000)
            }),
            kind: self.kind(),
            len: 60 + self.below(most) as usize,
            number: self.next(),
            queue: self.below(2) as u8,
            bad_sum: self.one_in(6),
        }
    }

    fn interrupts(&mut self) -> Step {
        // EIMS, EIMC, EICS, EICR, EITR.
        let at = self.pick(&[0x1524, 0x1524, 0x1528, 0x1520, 0x1580, 0x1680]);
        let val = self.below(8);
        let (at, val) = match at {
            0x1680 => (
                at + 4 * self.below(3),
                if self.one_in(2) {
                    self.random.next() & 0x7fff_fffc
                } else {
                    0
                },
            ),
            _ => (at, val),
        };
        Step::Interrupts { at, val }
    }

    fn message(&mut self) -> Vec<u32> {
        match self.below(12) {
            // An address: ours, one that is none, one more.
            0 => vec![2, 0x0100_5452, 0x0302],
            1 => vec![2 | self.below(3) << 16, 0, 0],
            2 => vec![2 | 2 << 16, 2, self.below(4) << 8],
            3..8 => vec![4 | self.below(2) << 16, u32::from(self.pick(&VLANS))],
            8 => vec![5, self.pick(&[1522, 4000, 9728, 9728])],
            9 => vec![6 | self.below(4) << 17],
            _ => {
                let mut message = vec![3 | 4 << 16];
                message.extend((0..2).map(|_| {
                    let hash = |n: u32| (n << 8 | n) >> 4 & 0xfff;
                    hash(self.below(8)) | hash(self.below(8)) << 16
                }));
                message
            }
        }
    }
}
