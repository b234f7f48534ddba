// SPDX-License-Identifier: GPL-2.0

//! The mailbox with us in between, and the same without us.
//!
//! Everything that the guest and its PF do is done to a bare VF as well. As long as the PF was not reset behind
//! the guest's back, both have to show the guest the same, bit by bit. After that, and on another VF, the guest has to
//! get the replies that the bare VF gives, and the PF has to know what the bare VF's PF knows.

use std::cell::RefCell;
use std::rc::Rc;

use conformance::bench::Mode;
use mock_igbvf::vf::{Filters, Vf, World, GUEST};
use model::image::Writer;
use model::io::Registers;
use model::mock::Memory;

use crate::acts;
use crate::driver::{Driver, How};
use crate::input::{self, Word};
use crate::life::{Life, Reached};

const VMBMEM: u32 = 0x800;
const V2PMAILBOX: u32 = 0xc40;
const REQ: u32 = 1 << 0;
const ACK: u32 = 1 << 1;
const VFU: u32 = 1 << 2;
const PFSTS: u32 = 1 << 4;
const PFACK: u32 = 1 << 5;
const RSTI: u32 = 1 << 6;
const RSTD: u32 = 1 << 7;
const CTS: u32 = 1 << 29;
const CTRL_RST: u32 = 1 << 26;
/// One that never runs backwards.
const VFGPRC: u32 = 0xf10;
/// Turns until a repair that failed is tried again.
const RETRY_TURNS: u32 = 1100;
/// Most migrations of one life: each makes a VF.
const MAX_MIGRATIONS: u32 = 4;

acts! {
    /// What happens.
    pub enum Act {
        /// The guest sends a message as a driver does, and reads the reply.
        Message { kind: u8, arg: u16 },
        /// The guest reads V2PMAILBOX.
        Look,
        /// The guest writes V2PMAILBOX: REQ, ACK, VFU.
        Control { val: u8 },
        /// The guest writes a word of VMBMEM.
        Write { index: u8, val: Word },
        /// The guest reads any register of the page.
        Read { at: u16 },
        /// The guest looks as its watchdog does: mailbox, link, statistics.
        Watchdog,
        /// The guest resets its VF.
        Rst,
        /// The guest's first queue pair is set up.
        Up,
        /// The PF pings.
        Ping,
        /// The PF answers, or does not.
        Silent { on: bool },
        /// The PF answers what it has not answered.
        Answer,
        /// The PF refuses all but VF_RESET, or does not.
        Refuse { on: bool },
        /// The PF is reset.
        PfReset,
        /// The PF goes down, and does not answer.
        PfDown,
        /// It comes back.
        PfUp,
        /// Frames were received, which the statistics count.
        Count { n: u16 },
        /// The VF is captured.
        Capture,
        /// The guest gets it back.
        Release,
        /// The mirror stops and starts.
        Restart,
        /// Turns.
        Turns { n: u8 },
        /// The function is reset from outside.
        Flr,
        /// Another VF takes over, whose PF may refuse (bit 0), or have pinned an address (bit 1).
        Migrate { how: u8 },
    }
}

/// A VF with the model, and one without.
struct Twins {
    life: Life,
    bare: Rc<RefCell<World>>,
    driver: Driver,
    /// The PF was reset behind the guest's back, or another VF had to repeat a message: times differ.
    apart: bool,
    /// The model has sent messages of its own since the guest wrote its last one.
    exchanged: bool,
    /// What the guest did is no protocol: the PFs may know different things.
    wild: bool,
    /// The PF was reset, the guest may see it, and has not reacted.
    dazed: bool,
    /// The PF of the VF with the model is down.
    down: bool,
    /// A message was written while it was: a driver resets its VF when none is answered.
    overtaken: bool,
    /// VFGPRC as last read.
    received: u32,
    /// After a reset it is no more what the hardware has.
    recounted: bool,
}

/// Runs one input.
pub fn mailbox(data: &[u8]) -> Reached {
    let mut twins = Twins::new();
    for act in input::acts(data) {
        twins.run(&act);
    }
    twins.finish()
}

impl Twins {
    fn new() -> Self {
        Self {
            life: Life::new(),
            bare: World::new(Memory::new(GUEST, 0)),
            driver: Driver::new(0),
            apart: false,
            exchanged: false,
            wild: false,
            dazed: false,
            down: false,
            overtaken: false,
            received: 0,
            recounted: false,
        }
    }

    fn run(&mut self, act: &Act) {
        match *act {
            Act::Message { kind, arg } => self.message(kind, arg),
            Act::Look => {
                self.look();
            }
            Act::Control { val } => self.raw_control(u32::from(val)),
            Act::Write { index, val } => {
                // The guest overwrites what it has not read, and the model takes its word for the PF's.
                let mut unread = false;
                self.both(|world| unread |= *world.reg(V2PMAILBOX) & PFSTS != 0);
                // Or what the PF has not read, and the model repeats the message as it was sent.
                let unanswered = self.bare.borrow().unanswered || self.overtaken;
                self.apart |= unread || unanswered;
                self.wild |= unread || unanswered;
                // Without CTS it tells of a reset, which clears counters.
                self.recounted |= unread;
                self.write(VMBMEM + u32::from(index % 16) * 4, val.0);
            }
            Act::Read { at } => match u32::from(at) & 0xffc {
                V2PMAILBOX => {
                    self.look();
                }
                at => {
                    self.life.bench.read32(at);
                }
            },
            Act::Watchdog => self.watchdog(),
            Act::Rst => {
                self.wild |= self.bare.borrow().unanswered || self.overtaken;
                self.write(0, CTRL_RST);
                self.driver.forget();
            }
            Act::Up => self.driver.up(&mut self.life.bench, How(0)),
            // A PF that is down does nothing.
            Act::Ping | Act::Silent { .. } | Act::Answer if self.down => {}
            Act::Ping => {
                // It takes the place of the message that the PF has not read, and the model repeats that.
                self.wild |= self.bare.borrow().unanswered;
                self.both(World::ping);
            }
            Act::Silent { on } => self.both(|world| world.silent = on),
            Act::Answer => self.both(World::answer),
            Act::Refuse { on } => {
                // The PF that was down has yet to answer, or what it has forgotten cannot be repeated.
                self.wild |= self.overtaken || self.apart;
                self.both(|world| world.refusing = on);
            }
            Act::PfReset => self.pf_reset(),
            Act::PfDown => {
                self.pf_reset();
                self.down = true;
                self.pf_is_down(true);
            }
            Act::PfUp => self.pf_up(),
            Act::Count { n } => self.both(|world| {
                let count = world.reg(VFGPRC);
                *count = count.wrapping_add(n.into());
            }),
            Act::Capture => {
                if !self.life.is_captured() {
                    // From here on the model takes a reset for one that it has to hide.
                    self.apart |= self.dazed;
                    self.wild |= self.dazed;
                }
                self.life.capture();
            }
            Act::Release => self.life.release(),
            Act::Restart => {
                self.life.stop();
                self.life.start();
            }
            Act::Turns { n } => self.turns(n.into()),
            Act::Flr => self.flr(),
            Act::Migrate { how } => self.migrate(how),
        }
        self.life.inspect();
    }

    fn both(&mut self, mut f: impl FnMut(&mut World)) {
        f(&mut self.life.world.borrow_mut());
        f(&mut self.bare.borrow_mut());
    }

    /// Whether the model takes the guest for one that its PF knows: the third byte of the control record.
    fn is_live(&mut self) -> bool {
        let mut buf = [0; 1024];
        let mut w = Writer::new(&mut buf);
        let _ = self.life.bench.model.save_control(&mut w);
        buf[2] != 0
    }

    fn hides_resets(&mut self) -> bool {
        self.life.is_captured() && self.is_live()
    }

    /// The guest writes to both.
    fn write(&mut self, at: u32, val: u32) {
        self.life.bench.write32(at, val);
        Vf(self.bare.clone()).write32(at, val);
    }

    /// The guest reads V2PMAILBOX of both.
    fn look(&mut self) -> (u32, u32) {
        let hides = self.hides_resets();
        let ours = self.life.bench.read32(V2PMAILBOX);
        let bare = Vf(self.bare.clone()).read32(V2PMAILBOX);
        let word = self.life.bench.read32(VMBMEM);
        if !self.apart {
            assert_eq!(ours, bare, "V2PMAILBOX");
            if bare & PFSTS != 0 {
                assert_eq!(word, *self.bare.borrow_mut().reg(VMBMEM), "VMBMEM[0]");
            }
        }
        if hides && !self.wild {
            assert_eq!(
                ours & (RSTI | RSTD),
                0,
                "a reset that the guest did not ask for"
            );
            if ours & PFSTS != 0 {
                assert!(word & CTS != 0 || word & 0xffff == 1, "a word without CTS");
            }
        }
        (ours, bare)
    }

    /// A write of V2PMAILBOX that no driver makes, or not now.
    fn raw_control(&mut self, val: u32) {
        if val & REQ != 0 {
            self.wild = true;
            // The PF reads words of ours where the guest has written none.
            self.apart |= self.exchanged;
        }
        self.write(V2PMAILBOX, val);
        self.exchanged |= self.apart;
    }

    /// A message and its reply, in the order of Linux's igbvf.
    fn message(&mut self, kind: u8, arg: u16) {
        let words = words(kind, arg);
        self.wild |= self.bare.borrow().unanswered || self.overtaken;
        self.overtaken = self.down;
        // One PF refuses now, and what the other one does when it is back is another question.
        self.wild |= self.down && self.bare.borrow().refusing;
        // igb does half of what it refuses of a PROMISC, so the record has it; one that refuses all does nothing.
        self.wild |= words[0] & 0xffff == 6 && self.bare.borrow().refusing;
        self.look();
        self.write(V2PMAILBOX, VFU);
        self.look();
        self.look();
        for (at, word) in (VMBMEM..).step_by(4).zip(words) {
            self.write(at, word);
        }
        self.write(V2PMAILBOX, REQ);
        self.exchanged = false;
        let (mut ours, mut bare) = (0, 0);
        for _ in 0..3 {
            let seen = self.look();
            (ours, bare) = (ours | seen.0, bare | seen.1);
            // What was lost is repaired and repeated in a turn.
            self.turns(1);
        }
        if words[0] == 1 && (self.down || self.apart && self.bare.borrow().unanswered) {
            // When it answers, the PF of one of them has forgotten its address. A driver asks for it again then.
            self.dazed = true;
        }
        if bare & (PFSTS | PFACK) != PFSTS | PFACK {
            return;
        }
        let reply = *self.bare.borrow_mut().reg(VMBMEM);
        // What a PF that refuses does not let us repeat keeps the reply back.
        let refuses = self.wild && self.bare.borrow().refusing;
        if !self.down && !refuses {
            assert_eq!(ours & (PFSTS | PFACK), PFSTS | PFACK, "a reply was lost");
            if !self.wild {
                assert_eq!(self.life.bench.read32(VMBMEM), reply, "the reply");
            }
            self.life.reached.answered += reply >> 31;
        }
        if words[0] == 1 && !self.down {
            self.dazed = false;
        }
        self.write(V2PMAILBOX, VFU);
        self.look();
        self.write(V2PMAILBOX, ACK);
    }

    fn watchdog(&mut self) {
        let hides = self.hides_resets();
        self.look();
        let status = self.life.bench.read32(8);
        assert!(status == 0x83 || !hides, "STATUS {status:#x}");
        let received = self.life.bench.read32(VFGPRC);
        let grown = received.wrapping_sub(self.received);
        assert!(
            grown < 1 << 31 || !hides,
            "VFGPRC ran backwards by {}",
            grown.wrapping_neg()
        );
        self.received = received;
        if !self.recounted {
            assert_eq!(received, *self.bare.borrow_mut().reg(VFGPRC), "VFGPRC");
        }
    }

    fn pf_reset(&mut self) {
        let hides = self.hides_resets();
        self.life.world.borrow_mut().pf_reset();
        self.recounted = true;
        if hides {
            // For the guest it has not happened.
            self.apart = true;
            self.exchanged = true;
            let bare = self.bare.borrow();
            self.wild |= bare.unanswered || bare.refusing;
        } else {
            self.bare.borrow_mut().pf_reset();
            self.dazed = true;
            // The mirror rings are gone, and will be missed.
            self.apart |= self.life.is_captured() && self.driver.is_up();
        }
    }

    /// RSTI of the PF that went down, and of the bare one unless that stayed up.
    fn pf_is_down(&mut self, down: bool) {
        let set = |world: &mut World| {
            let v2p = world.reg(V2PMAILBOX);
            *v2p = if down {
                *v2p | RSTI
            } else {
                *v2p & !RSTI | RSTD
            };
            world.silent = down;
        };
        set(&mut self.life.world.borrow_mut());
        if !self.apart {
            set(&mut self.bare.borrow_mut());
        }
    }

    fn pf_up(&mut self) {
        if std::mem::take(&mut self.down) {
            self.pf_is_down(false);
        }
        let silent = self.bare.borrow().silent;
        self.life.world.borrow_mut().silent = silent;
    }

    fn turns(&mut self, n: u32) {
        if self.life.bench.mode == Mode::Running {
            for _ in 0..n {
                self.life.bench.poll(1);
            }
        }
    }

    fn flr(&mut self) {
        self.wild |= self.bare.borrow().unanswered || self.overtaken;
        self.life.reset();
        self.recounted = true;
        self.driver.forget();
        let mut bare = self.bare.borrow_mut();
        bare.vf_reset();
        // What the mailbox had is forgotten or not, as the VF with the model has it.
        for at in (VMBMEM..VMBMEM + 64).step_by(4).chain([V2PMAILBOX]) {
            *bare.reg(at) = *self.life.world.borrow_mut().reg(at);
        }
        for world in [&mut *bare, &mut *self.life.world.borrow_mut()] {
            (world.filters.lpe, world.filters.unicast) = (0, Vec::new());
        }
    }

    fn migrate(&mut self, how: u8) {
        let known = self
            .life
            .bench
            .model
            .check_migratable(&mut Vf(self.bare.clone()));
        if !self.life.is_captured()
            || known.is_err()
            || self.life.reached.migrations >= MAX_MIGRATIONS
        {
            return;
        }
        let (refuses, pinned) = (how & 1 != 0, (how & 2 != 0).then_some([2, 0, 0, 0, 0, 9]));
        self.life.stop();
        let live = self.is_live();
        let migrated = self.life.migrate(|world| {
            world.refusing = refuses;
            (world.pinned, world.filters.mac) = (pinned, pinned);
        });
        let unanswered = self.bare.borrow().unanswered;
        if migrated.is_ok() {
            let (silent, refusing) = {
                let bare = self.bare.borrow();
                (bare.silent, bare.refusing)
            };
            self.exchanged = true;
            // A ping that the guest has not seen stays behind.
            let was_down = self.down;
            let pinged = *self.bare.borrow_mut().reg(V2PMAILBOX) & (PFSTS | PFACK | RSTD) != 0;
            self.down = false;
            self.wild |= unanswered || !live || refuses || pinned.is_some();
            self.apart |= self.wild || pinged || was_down;
            self.compare();
            let mut world = self.life.world.borrow_mut();
            (world.silent, world.refusing) = (silent, refusing);
        } else {
            assert!(
                refuses || pinned.is_some() || self.wild,
                "refused: {migrated:?}"
            );
            self.life.reached.refused += 1;
        }
        self.life.start();
    }

    /// Both PFs know the same.
    fn compare(&mut self) {
        let known = self
            .life
            .bench
            .model
            .check_migratable(&mut Vf(self.bare.clone()));
        if self.wild || self.dazed || self.down || known.is_err() {
            return;
        }
        let ours = sorted(&self.life.world.borrow().filters);
        assert_eq!(
            ours,
            sorted(&self.bare.borrow().filters),
            "what the PF knows"
        );
        self.life.reached.accepted += 1;
    }

    fn finish(&mut self) -> Reached {
        self.pf_up();
        self.both(|world| (world.silent, world.refusing) = (false, false));
        self.both(World::answer);
        self.look();
        self.life.start();
        // A repair may have failed before.
        self.turns(if self.apart { RETRY_TURNS } else { 1 });
        self.look();
        if self.life.bench.mode == Mode::Running || !self.apart {
            self.compare();
        }
        self.life.end()
    }
}

/// The words of a message.
fn words(kind: u8, arg: u16) -> [u32; 16] {
    let (arg, mac) = (u32::from(arg), 0x0100_5452 ^ u32::from(arg) << 24);
    let mut words = [0; 16];
    let message = match kind % 11 {
        0 => [1, 0, 0],
        1 => [2, mac, arg >> 8],
        // No address.
        2 => [2, mac | 1, 0],
        3 => [3 | (arg & 3) << 16, arg | arg << 16, arg ^ 0xfff],
        4 => [4 | 1 << 16, arg & 0x3f, 0],
        5 => [4, arg & 0x3f, 0],
        6 => [5, arg, 0],
        7 => [6 | (arg & 0xff) << 16, 0, 0],
        8 => [2 | 1 << 16, mac, 0],
        9 => [2 | 2 << 16, mac, arg & 7],
        _ => [arg, arg, arg],
    };
    words[..3].copy_from_slice(&message);
    words
}

/// What a PF knows, in one order, each once.
fn sorted(filters: &Filters) -> Filters {
    let mut filters = filters.clone();
    filters.vlans.sort_unstable();
    filters.vlans.dedup();
    filters.unicast.sort_unstable();
    filters.unicast.dedup();
    filters
}
