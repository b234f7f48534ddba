// SPDX-License-Identifier: GPL-2.0

//! The dirty scope of a container: what it reports as dirty.
//!
//! A type1 container reports all that it has mapped, until a driver pins a page. The page is pinned for a moment, and type1 has a
//! BUG for an unmap that comes meanwhile and has to wait too long: so it is done by a thread whose share of a processor no user
//! chooses.

use crate::vf::{Inner, Vf};
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::{new_condvar, new_mutex, Arc, CondVar, Mutex};
use vfio::worker::{Turn, Worker};
use vfio::Device;

/// Pages to try to pin, because some guest has memory there: the start of RAM, above the legacy hole, and
/// above 4 GiB.
const CANDIDATES: [u64; 3] = [0, 1 << 20, 4 << 30];

/// What the thread and whoever waits for it share.
#[pin_data]
struct Pin {
    dev: ARef<Device<Vf>>,
    /// Whether a page could be pinned, once that is known.
    #[pin]
    pinned: Mutex<Option<bool>>,
    #[pin]
    known: CondVar,
}

struct Pinner(Arc<Pin>);

/// One that a signal has ended the wait for.
pub(crate) struct Pinning {
    pin: Arc<Pin>,
    _thread: Worker<Pinner>,
}

impl Turn for Pinner {
    fn turn(&self) -> u64 {
        let pin = &self.0;
        // Nothing is held that whoever waits for us needs to go on: the page may have to come from user space.
        if pin.pinned.lock().is_none() {
            let pinned = CANDIDATES
                .iter()
                .any(|iova| pin.dev.narrow_dirty_scope(*iova).is_ok());
            *pin.pinned.lock() = Some(pinned);
            pin.known.notify_all();
        }
        0
    }
}

impl Inner {
    /// Has a container report what is written, and not all that it has mapped. Only for a user that enters PRE_COPY before it
    /// copies memory: for any other one, direct DMA of before the capture would stay unseen.
    pub(crate) fn narrow(&mut self, dev: &Device<Vf>) {
        let known = self.pinning.as_ref().and_then(|p| *p.pin.pinned.lock());
        if let Some(pinned) = known {
            (self.narrowed, self.pinning) = (pinned, None);
        }
        if self.narrowed || self.log.is_some() {
            return;
        }
        self.narrowed = self.pin_once(dev).unwrap_or(false);
        if !self.narrowed {
            dev_info_ratelimited!(
                dev,
                "semiassign: no page to pin: all memory is reported dirty\n"
            );
        }
    }

    /// Whether a page was pinned, or will have been: a signal ends the wait, and the thread, until the device is closed, does not
    /// end before it is done.
    fn pin_once(&mut self, dev: &Device<Vf>) -> Result<bool> {
        let pin = Arc::pin_init(
            pin_init!(Pin {
                dev: dev.into(),
                pinned <- new_mutex!(None, "semiassign:pinned"),
                known <- new_condvar!("semiassign:known"),
            }),
            GFP_KERNEL,
        )?;
        let thread = Worker::new(c"semiassign-pin", Pinner(pin.clone()))?;
        let mut pinned = pin.pinned.lock();
        while pinned.is_none() {
            if pin.known.wait_interruptible(&mut pinned) {
                break;
            }
        }
        let known = *pinned;
        drop(pinned);
        match known {
            Some(_) => drop(thread),
            // It may yet be.
            None => {
                let _thread = thread;
                self.pinning = Some(Pinning { pin, _thread });
            }
        }
        Ok(known.unwrap_or(true))
    }
}
