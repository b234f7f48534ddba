// SPDX-License-Identifier: GPL-2.0

//! The model between a mock guest and a mock VF: traffic across capture, release and migration.

use mock_igbvf::{flow, guest, machine, vf};

mod conform;
mod control;
mod datasheet;
mod hostile;
mod migration;
mod traffic;
mod turns;
