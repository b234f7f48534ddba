// SPDX-License-Identifier: GPL-2.0
//! Frames between the guest and a peer on the same segment: each has a number, and bytes that follow from it.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    recv, send, socket, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType,
};

use super::guest::{Guest, Mac};
use super::Random;
use crate::{command, namespace};

/// For local experiments: nobody else on the segment speaks it.
const ETHERTYPE: u16 = 0x88b5;
const HEADER_BYTES: usize = 18;
const LENGTHS: [usize; 6] = [60, 64, 300, 1023, 1100, 1514];
/// On their way at a time, each way: less than a ring.
const WINDOW: usize = 24;
/// Then what is missing is sent again.
const STALL: Duration = Duration::from_secs(2);
const STALLS: u32 = 10;

/// The NIC of the client, as a source and a sink of frames.
pub struct Peer {
    socket: OwnedFd,
    mac: Mac,
}

impl Peer {
    pub fn open(netdev: &str) -> Result<Self> {
        let netdev = netdev.to_owned();
        namespace::within(move || {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                None::<SockProtocol>,
            )
            .context("no packet socket")?;
            let index = nix::net::if_::if_nametoindex(netdev.as_str())?;
            let address = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as u16,
                sll_protocol: ETHERTYPE.to_be(),
                sll_ifindex: index as i32,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            // SAFETY: The address is one of a packet socket, and as long as is said.
            let bound = unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    (&raw const address).cast(),
                    size_of_val(&address) as u32,
                )
            };
            Errno::result(bound).context("cannot bind to the client's NIC")?;
            // /sys shows the namespace that it was mounted in, not this one.
            let line = command::run(&format!("ip -br link show dev {netdev}"))?;
            let mac = line.split_whitespace().nth(2).and_then(parse_mac);
            Ok(Self {
                socket,
                mac: mac.context("the client's NIC has no address")?,
            })
        })
    }

    pub fn send(&self, frame: &[u8]) -> Result<()> {
        match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
            // A full queue loses frames, as a network may.
            Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(error).context("the client cannot send"),
        }
    }

    fn receive(&self) -> Result<Option<Vec<u8>>> {
        let mut frame = vec![0; 2048];
        match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(length) => {
                frame.truncate(length);
                Ok(Some(frame))
            }
            Err(Errno::EAGAIN | Errno::ENETDOWN) => Ok(None),
            Err(error) => Err(error).context("the client cannot receive"),
        }
    }

    /// The frame of a number to the guest.
    pub fn frame_to(&self, guest: Mac, number: u32) -> Vec<u8> {
        frame(guest, self.mac, number)
    }
}

/// Numbers that no earlier frame had.
pub fn new_numbers(count: usize) -> std::ops::Range<u32> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let first = NEXT.fetch_add(count as u32, Ordering::Relaxed);
    first..first + count as u32
}

fn frame(to: Mac, from: Mac, number: u32) -> Vec<u8> {
    let mut random = Random::new(u64::from(number) << 20 | 1);
    let mut frame = Vec::with_capacity(1514);
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&from);
    frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
    frame.extend_from_slice(&number.to_be_bytes());
    let length = LENGTHS[random.below(LENGTHS.len())];
    frame.extend((HEADER_BYTES..length).map(|_| random.number() as u8));
    frame
}

/// The number of one of our frames, which must be whole; strangers have none.
pub fn number_of(bytes: &[u8]) -> Result<Option<u32>> {
    let (Some(to), Some(from)) = (bytes.first_chunk::<6>(), bytes.get(6..12)) else {
        return Ok(None);
    };
    if bytes.get(12..14) != Some(&ETHERTYPE.to_be_bytes()) {
        return Ok(None);
    }
    let number = bytes
        .get(14..HEADER_BYTES)
        .and_then(|n| n.try_into().ok())
        .map(u32::from_be_bytes)
        .context("a frame without a number")?;
    if bytes != frame(*to, from.try_into()?, number) {
        bail!("frame {number} arrived altered, with {} bytes", bytes.len());
    }
    Ok(Some(number))
}

fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    Some(mac)
}

/// One direction: what is to come, and what is under way.
struct Way {
    left: std::collections::VecDeque<u32>,
    open: BTreeSet<u32>,
}

impl Way {
    fn new(count: usize) -> Self {
        Self {
            left: new_numbers(count).collect(),
            open: BTreeSet::new(),
        }
    }

    fn is_done(&self) -> bool {
        self.left.is_empty() && self.open.is_empty()
    }

    fn next(&self) -> Option<u32> {
        (self.open.len() < WINDOW)
            .then(|| self.left.front().copied())
            .flatten()
    }

    fn sent(&mut self, number: u32) {
        self.left.pop_front();
        self.open.insert(number);
    }
}

/// Sends so many frames each way, and requires every one to arrive whole. Returns how many had to be sent again.
pub fn exchange(guest: &mut Guest<'_>, peer: &Peer, count: usize) -> Result<usize> {
    exchange_ways(guest, peer, count, count)
}

/// As [`exchange`], with a number for each way; a way without frames is not looked at.
pub fn exchange_ways(
    guest: &mut Guest<'_>,
    peer: &Peer,
    to_guest: usize,
    to_peer: usize,
) -> Result<usize> {
    let (mut down, mut up) = (Way::new(to_guest), Way::new(to_peer));
    let (mut again, mut stalls) = (0, 0);
    let mut moved = Instant::now();
    while !down.is_done() || !up.is_done() {
        let mut idle = true;
        while let Some(number) = down.next() {
            peer.send(&peer.frame_to(guest.mac, number))?;
            down.sent(number);
        }
        while let Some(number) = up.next() {
            if !guest.send(&frame(peer.mac, guest.mac, number))? {
                break;
            }
            up.sent(number);
        }
        if to_guest > 0 {
            while let Some(bytes) = guest.receive()? {
                idle &= !number_of(&bytes)?.is_some_and(|number| down.open.remove(&number));
            }
        }
        if to_peer > 0 {
            while let Some(bytes) = peer.receive()? {
                idle &= !number_of(&bytes)?.is_some_and(|number| up.open.remove(&number));
            }
        }
        if !idle {
            moved = Instant::now();
        } else if moved.elapsed() > STALL {
            stalls += 1;
            if stalls > STALLS {
                bail!(
                    "of {to_guest} frames {} did not reach the guest, of {to_peer} {} not the peer; {} slots are not sent",
                    down.left.len() + down.open.len(),
                    up.left.len() + up.open.len(),
                    guest.unsent()
                );
            }
            for way in [&mut down, &mut up] {
                again += way.open.len();
                way.left.extend(std::mem::take(&mut way.open));
            }
            moved = Instant::now();
        } else {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    Ok(again)
}

/// The guest takes what has arrived, as long as frames come.
pub fn drain(guest: &mut Guest<'_>) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    while let Some(bytes) = guest.receive()? {
        numbers.extend(number_of(&bytes)?);
    }
    Ok(numbers)
}
