/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads: the headers whose declarations the kernel's own `bindings` crate lacks. */
#include <linux/anon_inodes.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>
#include "helpers.h"
