//! The open end of the log: append, group commit, rotation, removal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::wal::record::{RecordKind, encode_summaries, push_record};
use crate::engine::wal::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::Lsn;
use crate::os::{self, File, Host, OpenMode};
use crate::page::{PageNo, PageSize};

/// Whose log it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogIdentity {
    pub(crate) database: DatabaseId,
    pub(crate) history: HistoryId,
    pub(crate) epoch: Epoch,
    pub(crate) page_size: PageSize,
}

/// A segment that is not written any more.
#[derive(Clone, Debug)]
pub(crate) struct SealedSegment {
    pub(crate) path: PathBuf,
    /// Where the next one starts, as far as is known.
    pub(crate) end: Lsn,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
struct Tail {
    file: Arc<dyn File>,
    path: PathBuf,
    sequence: u64,
    start: Lsn,
    end: Lsn,
    touched: BTreeSet<PageNo>,
    /// Oldest first.
    sealed: Vec<SealedSegment>,
}

#[derive(Debug, Default)]
struct Flush {
    durable: Lsn,
    leading: bool,
    poison: Option<String>,
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Log {
    host: Host,
    dir: PathBuf,
    identity: LogIdentity,
    salt: u64,
    tail: Mutex<Tail>,
    flush: Mutex<Flush>,
    flushed: Condvar,
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
        match host.disk.create_dir(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
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
        let salt = crate::engine::open::random_u64(host)?;
        let (file, path) = create_segment(host, dir, &identity, salt, sequence, start)?;
        let touched = BTreeSet::new();
        let tail = Tail {
            file,
            path,
            sequence,
            start,
            end: start,
            touched,
            sealed,
        };
        Ok(Self {
            host: host.clone(),
            dir: dir.to_owned(),
            identity,
            salt,
            tail: Mutex::new(tail),
            flush: Mutex::new(Flush {
                durable: start,
                ..Flush::default()
            }),
            flushed: Condvar::new(),
        })
    }

    /// What every record's checksum is mixed with.
    pub(crate) fn salt(&self) -> u64 {
        self.salt
    }

    /// The end of what was appended.
    pub(crate) fn end(&self) -> Lsn {
        self.tail.lock().end
    }

    /// How far the log is known to be synced.
    pub(crate) fn durable(&self) -> Lsn {
        self.flush.lock().durable
    }

    /// Bytes of all segments on disk.
    pub(crate) fn bytes(&self) -> u64 {
        let tail = self.tail.lock();
        let sealed: u64 = tail.sealed.iter().map(|segment| segment.bytes).sum();
        sealed + SEGMENT_HEADER_BYTES + (tail.end.0 - tail.start.0)
    }

    /// Appends whole records, which touch `pages`; gives the new end. Not durable before a flush.
    ///
    /// Errors: `Poisoned`; `Io`, after which the log is as before (W1).
    pub(crate) fn append(
        &self,
        records: &[u8],
        pages: impl IntoIterator<Item = PageNo>,
    ) -> Result<Lsn> {
        let mut tail = self.tail.lock();
        self.refuse_if_poisoned()?;
        self.append_to(&mut tail, records)?;
        tail.touched.extend(pages);
        Ok(tail.end)
    }

    /// Appends one record without pages.
    pub(crate) fn append_note(&self, kind: RecordKind, payload: &[u8]) -> Result<Lsn> {
        let mut tail = self.tail.lock();
        self.refuse_if_poisoned()?;
        let mut record = Vec::new();
        push_record(&mut record, self.salt, tail.end, kind, payload);
        self.append_to(&mut tail, &record)?;
        Ok(tail.end)
    }

    fn append_to(&self, tail: &mut MutexGuard<'_, Tail>, records: &[u8]) -> Result<()> {
        let offset = SEGMENT_HEADER_BYTES + (tail.end.0 - tail.start.0);
        let end = tail.end.checked_add(records.len() as u64);
        let end = end.ok_or(EngineError::Exhausted { what: "the log" })?;
        if let Err(source) = os::write_all_at(&*tail.file, records, offset) {
            if tail.file.set_len(offset).is_err() {
                self.poison("cannot cut a failed append back");
            }
            return Err(EngineError::io_at(
                "append to",
                FileRole::WalSegment,
                &tail.path,
            )(source));
        }
        tail.end = end;
        Ok(())
    }

    /// Waits until everything before `lsn` is durable: one caller syncs for all that wait.
    ///
    /// Errors: `Poisoned` after a failed sync, this one or an earlier one (W3).
    pub(crate) fn flush(&self, lsn: Lsn) -> Result<()> {
        if !self.lead(lsn)? {
            return Ok(());
        }
        let (file, end) = {
            let tail = self.tail.lock();
            (tail.file.clone(), tail.end)
        };
        let synced = file.sync_data();
        let mut flush = self.flush.lock();
        flush.leading = false;
        let outcome = match synced {
            Ok(()) => {
                flush.durable = flush.durable.max(end);
                Ok(())
            }
            Err(error) => {
                let cause = flush
                    .poison
                    .get_or_insert_with(|| format!("cannot sync the log: {error}"))
                    .clone();
                Err(EngineError::Poisoned { cause })
            }
        };
        drop(flush);
        self.flushed.notify_all();
        outcome
    }

    /// Waits until nobody syncs, and becomes the one who does; or says that `lsn` is durable already.
    ///
    /// One at a time: a failed sync is reported once for a file, so a second one at the same time
    /// could be told that all is well.
    ///
    /// Errors: `Poisoned`.
    fn lead(&self, lsn: Lsn) -> Result<bool> {
        let mut flush = self.flush.lock();
        loop {
            if flush.durable >= lsn {
                return Ok(false);
            }
            if let Some(cause) = &flush.poison {
                return Err(EngineError::Poisoned {
                    cause: cause.clone(),
                });
            }
            if !flush.leading {
                flush.leading = true;
                return Ok(true);
            }
            self.flushed.wait(&mut flush);
        }
    }

    /// Lets nothing be appended or synced any more.
    pub(crate) fn poison(&self, cause: &str) {
        self.flush
            .lock()
            .poison
            .get_or_insert_with(|| cause.to_owned());
        self.flushed.notify_all();
    }

    /// Whether nothing is appended any more.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.flush.lock().poison.is_some()
    }

    /// Errors: `Poisoned`.
    pub(crate) fn refuse_if_poisoned(&self) -> Result<()> {
        match &self.flush.lock().poison {
            Some(cause) => Err(EngineError::Poisoned {
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Seals the segment with a summary of the pages that it touched, and starts the next. The
    /// caller keeps commits out. Gives the start of the new segment.
    ///
    /// Errors: `Poisoned`; `Io`, after which the old segment goes on.
    pub(crate) fn rotate(&self) -> Result<Lsn> {
        self.lead(Lsn::MAX)?;
        let rotated = self.rotate_alone();
        let mut flush = self.flush.lock();
        flush.leading = false;
        if let Ok(end) = rotated {
            flush.durable = flush.durable.max(end);
        }
        drop(flush);
        self.flushed.notify_all();
        rotated
    }

    /// [`Log::rotate`] while nobody else syncs.
    fn rotate_alone(&self) -> Result<Lsn> {
        let mut tail = self.tail.lock();
        self.refuse_if_poisoned()?;
        let pages: Vec<PageNo> = tail.touched.iter().copied().collect();
        let mut records = Vec::new();
        for payload in encode_summaries(tail.start, &pages) {
            let at = Lsn(tail.end.0 + records.len() as u64);
            push_record(
                &mut records,
                self.salt,
                at,
                RecordKind::PageSummary,
                &payload,
            );
        }
        self.append_to(&mut tail, &records)?;
        if let Err(source) = tail.file.sync_data() {
            self.poison("cannot sync the log");
            return Err(EngineError::io_at("sync", FileRole::WalSegment, &tail.path)(source));
        }
        let sequence = tail.sequence + 1;
        let created = create_segment(
            &self.host,
            &self.dir,
            &self.identity,
            self.salt,
            sequence,
            tail.end,
        );
        // The number is used up either way: a half-made file of it may be there.
        tail.sequence = sequence;
        let (file, path) = created?;
        let bytes = SEGMENT_HEADER_BYTES + (tail.end.0 - tail.start.0);
        let old_path = std::mem::replace(&mut tail.path, path);
        let end = tail.end;
        tail.sealed.push(SealedSegment {
            path: old_path,
            end,
            bytes,
        });
        tail.file = file;
        tail.start = tail.end;
        tail.touched.clear();
        Ok(tail.end)
    }

    /// Removes the sealed segments that end at or before `lsn`, oldest first.
    ///
    /// Errors: `Io`; what could not be removed is tried again the next time.
    pub(crate) fn remove_before(&self, lsn: Lsn) -> Result<()> {
        let mut tail = self.tail.lock();
        let mut removed = false;
        while let Some(oldest) = tail.sealed.first().filter(|oldest| oldest.end <= lsn) {
            remove_segment(&self.host, &oldest.path)?;
            tail.sealed.remove(0);
            removed = true;
        }
        drop(tail);
        if removed { self.sync_dir() } else { Ok(()) }
    }

    /// Removes every segment, the open one last: the header says that no log is needed.
    pub(crate) fn remove_all(&self) -> Result<()> {
        self.poison("the database is closed");
        self.remove_before(Lsn::MAX)?;
        remove_segment(&self.host, &self.tail.lock().path)?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<()> {
        self.host
            .disk
            .sync_dir(&self.dir)
            .map_err(EngineError::io_at("sync", FileRole::WalSegment, &self.dir))
    }
}

fn remove_segment(host: &Host, path: &Path) -> Result<()> {
    match host.disk.remove(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
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
    identity: &LogIdentity,
    salt: u64,
    sequence: u64,
    start: Lsn,
) -> Result<(Arc<dyn File>, PathBuf)> {
    let path = dir.join(segment_name(sequence));
    let failed = |op| EngineError::io_at(op, FileRole::WalSegment, &path);
    let header = SegmentHeader {
        page_size: identity.page_size.get(),
        database: identity.database,
        history: identity.history,
        sequence,
        start,
        salt,
        epoch: identity.epoch,
        created_ns: host.clock.wall_ns(),
    };
    let file = host
        .disk
        .open(&path, OpenMode::CreateNew)
        .map_err(failed("create"))?;
    let written = os::write_all_at(&*file, &header.encode(), 0)
        .and_then(|()| file.sync_data())
        .and_then(|()| host.disk.sync_dir(dir));
    if let Err(error) = written {
        // Best effort: an unfinished segment is recognised and passed over when the log is read.
        let _ = host.disk.remove(&path);
        return Err(failed("write")(error));
    }
    Ok((file, path))
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::os::{Disk, FileIdentity, LockKind};

    /// What a file does at its next sync: says that it is in it, waits for a word or a while, and fails.
    type Plan = Arc<Mutex<Option<(Sender<()>, Receiver<()>)>>>;

    #[derive(Debug)]
    struct SlowDisk {
        inner: Arc<dyn Disk>,
        plan: Plan,
    }

    #[derive(Debug)]
    struct SlowFile {
        inner: Arc<dyn File>,
        plan: Plan,
    }

    impl File for SlowFile {
        fn read_at(&self, out: &mut [u8], offset: u64) -> std::io::Result<usize> {
            self.inner.read_at(out, offset)
        }

        fn write_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<usize> {
            self.inner.write_at(bytes, offset)
        }

        /// As the kernel does it: one caller is told of the failure, and the next hears nothing.
        fn sync_data(&self) -> std::io::Result<()> {
            let Some((inside, go_on)) = self.plan.lock().take() else {
                return self.inner.sync_data();
            };
            inside.send(()).unwrap();
            let _ = go_on.recv_timeout(Duration::from_millis(300));
            Err(std::io::Error::other("a failed sync"))
        }

        fn set_len(&self, bytes: u64) -> std::io::Result<()> {
            self.inner.set_len(bytes)
        }

        fn len(&self) -> std::io::Result<u64> {
            self.inner.len()
        }

        fn identity(&self) -> std::io::Result<FileIdentity> {
            self.inner.identity()
        }

        fn try_lock(&self, kind: LockKind) -> std::io::Result<bool> {
            self.inner.try_lock(kind)
        }

        fn as_fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }
    }

    impl Disk for SlowDisk {
        fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Arc<dyn File>> {
            let (inner, plan) = (self.inner.open(path, mode)?, self.plan.clone());
            Ok(Arc::new(SlowFile { inner, plan }))
        }

        fn unnamed(&self, dir: &Path) -> std::io::Result<Arc<dyn File>> {
            self.inner.unnamed(dir)
        }

        fn create_dir(&self, path: &Path) -> std::io::Result<()> {
            self.inner.create_dir(path)
        }

        fn remove(&self, path: &Path) -> std::io::Result<()> {
            self.inner.remove(path)
        }

        fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
            self.inner.rename(from, to)
        }

        fn list(&self, dir: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
            self.inner.list(dir)
        }

        fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
            self.inner.sync_dir(dir)
        }

        fn free_bytes(&self, path: &Path) -> std::io::Result<u64> {
            self.inner.free_bytes(path)
        }
    }

    /// W3: the kernel tells one caller of a failed sync. A rotation that syncs the same file meanwhile is
    /// told that all is well, and must not take the records for durable.
    #[test]
    fn rotation_does_not_outrun_a_sync_that_fails() {
        let mut host = Host::simulated(1).host;
        let plan = Plan::default();
        let (inner, shared) = (host.disk.clone(), plan.clone());
        host.disk = Arc::new(SlowDisk {
            inner,
            plan: shared,
        });
        let identity = LogIdentity {
            database: DatabaseId([1; 16]),
            history: HistoryId([2; 16]),
            epoch: Epoch(3),
            page_size: PageSize::DEFAULT,
        };
        let log = Log::start(&host, Path::new("/wal"), identity, Vec::new(), 1, Lsn(1)).unwrap();
        let end = log.append_note(RecordKind::CheckpointEnd, &[0; 8]).unwrap();
        let (inside, is_inside) = channel();
        let (word, go_on) = channel();
        *plan.lock() = Some((inside, go_on));
        thread::scope(|scope| {
            let flushing = scope.spawn(|| log.flush(end));
            is_inside.recv().unwrap();
            let rotated = log.rotate();
            let _ = word.send(());
            assert!(flushing.join().unwrap().is_err());
            assert!(
                rotated.is_err(),
                "nobody knows what the sealed segment holds"
            );
        });
        assert!(log.durable() < end);
        assert!(log.flush(end).is_err());
    }
}
