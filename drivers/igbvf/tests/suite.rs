// SPDX-License-Identifier: GPL-2.0

//! The model between a mock guest and a mock VF: traffic across capture, release and migration.

use mock_igbvf::{driver, flow, guest, ledger, machine, replica, transfer, vf};

mod conform;
mod control;
mod datasheet;
mod hostile;
mod migration;
mod property;
mod traffic;
mod turns;
