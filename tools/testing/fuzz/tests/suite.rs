// SPDX-License-Identifier: GPL-2.0

//! Every seed reaches what it is for, and neither the seeds nor small changes of them break a rule.

mod descriptors;
mod image;
mod mailbox;
mod mirror;
mod mmio;
mod seed;
