// SPDX-License-Identifier: GPL-2.0

//! An independent record of what a guest and the wire have given to each other, and what must become of it: each frame
//! arrives once, in its order and whole, but for those that the datasheet says are lost.

use std::collections::VecDeque;

use crate::driver::mailbox::Reply;
use crate::driver::rx::RxSetup;
use crate::driver::{mac_of, Asked};
use crate::vf::{Filters, Offload};

/// Bytes of the frames that may wait for a guest while it is emulated, with 24 bytes more each and rounded up to 8.
pub const WAITING_BYTES: usize = 256 * 1024;

/// A frame that was received, and what it is.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    number: u32,
    len: usize,
    /// No ring of this length can take it.
    too_long: bool,
}

/// A frame that was posted.
#[derive(Clone, Copy, Debug)]
struct Sending {
    number: u32,
    len: usize,
    told: Offload,
}

/// One queue pair, since the guest has opened it.
#[derive(Default)]
struct Queue {
    sending: VecDeque<Sending>,
    /// Of a ring that was given up without a reset: they may still be sent, in order, before those of the next.
    given_up: VecDeque<Sending>,
    sent: usize,
    completed: usize,
    arrivals: VecDeque<Arrival>,
    /// Of those that were too long and are dropped for sure: a later one was received.
    passed: u64,
}

/// A counter that the guest reads: between these, since it was read last.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    last: u32,
    least: u32,
    most: u32,
}

/// The record.
#[derive(Default)]
pub struct Ledger {
    queues: [Queue; 2],
    next: u32,
    /// What the PF has to know.
    pub filters: Filters,
    /// VFGPRC and VFGPTC.
    counters: [Counter; 2],
    /// All frames of both ways that arrived.
    pub sent: u64,
    pub received: u64,
}

/// The bytes of frame `number`: half of them are IPv4, as far as the device looks.
pub fn bytes(number: u32, len: usize) -> Vec<u8> {
    // No buffer or piece is a multiple of this, so that none can be taken for another.
    let pattern: [u8; 251] = std::array::from_fn(|i| (i as u32 + number) as u8);
    let mut frame = vec![0; len];
    for part in frame.chunks_mut(pattern.len()) {
        part.copy_from_slice(&pattern[..part.len()]);
    }
    frame[..4].copy_from_slice(&number.to_le_bytes());
    if number % 2 == 0 {
        frame[12..14].copy_from_slice(&[8, 0]);
    }
    frame
}

/// Bytes that a frame of `len` takes while it waits.
fn waiting_bytes(len: usize) -> usize {
    (len + 24).next_multiple_of(8)
}

impl Ledger {
    /// The next frame, of `len` bytes.
    pub fn next_frame(&self, len: usize) -> Vec<u8> {
        bytes(self.next, len)
    }

    /// It was posted by the guest, and this is what the device has to be told.
    pub fn posted(&mut self, len: usize, told: Offload) {
        let number = self.next;
        self.next += 1;
        let sending = Sending { number, len, told };
        self.queues[told.q as usize].sending.push_back(sending);
    }

    /// A frame went out.
    pub fn sent(&mut self, frame: &[u8], told: Offload) {
        self.counters[1].count();
        self.sent += 1;
        let queue = &mut self.queues[told.q as usize];
        if let Some(first) = queue.given_up.pop_front() {
            if frame.starts_with(&first.number.to_le_bytes()) {
                return first.check(frame, told);
            }
        }
        queue.given_up.clear();
        queue.sent += 1;
        let sending = queue
            .sending
            .pop_front()
            .expect("a frame that nobody has sent");
        sending.check(frame, told);
    }

    /// A frame of our own went out.
    pub fn announced(&mut self) {
        self.counters[1].count();
    }

    /// Frames of queue `q` that the device says it has sent.
    pub fn completed(&mut self, q: usize, frames: usize) {
        let queue = &mut self.queues[q];
        queue.completed += frames;
        assert!(
            queue.completed <= queue.sent,
            "completed before it was on the wire"
        );
    }

    /// The next frame was taken by the device, for queue `q`.
    pub fn arrived(&mut self, q: usize, len: usize, setup: &RxSetup) {
        self.counters[0].count();
        let arrival = Arrival {
            number: self.next,
            len,
            too_long: !setup.fits(len),
        };
        self.next += 1;
        self.queues[q].arrivals.push_back(arrival);
    }

    /// The next frame was taken by the device for a queue that the guest has not opened.
    pub fn strayed(&mut self) {
        self.counters[0].count();
        self.next += 1;
    }

    /// Whether a frame of `len` more may wait for queue `q`.
    pub fn has_room(&self, q: usize, len: usize) -> bool {
        let waiting = self.queues[q].arrivals.iter().map(|a| waiting_bytes(a.len));
        waiting.sum::<usize>() + waiting_bytes(len) <= WAITING_BYTES
    }

    /// The guest got a frame from queue `q`.
    pub fn received(&mut self, q: usize, frame: &[u8]) {
        self.received += 1;
        let queue = &mut self.queues[q];
        while queue.arrivals.front().is_some_and(|a| a.too_long) {
            queue.arrivals.pop_front();
            queue.passed += 1;
        }
        let next = queue.arrivals.pop_front();
        let Arrival { number, len, .. } = next.expect("a frame from nowhere");
        assert_same(frame, &bytes(number, len), "received");
    }

    /// Frames of queue `q` that wait outside the guest's ring, if `delivered` are in it. Those that are too long and
    /// not behind one that waits are dropped for sure.
    pub fn waiting(&mut self, q: usize, delivered: usize) -> usize {
        let Queue {
            passed, arrivals, ..
        } = &mut self.queues[q];
        let fitting = (0..).zip(arrivals.iter()).filter(|(_, a)| !a.too_long);
        let first = fitting.skip(delivered).map(|(n, _)| n).next();
        let waiting = arrivals.split_off(first.unwrap_or(arrivals.len()));
        let before = arrivals.len();
        arrivals.retain(|a| !a.too_long);
        *passed += (before - arrivals.len()) as u64;
        arrivals.extend(&waiting);
        waiting.len()
    }

    /// The newest `frames` of queue `q` are lost.
    pub fn lose(&mut self, q: usize, frames: usize) {
        let arrivals = &mut self.queues[q].arrivals;
        arrivals.truncate(arrivals.len() - frames);
    }

    /// Frames of queue `q` that are dropped for their length: at least, and at most.
    pub fn too_long(&self, q: usize) -> (u64, u64) {
        let Queue {
            passed, arrivals, ..
        } = &self.queues[q];
        let waiting = arrivals.iter().filter(|a| a.too_long).count();
        (*passed, passed + waiting as u64)
    }

    /// The guest has moved, and its new host knows of no frame that was dropped.
    pub fn moved(&mut self) {
        for queue in &mut self.queues {
            queue.passed = 0;
        }
    }

    /// The guest has reset the device, or its user has: nothing of before may be seen any more.
    pub fn reset(&mut self) {
        self.queues = Default::default();
    }

    /// The guest has switched queue `q` off and on; `taken` says that packets may be under way in the device.
    pub fn restarted(&mut self, q: usize, taken: bool) {
        let queue = std::mem::take(&mut self.queues[q]);
        if taken {
            self.queues[q].given_up = queue.given_up;
            self.queues[q].given_up.extend(queue.sending);
        }
    }

    /// Whether all has arrived that must.
    pub fn is_settled(&self) -> bool {
        let mut queues = self.queues.iter();
        queues.all(|queue| queue.sending.is_empty() && queue.arrivals.iter().all(|a| a.too_long))
    }

    /// Panics with what is missing.
    pub fn assert_settled(&self) {
        for (q, queue) in self.queues.iter().enumerate() {
            assert!(
                queue.sending.is_empty(),
                "never sent, of queue {q}: {:?}",
                queue.sending
            );
            let missing: Vec<_> = queue.arrivals.iter().filter(|a| !a.too_long).collect();
            assert!(
                missing.is_empty(),
                "never received, of queue {q}: {missing:?}"
            );
        }
    }

    /// The guest reads `val` from counter `n`: 0 is VFGPRC, 1 is VFGPTC.
    pub fn read_counter(&mut self, n: usize, val: u32) {
        let counter = &mut self.counters[n];
        let grown = val.wrapping_sub(counter.last);
        let Counter { least, most, .. } = *counter;
        assert!(
            (least..=most).contains(&grown),
            "counter {n} has grown by {grown}, not by {least} to {most}"
        );
        (counter.last, counter.least, counter.most) = (val, 0, 0);
    }

    /// The device's counters were cleared: what the guest has not read may be missing.
    pub fn counters_cleared(&mut self) {
        for counter in &mut self.counters {
            counter.least = 0;
        }
    }

    /// What the PF was asked, and has answered.
    pub fn asked(&mut self, asked: &Asked) {
        let f = &mut self.filters;
        match asked {
            Asked::Reset => {
                (f.mac, f.promisc) = (None, 0);
                f.vlans.clear();
                f.multicast.clear();
            }
            Asked::Message(words, reply) => f.note(words, reply),
        }
    }
}

impl Counter {
    fn count(&mut self) {
        self.least += 1;
        self.most += 1;
    }
}

impl Sending {
    fn check(&self, frame: &[u8], told: Offload) {
        assert_same(frame, &bytes(self.number, self.len), "sent");
        let context = self.told.context.and(told.context);
        let told = Offload {
            context: context.map(|[a, b, c, d]| [a, b, c & !(1 << 27), d]),
            ..told
        };
        assert_eq!(told, self.told, "frame {}", self.number);
    }
}

impl Filters {
    fn note(&mut self, words: &[u32], reply: &Reply) {
        let word = |n: usize| words.get(n).copied().unwrap_or(0);
        let [answer, lo, hi] = *reply;
        match (word(0) & 0xffff, word(0) >> 16) {
            // Whether there is an address or not.
            (1, _) => self.strip = true,
            // The PF takes what it can, and says no if that is not all.
            (6, modes) if answer & 1 << 29 != 0 => self.promisc = modes & 2,
            _ => {}
        }
        if answer >> 31 == 0 {
            return;
        }
        match (word(0) & 0xffff, word(0) >> 16) {
            (1, _) => self.mac = Some(mac_of(lo, hi)),
            (2, 0) => self.mac = Some(mac_of(word(1), word(2))),
            (2, 1) => self.unicast.clear(),
            (2, _) => self.unicast.push(mac_of(word(1), word(2))),
            (3, hashes) => {
                let count = (hashes as usize).div_ceil(2);
                self.multicast = words[1..=count].to_vec();
            }
            (4, add) => {
                let vid = word(1) as u16;
                self.vlans
                    .retain(|other| *other != vid || vid == 0 && add == 0);
                if add != 0 {
                    self.vlans.push(vid);
                }
                if add != 0 || vid != 0 {
                    self.strip = vid != 0;
                }
            }
            (5, _) => self.lpe = word(1),
            (6, _) => {}
            other => panic!("a message that no driver sends: {other:?}"),
        }
    }
}

fn assert_same(frame: &[u8], expected: &[u8], what: &str) {
    if frame != expected {
        let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let at = frame.iter().zip(expected).position(|(a, b)| a != b);
        panic!(
            "{what} was frame {:?} of {} bytes instead of {:?} of {}; they differ at {at:?}",
            number(frame),
            frame.len(),
            number(expected),
            expected.len()
        );
    }
}
