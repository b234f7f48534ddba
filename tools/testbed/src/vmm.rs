// SPDX-License-Identifier: GPL-2.0
//! A VMM without a virtual machine: what QEMU does with VFIO, by raw ioctls, and a small guest driver for the 82576 VF.
//!
//! It does what QEMU never would, at the moment it wants, and needs no L2: a scenario takes seconds.

pub mod container;
pub mod device;
pub mod guest;
pub mod image;
pub mod logging;
pub mod mailbox;
pub mod memory;
pub mod migration;
pub mod odd;
pub mod traffic;
pub mod vcpu;

use anyhow::{Context, Result};

use container::Container;
use device::{Device, Mapping, BAR_BYTES};
use memory::{Memory, PAGE};

/// RAM of a test machine, mapped at IOVA 0.
pub const RAM_BYTES: usize = 64 << 20;

/// A VF in a container of its own. The device goes first when both are dropped, as in a process that exits.
pub struct Machine {
    pub device: Device,
    pub container: Container,
}

impl Machine {
    /// Opens the VF with all of `memory` mapped from IOVA 0.
    pub fn open(bdf: &str, memory: &Memory) -> Result<Self> {
        let container = Container::open(bdf)?;
        container
            .map(0, memory.address(0), memory.len())
            .context("cannot map memory")?;
        Self::in_container(bdf, container)
    }

    /// Opens the VF with what the container has mapped.
    pub fn in_container(bdf: &str, container: Container) -> Result<Self> {
        Ok(Self {
            device: Device::open(&container, bdf)?,
            container,
        })
    }
}

/// Where [`Machine::map_bar`] maps BAR 0.
pub const BAR_IOVA: u64 = 8 << 30;

impl Machine {
    /// Makes the VF's own BAR 0, but for the control page, reachable for its DMA, as QEMU does for peers.
    pub fn map_bar(&self) -> Result<Mapping> {
        let part = PAGE..BAR_BYTES;
        let bar = self.device.map(part.clone())?;
        self.container
            .map(BAR_IOVA + part.start as u64, bar.address(), part.len())
            .context("cannot map the BAR")?;
        Ok(bar)
    }
}

/// Random numbers that a seed repeats (xorshift64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }
}
