// SPDX-License-Identifier: GPL-2.0
//! The mailbox between a VF and its PF, from the VF's side.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use super::device::Device;
use super::guest::Mac;

const CTRL: usize = 0x0000;
const VMBMEM: usize = 0x0800;
const V2PMAILBOX: usize = 0x0c40;

const CTRL_RST: u32 = 1 << 26;
// V2PMAILBOX
const REQ: u32 = 1 << 0;
const ACK: u32 = 1 << 1;
const VFU: u32 = 1 << 2;
const PFSTS: u32 = 1 << 4;
const RSTI: u32 = 1 << 6;
const RSTD: u32 = 1 << 7;
// Messages
const VF_RESET: u32 = 1;
const SET_MAC_ADDR: u32 = 2;
pub const SET_MULTICAST: u32 = 3;
pub const SET_VLAN: u32 = 4;
pub const SET_LPE: u32 = 5;
const MSG_ACK: u32 = 1 << 31;

const MAILBOX_LIMIT: Duration = Duration::from_secs(5);
const RESET_TRIES: u32 = 3;

impl Device {
    /// Starts the VF anew for its PF: the address that it has then, which is `wanted` if no administrator wants another.
    pub fn reset_vf(&self, wanted: Mac) -> Result<Mac> {
        // The PF may serve the event of the reset after the message: then there is no answer, and one asks again.
        let mut last = None;
        for _ in 0..RESET_TRIES {
            self.write32(CTRL, CTRL_RST)?;
            self.poll("the PF to be ready", |v2p| v2p & (RSTI | RSTD) == 0)?;
            std::thread::sleep(Duration::from_millis(10));
            match self.exchange(&[VF_RESET]) {
                Ok([answer, lo, hi]) if answer & MSG_ACK != 0 => {
                    return Ok(mac_of(lo, hi));
                }
                Ok(_) => {
                    let (lo, hi) = words_of(wanted);
                    return self.ask(&[SET_MAC_ADDR, lo, hi]).map(|()| wanted);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no try")?)
    }

    /// A message that the PF has to accept.
    pub fn ask(&self, message: &[u32]) -> Result<()> {
        let [answer, ..] = self.exchange(message)?;
        ensure!(
            answer & MSG_ACK != 0,
            "the PF refused message {:#x}: {answer:#x}",
            message[0]
        );
        Ok(())
    }

    fn exchange(&self, message: &[u32]) -> Result<[u32; 3]> {
        let start = Instant::now();
        loop {
            self.write32(V2PMAILBOX, VFU)?;
            if self.read32(V2PMAILBOX)? & VFU != 0 {
                break;
            }
            ensure!(start.elapsed() < MAILBOX_LIMIT, "the PF keeps the mailbox");
            std::thread::sleep(Duration::from_millis(1));
        }
        for (index, word) in message.iter().enumerate() {
            self.write32(VMBMEM + 4 * index, *word)?;
        }
        self.write32(V2PMAILBOX, REQ)?;
        let mut reply = [0; 3];
        loop {
            self.poll("the PF to answer", |v2p| v2p & PFSTS != 0)?;
            self.write32(V2PMAILBOX, VFU)?;
            for (index, word) in reply.iter_mut().enumerate() {
                *word = self.read32(VMBMEM + 4 * index)?;
            }
            self.write32(V2PMAILBOX, ACK)?;
            // Not a message of the PF's own.
            if reply[0] & 0xff == message[0] & 0xff {
                return Ok(reply);
            }
        }
    }

    fn poll(&self, what: &str, mut done: impl FnMut(u32) -> bool) -> Result<()> {
        let start = Instant::now();
        while !done(self.read32(V2PMAILBOX)?) {
            if start.elapsed() > MAILBOX_LIMIT {
                bail!("waited in vain for {what}");
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }
}

fn words_of([a, b, c, d, e, f]: Mac) -> (u32, u32) {
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, 0, 0]),
    )
}

fn mac_of(lo: u32, hi: u32) -> Mac {
    let ([a, b, c, d], [e, f, ..]) = (lo.to_le_bytes(), hi.to_le_bytes());
    [a, b, c, d, e, f]
}
