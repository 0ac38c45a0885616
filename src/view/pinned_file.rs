//! One pinned page file: live file, slots and index of a pin, read as one still file.

use std::io::{self, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use parking_lot::Mutex;

use crate::codec;
use crate::fault::{self, Fault};
use crate::os::{self, File, FileIdentity, LockKind};
use crate::page::{self, PageFault, PageNo};
use crate::shadow::index::{Entry, INDEX_SECTOR_BYTES, IndexFault, IndexHeader, entry_offset};
use crate::view::merged_read::{Image, MergeSource, last_look, read_merged};
use crate::view::tree::{EndSeen, PageVersion, RangeRead, ReadError};

/// Bytes of an index entry in memory.
const ENTRY_WIDTH: usize = size_of::<u64>();
/// How many slots are read with one call; the system takes 1024 buffers.
const SLOTS_AT_ONCE_MAX: usize = 512;
/// How often a header that looks torn is looked at.
const LOOKS: u32 = 3;

/// Reads what the last look needs from a header copy of the live file.
///
/// The layout belongs to the engine; who opens a view brings it along.
pub trait LiveHeader: Send + Sync + std::fmt::Debug {
    /// The history and epoch in one header copy, or `None` if the copy is not valid.
    fn decode(&self, bytes: &[u8]) -> Option<LiveIdentity>;
    /// Bytes of a copy that `decode` needs.
    fn bytes(&self) -> usize;
}

/// Whose the live file is at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveIdentity {
    /// Database.
    pub database: crate::id::DatabaseId,
    /// History.
    pub history: crate::id::HistoryId,
    /// Incarnation.
    pub epoch: crate::id::Epoch,
    /// Order of the header's copies: it only grows.
    pub sequence: u64,
}

/// What reading cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// Bytes given to readers.
    pub served_bytes: u64,
    /// Pages read from the live file and used.
    pub live_pages: u64,
    /// Pages read from slots.
    pub shadow_pages: u64,
    /// Page checks that failed; 0 in healthy runs, although a failed page is tried again.
    pub failed_checks: u64,
}

/// The view of one pin's page file. Any number of threads may read it.
#[derive(Debug)]
pub struct PinnedFile {
    live: Arc<dyn File>,
    slots: Arc<dyn File>,
    index: Arc<dyn File>,
    header: IndexHeader,
    live_header: Arc<dyn LiveHeader>,
    served_bytes: AtomicU64,
    live_pages: AtomicU64,
    shadow_pages: AtomicU64,
    failed_checks: AtomicU64,
    last_failure: Mutex<Option<String>>,
    is_expired: AtomicBool,
}

impl PinnedFile {
    /// Opens the view of a granted pin.
    ///
    /// Errors: `PinEnded` if the index is cut, not granted, or of another live file; `Io`.
    pub fn open(
        live: Arc<dyn File>,
        slots: Arc<dyn File>,
        index: Arc<dyn File>,
        live_header: Arc<dyn LiveHeader>,
    ) -> Result<Self, ReadError> {
        let header = read_index_header(&*index)?;
        let identity = live
            .identity()
            .map_err(io_error("look at", "data.pages", 0))?;
        if !header.granted || identity != header.live {
            return Err(ReadError::PinEnded {
                reason: EndSeen::OtherDatabase,
            });
        }
        Ok(Self {
            live,
            slots,
            index,
            header,
            live_header,
            served_bytes: AtomicU64::new(0),
            live_pages: AtomicU64::new(0),
            shadow_pages: AtomicU64::new(0),
            failed_checks: AtomicU64::new(0),
            last_failure: Mutex::default(),
            is_expired: AtomicBool::new(false),
        })
    }

    /// Which file the index is, by the descriptor that holds its lock.
    ///
    /// Errors: the system's.
    pub fn index_identity(&self) -> io::Result<FileIdentity> {
        self.index.identity()
    }

    /// The facts of the pin.
    #[must_use]
    pub fn header(&self) -> &IndexHeader {
        &self.header
    }

    /// What reading cost so far.
    #[must_use]
    pub fn counts(&self) -> ReadCounts {
        ReadCounts {
            served_bytes: self.served_bytes.load(Ordering::Relaxed),
            live_pages: self.live_pages.load(Ordering::Relaxed),
            shadow_pages: self.shadow_pages.load(Ordering::Relaxed),
            failed_checks: self.failed_checks.load(Ordering::Relaxed),
        }
    }

    /// Why a read failed that lay inside the file while the pin held, if one did: the last.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.last_failure.lock().clone()
    }

    /// Ends the view by its age, for good: every later read fails, whatever the engine does or did.
    pub fn expire(&self) {
        self.is_expired.store(true, Ordering::SeqCst);
    }

    fn note_failure(&self, error: &ReadError) {
        if !matches!(error, ReadError::PinEnded { .. } | ReadError::Range { .. }) {
            *self.last_failure.lock() = Some(error.to_string());
        }
    }

    /// Whether the pin still holds at this moment. Errors: `PinEnded`, `Io`.
    pub fn look(&self) -> Result<(), ReadError> {
        last_look(self)
    }

    /// Whether the live file's header is from before the pin.
    fn is_older(&self, identities: &[LiveIdentity]) -> bool {
        let newest = identities.iter().map(|live| live.sequence).max();
        newest.is_none_or(|sequence| sequence < self.header.live_sequence)
    }

    /// Whose the live file is, by every valid copy of its header; at least one.
    ///
    /// A copy can be torn while it is written, or by a crash; the other is not then. Both can look
    /// torn only if two writes met two reads, so it is tried again.
    fn live_identities(&self) -> Result<Vec<LiveIdentity>, ReadError> {
        let mut bytes = vec![0; self.live_header.bytes()];
        let mut seen = Vec::new();
        for _ in 0..LOOKS {
            let mut identities = Vec::with_capacity(2);
            for copy in 0..2 {
                let offset = copy * u64::from(self.header.page_size.get());
                let found = os::read_up_to(&*self.live, &mut bytes, offset).map_err(io_error(
                    "read",
                    "data.pages",
                    offset,
                ))?;
                identities.extend(self.live_header.decode(&bytes[..found]));
            }
            if !identities.is_empty() {
                seen = identities;
            }
            // A copy that is being written hides its successor for a moment.
            if !self.is_older(&seen) {
                break;
            }
        }
        if seen.is_empty() {
            return Err(ReadError::PinEnded {
                reason: EndSeen::HeaderLost,
            });
        }
        Ok(seen)
    }
}

impl PinnedFile {
    /// Reads images whose slots lie in a row with one call; whether all of it came.
    fn read_at_once(&self, row: &mut [Image<'_>]) -> bool {
        let (Some(first), true) = (row.first(), row.len() > 1) else {
            return false;
        };
        let offset = u64::from(first.slot) * u64::from(self.header.page_size.get());
        let wanted: usize = row.iter().map(|image| image.bytes.len()).sum();
        let buffers = row.iter_mut().map(|image| IoSliceMut::new(image.bytes));
        let mut buffers: Vec<_> = buffers.collect();
        let found = self.slots.read_vectored_at(&mut buffers, offset);
        found.is_ok_and(|found| found == wanted)
    }
}

impl MergeSource for PinnedFile {
    fn page_bytes(&self) -> usize {
        self.header.page_size.bytes()
    }

    fn read_live(&self, first: PageNo, out: &mut [u8]) -> Result<usize, ReadError> {
        let offset = first.0 * u64::from(self.header.page_size.get());
        os::read_up_to(&*self.live, out, offset).map_err(io_error("read", "data.pages", offset))
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn read_entries(&self, first: PageNo, out: &mut [Entry]) -> Result<(), ReadError> {
        let offset = entry_offset(first).unwrap_or(u64::MAX);
        let mut bytes = vec![0; out.len() * ENTRY_WIDTH];
        let found = os::read_up_to(&*self.index, &mut bytes, offset).map_err(io_error(
            "read",
            "the pin's index",
            offset,
        ))?;
        if found < bytes.len() {
            return Err(ReadError::PinEnded {
                reason: EndSeen::IndexCut,
            });
        }
        let mut page = first;
        for (entry, raw) in out.iter_mut().zip(bytes.chunks_exact(ENTRY_WIDTH)) {
            let raw = codec::get_u64(raw, 0).unwrap_or_default();
            *entry = Entry::decode(raw).ok_or(ReadError::Entry { page, entry: raw })?;
            page = PageNo(page.0 + 1);
        }
        Ok(())
    }

    fn read_slot(&self, page: PageNo, slot: u32, out: &mut [u8]) -> Result<(), ReadError> {
        let offset = u64::from(slot) * u64::from(self.header.page_size.get());
        let found = os::read_up_to(&*self.slots, out, offset).map_err(io_error(
            "read",
            "shadow/slots",
            offset,
        ))?;
        if found < out.len() {
            let fault = PageFault::Short { found };
            return Err(ReadError::Page {
                file: "shadow/slots",
                page,
                fault,
            });
        }
        Ok(())
    }

    fn read_slots(&self, row: &mut [Image<'_>]) -> Result<(), ReadError> {
        for part in row.chunks_mut(SLOTS_AT_ONCE_MAX) {
            if !self.read_at_once(part) {
                // What did not come at once is read one by one, which says what is the matter.
                for image in part {
                    self.read_slot(image.page, image.slot, image.bytes)?;
                }
            }
        }
        Ok(())
    }

    fn check(&self, page: PageNo, bytes: &[u8], crc: Option<u32>) -> Result<(), ReadError> {
        if fault::is(Fault::PageChecksOff) {
            return Ok(());
        }
        let file = if crc.is_some() {
            "shadow/slots"
        } else {
            "data.pages"
        };
        let found = page::stored_crc(bytes);
        let checked = match crc {
            Some(expected) if expected != found => Err(PageFault::Checksum { expected, found }),
            _ => page::check(bytes, page, self.header.lsn),
        };
        checked.map_err(|fault| {
            self.failed_checks.fetch_add(1, Ordering::Relaxed);
            ReadError::Page { file, page, fault }
        })
    }

    fn last_look(&self) -> Result<(), ReadError> {
        if self.is_expired.load(Ordering::SeqCst) {
            return Err(ReadError::PinEnded {
                reason: EndSeen::Expired,
            });
        }
        // The live header first: an engine that adopts the pin writes the epochs that the index
        // accepts before it writes its own epoch there.
        let identities = self.live_identities()?;
        self.fence();
        let header = read_index_header(&*self.index)?;
        if header.pin != self.header.pin || !header.granted {
            return Err(ReadError::PinEnded {
                reason: EndSeen::IndexCut,
            });
        }
        let is_older = self.is_older(&identities);
        for live in identities {
            if (live.database, live.history) != (header.database, header.history) {
                return Err(ReadError::PinEnded {
                    reason: EndSeen::OtherDatabase,
                });
            }
            if !header.accepted_epochs.contains(&live.epoch) {
                return Err(ReadError::PinEnded {
                    reason: EndSeen::Fenced,
                });
            }
        }
        if is_older {
            return Err(ReadError::PinEnded {
                reason: EndSeen::OlderFile,
            });
        }
        Ok(())
    }
}

impl RangeRead for PinnedFile {
    fn size(&self) -> u64 {
        self.header.page_count * u64::from(self.header.page_size.get())
    }

    fn page_bytes(&self) -> Option<u32> {
        Some(self.header.page_size.get())
    }

    fn version(&self) -> Option<PageVersion> {
        let IndexHeader {
            database,
            history,
            lsn,
            timestamp,
            wall_ns,
            ..
        } = self.header;
        Some(PageVersion {
            database,
            history,
            lsn,
            timestamp,
            wall_ns,
        })
    }

    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let bytes = out.len() as u64;
        let size = self.size();
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(ReadError::Range {
                offset,
                bytes,
                size,
            });
        }
        if out.is_empty() {
            return Ok(());
        }
        let page_bytes = u64::from(self.header.page_size.get());
        let first = offset / page_bytes;
        let skip = offset % page_bytes;
        let page_count = (skip + bytes).div_ceil(page_bytes);
        let shadowed = if skip == 0 && bytes.is_multiple_of(page_bytes) {
            read_merged(self, PageNo(first), out).inspect_err(|error| self.note_failure(error))?
        } else {
            let length = usize::try_from(page_count * page_bytes).unwrap_or(usize::MAX);
            let mut pages = vec![0; length];
            let shadowed = read_merged(self, PageNo(first), &mut pages)
                .inspect_err(|error| self.note_failure(error))?;
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            out.copy_from_slice(&pages[skip..skip + out.len()]);
            shadowed
        };
        self.served_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.shadow_pages.fetch_add(shadowed, Ordering::Relaxed);
        self.live_pages
            .fetch_add(page_count.saturating_sub(shadowed), Ordering::Relaxed);
        Ok(())
    }
}

/// Any still content as a read-only [`File`], so that the engine can open a view of itself.
#[derive(Debug)]
pub struct ViewFile(Arc<dyn RangeRead>);

impl ViewFile {
    /// Wraps `content`.
    #[must_use]
    pub fn new(content: Arc<dyn RangeRead>) -> Self {
        Self(content)
    }
}

impl File for ViewFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.0.size().saturating_sub(offset);
        let count = usize::try_from(rest).unwrap_or(usize::MAX).min(out.len());
        // Past the end a file is empty, where a range is refused.
        if count == 0 {
            return Ok(0);
        }
        self.0
            .read_range(offset, &mut out[..count])
            .map_err(io::Error::other)?;
        Ok(count)
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.size())
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn try_lock(&self, _kind: LockKind) -> io::Result<bool> {
        Ok(true)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn read_index_header(index: &dyn File) -> Result<IndexHeader, ReadError> {
    let mut bytes = [0; INDEX_SECTOR_BYTES];
    // A header that is being rewritten at this moment can be torn; the second look is not.
    for _ in 0..LOOKS {
        let found =
            os::read_up_to(index, &mut bytes, 0).map_err(io_error("read", "the pin's index", 0))?;
        match IndexHeader::decode(bytes.get(..found).unwrap_or_default()) {
            Ok(header) => return Ok(header),
            Err(IndexFault::Damaged) => {}
            Err(_) => {
                return Err(ReadError::PinEnded {
                    reason: EndSeen::IndexCut,
                });
            }
        }
    }
    // A writer that was stopped in the middle is followed by one that writes it whole: an end would be
    // for ever, and this need not be.
    Err(ReadError::IndexHeader)
}

fn io_error(
    op: &'static str,
    file: &'static str,
    offset: u64,
) -> impl FnOnce(io::Error) -> ReadError {
    move |source| ReadError::Io {
        op,
        file,
        offset,
        source,
    }
}
