//! An old segment that becomes the next one: appends overwrite blocks that are there, and were written before.
//!
//! ```text
//! <sequence>.wal, needed no more -- renamed --> spare; folder synced
//!   -> header of the next segment over the old one, synced -- renamed --> <next>.wal; folder synced -> appends
//! ```
//!
//! * W11 The file of a segment that is needed no more is overwritten only under the name `spare`, after that name
//!   is durable, and gets a segment's name only after its new header is durable. So a crash finds a segment as it
//!   was, or a spare, which nobody reads and the next open removes, or the new segment with its header, behind
//!   which there is nothing but records of older salts (W4). There is one at most; only this incarnation's own
//!   segments become it, so that nobody reads pages from it, and none where an archive wants the log, nor after a
//!   sync of the folder that failed. Where room is short, it and what is left of it behind the end of the log go first.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Log, Tail, remove_segment};
use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::options::EngineOptions;
use crate::engine::wal::append::BLOCK_BYTES;
use crate::engine::wal::segment::{SegmentHeader, header_of, segment_name};
use crate::fault::{self, Fault};
use crate::os::{self, File, FileIdentity, Host, OpenMode, cache};

/// Name of the spare in the folder of the log.
const SPARE: &str = "spare";
/// A shorter one saves nothing.
const BYTES_MIN: u64 = 2 * BLOCK_BYTES as u64;

/// The spare, if there is one.
#[derive(Debug, Default)]
pub(super) struct Spare {
    /// A longer one is cut; 0 if none is kept.
    bytes_max: u64,
    kept: Option<Kept>,
}

/// The file `spare`, whose name is durable. It is not kept open: whoever removes it has its room.
#[derive(Debug)]
pub(super) struct Kept {
    identity: FileIdentity,
    pub(super) bytes: u64,
}

impl Spare {
    pub(super) fn bytes(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.bytes)
    }

    pub(super) fn take(&mut self) -> Option<Kept> {
        self.kept.take()
    }

    /// Whether the file of a segment of `bytes` bytes would be kept.
    fn wants(&self, bytes: u64) -> bool {
        self.kept.is_none() && bytes.min(self.bytes_max) >= BYTES_MIN
    }
}

/// Removes what an earlier incarnation has left. It may come back, as what it is.
///
/// Errors: `Io`; none if somebody else keeps something there, which is then in nobody's way.
pub(super) fn remove_left(host: &Host, dir: &Path) -> Result<()> {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
    let path = dir.join(SPARE);
    match host.disk.remove(&path) {
        Err(error)
            if !matches!(
                error.kind(),
                IsADirectory | NotADirectory | NotFound | PermissionDenied
            ) =>
        {
            let failed = EngineError::io_at("remove the old", FileRole::WalSegment, path);
            Err(failed(error))
        }
        _ => Ok(()),
    }
}

impl Log {
    /// The same, which from here on makes the next segment from an old one (W11).
    pub(crate) fn with_spare(self, options: &EngineOptions) -> Self {
        // Small commits at random places end a segment before it is as long as a checkpoint lets it become; a
        // bulk load does not, and what it took is not to stay.
        let wanted = options.checkpoint_bytes / 2;
        self.tail.lock().spare.bytes_max = wanted.min(options.log_bytes_max / 4);
        self
    }

    /// Which of the segments that go may become the spare: the longest.
    pub(super) fn next_spare(tail: &Tail, going: usize) -> Option<PathBuf> {
        let going = tail.sealed.iter().take(going);
        let own = going.filter(|one| one.is_own && tail.spare.wants(one.bytes));
        let longest = own.max_by_key(|one| one.bytes);
        longest.map(|one| one.path.clone())
    }

    /// Gives a segment that is needed no more the name of the spare. That is not durable yet: it is not to be
    /// written before [`Log::keep_spare`].
    pub(super) fn put_aside(&self, segment: &Path) -> bool {
        let spare = self.dir.join(SPARE);
        let renamed = self.host.disk.rename(segment, &spare);
        renamed.is_ok()
    }

    /// The name of what was put aside is durable, unless somebody else's sync of the folder failed: that one may
    /// have heard what this one lost.
    pub(super) fn keep_spare(&self, bytes: u64) {
        if self.names.lock().are_unsure {
            return self.drop_put_aside();
        }
        let bytes_max = self.tail.lock().spare.bytes_max;
        let kept = self.trim_put_aside(bytes, bytes_max).inspect_err(|error| {
            tracing::debug!(%error, dir = %self.dir.display(), "an old segment is not kept");
        });
        let mut tail = self.tail.lock();
        // Since it was looked at, somebody may have had none kept any more.
        let wanted = BYTES_MIN..=tail.spare.bytes_max;
        match kept {
            Ok(kept) if wanted.contains(&kept.bytes) => tail.spare.kept = Some(kept),
            _ => self.drop_put_aside(),
        }
    }

    /// Looks at what was put aside, a segment of `bytes` bytes, and leaves `bytes_max` of them.
    fn trim_put_aside(&self, bytes: u64, bytes_max: u64) -> io::Result<Kept> {
        let disk = &self.host.disk;
        let file = disk.open(&self.dir.join(SPARE), OpenMode::ReadWrite)?;
        if !self.is_own(&*file, bytes)? {
            return Err(io::Error::other("somebody else has put something there"));
        }
        // The page cache would go on with the units in which it was written, which may be large ones, and looks at
        // the whole of one whenever a part is synced.
        let _ = cache::drop_cached(&*file);
        if bytes > bytes_max {
            // Durable with the header that is written over the old one.
            file.set_len(bytes_max)?;
        }
        Ok(Kept {
            identity: file.identity()?,
            bytes: bytes.min(bytes_max),
        })
    }

    /// Whether it is the segment of `bytes` bytes that was put aside.
    fn is_own(&self, file: &dyn File, bytes: u64) -> io::Result<bool> {
        let Some(old) = header_of(file)? else {
            return Ok(false);
        };
        let own = &self.identity;
        let is_of_this =
            (old.database, old.history, old.epoch) == (own.database, own.history, own.epoch);
        Ok(is_of_this && file.len()? == bytes)
    }

    /// Best effort: what stays is removed by the next open, or by the next spare.
    pub(super) fn drop_put_aside(&self) {
        let _ = self.host.disk.remove(&self.dir.join(SPARE));
    }

    /// Gives its room back; says whether there was any.
    pub(super) fn drop_spare(&self) -> bool {
        let mut tail = self.tail.lock();
        let kept = tail.spare.take();
        if kept.is_some() {
            self.drop_put_aside();
        }
        kept.is_some()
    }

    /// The same, and none is kept any more: the disk is full, or all ends. What is left of an old segment in the
    /// open one goes, too.
    pub(crate) fn forgo_spare(&self) -> bool {
        self.tail.lock().spare.bytes_max = 0;
        let was_there = self.drop_spare();
        self.drop_rest() || was_there
    }

    /// Gives back the room of what is left of an old segment in the open one, but for what an append that has
    /// begun writes over; says whether there was any.
    ///
    /// Not durable before a sync, and may come back: it is as good as nothing.
    pub(super) fn drop_rest(&self) -> bool {
        let mut tail = self.tail.lock();
        let appending = tail
            .appending_until
            .checked_next_multiple_of(BLOCK_BYTES as u64);
        let until = tail.offset().max(appending.unwrap_or(u64::MAX));
        if tail.stale_bytes <= until || tail.file.set_len(until).is_err() {
            return false;
        }
        tail.file_bytes = until;
        tail.stale_bytes = until;
        true
    }

    /// Makes the segment of `header` from the spare, if that can be done; otherwise the spare is gone.
    ///
    /// Errors: `Io` if the new name cannot be made durable; then nothing of its old records is left in it.
    pub(super) fn reuse(
        &self,
        kept: &Kept,
        header: &SegmentHeader,
    ) -> Result<Option<(Arc<dyn File>, PathBuf)>> {
        let path = self.dir.join(segment_name(header.sequence));
        let file = match self.rename_spare(kept, header, &path) {
            Ok(file) => file,
            Err(error) => {
                tracing::debug!(%error, dir = %self.dir.display(), "an old segment is not used again");
                self.drop_put_aside();
                return Ok(None);
            }
        };
        if let Err(error) = self.sync_names() {
            self.abandon(&*file, &path);
            let failed = EngineError::io_at("name", FileRole::WalSegment, path);
            return Err(failed(error));
        }
        Ok(Some((file, path)))
    }

    /// The new header over the old one, and then the name.
    fn rename_spare(
        &self,
        kept: &Kept,
        header: &SegmentHeader,
        path: &Path,
    ) -> io::Result<Arc<dyn File>> {
        let (disk, spare) = (&self.host.disk, self.dir.join(SPARE));
        if self.names.lock().are_unsure {
            return Err(io::Error::other("a sync of the folder has failed"));
        }
        match disk.open(path, OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            // W6: that one is there to stay.
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        }
        let file = disk.open(&spare, OpenMode::ReadWrite)?;
        if file.identity()? != kept.identity || file.len()? != kept.bytes {
            return Err(io::Error::other("somebody else has put something there"));
        }
        // A whole block: the kernel need not read the rest of it.
        let mut block = [0; BLOCK_BYTES];
        crate::codec::put(&mut block, 0, &header.encode());
        os::write_all_at(&*file, &block, 0)?;
        if !fault::is(Fault::SpareHeaderUnsynced) {
            file.sync_data()?;
        }
        if let Err(error) = disk.rename(&spare, path) {
            self.abandon(&*file, path);
            return Err(error);
        }
        Ok(file)
    }

    /// For a segment that is not to be, but whose name may come back: the one before goes on past its start, and
    /// when the log is read it must be seen to have no records. If that cannot be had, the log is poisoned.
    fn abandon(&self, file: &dyn File, path: &Path) {
        if fault::is(Fault::AbandonedUncut) {
            return;
        }
        // Without its header too, as in create_segment.
        let cut = file.set_len(0);
        if let Err(error) = cut.and_then(|()| file.sync_data()) {
            self.poison(&format!("cannot cut a segment that was not made: {error}"));
        }
        let _ = remove_segment(&self.host, path);
    }
}
