// SPDX-License-Identifier: GPL-2.0

//! The migration protocol, version 2: its states and the walk along its arcs.
//!
//! C header: [`include/uapi/linux/vfio.h`](srctree/include/uapi/linux/vfio.h)

use crate::bindings;
use crate::device::{Device, Operations};
use core::marker::PhantomData;
use kernel::error::to_result;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::aref::ARef;

/// Optional parts of the protocol that a driver offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub(crate) u32);

impl Flags {
    /// STOP_COPY alone, the least there is.
    pub const STOP_COPY: Self = Self(bindings::VFIO_MIGRATION_STOP_COPY);
    /// RUNNING_P2P and, with PRE_COPY, PRE_COPY_P2P.
    pub const P2P: Self = Self(bindings::VFIO_MIGRATION_P2P);
    /// PRE_COPY.
    pub const PRE_COPY: Self = Self(bindings::VFIO_MIGRATION_PRE_COPY);

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A state of the migration protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Needs a reset.
    Error = bindings::vfio_device_mig_state_VFIO_DEVICE_STATE_ERROR,
    /// Nothing moves.
    Stop = bindings::vfio_device_mig_state_VFIO_DEVICE_STATE_STOP,
    /// Normal operation.
    Running = bindings::vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING,
    /// Nothing moves, the state can be read.
    StopCopy = bindings::vfio_device_mig_state_VFIO_DEVICE_STATE_STOP_COPY,
    /// Nothing moves, a state can be written.
    Resuming = bindings::vfio_device_mig_state_VFIO_DEVICE_STATE_RESUMING,
    /// As RUNNING, but starts no DMA and no interrupt.
    RunningP2p = bindings::vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING_P2P,
    /// As RUNNING, and first data can be read.
    PreCopy = bindings::vfio_device_mig_state_VFIO_DEVICE_STATE_PRE_COPY,
    /// As RUNNING_P2P, and first data can be read.
    PreCopyP2p = bindings::vfio_device_mig_state_VFIO_DEVICE_STATE_PRE_COPY_P2P,
}

impl State {
    /// The name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Stop => "stop",
            Self::Running => "running",
            Self::StopCopy => "stop-copy",
            Self::Resuming => "resuming",
            Self::RunningP2p => "running-p2p",
            Self::PreCopy => "pre-copy",
            Self::PreCopyP2p => "pre-copy-p2p",
        }
    }

    fn from_raw(raw: bindings::vfio_device_mig_state) -> Option<Self> {
        [
            Self::Error,
            Self::Stop,
            Self::Running,
            Self::StopCopy,
            Self::Resuming,
            Self::RunningP2p,
            Self::PreCopy,
            Self::PreCopyP2p,
        ]
        .into_iter()
        .find(|s| *s as u32 == raw)
    }
}

/// Walks from `*state` to `to` along the arcs that the protocol defines, calling `step(from, to)` for each
/// and updating `*state` after each that succeeds.
///
/// # Errors
///
/// `EIO` from ERROR, which only a reset leaves; `EINVAL` if there is no way; or what `step` returned. `*state` is then the
/// last state reached.
pub fn walk<T: Operations>(
    dev: &Device<T>,
    state: &mut State,
    to: State,
    mut step: impl FnMut(State, State) -> Result<Option<ARef<File>>>,
) -> Result<Option<ARef<File>>> {
    if *state == State::Error {
        // The core takes this one for a mistake of the driver's, and warns.
        return Err(EIO);
    }
    let mut file = None;
    while *state != to {
        if file.is_some() {
            // Only a last arc yields a file; a driver that returns one earlier is wrong.
            return Err(EINVAL);
        }
        let mut next = 0;
        // SAFETY: The device is one that offers migration.
        to_result(unsafe {
            bindings::vfio_mig_get_next_state(dev.vdev(), *state as u32, to as u32, &mut next)
        })?;
        let next = State::from_raw(next).ok_or(EINVAL)?;
        file = step(*state, next)?;
        *state = next;
    }
    Ok(file)
}

/// `vfio_migration_ops` for `T`.
pub(crate) struct VTable<T>(PhantomData<T>);

impl<T: Operations> VTable<T> {
    pub(crate) const OPS: bindings::vfio_migration_ops = bindings::vfio_migration_ops {
        migration_set_state: Some(Self::set_state),
        migration_get_state: Some(Self::get_state),
        migration_get_data_size: Some(Self::get_data_size),
    };

    /// # Safety
    ///
    /// Called by the core for an open `Device<T>`.
    unsafe extern "C" fn set_state(
        vdev: *mut bindings::vfio_device,
        to: bindings::vfio_device_mig_state,
    ) -> *mut bindings::file {
        // SAFETY: The core calls this for our device.
        let dev = unsafe { Device::<T>::from_raw(vdev) };
        let result = State::from_raw(to)
            .ok_or(EINVAL)
            .and_then(|to| T::set_state(dev, to));
        match result {
            Ok(None) => core::ptr::null_mut(),
            // The core takes the reference over.
            Ok(Some(file)) => ARef::into_raw(file).as_ptr().cast(),
            Err(e) => e.to_ptr(),
        }
    }

    /// # Safety
    ///
    /// Called by the core for an open `Device<T>`.
    unsafe extern "C" fn get_state(
        vdev: *mut bindings::vfio_device,
        state: *mut bindings::vfio_device_mig_state,
    ) -> c_int {
        // SAFETY: The core calls this for our device, and lends `state`.
        unsafe { *state = T::state(Device::<T>::from_raw(vdev)) as u32 };
        0
    }

    /// # Safety
    ///
    /// Called by the core for an open `Device<T>`.
    unsafe extern "C" fn get_data_size(
        vdev: *mut bindings::vfio_device,
        bytes: *mut c_ulong,
    ) -> c_int {
        // SAFETY: The core calls this for our device, and lends `bytes`.
        unsafe { *bytes = T::data_bytes(Device::<T>::from_raw(vdev)) };
        0
    }
}
