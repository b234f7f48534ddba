// SPDX-License-Identifier: GPL-2.0
//! The parts of L1 that scenarios use: its two PFs and their VFs, driver binding, and the client behind the third NIC.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::clock::wait_for;
use crate::command::{only_entry, read, run, write};
use crate::namespace::{self, CLIENT};

const PFS: [&str; 2] = ["0000:01:00.0", "0000:02:00.0"];
const CLIENT_NIC: &str = "0000:00:06.0";

pub const CLIENT_IP: &str = "10.0.0.1";
pub const GUEST_IP: &str = "10.0.0.2";
pub const VLAN: u16 = 100;
pub const CLIENT_VLAN_IP: &str = "10.0.100.1";
pub const GUEST_VLAN_IP: &str = "10.0.100.2";

pub struct Pf {
    pub bdf: &'static str,
    pub netdev: String,
}

pub struct Host {
    pub pfs: Vec<Pf>,
    pub client_netdev: String,
}

impl Host {
    /// Loads the stock drivers, brings the PFs up and moves the third NIC into the client's namespace.
    pub fn boot() -> Result<Self> {
        let host = Self::boot_without_client()?;
        for line in [
            "link set lo up".to_owned(),
            format!("addr add {CLIENT_IP}/24 dev {}", host.client_netdev),
            format!("link set {} up", host.client_netdev),
        ] {
            namespace::run(&format!("ip {line}"))?;
        }
        Ok(host)
    }

    /// The same on a segment that has a client already: here it has no address.
    pub fn boot_without_client() -> Result<Self> {
        for module in ["igb", "virtio_net", "vfio-pci", "vfio_iommu_type1"] {
            run(&format!("modprobe {module}"))?;
        }
        let kvm = if fs::read_to_string("/proc/cpuinfo")?.contains(" vmx") {
            "kvm-intel"
        } else {
            "kvm-amd"
        };
        run(&format!("modprobe {kvm}")).context("L1 cannot run guests")?;
        let mut pfs = Vec::new();
        for bdf in PFS {
            // igb registers its netdev some time after modprobe has returned.
            let netdev = wait_for(
                &format!("the netdev of {bdf}"),
                Duration::from_secs(30),
                || only_entry(device(bdf).join("net")),
            )?;
            // A VF sends nothing while its PF is down.
            run(&format!("ip link set {netdev} up"))?;
            write(device(bdf).join("sriov_drivers_autoprobe"), "0")?;
            pfs.push(Pf { bdf, netdev });
        }
        let client_netdev = wait_for("the client's NIC", Duration::from_secs(30), || {
            let parent = fs::read_dir(device(CLIENT_NIC))?
                .flatten()
                .find(|e| e.file_name().to_string_lossy().starts_with("virtio"));
            parent.map_or(Ok(None), |parent| only_entry(parent.path().join("net")))
        })?;
        run(&format!("ip netns add {CLIENT}"))?;
        run(&format!("ip link set {client_netdev} netns {CLIENT}"))?;
        Ok(Self { pfs, client_netdev })
    }

    /// Makes `count` new VFs on each PF; old ones go, and with them all state of an earlier scenario.
    pub fn create_vfs(&self, count: usize) -> Result<()> {
        for pf in &self.pfs {
            write(device(pf.bdf).join("sriov_numvfs"), "0")?;
            write(device(pf.bdf).join("sriov_numvfs"), &count.to_string())?;
        }
        Ok(())
    }

    /// The MTU of PFs and client; igb takes a new one only with its VFs gone or knowing.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        for pf in &self.pfs {
            write(device(pf.bdf).join("sriov_numvfs"), "0")?;
            run(&format!("ip link set {} mtu {mtu}", pf.netdev))?;
        }
        namespace::run(&format!("ip link set {} mtu {mtu}", self.client_netdev))?;
        Ok(())
    }

    /// Binds a PF to its driver again, and makes it as [`boot`](Self::boot) left it.
    pub fn rebind_pf(&self, bdf: &str) -> Result<()> {
        write("/sys/bus/pci/drivers/igb/bind", bdf)?;
        let what = format!("the netdev of {bdf}");
        let netdev = wait_for(&what, Duration::from_secs(30), || {
            only_entry(device(bdf).join("net"))
        })?;
        anyhow::ensure!(
            self.pfs
                .iter()
                .any(|pf| pf.bdf == bdf && pf.netdev == netdev),
            "{bdf} is {netdev} now"
        );
        run(&format!("ip link set {netdev} up"))?;
        write(device(bdf).join("sriov_drivers_autoprobe"), "0")
    }

    /// The administrator of the PF pins the MAC of a VF.
    pub fn pin_mac(&self, pf: usize, vf: usize, mac: &str) -> Result<()> {
        run(&format!(
            "ip link set {} vf {vf} mac {mac}",
            self.pfs[pf].netdev
        ))
        .map(drop)
    }

    pub fn vf(&self, pf: usize, vf: usize) -> Result<String> {
        let link = device(self.pfs[pf].bdf).join(format!("virtfn{vf}"));
        let target =
            fs::read_link(&link).with_context(|| format!("no VF at {}", link.display()))?;
        Ok(target
            .file_name()
            .context("odd link")?
            .to_string_lossy()
            .into_owned())
    }
}

pub fn device(bdf: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(bdf)
}

/// Binds a function to a driver as a user would: driver_override, then probe.
pub fn bind(bdf: &str, driver: &str) -> Result<()> {
    unbind(bdf)?;
    write(device(bdf).join("driver_override"), driver)?;
    write("/sys/bus/pci/drivers_probe", bdf)?;
    let bound = fs::read_link(device(bdf).join("driver"))
        .with_context(|| format!("{bdf} is not bound to {driver}"))?;
    anyhow::ensure!(
        bound.ends_with(driver),
        "{bdf} is bound to {}, not to {driver}",
        bound.display()
    );
    Ok(())
}

pub fn unbind(bdf: &str) -> Result<()> {
    let unbind = device(bdf).join("driver/unbind");
    if unbind.exists() {
        write(unbind, bdf)?;
    }
    Ok(())
}

/// The modules that a Debian user loads; the module under test may not have been built yet.
/// Has the vectors of a VF that a guest has enabled come to one processor after the other, always the same: the kernel places
/// them by what it finds, and one that shares its processor with a load is slower.
pub fn spread_interrupts(bdf: &str) -> Result<()> {
    let processors = std::thread::available_parallelism()?.get();
    let text = read("/proc/interrupts")?;
    let lines = text
        .lines()
        .filter(|line| line.contains("vfio-msi") && line.contains(bdf));
    let irqs: Vec<&str> = lines
        .filter_map(|line| Some(line.split_once(':')?.0.trim()))
        .collect();
    ensure!(!irqs.is_empty(), "{bdf} has no vector in {text}");
    for (vector, irq) in irqs.into_iter().enumerate() {
        let processor = (vector % processors).to_string();
        write(format!("/proc/irq/{irq}/smp_affinity_list"), &processor)?;
    }
    Ok(())
}

pub fn load_semiassign() -> Result<()> {
    run("modprobe semiassign")
        .context("is it built? `make modules`")
        .map(drop)
}

pub fn kernel_log() -> Result<String> {
    run("dmesg")
}
