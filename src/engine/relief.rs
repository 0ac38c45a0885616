//! What happens when space runs out: whoever keeps pre-images gives some back, and it is tried again.
//!
//! A commit and the log come before any backup: they fail for want of space only when nothing is kept
//! any more that could be given up. Where space can be needed: the append of a commit, the records and
//! segments of a checkpoint, the growth of the live file.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, Weak};

use parking_lot::Mutex;

use crate::engine::error::{ErrorKind, Result};
use crate::engine::sink::{PreImageSink, Pressure};
use crate::engine::wal::Log;

/// One at a time gives something up: of two that find the disk full the second tries again first, with
/// what the first one freed.
#[derive(Debug, Default)]
pub(crate) struct Relief {
    one: Mutex<()>,
    given: AtomicU64,
    /// What it keeps to be used again, or for an archive, goes before anything else.
    log: OnceLock<Weak<Log>>,
}

impl Relief {
    /// From here on `log` gives back what it keeps to be used again (W11), or for an archive alone (LA4).
    pub(crate) fn heed(&self, log: Weak<Log>) {
        // A second one would be of the same engine.
        let _ = self.log.set(log);
    }

    /// Has the log give back what it keeps to be used again, else for an archive; says whether there was any.
    pub(crate) fn shed(&self) -> bool {
        let log = self.log.get().and_then(Weak::upgrade);
        log.is_some_and(|log| log.shed_kept())
    }

    /// Runs `attempt`, and again as long as it fails for want of space and `sink` gives some back. It
    /// ends, since each time the sink has one thing less to give.
    ///
    /// `attempt` leaves nothing behind when it fails. Errors: those of its last run.
    pub(crate) fn with<T>(
        &self,
        sink: Option<&dyn PreImageSink>,
        mut attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        loop {
            let given = self.given.load(Ordering::SeqCst);
            match attempt() {
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    if !self.is_given(sink, given) {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Whether something was given up since `before`, or is now.
    fn is_given(&self, sink: Option<&dyn PreImageSink>, before: u64) -> bool {
        let _one = self.one.lock();
        if self.given.load(Ordering::SeqCst) != before {
            return true;
        }
        let is_given = self.shed() || sink.is_some_and(|sink| sink.relieve(Pressure::DiskFull));
        self.given.fetch_add(u64::from(is_given), Ordering::SeqCst);
        is_given
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use crate::engine::error::{EngineError, ErrorKind, FileRole, Result};
    use crate::engine::sink::{CaptureFailure, Keep, PreImageSink, Pressure};
    use crate::engine::{ArchiveCursor, CheckpointReport, Engine, EngineOptions};
    use crate::lsn::Lsn;
    use crate::os::{Disk, File, Host, OpenMode, SimulatedHost, write_all_at};
    use crate::page::{PageNo, PageSize};

    /// Holds everything up for the sake of things that it can give up, one at a time.
    #[derive(Debug, Default)]
    struct Holder {
        things: Mutex<u32>,
        asked: Mutex<Vec<Pressure>>,
        /// A file that is cut by so many bytes for each thing that goes.
        ballast: Mutex<Option<(Arc<dyn File>, u64)>>,
        /// They are kept and hold nothing up.
        is_open: Mutex<bool>,
        passed: Mutex<u32>,
    }

    impl PreImageSink for Holder {
        fn before_overwrite(&self, _: &[PageNo], _: &dyn File) -> Result<Keep, CaptureFailure> {
            let is_free = *self.things.lock() == 0 || *self.is_open.lock();
            Ok(if is_free { Keep::Kept } else { Keep::Held })
        }

        fn passed(&self) {
            *self.passed.lock() += 1;
        }

        fn relieve(&self, pressure: Pressure) -> bool {
            self.asked.lock().push(pressure);
            let mut things = self.things.lock();
            if *things == 0 {
                return false;
            }
            *things -= 1;
            if let Some((file, bytes)) = &*self.ballast.lock() {
                let left = file.len().unwrap().saturating_sub(*bytes);
                file.set_len(left).unwrap();
            }
            true
        }

        fn poisoned(&self) {}
    }

    fn open(machine: &SimulatedHost, log_bytes_max: u64, things: u32) -> (Engine, Arc<Holder>) {
        let holder = Arc::new(Holder::default());
        *holder.things.lock() = things;
        let options = EngineOptions {
            page_size: PageSize::new(4096).unwrap(),
            checkpoint_bytes: u64::MAX,
            log_bytes_max,
            ..EngineOptions::default()
        };
        let sink = holder.clone();
        let mut prepare = |_: &_| Ok(sink.clone() as Arc<dyn PreImageSink>);
        let engine = Engine::open(
            &machine.host,
            Path::new("/db"),
            &options,
            Some(&mut prepare),
        );
        (engine.unwrap(), holder)
    }

    fn put(engine: &Engine, key: u32, bytes: usize) -> Result<()> {
        let mut write = engine.begin_write()?;
        write.put("t", &key.to_be_bytes(), &vec![7; bytes])?;
        write.commit().map(drop)
    }

    fn live(machine: &SimulatedHost) -> Vec<u8> {
        let file = machine
            .disk
            .open(Path::new("/db/data.pages"), OpenMode::Read);
        let file = file.unwrap();
        let mut out = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        crate::os::read_exact_at(&*file, &mut out, 0).unwrap();
        out
    }

    /// L2: while it is held up a checkpoint is no error, changes nothing, and goes on where it was.
    #[test]
    fn held_checkpoint_overwrites_nothing_and_goes_on_later() {
        let machine = Host::simulated(1);
        let (engine, holder) = open(&machine, u64::MAX, 1);
        put(&engine, 1, 10).unwrap();
        let before = live(&machine);
        for _ in 0..3 {
            let held = engine.checkpoint().unwrap();
            assert_eq!((held.is_held, held.pages_written), (true, 0));
            put(&engine, 2, 10).unwrap();
        }
        assert_eq!(live(&machine), before);
        assert_eq!(machine.disk.list(Path::new("/db/wal")).unwrap().len(), 2);
        assert_eq!(*holder.passed.lock(), 0);
        *holder.things.lock() = 0;
        let done = engine.checkpoint().unwrap();
        assert!(!done.is_held && done.pages_written > 0);
        assert!(holder.asked.lock().is_empty() && *holder.passed.lock() > 0);
        assert_eq!(engine.checkpoint().unwrap(), CheckpointReport::default());
    }

    /// L3: at the log's limit what holds a checkpoint up goes, and no writer fails or waits for it.
    #[test]
    fn log_at_its_limit_ends_what_holds_checkpoints_up_and_no_more() {
        let machine = Host::simulated(2);
        let (engine, holder) = open(&machine, 200_000, 3);
        let mut longest = 0;
        for key in 0..200 {
            put(&engine, key, 3000).unwrap();
            longest = longest.max(engine.stats().wal_bytes);
        }
        assert!(longest < 400_000, "{longest}");
        assert_eq!(*holder.things.lock(), 0);
        assert_eq!(*holder.asked.lock(), [Pressure::LogFull; 3]);
        assert!(engine.stats().checkpoints > 0);
    }

    /// A clean stop does not wait for what holds a checkpoint up, and does not end it: the log stays.
    #[test]
    fn stop_while_held_leaves_the_log_and_loses_nothing() {
        let machine = Host::simulated(4);
        let (engine, holder) = open(&machine, u64::MAX, 1);
        put(&engine, 1, 10).unwrap();
        engine.close().unwrap();
        assert_eq!((*holder.things.lock(), holder.asked.lock().len()), (1, 0));
        assert!(put(&engine, 2, 10).is_err(), "it is stopped");
        drop(engine);
        let (engine, _) = open(&machine.process_crash(), u64::MAX, 0);
        assert_eq!(engine.begin_read().entry_count("t").unwrap(), 1);
    }

    /// A file of `pages` blocks, of which `holder` gives up a hundred for each thing.
    fn keep_ballast(machine: &SimulatedHost, holder: &Holder, pages: usize) {
        let ballast = machine
            .disk
            .open(Path::new("/ballast"), OpenMode::CreateNew);
        let ballast = ballast.unwrap();
        write_all_at(&*ballast, &vec![1; pages * 4096], 0).unwrap();
        *holder.ballast.lock() = Some((ballast, 100 * 4096));
    }

    /// L4: a commit takes the space of what is kept, one thing after the other; when nothing is left the
    /// error is as ever, and writing goes on when space returns.
    #[test]
    fn commit_on_a_full_disk_takes_what_is_kept_before_it_fails() {
        let machine = Host::simulated(3);
        let (engine, holder) = open(&machine, u64::MAX, 0);
        keep_ballast(&machine, &holder, 400);
        machine.disk.set_capacity(Some(420 * 4096));
        *holder.things.lock() = 4;
        let mut keys = 0..5000;
        let failed = keys.find_map(|key| put(&engine, key, 3000).err());
        let error = failed.expect("the disk is small");
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert_eq!(*holder.things.lock(), 0, "all of it went first");
        assert_eq!(*holder.asked.lock(), [Pressure::DiskFull; 5]);
        machine.disk.set_capacity(None);
        put(&engine, 5000, 3000).unwrap();
        assert!(engine.checkpoint().unwrap().pages_written > 0);
        assert!(engine.check().unwrap().is_clean());
    }

    /// L4: what held a checkpoint up is gone, and the checkpointer rests: the log that it could let go is
    /// space for a commit, and what is committed then survives.
    #[test]
    fn commit_on_a_full_disk_reaches_what_a_held_checkpoint_left() {
        let machine = Host::simulated(6);
        let (engine, holder) = open(&machine, u64::MAX, 0);
        // An old segment would have room for what is committed below (W11).
        engine.shared.log().unwrap().forgo_spare();
        for key in 0..100 {
            put(&engine, key, 3000).unwrap();
        }
        assert!(engine.checkpoint().unwrap().pages_written > 0);
        for key in 0..100 {
            put(&engine, key, 2999).unwrap();
        }
        *holder.things.lock() = 1;
        assert!(engine.checkpoint().unwrap().is_held);
        *holder.things.lock() = 0;
        let left = 1 << 40;
        machine.disk.set_capacity(Some(left));
        let used = left - machine.disk.free_bytes(Path::new("/")).unwrap();
        machine.disk.set_capacity(Some(used + 4096));
        let before = engine.stats().wal_bytes;
        for key in 0..20 {
            put(&engine, key, 2998).unwrap();
        }
        assert!(engine.stats().wal_bytes < before);
        machine.disk.set_capacity(None);
        drop(engine);
        let (engine, _) = open(&machine.process_crash(), u64::MAX, 0);
        assert!(engine.check().unwrap().is_clean());
        let read = engine.begin_read();
        for key in 0..100_u32 {
            let value = read.get("t", &key.to_be_bytes()).unwrap().unwrap();
            assert_eq!(value.len(), if key < 20 { 2998 } else { 2999 });
        }
    }

    /// Somebody archives the log of `engine`, and got nowhere so far.
    fn archive_nothing(machine: &SimulatedHost, engine: &Engine) {
        let identity = engine.identity();
        let cursor = ArchiveCursor {
            database: identity.database,
            history: identity.history,
            archived: Lsn::ZERO,
            wall_ns: 0,
        };
        cursor
            .write(&machine.host, Path::new("/db"), [1; 16])
            .unwrap();
    }

    /// LA4: after a restart, too, log that is kept for an archive alone makes nobody wait, and ends nothing.
    #[test]
    fn log_kept_over_a_restart_is_no_reason_to_end_anything() {
        for is_stopped in [true, false] {
            let machine = Host::simulated(7);
            let (engine, _) = open(&machine, u64::MAX, 0);
            archive_nothing(&machine, &engine);
            for key in 0..100 {
                put(&engine, key, 3000).unwrap();
            }
            match is_stopped {
                true => engine.close().unwrap(),
                false => drop(engine.checkpoint().unwrap()),
            }
            drop(engine);
            let (engine, holder) = open(&machine.process_crash(), 200_000, 1);
            assert!(engine.stats().log_kept_bytes > 200_000);
            for key in 0..20 {
                put(&engine, key, 3000).unwrap();
            }
            assert_eq!(*holder.asked.lock(), [], "stopped: {is_stopped}");
            assert!(engine.stats().wal_bytes < 200_000);
        }
    }

    /// LA4: after a clean stop an open on a full disk, and commits then, take the room of what is kept.
    #[test]
    fn open_on_a_full_disk_takes_log_that_is_kept_for_an_archive() {
        let machine = Host::simulated(8);
        let (engine, _) = open(&machine, u64::MAX, 0);
        archive_nothing(&machine, &engine);
        for round in 0..3 {
            for key in 0..30 {
                put(&engine, key, 3000 + round).unwrap();
            }
            engine.checkpoint().unwrap();
        }
        engine.close().unwrap();
        drop(engine);
        let machine = machine.process_crash();
        let left = 1 << 40;
        machine.disk.set_capacity(Some(left));
        let used = left - machine.disk.free_bytes(Path::new("/")).unwrap();
        machine.disk.set_capacity(Some(used));
        let (engine, _) = open(&machine, u64::MAX, 0);
        assert!(engine.stats().log_kept_bytes > 0, "no more than needed");
        for key in 0..40 {
            put(&engine, key, 2998).unwrap();
        }
    }

    /// Two that find the disk full at the same moment do not both take something.
    #[test]
    fn space_that_another_thread_freed_is_tried_first() {
        let relief = super::Relief::default();
        let holder = Holder::default();
        *holder.things.lock() = 5;
        let full =
            || EngineError::io("write", FileRole::PageFile)(std::io::ErrorKind::StorageFull.into());
        let mut attempts = 0;
        let outcome = relief.with(Some(&holder), || {
            attempts += 1;
            if attempts > 2 {
                return Ok(());
            }
            // Another one meets the same full disk, and is done before this one asks.
            let mut others = 0;
            relief.with(Some(&holder), || {
                others += 1;
                if others > 1 { Ok(()) } else { Err(full()) }
            })?;
            Err(full())
        });
        outcome.unwrap();
        assert_eq!(
            (attempts, *holder.things.lock()),
            (3, 3),
            "one for each full disk"
        );
    }

    /// W11, L4: what is left of an old segment is room for the live file, before anything that is kept.
    #[test]
    fn checkpoint_on_a_full_disk_takes_the_rest_of_an_old_segment_first() {
        let machine = Host::simulated(9);
        let (engine, holder) = open(&machine, u64::MAX, 1);
        *holder.is_open.lock() = true;
        for key in 0..100 {
            put(&engine, key, 3000).unwrap();
        }
        assert!(engine.checkpoint().unwrap().pages_written > 0);
        for key in 100..140 {
            put(&engine, key, 3000).unwrap();
        }
        let left = 1 << 40;
        machine.disk.set_capacity(Some(left));
        let used = left - machine.disk.free_bytes(Path::new("/")).unwrap();
        machine.disk.set_capacity(Some(used + 8 * 4096));
        let done = engine.checkpoint().unwrap();
        assert!(!done.is_held && done.pages_written > 40, "{done:?}");
        assert_eq!(*holder.asked.lock(), []);
        machine.disk.set_capacity(None);
        drop(engine);
        let (engine, _) = open(&machine.process_crash(), u64::MAX, 0);
        assert!(engine.check().unwrap().is_clean());
        assert_eq!(engine.begin_read().entry_count("t").unwrap(), 140);
    }

    /// W11, L3: the segment that a checkpoint puts aside on its way ends nothing for the log's limit.
    #[test]
    fn log_at_its_limit_gives_back_what_is_to_be_used_again_first() {
        let machine = Host::simulated(10);
        let (engine, holder) = open(&machine, 200_000, 1);
        let fill = |byte| {
            let mut write = engine.begin_write().unwrap();
            write.put("t", b"one", &[byte; 3000]).unwrap();
            write.commit().unwrap();
        };
        *holder.is_open.lock() = true;
        fill(255);
        engine.checkpoint().unwrap();
        *holder.is_open.lock() = false;
        (0..12).for_each(fill);
        assert!(engine.checkpoint().unwrap().is_held);
        let first = engine.stats().wal_bytes;
        assert!((30_000..60_000).contains(&first), "{first}");
        // What is newer makes the pages of the first target needless, so that its log goes.
        let checkpoints = engine.stats().checkpoints;
        let mut bytes = 100..=254;
        while engine.stats().checkpoints == checkpoints {
            fill(bytes.next().expect("the limit comes first"));
        }
        let stats = engine.stats();
        assert!(stats.wal_bytes + first > 200_000, "{stats:?}");
        assert_eq!((*holder.things.lock(), stats.log_reusable_bytes), (1, 0));
    }

    /// L4: so does a checkpoint, for the next segment and for the growth of the live file.
    #[test]
    fn checkpoint_on_a_full_disk_takes_what_is_kept_before_it_fails() {
        let machine = Host::simulated(5);
        let (engine, holder) = open(&machine, u64::MAX, 0);
        for key in 0..200 {
            put(&engine, key, 3000).unwrap();
        }
        keep_ballast(&machine, &holder, 400);
        machine.disk.set_capacity(Some(0));
        assert_eq!(engine.checkpoint().unwrap_err().kind(), ErrorKind::NoSpace);
        // What is kept holds nothing up here: it is space and nothing else.
        *holder.asked.lock() = Vec::new();
        machine.disk.set_capacity(Some(1 << 40));
        let left = (1 << 40) - machine.disk.free_bytes(Path::new("/")).unwrap();
        machine.disk.set_capacity(Some(left));
        *holder.is_open.lock() = true;
        *holder.things.lock() = 4;
        let report = engine.checkpoint().unwrap();
        assert!(report.pages_written >= 200);
        assert!(
            (1..4).contains(&holder.asked.lock().len()),
            "no more than needed"
        );
    }
}
