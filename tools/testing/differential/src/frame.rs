// SPDX-License-Identifier: GPL-2.0

//! Ethernet frames, from what a test wants of them.

use crate::pf::Mac;

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Mac(Mac),
    Broadcast,
    /// A group, by the last bits of its address.
    Group(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No protocol that the hardware knows.
    Raw,
    /// The PF's own, see `Pf::mark_received`.
    Marker,
    Ip4(L4),
    Ip6(L4),
}

/// What is in an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    Tcp,
    Udp,
    Other,
}

/// A frame, without its CRC.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub to: To,
    /// End of the source address.
    pub from: u8,
    /// An inline VLAN tag.
    pub vlan: Option<u16>,
    pub kind: Kind,
    /// Bytes, if that is not less than its headers.
    pub len: usize,
    /// What its content is made from.
    pub number: u32,
    /// Which queue it is for, where the PF spreads frames.
    pub queue: u8,
    /// Its TCP or UDP checksum is wrong.
    pub bad_sum: bool,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            to: To::Broadcast,
            from: 1,
            vlan: None,
            kind: Kind::Raw,
            len: 60,
            number: 0,
            queue: 0,
            bad_sum: false,
        }
    }
}

const ETHER_BYTES: usize = 14;
const TAG_BYTES: usize = 4;

impl Frame {
    fn l3(&self) -> Option<(usize, L4)> {
        match self.kind {
            Kind::Raw => None,
            Kind::Marker => Some((20, L4::Udp)),
            Kind::Ip4(l4) => Some((20, l4)),
            Kind::Ip6(l4) => Some((40, l4)),
        }
    }

    /// Bytes of the headers down to IP.
    pub fn l3_len(&self) -> usize {
        let tag = self.vlan.map_or(0, |_| TAG_BYTES);
        ETHER_BYTES + tag + self.l3().map_or(0, |(bytes, _)| bytes)
    }

    /// Bytes of its headers.
    pub fn header_len(&self) -> usize {
        let l4 = match self.l3() {
            Some((_, L4::Tcp)) => 20,
            Some((_, L4::Udp)) => 8,
            _ => 0,
        };
        self.l3_len() + l4
    }

    /// Whether the hardware finds headers in it that it can split off.
    pub fn is_ip(&self) -> bool {
        self.l3().is_some()
    }

    /// Where a frame of the PF's own is in the table that spreads frames, see `Pf::start_filters`.
    pub fn rss_place(&self) -> u32 {
        // 200 is 11001000: bits 1, 2 and 5, first bit first.
        0x26
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = match self.to {
            To::Mac(mac) => mac.to_vec(),
            To::Broadcast => vec![0xff; 6],
            To::Group(last) => vec![1, 0, 0x5e, 0, last, last],
        };
        frame.extend([0x52, 0x54, 0, 0xfe, 0, self.from]);
        if let Some(tag) = self.vlan {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        let rest = self.len.max(self.header_len()) - frame.len() - 2;
        match self.kind {
            Kind::Raw => {
                frame.extend([0x88, 0xb5]);
                frame.extend(self.content(rest));
            }
            Kind::Marker | Kind::Ip4(_) => {
                frame.extend([8, 0]);
                frame.extend(self.ip4(rest));
            }
            Kind::Ip6(_) => {
                frame.extend([0x86, 0xdd]);
                frame.extend(self.ip6(rest));
            }
        }
        frame
    }

    fn content(&self, len: usize) -> Vec<u8> {
        let mut all: Vec<u8> = self.number.to_be_bytes().to_vec();
        all.extend((4..len.max(4)).map(|i| (i as u32 * 7 + (i as u32 >> 8) + self.number) as u8));
        all.truncate(len);
        all
    }

    fn ip4(&self, len: usize) -> Vec<u8> {
        let source = [10, self.from, 0, 2 | self.queue];
        let target = match self.kind {
            Kind::Marker => [200, 0, 0, 1],
            _ => [10, 0, 0, 1],
        };
        let mut header = vec![0x45, 0];
        header.extend((len as u16).to_be_bytes());
        header.extend((self.number as u16).to_be_bytes());
        header.extend([0x40, 0, 64, self.protocol(), 0, 0]);
        header.extend(source);
        header.extend(target);
        let sum = fold(sum(0, &header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let body = self.l4(&[source, target].concat(), len - 20);
        [header, body].concat()
    }

    fn ip6(&self, len: usize) -> Vec<u8> {
        // The end of the fourth byte says which queue it is for.
        let mut source = [0; 16];
        source[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8 | self.queue]);
        source[15] = self.from;
        let mut target = source;
        target[15] = 0xff;
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(((len - 40) as u16).to_be_bytes());
        header.extend([self.protocol(), 64]);
        header.extend(source);
        header.extend(target);
        let body = self.l4(&[source, target].concat(), len - 40);
        [header, body].concat()
    }

    fn protocol(&self) -> u8 {
        match self.l3() {
            Some((_, L4::Tcp)) => 6,
            Some((_, L4::Udp)) => 17,
            _ => 253,
        }
    }

    /// What follows the IP header, in `len` bytes; `addresses` are part of its checksum.
    fn l4(&self, addresses: &[u8], len: usize) -> Vec<u8> {
        let ports = [0x10, self.from, 0x20, 1];
        let number = self.number.to_be_bytes();
        let (mut body, at) = match self.protocol() {
            6 => {
                let mut header = ports.to_vec();
                header.extend(number);
                header.extend([0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
                (header, Some(16))
            }
            17 => {
                let mut header = ports.to_vec();
                header.extend((len as u16).to_be_bytes());
                header.extend([0, 0]);
                (header, Some(6))
            }
            _ => (Vec::new(), None),
        };
        body.extend(self.content(len - body.len()));
        if let Some(at) = at {
            let pseudo = sum(u32::from(self.protocol()) + len as u32, addresses);
            let sum = fold(sum(pseudo, &body)).wrapping_add(self.bad_sum.into());
            body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        body
    }
}

fn sum(start: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(start, |sum, pair| {
        sum + u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0))
    })
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    !(((once & 0xffff) + (once >> 16)) as u16)
}
