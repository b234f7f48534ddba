// SPDX-License-Identifier: GPL-2.0
//! A macvtap on a PF: the way of a guest's virtio-net to the segment, with vhost, as libvirt's `direct` interfaces have it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use anyhow::{Context, Result};
use nix::fcntl::{fcntl, FcntlArg, FdFlag};

use crate::command::{read, run, write};
use crate::host::Pf;

pub struct Tap {
    name: String,
    pub mac: String,
    file: File,
}

impl Tap {
    /// It is down.
    pub fn create(pf: &Pf, name: &str, mac: &str) -> Result<Self> {
        run("modprobe vhost_net")?;
        run(&format!(
            "ip link add link {} name {name} address {mac} type macvtap mode bridge",
            pf.netdev
        ))?;
        let index = read(format!("/sys/class/net/{name}/ifindex"))?;
        let path = format!("/dev/tap{}", index.trim());
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {path}"))?;
        // QEMU inherits it.
        fcntl(file.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(Self {
            name: name.to_owned(),
            mac: mac.to_owned(),
            file,
        })
    }

    /// A frame to its MAC is the guest's only while it is up. By its flags, as `ip` would take its time to start.
    pub fn set_up(&self, up: bool) -> Result<()> {
        write(
            format!("/sys/class/net/{}/flags", self.name),
            if up { "0x1003" } else { "0x1002" },
        )
    }

    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = run(&format!("ip link del {}", self.name));
    }
}
