// SPDX-License-Identifier: GPL-2.0
//! A virtual CPU that does nothing but store to a register of the VF, through KVM's own page tables.

use anyhow::{bail, Context, Result};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use super::device::Mapping;
use super::memory::{Memory, PAGE};

/// Where the VF's mapping is for the guest.
const BAR_GPA: u64 = 0x10000;
/// Stores until it halts.
pub const STORES: u32 = 1000;

pub struct Vcpu {
    vcpu: VcpuFd,
    // Freed after the machine that uses it.
    _vm: VmFd,
    _code: Memory,
}

impl Vcpu {
    /// One that stores to the register at `at` of `mapping`, in real mode.
    pub fn new(mapping: &Mapping, at: usize) -> Result<Self> {
        let vm = Kvm::new()
            .and_then(|kvm| kvm.create_vm())
            .context("no KVM")?;
        let code = Memory::new(PAGE)?;
        let register = u16::try_from(at - mapping.start())?.to_le_bytes();
        let count = STORES.to_le_bytes();
        let mut program = vec![0x66, 0xb9]; // mov ecx, STORES
        program.extend(count);
        program.extend([0x66, 0xa3]); // mov [register], eax
        program.extend(register);
        program.extend([0x66, 0x49]); // dec ecx
        program.extend([0x75, 0xf8]); // jnz to the store
        program.push(0xf4); // hlt
        program.extend([0xeb, 0xef]); // jmp to the start
        code.write(0, &program);
        for (slot, gpa, address, bytes) in [
            (0, 0, code.address(0), PAGE),
            (1, BAR_GPA, mapping.address(), mapping.len()),
        ] {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: gpa,
                memory_size: bytes as u64,
                userspace_addr: address,
            };
            // SAFETY: Both mappings outlive the machine: the code belongs to it, and the VF's to a caller that ends it first.
            unsafe { vm.set_user_memory_region(region) }.context("no memory slot")?;
        }
        let vcpu = vm.create_vcpu(0)?;
        let mut sregs = vcpu.get_sregs()?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        sregs.ds.base = BAR_GPA;
        vcpu.set_sregs(&sregs)?;
        let mut regs = vcpu.get_regs()?;
        (regs.rip, regs.rax, regs.rflags) = (0, 0, 2);
        vcpu.set_regs(&regs)?;
        Ok(Self {
            vcpu,
            _vm: vm,
            _code: code,
        })
    }

    /// Runs until it has stored [`STORES`] times.
    pub fn run(&mut self) -> Result<()> {
        match self.vcpu.run().context("the virtual CPU does not run")? {
            VcpuExit::Hlt => Ok(()),
            exit => bail!("the virtual CPU ended with {exit:?}"),
        }
    }
}
