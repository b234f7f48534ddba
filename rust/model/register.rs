// SPDX-License-Identifier: GPL-2.0

//! Rows of an adapter's register table.

/// What accesses to a register do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads back what was written, or what the device made of it.
    ReadWrite,
    /// Writes are lost.
    ReadOnly,
    /// Reads as 0.
    WriteOnly,
    /// A read changes it.
    ReadClears,
    /// Writing ones changes it.
    WriteClears,
}

/// One register, or the same register of every queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// The datasheet's name.
    pub name: &'static str,
    /// Byte offset in BAR 0, of the first one.
    pub at: u32,
    /// How many there are.
    pub count: u32,
    /// Bytes from one to the next.
    pub stride: u32,
    /// What accesses do.
    pub access: Access,
    /// Value after a reset.
    pub reset: u32,
}
