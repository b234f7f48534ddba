// SPDX-License-Identifier: GPL-2.0

//! A kernel thread that works in turns.

use crate::bindings;
use core::ptr::NonNull;
use kernel::error::from_err_ptr;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};

/// What a [`Worker`] does.
pub trait Turn: Send + Sync + 'static {
    /// Works for a bounded time and returns how long to sleep until the next turn, in nanoseconds;
    /// 0 is until woken.
    fn turn(&self) -> u64;
}

/// What the thread and its owner share.
struct Shared<W> {
    work: W,
    /// Not 0 if the next sleep is to be skipped.
    woken: Atomic<u32>,
}

/// A running kernel thread; dropping it waits for the end of its turn, so do not hold what a turn needs.
///
/// # Invariants
///
/// `task` has not been stopped, hence it is alive.
pub struct Worker<W: Turn> {
    task: NonNull<bindings::task_struct>,
    shared: KBox<Shared<W>>,
}

// SAFETY: A thread can be woken and stopped from any other.
unsafe impl<W: Turn> Send for Worker<W> {}
// SAFETY: As above.
unsafe impl<W: Turn> Sync for Worker<W> {}

impl<W: Turn> Worker<W> {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// `ENOMEM` or `EINTR`.
    pub fn new(name: &CStr, work: W) -> Result<Self> {
        let shared = KBox::new(
            Shared {
                work,
                woken: Atomic::new(0),
            },
            GFP_KERNEL,
        )?;
        let data = core::ptr::from_ref(&*shared).cast_mut().cast();
        // SAFETY: `data` stays valid until the thread was stopped in `drop`. The name is copied.
        let task = from_err_ptr(unsafe {
            bindings::vfio_helper_kthread_run(Some(Self::run), data, name.as_char_ptr())
        })?;
        // INVARIANT: The thread ends only after `kthread_stop`.
        Ok(Self {
            task: NonNull::new(task).ok_or(ENOMEM)?,
            shared,
        })
    }

    /// Ends the sleep of the thread, or the next one.
    pub fn wake(&self) {
        // ORDERING: `wake_up_process` has a full barrier before it looks at the thread, which has one between going to sleep
        // and looking at this.
        self.shared.woken.store(1, Relaxed);
        // SAFETY: The thread is alive.
        unsafe { bindings::wake_up_process(self.task.as_ptr()) };
    }

    /// # Safety
    ///
    /// Called as a kernel thread, with a pointer to a `Shared<W>` that lives until the thread was stopped.
    unsafe extern "C" fn run(data: *mut c_void) -> c_int {
        // SAFETY: By this function's contract.
        let shared = unsafe { &*data.cast::<Shared<W>>() };
        // SAFETY: We are a kernel thread, here and below.
        while !unsafe { bindings::kthread_should_stop() } {
            let sleep_ns = shared.work.turn();
            // SAFETY: As above; nothing is locked, and the flag is atomic.
            unsafe { bindings::vfio_helper_sleep(sleep_ns, shared.woken.as_ptr()) };
        }
        0
    }
}

impl<W: Turn> Drop for Worker<W> {
    fn drop(&mut self) {
        // SAFETY: Alive, and stopped only here.
        unsafe { bindings::kthread_stop(self.task.as_ptr()) };
    }
}
