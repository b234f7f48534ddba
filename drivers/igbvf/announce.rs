// SPDX-License-Identifier: GPL-2.0

//! Frames that say nothing but where the guest is now.

use model::adapter::Io;
use model::image::{Full, Writer};

use crate::control::Mac;
use crate::Igbvf;

/// Bytes of a RARP frame with a VLAN tag.
const RARP_BYTES: usize = 14 + 28 + 4;

impl Igbvf {
    /// Sends one untagged and one to each VLAN of the guest.
    pub(crate) fn send_announcements(&mut self, io: &mut Io<'_>) {
        let Some(mac) = self.control.mac() else {
            return;
        };
        let queues = self.tx.iter_mut().enumerate();
        let Some((q, tx)) = queues.into_iter().find(|(_, tx)| tx.is_mirror_on()) else {
            return;
        };
        // VLAN 0 is no VLAN.
        let tagged = self.control.vlans().filter(|vid| *vid != 0).map(Some);
        for vid in core::iter::once(None).chain(tagged) {
            let mut frame = [0; RARP_BYTES];
            let bytes = rarp(mac, vid, &mut frame)
                .ok()
                .and_then(|len| frame.get(..len));
            if let Some(bytes) = bytes {
                tx.send(q, io.mirror, bytes);
            }
        }
        tx.kick(q, io.hw);
    }
}

/// A RARP frame from `mac`, which says nothing but where it is: bytes of it.
fn rarp(mac: Mac, vid: Option<u16>, frame: &mut [u8; RARP_BYTES]) -> Result<usize, Full> {
    let mut w = Writer::new(frame);
    w.put_bytes(&[0xff; 6])?;
    w.put_bytes(&mac)?;
    if let Some(vid) = vid {
        w.put_bytes(&[0x81, 0x00])?;
        w.put_bytes(&vid.to_be_bytes())?;
    }
    // RARP; Ethernet, IPv4, their lengths, "request reverse".
    w.put_bytes(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3])?;
    for _ in 0..2 {
        w.put_bytes(&mac)?;
        w.put_bytes(&[0; 4])?;
    }
    Ok(w.written())
}
