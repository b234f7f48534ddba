// SPDX-License-Identifier: GPL-2.0
//! 100 pings a second from the client, each with its time of sending and of answer, so that gaps and losses are exact.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context, Result};
use nix::sys::socket::{
    recv, sendto, setsockopt, socket, sockopt, AddressFamily, MsgFlags, SockFlag, SockProtocol,
    SockType, SockaddrIn,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::{clock, namespace};

const PERIOD: Duration = Duration::from_millis(10);

#[derive(Clone, Copy)]
pub struct Ping {
    pub sent_ns: u64,
    pub answered_ns: Option<u64>,
}

pub struct Pinger {
    pings: Arc<Mutex<Vec<Ping>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Clone)]
pub struct Summary {
    pub sent: usize,
    pub lost: usize,
    /// The longest time between two answers.
    pub longest_gap: Duration,
    pub median: Duration,
}

impl Pinger {
    pub fn start(target: &str) -> Result<Self> {
        Self::start_with(target, 56)
    }

    /// With `size` bytes of payload; a jumbo frame is a ping that no 1500-byte path would carry in one piece.
    pub fn start_with(target: &str, size: usize) -> Result<Self> {
        let target: Ipv4Addr = target.parse()?;
        let fd = namespace::within(|| {
            socket(
                AddressFamily::Inet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Icmp,
            )
            .context("no raw socket")
        })?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100))?;
        let fd = Arc::new(fd);
        let pings = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let ident = (clock::now_ns() >> 10) as u16;
        let sender = {
            let (fd, pings, stop) = (Arc::clone(&fd), Arc::clone(&pings), Arc::clone(&stop));
            std::thread::spawn(move || send_all(&fd, target, ident, size, &pings, &stop))
        };
        let receiver = {
            let (pings, stop) = (Arc::clone(&pings), Arc::clone(&stop));
            std::thread::spawn(move || receive_all(&fd, ident, &pings, &stop))
        };
        Ok(Self {
            pings,
            stop,
            threads: vec![sender, receiver],
        })
    }

    pub fn answered(&self) -> usize {
        self.pings.lock().map_or(0, |pings| {
            pings.iter().filter(|p| p.answered_ns.is_some()).count()
        })
    }

    /// Requires so many new answers within the limit.
    pub fn require_answers(&self, count: usize, limit: Duration) -> Result<()> {
        let before = self.answered();
        clock::wait_for("answers to pings", limit, || {
            Ok((self.answered() >= before + count).then_some(()))
        })
    }

    /// Requires that the path is sound again: of 50 pings in a row, a second old, at most 5 are lost.
    pub fn require_sound(&self, limit: Duration) -> Result<()> {
        const WINDOW: usize = 50;
        let from = clock::now_ns();
        let mut best = 0;
        clock::wait_for("a sound path", limit, || {
            let due = clock::now_ns().saturating_sub(1_000_000_000);
            let pings = self
                .pings
                .lock()
                .map_err(|_| anyhow!("the pinger panicked"))?;
            let recent: Vec<bool> = pings
                .iter()
                .filter(|p| p.sent_ns > from && p.sent_ns < due)
                .map(|p| p.answered_ns.is_some())
                .collect();
            let last = &recent[recent.len().saturating_sub(WINDOW)..];
            let answered = last.iter().filter(|answered| **answered).count();
            best = best.max(answered);
            Ok((answered + 5 >= WINDOW).then_some(()))
        })
        .with_context(|| format!("at best {best} of {WINDOW} pings were answered"))
    }

    /// Sums up the pings sent since then, but for those of the last second, whose answers may be under way.
    pub fn summary_since(&self, from_ns: u64) -> Result<Summary> {
        let due = clock::now_ns().saturating_sub(1_000_000_000);
        let pings = self
            .pings
            .lock()
            .map_err(|_| anyhow!("the pinger panicked"))?;
        let first = pings.partition_point(|p| p.sent_ns < from_ns);
        let end = pings.partition_point(|p| p.sent_ns < due);
        Ok(sum_up(pings.get(first..end).unwrap_or_default()))
    }

    /// A line for each ping, for whoever looks into a loss: when it was sent (ms), and how long it took.
    pub fn log(&self) -> String {
        let Ok(pings) = self.pings.lock() else {
            return String::new();
        };
        let line = |p: &Ping| {
            let took = p.answered_ns.map_or("lost".into(), |at| {
                format!("{:.1}", clock::ms(at.saturating_sub(p.sent_ns)))
            });
            format!("{:.1} {took}\n", clock::ms(p.sent_ns))
        };
        pings.iter().map(line).collect()
    }

    /// Stops sending, waits for answers under way, and sums up.
    pub fn finish(&mut self) -> Result<Summary> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_| anyhow!("a thread of the pinger panicked"))?;
        }
        let pings = self
            .pings
            .lock()
            .map_err(|_| anyhow!("the pinger panicked"))?;
        Ok(sum_up(&pings))
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn sum_up(pings: &[Ping]) -> Summary {
    let mut answers: Vec<u64> = pings.iter().filter_map(|p| p.answered_ns).collect();
    answers.sort_unstable();
    let gap = answers.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
    let mut times: Vec<u64> = pings
        .iter()
        .filter_map(|p| Some(p.answered_ns?.saturating_sub(p.sent_ns)))
        .collect();
    times.sort_unstable();
    Summary {
        sent: pings.len(),
        lost: pings.len() - answers.len(),
        longest_gap: Duration::from_nanos(gap),
        median: Duration::from_nanos(times.get(times.len() / 2).copied().unwrap_or(0)),
    }
}

fn send_all(
    fd: &OwnedFd,
    target: Ipv4Addr,
    ident: u16,
    size: usize,
    pings: &Mutex<Vec<Ping>>,
    stop: &AtomicBool,
) {
    let address = SockaddrIn::from(std::net::SocketAddrV4::new(target, 0));
    let start = Instant::now();
    let mut number = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let packet = echo_request(ident, number, size);
        if let Ok(mut list) = pings.lock() {
            list.push(Ping {
                sent_ns: clock::now_ns(),
                answered_ns: None,
            });
        }
        // A refused send (no route while ARP is open) counts as a lost ping, which it is.
        let _ = sendto(fd.as_raw_fd(), &packet, &address, MsgFlags::empty());
        number += 1;
        std::thread::sleep((start + PERIOD * number).saturating_duration_since(Instant::now()));
    }
}

/// The whole number travels in the payload: the 16 bits of the header wrap after eleven minutes.
fn echo_request(ident: u16, number: u32, size: usize) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0];
    packet.extend_from_slice(&ident.to_be_bytes());
    packet.extend_from_slice(&(number as u16).to_be_bytes());
    packet.extend_from_slice(&number.to_be_bytes());
    packet.resize(8 + size.max(4), 0x5a);
    let sum = packet.chunks(2).fold(0_u32, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    packet[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    packet
}

fn receive_all(fd: &OwnedFd, ident: u16, pings: &Mutex<Vec<Ping>>, stop: &AtomicBool) {
    let mut stopped: Option<Instant> = None;
    let mut buffer = vec![0_u8; 10_000];
    // Two more seconds after the last was sent: a late answer is not a lost one.
    while stopped.is_none_or(|at| at.elapsed() < Duration::from_secs(2)) {
        if stopped.is_none() && stop.load(Ordering::Relaxed) {
            stopped = Some(Instant::now());
        }
        let Ok(length) = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) else {
            continue;
        };
        let now = clock::now_ns();
        let Some(number) = parse_reply(&buffer[..length], ident) else {
            continue;
        };
        if let Ok(mut list) = pings.lock() {
            if let Some(ping) = list.get_mut(number as usize) {
                ping.answered_ns.get_or_insert(now);
            }
            if stopped.is_some() && list.iter().all(|p| p.answered_ns.is_some()) {
                return;
            }
        }
    }
}

fn parse_reply(packet: &[u8], ident: u16) -> Option<u32> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let icmp = packet.get(header..)?;
    let ours = icmp.first()? == &0 && icmp.get(4..6)? == ident.to_be_bytes();
    ours.then_some(())?;
    Some(u32::from_be_bytes(icmp.get(8..12)?.try_into().ok()?))
}
