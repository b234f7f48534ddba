// SPDX-License-Identifier: GPL-2.0
//! The open fault of the emulated SVM that guests run on: rarely one of them is entered with the registers of L1, see
//! Documentation/testing.md. A scenario that it ended says so.

use std::fs;
use std::path::Path;

use crate::l2::RAM_MIB;

/// How such a failure begins.
pub const BROKE: &str = "the emulated SVM has given a guest the registers of its host";

/// Whether one of the guests whose logs are in `folder` has met it.
pub fn broke_a_guest(folder: &Path) -> bool {
    let logs = fs::read_dir(folder).into_iter().flatten().flatten();
    logs.map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with("-qemu.log"))
        .any(|path| broke(&fs::read_to_string(path).unwrap_or_default()))
}

/// Whether KVM has given a guest up whose page tables are where it has no memory: by what its QEMU said.
fn broke(log: &str) -> bool {
    let Some((_, registers)) = log.split_once("KVM internal error. Suberror: 3") else {
        return false;
    };
    let cr3 = registers
        .split_once("CR3=")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|digits| u64::from_str_radix(digits, 16).ok());
    cr3.is_some_and(|at| at >= RAM_MIB << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(suberror: u32, cr3: &str) -> String {
        format!(
            "qemu: warning: something\nKVM internal error. Suberror: {suberror}\nextra data[0]: 0x0\n\
             RAX=0000000000000000 RBX=0000000000000000\nCR0=80050033 CR2=0000000000000000 CR3={cr3} CR4=000006f0\n"
        )
    }

    #[test]
    fn a_guest_is_broken_that_has_its_hosts_page_tables() {
        assert!(broke(&dump(3, "0000000103456000")));
    }

    #[test]
    fn any_other_end_of_a_guest_is_its_own() {
        assert!(
            !broke(&dump(3, "0000000003456000")),
            "page tables of its own"
        );
        assert!(
            !broke(&dump(1, "0000000103456000")),
            "an instruction that cannot be emulated"
        );
        assert!(!broke("qemu-system-x86_64: terminating on signal 15"));
        assert!(
            !broke("KVM internal error. Suberror: 3"),
            "a log that was cut off"
        );
    }
}
