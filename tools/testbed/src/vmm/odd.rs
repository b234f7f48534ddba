// SPDX-License-Identifier: GPL-2.0
//! Requests that make no sense, and what the kernel has to say to them.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{ensure, Result};
use nix::errno::Errno;
use nix::libc;
use vfio_bindings::bindings::vfio;

use super::device::Device;

/// To the device.
#[derive(Clone, Copy, Debug)]
pub enum Odd {
    /// `SET` of the state without its file.
    ShortState,
    /// `GET` of the state without its file.
    ShortAnswer,
    GetAndSet,
    NeitherGetNorSet,
    SetDataSize,
    SetMigration,
    UnknownFeature,
    UnknownFlag,
    StateZero,
    StateNobodyHas,
    /// The only one that is answered: whether the state can be set.
    Probe,
}

impl Odd {
    pub const ALL: [Self; 11] = [
        Self::ShortState,
        Self::ShortAnswer,
        Self::GetAndSet,
        Self::NeitherGetNorSet,
        Self::SetDataSize,
        Self::SetMigration,
        Self::UnknownFeature,
        Self::UnknownFlag,
        Self::StateZero,
        Self::StateNobodyHas,
        Self::Probe,
    ];

    pub fn ask(self, device: &Device) -> nix::Result<()> {
        use vfio::{
            VFIO_DEVICE_FEATURE_GET as GET, VFIO_DEVICE_FEATURE_MIGRATION as MIGRATION,
            VFIO_DEVICE_FEATURE_MIG_DATA_SIZE as DATA_SIZE,
            VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE as STATE, VFIO_DEVICE_FEATURE_PROBE as PROBE,
            VFIO_DEVICE_FEATURE_SET as SET,
        };
        let stop = [1, 0];
        match self {
            Self::ShortState => send(device, SET | STATE, [1]),
            Self::ShortAnswer => send(device, GET | STATE, [0]),
            Self::GetAndSet => send(device, GET | SET | STATE, stop),
            Self::NeitherGetNorSet => send(device, STATE, stop),
            Self::SetDataSize => send(device, SET | DATA_SIZE, stop),
            Self::SetMigration => send(device, SET | MIGRATION, stop),
            Self::UnknownFeature => send(device, GET | 0xfff, stop),
            Self::UnknownFlag => send(device, 1 << 20 | GET | STATE, stop),
            Self::StateZero => send(device, SET | STATE, [0, 0]),
            Self::StateNobodyHas => send(device, SET | STATE, [9, 0]),
            Self::Probe => send(device, PROBE | GET | SET | STATE, stop),
        }
    }

    pub fn answer(self) -> nix::Result<()> {
        match self {
            Self::Probe => Ok(()),
            Self::UnknownFeature => Err(Errno::ENOTTY),
            _ => Err(Errno::EINVAL),
        }
    }
}

fn send<const N: usize>(device: &Device, flags: u32, mut payload: [u32; N]) -> nix::Result<()> {
    // SAFETY: No answer is longer than what it answers: the kernel writes a payload only if it is as long as asked for.
    unsafe { device.feature(flags, &mut payload) }
}

/// To a data file: none of it is answered, whatever the file is.
pub fn ask_file(file: &File) -> Result<()> {
    let mut short = [8u32, 0, 0, 0, 0, 0];
    let (precopy_info, unknown) = (request(121), request(122));
    for (what, code, expected) in [
        (
            "a short VFIO_MIG_GET_PRECOPY_INFO",
            precopy_info,
            &[Errno::EINVAL, Errno::ENOTTY][..],
        ),
        ("an unknown ioctl", unknown, &[Errno::ENOTTY]),
    ] {
        // SAFETY: The argument is as long as any answer.
        let result = Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), code, &raw mut short) });
        ensure!(
            result.is_err_and(|error| expected.contains(&error)),
            "{what}: {result:?}"
        );
    }
    let mut byte = 0u8;
    // SAFETY: One byte is there.
    let result =
        Errno::result(unsafe { libc::pread(file.as_raw_fd(), (&raw mut byte).cast(), 1, 0) });
    ensure!(
        matches!(result, Err(Errno::ESPIPE | Errno::EBADF)),
        "reading from a position: {result:?}"
    );
    Ok(())
}

/// `_IO(VFIO_TYPE, n)`.
fn request(n: u64) -> u64 {
    u64::from(vfio::VFIO_TYPE) << 8 | n
}
