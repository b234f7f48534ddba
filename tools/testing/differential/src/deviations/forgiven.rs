// SPDX-License-Identifier: GPL-2.0

//! Differences that the comparison lets pass, each within bounds.

use super::Deviation;
use super::Rule::Forgiven;
use super::Who::{Ours, Qemu};

pub static STATUS: Deviation = Deviation {
    name: "STATUS",
    numbers: &[19],
    who: Qemu,
    seen: "STATUS shows bits of the PF",
    rule: Forgiven,
    how: "compared in the VF's bits, 0xd3; ours is 0x83",
    test: "status_shows_what_every_host_shows",
};

pub static PSRTYPE: Deviation = Deviation {
    name: "PSRTYPE",
    numbers: &[17],
    who: Qemu,
    seen: "PSRTYPE reads as 0",
    rule: Forgiven,
    how: "ours reads as it was written last",
    test: "psrtype_reads_as_it_was_written",
};

pub static RXCTL: Deviation = Deviation {
    name: "RXCTL",
    numbers: &[17],
    who: Qemu,
    seen: "RXCTL reads as 0",
    rule: Forgiven,
    how: "not compared: ours keeps it only while captured",
    test: "ring_registers_keep_what_the_guest_stores",
};

pub static SPLIT_AT_HEADERS: Deviation = Deviation {
    name: "SPLIT_AT_HEADERS",
    numbers: &[17],
    who: Qemu,
    seen: "IP frames are split behind their headers whatever PSRTYPE says",
    rule: Forgiven,
    how: "bytes, types and status are compared, not where the bytes are; ours has to be laid out as for PSRTYPE 0, \
          and frames that need another number of descriptors then are not sent",
    test: "split_always_fills_the_header_buffer_first",
};

pub static HEADER_LENGTH_OF_NONE: Deviation = Deviation {
    name: "HEADER_LENGTH_OF_NONE",
    numbers: &[],
    who: Qemu,
    seen: "with header split (2) HDR_LEN is BSIZEHDR where nothing was split off",
    rule: Forgiven,
    how: "QEMU's is BSIZEHDR, ours 0",
    test: "nothing_is_split_off_a_frame_whose_headers_are_unknown",
};

pub static HEADER_LENGTH_OF_PARTS: Deviation = Deviation {
    name: "HEADER_LENGTH_OF_PARTS",
    numbers: &[],
    who: Qemu,
    seen: "HDR_LEN is repeated in every descriptor of a frame",
    rule: Forgiven,
    how: "in all but the first QEMU's is that of the first, ours 0",
    test: "split_always_fills_the_header_buffer_first",
};

pub static CHECKSUMS_IN_PLACE: Deviation = Deviation {
    name: "CHECKSUMS_IN_PLACE",
    numbers: &[],
    who: Qemu,
    seen: "checksums and lengths are written into the guest's own TX buffers",
    rule: Forgiven,
    how: "TX buffers are not compared; on our side they have to stay as the guest has written them",
    test: "sending_writes_nothing_but_dd",
};

pub static SECOND_QUEUE: Deviation = Deviation {
    name: "SECOND_QUEUE",
    numbers: &[9],
    who: Qemu,
    seen: "bytes 2 and 3 of IVAR0 are ignored: queue 1 raises nothing",
    rule: Forgiven,
    how: "ours has to raise what these bytes name",
    test: "the_second_queue_has_vectors_of_its_own",
};

pub static RESET_HEADS: Deviation = Deviation {
    name: "RESET_HEADS",
    numbers: &[15],
    who: Ours,
    seen: "heads and tails are 0 after CTRL.RST, and all ring registers are reset by an FLR; QEMU keeps them",
    rule: Forgiven,
    how: "not compared until the guest writes them",
    test: "the_guest_s_own_reset_ends_what_it_had_set_up",
};

pub static FLR_KEEPS: Deviation = Deviation {
    name: "FLR_KEEPS",
    numbers: &[15],
    who: Qemu,
    seen: "VMBMEM and PSRTYPE survive an FLR",
    rule: Forgiven,
    how: "not compared until they are written",
    test: "a_reset_from_outside_forgets_the_guest",
};

pub static EIMS_READ: Deviation = Deviation {
    name: "EIMS_READ",
    numbers: &[1],
    who: Qemu,
    seen: "EIMS reads as it was written last",
    rule: Forgiven,
    how: "by the guest until a migration, then by ours: not compared after one; sequences migrate only while the mask \
          is what ours takes it for",
    test: "masks_are_taken_as_the_guest_means_them",
};

pub static EICR_READ: Deviation = Deviation {
    name: "EICR_READ",
    numbers: &[2],
    who: Qemu,
    seen: "EICR reads as it was written last, and a read clears nothing else",
    rule: Forgiven,
    how: "not compared after a migration, which writes it",
    test: "interrupts_are_set_up_as_they_were",
};

pub static EITR_READ: Deviation = Deviation {
    name: "EITR_READ",
    numbers: &[],
    who: Ours,
    seen: "of EITR only the interval travels",
    rule: Forgiven,
    how: "compared in 0x7ffc after a migration",
    test: "masks_are_taken_as_the_guest_means_them",
};

pub static RESERVED_BITS: Deviation = Deviation {
    name: "RESERVED_BITS",
    numbers: &[],
    who: Ours,
    seen: "while captured ring registers are RAM and keep the bits that the device does not have",
    rule: Forgiven,
    how: "compared in the device's bits",
    test: "ring_registers_keep_what_the_guest_stores",
};

pub static SWFLSH: Deviation = Deviation {
    name: "SWFLSH",
    numbers: &[],
    who: Ours,
    seen: "a release does not give SWFLSH back; in QEMU it never clears itself",
    rule: Forgiven,
    how: "not compared in RXDCTL and TXDCTL",
    test: "ring_registers_keep_what_the_guest_stores",
};

pub static TYPES_OF_PARTS: Deviation = Deviation {
    name: "TYPES_OF_PARTS",
    numbers: &[],
    who: Ours,
    seen: "RSS and packet type are in every descriptor of a frame; only that with EOP has to have them",
    rule: Forgiven,
    how: "in the others QEMU's are 0, and ours those of the last",
    test: "split_always_fills_the_header_buffer_first",
};

pub static EXTRA_INTERRUPTS: Deviation = Deviation {
    name: "EXTRA_INTERRUPTS",
    numbers: &[],
    who: Ours,
    seen: "interrupts stay the hardware's, so the mirror's traffic raises them too, and a switch raises all",
    rule: Forgiven,
    how: "ours may raise more, but only vectors of queues that something moved in, or after a switch; what QEMU's VF \
          raises has to be raised again by ours, when the guest has its frames",
    test: "interrupts_are_raised_by_the_guest_s_own_vectors",
};

pub static UNHEARD: Deviation = Deviation {
    name: "UNHEARD",
    numbers: &[],
    who: Ours,
    seen: "frames for a queue that the guest has switched off are received by the mirror ring, and count",
    rule: Forgiven,
    how: "the statistics of such a sequence may be higher",
    test: "a_queue_that_the_guest_switches_off_gets_no_frame_of_before",
};

pub static ORDER_OF_QUEUES: Deviation = Deviation {
    name: "ORDER_OF_QUEUES",
    numbers: &[],
    who: Ours,
    seen: "a turn of the worker serves one queue after the other",
    rule: Forgiven,
    how: "frames on the wire are compared queue by queue",
    test: "frames_keep_their_order_and_number_across_captures_and_releases",
};
