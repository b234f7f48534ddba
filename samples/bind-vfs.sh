#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Bind all VFs of a PF to a driver by driver_override: bind-vfs.sh PF [DRIVER]. PF is a network interface or a PCI address.
set -euo pipefail

die() { echo "bind-vfs: $*" >&2; exit 1; }

[ $# -ge 1 ] || die "usage: bind-vfs.sh PF [DRIVER]"
driver=${2:-semiassign}
pf=/sys/class/net/$1/device
[ -e "$pf" ] || pf=/sys/bus/pci/devices/$1
[ -e "$pf" ] || die "$1 is neither a network interface nor a PCI address like 0000:01:00.0"
[ "$(id -u)" = 0 ] || die "must run as root: use sudo"
[ -e "$pf/virtfn0" ] || die "$1 has no VFs: write a number to $pf/sriov_numvfs"
[ -e "/sys/bus/pci/drivers/$driver" ] || die "no driver $driver: modprobe $driver"

for link in "$pf"/virtfn*; do
	vf=$(readlink -f "$link")
	name=${vf##*/}
	[ ! -e "$vf/driver" ] || echo "$name" > "$vf/driver/unbind"
	echo "$driver" > "$vf/driver_override"
	echo "$name" > /sys/bus/pci/drivers_probe
	[ "$(basename "$(readlink -f "$vf/driver")")" = "$driver" ] || die "$name is not bound: see dmesg"
	echo "$name: $driver"
done
