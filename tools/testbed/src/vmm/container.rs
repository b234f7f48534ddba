// SPDX-License-Identifier: GPL-2.0
//! A type1 container with one group: DMA mappings and the dirty bitmap.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nix::errno::Errno;
use vfio_bindings::bindings::vfio;

use super::logging::marked;
use super::memory::PAGE;
use crate::clock::wait_for;
use crate::host;

mod ioctl {
    use nix::{ioctl_readwrite_bad, ioctl_write_int_bad, ioctl_write_ptr_bad, request_code_none};
    use vfio_bindings::bindings::vfio;

    const fn code(number: u32) -> u64 {
        request_code_none!(vfio::VFIO_TYPE, vfio::VFIO_BASE + number)
    }

    ioctl_write_int_bad!(set_iommu, code(2));
    ioctl_readwrite_bad!(group_status, code(3), vfio::vfio_group_status);
    ioctl_write_ptr_bad!(set_container, code(4), i32);
    ioctl_write_ptr_bad!(device_fd, code(6), std::ffi::c_char);
    ioctl_write_ptr_bad!(map_dma, code(13), vfio::vfio_iommu_type1_dma_map);
    ioctl_readwrite_bad!(unmap_dma, code(14), vfio::vfio_iommu_type1_dma_unmap);
    ioctl_readwrite_bad!(dirty_pages, code(17), super::DirtyBitmap);
}

/// `vfio_iommu_type1_dirty_bitmap` with its payload.
#[repr(C)]
pub struct DirtyBitmap {
    argsz: u32,
    flags: u32,
    get: vfio::vfio_iommu_type1_dirty_bitmap_get,
}

/// Both files are there until the last user of the device is gone, in whatever order they are closed.
pub struct Container {
    file: File,
    group: File,
}

impl Container {
    /// A new container with the group of a VF, and nothing mapped.
    pub fn open(bdf: &str) -> Result<Self> {
        let link = fs::read_link(host::device(bdf).join("iommu_group"))
            .with_context(|| format!("{bdf} is in no IOMMU group"))?;
        let number = link.file_name().context("odd link")?.to_string_lossy();
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_CLOEXEC);
        let file = options.open("/dev/vfio/vfio").context("no VFIO")?;
        // Whoever had it last may still be closing it.
        let path = format!("/dev/vfio/{number}");
        let group = wait_for(&path, Duration::from_secs(20), || {
            match options.open(&path) {
                Ok(group) => Ok(Some(group)),
                Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => Ok(None),
                Err(error) => Err(error).with_context(|| format!("cannot open {path}")),
            }
        })?;
        let mut status = vfio::vfio_group_status {
            argsz: size_of::<vfio::vfio_group_status>() as u32,
            flags: 0,
        };
        // SAFETY: The structure is as long as it says.
        unsafe { ioctl::group_status(group.as_raw_fd(), &mut status) }?;
        ensure!(
            status.flags & vfio::VFIO_GROUP_FLAGS_VIABLE != 0,
            "the group of {bdf} is not viable"
        );
        // SAFETY: The kernel reads one descriptor's number.
        unsafe { ioctl::set_container(group.as_raw_fd(), &file.as_raw_fd()) }
            .context("cannot add the group")?;
        // SAFETY: Takes a number.
        unsafe { ioctl::set_iommu(file.as_raw_fd(), vfio::VFIO_TYPE1v2_IOMMU as i32) }
            .context("no type1 IOMMU")?;
        Ok(Self { file, group })
    }

    /// A descriptor of the device.
    pub fn device(&self, bdf: &str) -> Result<File> {
        let name = std::ffi::CString::new(bdf)?;
        // SAFETY: The kernel reads a string; what it returns is a descriptor that is ours.
        unsafe {
            let fd = ioctl::device_fd(self.group.as_raw_fd(), name.as_ptr())
                .with_context(|| format!("cannot open {bdf}"))?;
            Ok(std::os::fd::FromRawFd::from_raw_fd(fd))
        }
    }

    /// Maps what our address space has at `address`: memory, or a BAR.
    pub fn map(&self, iova: u64, address: u64, len: usize) -> nix::Result<()> {
        let map = vfio::vfio_iommu_type1_dma_map {
            argsz: size_of::<vfio::vfio_iommu_type1_dma_map>() as u32,
            flags: vfio::VFIO_DMA_MAP_FLAG_READ | vfio::VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: address,
            iova,
            size: len as u64,
        };
        // SAFETY: The structure is as long as it says; the kernel checks what is at the address, and pins it.
        unsafe { ioctl::map_dma(self.file.as_raw_fd(), &map) }.map(drop)
    }

    /// Returns the bytes that were unmapped.
    pub fn unmap(&self, iova: u64, len: usize) -> nix::Result<u64> {
        let mut unmap = vfio::vfio_iommu_type1_dma_unmap {
            argsz: size_of::<vfio::vfio_iommu_type1_dma_unmap>() as u32,
            flags: 0,
            iova,
            size: len as u64,
            data: Default::default(),
        };
        // SAFETY: The structure is as long as it says.
        unsafe { ioctl::unmap_dma(self.file.as_raw_fd(), &mut unmap) }?;
        Ok(unmap.size)
    }

    pub fn start_tracking(&self) -> Result<()> {
        self.dirty(vfio::VFIO_IOMMU_DIRTY_PAGES_FLAG_START, 0, &mut [])
            .context("cannot start tracking")
    }

    pub fn stop_tracking(&self) -> Result<()> {
        self.dirty(vfio::VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP, 0, &mut [])
            .context("cannot stop tracking")
    }

    /// The pages of a mapping from IOVA 0 that were written since it was asked for last.
    pub fn dirty_pages(&self, len: usize) -> Result<Vec<usize>> {
        let pages = len / PAGE;
        let mut bitmap = vec![0_u64; pages.div_ceil(64)];
        self.dirty(
            vfio::VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
            len as u64,
            &mut bitmap,
        )
        .context("cannot get the dirty bitmap")?;
        Ok(marked(&bitmap, pages))
    }

    fn dirty(&self, flags: u32, len: u64, bitmap: &mut [u64]) -> nix::Result<()> {
        let mut request = DirtyBitmap {
            argsz: size_of::<DirtyBitmap>() as u32,
            flags,
            get: vfio::vfio_iommu_type1_dirty_bitmap_get {
                iova: 0,
                size: len,
                bitmap: vfio::vfio_bitmap {
                    pgsize: PAGE as u64,
                    size: size_of_val(bitmap) as u64,
                    data: bitmap.as_mut_ptr(),
                },
            },
        };
        // SAFETY: The structure is as long as it says, and so is the bitmap that it points to.
        unsafe { ioctl::dirty_pages(self.file.as_raw_fd(), &mut request) }.map(drop)
    }
}
