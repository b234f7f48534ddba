// SPDX-License-Identifier: GPL-2.0

//! Configuration space: what firmware and a PCI core do until the PF and its first VF can be used.

use crate::qtest::Qtest;

/// Where configuration space is mapped.
const ECAM: u64 = 0xb000_0000;
/// BAR 0 of the PF: registers.
pub const PF: u64 = 0xc000_0000;
/// BAR 3 of the PF: MSI-X table.
const PF_MSIX: u64 = 0xc004_0000;
/// BAR 0 of the VF: registers.
pub const VF: u64 = 0xc010_0000;
/// BAR 3 of the VF: MSI-X table.
const VF_MSIX: u64 = 0xc011_0000;
/// Vectors of the VF.
pub const VECTORS: usize = 3;
/// Where the message of vector 0 goes: plain memory, so a message leaves a trace. The others follow.
pub const MESSAGES: u64 = 0x20_0000;

const PORT: Function = Function(1 << 15);
const PF_FUNCTION: Function = Function(1 << 20);
/// First VF Offset is 0x80.
const VF_FUNCTION: Function = Function(1 << 20 | 0x80 << 12);

const COMMAND: u32 = 0x04;
const COMMAND_MEMORY_MASTER: u32 = 6;
/// Capability of the VF: MSI-X.
const MSIX: u32 = 0x70;
const MSIX_ENABLE: u32 = 1 << 31;
/// Capability of the VF: PCIe.
const VF_PCIE: u32 = 0xa0;
const FLR: u32 = 1 << 15;
const SRIOV: u32 = 0x10;

/// A function, by its offset in the mapped configuration space.
#[derive(Clone, Copy)]
struct Function(u64);

impl Function {
    fn read(self, qtest: &mut Qtest, at: u32) -> u32 {
        qtest.read32(ECAM + self.0 + u64::from(at))
    }

    fn write(self, qtest: &mut Qtest, at: u32, val: u32) {
        qtest.write32(ECAM + self.0 + u64::from(at), val);
    }

    /// Finds an extended capability.
    fn extended(self, qtest: &mut Qtest, id: u32) -> u32 {
        let mut at = 0x100;
        for _ in 0..32 {
            let head = self.read(qtest, at);
            if head & 0xffff == id {
                return at;
            }
            at = head >> 20;
        }
        panic!("no extended capability {id:#x}");
    }
}

/// Makes PF and VF reachable.
pub fn set_up(qtest: &mut Qtest) {
    // PCIEXBAR of the host bridge: from here on all of configuration space is mapped.
    for (at, val) in [(0x64, 0), (0x60, ECAM as u32 | 1)] {
        qtest.out32(0xcf8, 1 << 31 | at);
        qtest.out32(0xcfc, val);
    }
    // The port: bus 1, one window, and functions beyond 7 on its only device (ARI).
    PORT.write(qtest, 0x18, 0x0001_0100);
    PORT.write(qtest, 0x20, 0xc01f_c000);
    PORT.write(qtest, 0x24, 0x0001_fff1);
    PORT.write(qtest, COMMAND, COMMAND_MEMORY_MASTER);
    assert_eq!(PF_FUNCTION.read(qtest, 0), 0x10c9_8086);
    PF_FUNCTION.write(qtest, 0x10, PF as u32);
    PF_FUNCTION.write(qtest, 0x1c, PF_MSIX as u32);
    PF_FUNCTION.write(qtest, COMMAND, COMMAND_MEMORY_MASTER);
    let sriov = PF_FUNCTION.extended(qtest, SRIOV);
    PF_FUNCTION.write(qtest, sriov + 0x10, 1);
    PF_FUNCTION.write(qtest, sriov + 0x24, VF as u32);
    PF_FUNCTION.write(qtest, sriov + 0x28, 0);
    PF_FUNCTION.write(qtest, sriov + 0x30, VF_MSIX as u32);
    PF_FUNCTION.write(qtest, sriov + 0x34, 0);
    // VF Enable, VF MSE, ARI.
    PF_FUNCTION.write(qtest, sriov + 8, 0x19);
    set_up_vf(qtest);
}

/// Gives the VF what a reset takes: bus master, MSI-X and its table.
fn set_up_vf(qtest: &mut Qtest) {
    VF_FUNCTION.write(qtest, COMMAND, COMMAND_MEMORY_MASTER);
    for vector in 0..VECTORS as u64 {
        let entry = VF_MSIX + 16 * vector;
        qtest.write32(entry, (MESSAGES + 4 * vector) as u32);
        qtest.write32(entry + 4, 0);
        qtest.write32(entry + 8, 1 + vector as u32);
        qtest.write32(entry + 12, 0);
    }
    VF_FUNCTION.write(qtest, MSIX, MSIX_ENABLE);
}

/// Resets the VF as VFIO does (FLR), and gives back what its VMM keeps.
pub fn reset_vf(qtest: &mut Qtest) {
    let control = VF_FUNCTION.read(qtest, VF_PCIE + 8);
    VF_FUNCTION.write(qtest, VF_PCIE + 8, control & 0xffff | FLR);
    set_up_vf(qtest);
}
