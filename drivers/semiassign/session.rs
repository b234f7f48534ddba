// SPDX-License-Identifier: GPL-2.0

//! The data file of a migration: saving and resuming.
//!
//! The stream lives in the VF, the file only knows which one it belongs to. So a file that outlives its
//! session finds nothing, and there is one lock.

use crate::capture::{self, Mode, Motion};
use crate::lend::{Mirror, RamPages, RealVf};
use crate::status::elapsed_ns;
use crate::vf::{Inner, Vf};
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::poll::PollTable;
use kernel::sync::Arc;
use kernel::time::Instant;
use kernel::uaccess::{UserSliceReader, UserSliceWriter};
use model::adapter::Layout;
use model::image::{self, Decoder, Encoder, Refused, Step, Tag};
use vfio::file::{DataFile, Direction, PrecopyInfo};
use vfio::migration::State;
use vfio::Device;

/// Estimate of an image without held frames, in bytes.
const STATE_BYTES: usize = 4096;
/// Most bytes of a held frame in the image.
const HELD_BYTES: usize = 16 * 1024;
/// Taken from the writer at a time, in bytes.
const CHUNK_BYTES: usize = 4096;

/// What is being transferred.
pub(crate) enum Session {
    None,
    Saving(Saving),
    Resuming(Resuming),
}

pub(crate) struct Saving {
    id: u64,
    encoder: Encoder,
    /// Room for a section, which is encoded here first.
    section: KVVec<u8>,
    /// Encoded; the first `read` bytes were taken by the user.
    out: KVVec<u8>,
    read: usize,
    /// Of `out`, the first data that must arrive before anything else.
    initial: usize,
    /// The control record that was last encoded.
    generation: u32,
    complete: bool,
}

pub(crate) struct Resuming {
    id: u64,
    decoder: Decoder,
    /// Received and not decoded yet: less than one section.
    pending: KVVec<u8>,
    failed: bool,
}

impl Resuming {
    pub(crate) fn is_complete(&self) -> bool {
        !self.failed && self.pending.is_empty() && self.decoder.is_complete()
    }
}

impl Resuming {
    /// Takes some of what the user writes: how many bytes.
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    fn take(&mut self, from: &mut UserSliceReader) -> Result<usize> {
        let bytes = from.len().min(CHUNK_BYTES);
        let start = self.pending.len();
        self.pending.extend_with(bytes, 0, GFP_KERNEL_ACCOUNT)?;
        let room = self.pending.get_mut(start..).ok_or(EIO)?;
        from.read_slice(room)
            .inspect_err(|_| self.pending.truncate(start))?;
        Ok(bytes)
    }
}

impl Saving {
    fn left(&self) -> usize {
        self.out.len().saturating_sub(self.read)
    }

    /// Encodes one section behind what is there.
    fn section(
        &mut self,
        tag: Tag,
        fill: impl FnOnce(&mut image::Writer<'_>) -> Result<(), image::Full>,
    ) -> Result {
        self.append(|encoder, room| encoder.section(room, tag, fill))
    }

    fn append(
        &mut self,
        encode: impl FnOnce(&mut Encoder, &mut [u8]) -> Result<usize, image::Full>,
    ) -> Result {
        // Once it is encoded it must not be lost: the next one is sealed over it.
        self.out.reserve(self.section.len(), GFP_KERNEL_ACCOUNT)?;
        let written = encode(&mut self.encoder, &mut self.section).map_err(|image::Full| ENOSPC)?;
        let section = self.section.get(..written).ok_or(EINVAL)?;
        self.out.extend_from_slice(section, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }
}

impl Inner {
    fn next_session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    /// Whether whoever saves can read something, or the end of it.
    pub(crate) fn has_news(&self) -> bool {
        match &self.session {
            Session::Saving(s) => {
                let changed = self.adapter.control_generation() != s.generation;
                s.left() > 0 || s.complete || changed || self.state == State::StopCopy
            }
            _ => false,
        }
    }

    /// Estimate of what STOP_COPY will yield, in bytes: more than that, but for frames that are received until it is read.
    pub(crate) fn data_bytes(&self, layout: &Layout) -> usize {
        let unread = match &self.session {
            Session::Saving(s) if s.complete => return s.left().max(1),
            Session::Saving(s) => s.left(),
            _ => 0,
        };
        // They are all in the mirror area.
        let held = (self.adapter.held() as usize * HELD_BYTES).min(layout.mirror_bytes);
        unread + STATE_BYTES + held
    }

    /// Begins to save: identity and control record are ready to be read.
    pub(crate) fn open_saving(&mut self, dev: &Device<Vf>) -> Result<ARef<File>> {
        let id = self.next_session();
        let mut saving = Saving {
            id,
            encoder: Encoder::new(dev.data().get_ref().layout()),
            section: KVVec::from_elem(0, image::MAX_SECTION_BYTES, GFP_KERNEL_ACCOUNT)?,
            out: KVVec::new(),
            read: 0,
            initial: 0,
            generation: self.adapter.control_generation(),
            complete: false,
        };
        saving.append(|encoder, room| encoder.header(room))?;
        saving.section(Tag::Control, |w| self.adapter.save_control(w))?;
        saving.initial = saving.out.len();
        let file = SavingFile::open(dev, id)?;
        self.session = Session::Saving(saving);
        self.saving_files += 1;
        Ok(file)
    }

    /// In STOP_COPY, when all that came before was read: stops receiving, and encodes the rest of the image. Not earlier: a
    /// VMM sends the last of its memory first, and what arrives meanwhile still travels.
    fn finish_saving(&mut self, dev: &Device<Vf>) -> Result {
        let since = Instant::now();
        self.stats.stopped_at_ns = self.stats.now_ns();
        self.halt(dev)?;
        let Self {
            session: Session::Saving(saving),
            adapter,
            mode: Mode::Emulated(e),
            ..
        } = self
        else {
            return Err(EINVAL);
        };
        let generation = adapter.control_generation();
        if generation != saving.generation {
            saving.section(Tag::Control, |w| adapter.save_control(w))?;
            saving.generation = generation;
        }
        saving.section(Tag::State, |w| {
            adapter.save_state(&mut RealVf(dev), &mut RamPages(&e.pages), w)
        })?;
        let area = e.private.area().ok_or(EINVAL)?;
        for index in 0..adapter.held() {
            let held = saving.section(Tag::Held, |w| {
                adapter.save_held(index, &mut Mirror(area), w)
            });
            match held {
                // A frame that its device has spoiled is as good as lost on the wire.
                Err(ENOSPC) => continue,
                held => held?,
            }
        }
        saving.append(|encoder, room| encoder.end(room))?;
        saving.complete = true;
        self.stats.state_bytes = saving.out.len() as u64;
        self.stats.save_ns = elapsed_ns(since);
        Ok(())
    }

    /// In PRE_COPY, when all was read: encodes the control record again, if the guest has asked its PF for something meanwhile.
    ///
    /// # Errors
    ///
    /// `ENOMSG`: it has not.
    fn refresh(&mut self) -> Result {
        let Self {
            session: Session::Saving(saving),
            adapter,
            ..
        } = self
        else {
            return Err(ENODEV);
        };
        let generation = adapter.control_generation();
        if generation == saving.generation {
            return Err(ENOMSG);
        }
        saving.out.clear();
        (saving.read, saving.initial) = (0, 0);
        saving.section(Tag::Control, |w| adapter.save_control(w))?;
        saving.generation = generation;
        Ok(())
    }

    /// Begins to resume.
    pub(crate) fn open_resuming(&mut self, dev: &Device<Vf>) -> Result<ARef<File>> {
        let id = self.next_session();
        let decoder = Decoder::new(dev.data().get_ref().layout());
        let file = ResumingFile::open(dev, id)?;
        self.stats.load_ns = 0;
        self.session = Session::Resuming(Resuming {
            id,
            decoder,
            pending: KVVec::new(),
            failed: false,
        });
        Ok(file)
    }

    /// Takes over all sections that are complete.
    fn decode(&mut self, dev: &Device<Vf>) -> Result<(), Refused> {
        let Self {
            session: Session::Resuming(resuming),
            adapter,
            mode: Mode::Emulated(e),
            stats,
            ..
        } = self
        else {
            return Err(Refused("the device is not resuming"));
        };
        let capture::Emulated {
            private,
            pages,
            motion,
        } = e;
        let area = private.area().ok_or(Refused("no memory for held frames"))?;
        let mut done = 0;
        loop {
            let have = resuming.pending.get(done..).unwrap_or(&[]);
            match resuming.decoder.step(have)? {
                Step::NeedMore => break,
                Step::Header { consumed } => done += consumed,
                Step::Section {
                    tag,
                    start,
                    end,
                    consumed,
                } => {
                    let payload = have.get(start..end).ok_or(Refused("bad section"))?;
                    let mut r = image::Reader::new(payload);
                    let since = Instant::now();
                    match tag {
                        Tag::Control => adapter.load_control(&mut r, &mut RealVf(dev))?,
                        Tag::State => {
                            adapter.load_state(&mut r, &mut RealVf(dev), &mut RamPages(pages))?;
                        }
                        Tag::Held => adapter.load_held(&mut r, &mut Mirror(area))?,
                        // Nothing may fail later: the address is asked for now. From here on frames come here.
                        Tag::End => {
                            adapter.replay_control(&mut RealVf(dev))?;
                            dev.data().get_ref().set_master(dev);
                            adapter.listen(
                                &mut RealVf(dev),
                                &mut RamPages(pages),
                                &mut Mirror(area),
                            );
                            *motion = Motion::Listening;
                            stats.listening_at_ns = stats.now_ns();
                        }
                    }
                    // What comes before is from a guest that runs.
                    if tag != Tag::Control {
                        stats.load_ns += elapsed_ns(since);
                    }
                    done += consumed;
                }
            }
        }
        // Keep what is left of `pending` for the next write.
        let left = resuming.pending.len().saturating_sub(done);
        resuming.pending.copy_within(done.., 0);
        resuming.pending.truncate(left);
        Ok(())
    }
}

/// The file that an image is read from.
pub(crate) struct SavingFile {
    dev: ARef<Device<Vf>>,
    id: u64,
}

impl SavingFile {
    fn open(dev: &Device<Vf>, id: u64) -> Result<ARef<File>> {
        let data = Arc::new(
            Self {
                dev: dev.into(),
                id,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        vfio::file::open(c"semiassign-saving", data, Direction::Saving)
    }
}

impl DataFile for SavingFile {
    type Driver = Vf;

    fn read(&self, to: &mut UserSliceWriter) -> Result<usize> {
        let mut inner = self.dev.data().get_ref().lock(&self.dev);
        let saving = match &inner.session {
            Session::Saving(s) if s.id == self.id => s,
            _ => return Err(ENODEV),
        };
        if saving.left() == 0 {
            if saving.complete {
                return Ok(0);
            }
            if inner.state == State::StopCopy {
                inner.finish_saving(&self.dev).inspect_err(|_| {
                    // Half of it is none.
                    inner.session = Session::None;
                })?;
            } else {
                inner.refresh()?;
            }
        }
        let Session::Saving(saving) = &mut inner.session else {
            return Err(ENODEV);
        };
        let bytes = saving.left().min(to.len());
        let part = saving
            .out
            .get(saving.read..saving.read + bytes)
            .ok_or(EIO)?;
        to.write_slice(part)?;
        saving.read += bytes;
        Ok(bytes)
    }

    fn write(&self, _from: &mut UserSliceReader) -> Result<usize> {
        Err(EBADF)
    }

    fn poll(&self, file: &File, table: PollTable<'_>) -> bool {
        let vf = self.dev.data().get_ref();
        table.register_wait(file, &vf.news);
        let inner = vf.peek();
        match &inner.session {
            Session::Saving(s) if s.id == self.id => inner.has_news() || vf.was_reset(),
            // An error is one as well.
            _ => true,
        }
    }

    fn precopy_info(&self) -> Result<PrecopyInfo> {
        let inner = self.dev.data().get_ref().lock(&self.dev);
        if !matches!(inner.state, State::PreCopy | State::PreCopyP2p) {
            return Err(EINVAL);
        }
        match &inner.session {
            Session::Saving(s) if s.id == self.id => {
                let initial = s.initial.saturating_sub(s.read);
                let changed = inner.adapter.control_generation() != s.generation;
                let dirty =
                    s.left().saturating_sub(initial) + if changed { STATE_BYTES } else { 0 };
                Ok(PrecopyInfo {
                    initial_bytes: initial as u64,
                    dirty_bytes: dirty as u64,
                })
            }
            _ => Err(ENODEV),
        }
    }

    fn release(&self) {
        let mut inner = self.dev.data().get_ref().peek();
        // A file of an earlier life of the device is not counted any more. The worker releases the VF: a
        // process that exits has no access to its memory any more.
        if inner.first_session <= self.id {
            inner.saving_files = inner.saving_files.saturating_sub(1);
            // It is closed when the user has ended its tracking.
            inner.maybe_tracked &= inner.saving_files > 0;
        }
    }
}

/// The file that an image is written to.
pub(crate) struct ResumingFile {
    dev: ARef<Device<Vf>>,
    id: u64,
}

impl ResumingFile {
    fn open(dev: &Device<Vf>, id: u64) -> Result<ARef<File>> {
        let data = Arc::new(
            Self {
                dev: dev.into(),
                id,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        vfio::file::open(c"semiassign-resuming", data, Direction::Resuming)
    }
}

impl DataFile for ResumingFile {
    type Driver = Vf;

    fn read(&self, _to: &mut UserSliceWriter) -> Result<usize> {
        Err(EBADF)
    }

    fn write(&self, from: &mut UserSliceReader) -> Result<usize> {
        if from.is_empty() {
            return Ok(0);
        }
        let mut inner = self.dev.data().get_ref().lock(&self.dev);
        let resuming = match &mut inner.session {
            Session::Resuming(r) if r.id == self.id => r,
            _ => return Err(ENODEV),
        };
        if resuming.failed {
            return Err(EINVAL);
        }
        // A part at a time, so that whoever writes a lot can be killed.
        let taken = resuming.take(from)?;
        if let Err(Refused(reason)) = inner.decode(&self.dev) {
            dev_warn_ratelimited!(self.dev, "semiassign: image refused: {}\n", reason);
            if let Session::Resuming(r) = &mut inner.session {
                r.failed = true;
            }
            return Err(EINVAL);
        }
        Ok(taken)
    }

    fn poll(&self, _file: &File, _table: PollTable<'_>) -> bool {
        true
    }

    fn precopy_info(&self) -> Result<PrecopyInfo> {
        Err(ENOTTY)
    }

    fn release(&self) {}
}
