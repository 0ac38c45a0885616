//! The engine. The rules that it keeps are in the head of the example.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use parking_lot::Mutex;
use stillfs::codec;
use stillfs::id::{DatabaseId, Epoch, HistoryId, PinId};
use stillfs::lsn::{Lsn, Timestamp};
use stillfs::os::{self, File, Host, LockKind, OpenMode};
use stillfs::page::{self, PageBuf, PageKind, PageNo};
use stillfs::shadow::index::IndexHeader;
use stillfs::shadow::{EndReason, HeldPin, Kept, Shadow, Takeover, lock_held};
use stillfs::view::{LiveHeader, LiveIdentity, PinnedFile};

use super::pages::{
    ACCOUNTS_PER_PAGE, FIRST, HeapHeader, PAGE_BYTES, PAGE_SIZE, encode_header, offset_of,
    place_of, read_page,
};
use super::{FILE, HeapPin, Outcome, total_of};

/// Free space below which the shadow takes no more: what this engine needs for itself.
const FREE_FLOOR_BYTES: u64 = 1 << 20;

/// The newest change.
#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    lsn: Lsn,
    wall_ns: u64,
}

/// The engine.
#[derive(Debug)]
pub(crate) struct Heap {
    host: Host,
    dir: PathBuf,
    file: Arc<dyn File>,
    shadow: Shadow,
    whose: LiveIdentity,
    page_count: u64,
    /// Whoever writes holds this.
    newest: Mutex<Newest>,
}

impl Heap {
    /// Makes a heap of `accounts` accounts that hold 0 each, in an empty directory.
    pub(crate) fn create(host: &Host, dir: &Path, accounts: u64) -> Outcome<()> {
        let file = host.disk.open(&dir.join(FILE), OpenMode::CreateNew)?;
        let whose = LiveIdentity {
            database: DatabaseId(random(host)?),
            history: HistoryId(random(host)?),
            epoch: Epoch(0),
            sequence: 0,
        };
        os::write_all_at(&*file, &encode_header(whose, Lsn(1)), 0)?;
        for number in FIRST..FIRST + accounts.div_ceil(ACCOUNTS_PER_PAGE) {
            // The kinds of pages are those of stillfs: one that holds values is a leaf.
            let mut page = PageBuf::formatted(PAGE_SIZE, PageNo(number), PageKind::Leaf);
            page.seal(Lsn(1));
            os::write_all_at(&*file, &page, offset_of(PageNo(number)))?;
        }
        Ok(file.sync_data()?)
    }

    /// Opens the heap in `dir`, whether it was made there or copied from a mount.
    pub(crate) fn open(host: &Host, dir: &Path) -> Outcome<Self> {
        let file = host.disk.open(&dir.join(FILE), OpenMode::ReadWrite)?;
        if !file.try_lock(LockKind::Exclusive)? {
            return Err("another engine runs on this heap".into());
        }
        let changed_ns = os::path::metadata(&dir.join(FILE))?.mtime_ns;
        let page_count = file.len()? / PAGE_BYTES as u64;
        let mut header = vec![0; PAGE_BYTES];
        os::read_exact_at(&*file, &mut header, 0)?;
        let mut whose = HeapHeader.decode(&header).ok_or("this is no heap")?;
        let mut lsn = page::lsn(&header);
        for number in FIRST..page_count {
            lsn = lsn.max(read_page(&*file, PageNo(number))?.lsn());
        }
        // Rule 2, and its order: pins that are held accept the epoch to come, and those that nobody
        // holds end; then the file gets that epoch; then it may be changed.
        let epoch = Epoch(u64::from_le_bytes(random(host)?));
        let takeover = Takeover {
            database: whose.database,
            history: whose.history,
            live: file.identity()?,
            live_sequence: whose.sequence,
            page_size: PAGE_SIZE,
            carried: [whose.epoch; 2],
            next: Some(epoch),
            timestamp: Timestamp(lsn.0),
            lsn,
            page_count,
            now: host.clock.monotonic(),
        };
        let shadow = Shadow::open(host, &dir.join("shadow"), &takeover, FREE_FLOOR_BYTES)?;
        fence(Ordering::SeqCst);
        whose.epoch = epoch;
        whose.sequence += 1;
        os::write_all_at(&*file, &encode_header(whose, lsn), 0)?;
        file.sync_data()?;
        fence(Ordering::SeqCst);
        Ok(Self {
            host: host.clone(),
            dir: dir.to_owned(),
            file,
            shadow,
            whose,
            page_count,
            newest: Mutex::new(Newest {
                lsn,
                wall_ns: u64::try_from(changed_ns)?,
            }),
        })
    }

    /// Adds to one account what it takes from another; both or none, for every pin.
    pub(crate) fn transfer(&self, from: u64, to: u64, amount: u64) -> Outcome<()> {
        self.change(&[(from, amount.wrapping_neg()), (to, amount)])
    }

    /// Adds to accounts.
    pub(crate) fn change(&self, changes: &[(u64, u64)]) -> Outcome<()> {
        let mut newest = self.newest.lock();
        let mut pages = BTreeMap::new();
        for (account, amount) in changes {
            let (number, offset) = place_of(*account);
            let page = match pages.entry(number) {
                Entry::Occupied(changed) => changed.into_mut(),
                Entry::Vacant(place) => place.insert(read_page(&*self.file, number)?),
            };
            let balance = codec::get_u64(page, offset).ok_or("no such account")?;
            let balance = balance.wrapping_add(*amount);
            codec::put(page, offset, &balance.to_le_bytes());
        }
        // Rule 1.
        let lsn = newest.lsn.checked_add(1).ok_or("no LSN is left")?;
        pages.values_mut().for_each(|page| page.seal(lsn));
        self.overwrite(&pages)?;
        // A time of its own for every state, so that tools see that a file has changed.
        let wall_ns = self.host.clock.wall_ns().max(newest.wall_ns + 1);
        *newest = Newest { lsn, wall_ns };
        Ok(())
    }

    /// Rule 3: the only place that writes pages that a pin may need. If the shadow fails nothing is
    /// overwritten.
    fn overwrite(&self, pages: &BTreeMap<PageNo, PageBuf>) -> Outcome<()> {
        self.shadow.tend_sometimes(self.host.clock.monotonic());
        let numbers: Vec<PageNo> = pages.keys().copied().collect();
        if self.shadow.before_overwrite(&numbers, &*self.file)? != Kept::All {
            return Err("a pin holds writers up".into());
        }
        for (number, page) in pages {
            os::write_all_at(&*self.file, page, offset_of(*number))?;
        }
        Ok(())
    }

    /// Pins the state of this moment.
    pub(crate) fn pin(&self) -> Outcome<HeapPin> {
        let held = self.shadow.prepare(IndexHeader {
            database: self.whose.database,
            history: self.whose.history,
            accepted_epochs: [self.whose.epoch; 2],
            page_count: self.page_count,
            live_sequence: self.whose.sequence,
            taken: self.host.clock.monotonic(),
            ..IndexHeader::new(
                PinId(random(&self.host)?),
                PAGE_SIZE,
                self.file.identity()?,
                self.shadow.slots_identity()?,
            )
        })?;
        let granted = self.grant(&held);
        if granted.is_err() {
            self.shadow.end(&held, EndReason::Refused)?;
        }
        Ok(HeapPin {
            view: granted?,
            held,
        })
    }

    /// Rule 4.
    fn grant(&self, held: &Arc<HeldPin>) -> Outcome<Arc<PinnedFile>> {
        let newest = self.newest.lock();
        held.fix(|facts| {
            facts.lsn = newest.lsn;
            facts.timestamp = Timestamp(newest.lsn.0);
            facts.wall_ns = newest.wall_ns;
        });
        self.shadow.activate(held);
        // From here on the shadow keeps what is overwritten.
        drop(newest);
        self.shadow.write_header(held)?;
        // The header changes at every open, so the view has its own. An engine whose file lags behind
        // its log also spills each page whose newest image is not in the file yet.
        let header = encode_header(self.whose, held.header().lsn);
        self.shadow.spill(held, PageNo(0), &header)?;
        self.file.sync_data()?;
        self.shadow.sync_index(held)?;
        // A reader has files of its own. As long as it has this lock, an engine that starts later goes
        // on with the pin.
        let open = |path: &Path| self.host.disk.open(path, OpenMode::Read);
        let (live, slots) = (
            open(&self.dir.join(FILE))?,
            open(&self.shadow.slots_path())?,
        );
        let index = open(held.path())?;
        lock_held(&*index)?;
        held.grant();
        self.shadow.write_header(held)?;
        let view = PinnedFile::open(live, slots, index, Arc::new(HeapHeader))?;
        Ok(Arc::new(view))
    }

    /// Rule 5.
    pub(crate) fn release(&self, pin: &HeapPin) -> Outcome<()> {
        Ok(self.shadow.end(&pin.held, EndReason::Released)?)
    }

    /// How many pages the shadow keeps at this moment.
    pub(crate) fn pages_kept(&self) -> u64 {
        self.shadow.slot_counts().0
    }

    /// The sum of all accounts, as the live file has it.
    pub(crate) fn total(&self) -> Outcome<u64> {
        let _nobody_writes = self.newest.lock();
        let mut bytes = vec![0; usize::try_from(self.file.len()?)?];
        os::read_exact_at(&*self.file, &mut bytes, 0)?;
        Ok(total_of(&bytes))
    }
}

fn random<const BYTES: usize>(host: &Host) -> Outcome<[u8; BYTES]> {
    let mut out = [0; BYTES];
    host.random.fill(&mut out)?;
    Ok(out)
}
