// SPDX-License-Identifier: GPL-2.0

//! A guest's view of a VF: QEMU's own, or ours in front of QEMU's, as the kernel drives it.

use igbvf::{Igbvf, LAYOUT};
use model::adapter::{Adapter, Io};
use model::image::{Decoder, Encoder, Reader, Step, Tag, MAX_SECTION_BYTES};
use model::io::Registers;
use model::mock::Page;

use crate::host::{Host, Memory, Mirror, Shared, Vf};
use crate::pf::Mode;

/// Frames that a turn of the worker moves each way.
const BUDGET: u32 = 64;
/// Turns until all has to be at rest.
const TURNS: u32 = 200;

pub struct Side {
    pub host: Shared,
    ours: Option<Ours>,
}

struct Ours {
    model: Igbvf,
    page: Page,
    captured: bool,
}

impl Ours {
    fn new(hw: &mut Vf) -> Self {
        let mut model = Igbvf::new();
        model.reset(hw, None);
        Self {
            model,
            page: Page::new(LAYOUT.substituted.0, LAYOUT.substituted.1),
            captured: false,
        }
    }

    fn with<R>(&mut self, host: &Shared, f: impl FnOnce(&mut Igbvf, &mut Io<'_>) -> R) -> R {
        let mut io = Io {
            hw: &mut Vf(host.clone()),
            page: &mut self.page,
            mem: &mut Memory(host.clone()),
            mirror: &mut Mirror(host.clone()),
        };
        f(&mut self.model, &mut io)
    }

    fn page(&mut self) -> (&mut Igbvf, Option<&mut dyn Registers>) {
        let page: Option<&mut dyn Registers> = if self.captured {
            Some(&mut self.page)
        } else {
            None
        };
        (&mut self.model, page)
    }
}

impl Side {
    /// QEMU's VF as it is.
    pub fn direct() -> Self {
        Self {
            host: Host::start(),
            ours: None,
        }
    }

    /// The model with QEMU's VF behind it.
    pub fn ours() -> Self {
        let host = Host::start();
        let ours = Ours::new(&mut Vf(host.clone()));
        Self {
            host,
            ours: Some(ours),
        }
    }

    /// Begins anew.
    pub fn renew(&mut self, mode: Mode) {
        self.host.borrow_mut().renew(mode);
        if let Some(ours) = &mut self.ours {
            *ours = Ours::new(&mut Vf(self.host.clone()));
        }
    }

    pub fn is_captured(&self) -> bool {
        self.ours.as_ref().is_some_and(|ours| ours.captured)
    }

    /// A load of the guest.
    pub fn load(&mut self, at: u32) -> u32 {
        match &mut self.ours {
            Some(ours) if at < LAYOUT.trapped.1 => {
                let (model, page) = ours.page();
                model.read(at, &mut Vf(self.host.clone()), page)
            }
            Some(ours) if ours.captured && at >= LAYOUT.substituted.0 => ours.page.read32(at),
            _ => self.host.borrow_mut().read(at),
        }
    }

    /// A store of the guest.
    pub fn store(&mut self, at: u32, val: u32) {
        match &mut self.ours {
            Some(ours) if at < LAYOUT.trapped.1 => {
                let (model, page) = ours.page();
                model.write(at, val, &mut Vf(self.host.clone()), page);
            }
            Some(ours) if ours.captured && at >= LAYOUT.substituted.0 => {
                ours.page.write32(at, val);
            }
            _ => self.host.borrow_mut().write(at, val),
        }
    }

    /// Runs `f` on the model, if the VF is captured.
    fn while_captured(&mut self, f: impl FnOnce(&mut Ours, &Shared)) {
        if let Some(ours) = self.ours.as_mut().filter(|ours| ours.captured) {
            f(ours, &self.host);
        }
    }

    /// Lets the worker run until nothing moves.
    ///
    /// # Errors
    ///
    /// It goes on and on.
    pub fn poll(&mut self) -> Result<(), String> {
        let Some(ours) = self.ours.as_mut().filter(|ours| ours.captured) else {
            return Ok(());
        };
        for _ in 0..TURNS {
            let progress = ours.with(&self.host, |model, io| model.poll(io, BUDGET));
            if progress.frames == 0 && !progress.more {
                return Ok(());
            }
        }
        Err("the model never comes to rest".to_owned())
    }

    /// Takes the VF over from the guest; `frames` arrive when it is locked out already and the VF still runs.
    pub fn capture(&mut self, frames: &[Vec<u8>]) {
        let Some(ours) = self.ours.as_mut().filter(|ours| !ours.captured) else {
            return;
        };
        let mut hw = Vf(self.host.clone());
        ours.model.snapshot(&mut hw, &mut ours.page);
        ours.captured = true;
        self.host.borrow_mut().receive(frames);
        ours.model.quiesce(&mut hw, &mut ours.page).unwrap();
        self.host.borrow_mut().keep();
        self.host.borrow_mut().spoil_contexts();
        ours.with(&self.host, |model, io| model.start(io));
    }

    /// Gives the VF back to the guest.
    pub fn release(&mut self) {
        self.while_captured(|ours, host| {
            let mut hw = Vf(host.clone());
            ours.with(host, |model, io| model.stop(io)).unwrap();
            assert_eq!(ours.model.held(), 0, "frames are held for no reason");
            host.borrow_mut().kept = None;
            ours.model.hand_back(&mut hw, &mut ours.page).unwrap();
            ours.captured = false;
            ours.model.raise_all(&mut hw);
        });
    }

    /// Stops the device and runs it again.
    pub fn stop(&mut self) {
        self.while_captured(|ours, host| {
            ours.with(host, |model, io| model.stop(io)).unwrap();
        });
    }

    pub fn start(&mut self) {
        self.while_captured(|ours, host| {
            host.borrow_mut().spoil_contexts();
            ours.with(host, |model, io| model.start(io));
        });
    }

    /// Saves the device, resets the VF, and has a new model restore it there.
    pub fn migrate(&mut self) {
        self.capture(&[]);
        self.while_captured(|ours, host| {
            let image = save(ours, host);
            host.borrow_mut().leave();
            let mut hw = Vf(host.clone());
            *ours = Ours::new(&mut hw);
            ours.model.snapshot(&mut hw, &mut ours.page);
            ours.captured = true;
            ours.model.quiesce(&mut hw, &mut ours.page).unwrap();
            restore(ours, host, &image);
            ours.with(host, |model, io| model.start(io));
            ours.model.raise_all(&mut hw);
        });
    }

    /// A reset from outside, as VFIO does it for its user.
    pub fn flr(&mut self) {
        self.host.borrow_mut().flr();
        if let Some(ours) = &mut self.ours {
            let (model, page) = ours.page();
            model.reset(&mut Vf(self.host.clone()), page);
        }
    }

    /// Frames that the model has dropped or held.
    pub fn complaints(&self) -> Vec<(&'static str, u64)> {
        let Some(ours) = &self.ours else {
            return Vec::new();
        };
        let c = ours.model.counters();
        vec![
            ("dropped_tx_malformed", c.dropped_tx_malformed),
            ("dropped_tx_unmapped", c.dropped_tx_unmapped),
            ("dropped_rx_unmapped", c.dropped_rx_unmapped),
            ("dropped_rx_no_room", c.dropped_rx_no_room),
            ("dropped_rx_malformed", c.dropped_rx_malformed),
            ("bad_rings", c.bad_rings),
            ("repaired", c.repaired),
        ]
    }
}

/// The image of the device, which is stopped for it.
fn save(ours: &mut Ours, host: &Shared) -> Vec<u8> {
    ours.with(host, |model, io| model.stop(io)).unwrap();
    let mut buf = vec![0; MAX_SECTION_BYTES];
    let mut encoder = Encoder::new(&LAYOUT);
    let mut image = Vec::new();
    let mut add = |buf: &[u8], n: usize| image.extend_from_slice(&buf[..n]);
    let n = encoder.header(&mut buf).unwrap();
    add(&buf, n);
    let Ours { model, page, .. } = ours;
    let n = encoder
        .section(&mut buf, Tag::Control, |w| model.save_control(w))
        .unwrap();
    add(&buf, n);
    let mut hw = Vf(host.clone());
    let n = encoder
        .section(&mut buf, Tag::State, |w| model.save_state(&mut hw, page, w))
        .unwrap();
    add(&buf, n);
    for i in 0..model.held() {
        let mut mirror = Mirror(host.clone());
        let n = encoder
            .section(&mut buf, Tag::Held, |w| model.save_held(i, &mut mirror, w))
            .unwrap();
        add(&buf, n);
    }
    let n = encoder.end(&mut buf).unwrap();
    add(&buf, n);
    image
}

fn restore(ours: &mut Ours, host: &Shared, image: &[u8]) {
    let mut hw = Vf(host.clone());
    let mut decoder = Decoder::new(&LAYOUT);
    let Ours { model, page, .. } = ours;
    let mut rest = image.to_vec();
    loop {
        let used = match decoder.step(&rest).unwrap() {
            Step::NeedMore => panic!("the image is cut off"),
            Step::Header { consumed } => consumed,
            Step::Section {
                tag,
                start,
                end,
                consumed,
            } => {
                let mut r = Reader::new(&rest[start..end]);
                match tag {
                    Tag::Control => model.load_control(&mut r, &mut hw).unwrap(),
                    Tag::State => model.load_state(&mut r, &mut hw, page).unwrap(),
                    Tag::Held => model.load_held(&mut r, &mut Mirror(host.clone())).unwrap(),
                    Tag::End => {
                        model.replay_control(&mut hw).unwrap();
                        return model.listen(&mut hw, page, &mut Mirror(host.clone()));
                    }
                }
                consumed
            }
        };
        rest.drain(..used);
    }
}
