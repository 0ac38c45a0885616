//! Backups of folders made by hand, and what is asked of a view before one is published.

// The restored folders are the test's own.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stillfs::os::Host;
use stillfs::repository::backup::{BackupOptions, Still, Subject, backup};
use stillfs::repository::restore::{RestoreOptions, restore};
use stillfs::repository::{Control, Depth, Repository, RepositoryError, SourceName, VerifyOptions};
use stillfs::view::tree::{Attributes, Content, EndSeen, Node, NodeId, RangeRead, ReadError, Tree};

use crate::draw::Draw;
use crate::folder::{Folder, Item, Listing, What};
use crate::keeping::draw_options;
use crate::yard::{Alone, scratch};

/// A view that never ends.
struct Lasting;

impl Still for Lasting {
    fn look(&self) -> Result<(), ReadError> {
        Ok(())
    }
}

/// Notes that it was dropped.
struct Keeper(Arc<AtomicU64>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn subject(tree: Tree, still: Arc<dyn Still>, ended: &Arc<AtomicU64>) -> Subject {
    Subject {
        tree: Arc::new(tree),
        source: SourceName {
            kind: "tree".to_owned(),
            path: "/srv/folder".to_owned(),
            host: "there".to_owned(),
        },
        moment_ns: 1,
        left_out: Vec::new(),
        still,
        keeper: Box::new(Keeper(ended.clone())),
    }
}

/// Shell patterns, and whether a path is left out because of them.
fn draw_patterns(draw: &Draw) -> Vec<glob::Pattern> {
    let all = ["*.log", "cache", "a/*", "h", "cache/a", "[ab]"];
    let some = all.iter().filter(|_| draw.one_in(4));
    some.map(|text| glob::Pattern::new(text).expect("a pattern"))
        .collect()
}

fn is_out(patterns: &[glob::Pattern], path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().expect("a name");
    patterns.iter().any(|pattern| {
        let against = match pattern.as_str().contains('/') {
            true => path,
            false => name,
        };
        pattern.matches(&String::from_utf8_lossy(against))
    })
}

/// What is in the folder `dir` of the real machine.
fn listing_of(dir: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut first = BTreeMap::new();
    list_into(dir, dir, &mut listing);
    // Files of one inode get the first of their names.
    for (path, item) in &mut listing {
        if let What::File(_, name) = &mut item.what {
            let metadata = std::fs::symlink_metadata(dir.join(OsStr::from_bytes(path)));
            let inode = metadata.expect("it is there").ino();
            *name = first.entry(inode).or_insert(path.clone()).clone();
        }
    }
    listing
}

fn list_into(top: &Path, path: &Path, listing: &mut Listing) {
    let metadata = std::fs::symlink_metadata(path).expect("it is there");
    let mtime_ns = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
    let mut mtime_ns = Some(mtime_ns);
    let what = if metadata.is_dir() {
        // Whoever may not write into a folder may not empty it either.
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).expect("it is ours");
        for entry in std::fs::read_dir(path).expect("a list") {
            list_into(top, &entry.expect("an entry").path(), listing);
        }
        What::Directory
    } else if metadata.is_symlink() {
        mtime_ns = None;
        let target = std::fs::read_link(path).expect("a link");
        What::Link(target.as_os_str().as_bytes().to_vec())
    } else {
        What::File(std::fs::read(path).expect("its bytes"), Vec::new())
    };
    let name = path.strip_prefix(top).expect("it is below");
    let item = Item {
        mode: metadata.mode() & 0o7777,
        mtime_ns,
        what,
    };
    listing.insert(name.as_os_str().as_bytes().to_vec(), item);
}

/// BK4, BK5, BK11: random folders, changed between backups with random patterns of what is left out.
pub(crate) fn folders_are_restored(seed: u64) -> u64 {
    let draw = Draw::new(seed);
    let machine = Host::simulated(seed);
    let repository =
        Repository::open_or_create(&machine.host, "/depot".as_ref()).expect("a repository");
    let yard = scratch();
    let owner = std::fs::metadata(yard.path()).expect("it is there");
    let owner = (owner.uid(), owner.gid());
    let mut folder = Folder::new(&draw);
    let mut expected = Vec::new();
    let ended = Arc::new(AtomicU64::new(0));
    for number in 0..6_u64 {
        machine.clock.advance(std::time::Duration::from_secs(1));
        let patterns = draw_patterns(&draw);
        let options = BackupOptions {
            exclude: patterns.clone(),
            ..draw_options(&draw)
        };
        let subject = subject(folder.tree(&draw, owner), Arc::new(Lasting), &ended);
        let outcome = backup(&repository, subject, &options, &Control::default());
        assert_eq!(ended.load(Ordering::Relaxed), number + 1, "pins given up");
        let (listing, left_out) = folder.listing(|path| is_out(&patterns, path));
        match outcome {
            Ok(report) => {
                let told = report.facts.left_out.iter().filter(|fact| fact.is_wanted);
                let told: BTreeSet<String> = told.map(|fact| fact.path.clone()).collect();
                assert_eq!(told, left_out.into_iter().collect(), "what was left out");
                expected.push((report.facts.id, listing));
            }
            Err(RepositoryError::NoBase { .. }) => {}
            Err(error) => panic!("a backup: {error}"),
        }
        (0..draw.below(4)).for_each(|_| folder.change(&draw));
    }
    let verified = stillfs::repository::verify(
        &repository,
        &VerifyOptions {
            backup: None,
            depth: Depth::ReadData,
            restore_test: None,
        },
        &Control::default(),
    );
    assert_eq!(verified.expect("a verification").findings, []);
    for (id, listing) in &expected {
        let target = yard.path().join(id.as_str());
        let options = RestoreOptions::default();
        let control = Control::default();
        let report = restore(&repository, id, &target, options, &Alone, &control);
        let report = report.unwrap_or_else(|error| panic!("a restore of {id}: {error}"));
        let found = listing_of(&target);
        let differs = listing
            .iter()
            .map(Some)
            .chain(std::iter::repeat(None))
            .zip(found.iter().map(Some).chain(std::iter::repeat(None)))
            .take(listing.len().max(found.len()))
            .find(|(wanted, found)| wanted != found);
        assert_eq!(differs, None, "restored {id}: {:?}", report.notes);
    }
    expected.len() as u64
}

/// One file whose reads are counted, and a look that is counted with them.
#[derive(Debug, Default)]
struct Steps {
    next: AtomicU64,
    last_read: AtomicU64,
    last_look: AtomicU64,
}

impl Steps {
    fn note(&self, what: &AtomicU64) {
        what.store(
            self.next.fetch_add(1, Ordering::SeqCst) + 1,
            Ordering::SeqCst,
        );
    }
}

#[derive(Debug)]
struct Read(Arc<Steps>);

impl RangeRead for Read {
    fn size(&self) -> u64 {
        300_000
    }

    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        self.0.note(&self.0.last_read);
        out.fill(offset.to_le_bytes()[1]);
        Ok(())
    }

    fn page_bytes(&self) -> Option<u32> {
        Some(4096)
    }
}

struct Looked {
    steps: Arc<Steps>,
    is_over: bool,
}

impl Still for Looked {
    fn look(&self) -> Result<(), ReadError> {
        self.steps.note(&self.steps.last_look);
        match self.is_over && self.steps.last_read.load(Ordering::SeqCst) > 0 {
            true => Err(ReadError::PinEnded {
                reason: EndSeen::LockIgnored,
            }),
            false => Ok(()),
        }
    }
}

/// BK7, BK11: a view is looked at after the last byte was read, and what is found counts.
pub(crate) fn last_look_decides() {
    let machine = Host::simulated(1);
    let repository =
        Repository::open_or_create(&machine.host, "/depot".as_ref()).expect("a repository");
    let ended = Arc::new(AtomicU64::new(0));
    for (number, is_over) in [(1, false), (2, true)] {
        let steps = Arc::new(Steps::default());
        let attributes = Attributes {
            mode: 0o700,
            uid: 0,
            gid: 0,
            changed_ns: 0,
        };
        let mut tree = Tree::new(attributes.clone(), BTreeMap::new());
        let node = Node {
            id: NodeId(2),
            parent: NodeId::ROOT,
            attributes,
            content: Content::Paged(Arc::new(Read(steps.clone()))),
            xattrs: BTreeMap::new(),
        };
        tree.insert("file".as_ref(), node);
        let still = Arc::new(Looked {
            steps: steps.clone(),
            is_over,
        });
        let options = BackupOptions {
            wanted: stillfs::repository::backup::Wanted::Full,
            ..BackupOptions::default()
        };
        let subject = subject(tree, still, &ended);
        let outcome = backup(&repository, subject, &options, &Control::default());
        assert_eq!(outcome.is_err(), is_over, "{outcome:?}");
        let (read, look) = (&steps.last_read, &steps.last_look);
        let (read, look) = (read.load(Ordering::SeqCst), look.load(Ordering::SeqCst));
        assert!(
            0 < read && read < look,
            "read in step {read}, look in step {look}"
        );
        assert_eq!(ended.load(Ordering::Relaxed), number, "pins given up");
        assert_eq!(repository.ids().expect("a list").len(), 1, "{outcome:?}");
    }
}
