// SPDX-License-Identifier: GPL-2.0
//! Numbered datagrams at a steady pace, both ways between client and guest, and an account of every single one of them.
//!
//! The segment has no other path and keeps frames in order. So each number has to arrive once and in order, and what is
//! missing is missing in one piece.

use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};

use crate::{clock, kernel, namespace};

const PORT: u16 = 7001;
/// What the bed carries beside everything else it does.
const PERIOD: Duration = Duration::from_millis(1);
/// A guest that has heard nothing for so long has nobody to send to.
const SILENCE: Duration = Duration::from_secs(5);
/// Of datagrams that wait to be taken: some seconds of them.
const BUFFER_BYTES: usize = 8 << 20;
/// Bytes of one: its number, the pace, whose it is, and filling.
const DATAGRAM_BYTES: usize = 64;

/// Which numbers have arrived, in the order of their arrival: runs of consecutive ones, by first and count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrivals {
    runs: Vec<(u32, u32)>,
}

impl Arrivals {
    fn note(&mut self, number: u32) {
        match self.runs.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => self.runs.push((number, 1)),
        }
    }

    /// The number after the last one.
    pub fn end(&self) -> u32 {
        self.runs.last().map_or(0, |(first, count)| first + count)
    }

    /// The numbers that are missing, from the one after `from` on.
    ///
    /// # Errors
    ///
    /// One has arrived twice, or behind a later one.
    pub fn gaps(&self, from: u32) -> Result<Vec<Range<u32>>> {
        let mut gaps = Vec::new();
        for pair in self.runs.windows(2) {
            let (end, next) = (pair[0].0 + pair[0].1, pair[1].0);
            ensure!(
                end < next,
                "number {next} arrived after {}: twice, or late",
                end.wrapping_sub(1)
            );
            if end >= from {
                gaps.push(end..next);
            }
        }
        Ok(gaps)
    }

    /// Of the numbers from `from` on, all before which have arrived or are lost: which are missing, and how many have arrived
    /// twice or behind a later one.
    pub fn account(&self, from: u32) -> (Vec<Range<u32>>, u32) {
        let old = self.runs.iter().take_while(|run| run.0 + run.1 <= from);
        let mut runs = self.runs[old.count()..].to_vec();
        let late = runs
            .windows(2)
            .filter(|pair| pair[1].0 < pair[0].0 + pair[0].1);
        let late: u32 = late.map(|pair| pair[1].1).sum();
        runs.sort_unstable();
        let (mut end, mut missing) = (from, Vec::new());
        for (first, count) in runs {
            if end < first {
                missing.push(end..first);
            }
            end = end.max(first + count);
        }
        (missing, late)
    }
}

/// What a guest says: how many it has sent, and what has arrived.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub sent: u32,
    pub arrived: Arrivals,
    /// The longest time in which a thread that sleeps for a period at a time was not woken.
    pub paused: Duration,
    /// Datagrams that the guest's kernel had and dropped, as its program did not take the others in time.
    pub overflowed: u32,
}

static IN_GUEST: OnceLock<Arc<Mutex<Report>>> = OnceLock::new();

/// The guest's end: answers whoever sends with numbers of its own, at the same pace.
pub fn serve() -> Result<()> {
    let report = Arc::clone(IN_GUEST.get_or_init(Arc::default));
    let socket = socket(PORT)?;
    let sender = socket.try_clone()?;
    let heard = Arc::new(Mutex::new(None::<(SocketAddr, Instant, Duration)>));
    {
        let (heard, report) = (Arc::clone(&heard), Arc::clone(&report));
        std::thread::spawn(move || answer(&sender, &heard, &report));
    }
    {
        let report = Arc::clone(&report);
        std::thread::spawn(move || loop {
            let before = Instant::now();
            std::thread::sleep(PERIOD);
            let mut report = lock(&report);
            report.paused = report.paused.max(before.elapsed());
        });
    }
    std::thread::spawn(move || {
        let mut buffer = [0; 2 * DATAGRAM_BYTES];
        let mut last = None;
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Some((number, period, whose)) = parse(&buffer[..length]) else {
                continue;
            };
            let mut report = lock(&report);
            if last.replace(whose) != Some(whose) {
                // Another probe, which begins anew.
                *report = Report::default();
            }
            report.arrived.note(number);
            drop(report);
            *lock(&heard) = Some((from, Instant::now(), period));
        }
    });
    Ok(())
}

/// The guest's agent is asked for it. Pauses are counted from the last time that it was.
pub fn report() -> Result<String> {
    let mut report = lock(IN_GUEST.get().context("no probe is served")?);
    let sockets = std::fs::read_to_string("/proc/net/udp")?;
    report.overflowed =
        drops(&sockets, PORT).context("/proc/net/udp has no socket of the probe")?;
    let text = serde_json::to_string(&*report)?;
    report.paused = Duration::ZERO;
    Ok(text)
}

/// What the socket of a port has dropped, by /proc/net/udp: its second word ends with the port, its last one is the number.
fn drops(sockets: &str, port: u16) -> Option<u32> {
    let port = format!(":{port:04X}");
    let ours = |line: &&str| {
        let local = line.split_whitespace().nth(1);
        local.is_some_and(|local| local.ends_with(&port))
    };
    let line = sockets.lines().find(ours)?;
    line.split_whitespace().next_back()?.parse().ok()
}

fn answer(
    socket: &UdpSocket,
    heard: &Mutex<Option<(SocketAddr, Instant, Duration)>>,
    report: &Mutex<Report>,
) {
    let mut pace = Pace::new();
    loop {
        let last = *lock(heard);
        match last.filter(|(_, at, _)| at.elapsed() < SILENCE) {
            None => std::thread::sleep(Duration::from_millis(20)),
            Some((to, _, period)) => {
                let number = lock(report).sent;
                // The interface may be down: that was none, then.
                if socket.send_to(&datagram(number, period, 0), to).is_ok() {
                    lock(report).sent += 1;
                }
                pace.wait(period);
            }
        }
    }
}

/// The client's end.
pub struct Probe {
    /// When each number was sent.
    sent_ns: Arc<Mutex<Vec<u64>>>,
    arrived: Arc<Mutex<Arrivals>>,
    /// When something arrived.
    arrived_ns: Arc<Mutex<Vec<u64>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Probe {
    pub fn start(guest_ip: &str) -> Result<Self> {
        let to = SocketAddr::new(guest_ip.parse()?, PORT);
        let socket = namespace::within(|| socket(0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (sent_ns, arrived, arrived_ns) = (Arc::default(), Arc::default(), Arc::default());
        let stop = Arc::new(AtomicBool::new(false));
        let sender = {
            let (socket, sent, stop) =
                (socket.try_clone()?, Arc::clone(&sent_ns), Arc::clone(&stop));
            std::thread::spawn(move || send_all(&socket, to, &sent, &stop))
        };
        let receiver = {
            let (arrived, times, stop) = (
                Arc::clone(&arrived),
                Arc::clone(&arrived_ns),
                Arc::clone(&stop),
            );
            std::thread::spawn(move || receive_all(&socket, &arrived, &times, &stop))
        };
        Ok(Self {
            sent_ns,
            arrived,
            arrived_ns,
            stop,
            threads: vec![sender, receiver],
        })
    }

    /// How many were sent so far.
    pub fn sent(&self) -> u32 {
        lock(&self.sent_ns).len() as u32
    }

    pub fn arrived(&self) -> Arrivals {
        lock(&self.arrived).clone()
    }

    /// The longest time since then in which nothing arrived.
    pub fn longest_gap(&self, from_ns: u64) -> u64 {
        let times = lock(&self.arrived_ns);
        let pairs = times.windows(2).filter(|pair| pair[1] > from_ns);
        pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// From what arrived last before `at_ns` until what arrived next.
    pub fn silence(&self, at_ns: u64) -> Range<u64> {
        around(&lock(&self.arrived_ns), at_ns)
    }

    /// When the numbers were sent, by CLOCK_MONOTONIC.
    pub fn sent_between(&self, numbers: &Range<u32>) -> Result<Range<u64>> {
        let sent = lock(&self.sent_ns);
        let at = |number: u32| {
            let at = sent.get(number as usize).copied();
            at.with_context(|| format!("number {number} was never sent"))
        };
        Ok(at(numbers.start)?..at(numbers.end.saturating_sub(1))?)
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// One of its threads has panicked.
    pub fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_| anyhow!("a thread of the probe panicked"))?;
        }
        Ok(())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn send_all(socket: &UdpSocket, to: SocketAddr, sent: &Mutex<Vec<u64>>, stop: &AtomicBool) {
    let period = PERIOD * kernel::patience().pow(2);
    let whose = clock::now_ns() as u32;
    let mut pace = Pace::new();
    while !stop.load(Ordering::Relaxed) {
        let number = {
            let mut sent = lock(sent);
            sent.push(clock::now_ns());
            sent.len() as u32 - 1
        };
        // A refused send (no route while ARP is open) is a lost one, which it is.
        let _ = socket.send_to(&datagram(number, period, whose), to);
        pace.wait(period);
    }
}

fn receive_all(
    socket: &UdpSocket,
    arrived: &Mutex<Arrivals>,
    times: &Mutex<Vec<u64>>,
    stop: &AtomicBool,
) {
    let mut buffer = [0; 2 * DATAGRAM_BYTES];
    while !stop.load(Ordering::Relaxed) {
        if let Ok(length) = socket.recv(&mut buffer) {
            if let Some((number, ..)) = parse(&buffer[..length]) {
                lock(times).push(clock::now_ns());
                lock(arrived).note(number);
            }
        }
    }
}

/// The last of these times until `at`, and the next one.
fn around(times: &[u64], at: u64) -> Range<u64> {
    let next = times.partition_point(|time| *time <= at);
    let last = next.checked_sub(1).and_then(|last| times.get(last));
    last.copied().unwrap_or(0)..times.get(next).copied().unwrap_or(at)
}

/// Steady, but what was missed is not made good: a burst would be a load that is not measured.
struct Pace(Instant);

impl Pace {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn wait(&mut self, period: Duration) {
        let now = Instant::now();
        self.0 = (self.0 + period).max(now);
        std::thread::sleep(self.0 - now);
    }
}

fn socket(port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", port)).context("no UDP socket")?;
    // For more than the system's limit one has to be root, as both ends are.
    setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &BUFFER_BYTES)?;
    Ok(socket)
}

/// The number, the pace in µs, and a number of the probe.
fn datagram(number: u32, period: Duration, whose: u32) -> [u8; DATAGRAM_BYTES] {
    let mut bytes = [0x5a; DATAGRAM_BYTES];
    bytes[8..12].copy_from_slice(&whose.to_be_bytes());
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes[4..8].copy_from_slice(&(period.as_micros() as u32).to_be_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Option<(u32, Duration, u32)> {
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    (bytes.len() == DATAGRAM_BYTES).then_some(())?;
    Some((word(0)?, Duration::from_micros(word(4)?.into()), word(8)?))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(numbers: impl IntoIterator<Item = u32>) -> Arrivals {
        let mut arrivals = Arrivals::default();
        numbers.into_iter().for_each(|number| arrivals.note(number));
        arrivals
    }

    #[test]
    fn what_is_missing_is_a_gap_and_what_is_late_or_doubled_an_error() {
        let gaps = |arrivals: Arrivals, from| {
            let gaps = arrivals.gaps(from).unwrap().into_iter();
            gaps.map(|gap| (gap.start, gap.end)).collect::<Vec<_>>()
        };
        assert_eq!(gaps(arrivals(7..20), 0), []);
        assert_eq!(gaps(arrivals((0..5).chain(9..12)), 0), [(5, 9)]);
        assert_eq!(gaps(arrivals((0..5).chain(9..12)), 6), []);
        assert!(arrivals([0, 1, 1, 2]).gaps(0).is_err());
        assert!(arrivals([0, 2, 1, 3]).gaps(0).is_err());
        assert_eq!(arrivals([3, 4]).end(), 5);
        let account = |arrivals: Arrivals, from| {
            let (missing, late) = arrivals.account(from);
            let missing = missing.into_iter().map(|gap| (gap.start, gap.end));
            (missing.collect::<Vec<_>>(), late)
        };
        assert_eq!(account(arrivals((0..5).chain(9..12)), 0), (vec![(5, 9)], 0));
        assert_eq!(account(arrivals((0..5).chain(9..12)), 6), (vec![(6, 9)], 0));
        // 3 and 4 once more, and 7 behind 8.
        let odd = (0..5).chain(3..7).chain([8, 7, 10]);
        assert_eq!(account(arrivals(odd.clone()), 0), (vec![(9, 10)], 5));
        // What was late before is not counted again.
        assert_eq!(account(arrivals(odd), 10), (vec![], 0));
    }

    #[test]
    fn a_silence_is_between_two_arrivals_or_not_over_yet() {
        let times = [10, 20, 30];
        assert_eq!(around(&times, 5), 0..10);
        assert_eq!(around(&times, 19), 10..20);
        assert_eq!(around(&times, 20), 20..30);
        assert_eq!(around(&times, 35), 30..35);
    }

    #[test]
    fn what_a_socket_has_dropped_is_in_the_line_of_its_port() {
        let sockets = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
             7: 00000000:1B58 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 11 2 0000000000000000 3\n\
             8: 00000000:1B59 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12 2 0000000000000000 17\n";
        assert_eq!(drops(sockets, 7001), Some(17));
        assert_eq!(drops(sockets, 7000), Some(3));
        assert_eq!(drops(sockets, 7002), None);
    }

    #[test]
    fn a_datagram_says_its_number_and_its_pace() {
        let sent = datagram(70_000, Duration::from_millis(25), 7);
        assert_eq!(parse(&sent), Some((70_000, Duration::from_millis(25), 7)));
        assert_eq!(parse(&sent[1..]), None);
    }
}
