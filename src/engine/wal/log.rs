//! The open end of the log: append, group commit, rotation, removal.

mod flush;
mod removal;
mod reserve;
mod spare;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, MutexGuard};

use flush::Flush;
use spare::Spare;

use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::wal::append::{self, Appending};
use crate::engine::wal::archive::ArchiveWatch;
use crate::engine::wal::record::{RecordKind, encode_summaries, push_record};
use crate::engine::wal::segment::{
    CommitMark, MARKS_MAX, SEGMENT_HEADER_BYTES, SealedSegment, SegmentHeader, Touched,
    segment_name,
};
use crate::engine::wal::summary::SummaryFolder;
use crate::fault::{self, Fault};
use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::Lsn;
use crate::os::{self, File, Host, OpenMode, random};
use crate::page::{PageNo, PageSize};

/// Whose log it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogIdentity {
    pub(crate) database: DatabaseId,
    pub(crate) history: HistoryId,
    pub(crate) epoch: Epoch,
    pub(crate) page_size: PageSize,
}

/// Where an append begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Where the log ends without it.
    pub(super) start: Lsn,
    /// Position of that in the file.
    pub(super) offset: u64,
    /// How far the file reaches.
    pub(super) file_bytes: u64,
    /// How far it has records of an older segment, from somewhere behind the start on (W11).
    pub(super) stale_bytes: u64,
    /// What every record's checksum is mixed with.
    pub(super) salt: u64,
}

#[derive(Debug)]
struct Tail {
    file: Arc<dyn File>,
    path: PathBuf,
    sequence: u64,
    salt: u64,
    start: Lsn,
    end: Lsn,
    touched: BTreeSet<PageNo>,
    /// The last commit, if there is one.
    last_commit: Option<CommitMark>,
    /// Those that were pinned, ascending; the newest of them.
    pinned: Vec<CommitMark>,
    /// How far the file reaches, what lies past the end included (W10).
    file_bytes: u64,
    /// How far it reached when an older segment became this one; 0 if none did (W11).
    stale_bytes: u64,
    /// Oldest first.
    sealed: Vec<SealedSegment>,
    spare: Spare,
    /// Up to where in the file an append that has begun will write.
    appending_until: u64,
}

impl Tail {
    /// Position of the end in the file.
    fn offset(&self) -> u64 {
        SEGMENT_HEADER_BYTES + (self.end.0 - self.start.0)
    }

    /// The open segment as it is.
    fn as_sealed(&self) -> SealedSegment {
        let mut marks = self.pinned.clone();
        let last = self.last_commit.filter(|last| marks.last() != Some(last));
        marks.extend(last);
        let touched = Touched {
            start: self.start,
            last_commit: self.last_commit.map_or(self.start, |last| last.lsn),
            pages: self.touched.iter().copied().collect(),
            marks,
        };
        SealedSegment {
            path: self.path.clone(),
            end: self.end,
            bytes: self.offset(),
            touched: Some(touched),
            is_noted: false,
            is_own: true,
        }
    }

    /// Bytes of all segments, without what lies past the end.
    fn segment_bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|segment| segment.bytes).sum();
        sealed + self.offset()
    }

    /// Bytes of the spare, and of what is left of one behind the end.
    fn reusable_bytes(&self) -> u64 {
        self.spare.bytes() + self.stale_bytes.saturating_sub(self.offset())
    }
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Log {
    host: Host,
    dir: PathBuf,
    identity: LogIdentity,
    tail: Mutex<Tail>,
    flush: Mutex<Flush>,
    summaries: SummaryFolder,
    /// Whether zeros are written past its end (W10).
    writes_ahead: bool,
    /// Who may want log that the engine needs no more; nobody if there is none.
    archives: Option<ArchiveWatch>,
    /// The log before this is needed no more. Locked while segments are removed.
    needless: Mutex<Lsn>,
    /// Bytes of the segments before that: whoever asks waits for no removal.
    kept_bytes: AtomicU64,
    /// Locked while the names of segments are made durable.
    names: Mutex<Names>,
}

/// What is known of the names of segments.
#[derive(Debug, Default)]
struct Names {
    /// Whether a sync of the folder failed. One that succeeds after it says nothing of older changes (O3).
    are_unsure: bool,
}

impl Log {
    /// Starts a new segment at `start`, with `sealed` before it. When this returns, segment and
    /// directory entry are durable (W2).
    ///
    /// Errors: `Io`.
    pub(crate) fn start(
        host: &Host,
        dir: &Path,
        identity: LogIdentity,
        sealed: Vec<SealedSegment>,
        sequence: u64,
        start: Lsn,
    ) -> Result<Self> {
        spare::remove_left(host, dir)?;
        if sealed.is_empty() {
            remove_empty_dir(host, dir)?;
        }
        match host.disk.create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(EngineError::io_at("make", FileRole::WalSegment, dir)(error));
            }
            _ => {}
        }
        if let Some(parent) = dir.parent() {
            host.disk.sync_dir(parent).map_err(EngineError::io_at(
                "sync",
                FileRole::Directory,
                parent,
            ))?;
        }
        let header = new_header(host, &identity, sequence, start)?;
        let (file, path) = create_segment(host, dir, &header, &|| host.disk.sync_dir(dir))?;
        let touched = BTreeSet::new();
        let tail = Tail {
            file,
            path,
            sequence,
            salt: header.salt,
            start,
            end: start,
            touched,
            last_commit: None,
            pinned: Vec::new(),
            file_bytes: SEGMENT_HEADER_BYTES,
            stale_bytes: 0,
            sealed,
            spare: Spare::default(),
            appending_until: 0,
        };
        Ok(Self {
            host: host.clone(),
            dir: dir.to_owned(),
            identity,
            tail: Mutex::new(tail),
            flush: Mutex::new(Flush::new(start)),
            summaries: SummaryFolder::new(host, dir, identity),
            writes_ahead: false,
            archives: None,
            needless: Mutex::new(Lsn::ZERO),
            kept_bytes: AtomicU64::new(0),
            names: Mutex::new(Names::default()),
        })
    }

    /// Has zeros written past its end from here on (W10).
    pub(crate) fn write_zeros_ahead(&mut self) {
        self.writes_ahead = true;
    }

    /// What the checksum of every record of the open segment is mixed with.
    #[cfg(test)]
    pub(crate) fn salt(&self) -> u64 {
        self.tail.lock().salt
    }

    /// The end of what was appended.
    pub(crate) fn end(&self) -> Lsn {
        self.tail.lock().end
    }

    /// Bytes of all segments on disk, and what is kept to be used again.
    pub(crate) fn bytes(&self) -> u64 {
        let tail = self.tail.lock();
        tail.segment_bytes() + tail.reusable_bytes()
    }

    /// Bytes of all segments, without what lies past the end.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.tail.lock().segment_bytes()
    }

    /// Bytes of old segments that wait to be written over, which [`Log::bytes`] counts too (W11).
    pub(crate) fn reusable_bytes(&self) -> u64 {
        self.tail.lock().reusable_bytes()
    }

    /// Begins an append of `bytes` bytes of whole records. Not durable before a flush.
    ///
    /// Errors: `Poisoned`, `Exhausted`.
    pub(crate) fn begin_append(&self, bytes: u64) -> Result<Appending<'_>> {
        let mut tail = self.tail.lock();
        self.refuse_if_poisoned()?;
        let place = Place {
            start: tail.end,
            offset: tail.offset(),
            file_bytes: tail.file_bytes,
            stale_bytes: tail.stale_bytes,
            salt: tail.salt,
        };
        let appending = Appending::new(self, tail.file.clone(), place, bytes)?;
        tail.appending_until = place.offset.saturating_add(bytes);
        Ok(appending)
    }

    /// The path of the open segment.
    pub(super) fn tail_path(&self) -> PathBuf {
        self.tail.lock().path.clone()
    }

    /// See [`reserve::write_ahead`]; nothing where the log is not to have zeros past its end.
    pub(super) fn write_ahead(
        &self,
        file: &dyn File,
        end: u64,
        appended: u64,
        place: Place,
    ) -> u64 {
        match self.writes_ahead {
            true => reserve::write_ahead(file, end, appended, place.file_bytes),
            false => end.max(place.file_bytes),
        }
    }

    /// The bytes from `place`, the end so far, to that of `commit` are written, and the file reaches to
    /// `file_bytes`, unless it was cut behind them meanwhile.
    pub(super) fn advance(
        &self,
        place: Place,
        commit: CommitMark,
        file_bytes: u64,
        pages: impl IntoIterator<Item = PageNo>,
    ) {
        let mut tail = self.tail.lock();
        assert_eq!(tail.end, place.start, "one append at a time");
        tail.end = commit.lsn;
        let was_cut = tail.file_bytes < place.file_bytes;
        tail.file_bytes = match was_cut {
            true => tail.file_bytes.max(tail.offset()),
            false => file_bytes,
        };
        tail.appending_until = 0;
        tail.last_commit = Some(commit);
        tail.touched.extend(pages);
    }

    /// `commit` is pinned: somebody may ask later whether it is of this past (W9). If its segment was sealed
    /// already, it is the last one there as a rule, and is marked.
    pub(crate) fn note_pinned(&self, commit: CommitMark) {
        let mut tail = self.tail.lock();
        let is_here = tail.start < commit.lsn && commit.lsn <= tail.end;
        if !is_here
            || tail
                .pinned
                .last()
                .is_some_and(|last| last.lsn >= commit.lsn)
        {
            return;
        }
        if tail.pinned.len() >= MARKS_MAX - 1 {
            tail.pinned.drain(..MARKS_MAX / 2);
        }
        tail.pinned.push(commit);
    }

    /// W1: for an append that failed, of which `written` bytes from `offset` on may be there.
    pub(super) fn take_back(&self, offset: u64, written: u64) {
        let mut tail = self.tail.lock();
        tail.appending_until = 0;
        if written > 0 {
            self.cut_back(&mut tail, offset);
        }
    }

    /// Appends one record without pages.
    pub(crate) fn append_note(&self, kind: RecordKind, payload: &[u8]) -> Result<Lsn> {
        let mut tail = self.tail.lock();
        self.refuse_if_poisoned()?;
        let mut record = Vec::new();
        push_record(&mut record, tail.salt, tail.end, kind, payload);
        self.append_to(&mut tail, &record)?;
        Ok(tail.end)
    }

    fn append_to(&self, tail: &mut MutexGuard<'_, Tail>, records: &[u8]) -> Result<()> {
        let offset = tail.offset();
        let end = tail.end.checked_add(records.len() as u64);
        let end = end.ok_or(EngineError::Exhausted { what: "the log" })?;
        let padding = append::padding(offset + records.len() as u64, tail.stale_bytes);
        let mut padded = records.to_vec();
        padded.resize(records.len() + padding, 0);
        if let Err(source) = os::write_all_at(&*tail.file, &padded, offset) {
            self.cut_back(tail, offset);
            return Err(EngineError::io_at(
                "append to",
                FileRole::WalSegment,
                &tail.path,
            )(source));
        }
        tail.end = end;
        tail.file_bytes = tail.file_bytes.max(tail.offset());
        Ok(())
    }

    /// W1: takes away what a failed append left, for good: it has the salt and the LSNs of what comes
    /// next, and a crash could mix the two. If that fails, the log is poisoned.
    fn cut_back(&self, tail: &mut Tail, offset: u64) {
        if fault::is(Fault::DebrisLeft) {
            return;
        }
        let cut = tail.file.set_len(offset);
        tail.file_bytes = offset;
        tail.stale_bytes = 0;
        if self.take_lead().is_ok() {
            let synced = cut.and_then(|()| tail.file.sync_data());
            // Poisoned by this or not: the caller hears of the append that failed first.
            let _ = self.end_lead("cannot cut a failed append back", synced, tail.end);
        }
    }

    /// Seals the segment with a summary of the pages that it touched, and starts the next. The
    /// caller keeps commits out. Gives the start of the new segment.
    ///
    /// Errors: `Poisoned`; `Io`, after which the old segment goes on.
    pub(crate) fn rotate(&self) -> Result<Lsn> {
        let mut tail = self.tail.lock();
        self.refuse_if_poisoned()?;
        let header = new_header(&self.host, &self.identity, tail.sequence + 1, Lsn::ZERO)?;
        let pages: Vec<PageNo> = tail.touched.iter().copied().collect();
        let mut records = Vec::new();
        for payload in encode_summaries(tail.start, &pages) {
            let at = Lsn(tail.end.0 + records.len() as u64);
            push_record(
                &mut records,
                tail.salt,
                at,
                RecordKind::PageSummary,
                &payload,
            );
        }
        self.append_to(&mut tail, &records)?;
        self.cut_zeros(&mut tail)?;
        self.take_lead()?;
        self.end_lead("cannot sync the log", tail.file.sync_data(), tail.end)?;
        let header = SegmentHeader {
            start: tail.end,
            ..header
        };
        let sequence = header.sequence;
        let created = self.next_segment(&mut tail, &header);
        // W6: a number is passed over only if its file is to be seen. Another one may come back after
        // a crash; the next segment has its name then, and no younger one comes before it.
        let path = self.dir.join(segment_name(sequence));
        if created.is_ok() || self.host.disk.open(&path, OpenMode::Read).is_ok() {
            tail.sequence = sequence;
        }
        let (file, path, stale_bytes) = created?;
        let (sealed, end) = (tail.as_sealed(), tail.end);
        tail.sealed.push(sealed);
        (tail.file, tail.path) = (file, path);
        tail.salt = header.salt;
        tail.start = tail.end;
        tail.last_commit = None;
        tail.pinned.clear();
        tail.file_bytes = stale_bytes.max(SEGMENT_HEADER_BYTES);
        tail.stale_bytes = stale_bytes;
        tail.touched.clear();
        Ok(end)
    }

    /// Makes the segment of `header`, of an old one if there is one to be had. Gives how far it has records of
    /// that, too.
    fn next_segment(
        &self,
        tail: &mut Tail,
        header: &SegmentHeader,
    ) -> Result<(Arc<dyn File>, PathBuf, u64)> {
        if let Some(kept) = tail.spare.take()
            && let Some((file, path)) = self.reuse(&kept, header)?
        {
            return Ok((file, path, kept.bytes));
        }
        let (file, path) = create_segment(&self.host, &self.dir, header, &|| self.sync_names())?;
        Ok((file, path, 0))
    }

    /// W10: takes away what was written past the end; not durable before a sync.
    fn cut_zeros(&self, tail: &mut Tail) -> Result<()> {
        let bytes = tail.offset();
        if tail.file_bytes > bytes {
            let failed = EngineError::io_at("shorten", FileRole::WalSegment, &tail.path);
            tail.file.set_len(bytes).map_err(failed)?;
            tail.file_bytes = bytes;
            tail.stale_bytes = 0;
        }
        Ok(())
    }

    fn sync_dir(&self) -> Result<()> {
        let failed = EngineError::io_at("sync", FileRole::WalSegment, &self.dir);
        self.sync_names().map_err(failed)
    }

    /// Makes the names of segments durable; one caller at a time, so that each hears what was lost of its own.
    fn sync_names(&self) -> io::Result<()> {
        let mut names = self.names.lock();
        let synced = self.host.disk.sync_dir(&self.dir);
        names.are_unsure |= synced.is_err();
        synced
    }
}

/// W6: a folder that holds no segment is made anew. A sync that failed may have left it without its
/// name, and with names of segments in it that nobody sees before the next crash.
fn remove_empty_dir(host: &Host, dir: &Path) -> Result<()> {
    use io::ErrorKind::{
        DirectoryNotEmpty, NotADirectory, NotFound, PermissionDenied, ResourceBusy,
    };
    match host.disk.remove_dir(dir) {
        // Somebody else has put something into it, a link in its place, a file system on it, or lets
        // us write in it only.
        Err(error)
            if !matches!(
                error.kind(),
                DirectoryNotEmpty | NotADirectory | NotFound | PermissionDenied | ResourceBusy
            ) =>
        {
            Err(EngineError::io_at(
                "remove the empty",
                FileRole::WalSegment,
                dir,
            )(error))
        }
        _ => Ok(()),
    }
}

fn remove_segment(host: &Host, path: &Path) -> Result<()> {
    match host.disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(EngineError::io_at("remove", FileRole::WalSegment, path)(
                error,
            ))
        }
        _ => Ok(()),
    }
}

/// Makes a segment file: header written and synced, directory entry synced.
fn create_segment(
    host: &Host,
    dir: &Path,
    header: &SegmentHeader,
    sync_names: &dyn Fn() -> io::Result<()>,
) -> Result<(Arc<dyn File>, PathBuf)> {
    let path = dir.join(segment_name(header.sequence));
    let failed = |op| EngineError::io_at(op, FileRole::WalSegment, &path);
    let file = host
        .disk
        .open(&path, OpenMode::CreateNew)
        .map_err(failed("create"))?;
    let written = os::write_all_at(&*file, &header.encode(), 0)
        .and_then(|()| file.sync_data())
        .and_then(|()| match fault::is(Fault::SegmentNameUnsynced) {
            true => Ok(()),
            false => sync_names(),
        });
    if let Err(error) = written {
        // Best effort: an unfinished segment is recognised and passed over when the log is read. Emptied, it is by
        // earlier builds, too, which tell by the salt whether a header is of a rotation that failed.
        let _ = file.set_len(0).and_then(|()| file.sync_data());
        let _ = host.disk.remove(&path);
        return Err(failed("write")(error));
    }
    Ok((file, path))
}

/// The header of a new segment, with a salt of its own (W4).
///
/// Errors: `Io`.
fn new_header(
    host: &Host,
    identity: &LogIdentity,
    sequence: u64,
    start: Lsn,
) -> Result<SegmentHeader> {
    let salt = random::nonzero(&*host.random).map_err(EngineError::io(
        "draw a random number for",
        FileRole::WalSegment,
    ))?;
    Ok(SegmentHeader {
        page_size: identity.page_size.get(),
        database: identity.database,
        history: identity.history,
        sequence,
        start,
        salt,
        epoch: identity.epoch,
        created_ns: host.clock.wall_ns(),
    })
}
