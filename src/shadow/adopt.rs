//! What is found in `shadow/` when an engine starts, or a mount without one: pins that are still held.
//!
//! ```text
//! per index: nobody holds it       -> cut, name removed
//!            held, and all is right -> adopted: its slots stay its own
//!            held, and anything not -> left as it is; where an engine starts, its epoch fences it
//! ```
//!
//! An index is read as hostile input: what it says counts only as far as the live file, the log and
//! the slot file bear it out, and nothing is allocated by what it says alone.

#![deny(clippy::indexing_slicing)]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::codec;
use crate::fault::{self, Fault};
use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::{Lsn, Timestamp};
use crate::os::{self, Disk, File, FileIdentity, LockKind, OpenMode};
use crate::page::{self, PAGE_HEADER_BYTES, PageNo, PageSize};
use crate::shadow::index::{
    ENTRY_BYTES, Entry, INDEX_HEADER_BYTES, INDEX_SECTOR_BYTES, IndexFault, IndexHeader,
};

/// Entries that are read at once.
const ENTRIES_PER_READ: u64 = 8192;

/// Who takes over what.
#[derive(Clone, Debug)]
pub struct Takeover {
    /// The database.
    pub database: DatabaseId,
    /// Its history.
    pub history: HistoryId,
    /// Its live file.
    pub live: FileIdentity,
    /// Sequence of the live header.
    pub live_sequence: u64,
    /// Page size of the live file.
    pub page_size: PageSize,
    /// The epochs in the valid copies of the live header; two of the same where they agree.
    pub carried: [Epoch; 2],
    /// The epoch that the live header is to carry next; `None` where no engine starts.
    pub next: Option<Epoch>,
    /// The newest commit.
    pub timestamp: Timestamp,
    /// Its LSN.
    pub lsn: Lsn,
    /// Its page count.
    pub page_count: u64,
    /// The present moment on the monotonic clock.
    pub now: Duration,
}

/// Why a held pin is not adopted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error(transparent)]
    Header(#[from] IndexFault),
    #[error("it was never granted")]
    NotGranted,
    #[error("its name is another pin's")]
    OtherName,
    #[error("it is of another database or history")]
    OtherDatabase,
    #[error("it is of another live file")]
    OtherFile,
    #[error("it is of another slot file")]
    OtherSlots,
    #[error("another incarnation was there in between")]
    Fenced,
    #[error("the live file or the log is older than the pin")]
    OlderDatabase,
    #[error("the index has {found} bytes of {expected}")]
    Short { expected: u64, found: u64 },
    #[error("the entry of page {0} is not borne out by the slot file")]
    Entry(PageNo),
    #[error("cannot {op}: {source}")]
    Io { op: &'static str, source: io::Error },
}

/// A held pin that qualifies.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) file: Arc<dyn File>,
    pub(super) path: PathBuf,
    pub(super) header: IndexHeader,
    pub(super) entries: HashMap<PageNo, Entry>,
}

/// A pin that somebody holds and that is not ours to touch until he lets go.
#[derive(Debug)]
pub(super) struct Stranger {
    file: Option<Arc<dyn File>>,
    path: PathBuf,
}

/// What stands in the header of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageFacts {
    pub(super) page: PageNo,
    pub(super) lsn: Lsn,
    pub(super) crc: u32,
}

/// The slot file as it is found, with the images that entries led to.
#[derive(Debug)]
pub(super) struct FoundSlots {
    pub(super) file: Arc<dyn File>,
    identity: FileIdentity,
    /// Whole slots in the file.
    pub(super) count: u64,
    pub(super) images: HashMap<u32, ImageFacts>,
}

/// All that is found.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) candidates: Vec<Candidate>,
    pub(super) strangers: Vec<Stranger>,
    pub(super) slots: Option<FoundSlots>,
}

/// Looks at everything in `dir`; ends visibly what nobody holds, and changes nothing else.
///
/// Errors: none but that of listing `dir`. An index that cannot be looked at is a stranger's.
pub(super) fn survey(disk: &dyn Disk, dir: &Path, takeover: &Takeover) -> io::Result<Survey> {
    let mut survey = Survey {
        candidates: Vec::new(),
        strangers: Vec::new(),
        slots: FoundSlots::open(disk, &dir.join("slots"), takeover.page_size),
    };
    for name in disk.list(dir)? {
        let path = dir.join(&name);
        if path.extension() != Some(OsStr::new("pin")) {
            continue;
        }
        survey.look_at(disk, path, takeover);
    }
    Ok(survey)
}

impl Survey {
    fn look_at(&mut self, disk: &dyn Disk, path: PathBuf, takeover: &Takeover) {
        let file = match disk.open(&path, OpenMode::ReadWrite) {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(%error, index = %path.display(), "cannot look at a pin");
                self.strangers.push(Stranger { file: None, path });
                return;
            }
        };
        let mut stranger = Stranger {
            file: Some(file.clone()),
            path: path.clone(),
        };
        if stranger.end_if_abandoned(disk) {
            return;
        }
        match examine(file, path, takeover, self.slots.as_mut()) {
            Ok(candidate) => self.candidates.push(candidate),
            Err(unfit) => {
                let index = stranger.path.display();
                tracing::warn!(%index, cause = %unfit, "a pin that is held is not taken over");
                self.strangers.push(stranger);
            }
        }
    }
}

impl Stranger {
    /// Ends the pin visibly and removes its name, if nobody holds it. Says whether it is gone.
    pub(super) fn end_if_abandoned(&mut self, disk: &dyn Disk) -> bool {
        let Some(file) = &self.file else {
            return false;
        };
        let ended = match file.try_lock(LockKind::Exclusive) {
            Ok(true) => file.set_len(0),
            // A cut index is a pin that has ended already; only its name is left.
            Ok(false) if file.is_empty().unwrap_or(false) => Ok(()),
            Ok(false) => return false,
            Err(error) => Err(error),
        };
        let removed = ended.and_then(|()| remove_name(disk, &self.path, &**file));
        if let Err(error) = &removed {
            let index = self.path.display();
            tracing::warn!(%error, %index, "cannot clean up after a pin");
        }
        removed.is_ok()
    }
}

/// Removes the name of a pin, if it still leads to `file`.
fn remove_name(disk: &dyn Disk, path: &Path, file: &dyn File) -> io::Result<()> {
    let there = match disk.open(path, OpenMode::Read) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if there.identity()? == file.identity()? {
        disk.remove(path)
    } else {
        Ok(())
    }
}

impl FoundSlots {
    fn open(disk: &dyn Disk, path: &Path, page_size: PageSize) -> Option<Self> {
        let file = disk.open(path, OpenMode::ReadWrite).ok()?;
        let (identity, bytes) = (file.identity().ok()?, file.len().ok()?);
        Some(Self {
            file,
            identity,
            count: bytes / u64::from(page_size.get()),
            images: HashMap::new(),
        })
    }

    /// The header of the image in `slot`, if the file has such a slot.
    fn image(&mut self, slot: u32, page_size: PageSize) -> Result<Option<ImageFacts>, Unfit> {
        if u64::from(slot) >= self.count {
            return Ok(None);
        }
        if let Some(known) = self.images.get(&slot) {
            return Ok(Some(*known));
        }
        let mut bytes = [0; PAGE_HEADER_BYTES];
        let offset = u64::from(slot) * u64::from(page_size.get());
        os::read_exact_at(&*self.file, &mut bytes, offset).map_err(unreadable("read a slot"))?;
        let image = ImageFacts {
            page: PageNo(codec::get_u64(&bytes, 8).unwrap_or_default()),
            lsn: page::lsn(&bytes),
            crc: page::stored_crc(&bytes),
        };
        self.images.insert(slot, image);
        Ok(Some(image))
    }
}

fn unreadable(op: &'static str) -> impl FnOnce(io::Error) -> Unfit {
    move |source| Unfit::Io { op, source }
}

/// D6: whether a held pin can be gone on with, and what it owns.
fn examine(
    file: Arc<dyn File>,
    path: PathBuf,
    takeover: &Takeover,
    slots: Option<&mut FoundSlots>,
) -> Result<Candidate, Unfit> {
    let mut bytes = [0; INDEX_SECTOR_BYTES];
    let found = os::read_up_to(&*file, &mut bytes, 0).map_err(unreadable("read the index"))?;
    let header = IndexHeader::decode(bytes.get(..found).unwrap_or_default())?;
    let slots = slots.ok_or(Unfit::OtherSlots)?;
    judge(&header, &path, takeover, slots.identity)?;
    let expected = header.page_count * ENTRY_BYTES + INDEX_HEADER_BYTES;
    let found = file.len().map_err(unreadable("look at the index"))?;
    if found < expected {
        return Err(Unfit::Short { expected, found });
    }
    let entries = read_entries(&*file, &header, slots)?;
    Ok(Candidate {
        file,
        path,
        header,
        entries,
    })
}

/// Whether the header alone allows it. It bounds the page count by that of the database.
fn judge(
    header: &IndexHeader,
    path: &Path,
    takeover: &Takeover,
    slots: FileIdentity,
) -> Result<(), Unfit> {
    if !header.granted {
        return Err(Unfit::NotGranted);
    }
    if path.file_stem() != Some(OsStr::new(&header.pin.to_string())) {
        return Err(Unfit::OtherName);
    }
    let is_any = fault::is(Fault::ForeignAdopted);
    if !is_any
        && (header.database, header.history, header.page_size)
            != (takeover.database, takeover.history, takeover.page_size)
    {
        return Err(Unfit::OtherDatabase);
    }
    if !is_any && header.live != takeover.live {
        return Err(Unfit::OtherFile);
    }
    if header.slots != slots {
        return Err(Unfit::OtherSlots);
    }
    let accepts = |epoch: &Epoch| header.accepted_epochs.contains(epoch);
    if !takeover.carried.iter().all(accepts) && !fault::is(Fault::FencedAdopted) {
        return Err(Unfit::Fenced);
    }
    if header.lsn > takeover.lsn
        || header.timestamp > takeover.timestamp
        || header.page_count > takeover.page_count
        || header.live_sequence > takeover.live_sequence
    {
        return Err(Unfit::OlderDatabase);
    }
    Ok(())
}

fn read_entries(
    file: &dyn File,
    header: &IndexHeader,
    slots: &mut FoundSlots,
) -> Result<HashMap<PageNo, Entry>, Unfit> {
    let mut entries = HashMap::new();
    let mut first = 0;
    while first < header.page_count {
        let count = ENTRIES_PER_READ.min(header.page_count - first);
        let length = usize::try_from(count * ENTRY_BYTES).expect("at most 64 KiB");
        let mut bytes = vec![0; length];
        let offset = INDEX_HEADER_BYTES + first * ENTRY_BYTES;
        os::read_exact_at(file, &mut bytes, offset).map_err(unreadable("read the index"))?;
        for (page, raw) in (first..).zip(bytes.chunks_exact(size_of::<u64>())) {
            let page = PageNo(page);
            let raw = codec::get_u64(raw, 0).unwrap_or_default();
            match Entry::decode(raw).ok_or(Unfit::Entry(page))? {
                Entry::NotShadowed => {}
                Entry::Unreadable => drop(entries.insert(page, Entry::Unreadable)),
                entry @ Entry::Slot { slot, crc } => {
                    let image = slots.image(slot, header.page_size)?;
                    let is_borne_out = |image: ImageFacts| {
                        image.page == page && image.crc == crc && image.lsn <= header.lsn
                    };
                    if !image.is_some_and(is_borne_out) && !fault::is(Fault::EntriesBelieved) {
                        return Err(Unfit::Entry(page));
                    }
                    entries.insert(page, entry);
                }
            }
        }
        first += count;
    }
    Ok(entries)
}
