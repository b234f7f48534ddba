// SPDX-License-Identifier: GPL-2.0

//! What a VF has asked its PF for, as Linux's igb takes it.

use crate::pf::{words, Mac, MAX_FRAME};

const MTA: u32 = 0x5200;
const RAL: u32 = 0x5400;
const VFTA: u32 = 0x5600;
const VMOLR: u32 = 0x5ad0;
const VLVF: u32 = 0x5d00;

/// VMOLR: long frames, untagged frames, by hash, broadcasts, all multicasts, tags removed.
const LPE: u32 = 1 << 16;
const AUPE: u32 = 1 << 24;
const ROMPE: u32 = 1 << 25;
const BAM: u32 = 1 << 27;
const MPME: u32 = 1 << 28;
const STRVLAN: u32 = 1 << 30;
const RLPML: u32 = 0x3fff;

/// What the VF has asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// It has said VF_RESET since it was reset.
    pub(crate) cts: bool,
    pub(crate) mac: Option<Mac>,
    filters: Vec<Mac>,
    vlans: Vec<u16>,
    hashes: Vec<u16>,
    all_multicast: bool,
    strip: bool,
    /// RLPML and LPE.
    longest: u32,
}

impl Asked {
    /// The VF was reset: what igb still knows of it.
    pub(crate) fn reset(&mut self) {
        *self = Self {
            longest: self.longest,
            filters: std::mem::take(&mut self.filters),
            ..Self::default()
        };
    }

    /// VF_RESET: the address stays as well.
    pub(crate) fn start(&mut self) {
        let mac = self.mac;
        self.reset();
        (self.cts, self.strip, self.mac) = (true, true, mac);
    }

    /// A message of the VF: whether the answer is yes.
    pub(crate) fn ask(&mut self, message: &[u32]) -> bool {
        let info = message[0] >> 16 & 0xff;
        let mac = || {
            let (lo, hi) = (message[1].to_le_bytes(), message[2].to_le_bytes());
            [lo[0], lo[1], lo[2], lo[3], hi[0], hi[1]]
        };
        let good = |mac: Mac| mac[0] & 1 == 0 && mac != [0; 6];
        match (message[0] & 0xff, info) {
            (2, _) if !good(mac()) => return false,
            (2, 0) => self.mac = Some(mac()),
            (2, 1) => self.filters.clear(),
            (2, 2) if self.filters.contains(&mac()) => {}
            (2, 2) if self.filters.len() < 3 => self.filters.push(mac()),
            (3, n) => {
                let hashes = message[1..]
                    .iter()
                    .flat_map(|word| [*word as u16, (word >> 16) as u16]);
                self.hashes = hashes.take(n as usize).collect();
            }
            (4, 0) if message[1] == 0 => {}
            (4, add) => {
                let vid = message[1] as u16;
                self.vlans.retain(|other| *other != vid);
                if add != 0 && self.vlans.len() == 8 {
                    return false;
                }
                if add != 0 {
                    self.vlans.push(vid);
                }
                self.strip = vid != 0;
            }
            (5, _) => self.longest = message[1].min(MAX_FRAME) & RLPML | LPE,
            (6, info) => {
                self.all_multicast = info & 2 != 0;
                return info & !2 == 0;
            }
            _ => return false,
        }
        true
    }

    /// What the VF has asked for, as registers and their values.
    pub(crate) fn registers(&self) -> Vec<(u32, u32)> {
        let mut asked = self.clone();
        asked.vlans.sort_unstable();
        asked.filters.sort_unstable();
        let mut all = Vec::new();
        let macs = asked.mac.iter().chain(&asked.filters).copied();
        for (n, mac) in macs.map(Some).chain([None; 5]).take(5).enumerate() {
            let at = RAL + 8 * (1 + n as u32);
            let (lo, hi) = mac.map_or((0, 0), words);
            let valid = if mac.is_some() { 1 << 31 | 1 << 18 } else { 0 };
            all.extend([(at, lo), (at + 4, hi | valid)]);
        }
        let mut mta = [0; 128];
        for hash in &asked.hashes {
            mta[usize::from(hash >> 5 & 0x7f)] |= 1 << (hash & 0x1f);
        }
        all.extend((0..128).map(|n| (MTA + 4 * n, mta[n as usize])));
        let mut vfta = [0; 128];
        for vid in &asked.vlans {
            vfta[usize::from(vid >> 5 & 0x7f)] |= 1 << (vid & 0x1f);
        }
        all.extend((0..128).map(|n| (VFTA + 4 * n, vfta[n as usize])));
        for n in 0..8 {
            let val = asked.vlans.get(n as usize);
            let val = val.map_or(0, |vid| u32::from(*vid) | 1 << 12 | 1 << 31);
            all.push((VLVF + 4 * n, val));
        }
        let mut vmolr = AUPE | BAM | asked.longest;
        for (is, bits) in [
            (!asked.hashes.is_empty(), ROMPE),
            (asked.all_multicast, MPME),
            (asked.strip, STRVLAN),
        ] {
            vmolr |= if is { bits } else { 0 };
        }
        all.push((VMOLR, vmolr));
        all
    }
}
