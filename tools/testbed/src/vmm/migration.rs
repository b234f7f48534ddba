// SPDX-License-Identifier: GPL-2.0
//! The migration protocol of VFIO, version 2: states, data files, sizes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};

use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags};
use vfio_bindings::bindings::vfio;

use super::device::Device;

mod ioctl {
    use nix::{ioctl_readwrite_bad, request_code_none};
    use vfio_bindings::bindings::vfio;

    ioctl_readwrite_bad!(
        precopy_info,
        request_code_none!(vfio::VFIO_TYPE, vfio::VFIO_BASE + 21),
        vfio::vfio_precopy_info
    );
}

/// The most that frames take in an image.
const HELD_BYTES: u64 = 288 * 1024;

/// The states by VFIO's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    Stop = 1,
    Running = 2,
    StopCopy = 3,
    Resuming = 4,
    RunningP2p = 5,
    PreCopy = 6,
    PreCopyP2p = 7,
}

impl State {
    pub const ALL: [Self; 7] = [
        Self::Stop,
        Self::Running,
        Self::StopCopy,
        Self::Resuming,
        Self::RunningP2p,
        Self::PreCopy,
        Self::PreCopyP2p,
    ];

    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u32 == number)
    }
}

impl Device {
    /// Asks for a state by number, known or not. A data file comes with those that begin to save or to resume.
    pub fn try_state(&self, to: u32) -> nix::Result<Option<File>> {
        let mut state = vfio::vfio_device_feature_mig_state {
            device_state: to,
            data_fd: -1,
        };
        // SAFETY: The payload of this feature.
        unsafe {
            self.feature(
                vfio::VFIO_DEVICE_FEATURE_SET | vfio::VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
                &mut state,
            )
        }?;
        // SAFETY: What the kernel returned is a descriptor that is ours.
        Ok((state.data_fd >= 0).then(|| unsafe { File::from_raw_fd(state.data_fd) }))
    }

    /// Moves to a state that yields no data file.
    pub fn go(&self, to: State) -> Result<()> {
        let file = self
            .try_state(to as u32)
            .with_context(|| format!("cannot go to {to:?}"))?;
        ensure!(file.is_none(), "{to:?} yields a data file");
        Ok(())
    }

    /// Moves to a state that yields a data file.
    pub fn open_data(&self, to: State) -> Result<File> {
        self.try_state(to as u32)
            .with_context(|| format!("cannot go to {to:?}"))?
            .with_context(|| format!("{to:?} yields no data file"))
    }

    pub fn state(&self) -> Result<State> {
        let mut state = vfio::vfio_device_feature_mig_state {
            device_state: 0,
            data_fd: -1,
        };
        // SAFETY: The payload of this feature.
        unsafe {
            self.feature(
                vfio::VFIO_DEVICE_FEATURE_GET | vfio::VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
                &mut state,
            )
        }
        .context("cannot get the state")?;
        State::from_number(state.device_state)
            .with_context(|| format!("state {} is none of a device", state.device_state))
    }

    /// What STOP_COPY is said to yield, in bytes.
    pub fn data_bytes(&self) -> Result<u64> {
        let mut size = vfio::vfio_device_feature_mig_data_size::default();
        // SAFETY: The payload of this feature.
        unsafe {
            self.feature(
                vfio::VFIO_DEVICE_FEATURE_GET | vfio::VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
                &mut size,
            )
        }
        .context("cannot get the data size")?;
        Ok(size.stop_copy_length)
    }
}

/// Bytes that came first, and bytes that came later, of what can be read in PRE_COPY.
pub fn precopy_info(file: &File) -> nix::Result<(u64, u64)> {
    let mut info = vfio::vfio_precopy_info {
        argsz: size_of::<vfio::vfio_precopy_info>() as u32,
        ..Default::default()
    };
    // SAFETY: The structure is as long as it says.
    unsafe { ioctl::precopy_info(file.as_raw_fd(), &mut info) }?;
    Ok((info.initial_bytes, info.dirty_bytes))
}

/// Reads what there is in PRE_COPY.
pub fn read_precopy(mut file: &File, image: &mut Vec<u8>) -> Result<()> {
    let mut chunk = [0; 999];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => bail!("the image ends in PRE_COPY"),
            Ok(count) => image.extend_from_slice(&chunk[..count]),
            Err(error) if error.raw_os_error() == Some(Errno::ENOMSG as i32) => break,
            Err(error) => return Err(error).context("cannot read in PRE_COPY"),
        }
    }
    let (initial, dirty) = precopy_info(file).context("no VFIO_MIG_GET_PRECOPY_INFO")?;
    ensure!(
        (initial, dirty) == (0, 0),
        "all was read, and {initial} and {dirty} bytes are left"
    );
    ensure!(
        !wait_readable(file, 0)?,
        "all was read, and poll() says that there is more"
    );
    Ok(())
}

/// Whether there is something to read within so many milliseconds.
pub fn wait_readable(file: &File, limit_ms: u16) -> Result<bool> {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, limit_ms).context("cannot poll")? > 0)
}

/// The whole image of a device that runs, by way of PRE_COPY; it ends in STOP_COPY. `before_stop` runs in PRE_COPY.
pub fn save(device: &Device, before_stop: impl FnOnce() -> Result<()>) -> Result<(Vec<u8>, File)> {
    let mut file = device.open_data(State::PreCopy)?;
    let mut image = Vec::new();
    let (initial, _) = precopy_info(&file).context("no VFIO_MIG_GET_PRECOPY_INFO")?;
    ensure!(initial > 0, "PRE_COPY begins with nothing to read");
    read_precopy(&file, &mut image)?;
    before_stop()?;
    device.go(State::PreCopyP2p)?;
    device.go(State::StopCopy)?;
    ensure!(
        wait_readable(&file, 0)?,
        "STOP_COPY, and poll() says that there is nothing to read"
    );
    let bytes = device.data_bytes()?;
    let had = image.len();
    file.read_to_end(&mut image)
        .context("cannot read in STOP_COPY")?;
    // What was received since is in the image, and was not in the estimate.
    ensure!(
        bytes + HELD_BYTES >= (image.len() - had) as u64,
        "STOP_COPY yields {} bytes, {bytes} were announced",
        image.len() - had
    );
    Ok((image, file))
}

/// How a device that was to resume from something took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// `write()` refused it.
    RefusedByWrite(Errno),
    /// RESUMING → STOP refused it.
    RefusedByArc(Errno),
    Accepted,
}

/// Resumes from `image`, in writes of `chunk` bytes: the device ends in RESUMING if it refuses, else in STOP.
pub fn load(device: &Device, image: &[u8], chunk: usize) -> Result<Taken> {
    let mut file = device.open_data(State::Resuming)?;
    for part in image.chunks(chunk) {
        if let Err(error) = file.write_all(part) {
            return Ok(Taken::RefusedByWrite(errno(&error)));
        }
    }
    Ok(match device.try_state(State::Stop as u32) {
        Ok(_) => Taken::Accepted,
        Err(error) => Taken::RefusedByArc(error),
    })
}

pub fn errno(error: &std::io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}
