//! The names of a simulated disk: as the kernel shows them, as the disk has them, and what is between.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use super::content::KeepOdds;
use crate::os::random::SeededRandom;

/// Number of a file or directory; never used twice on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inode(pub(super) u64);

/// The root directory.
pub(super) const ROOT: Inode = Inode(1);

/// A name in a directory.
pub(super) type Place = (Inode, OsString);

type Table = BTreeMap<Place, Inode>;

/// What one call changed; on the disk it happens as a whole or not at all, as a journal does it.
#[derive(Clone, Debug)]
struct NameChange {
    /// The file or directory whose names change.
    inode: Inode,
    sets: Vec<(Place, Option<Inode>)>,
}

/// All names of a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    current: Table,
    durable: Table,
    /// In the order in which they were made.
    pending: Vec<NameChange>,
}

impl Names {
    pub(super) fn get(&self, place: &Place) -> Option<Inode> {
        self.current.get(place).copied()
    }

    /// The names in a directory, sorted.
    pub(super) fn list(&self, dir: Inode) -> Vec<OsString> {
        self.current
            .range((dir, OsString::new())..)
            .take_while(|((of, _), _)| *of == dir)
            .map(|((_, name), _)| name.clone())
            .collect()
    }

    pub(super) fn link(&mut self, place: Place, inode: Inode) {
        self.change(NameChange {
            inode,
            sets: vec![(place, Some(inode))],
        });
    }

    /// Takes away the name `place` of `inode`.
    pub(super) fn unlink(&mut self, inode: Inode, place: Place) {
        self.change(NameChange {
            inode,
            sets: vec![(place, None)],
        });
    }

    /// Gives `inode`, which is at `from`, the name `to` instead.
    pub(super) fn rename(&mut self, inode: Inode, from: Place, to: Place) {
        self.change(NameChange {
            inode,
            sets: vec![(from, None), (to, Some(inode))],
        });
    }

    /// The directory that `inode` has its name in.
    pub(super) fn parent(&self, inode: Inode) -> Option<Inode> {
        self.current
            .iter()
            .find(|(_, named)| **named == inode)
            .map(|((dir, _), _)| *dir)
    }

    /// All that have a name, as the kernel shows it.
    pub(super) fn named(&self) -> BTreeSet<Inode> {
        self.current.values().copied().collect()
    }

    /// All that have a name, or may have one after a crash.
    pub(super) fn mentioned(&self) -> BTreeSet<Inode> {
        let tables = self.current.values().chain(self.durable.values()).copied();
        tables
            .chain(self.pending.iter().map(|change| change.inode))
            .collect()
    }

    /// Makes the names of `dir` durable.
    pub(super) fn sync(&mut self, dir: Inode) {
        for change in self.take_pending_of(dir) {
            self.durable.apply(&change);
        }
    }

    /// Decides for good which of the changes in `dir` the disk has; the kernel shows them all.
    pub(super) fn fail_sync(&mut self, dir: Inode, random: &SeededRandom) {
        let changes = self.take_pending_of(dir);
        keep_some(&mut self.durable, &changes, random);
    }

    /// The names that a machine finds after it crashed.
    pub(super) fn crashed(&self, random: &SeededRandom) -> Self {
        let mut found = self.durable.clone();
        keep_some(&mut found, &self.pending, random);
        // What has lost the way from the root is not found any more.
        let mut reached = BTreeSet::from([ROOT]);
        loop {
            let before = reached.len();
            let below = found.iter().filter(|((dir, _), _)| reached.contains(dir));
            let below: Vec<Inode> = below.map(|(_, inode)| *inode).collect();
            reached.extend(below);
            if reached.len() == before {
                break;
            }
        }
        found.retain(|(dir, _), _| reached.contains(dir));
        Self {
            current: found.clone(),
            durable: found,
            pending: Vec::new(),
        }
    }

    fn change(&mut self, change: NameChange) {
        self.current.apply(&change);
        self.pending.push(change);
    }

    /// Takes out the changes in `dir`, and the older ones of other directories that they stand on.
    fn take_pending_of(&mut self, dir: Inode) -> Vec<NameChange> {
        let mut moved = BTreeSet::new();
        let mut taken = Vec::new();
        for index in (0..self.pending.len()).rev() {
            let Some(change) = self.pending.get_mut(index) else {
                continue;
            };
            let is_in_dir = change.sets.iter().any(|((of, _), _)| *of == dir);
            if is_in_dir || moved.contains(&change.inode) {
                moved.insert(change.inode);
                taken.push(self.pending.remove(index));
            } else {
                // An older change must not undo what is about to be made durable.
                let younger: BTreeSet<&Place> = places_of(&taken).collect();
                change.sets.retain(|(place, _)| !younger.contains(place));
            }
        }
        taken.reverse();
        taken
    }
}

fn places_of(changes: &[NameChange]) -> impl Iterator<Item = &Place> {
    changes
        .iter()
        .flat_map(|change| change.sets.iter().map(|(place, _)| place))
}

/// Applies some of `changes`; of one file's changes none without those before it.
fn keep_some(table: &mut Table, changes: &[NameChange], random: &SeededRandom) {
    let odds = KeepOdds::draw(random);
    let mut lost = BTreeSet::new();
    for change in changes {
        if !lost.contains(&change.inode) && odds.keeps(random) {
            table.apply(change);
        } else {
            lost.insert(change.inode);
        }
    }
}

trait Apply {
    fn apply(&mut self, change: &NameChange);
}

impl Apply for Table {
    fn apply(&mut self, change: &NameChange) {
        for (place, inode) in &change.sets {
            match inode {
                Some(inode) => self.insert(place.clone(), *inode),
                None => self.remove(place),
            };
        }
    }
}

/// The place of `name` in `dir`.
pub(super) fn place(dir: Inode, name: &OsStr) -> Place {
    (dir, name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Inode = Inode(10);
    const OTHER: Inode = Inode(11);
    const FOLDER: Inode = Inode(20);

    fn at(dir: Inode, name: &str) -> Place {
        (dir, name.into())
    }

    fn outcomes(names: &Names) -> BTreeSet<Vec<OsString>> {
        (0..200)
            .map(|seed| names.crashed(&SeededRandom::new(seed)).list(ROOT))
            .collect()
    }

    fn sets(lists: &[&[&str]]) -> BTreeSet<Vec<OsString>> {
        lists
            .iter()
            .map(|list| list.iter().map(OsString::from).collect())
            .collect()
    }

    #[test]
    fn unsynced_names_come_and_go_one_by_one_and_synced_ones_stay() {
        let mut names = Names::default();
        names.link(at(ROOT, "a"), FILE);
        names.link(at(ROOT, "b"), OTHER);
        assert_eq!(outcomes(&names), sets(&[&[], &["a"], &["b"], &["a", "b"]]));
        names.sync(ROOT);
        assert_eq!(outcomes(&names), sets(&[&["a", "b"]]));
        names.unlink(FILE, at(ROOT, "a"));
        assert_eq!(outcomes(&names), sets(&[&["b"], &["a", "b"]]));
    }

    #[test]
    fn rename_is_seen_whole_or_not_at_all() {
        let mut names = Names::default();
        names.link(at(ROOT, "a"), FILE);
        names.link(at(ROOT, "b"), OTHER);
        names.sync(ROOT);
        names.rename(FILE, at(ROOT, "a"), at(ROOT, "b"));
        let found: BTreeSet<_> = (0..200)
            .map(|seed| names.crashed(&SeededRandom::new(seed)))
            .map(|names| (names.get(&at(ROOT, "a")), names.get(&at(ROOT, "b"))))
            .collect();
        let expected = [(Some(FILE), Some(OTHER)), (None, Some(FILE))];
        assert_eq!(found, BTreeSet::from(expected));
    }

    /// Otherwise a file could be found under its first name and its third, which no journal allows.
    #[test]
    fn file_renamed_twice_is_found_under_one_name() {
        let mut names = Names::default();
        names.link(at(ROOT, "a"), FILE);
        names.sync(ROOT);
        names.rename(FILE, at(ROOT, "a"), at(ROOT, "b"));
        names.rename(FILE, at(ROOT, "b"), at(ROOT, "c"));
        assert_eq!(outcomes(&names), sets(&[&["a"], &["b"], &["c"]]));
    }

    #[test]
    fn file_goes_with_its_folder() {
        let mut names = Names::default();
        names.link(at(ROOT, "folder"), FOLDER);
        names.link(at(FOLDER, "a"), FILE);
        names.sync(FOLDER);
        let found: BTreeSet<_> = (0..200)
            .map(|seed| names.crashed(&SeededRandom::new(seed)))
            .map(|names| (names.list(ROOT).len(), names.list(FOLDER).len()))
            .collect();
        assert_eq!(found, BTreeSet::from([(0, 0), (1, 1)]));
    }

    /// Syncing the target's folder takes the name in the source's folder along, and no crash brings
    /// back the name that the file had before.
    #[test]
    fn move_between_folders_is_durable_by_a_sync_of_either() {
        for dir in [ROOT, FOLDER] {
            let mut names = Names::default();
            names.link(at(ROOT, "folder"), FOLDER);
            names.sync(ROOT);
            names.link(at(ROOT, "a"), FILE);
            names.rename(FILE, at(ROOT, "a"), at(FOLDER, "a"));
            names.sync(dir);
            for seed in 0..100 {
                let found = names.crashed(&SeededRandom::new(seed));
                assert_eq!(found.list(ROOT), ["folder"]);
                assert_eq!(found.list(FOLDER), ["a"]);
            }
        }
    }

    /// The name that the moved file had first is in the other folder's log, older than the sync.
    #[test]
    fn sync_of_the_target_takes_the_whole_way_of_a_file_along() {
        let mut names = Names::default();
        names.link(at(ROOT, "folder"), FOLDER);
        names.sync(ROOT);
        names.link(at(ROOT, "a"), FILE);
        names.rename(FILE, at(ROOT, "a"), at(ROOT, "b"));
        names.rename(FILE, at(ROOT, "b"), at(FOLDER, "c"));
        names.sync(FOLDER);
        for seed in 0..100 {
            let found = names.crashed(&SeededRandom::new(seed));
            assert_eq!(
                (found.list(ROOT).len(), found.list(FOLDER).len()),
                (1, 1),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn older_removal_that_was_not_synced_does_not_undo_a_durable_name() {
        let mut names = Names::default();
        names.link(at(ROOT, "folder"), FOLDER);
        names.link(at(FOLDER, "x"), OTHER);
        names.sync(ROOT);
        names.sync(FOLDER);
        names.unlink(OTHER, at(FOLDER, "x"));
        names.link(at(ROOT, "a"), FILE);
        names.rename(FILE, at(ROOT, "a"), at(FOLDER, "x"));
        names.sync(ROOT);
        for seed in 0..100 {
            let found = names.crashed(&SeededRandom::new(seed));
            assert_eq!(found.get(&at(FOLDER, "x")), Some(FILE), "seed {seed}");
        }
    }

    #[test]
    fn names_of_a_failed_sync_may_be_lost_for_good() {
        let mut found = BTreeSet::new();
        for seed in 0..100 {
            let mut names = Names::default();
            names.link(at(ROOT, "a"), FILE);
            names.fail_sync(ROOT, &SeededRandom::new(seed));
            assert_eq!(names.list(ROOT), ["a"]);
            names.sync(ROOT);
            found.insert(names.crashed(&SeededRandom::new(0)).list(ROOT).len());
        }
        assert_eq!(found, BTreeSet::from([0, 1]));
    }
}
