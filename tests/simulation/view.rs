//! One pin, as a reader sees it: every byte is that of the pinned commit, or the read fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use stillfs::engine::Engine;
use stillfs::os::sim::SimDisk;
use stillfs::os::{self, File, Host};
use stillfs::page::PageNo;
use stillfs::shadow::index::{Entry, OnFull, entry_offset};
use stillfs::view::tree::{RangeRead, ReadError};
use stillfs::view::{PinnedFile, ViewFile};

use crate::content::Content;
use crate::counts::Counts;
use crate::draw::Draw;
use crate::plan::Config;

/// How long an adopted pin waits for its holder.
const CLAIM_PATIENCE: Duration = Duration::from_secs(60);

/// What a reader may expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The pin is held and nothing happened to it: it must read.
    Healthy,
    /// Something happened that a pin need not survive: its bytes or an error.
    Excused(&'static str),
    /// It ended visibly: every read fails.
    Ended,
}

/// A view and what it must show.
#[derive(Debug)]
pub(crate) struct View {
    /// For the trace.
    pub(crate) number: u64,
    pub(crate) timestamp: u64,
    content: Arc<Content>,
    file: Arc<PinnedFile>,
    /// The index, opened by somebody who is neither engine nor reader.
    index: Arc<dyn File>,
    standing: Mutex<Standing>,
    /// A read said that the pin has ended: then it must have.
    pub(crate) end_seen: AtomicBool,
    /// A page may have been unreadable when it was captured.
    pub(crate) may_lack_pages: AtomicBool,
    /// It names a page file that no engine has open any more.
    is_left_alone: AtomicBool,
    /// Calls failed while an engine started: it may have left the pin to be fenced.
    pub(crate) is_doubtful: AtomicBool,
    /// When an engine adopted the pin, until its holder reclaims it.
    pub(crate) unclaimed_since: Mutex<Option<Duration>>,
    image: Mutex<Option<Arc<Vec<u8>>>>,
}

/// What happens around a read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    /// Calls to the disk fail.
    pub(crate) faults: bool,
    /// Between two steps of an engine, which may be about to end the pin.
    pub(crate) amid: bool,
}

/// The bytes of a whole view, as a page file in memory.
#[derive(Debug)]
struct Image(Arc<Vec<u8>>);

impl RangeRead for Image {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let start = usize::try_from(offset).expect("an image in memory");
        out.copy_from_slice(&self.0[start..start + out.len()]);
        Ok(())
    }
}

impl View {
    pub(crate) fn new(
        number: u64,
        content: Arc<Content>,
        file: Arc<PinnedFile>,
        index: Arc<dyn File>,
    ) -> Self {
        Self {
            number,
            timestamp: file.header().timestamp.0,
            content,
            file,
            index,
            standing: Mutex::new(Standing::Healthy),
            end_seen: AtomicBool::new(false),
            may_lack_pages: AtomicBool::new(false),
            is_left_alone: AtomicBool::new(false),
            is_doubtful: AtomicBool::new(false),
            unclaimed_since: Mutex::default(),
            image: Mutex::default(),
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        *self.standing.lock()
    }

    /// Lowers what may be expected; an end is for ever.
    pub(crate) fn lower(&self, to: Standing) {
        let mut standing = self.standing.lock();
        if *standing != Standing::Ended && (*standing == Standing::Healthy || to == Standing::Ended)
        {
            *standing = to;
        }
    }

    /// Whether the pin's visible end has come: its index is cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.index.is_empty().unwrap_or(false)
    }

    /// Whether an engine must have the pin in its books.
    pub(crate) fn is_held(&self) -> bool {
        self.standing() != Standing::Ended && !self.is_left_alone()
    }

    /// Whether it has reached its maximum age, or nobody reclaimed it for so long that it ends.
    pub(crate) fn is_overdue(&self, now: Duration) -> bool {
        let is_past = |since: Duration, limit| now.saturating_sub(since) > limit;
        let header = self.file.header();
        let since = *self.unclaimed_since.lock();
        since.is_some_and(|since| is_past(since, CLAIM_PATIENCE))
            || header.max_age.is_some_and(|age| is_past(header.taken, age))
    }

    /// Whether it may end because it kept as much as it was to keep, or held up the log for too long.
    pub(crate) fn is_bounded(&self) -> bool {
        let header = self.file.header();
        let limit = header.shadow_limit_bytes;
        header.on_full == OnFull::Hold || limit.is_some_and(|bytes| bytes < 1 << 30)
    }

    /// Says whether the engine that has just started adopted the pin, which it must if the pin is
    /// held, and its files are in their places.
    pub(crate) fn settle_adoption(&self, is_shadow_gone: bool, now: Duration) -> bool {
        *self.unclaimed_since.lock() = None;
        if self.is_left_alone() {
            if self.is_cut() {
                self.lower(Standing::Ended);
            }
            return false;
        }
        let look = self.file.look();
        let is_excused = is_shadow_gone || self.is_doubtful.swap(false, Ordering::Relaxed);
        match look {
            Ok(()) => {
                let number = self.number;
                assert!(!is_shadow_gone, "view {number} is read without its shadow");
                assert!(self.standing() != Standing::Ended, "view {number} is back");
                *self.unclaimed_since.lock() = Some(now);
                true
            }
            Err(error) => {
                let is_excused = is_excused || self.standing() != Standing::Healthy;
                assert!(is_excused, "view {} was not adopted: {error}", self.number);
                self.lower(Standing::Ended);
                false
            }
        }
    }

    pub(crate) fn is_left_alone(&self) -> bool {
        self.is_left_alone.load(Ordering::Relaxed)
    }

    /// Its page file was replaced: no engine writes to that any more, and none knows the pin.
    pub(crate) fn leave_alone(&self) {
        self.is_left_alone.store(true, Ordering::Relaxed);
        self.lower(Standing::Excused("its page file was replaced"));
    }

    pub(crate) fn image(&self) -> Option<Arc<Vec<u8>>> {
        self.image.lock().clone()
    }

    /// Slots that the index names; `None` if it is cut or cannot be read.
    pub(crate) fn slots(&self) -> Option<Vec<u32>> {
        let header = self.file.header();
        let start = entry_offset(PageNo(0)).expect("no overflow");
        let mut bytes = vec![0; usize::try_from(header.page_count * 8).expect("a small view")];
        os::read_exact_at(&*self.index, &mut bytes, start).ok()?;
        let entries = bytes.chunks_exact(8).map(|entry| {
            let raw = u64::from_le_bytes(entry.try_into().expect("8 bytes"));
            Entry::decode(raw).expect("an entry that an engine writes")
        });
        Some(
            entries
                .filter_map(|entry| match entry {
                    Entry::Slot { slot, .. } => Some(slot),
                    Entry::NotShadowed | Entry::Unreadable => None,
                })
                .collect(),
        )
    }

    /// Reads `length` bytes at `offset`; `None` where an error is right.
    fn read(&self, offset: u64, length: usize, around: Around) -> Option<Vec<u8>> {
        let mut out = vec![0xee; length];
        let standing = self.standing();
        match self.file.read_range(offset, &mut out) {
            Ok(()) => {
                assert!(
                    standing != Standing::Ended && !self.end_seen.load(Ordering::Relaxed),
                    "view {} was read after its end",
                    self.number
                );
                Some(out)
            }
            Err(error) => {
                self.require_excuse(&error, standing, around);
                None
            }
        }
    }

    fn require_excuse(&self, error: &ReadError, standing: Standing, around: Around) {
        let is_excused = match error {
            ReadError::Range { .. } => false,
            _ if standing != Standing::Healthy => true,
            ReadError::PinEnded { .. } => {
                // Whoever reads amid an engine's steps may see the end before the engine says so.
                self.end_seen.store(true, Ordering::Relaxed);
                around.amid || around.faults
            }
            ReadError::Unreadable { .. } => self.may_lack_pages.load(Ordering::Relaxed),
            // An engine that takes over writes it anew, in more than one piece if it must.
            ReadError::IndexHeader => around.amid || around.faults,
            ReadError::Io { source, .. } => around.faults || SimDisk::is_stopped(source),
            _ => false,
        };
        assert!(
            is_excused,
            "view {} of commit {} should be read and was not: {error}",
            self.number, self.timestamp
        );
    }

    /// Reads the whole view. The first time it is compared with the model, then with that reading.
    pub(crate) fn read_whole(&self, host: &Host, config: &Config, around: Around, counts: &Counts) {
        let size = usize::try_from(self.file.size()).expect("a small view");
        let Some(bytes) = self.read(0, size, around) else {
            return counts.refused();
        };
        counts.pages(size / config.page_size.bytes());
        if let Some(image) = self.image() {
            return self.compare(&bytes, &image, 0, config);
        }
        let image = Arc::new(bytes);
        self.require_content(host, config, &image);
        *self.image.lock() = Some(image);
    }

    fn require_content(&self, host: &Host, config: &Config, image: &Arc<Vec<u8>>) {
        let file = Arc::new(ViewFile::new(Arc::new(Image(image.clone()))));
        let engine = Engine::open_still(host, file, 1 << 20).expect("a view is a clean page file");
        let report = engine.check().expect("a check in memory");
        assert!(report.is_clean(), "view {}: {report:?}", self.number);
        let read = engine.begin_read();
        assert_eq!(read.timestamp().0, self.timestamp);
        let differs = self
            .content
            .compare(&read, config)
            .expect("a read in memory");
        assert_eq!(
            differs, None,
            "view {} of commit {}",
            self.number, self.timestamp
        );
    }

    fn compare(&self, found: &[u8], image: &[u8], offset: usize, config: &Config) {
        let expected = &image[offset..offset + found.len()];
        if found != expected {
            let differs = found.iter().zip(expected).position(|(a, b)| a != b);
            let page = (offset + differs.unwrap_or_default()) / config.page_size.bytes();
            panic!("view {}: WRONG BYTES in page {page}", self.number);
        }
    }

    /// Reads some range, odd ends included, and compares it with the first reading, if there was one.
    pub(crate) fn read_some(&self, draw: &Draw, config: &Config, around: Around, counts: &Counts) {
        let size = self.file.size();
        let page = u64::from(config.page_size.get());
        let (offset, length) = if draw.one_in(3) {
            let offset = draw.below(size);
            (offset, draw.between(1, (size - offset).min(3 * page)))
        } else {
            let first = draw.below(size / page);
            let most = (size / page - first).min(4);
            (first * page, draw.between(1, most) * page)
        };
        let length = usize::try_from(length).expect("short");
        let Some(bytes) = self.read(offset, length, around) else {
            return counts.refused();
        };
        counts.pages(length.div_ceil(config.page_size.bytes()));
        if let Some(image) = self.image() {
            let offset = usize::try_from(offset).expect("a small view");
            self.compare(&bytes, &image, offset, config);
        }
    }
}
