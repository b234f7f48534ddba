// SPDX-License-Identifier: GPL-2.0
//! The migration image as an enemy sees it: where its parts are, and how to make its checksums right again after a change.
//! Code of its own, not that of the driver: two have to agree on the format.

use anyhow::{ensure, Context, Result};

pub const HEADER_BYTES: usize = 24;
/// Tag, version and length before the payload of a section.
pub const HEAD_BYTES: usize = 8;
pub const CRC_BYTES: usize = 4;

/// Where the header and each section end.
pub fn boundaries(image: &[u8]) -> Result<Vec<usize>> {
    ensure!(image.starts_with(b"SEMIASGN"), "this is no image");
    let mut ends = vec![HEADER_BYTES];
    let mut at = HEADER_BYTES;
    while at < image.len() {
        let length = image
            .get(at + 4..at + HEAD_BYTES)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_le_bytes)
            .context("a section without a length")?;
        at += HEAD_BYTES + length as usize + CRC_BYTES;
        ensure!(at <= image.len(), "a section goes on behind the image");
        ends.push(at);
    }
    Ok(ends)
}

/// Makes all checksums right; `ends` are the boundaries of the image before it was changed.
pub fn reseal(image: &mut [u8], ends: &[usize]) {
    let mut crc = u32::MAX;
    let mut start = 0;
    for &end in ends {
        let (body, value) = image[start..end].split_at_mut(end - start - CRC_BYTES);
        for byte in body {
            crc = (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            });
        }
        value.copy_from_slice(&(!crc).to_le_bytes());
        start = end;
    }
}
