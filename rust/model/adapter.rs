// SPDX-License-Identifier: GPL-2.0

//! The adapter trait: what semiassign asks of a model of one VF family.
//!
//! The calls of one life, in order:
//!
//! ```text
//! assigned   read/write        the guest touches the trapped page; the adapter forwards and records
//! capture    snapshot          guest locked out: registers of the substituted pages -> RAM page
//!            quiesce           hardware queues off, final heads -> RAM page
//!            (the kernel swaps the IOMMU domain)
//!            start             mirror rings on
//! emulated   poll, poll, ...   frames move through the mirror rings; read/write as before
//! P2P        pause             the guest sees nothing move any more; what arrives stays in the mirror area
//! save       stop, save_*      what arrived and was not delivered is held, and goes into the image
//! load       load_*, listen    of the image, on the destination, captured and stopped
//! release    stop, (swap back), hand_back    guest's rings into the hardware, guest locked out
//! ```
//!
//! `&mut self` is the lock: all calls of one device, traps included, are serialised by the caller. They may
//! sleep in [`Hardware::pause`] and in guest memory, whose faults may come back
//! to the caller's BAR but never into the adapter. Every wait is bounded.
//!
//! After [`Stuck`] the caller resets the function and calls `reset`, or stays away from the guest's domain.
//! On a destination: capture, `load_control`, `load_state`, `load_held`, and when the image is complete
//! `replay_control` and `listen`; then `start` once before `hand_back`, because only that gives the hardware what a guest's
//! rings do not hold (offload contexts), and raise every vector.

use crate::counters::Counters;
use crate::image;
use crate::io::{Area, GuestMemory, Hardware, Registers};
use crate::register::Register;

/// What is fixed for an adapter: the shape of BAR 0 and of its part of the image.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Name for messages.
    pub name: &'static str,
    /// Identity in the migration image; never reused.
    pub image_id: u32,
    /// Bytes of BAR 0.
    pub bar_bytes: u32,
    /// Pages that always trap, `[start, end)` in BAR 0.
    pub trapped: (u32, u32),
    /// Pages that are RAM while captured and the hardware's otherwise, `[start, end)` in BAR 0.
    pub substituted: (u32, u32),
    /// Bytes of the mirror area.
    pub mirror_bytes: usize,
}

/// Everything the outside lends to an adapter while its VF is captured.
pub struct Io<'a> {
    /// The real VF.
    pub hw: &'a mut dyn Hardware,
    /// RAM behind the substituted pages, at their BAR 0 offsets. The guest stores there at any time.
    pub page: &'a mut dyn Registers,
    /// Guest memory.
    pub mem: &'a mut dyn GuestMemory,
    /// Mirror rings and buffers.
    pub mirror: &'a mut dyn Area,
}

/// The hardware did not stop within its bound; it needs a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck;

/// Most frames that an adapter hands to the guest with one write.
pub const MAX_BURST: u32 = 16;

/// What one turn of [`Adapter::poll`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Frames that moved, both ways.
    pub frames: u32,
    /// The budget ran out: more is waiting.
    pub more: bool,
}

/// The model of one VF family.
///
/// Nothing here fails because of the guest: what a guest does wrong ends in a counter.
pub trait Adapter: Send {
    /// The fixed facts.
    fn layout(&self) -> &'static Layout;

    /// The registers of BAR 0, for whoever looks from outside.
    fn registers(&self) -> &'static [Register];

    /// What happened so far.
    fn counters(&self) -> &Counters;

    /// The VF was opened or has been reset (FLR) behind us: forgets all that the guest had set up.
    /// `page` is there when the VF is captured.
    fn reset(&mut self, hw: &mut dyn Hardware, page: Option<&mut dyn Registers>);

    /// A guest read of a trapped register; unaligned or unknown ones read as 0.
    /// `page` is there when the VF is captured.
    fn read(&mut self, at: u32, hw: &mut dyn Hardware, page: Option<&mut dyn Registers>) -> u32;

    /// A guest write of a trapped register.
    /// `page` is there when the VF is captured.
    fn write(&mut self, at: u32, val: u32, hw: &mut dyn Hardware, page: Option<&mut dyn Registers>);

    /// Whether any queue of the guest is enabled; reads `regs`, the hardware or the RAM page.
    fn is_active(&self, regs: &mut dyn Registers) -> bool;

    /// Whether the guest uses nothing that cannot be emulated; reads `regs`, the hardware or the RAM page.
    ///
    /// # Errors
    ///
    /// The reason, for the log.
    fn check_migratable(&self, regs: &mut dyn Registers) -> Result<(), &'static str>;

    /// Capture, first half: copies the registers of the substituted pages to `page`. The guest cannot
    /// reach either now, the hardware still runs.
    fn snapshot(&mut self, hw: &mut dyn Hardware, page: &mut dyn Registers);

    /// Capture, second half: switches every hardware queue off and takes over at the final heads.
    ///
    /// # Errors
    ///
    /// [`Stuck`] if a queue does not stop.
    fn quiesce(&mut self, hw: &mut dyn Hardware, page: &mut dyn Registers) -> Result<(), Stuck>;

    /// Switches the hardware queues off, whatever they belong to; also used on every error path.
    ///
    /// # Errors
    ///
    /// [`Stuck`] if a queue does not stop.
    fn queues_off(&mut self, hw: &mut dyn Hardware) -> Result<(), Stuck>;

    /// Starts the mirror rings of the queues that the guest has enabled.
    fn start(&mut self, io: &mut Io<'_>);

    /// On a destination, as soon as the image is complete: begins to receive into the mirror area. What comes before
    /// the guest runs is delivered after [`start`](Adapter::start) instead of being lost; [`stop`](Adapter::stop) holds it. Guest
    /// memory is not touched, and no interrupt raised.
    fn listen(&mut self, hw: &mut dyn Hardware, page: &mut dyn Registers, mirror: &mut dyn Area);

    /// Moves at most `budget` frames each way. Only a burst that an earlier turn had to interrupt is ended whole beyond it, so
    /// that the guest gets fewer than [`MAX_BURST`] more.
    fn poll(&mut self, io: &mut Io<'_>, budget: u32) -> Progress;

    /// Stops all that the guest could see, as [`stop`](Adapter::stop) does, and goes on receiving into the mirror area, as
    /// [`listen`](Adapter::listen) does; nothing that comes is lost until `stop`.
    ///
    /// # Errors
    ///
    /// [`Stuck`] if a queue does not stop.
    fn pause(&mut self, io: &mut Io<'_>) -> Result<(), Stuck>;

    /// Stops the mirror rings: transmits what was taken over and completes it, delivers or holds what was
    /// received. Afterwards nothing moves, and guest memory is not written until [`start`](Adapter::start).
    ///
    /// # Errors
    ///
    /// [`Stuck`] if a queue does not stop.
    fn stop(&mut self, io: &mut Io<'_>) -> Result<(), Stuck>;

    /// Frames received but not delivered.
    fn held(&self) -> u32;

    /// Whether [`hand_back`](Adapter::hand_back) is worth a try: not while a frame is half delivered, or while
    /// the PF does not know the VF. Only [`poll`](Adapter::poll) can change that.
    fn may_hand_back(&self) -> bool;

    /// Release: puts the guest's rings, as `page` has them, into the hardware. The mirror is stopped, the
    /// guest's domain attached, the guest locked out of both. Frames that are still held are dropped: start,
    /// and wait until none is.
    ///
    /// # Errors
    ///
    /// [`Stuck`] if the hardware does not take a head, or nothing may be handed back: the VF must stay emulated.
    /// All queues are off.
    fn hand_back(&mut self, hw: &mut dyn Hardware, page: &mut dyn Registers) -> Result<(), Stuck>;

    /// Raises each interrupt once that may have been lost during a switch. Of a queue that is any: a driver finds nothing, and
    /// goes on. Others only with a reason.
    fn raise_all(&mut self, hw: &mut dyn Hardware);

    /// Queues one frame from the guest's address on the mirror ring, so that switches learn the new port.
    fn announce(&mut self, io: &mut Io<'_>);

    /// Number that changes when the control record does; an unchanged one need not travel again.
    fn control_generation(&self) -> u32;

    /// Writes the control record: what the guest asked of its PF.
    ///
    /// # Errors
    ///
    /// [`image::Full`] if `w` is too small.
    fn save_control(&self, w: &mut image::Writer<'_>) -> Result<(), image::Full>;

    /// Takes over a control record and asks the PF of this VF for the same, all but the guest's address: that
    /// would draw the guest's traffic to this host before the guest is here. Only where the VF has another
    /// address already it is asked for at once, to learn early that the PF refuses.
    ///
    /// The record that was taken over last costs nothing when it comes again.
    ///
    /// # Errors
    ///
    /// The reason why the record was refused, by us or by the PF; the record is the one of before then.
    fn load_control(
        &mut self,
        r: &mut image::Reader<'_>,
        hw: &mut dyn Hardware,
    ) -> Result<(), image::Refused>;

    /// Repeats the current control record to the PF, with the address: at switch-over, when only what
    /// [`load_control`](Adapter::load_control) has left out is missing, or whenever the PF may have forgotten.
    /// Also puts the message that the guest waits for into this VF's mailbox.
    ///
    /// # Errors
    ///
    /// The reason why the PF refused.
    fn replay_control(&mut self, hw: &mut dyn Hardware) -> Result<(), image::Refused>;

    /// Writes the state of a stopped device, all but control record and held frames.
    ///
    /// # Errors
    ///
    /// [`image::Full`] if `w` is too small.
    fn save_state(
        &mut self,
        hw: &mut dyn Hardware,
        page: &mut dyn Registers,
        w: &mut image::Writer<'_>,
    ) -> Result<(), image::Full>;

    /// Takes over a state; the device is captured and stopped. All or nothing.
    ///
    /// # Errors
    ///
    /// The reason why the state was refused.
    fn load_state(
        &mut self,
        r: &mut image::Reader<'_>,
        hw: &mut dyn Hardware,
        page: &mut dyn Registers,
    ) -> Result<(), image::Refused>;

    /// Writes held frame number `index`, counted from the oldest.
    ///
    /// # Errors
    ///
    /// [`image::Full`] if `w` is too small.
    fn save_held(
        &mut self,
        index: u32,
        mirror: &mut dyn Area,
        w: &mut image::Writer<'_>,
    ) -> Result<(), image::Full>;

    /// Appends a held frame.
    ///
    /// # Errors
    ///
    /// The reason why the frame was refused.
    fn load_held(
        &mut self,
        r: &mut image::Reader<'_>,
        mirror: &mut dyn Area,
    ) -> Result<(), image::Refused>;

    /// Drops the held frames, counting them.
    fn drop_held(&mut self);
}
