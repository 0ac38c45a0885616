//! An engine of another kind behind pin, shadow and mount.
//!
//! ```text
//! cargo run --example own_engine [DIRECTORY]
//! ```
//!
//! The engine is a heap file of accounts, eight bytes each, overwritten in place: no log, no trees,
//! nothing of `stillfs::engine`. (A crash in the middle of a change leaves half of it; that is its own
//! trouble.) For a folder that stands still while its pages change it keeps five rules, and each of
//! them is one place in this file:
//!
//! 1. Every page has the common header, with an LSN that is higher with every change ([`Heap::change`]).
//! 2. The file says whose it is, with an epoch that is new at each open, written after the shadow has
//!    taken over the pins that are still held ([`HeapHeader`], [`Heap::open`]).
//! 3. Before pages are overwritten the shadow is asked, and nobody else writes ([`Heap::overwrite`]).
//! 4. A pin fixes one state while nobody writes; what of that state the file does not hold yet is
//!    spilled, and only then is the pin granted ([`Heap::grant`]).
//! 5. The shadow ends a pin, not whoever reads: released, over its age, or left alone by its holder
//!    ([`Heap::release`], and the tending in [`Heap::overwrite`]).

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use parking_lot::Mutex;
use stillfs::codec;
use stillfs::id::{DatabaseId, Epoch, HistoryId, PinId};
use stillfs::lsn::{Lsn, Timestamp};
use stillfs::mount::{MountOptions, MountPoint, MountedSession, Registry, StatusSource, mount};
use stillfs::os::{self, File, Host, OpenMode};
use stillfs::page::{self, PAGE_HEADER_BYTES, PageBuf, PageKind, PageNo, PageSize};
use stillfs::shadow::index::IndexHeader;
use stillfs::shadow::{EndReason, HeldPin, Shadow, Takeover, lock_held};
use stillfs::view::tree::{Attributes, Content, Node, NodeId, Tree};
use stillfs::view::{LiveHeader, LiveIdentity, PinnedFile};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Name of the page file, live and in a mount.
pub(crate) const FILE: &str = "accounts.heap";
const PAGE_SIZE: PageSize = PageSize::DEFAULT;
const PAGE_BYTES: usize = PAGE_SIZE.bytes();
const MAGIC: [u8; 8] = *b"OWNHEAP1";
/// Accounts begin after the header page.
const FIRST: u64 = 1;
const ACCOUNTS_PER_PAGE: u64 = (PAGE_BYTES - PAGE_HEADER_BYTES) as u64 / 8;

/// Rule 2: where readers find whose the live file is. All of page 0, so that a torn one is no header.
#[derive(Debug)]
struct HeapHeader;

impl LiveHeader for HeapHeader {
    fn decode(&self, bytes: &[u8]) -> Option<LiveIdentity> {
        page::check(bytes, PageNo(0), Lsn::MAX).ok()?;
        (codec::get_array(bytes, 32)? == MAGIC).then_some(LiveIdentity {
            database: DatabaseId(codec::get_array(bytes, 40)?),
            history: HistoryId(codec::get_array(bytes, 56)?),
            epoch: Epoch(codec::get_u64(bytes, 72)?),
            sequence: codec::get_u64(bytes, 80)?,
        })
    }

    fn bytes(&self) -> usize {
        PAGE_BYTES
    }
}

fn encode_header(whose: LiveIdentity, lsn: Lsn) -> PageBuf {
    let mut header = PageBuf::formatted(PAGE_SIZE, PageNo(0), PageKind::Header);
    codec::put(&mut header, 32, &MAGIC);
    codec::put(&mut header, 40, &whose.database.0);
    codec::put(&mut header, 56, &whose.history.0);
    codec::put(&mut header, 72, &whose.epoch.0.to_le_bytes());
    codec::put(&mut header, 80, &whose.sequence.to_le_bytes());
    header.seal(lsn);
    header
}

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
        let shadow = Shadow::open(host.disk.clone(), &dir.join("shadow"), &takeover)?;
        fence(Ordering::SeqCst);
        whose.epoch = epoch;
        whose.sequence += 1;
        os::write_all_at(&*file, &encode_header(whose, lsn), 0)?;
        file.sync_data()?;
        fence(Ordering::SeqCst);
        Ok(Self {
            host: host.clone(),
            file,
            shadow,
            whose,
            page_count,
            newest: Mutex::new(Newest { lsn, wall_ns: 0 }),
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
            if !pages.contains_key(&number) {
                pages.insert(number, read_page(&*self.file, number)?);
            }
            let page = pages.get_mut(&number).expect("it was put there");
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

    /// Rule 3: the only place that writes pages that a pin may need. If it fails none is overwritten.
    fn overwrite(&self, pages: &BTreeMap<PageNo, PageBuf>) -> Outcome<()> {
        self.shadow.tend_sometimes(self.host.clock.monotonic());
        let numbers: Vec<PageNo> = pages.keys().copied().collect();
        self.shadow.before_overwrite(&numbers, &*self.file)?;
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
        // As long as a reader has this lock, an engine that starts later goes on with the pin.
        let index = self.host.disk.open(held.path(), OpenMode::Read)?;
        lock_held(&*index)?;
        held.grant();
        self.shadow.write_header(held)?;
        let view = PinnedFile::open(
            self.file.clone(),
            self.shadow.slots_file().clone(),
            index,
            Arc::new(HeapHeader),
        )?;
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

/// A pin of a heap, and its view.
#[derive(Debug)]
pub(crate) struct HeapPin {
    pub(crate) view: Arc<PinnedFile>,
    held: Arc<HeldPin>,
}

impl HeapPin {
    /// Shows the pinned state of the heap in `dir` as a folder with one file.
    pub(crate) fn mount(
        &self,
        dir: &Path,
        point: &Path,
        options: MountOptions,
    ) -> Outcome<MountedSession> {
        let live = os::path::metadata(&dir.join(FILE))?;
        let attributes = |mode| Attributes {
            mode,
            uid: live.uid,
            gid: live.gid,
            changed_ns: self.view.header().wall_ns,
        };
        let mut tree = Tree::new(attributes(0o500), BTreeMap::new());
        let file = Node {
            id: NodeId(live.identity.inode),
            parent: NodeId::ROOT,
            attributes: attributes(0o400),
            content: Content::Paged(self.view.clone()),
            xattrs: BTreeMap::new(),
        };
        tree.insert(OsStr::new(FILE), file);
        let point = MountPoint::check(point, dir, &Registry::of_this_user()?)?;
        let view = self.view.clone();
        let status = StatusSource::new(move || format!("{{\"held\": {}}}", view.look().is_ok()));
        let session = mount(Arc::new(tree), &point, options, dir.as_os_str(), status)?;
        Ok(session)
    }
}

/// The sum of all accounts in the bytes of a heap.
pub(crate) fn total_of(bytes: &[u8]) -> u64 {
    let pages = bytes.chunks(PAGE_BYTES).skip(1);
    let balances = pages.flat_map(|page| page[PAGE_HEADER_BYTES..].chunks_exact(8));
    balances.fold(0, |total, balance| {
        total.wrapping_add(codec::get_u64(balance, 0).unwrap_or_default())
    })
}

fn read_page(file: &dyn File, number: PageNo) -> Outcome<PageBuf> {
    let mut page = PageBuf::zeroed(PAGE_SIZE);
    os::read_exact_at(file, &mut page, offset_of(number))?;
    page::check(&page, number, Lsn::MAX)?;
    Ok(page)
}

fn offset_of(number: PageNo) -> u64 {
    PAGE_SIZE.offset_of(number).expect("a file is not so long")
}

/// Page and offset in it.
fn place_of(account: u64) -> (PageNo, usize) {
    let within = usize::try_from(account % ACCOUNTS_PER_PAGE).expect("less than a page");
    let number = PageNo(FIRST + account / ACCOUNTS_PER_PAGE);
    (number, PAGE_HEADER_BYTES + within * 8)
}

fn random<const BYTES: usize>(host: &Host) -> Outcome<[u8; BYTES]> {
    let mut out = [0; BYTES];
    host.random.fill(&mut out)?;
    Ok(out)
}

#[allow(dead_code, reason = "the test of the examples has a run of its own")]
#[expect(clippy::disallowed_methods, reason = "reads as a backup tool does")]
fn main() -> Outcome<()> {
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let temporary = tempfile::tempdir()?;
    let base = given.as_deref().unwrap_or(temporary.path());
    let host = Host::system();
    let (dir, point) = (base.join("heap"), base.join("mnt"));
    host.disk.create_dir(&dir)?;
    host.disk.create_dir(&point)?;
    Heap::create(&host, &dir, 100_000)?;
    let heap = Heap::open(&host, &dir)?;
    heap.change(&[(0, 1_000_000)])?;

    let pin = heap.pin()?;
    let session = pin.mount(&dir, &point, MountOptions::default())?;
    let seen = std::fs::read(point.join(FILE))?;
    for account in 1..100_000 {
        heap.transfer(0, account, 10)?;
    }
    let is_still = std::fs::read(point.join(FILE))? == seen;
    println!("pages overwritten:   {}", heap.pages_kept());
    println!("sum in the live file {}", heap.total()?);
    println!("sum in {}: {}", point.display(), total_of(&seen));
    println!("the mount stood still: {is_still}");
    drop(session);
    heap.release(&pin)
}
