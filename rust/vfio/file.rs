// SPDX-License-Identifier: GPL-2.0

//! The data file of a migration.

use crate::bindings;
use crate::device::Operations;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::error::from_err_ptr;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::poll::PollTable;
use kernel::sync::{Arc, ArcBorrow};
use kernel::types::ForeignOwnable;
use kernel::uaccess::{UserPtr, UserSlice, UserSliceReader, UserSliceWriter};
use kernel::ModuleMetadata;

/// What `VFIO_MIG_GET_PRECOPY_INFO` reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrecopyInfo {
    /// Bytes of the first data that were not read yet.
    pub initial_bytes: u64,
    /// Bytes that came later and were not read yet.
    pub dirty_bytes: u64,
}

/// What is behind a data file. Callbacks may run concurrently, and outlive the session and the device.
pub trait DataFile: Send + Sync + 'static {
    /// The driver whose module must stay while the file is open.
    type Driver: Operations;

    /// Reads the next bytes of the image.
    ///
    /// # Errors
    ///
    /// `ENOMSG` if there is nothing now (PRE_COPY only), `ENODEV` after the session.
    fn read(&self, to: &mut UserSliceWriter) -> Result<usize>;

    /// Takes over the next bytes of an image.
    ///
    /// # Errors
    ///
    /// `EINVAL` or `EOPNOTSUPP` if the image is refused, `ENODEV` after the session.
    fn write(&self, from: &mut UserSliceReader) -> Result<usize>;

    /// What there is to read before STOP_COPY.
    ///
    /// # Errors
    ///
    /// `EINVAL` outside PRE_COPY, `ENODEV` after the session.
    fn precopy_info(&self) -> Result<PrecopyInfo>;

    /// Whether [`read`](Self::read) or [`write`](Self::write) has something to say at once, be it an error. Whoever is to hear
    /// of a change is registered with `table` before that is looked at.
    fn poll(&self, file: &File, table: PollTable<'_>) -> bool;

    /// The last reference to the file is gone.
    fn release(&self);
}

/// Which way a data file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The user reads.
    Saving,
    /// The user writes.
    Resuming,
}

/// Opens a data file on `data`. [`DataFile::release`] is called once, when its last reference is gone.
///
/// # Errors
///
/// `ENOMEM` or `ENFILE`.
pub fn open<F: DataFile>(name: &CStr, data: Arc<F>, direction: Direction) -> Result<ARef<File>> {
    let private = data.into_foreign();
    // SAFETY: The file takes `private` over, if it is made.
    let file = from_err_ptr(unsafe {
        bindings::vfio_helper_data_file(
            name.as_char_ptr(),
            &VTable::<F>::OPS,
            private,
            direction == Direction::Resuming,
        )
    });
    match file {
        // SAFETY: We own the first reference of a file that no other thread has yet.
        Ok(file) => Ok(unsafe { ARef::from_raw(NonNull::new(file.cast::<File>()).ok_or(ENOMEM)?) }),
        Err(e) => {
            // SAFETY: No file took it over.
            drop(unsafe { Arc::<F>::from_foreign(private) });
            Err(e)
        }
    }
}

struct VTable<F>(PhantomData<F>);

impl<F: DataFile> VTable<F> {
    const OPS: bindings::file_operations = bindings::file_operations {
        owner: <<F::Driver as Operations>::Module as ModuleMetadata>::THIS_MODULE.as_ptr(),
        read: Some(Self::read),
        write: Some(Self::write),
        poll: Some(Self::poll),
        unlocked_ioctl: Some(Self::ioctl),
        compat_ioctl: bindings::compat_ptr_ioctl,
        release: Some(Self::release),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `file` was made by [`open`] and is not being released.
    unsafe fn borrow<'a>(file: *mut bindings::file) -> ArcBorrow<'a, F> {
        // SAFETY: By this function's contract.
        unsafe { Arc::<F>::borrow((*file).private_data) }
    }

    /// # Safety
    ///
    /// Called for an open data file.
    unsafe extern "C" fn read(
        file: *mut bindings::file,
        buf: *mut c_char,
        count: usize,
        pos: *mut i64,
    ) -> isize {
        if !pos.is_null() {
            return ESPIPE.to_errno() as isize;
        }
        // SAFETY: Called for an open data file.
        let data = unsafe { Self::borrow(file) };
        let mut to = UserSlice::new(UserPtr::from_ptr(buf.cast()), count).writer();
        data.read(&mut to)
            .map_or_else(|e| e.to_errno() as isize, |n| n as isize)
    }

    /// # Safety
    ///
    /// Called for an open data file.
    unsafe extern "C" fn write(
        file: *mut bindings::file,
        buf: *const c_char,
        count: usize,
        pos: *mut i64,
    ) -> isize {
        if !pos.is_null() {
            return ESPIPE.to_errno() as isize;
        }
        // SAFETY: Called for an open data file.
        let data = unsafe { Self::borrow(file) };
        let mut from = UserSlice::new(UserPtr::from_ptr(buf.cast_mut().cast()), count).reader();
        data.write(&mut from)
            .map_or_else(|e| e.to_errno() as isize, |n| n as isize)
    }

    /// # Safety
    ///
    /// Called for an open data file, with a table that is NULL or valid.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: Called for an open data file; its user has a reference for the time of the call, and `f_pos` is not used.
        let (data, file) = unsafe { (Self::borrow(file), File::from_raw_file(file.cast())) };
        // SAFETY: By this function's contract.
        let table = unsafe { PollTable::from_raw(table.cast()) };
        if data.poll(file, table) {
            READY
        } else {
            0
        }
    }

    /// # Safety
    ///
    /// Called for an open data file.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: Called for an open data file.
        let data = unsafe { Self::borrow(file) };
        let result = (|| {
            if cmd != VFIO_MIG_GET_PRECOPY_INFO {
                return Err(ENOTTY);
            }
            let bytes = size_of::<bindings::vfio_precopy_info>();
            let (mut reader, mut writer) =
                UserSlice::new(UserPtr::from_addr(arg), bytes).reader_writer();
            let argsz = reader.read::<u32>()?;
            if (argsz as usize) < bytes {
                return Err(EINVAL);
            }
            let now = data.precopy_info()?;
            // The members of `vfio_precopy_info` in their order: argsz, flags, initial and dirty bytes.
            writer.write::<u32>(&argsz)?;
            writer.write::<u32>(&0)?;
            writer.write::<u64>(&now.initial_bytes)?;
            writer.write::<u64>(&now.dirty_bytes)
        })();
        to_long(result)
    }

    /// # Safety
    ///
    /// Called once, for the last reference of a data file.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: Left here by `open`, taken back once.
        let data = unsafe { Arc::<F>::from_foreign((*file).private_data) };
        data.release();
        0
    }
}

/// EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM: a file is open for one of the two only.
const READY: bindings::__poll_t = 0x1 | 0x40 | 0x4 | 0x100;

fn to_long(result: Result) -> c_long {
    match result {
        Ok(()) => 0,
        Err(e) => e.to_errno() as c_long,
    }
}

/// `_IO(VFIO_TYPE, VFIO_BASE + 21)`.
const VFIO_MIG_GET_PRECOPY_INFO: u32 = kernel::ioctl::_IO(b';' as u32, 121);
