// SPDX-License-Identifier: GPL-2.0
//! DMA logging: the pages that the device itself says it wrote.

use anyhow::{Context, Result};
use vfio_bindings::bindings::vfio;

use super::device::Device;
use super::memory::PAGE;

impl Device {
    /// Whether the device logs: only on a kernel that can report what was logged.
    pub fn can_log(&self) -> bool {
        let flags = vfio::VFIO_DEVICE_FEATURE_PROBE
            | vfio::VFIO_DEVICE_FEATURE_SET
            | vfio::VFIO_DEVICE_FEATURE_DMA_LOGGING_START;
        let mut control = vfio::vfio_device_feature_dma_logging_control::default();
        // SAFETY: The payload of this feature.
        unsafe { self.feature(flags, &mut control) }.is_ok()
    }

    /// Logs writes to all of these ranges: where each begins, and its bytes.
    pub fn start_logging(&self, ranges: &[(u64, u64)]) -> nix::Result<()> {
        let ranges: Vec<_> = ranges
            .iter()
            .map(
                |(iova, length)| vfio::vfio_device_feature_dma_logging_range {
                    iova: *iova,
                    length: *length,
                },
            )
            .collect();
        let mut control = vfio::vfio_device_feature_dma_logging_control {
            page_size: PAGE as u64,
            num_ranges: ranges.len() as u32,
            __reserved: 0,
            ranges: ranges.as_ptr() as u64,
        };
        let flags = vfio::VFIO_DEVICE_FEATURE_SET | vfio::VFIO_DEVICE_FEATURE_DMA_LOGGING_START;
        // SAFETY: The payload of this feature; it points to as many ranges as it says.
        unsafe { self.feature(flags, &mut control) }
    }

    pub fn stop_logging(&self) -> nix::Result<()> {
        let flags = vfio::VFIO_DEVICE_FEATURE_SET | vfio::VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP;
        // SAFETY: This feature has no payload, and ignores that there is one.
        unsafe { self.feature(flags, &mut 0_u64) }
    }

    /// The pages of the first `len` bytes that were written since they were asked for last.
    pub fn logged_pages(&self, len: usize) -> Result<Vec<usize>> {
        let pages = len / PAGE;
        let mut bitmap = vec![0_u64; pages.div_ceil(64)];
        let mut report = vfio::vfio_device_feature_dma_logging_report {
            iova: 0,
            length: len as u64,
            page_size: PAGE as u64,
            bitmap: bitmap.as_mut_ptr() as u64,
        };
        let flags = vfio::VFIO_DEVICE_FEATURE_GET | vfio::VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT;
        // SAFETY: The payload of this feature; its bitmap has a bit for every page of the range.
        unsafe { self.feature(flags, &mut report) }.context("no report of what was logged")?;
        Ok(marked(&bitmap, pages))
    }
}

/// The pages whose bit is set.
pub fn marked(bitmap: &[u64], pages: usize) -> Vec<usize> {
    (0..pages)
        .filter(|page| bitmap[page / 64] >> (page % 64) & 1 != 0)
        .collect()
}
