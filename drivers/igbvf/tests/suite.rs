// SPDX-License-Identifier: GPL-2.0

//! The model between a mock guest and a mock VF: traffic across capture, release and migration.

mod conform;
mod control;
mod guest;
mod hostile;
mod machine;
mod migration;
mod traffic;
mod vf;
