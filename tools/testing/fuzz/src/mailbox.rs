// SPDX-License-Identifier: GPL-2.0

//! The mailbox with us in between.
//!
//! Two things are held against what the guest sees. As long as nothing has happened that it is not to see, a twin
//! without us shows it the same, bit by bit. And as long as the guest keeps the protocol it gets, sooner or later, the
//! reply to each message that its PF owes it, and the PF knows what was agreed on.

mod act;
mod known;
mod twin;

use conformance::bench::Mode;
use mock_igbvf::vf::World;
use model::image::Writer;
use model::io::Registers;

use crate::driver::{Driver, How};
use crate::input;
use crate::life::{Life, Reached};
pub use act::Act;
use act::{words, Message};
use known::Known;
use twin::Twin;

const VMBMEM: u32 = 0x800;
const V2PMAILBOX: u32 = 0xc40;
const REQ: u32 = 1 << 0;
const ACK: u32 = 1 << 1;
const VFU: u32 = 1 << 2;
const PFSTS: u32 = 1 << 4;
const PFACK: u32 = 1 << 5;
const RSTI: u32 = 1 << 6;
const RSTD: u32 = 1 << 7;
const CTRL: u32 = 0;
const CTRL_RST: u32 = 1 << 26;
const STATUS: u32 = 8;
/// One that never runs backwards.
const VFGPRC: u32 = 0xf10;
/// Word 0 of a message: the PF did it, refused it, knows the VF; and what it is.
const DONE: u32 = 1 << 31;
const REFUSED: u32 = 1 << 30;
const CTS: u32 = 1 << 29;
const TYPE: u32 = 0xffff;
const VF_RESET: u32 = 1;
/// Turns until a repair that failed is tried again.
const RETRY_TURNS: u32 = 1100;
/// Most migrations of one life: each makes a VF.
const MAX_MIGRATIONS: u32 = 4;

/// A guest, its VF and its PF.
struct Talk {
    life: Life,
    driver: Driver,
    twin: Option<Twin>,
    known: Option<Known>,
    /// The message that the guest has not seen a reply to.
    asked: Option<Message>,
    /// The PF was reset, the guest may see it, and has not reacted.
    dazed: bool,
    /// The PF is down.
    down: bool,
    /// When it is up, it does not answer.
    silent: bool,
    /// It refuses, or did since `asked` was.
    refused: bool,
    /// The guest has written the first word of VMBMEM since it looked.
    scribbled: bool,
    /// VFGPRC as last read.
    received: u32,
}

/// Runs one input.
pub fn mailbox(data: &[u8]) -> Reached {
    let mut talk = Talk::new();
    for act in input::acts(data) {
        talk.run(&act);
    }
    talk.finish()
}

impl Talk {
    fn new() -> Self {
        Self {
            life: Life::new(),
            driver: Driver::new(0),
            twin: Some(Twin::new()),
            known: Some(Known::new()),
            asked: None,
            dazed: false,
            down: false,
            silent: false,
            refused: false,
            scribbled: false,
            received: 0,
        }
    }

    fn run(&mut self, act: &Act) {
        match *act {
            Act::Message { kind, arg } => self.message(kind, arg),
            Act::Look => {
                self.look();
            }
            Act::Control { val } => self.control(val.into()),
            Act::Write { index, val } => self.scribble(index.into(), val.0),
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
                self.forget_asked();
                self.write(CTRL, CTRL_RST);
                self.known.iter_mut().for_each(Known::reset);
                self.driver.forget();
            }
            Act::Up => self.driver.up(&mut self.life.bench, How(0)),
            // A PF that is down does nothing.
            Act::Ping | Act::Answer if self.down => {}
            Act::Ping => self.both(World::ping),
            Act::Answer => self.both(World::answer),
            Act::Silent { on } => {
                self.silent = on;
                if !self.down {
                    self.both(|world| world.silent = on);
                }
            }
            Act::Refuse { on } => {
                self.refused |= on;
                self.both(|world| world.refusing = on);
            }
            Act::PfReset => self.pf_reset(),
            Act::PfDown => {
                self.pf_reset();
                self.down = true;
                self.both(|world| {
                    world.silent = true;
                    *world.reg(V2PMAILBOX) |= RSTI;
                });
            }
            Act::PfUp => self.pf_up(),
            Act::Count { n } => self.both(|world| {
                let count = world.reg(VFGPRC);
                *count = count.wrapping_add(n.into());
            }),
            Act::Capture => self.capture(),
            Act::Release => self.release(),
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
        self.twin.iter_mut().for_each(|twin| twin.world(&mut f));
    }

    /// The guest writes to both.
    fn write(&mut self, at: u32, val: u32) {
        self.life.bench.write32(at, val);
        self.twin.iter_mut().for_each(|twin| twin.write(at, val));
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

    /// The guest reads V2PMAILBOX, and what it announces.
    fn look(&mut self) -> u32 {
        let hides = self.hides_resets();
        let val = self.life.bench.read32(V2PMAILBOX);
        let words = [0, 4, 8].map(|at| self.life.bench.read32(VMBMEM + at));
        self.twin
            .iter_mut()
            .for_each(|twin| twin.look(val, words[0]));
        let scribbled = std::mem::take(&mut self.scribbled);
        if hides && self.known.is_some() {
            assert_eq!(val & (RSTI | RSTD), 0, "a reset that it did not ask for");
            assert!(
                val & PFSTS == 0 || scribbled || words[0] & CTS != 0 || words[0] & TYPE == VF_RESET,
                "a word without CTS"
            );
        }
        if val & PFSTS != 0 && !scribbled {
            self.hear(words);
        }
        val
    }

    /// The guest sees what may be a reply.
    fn hear(&mut self, reply: [u32; 3]) {
        let Some(asked) = self.asked else { return };
        if reply[0] & TYPE != asked[0] & TYPE || reply[0] & (DONE | REFUSED) == 0 {
            return;
        }
        self.asked = None;
        self.life.reached.answered += reply[0] >> 31;
        self.dazed &= asked[0] != VF_RESET;
        if let Some(known) = &mut self.known {
            known.answered(&asked, reply, self.refused);
        }
    }

    /// A write of V2PMAILBOX that no driver makes, or not now.
    fn control(&mut self, val: u32) {
        if val & REQ != 0 {
            self.known = None;
            self.asked = None;
            // The PF reads words of ours where the guest has written none.
            self.twin.take_if(|twin| twin.moved);
        }
        self.write(V2PMAILBOX, val);
    }

    /// A write of VMBMEM that is not part of a message.
    fn scribble(&mut self, index: u32, val: u32) {
        let mut unread = false;
        self.both(|world| unread |= *world.reg(V2PMAILBOX) & PFSTS != 0 || world.unanswered);
        if unread || self.asked.is_some() {
            // Over what the guest has not read, and the model takes its word for the PF's. Or over what the PF has
            // not read, and the model repeats the message as it was sent.
            (self.twin, self.known) = (None, None);
        }
        self.scribbled |= index % 16 == 0;
        self.write(VMBMEM + index % 16 * 4, val);
    }

    /// A message and its reply, in the order of Linux's igbvf.
    fn message(&mut self, kind: u8, arg: u16) {
        self.look();
        if self.asked.is_some() {
            // It did not wait: what the PF does, and to which of them, is anybody's guess.
            self.known = None;
        }
        let message = words(kind, arg);
        self.write(V2PMAILBOX, VFU);
        self.look();
        self.look();
        for (at, word) in (VMBMEM..).step_by(4).zip(message) {
            self.write(at, word);
        }
        // What is repeated meanwhile goes through the same words.
        self.turns(1);
        self.asked = Some(message);
        self.refused = self.life.world.borrow().refusing;
        self.twin.iter_mut().for_each(|twin| twin.moved = false);
        self.write(V2PMAILBOX, REQ);
        self.wait_for_reply();
        if self.asked.is_none() {
            self.write(V2PMAILBOX, VFU);
            self.look();
            self.write(V2PMAILBOX, ACK);
        }
    }

    fn wait_for_reply(&mut self) {
        for _ in 0..3 {
            self.look();
            // What was lost is repaired and repeated in a turn.
            self.turns(1);
        }
        let attends = !self.down && !self.silent && !self.refused;
        if self.known.is_none() || !attends || self.life.bench.mode == Mode::Stopped {
            return;
        }
        if self.asked.is_some() {
            // A repair may have failed before.
            self.turns(RETRY_TURNS);
            self.look();
        }
        assert!(self.asked.is_none(), "a reply was lost");
    }

    fn watchdog(&mut self) {
        let hides = self.hides_resets();
        self.look();
        let status = self.life.bench.read32(STATUS);
        assert!(status == 0x83 || !hides, "STATUS {status:#x}");
        let received = self.life.bench.read32(VFGPRC);
        let grown = received.wrapping_sub(self.received);
        assert!(
            grown < 1 << 31 || !hides,
            "VFGPRC ran backwards by {}",
            grown.wrapping_neg()
        );
        self.received = received;
        if let Some(twin) = &mut self.twin {
            twin.count(received);
        }
    }

    /// The VF is reset: what was not answered is not, or only does what the reset undoes.
    fn forget_asked(&mut self) {
        if self.asked.take().is_some_and(|asked| known::lasts(&asked)) {
            self.known = None;
        }
    }

    fn pf_reset(&mut self) {
        let hides = self.hides_resets();
        self.life.world.borrow_mut().pf_reset();
        if hides {
            // For the guest it has not happened.
            self.twin = None;
            self.known.iter_mut().for_each(|known| known.hidden = true);
            return;
        }
        self.twin.iter_mut().for_each(|twin| {
            twin.world(World::pf_reset);
            twin.recounted = true;
        });
        if self.life.is_captured() && self.driver.is_up() {
            // The mirror rings are gone, and will be missed.
            self.twin = None;
        }
        self.see_reset();
    }

    /// The guest is to see that its PF was reset.
    fn see_reset(&mut self) {
        self.forget_asked();
        self.dazed = true;
        self.known.iter_mut().for_each(Known::reset);
    }

    fn pf_up(&mut self) {
        if std::mem::take(&mut self.down) {
            let silent = self.silent;
            self.both(|world| {
                world.silent = silent;
                let v2p = world.reg(V2PMAILBOX);
                *v2p = *v2p & !RSTI | RSTD;
            });
        }
    }

    fn turns(&mut self, n: u32) {
        if self.life.bench.mode == Mode::Running {
            for _ in 0..n {
                self.life.bench.poll(1);
            }
        }
    }

    fn capture(&mut self) {
        if !self.life.is_captured() && self.dazed {
            // From here on the model takes the reset for one that it has to hide.
            (self.twin, self.known) = (None, None);
        }
        self.life.capture();
    }

    fn release(&mut self) {
        self.life.release();
        let known = self.known.as_ref().is_some_and(Known::is_greeted);
        if !self.life.is_captured() && known && !self.life.world.borrow().cts {
            // The PF was reset, and nobody has looked: now it is the guest's to see.
            self.see_reset();
        }
    }

    fn flr(&mut self) {
        self.forget_asked();
        self.life.reset();
        self.driver.forget();
        // Whoever has it next asks for these anew.
        let anew = |world: &mut World| {
            (world.filters.lpe, world.filters.unicast) = (0, Vec::new());
        };
        anew(&mut self.life.world.borrow_mut());
        if let Some(known) = &mut self.known {
            known.reset();
            known.world(anew);
        }
        if let Some(twin) = &mut self.twin {
            twin.flr(&mut self.life.world.borrow_mut());
            twin.world(anew);
        }
    }

    fn migrate(&mut self, how: u8) {
        if !self.life.is_captured()
            || !self.life.is_migratable()
            || self.life.reached.migrations >= MAX_MIGRATIONS
        {
            return;
        }
        let (refuses, pinned) = (how & 1 != 0, (how & 2 != 0).then_some([2, 0, 0, 0, 0, 9]));
        self.life.stop();
        let live = self.is_live();
        let (pinged, unanswered, refusing) = {
            let mut world = self.life.world.borrow_mut();
            let pinged = *world.reg(V2PMAILBOX) & (PFSTS | PFACK | RSTD) != 0;
            (pinged, world.unanswered, world.refusing)
        };
        let migrated = self.life.migrate(|world| {
            world.refusing = refuses;
            (world.pinned, world.filters.mac) = (pinned, pinned);
        });
        if migrated.is_ok() {
            if !live || refuses || pinned.is_some() {
                // A PF that knows nothing of it, or other things.
                (self.twin, self.known) = (None, None);
            }
            if pinged || unanswered || self.down || self.known.is_none() {
                // Bits that the guest has not seen stay behind, and what it holds while it waits.
                self.twin = None;
            }
            self.twin.iter_mut().for_each(|twin| twin.moved = true);
            self.down = false;
            self.compare();
            let mut world = self.life.world.borrow_mut();
            (world.silent, world.refusing) = (self.silent, refusing);
        } else {
            assert!(
                refuses || pinned.is_some() || self.known.is_none(),
                "refused: {migrated:?}"
            );
            self.life.reached.refused += 1;
        }
        self.life.start();
    }

    /// The PF knows what was agreed on.
    fn compare(&mut self) {
        if self.asked.is_some() || !self.life.is_migratable() {
            return;
        }
        if let Some(known) = &mut self.known {
            known.compare(&self.life.world.borrow());
            self.life.reached.accepted += 1;
        }
    }

    fn finish(&mut self) -> Reached {
        self.pf_up();
        self.silent = false;
        self.both(|world| (world.silent, world.refusing) = (false, false));
        self.both(World::answer);
        self.look();
        self.life.start();
        self.turns(RETRY_TURNS);
        self.look();
        self.compare();
        self.life.end()
    }
}
